"""What a reconciler reads beside events: subscriptions, customers, metrics, the organization, invoices, usage."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from .conftest import NOW, Api, Lagos
from .test_lago_events_api import answers, invalid, not_found

OCTOBER = (datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 10, 31, 23, 59, 59, 999_999, tzinfo=UTC))


def external_ids(api: Api, **params: Any) -> list[str]:
    return [entry["external_id"] for entry in api.get("/subscriptions", **params).json()["subscriptions"]]


def test_subscription_fields(api: Api) -> None:
    lago_id = api.organization.add_subscription(
        "sub-1", external_customer_id="customer-1", started_at=datetime(2026, 11, 5, 1, 2, 3, 456_789, tzinfo=UTC)
    )
    response = api.get("/subscriptions").json()
    (subscription,) = response["subscriptions"]
    expected = {
        "lago_id": lago_id,
        "external_id": "sub-1",
        "external_customer_id": "customer-1",
        "plan_code": "llm",
        "status": "active",
        "billing_time": "calendar",
        "subscription_at": "2026-11-05T01:02:03Z",
        "started_at": "2026-11-05T01:02:03.456Z",
        "ending_at": None,
        "terminated_at": None,
        "canceled_at": None,
        "created_at": "2026-11-20T12:00:00Z",
        "current_billing_period_started_at": "2026-11-05T01:02:03Z",
        "current_billing_period_ending_at": "2026-11-30T23:59:59Z",
    }
    assert {name: subscription[name] for name in expected} == expected
    customer = api.get("/customers/customer-1").json()["customer"]
    assert subscription["lago_customer_id"] == customer["lago_id"]
    assert response["meta"]["total_count"] == 1


def test_subscriptions_are_active_ones_unless_asked(api: Api) -> None:
    month = datetime(2026, 1, 1, tzinfo=UTC)
    api.organization.add_subscription("old", started_at=month, terminated_at=NOW)
    api.organization.add_subscription("now", started_at=month.replace(month=2))
    api.organization.add_subscription("soon", status="pending")
    assert external_ids(api) == ["now"]
    assert external_ids(api, **{"status[]": ["terminated", "pending"]}) == ["soon", "old"]
    everything = {"status[]": ["active", "terminated", "pending", "canceled"]}
    assert external_ids(api, **everything) == ["soon", "now", "old"]
    assert external_ids(api, **everything, per_page=1, page=2) == ["now"]
    api.organization.terminate_subscription("now", NOW)
    assert external_ids(api) == []


def test_subscription_filters(api: Api) -> None:
    api.organization.add_subscription("a", external_customer_id="one")
    api.organization.add_subscription("b", external_customer_id="one", plan_code="gold")
    api.organization.add_subscription("b", external_customer_id="two")
    assert sorted(external_ids(api, external_customer_id="one")) == ["a", "b"]
    assert external_ids(api, external_id="b") == ["b", "b"]
    assert external_ids(api, plan_code="gold") == ["b"]


def test_a_pending_subscription_has_no_period(api: Api) -> None:
    api.organization.add_subscription("soon", status="pending")
    (subscription,) = api.get("/subscriptions", **{"status[]": "pending"}).json()["subscriptions"]
    assert subscription["started_at"] is None
    assert subscription["current_billing_period_started_at"] is None
    assert subscription["current_billing_period_ending_at"] is None


def test_customers(api: Api) -> None:
    api.organization.add_customer("team/a", name="Team A")
    (shown,) = api.get("/customers").json()["customers"]
    assert shown.items() <= api.get("/customers/team%2Fa").json()["customer"].items()
    answers(api.get("/customers/nobody"), 404, not_found("customer_not_found"))


def test_billable_metrics(api: Api) -> None:
    api.organization.add_billable_metric(
        "llm_usage", filters=[{"key": "model", "values": ["gpt-4o", "o3"]}], expression="event.properties.x"
    )
    metric = api.get("/billable_metrics/llm_usage").json()["billable_metric"]
    expected = {
        "code": "llm_usage",
        "aggregation_type": "sum_agg",
        "field_name": "response_cost",
        "expression": "event.properties.x",
        "recurring": False,
        "filters": [{"key": "model", "values": ["gpt-4o", "o3"]}],
    }
    assert {name: metric[name] for name in expected} == expected
    (shown,) = api.get("/billable_metrics").json()["billable_metrics"]
    assert metric.items() <= shown.items()
    answers(api.get("/billable_metrics/other"), 404, not_found("billable_metric_not_found"))


def test_i7_organization_names_its_store(api: Api, clickhouse: Api) -> None:
    assert api.get("/organizations").json()["organization"]["events_store"] == "postgres"
    assert clickhouse.get("/organizations").json()["organization"]["events_store"] == "clickhouse"


def test_organizations_are_apart(api: Api, lagos: Lagos) -> None:
    api.organization.add_subscription("sub-1")
    api.organization.add_billable_metric("llm_usage")
    other = lagos.organization("postgres")
    for path in ("/subscriptions", "/customers", "/billable_metrics", "/invoices", "/events"):
        assert other.get(path).json()["meta"]["total_count"] == 0
    answers(other.get("/customers/sub-1"), 404, not_found("customer_not_found"))


def test_unknown_paths_and_methods(api: Api) -> None:
    for response in (api.get("/nothing"), api.post("/wallets", {}), api.client.delete("/events/t-1")):
        answers(response, 404, not_found("resource_not_found"))
    assert api.get("/events/").status_code == 200


def test_health_needs_no_key(running: Lagos) -> None:
    assert httpx.get(f"{running.url}/health", trust_env=False).json()["message"] == "Success"


def test_invoices(api: Api) -> None:
    api.organization.add_subscription("sub-1", external_customer_id="customer-1", started_at=OCTOBER[0])
    draft = api.organization.add_invoice("sub-1", OCTOBER)
    final = api.organization.add_invoice("sub-1", OCTOBER, status="finalized", number="ACM-2")
    invoice = api.get(f"/invoices/{draft}").json()["invoice"]
    assert (invoice["status"], invoice["invoice_type"], invoice["currency"]) == ("draft", "subscription", "USD")
    assert (invoice["customer"]["external_id"], invoice["issuing_date"]) == ("customer-1", "2026-10-31")
    (period,) = invoice["billing_periods"]
    assert period["external_subscription_id"] == "sub-1"
    assert period["subscription_from_datetime"] == period["charges_from_datetime"] == "2026-10-01T00:00:00Z"
    assert period["subscription_to_datetime"] == period["charges_to_datetime"] == "2026-10-31T23:59:59Z"
    (shown,) = api.get("/invoices", status="draft").json()["invoices"]
    assert shown["lago_id"] == draft
    assert not {"billing_periods", "fees", "subscriptions"} & shown.keys()
    ids = [entry["lago_id"] for entry in api.get("/invoices").json()["invoices"]]
    assert sorted(ids) == sorted([draft, final])
    answers(api.get("/invoices/unknown"), 404, not_found("invoice_not_found"))


# I and K


def charges(api: Api, **params: Any) -> dict[str, tuple[str, int, int]]:
    params = {"external_subscription_id": "sub-1", **params}
    usage = api.get("/customers/sub-1/current_usage", **params).json()["customer_usage"]
    return {
        charge["billable_metric"]["code"]: (charge["units"], charge["events_count"], charge["amount_cents"])
        for charge in usage["charges_usage"]
    }


def test_i1_i2_no_usage(api: Api) -> None:
    params = {"external_subscription_id": "sub-1"}
    answers(api.get("/customers/x/current_usage", **params), 404, not_found("resource_not_found"))
    no_subscription = {"status": 405, "error": "Method Not Allowed", "code": "no_active_subscription"}
    api.organization.add_subscription("sub-1", terminated_at=NOW)
    answers(api.get("/customers/sub-1/current_usage", **params), 405, no_subscription)
    answers(api.get("/customers/sub-1/current_usage"), 405, no_subscription)


def test_i3_i4_usage(api: Api) -> None:
    api.organization.add_subscription("sub-1")
    api.organization.add_billable_metric("llm_usage")
    api.create(properties={"response_cost": "400"})
    response = api.get("/customers/sub-1/current_usage", external_subscription_id="sub-1").json()
    usage = response["customer_usage"]
    (charge,) = usage.pop("charges_usage")
    assert usage == {
        "from_datetime": "2026-11-01T00:00:00Z",
        "to_datetime": "2026-11-30T23:59:59Z",
        "issuing_date": "2026-11-30",
        "lago_invoice_id": None,
        "currency": "USD",
        "amount_cents": 40_000,
        "taxes_amount_cents": 0,
        "total_amount_cents": 40_000,
    }
    assert (charge["units"], charge["total_aggregated_units"], charge["events_count"]) == ("400.0", "400.0", 1)
    assert (charge["amount_cents"], charge["amount_currency"]) == (40_000, "USD")
    assert charge["charge"]["charge_model"] == "standard"
    assert charge["billable_metric"]["code"] == "llm_usage"
    assert (charge["filters"], charge["grouped_usage"]) == ([], [])


@pytest.mark.parametrize(
    ("cost", "units"),
    [
        (12, "12.0"),
        (1e-05, "0.00001"),
        ("0.00001", "0.00001"),
        ("1e-05", None),
        (".5", None),
        ("+1", None),
        (" 1", None),
        ("1\n", None),
        ("1,000", None),
        ("", None),
        (None, None),
        (True, None),
    ],
)
def test_k_what_counts_as_a_number(api: Api, cost: Any, units: str | None) -> None:
    api.organization.add_subscription("sub-1")
    api.organization.add_billable_metric("llm_usage")
    assert api.create(properties={"response_cost": cost}).status_code == 200
    expected = ("0.0", 0) if units is None else (units, 1)
    assert charges(api)["llm_usage"][:2] == expected


def test_k_negative_amounts(api: Api) -> None:
    """They add up with the others, and a negative total bills nothing."""
    api.organization.add_subscription("sub-1")
    api.organization.add_billable_metric("llm_usage")
    api.create(properties={"response_cost": "-2.5"})
    assert charges(api)["llm_usage"] == ("0.0", 1, 0)
    api.create(transaction_id="t-2", properties={"response_cost": "4"})
    assert charges(api)["llm_usage"] == ("1.5", 2, 150)


def test_k_window_is_closed_and_clamped(api: Api) -> None:
    start, end = datetime(2026, 11, 10, 0, 0, 0, 500, tzinfo=UTC), datetime(2026, 11, 12, tzinfo=UTC)
    api.organization.add_subscription("sub-1", started_at=start, period=(OCTOBER[0], end))
    api.organization.add_billable_metric("llm_usage")
    for name, moment in {"before": start.timestamp() - 0.002, "first": start.timestamp()}.items():
        api.create(transaction_id=name, timestamp=moment)
    for name, moment in {"last": end.timestamp(), "after": end.timestamp() + 0.001}.items():
        api.create(transaction_id=name, timestamp=moment)
    assert charges(api)["llm_usage"] == ("1.0", 2, 100)


def test_k_others_events_do_not_count(api: Api) -> None:
    api.organization.add_subscription("sub-1")
    api.organization.add_billable_metric("llm_usage")
    api.create(code="unknown")
    api.create(external_subscription_id="sub-2")
    api.create(external_subscription_id=None)
    assert charges(api)["llm_usage"] == ("0.0", 0, 0)


def test_k_aggregations(api: Api) -> None:
    api.organization.add_subscription("sub-1")
    for kind in ("sum", "count", "max", "latest", "unique_count"):
        api.organization.add_billable_metric(kind, aggregation_type=f"{kind}_agg", field_name="v")
        for number, value in enumerate(("1", "7", "x", "3")):
            moment = 1_795_000_000 + number
            api.create(transaction_id=f"{kind}-{number}", code=kind, timestamp=moment, properties={"v": value})
    assert charges(api) == {
        "sum": ("11.0", 3, 1_100),
        "count": ("4.0", 4, 400),
        "max": ("7.0", 3, 700),
        "latest": ("3.0", 3, 300),
        "unique_count": ("4.0", 4, 400),
    }
    assert list(charges(api, billable_metric_code="max")) == ["max"]


def past(api: Api, **params: Any) -> list[tuple[str, list[tuple[str, int]]]]:
    params = {"external_subscription_id": "sub-1", **params}
    periods = api.get("/customers/sub-1/past_usage", **params).json()["usage_periods"]
    return [
        (
            period["from_datetime"],
            [(charge["units"], charge["events_count"]) for charge in period["charges_usage"]],
        )
        for period in periods
    ]


def test_past_usage_is_what_was_invoiced(api: Api) -> None:
    """An invoice keeps its amounts whatever comes later; a draft takes late events when it is refreshed."""
    api.organization.add_subscription("sub-1", started_at=OCTOBER[0])
    api.organization.add_billable_metric("llm_usage")
    api.create(timestamp=OCTOBER[0].timestamp())
    api.organization.add_invoice("sub-1", OCTOBER, status="finalized")
    draft = api.organization.add_invoice("sub-1", (OCTOBER[0].replace(day=2), OCTOBER[1]))
    api.create(transaction_id="late", timestamp=OCTOBER[0].replace(day=3).timestamp())
    assert past(api)[0] == ("2026-10-02T00:00:00Z", [])
    assert api.client.put(f"/invoices/{draft}/refresh").status_code == 200
    assert past(api) == [
        ("2026-10-02T00:00:00Z", [("0.5", 1)]),
        ("2026-10-01T00:00:00Z", [("0.5", 1)]),
    ]
    assert past(api, periods_count=1) == past(api, per_page=1) == past(api)[:1]
    assert past(api, per_page=1, page=2) == past(api)[1:]
    assert past(api, billable_metric_code="llm_usage") == past(api)
    assert past(api, external_subscription_id="sub-2") == []


def test_past_usage_errors(api: Api) -> None:
    api.organization.add_customer("sub-1")
    details = {"external_subscription_id": ["value_is_mandatory"]}
    answers(api.get("/customers/sub-1/past_usage"), 422, invalid(details))
    unknown = {"external_subscription_id": "sub-1", "billable_metric_code": "none"}
    answers(api.get("/customers/sub-1/past_usage", **unknown), 404, not_found("billable_metric_not_found"))


def test_an_invoice_needs_its_subscription(api: Api) -> None:
    with pytest.raises(ValueError, match="no subscription 'sub-1'"):
        api.organization.add_invoice("sub-1", OCTOBER)

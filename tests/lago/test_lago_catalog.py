"""Organization, metric, charges, subscriptions, draft invoices, usage, one event: from any age of Lago."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pandas as pd
import pytest

from reconcile.errors import LagoFault, PreflightError
from reconcile.lago import Charge, ChargeUsage, Lago, Metric, MetricFilter, Organization, Usage

from .lago_double import Double, Reply, Request

NOT_FOUND = {"status": 404, "error": "Not Found", "code": "event_not_found"}


def serving(path: str, answer: Callable[[Request], Reply]) -> Callable[[Request], Reply | None]:
    return lambda request: answer(request) if request.path == f"/api/v1{path}" else None


def paged(key: str, items: list[dict[str, Any]], size: int) -> Callable[[Request], Reply]:
    def answer(request: Request) -> Reply:
        shown = items[(request.page - 1) * size : request.page * size]
        following = request.page + 1 if request.page * size < len(items) else None
        # A cached count, as Lago's: not to be trusted.
        return Reply(200, {key: shown, "meta": {"next_page": following, "total_pages": 1, "total_count": 1}})

    return answer


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (
            Reply(200, {"organization": {"lago_id": "o", "name": "Acme", "events_store": "clickhouse", "x": 1}}),
            Organization("o", "Acme", "clickhouse"),
        ),
        (Reply(200, {"organization": {"name": "Old"}}), Organization(None, "Old", None)),
        (
            Reply(200, {"organization": {"name": "New", "events_store": "duckdb"}}),
            Organization(None, "New", None),
        ),
        (Reply(404, "<html>no route</html>"), Organization(None, None, None)),
    ],
    ids=["clickhouse", "before v1.47", "unheard of", "not served"],
)
def test_organization(double: Double, client: Lago, reply: Reply, expected: Organization) -> None:
    double.scripts.append(serving("/organizations", lambda _: reply))
    assert client.organization() == client.preflight.organization() == expected


def test_metric_on_a_later_page(double: Double, client: Lago) -> None:
    item: dict[str, Any] = {
        "lago_id": "m",
        "code": "llm",
        "name": "LLM",
        "aggregation_type": "sum_agg",
        "field_name": "response_cost",
        "expression": "",
        "recurring": False,
        "weighted_interval": None,
        "rounding_function": "round",
        "rounding_precision": 2,
        "filters": [{"key": "model", "values": ["a", "b"]}],
    }
    others: list[dict[str, Any]] = [{"code": f"other-{number}"} for number in range(7)]
    double.scripts.append(serving("/billable_metrics", paged("billable_metrics", [*others, item], 3)))
    assert client.metric("llm") == Metric(
        code="llm",
        lago_id="m",
        name="LLM",
        aggregation_type="sum_agg",
        field_name="response_cost",
        expression=None,
        recurring=False,
        weighted_interval=None,
        rounding_function="round",
        rounding_precision=2,
        filters=(MetricFilter("model", ("a", "b")),),
    )
    assert client.metric("LLM") is None
    assert client.metric("other-1") == Metric("other-1", None, None, None, None, None, False, None, None, None, ())


def test_metrics_not_served_means_a_wrong_address(double: Double, client: Lago) -> None:
    with pytest.raises(PreflightError, match="LAGO_API_BASE"):
        client.preflight.metric("llm")


def test_charges(double: Double, client: Lago) -> None:
    plans: list[dict[str, Any]] = [
        {"code": "free", "charges": None},
        {
            "code": "pro",
            "charges": [
                {"billable_metric_code": "other", "charge_model": "standard"},
                {
                    "billable_metric_code": "llm",
                    "charge_model": "dynamic",
                    "pay_in_advance": True,
                    "properties": {"pricing_group_keys": ["model"]},
                    "filters": [{"values": {"model": ["a"]}}, {"values": {"model": ["b"], "region": ["eu"]}}],
                },
                {"billable_metric_code": "llm", "properties": {"grouped_by": ["team"]}},
            ],
        },
    ]
    double.scripts.append(serving("/plans", paged("plans", plans, 1)))
    assert client.charges("llm") == (
        Charge("pro", "dynamic", True, ("model",), ("model", "region")),
        Charge("pro", None, False, ("team",), ()),
    )


def test_charges_not_served(client: Lago) -> None:
    assert client.charges("llm") == ()


SUBSCRIPTIONS: list[dict[str, Any]] = [
    {
        "lago_id": "1",
        "external_id": "team-a",
        "external_customer_id": "acme",
        "status": "active",
        "started_at": "2026-11-01T00:00:00.250Z",
        "terminated_at": None,
        "current_billing_period_started_at": "2026-11-01T00:00:00Z",
        "current_billing_period_ending_at": "2026-11-30T23:59:59Z",
    },
    {
        "lago_id": "2",
        "external_id": "team-a",
        "external_customer_id": "acme",
        "status": "terminated",
        "started_at": "2026-01-01T00:00:00+01:00",
        "terminated_at": "2026-10-31T12:00:00Z",
    },
    {"lago_id": "3", "external_id": "team-b", "status": "pending", "started_at": None},
]


def test_subscriptions_of_every_status(double: Double, client: Lago) -> None:
    repeated = [*SUBSCRIPTIONS, SUBSCRIPTIONS[0]]
    double.scripts.append(serving("/subscriptions", paged("subscriptions", repeated, 2)))
    frame = client.subscriptions()
    assert double.requests[0].query["status[]"] == ["active", "terminated", "pending", "canceled"]
    assert frame["external_id"].tolist() == ["team-a", "team-a", "team-b"]
    assert frame["status"].tolist() == ["active", "terminated", "pending"]
    assert frame["external_customer_id"].isna().tolist() == [False, False, True]
    assert frame["started_at"].tolist()[:2] == [
        pd.Timestamp("2026-11-01T00:00:00.250Z"),
        pd.Timestamp("2025-12-31T23:00:00Z"),
    ]
    assert frame["terminated_at"].isna().tolist() == [True, False, True]
    assert frame["current_billing_period_ending_at"][0] == pd.Timestamp("2026-11-30T23:59:59Z")
    assert {str(frame[name].dtype) for name in frame if str(name).endswith("_at")} == {"datetime64[ms, UTC]"}


def test_a_server_that_knows_fewer_statuses(double: Double, client: Lago) -> None:
    def strict(request: Request) -> Reply:
        wanted = request.query["status[]"]
        if "canceled" in wanted:
            return Reply(422, {"error_details": {"status": ["value_is_invalid"]}})
        return Reply(200, {"subscriptions": [one for one in SUBSCRIPTIONS if one["status"] in wanted]})

    double.scripts.append(serving("/subscriptions", strict))
    assert client.subscriptions()["status"].tolist() == ["active", "terminated", "pending"]


def test_no_subscriptions(double: Double, client: Lago) -> None:
    double.scripts.append(serving("/subscriptions", paged("subscriptions", [], 2)))
    frame = client.subscriptions()
    assert len(frame) == 0
    assert str(frame["started_at"].dtype) == "datetime64[ms, UTC]"


def test_a_time_of_another_shape_is_a_fault(double: Double, client: Lago) -> None:
    odd = [{"external_id": "a", "started_at": "last week"}]
    double.scripts.append(serving("/subscriptions", paged("subscriptions", odd, 2)))
    with pytest.raises(LagoFault, match="ISO 8601"):
        client.subscriptions()


def period(subscription: str, **times: str) -> dict[str, str]:
    return {"external_subscription_id": subscription} | times


def test_draft_invoices_are_fetched_one_by_one(double: Double, client: Lago) -> None:
    listed = [{"lago_id": "i1", "status": "draft"}, {"lago_id": "i2", "status": "draft"}, {"lago_id": "i3"}]
    charges = {
        "charges_from_datetime": "2026-10-01T00:00:00Z",
        "charges_to_datetime": "2026-10-31T23:59:59Z",
        "subscription_from_datetime": "2026-11-01T00:00:00Z",
        "subscription_to_datetime": "2026-11-30T23:59:59Z",
    }
    older = {
        "subscription_from_datetime": "2026-09-01T00:00:00Z",
        "subscription_to_datetime": "2026-09-30T23:59:59Z",
    }
    shown = {
        "i1": {
            "status": "draft",
            "billing_periods": [period("team-a", **charges), period("team-b", **older)],
        },
        "i2": {"status": "finalized", "billing_periods": [period("team-c", **charges)]},
    }

    def show(request: Request) -> Reply | None:
        name = request.path.rsplit("/", 1)[-1]
        return Reply(200, {"invoice": shown[name]}) if name in shown else None

    double.scripts += [serving("/invoices", paged("invoices", listed, 2)), show]
    frame = client.invoice_periods("draft")
    assert double.requests[0].query["status"] == ["draft"]
    assert frame.to_dict("records") == [
        {
            "external_subscription_id": "team-a",
            "from": pd.Timestamp("2026-10-01T00:00:00Z"),
            "to": pd.Timestamp("2026-10-31T23:59:59Z"),
            "lago_id": "i1",
        },
        {
            "external_subscription_id": "team-b",
            "from": pd.Timestamp("2026-09-01T00:00:00Z"),
            "to": pd.Timestamp("2026-09-30T23:59:59Z"),
            "lago_id": "i1",
        },
    ]
    assert {str(frame[name].dtype) for name in ("from", "to")} == {"datetime64[ms, UTC]"}


def test_draft_invoices_that_are_listed_with_their_periods(double: Double, client: Lago) -> None:
    periods = [period("a", charges_from_datetime="2026-10-01T00:00:00Z", charges_to_datetime="2026-10-31T00:00:00Z")]
    items = [
        {"lago_id": "i1", "status": "draft", "billing_periods": periods},
        {"lago_id": "i2", "status": "finalized", "billing_periods": periods},
    ]
    double.scripts.append(serving("/invoices", paged("invoices", items, 5)))
    assert client.invoice_periods("draft")["lago_id"].tolist() == ["i1"]
    assert double.paths() == ["GET /invoices"]


def test_invoices_not_served(client: Lago) -> None:
    frame = client.invoice_periods("draft")
    assert frame.columns.tolist() == ["external_subscription_id", "from", "to", "lago_id"]
    assert len(frame) == 0


USAGE: dict[str, Any] = {
    "from_datetime": "2026-11-01T00:00:00Z",
    "to_datetime": "2026-11-30T23:59:59Z",
    "currency": "USD",
    "amount_cents": 1230,
    "lago_invoice_id": None,
    "charges_usage": [
        {
            "units": "12.3000000001",
            "events_count": 7,
            "amount_cents": 1230,
            "billable_metric": {"code": "llm"},
            "filters": [],
        }
    ],
}
PARSED = Usage(
    from_datetime=datetime(2026, 11, 1, tzinfo=UTC),
    to_datetime=datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC),
    currency="USD",
    amount_cents=1230,
    lago_invoice_id=None,
    charges=(ChargeUsage("llm", Decimal("12.3000000001"), 7, 1230),),
)


def test_current_usage_of_an_odd_customer(double: Double, client: Lago) -> None:
    double.scripts.append(
        serving("/customers/a%2Fb%3Fc/current_usage", lambda _: Reply(200, {"customer_usage": USAGE}))
    )
    assert client.current_usage("a/b?c", "team a") == PARSED
    assert double.requests[0].query == {"external_subscription_id": ["team a"]}


@pytest.mark.parametrize("status", [404, 405])
def test_no_usage(double: Double, client: Lago, status: int) -> None:
    double.scripts.append(lambda _: Reply(status, {"status": status, "code": "no_active_subscription"}))
    assert client.current_usage("acme", "team-a") is None
    assert client.past_usage("acme", "team-a") == ()


def test_past_usage(double: Double, client: Lago) -> None:
    older = USAGE | {"lago_invoice_id": "i1", "charges_usage": None}
    double.scripts.append(serving("/customers/acme/past_usage", paged("usage_periods", [USAGE, older], 1)))
    newest, oldest = client.past_usage("acme", "team-a", "llm")
    assert newest == PARSED
    assert (oldest.lago_invoice_id, oldest.charges) == ("i1", ())
    assert double.requests[0].query["billable_metric_code"] == ["llm"]


@pytest.mark.parametrize("broken", [{"from_datetime": None}, {"to_datetime": "x"}, {"charges_usage": [{"units": "?"}]}])
def test_usage_of_another_shape_is_a_fault(double: Double, client: Lago, broken: dict[str, Any]) -> None:
    double.scripts.append(lambda _: Reply(200, {"customer_usage": USAGE | broken}))
    with pytest.raises(LagoFault, match="unknown shape"):
        client.current_usage("acme", "team-a")


@pytest.mark.parametrize("name", ["plain", "a/b?c#d%25 ", "..", "é"])
def test_find_event(double: Double, client: Lago, name: str) -> None:
    double.add(
        {
            "transaction_id": name,
            "external_subscription_id": "team-a",
            "code": "llm",
            "timestamp": "1700000000",
            "properties": {},
        }
    )
    found = client.find_event(name)
    assert found is not None
    assert found["transaction_id"] == name
    assert client.find_event(f"{name}x") is None


def test_find_event_without_an_id_asks_nothing(double: Double, client: Lago) -> None:
    assert client.find_event("") is None
    assert double.requests == []


def test_a_proxys_404_is_not_the_absence_of_an_event(double: Double, client: Lago) -> None:
    double.scripts.append(lambda _: Reply(404, "<html>nginx</html>"))
    with pytest.raises(LagoFault, match="not Lago's"):
        client.find_event("a")

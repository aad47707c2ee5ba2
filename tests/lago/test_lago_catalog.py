"""Organization, metric, plans, subscriptions, draft invoices, one event: from any age of Lago."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from reconcile.errors import LagoFault, PreflightError
from reconcile.lago import Charge, Lago, Metric, MetricFilter, Organization, Period, Plan, Subscription
from reconcile.lago.http import Unserved
from reconcile.lago.items import is_free

from .lago_catalog import CODE, CannedCatalog, charge, not_found, plan
from .lago_double import Double, Reply, Request


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


METRIC: dict[str, Any] = {
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
READ = Metric(
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


def test_metric(double: Double, client: Lago) -> None:
    double.scripts.append(CannedCatalog(metrics={"llm": METRIC, "a/b?": {"code": "a/b?"}}))
    assert client.metric("llm") == READ
    assert client.metric("a/b?") == Metric("a/b?", None, None, None, None, None, False, None, None, None, ())
    assert client.metric("LLM") is None
    assert double.paths() == [f"GET /billable_metrics/{name}" for name in ("llm", "a%2Fb%3F", "LLM")]
    assert client.metric("") is None
    assert len(double.requests) == 3


def test_metric_of_a_server_that_only_lists(double: Double, client: Lago) -> None:
    others: list[dict[str, Any]] = [{"code": f"other-{number}"} for number in range(7)]
    double.scripts += [
        serving("/billable_metrics", paged("billable_metrics", [*others, METRIC], 3)),
        lambda _: not_found("resource"),
    ]
    assert client.metric("llm") == READ
    assert client.metric("LLM") is None


def test_metrics_not_served_means_a_wrong_address(double: Double, client: Lago) -> None:
    with pytest.raises(PreflightError, match="LAGO_API_BASE"):
        client.preflight.metric("llm")


def test_plan(double: Double, client: Lago) -> None:
    dynamic = charge(
        charge_model="dynamic",
        pay_in_advance=True,
        properties={"pricing_group_keys": ["model"]},
        filters=[{"values": {"model": ["a"]}}, {"values": {"model": ["b"], "region": ["eu"]}}],
    )
    grouped = charge(charge_model=None, properties={"grouped_by": ["team"], "amount": "0"})
    double.scripts.append(CannedCatalog(plans={"a/b": plan("a/b", charge("other"), dynamic, grouped)}))
    found = client.plan("a/b", CODE)
    a, b, eu = MetricFilter("model", ("a",)), MetricFilter("model", ("b",)), MetricFilter("region", ("eu",))
    assert found == Plan(
        "a/b",
        (Charge("dynamic", True, ("model",), ((a,), (b, eu)), False), Charge(None, False, ("team",), (), False)),
    )
    assert (found.priced, found.pay_in_advance) == (True, True)
    assert Plan.remembered(json.loads(json.dumps(found.as_json()))) == found
    assert client.plan("a", CODE) is None
    assert client.plan("", CODE) is None
    assert double.paths() == ["GET /plans/a%2Fb", "GET /plans/a"]


def test_plans_not_served(double: Double, client: Lago) -> None:
    assert client.plan("pro", CODE) is None
    with pytest.raises(Unserved):
        client.plan_of(Subscription("1", "team", "acme", "active", "pro", 0, None, None), CODE)


@pytest.mark.parametrize(("plan_shown", "priced"), [({"charges": []}, False), ({"charges": None}, None), ({}, None)])
def test_the_plan_of_a_subscription(
    double: Double, client: Lago, plan_shown: dict[str, Any], priced: bool | None
) -> None:
    ended = Subscription("1", "a/b", "acme", "terminated", "pro", 0, 1, None)
    shown = {"external_id": "a/b", "started_at": None, "plan": {"code": "pro", "interval": "monthly", **plan_shown}}
    answers = [shown | {"lago_id": "1"}, shown | {"lago_id": "2"}]
    double.scripts.append(serving("/subscriptions/a%2Fb", lambda _: Reply(200, {"subscription": answers.pop(0)})))
    found = client.plan_of(ended, CODE)
    assert (None if found is None else found.priced) is priced
    assert double.requests[0].query == {"status": ["terminated"]}
    assert client.plan_of(ended, CODE) is None  # another one of this ID
    nameless = Subscription("1", "", "acme", "active", "pro", 0, None, None)
    assert client.plan_of(nameless, CODE) is None
    assert len(double.requests) == 2


RANGES = ({"per_unit_amount": "0", "flat_amount": "0.00"}, {"per_unit_amount": "0.0", "flat_amount": "0"})
FREE: tuple[tuple[str, dict[str, Any], bool], ...] = (
    ("standard", {"amount": "0"}, True),
    ("standard", {"amount": "0.000"}, True),
    ("standard", {"amount": "0.0000001"}, False),
    ("standard", {}, False),
    ("standard", {"amount": "free"}, False),
    ("package", {"amount": "0", "package_size": 1000, "free_units": 0}, True),
    ("package", {"amount": "1", "package_size": 1000}, False),
    ("percentage", {"rate": "0"}, True),
    ("percentage", {"rate": "0", "fixed_amount": "0", "per_transaction_min_amount": None}, True),
    ("percentage", {"rate": "0", "fixed_amount": "0.1"}, False),
    ("percentage", {"rate": "0", "per_transaction_min_amount": "1"}, False),
    ("percentage", {"rate": "1"}, False),
    ("graduated", {"graduated_ranges": list(RANGES)}, True),
    ("graduated", {"graduated_ranges": [*RANGES, {"per_unit_amount": "0", "flat_amount": "1"}]}, False),
    ("graduated", {"graduated_ranges": []}, False),
    ("volume", {"volume_ranges": list(RANGES)}, True),
    ("volume", {"volume_ranges": [{"per_unit_amount": "1", "flat_amount": "0"}]}, False),
    ("graduated_percentage", {"graduated_percentage_ranges": [{"rate": "0", "flat_amount": "0"}]}, True),
    ("graduated_percentage", {"graduated_percentage_ranges": [{"rate": "0"}]}, False),
    ("dynamic", {}, False),
    ("custom", {"custom_properties": {}}, False),
)


@pytest.mark.parametrize(("model", "properties", "free"), FREE, ids=str)
def test_a_price_of_0(model: str, properties: dict[str, Any], free: bool) -> None:
    assert is_free(model, properties) is free


def test_subscriptions(double: Double, client: Lago) -> None:
    canned = CannedCatalog()
    canned.add("team-b", status="pending", started_at=None, current_billing_period_started_at=None)
    canned.add(
        "team-a", status="terminated", started_at="2026-01-01T00:00:00+01:00", terminated_at="2026-10-31T12:00:00Z"
    )
    canned.add("team-a", started_at="2026-11-01T00:00:00.250Z")
    double.scripts.append(canned)
    every = ("active", "terminated", "pending", "canceled")
    page = client.subscription_page(every, 1, 2, external_customer_id="acme")
    assert double.requests[0].query["status[]"] == list(every)
    assert (page.total, page.next_page) == (3, 2)
    october, november = 1793448000000, 1793491200000
    assert page.subscriptions == (
        Subscription("sub-2", "team-a", "acme", "active", "pro", november + 250, None, november),
        Subscription("sub-1", "team-a", "acme", "terminated", "pro", 1767222000000, october, november),
    )
    (pending,) = client.subscription_page(every, 2, 2).subscriptions
    assert (pending.in_force, pending.started_ms, pending.period_ms) == (False, None, None)
    assert client.subscription_page(every, 1, 2, external_id="team-b").subscriptions == (pending,)


def test_a_time_of_another_shape_is_a_fault(double: Double, client: Lago) -> None:
    double.scripts.append(
        CannedCatalog(subscriptions=[{"lago_id": "1", "status": "active", "started_at": "last week"}])
    )
    with pytest.raises(LagoFault, match="ISO 8601"):
        client.subscription_page(("active",), 1, 100)


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
        "i1": {"status": "draft", "billing_periods": [period("team-a", **charges), period("team-b", **older)]},
        "i2": {"status": "finalized", "billing_periods": [period("team-c", **charges)]},
    }

    def show(request: Request) -> Reply | None:
        name = request.path.rsplit("/", 1)[-1]
        return Reply(200, {"invoice": shown[name]}) if name in shown else None

    double.scripts += [serving("/invoices", paged("invoices", listed, 2)), show]
    september, october, november = 1788220800000, 1790812800000, 1793491200000
    assert client.draft_periods(["acme", ""]) == [
        Period("team-a", october, november - 1000, "i1"),
        Period("team-b", september, october - 1000, "i1"),
    ]
    assert double.requests[0].query["status"] == ["draft"]
    assert double.requests[0].query["external_customer_id"] == ["acme"]


def test_a_server_that_lists_whole_invoices_and_ignores_the_filter(double: Double, client: Lago) -> None:
    times = {"charges_from_datetime": "2026-10-01T00:00:00Z", "charges_to_datetime": "2026-10-31T00:00:00Z"}
    items = [
        {
            "lago_id": name,
            "status": status,
            "customer": {"external_id": customer},
            "billing_periods": [period("a", **times)],
        }
        for name, status, customer in (("i1", "draft", "acme"), ("i2", "finalized", "acme"), ("i3", "draft", "other"))
    ]
    double.scripts.append(serving("/invoices", paged("invoices", items, 5)))
    assert [one.lago_invoice_id for one in client.draft_periods(["acme"])] == ["i1"]
    assert double.paths() == ["GET /invoices"]


def test_invoices_not_served(client: Lago) -> None:
    assert client.draft_periods(["acme"]) == []


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

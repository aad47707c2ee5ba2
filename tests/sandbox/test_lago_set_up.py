"""A world made over HTTP: plans and their charges, subscriptions through their life, and what they are billed."""

from __future__ import annotations

import random
import string
from datetime import UTC, datetime, timedelta
from typing import Any

from .conftest import NOW, Api
from .test_lago_events_api import answers, invalid, not_found

NOVEMBER = "2026-11-01T00:00:00Z"
PER_UNIT = {"charge_model": "standard", "properties": {"amount": "1"}}


def metric(api: Api, code: str = "cost", **changes: Any) -> str:
    given = {"name": code, "code": code, "aggregation_type": "sum_agg", "field_name": "response_cost", **changes}
    response = api.post("/billable_metrics", {"billable_metric": given})
    assert response.status_code == 200, response.text
    return str(response.json()["billable_metric"]["lago_id"])


def plan(api: Api, *charges: dict[str, Any], code: str = "plan") -> dict[str, Any]:
    given = {"name": code, "code": code, "interval": "monthly", "amount_cents": 0, "amount_currency": "USD"}
    response = api.post("/plans", {"plan": {**given, "charges": charges}})
    assert response.status_code == 200, response.text
    made: dict[str, Any] = response.json()["plan"]
    return made


def subscribe(api: Api, external_id: str = "sub-1", **changes: Any) -> Any:
    given = {"external_customer_id": "customer", "plan_code": "plan", "external_id": external_id, **changes}
    return api.post("/subscriptions", {"subscription": {"subscription_at": NOVEMBER, **given}})


def send(api: Api, name: str, cost: Any, at: datetime = NOW - timedelta(hours=1), **properties: Any) -> None:
    event = {"transaction_id": name, "code": "cost", "timestamp": at.timestamp()}
    assert api.create(**event, properties={"response_cost": cost, **properties}).status_code == 200


def usage(api: Api, external_id: str = "sub-1", **params: Any) -> list[dict[str, Any]]:
    params = {"external_subscription_id": external_id, **params}
    response = api.get("/customers/customer/current_usage", **params)
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["customer_usage"]["charges_usage"]
    return found


def counted(charges: list[dict[str, Any]]) -> list[tuple[str, int, int]]:
    return [(one["units"], one["events_count"], one["amount_cents"]) for one in charges]


def test_two_charges_bill_an_event_twice(api: Api) -> None:
    lago_id = metric(api)
    dear = {**PER_UNIT, "code": "dear", "properties": {"amount": "10"}}
    plan(api, {**PER_UNIT, "billable_metric_id": lago_id, "code": "cheap"}, {**dear, "billable_metric_id": lago_id})
    subscribe(api)
    send(api, "t-1", "0.5")
    assert counted(usage(api)) == [("0.5", 1, 50), ("0.5", 1, 500)]
    assert counted(usage(api, charge_code="dear")) == [("0.5", 1, 500)]
    other = {"external_subscription_id": "sub-1", "billable_metric_code": "other"}
    answers(api.get("/customers/customer/current_usage", **other), 404, not_found("charge_not_found"))


def test_a_filter_takes_its_events_from_the_default(api: Api) -> None:
    lago_id = metric(api, filters=[{"key": "model", "values": ["a", "b"]}, {"key": "region", "values": ["eu"]}])
    filters = [
        {"values": {"model": ["a", "b"]}, "properties": {"amount": "2"}},
        {"values": {"model": ["a"], "region": ["eu"]}, "properties": {"amount": "3"}},
    ]
    plan(api, {**PER_UNIT, "billable_metric_id": lago_id, "filters": filters})
    subscribe(api)
    for number, (model, region) in enumerate([("a", "us"), ("a", "eu"), ("b", "eu"), ("c", "eu"), (None, None)]):
        send(api, f"t-{number}", 1, model=model, region=region)
    (charge,) = usage(api)
    assert counted(charge["filters"]) == [("2.0", 2, 400), ("1.0", 1, 300), ("2.0", 2, 200)]
    assert counted([charge]) == [("5.0", 5, 900)]


def test_groups_with_filters(api: Api) -> None:
    lago_id = metric(api, filters=[{"key": "model", "values": ["a"]}])
    filters = [{"values": {"model": ["a"]}, "properties": {"amount": "2", "pricing_group_keys": ["user"]}}]
    properties = {"amount": "1", "pricing_group_keys": ["user"]}
    plan(api, {**PER_UNIT, "properties": properties, "billable_metric_id": lago_id, "filters": filters})
    subscribe(api)
    for number, (model, user) in enumerate([("a", "u"), ("b", "u"), ("b", "v"), ("b", "")]):
        send(api, f"t-{number}", 1, model=model, user=user)
    (charge,) = usage(api)
    groups = {one["grouped_by"]["user"]: counted([one]) for one in charge["grouped_usage"]}
    assert groups == {None: [("1.0", 1, 100)], "u": [("2.0", 2, 300)], "v": [("1.0", 1, 100)]}
    assert counted([charge]) == [("4.0", 4, 500)]


def test_the_same_again_another_customer_another_plan(api: Api) -> None:
    plan(api, {**PER_UNIT, "billable_metric_id": metric(api)})
    plan(api, code="other")
    first = subscribe(api).json()["subscription"]
    assert subscribe(api).json()["subscription"]["lago_id"] == first["lago_id"]
    answers(subscribe(api, external_customer_id="x"), 422, invalid({"external_id": ["value_already_exist"]}))
    answers(subscribe(api, plan_code="none"), 404, not_found("plan_not_found"))
    changed = subscribe(api, plan_code="other", subscription_at=None).json()["subscription"]
    assert (changed["status"], changed["plan_code"]) == ("active", "other")
    ended = api.get("/subscriptions/sub-1", status="terminated").json()["subscription"]
    assert ended["lago_id"] == first["lago_id"]


def test_an_overridden_plan_belongs_to_one_subscription(api: Api) -> None:
    made = plan(api, {**PER_UNIT, "billable_metric_id": metric(api)})
    override = {"charges": [{"id": made["charges"][0]["lago_id"], "properties": {"amount": "7"}}]}
    own = subscribe(api, "own", plan_overrides=override).json()["subscription"]["plan"]
    shared = subscribe(api, "shared").json()["subscription"]["plan"]
    assert (own["code"], own["parent_id"], own["charges"][0]["properties"]) == (
        "plan",
        made["lago_id"],
        {"amount": "7"},
    )
    assert own["charges"][0]["lago_parent_id"] == made["charges"][0]["lago_id"]
    assert (shared["lago_id"], shared["parent_id"]) == (made["lago_id"], None)
    assert api.get("/plans").json()["plans"][0]["lago_id"] == made["lago_id"]
    assert api.get("/plans").json()["meta"]["total_count"] == 1
    assert api.get("/plans/plan").json()["plan"]["lago_id"] == made["lago_id"]
    assert api.get("/subscriptions/own").json()["subscription"]["plan"]["lago_id"] == own["lago_id"]
    for flag, names in (("true", ["own"]), ("false", ["shared"])):  # in Lago's own spelling
        listed = api.get("/subscriptions", overriden=flag).json()
        assert [one["external_id"] for one in listed["subscriptions"]] == names
        assert listed["meta"]["total_count"] == 1
    charges = api.get("/subscriptions/own/charges").json()["charges"]
    assert [one["properties"] for one in charges] == [{"amount": "7"}]
    for name in ("own", "shared"):
        api.create(external_subscription_id=name, code="cost", properties={"response_cost": 1})
    assert [counted(usage(api, name)) for name in ("own", "shared")] == [[("1.0", 1, 700)], [("1.0", 1, 100)]]


def test_a_subscription_through_its_life(api: Api) -> None:
    plan(api, {**PER_UNIT, "billable_metric_id": metric(api)})
    soon, later = NOW + timedelta(days=1), NOW + timedelta(days=3)
    pending = subscribe(api, subscription_at=f"{soon:%FT%TZ}", ending_at=f"{later:%FT%TZ}").json()["subscription"]
    assert (pending["status"], pending["started_at"]) == ("pending", None)
    answers(api.get("/subscriptions/sub-1"), 404, not_found("subscription_not_found"))
    api.organization.run_clock()
    assert api.get("/subscriptions/sub-1").status_code == 404
    api.stand_in.now = lambda: soon + timedelta(hours=1)
    api.organization.run_clock()
    begun = api.get("/subscriptions/sub-1").json()["subscription"]
    assert (begun["status"], begun["started_at"]) == ("active", f"{soon:%FT%T}.000Z")
    api.create(code="cost", timestamp=(soon + timedelta(hours=2)).timestamp())
    api.stand_in.now = lambda: later + timedelta(hours=1)
    api.organization.run_clock()
    assert api.get("/subscriptions/sub-1").status_code == 404
    ended = api.get("/subscriptions/sub-1", status="terminated").json()["subscription"]
    assert ended["terminated_at"] == ended["current_billing_period_ending_at"] == f"{later:%FT%TZ}"
    (invoice,) = api.get("/invoices").json()["invoices"]
    assert (invoice["status"], invoice["total_amount_cents"]) == ("finalized", 50)


def test_a_pending_subscription_is_canceled(api: Api) -> None:
    plan(api)
    subscribe(api, subscription_at="2027-01-01T00:00:00Z")
    answers(api.client.delete("/subscriptions/sub-1"), 404, not_found("subscription_not_found"))
    canceled = api.client.delete("/subscriptions/sub-1?status=pending").json()["subscription"]
    assert (canceled["status"], canceled["canceled_at"]) == ("canceled", "2026-11-20T12:00:00Z")
    assert api.get("/invoices").json()["invoices"] == []


def test_what_is_sent_after_the_end_is_billed_by_nobody(api: Api) -> None:
    plan(api, {**PER_UNIT, "billable_metric_id": metric(api)})
    subscribe(api)
    assert api.client.delete("/subscriptions/sub-1").status_code == 200
    (invoice,) = api.get("/invoices").json()["invoices"]
    assert invoice["total_amount_cents"] == 0
    send(api, "late", "1")
    whole = api.get(f"/invoices/{invoice['lago_id']}").json()["invoice"]
    assert [fee["item"]["type"] for fee in whole["fees"]] == ["subscription"]
    answers(api.client.put(f"/invoices/{invoice['lago_id']}/finalize"), 404, not_found("invoice_not_found"))


def test_paid_in_advance(api: Api) -> None:
    """A fee and an invoice at once, also for a month that is over; none before the subscription began."""
    plan(api, {**PER_UNIT, "billable_metric_id": metric(api), "pay_in_advance": True})
    subscribe(api, subscription_at="2026-09-10T00:00:00Z")
    subscribe(api, "other")
    send(api, "now", "1")
    send(api, "past", "0.25", datetime(2026, 9, 20, tzinfo=UTC))
    send(api, "before", "1", datetime(2026, 9, 9, tzinfo=UTC))
    send(api, "nothing", None)
    api.create(transaction_id="now", external_subscription_id="other", code="cost", properties={"response_cost": 9})
    fees = api.get("/fees", external_subscription_id="sub-1").json()["fees"]
    assert [
        (fee["event_transaction_id"], fee["units"], fee["amount_cents"], fee["from_date"][:10]) for fee in fees
    ] == [
        ("now", "1.0", 100, "2026-11-01"),
        ("past", "0.25", 25, "2026-09-10"),
    ]
    assert [fee["to_date"][:10] for fee in fees] == ["2026-11-30", "2026-09-30"]
    # An ID has one fee in all the organization.
    assert api.get("/fees", external_subscription_id="other").json()["fees"] == []
    assert api.get("/invoices").json()["meta"]["total_count"] == 2


def test_drafts_are_stale_until_they_are_refreshed(api: Api) -> None:
    plan(api, {**PER_UNIT, "billable_metric_id": metric(api)})
    subscribe(api, subscription_at="2026-10-01T00:00:00Z")
    october = datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 10, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    send(api, "t-1", "1", october[0])
    path = f"/invoices/{api.organization.add_invoice('sub-1', october)}"

    def shown(response: Any) -> tuple[str, int, set[str]]:
        invoice = response.json()["invoice"]
        return invoice["status"], invoice["fees_amount_cents"], {fee["lago_id"] for fee in invoice["fees"]}

    send(api, "t-2", "1", october[0])
    status, cents, fees = shown(api.get(path))
    assert (status, cents) == ("draft", 100)
    status, cents, refreshed = shown(api.client.put(f"{path}/refresh"))
    assert (status, cents, refreshed & fees) == ("draft", 200, set())
    send(api, "t-3", "1", october[0])
    assert shown(api.client.put(f"{path}/finalize"))[:2] == ("finalized", 300)
    answers(api.client.put(f"{path}/finalize"), 404, not_found("invoice_not_found"))
    send(api, "t-4", "1", october[0])
    assert shown(api.client.put(f"{path}/refresh"))[:2] == ("finalized", 300)
    assert shown(api.client.post(f"{path}/void"))[:2] == ("voided", 300)
    assert api.client.post(f"{path}/void").json()["code"] == "not_voidable"


def test_what_cannot_be_made(api: Api) -> None:
    lago_id = metric(api)
    taken = {"name": "x", "code": "cost", "aggregation_type": "count_agg"}
    answers(api.post("/billable_metrics", {"billable_metric": taken}), 422, invalid({"code": ["value_already_exist"]}))
    plan(api, {**PER_UNIT, "billable_metric_id": lago_id})
    again = {"name": "x", "code": "plan", "interval": "monthly", "amount_currency": "USD"}
    answers(api.post("/plans", {"plan": again}), 422, invalid({"code": ["value_already_exist"]}))
    priced = {**again, "code": "y", "charges": [{**PER_UNIT, "billable_metric_id": "none"}]}
    answers(api.post("/plans", {"plan": priced}), 404, not_found("billable_metrics_not_found"))
    for path in ("/billable_metrics", "/plans", "/customers", "/subscriptions"):
        assert api.post(path, {}).status_code == 400


def test_properties_that_an_index_cannot_hold(api: Api) -> None:
    """Postgres refuses them after compression: letters in disorder soon, repeated ones late."""
    letters = "".join(random.Random(7).choices(string.ascii_letters + string.digits, k=2_700))
    assert api.create(properties={"blob": letters[:2_600]}).status_code == 200
    assert api.create(transaction_id="t-2", properties={"blob": "x" * 100_000}).status_code == 200
    failed = api.create_batch({"transaction_id": "good"}, {"transaction_id": "t-3", "properties": {"blob": letters}})
    assert (failed.status_code, failed.json()) == (500, {"status": 500, "error": "Internal Server Error"})
    assert api.get("/events/good").status_code == 404

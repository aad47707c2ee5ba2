"""A ClickHouse store: nothing is refused, all is listed, and it takes a while to show (cases D17, D20, E7, F)."""

from __future__ import annotations

from datetime import timedelta

from .conftest import NOW, Api, Lagos
from .test_lago_events_api import answers, invalid, listed, not_found


def test_f1_an_accepted_event_has_no_id_yet(clickhouse: Api) -> None:
    event = clickhouse.create().json()["event"]
    assert event == {
        "lago_id": None,
        "transaction_id": "t-1",
        "lago_customer_id": None,
        "code": "llm_usage",
        "timestamp": "2026-11-18T11:06:40.000Z",
        "precise_total_amount_cents": "123.45",
        "properties": {"response_cost": "0.5"},
        "lago_subscription_id": None,
        "external_subscription_id": "sub-1",
        "created_at": None,
    }
    assert clickhouse.create_batch({}).json()["events"] == [event]


def test_f2_d20_duplicates_are_taken_and_listed(clickhouse: Api) -> None:
    assert [clickhouse.create().status_code for _ in range(2)] == [200, 200]
    assert clickhouse.create_batch({}, {}).status_code == 200
    assert listed(clickhouse.get("/events")) == ["t-1"] * 4


def test_f3_validation_in_batches_only(clickhouse: Api) -> None:
    assert clickhouse.create(transaction_id=None, code="").status_code == 200
    details = {"0": {"transaction_id": ["value_is_mandatory"]}}
    answers(clickhouse.create_batch({"transaction_id": ""}), 422, invalid(details))
    assert listed(clickhouse.get("/events")) == [""]


def test_f4_bad_timestamp_and_expression(clickhouse: Api) -> None:
    answers(clickhouse.create(timestamp="abc"), 422, invalid({"timestamp": ["invalid_format"]}))
    clickhouse.organization.add_billable_metric("sum", field_name="v", expression="event.properties.b")
    failed = clickhouse.create(code="sum")
    answers(failed, 422, invalid("expression_evaluation_failed: Variable: b not found"))


def test_f5_events_show_late(clickhouse: Api) -> None:
    faults = clickhouse.stand_in.faults
    faults.visibility_lag = 3_600
    clickhouse.organization.add_subscription("sub-1")
    clickhouse.organization.add_billable_metric("llm_usage")
    assert clickhouse.create().status_code == 200
    assert listed(clickhouse.get("/events")) == []
    assert clickhouse.get("/events").json()["meta"]["total_count"] == 0
    answers(clickhouse.get("/events/t-1"), 404, not_found("event_not_found"))
    assert usage(clickhouse) == ("0.0", 0)
    assert clickhouse.count() == 1
    faults.visibility_lag = 0
    assert listed(clickhouse.get("/events")) == ["t-1"]
    assert usage(clickhouse) == ("0.5", 1)


def test_e7_read_events_carry_subscription_and_customer(clickhouse: Api) -> None:
    subscription = clickhouse.organization.add_subscription("sub-1", external_customer_id="customer-1")
    clickhouse.create()
    clickhouse.create(transaction_id="t-2", external_subscription_id=None)
    event = clickhouse.get("/events/t-1").json()["event"]
    customer = clickhouse.get("/customers/customer-1").json()["customer"]
    assert (event["lago_subscription_id"], event["lago_customer_id"]) == (subscription, customer["lago_id"])
    assert event["lago_id"] == f"{clickhouse.organization.id}-sub-1-t-1-{int(NOW.timestamp())}"
    assert event["created_at"] == "2026-11-20T12:00:00Z"
    unknown = clickhouse.get("/events/t-2").json()["event"]
    assert (unknown["external_subscription_id"], unknown["lago_subscription_id"]) == ("", None)


def test_d17_order_is_by_ingestion(clickhouse: Api) -> None:
    for minute, names in enumerate((["b", "a"], ["d", "c"])):
        clickhouse.stand_in.now = lambda minute=minute: NOW + timedelta(minutes=minute)
        for number, name in enumerate(names):
            clickhouse.create(transaction_id=name, timestamp=1_000 - 10 * minute + number)
    assert listed(clickhouse.get("/events")) == ["c", "d", "a", "b"]


def test_milliseconds_are_all_there_is(clickhouse: Api) -> None:
    clickhouse.create(timestamp="1751466222.3441")
    clickhouse.create(transaction_id="t-2", timestamp="1751466222.3459")
    params = {"timestamp_to": "2025-07-02T14:23:42.344Z"}
    assert listed(clickhouse.get("/events", **params)) == ["t-1"]


def test_f6_f7_billing_identity(lagos: Lagos) -> None:
    """With deduplication on. Same ID and millisecond: the last one counts. Another millisecond: both count."""
    clickhouse = lagos.organization("clickhouse", deduplicates=True)
    clickhouse.organization.add_subscription("sub-1")
    clickhouse.organization.add_billable_metric("llm_usage")
    clickhouse.create(properties={"response_cost": "1"})
    clickhouse.create(properties={"response_cost": "3"})
    assert usage(clickhouse) == ("3.0", 1)
    clickhouse.create(timestamp="1795000000.001", properties={"response_cost": "5"})
    assert usage(clickhouse) == ("8.0", 2)


def test_copies_are_billed_until_they_are_merged(clickhouse: Api) -> None:
    clickhouse.organization.add_subscription("sub-1")
    clickhouse.organization.add_billable_metric("llm_usage")
    clickhouse.create(properties={"response_cost": "1"})
    clickhouse.create(properties={"response_cost": "3"})
    assert usage(clickhouse) == ("4.0", 2)
    clickhouse.organization.merge_events()
    assert usage(clickhouse) == ("3.0", 1)
    assert listed(clickhouse.get("/events")) == ["t-1", "t-1"]


def test_twins_of_one_request_are_folded_at_once(clickhouse: Api) -> None:
    clickhouse.organization.add_subscription("sub-1")
    clickhouse.organization.add_billable_metric("llm_usage")
    clickhouse.create_batch({}, {"properties": {"response_cost": "2"}}, {"timestamp": "1795000000.001"})
    assert usage(clickhouse) == ("2.5", 2)
    assert listed(clickhouse.get("/events")) == ["t-1"] * 3


def usage(api: Api) -> tuple[str, int]:
    response = api.get("/customers/sub-1/current_usage", external_subscription_id="sub-1")
    (charge,) = response.json()["customer_usage"]["charges_usage"]
    return charge["units"], charge["events_count"]

"""Lago's own cases for creating and reading events on a Postgres store, one test for each case that HTTP reaches.

The letters are those of the list of cases distilled from Lago's specs and code (1.51.0): A authorization, B single
create, C batch, D listing, E finding.
"""

from __future__ import annotations

import itertools
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import httpx
import psycopg
import pytest

from .conftest import EVENT, Api, Lagos

EXISTS = {"transaction_id": ["value_already_exist"]}
FORBIDDEN_WRITE = {"status": 403, "error": "Forbidden", "code": "write_action_not_allowed_for_event"}
FORBIDDEN_READ = {"status": 403, "error": "Forbidden", "code": "read_action_not_allowed_for_event"}
UNAUTHORIZED = {"status": 401, "error": "Unauthorized"}


def invalid(details: Any) -> dict[str, Any]:
    return {
        "status": 422,
        "error": "Unprocessable Entity",
        "code": "validation_errors",
        "error_details": details,
    }


def not_found(code: str) -> dict[str, Any]:
    return {"status": 404, "error": "Not Found", "code": code}


def answers(response: httpx.Response, status: int, body: Any) -> None:
    assert (response.status_code, response.json()) == (status, body)
    assert response.headers["content-type"] == "application/json; charset=utf-8"


def timestamp(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return str(response.json()["event"]["timestamp"])


# A


@pytest.mark.parametrize("path", ["/events", "/events/t-1", "/subscriptions", "/organizations", "/invoices"])
def test_a1_no_key(api: Api, path: str) -> None:
    answers(httpx.get(f"{api.client.base_url}{path.lstrip('/')}", trust_env=False), 401, UNAUTHORIZED)


def test_a2_unknown_key(api: Api) -> None:
    api.client.headers["authorization"] = "Bearer nobody's"
    answers(api.get("/events"), 401, UNAUTHORIZED)
    answers(api.create(), 401, UNAUTHORIZED)
    assert api.count() == 0


def test_a4_key_that_may_not_write(api: Api) -> None:
    api.organization.add_key(f"{api.key}-reader", writes_events=False)
    api.client.headers["authorization"] = f"Bearer {api.key}-reader"
    answers(api.create(), 403, FORBIDDEN_WRITE)
    answers(api.create_batch({}), 403, FORBIDDEN_WRITE)
    assert api.get("/events").status_code == 200


def test_a5_key_that_may_not_read(api: Api) -> None:
    api.organization.add_key(f"{api.key}-writer", reads_events=False)
    api.client.headers["authorization"] = f"Bearer {api.key}-writer"
    answers(api.get("/events"), 403, FORBIDDEN_READ)
    answers(api.get("/events/t-1"), 403, FORBIDDEN_READ)
    assert api.create().status_code == 200


def test_a6_restrictions_need_the_premium_integration(lagos: Lagos) -> None:
    api = lagos.organization("postgres", restricts_keys=False)
    api.organization.add_key(f"{api.key}-reader", writes_events=False, reads_events=False)
    api.client.headers["authorization"] = f"Bearer {api.key}-reader"
    assert api.create().status_code == 200
    assert api.get("/events").status_code == 200


def test_a_key_can_be_revoked(api: Api) -> None:
    api.organization.revoke_key(api.key)
    answers(api.get("/events"), 401, UNAUTHORIZED)


# B


def test_b1_b2_b3_full_event(api: Api) -> None:
    response = api.create()
    event = response.json()["event"]
    assert uuid.UUID(event.pop("lago_id")).version == 4
    answers_with = {
        "transaction_id": "t-1",
        "lago_customer_id": None,
        "code": "llm_usage",
        "timestamp": "2026-11-18T11:06:40.000Z",
        "precise_total_amount_cents": "123.45",
        "properties": {"response_cost": "0.5"},
        "lago_subscription_id": None,
        "external_subscription_id": "sub-1",
        "created_at": "2026-11-20T12:00:00Z",
    }
    assert (response.status_code, event) == (200, answers_with)
    assert api.count() == 1


def test_b4_same_subscription_and_transaction_id(api: Api) -> None:
    assert api.create().status_code == 200
    before = api.organization.stored_events()
    again = api.create(code="other", timestamp=1_795_000_999, properties={"response_cost": "9"})
    answers(again, 422, invalid(EXISTS))
    assert api.organization.stored_events() == before


def test_b5_same_transaction_id_under_another_subscription(api: Api) -> None:
    assert api.create().status_code == 200
    assert api.create(external_subscription_id="sub-2").status_code == 200
    assert api.count() == 2


def test_b6_same_transaction_id_in_another_organization(api: Api, lagos: Lagos) -> None:
    other = lagos.organization("postgres")
    assert api.create().status_code == 200
    assert other.create().status_code == 200


@pytest.mark.parametrize("subscription", [None, ...])
def test_b7_no_subscription_defeats_uniqueness(api: Api, subscription: Any) -> None:
    for _ in range(2):
        response = api.create(external_subscription_id=subscription)
        assert (response.status_code, response.json()["event"]["external_subscription_id"]) == (200, None)
    assert api.count() == 2


@pytest.mark.parametrize("field", ["transaction_id", "code"])
@pytest.mark.parametrize("value", [..., None, "", "  "])
def test_b8_b9_mandatory(api: Api, field: str, value: Any) -> None:
    answers(api.create(**{field: value}), 422, invalid({field: ["value_is_mandatory"]}))
    assert api.count() == 0


def test_b8_b9_both(api: Api) -> None:
    details = {"transaction_id": ["value_is_mandatory"], "code": ["value_is_mandatory"]}
    answers(api.create(transaction_id="", code=""), 422, invalid(details))


def test_b11_b12_unknown_code_and_subscription(api: Api) -> None:
    assert api.create(code="nobody-counts-this", external_subscription_id="nobody").status_code == 200
    assert api.count() == 1


@pytest.mark.parametrize("value", [..., None])
def test_b13_no_timestamp_is_the_time_of_receipt(api: Api, value: Any) -> None:
    assert timestamp(api.create(timestamp=value)) == "2026-11-20T12:00:00.344Z"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("1751466222.344", "2025-07-02T14:23:42.344Z"),  # B14
        (1693840 * 1000 + 0.25, "2023-09-04T15:06:40.250Z"),  # B15
        ("1693842312.3449", "2023-09-04T15:45:12.344Z"),  # D21: cut, not rounded
        (1_700_000_000_000, "55840-11-08T22:13:20.000Z"),  # B19
        (0, "1970-01-01T00:00:00.000Z"),  # B21
        (-86_400, "1969-12-31T00:00:00.000Z"),
        (32_503_680_000, "3000-01-01T00:00:00.000Z"),
        (" 1_751466222 ", "2025-07-02T14:23:42.000Z"),  # what BigDecimal() takes
        ("1.751466222e9", "2025-07-02T14:23:42.000Z"),
        (".5", "1970-01-01T00:00:00.500Z"),
    ],
)
def test_b14_to_b21_timestamps(api: Api, value: Any, shown: str) -> None:
    assert timestamp(api.create(timestamp=value)) == shown
    assert api.get("/events/t-1").json()["event"]["timestamp"] == shown


@pytest.mark.parametrize(
    "value", ["2026-01-01T00:00:00Z", "2026-01-01 00:00:00 UTC", "", "abc", "1,5", "1e", "--1", "1__0", True]
)
def test_b17_timestamps_refused(api: Api, value: Any) -> None:
    answers(api.create(timestamp=value), 422, invalid({"timestamp": ["invalid_format"]}))
    assert api.count() == 0


def test_b17_a_time_that_the_database_does_not_take_is_lagos_own_failure(api: Api) -> None:
    for value in ("1e30", 10**15, 10**13):
        answers(api.create(timestamp=value), 500, {"status": 500, "error": "Internal Server Error"})
    answers(api.create(properties={"a": "b\0"}), 500, {"status": 500, "error": "Internal Server Error"})
    answers(api.create(transaction_id="a\0b"), 422, invalid({"timestamp": ["invalid_format"]}))
    assert api.create().status_code == 200  # and the next request is served


@pytest.mark.parametrize(
    ("value", "shown"),
    [(..., None), (None, None), ("100", "100.0"), (100, "100.0"), ("abc", "0.0"), ("-1.50", "-1.5")],
)
def test_b23_amount(api: Api, value: Any, shown: str | None) -> None:
    assert api.create(precise_total_amount_cents=value).json()["event"]["precise_total_amount_cents"] == shown


@pytest.mark.parametrize("value", [..., None, "not an object", [1]])
def test_b25_properties(api: Api, value: Any) -> None:
    assert api.create(properties=value).json()["event"]["properties"] == {}


def test_b27_unknown_fields_are_dropped(api: Api) -> None:
    event = api.create(external_customer_id="c-1", nonsense=[1]).json()["event"]
    assert "external_customer_id" not in event
    assert "nonsense" not in event


@pytest.mark.parametrize("body", [{}, {"event": {}}, {"event": None}, {"events": []}, []])
def test_b29_no_event(api: Api, body: Any) -> None:
    message = "BadRequest: param is missing or the value is empty or invalid: event"
    answers(api.post("/events", body), 400, {"status": 400, "error": message})


def test_b29_not_json(api: Api) -> None:
    broken = api.client.post("/events", content=b"{", headers={"content-type": "application/json"})
    assert (broken.status_code, broken.content) == (400, b"")
    untyped = api.client.post("/events", content=b'{"event":{"transaction_id":"t"}}')
    assert untyped.json()["error"].startswith("BadRequest: param is missing")


def test_b30_b31_expression(api: Api) -> None:
    api.organization.add_billable_metric(
        "sum", field_name="value", expression="event.properties.a + event.properties.b"
    )
    event = api.create(code="sum", properties={"a": "1", "b": "2"}).json()["event"]
    assert event["properties"] == {"a": "1", "b": "2", "value": "3.0"}
    failed = api.create(code="sum", transaction_id="t-2", properties={"a": "1"})
    answers(failed, 422, invalid("expression_evaluation_failed: Variable: b not found"))
    assert api.count() == 1


def test_b32_e4_d18_deleted_events_are_hidden_and_keep_their_id(api: Api) -> None:
    assert api.create().status_code == 200
    api.organization.soft_delete_events("llm_usage")
    answers(api.create(), 422, invalid(EXISTS))
    answers(api.get("/events/t-1"), 404, not_found("event_not_found"))
    assert api.get("/events").json()["events"] == []


# C


def test_c1_one_event(api: Api) -> None:
    response = api.create_batch({})
    assert (response.status_code, list(response.json())) == (200, ["events"])
    assert response.json()["events"] == [api.get("/events/t-1").json()["event"]]


def test_c2_three_events_in_order(api: Api) -> None:
    ids = ["z", "a", "m"]
    events = api.create_batch(*({"transaction_id": name} for name in ids)).json()["events"]
    assert [event["transaction_id"] for event in events] == ids
    assert all(event["lago_id"] and event["created_at"] for event in events)
    assert api.count() == 3


@pytest.mark.parametrize("body", [{"events": []}, {}, {"events": None}, {"event": {}}])
def test_c3_no_events(api: Api, body: Any) -> None:
    answers(api.post("/events/batch", body), 422, invalid({"events": ["no_events"]}))


def test_c4_c5_a_hundred_and_no_more(api: Api) -> None:
    many = [{"transaction_id": f"t-{number}"} for number in range(101)]
    answers(api.create_batch(*many), 422, invalid({"events": ["too_many_events"]}))
    assert api.count() == 0
    assert len(api.create_batch(*many[:100]).json()["events"]) == 100
    assert api.count() == 100


def test_c6_a_bad_timestamp(api: Api) -> None:
    response = api.create_batch({}, {"transaction_id": "t-2", "timestamp": "abc"})
    answers(response, 422, invalid({"1": {"timestamp": ["invalid_format"]}}))
    assert api.count() == 0


@pytest.mark.parametrize("index", [0, 2, 4])
def test_c7_one_is_stored_already(api: Api, index: int) -> None:
    assert api.create(transaction_id=f"t-{index}").status_code == 200
    response = api.create_batch(*({"transaction_id": f"t-{number}"} for number in range(5)))
    answers(response, 422, invalid({str(index): EXISTS}))
    assert api.count() == 1


def test_c8_c21_all_are_stored_already(api: Api) -> None:
    batch = [{"transaction_id": f"t-{number}"} for number in range(12)]
    assert api.create_batch(*batch).status_code == 200
    answers(api.create_batch(*batch), 422, invalid({str(number): EXISTS for number in range(12)}))
    assert api.count() == 12


def test_c9_twice_in_one_batch(api: Api) -> None:
    answers(api.create_batch({}, {}, {"transaction_id": "t-2"}), 422, invalid({"1": EXISTS}))
    assert api.count() == 0


def test_c9_twice_without_subscription(api: Api) -> None:
    free = {"external_subscription_id": None}
    answers(api.create_batch(free, free), 422, invalid({"1": EXISTS}))
    assert api.count() == 0


def test_c13_one_id_under_two_subscriptions(api: Api) -> None:
    pair = ({}, {"external_subscription_id": "sub-2"})
    answers(api.create_batch(*pair), 422, invalid({"1": EXISTS}))
    assert api.count() == 0
    assert [api.create(**change).status_code for change in pair] == [200, 200]


def test_c15_validation_hides_duplicates(api: Api) -> None:
    assert api.create().status_code == 200
    response = api.create_batch({}, {"transaction_id": ""}, {"transaction_id": "t-3", "timestamp": "abc"})
    details = {
        "1": {"transaction_id": ["value_is_mandatory"]},
        "2": {"timestamp": ["invalid_format"]},
    }
    answers(response, 422, invalid(details))
    assert api.count() == 1


def test_c17_expression(api: Api) -> None:
    api.organization.add_billable_metric("sum", field_name="value", expression="event.properties.foo * 2")
    response = api.create_batch({"code": "sum"}, {"transaction_id": "t-2"})
    answers(response, 422, invalid({"0": "expression_evaluation_failed: Variable: foo not found"}))
    assert api.count() == 0


def test_c20_customer_is_ignored(api: Api) -> None:
    assert "external_customer_id" not in api.create_batch({"external_customer_id": "c"}).json()["events"][0]


# D


def listed(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [event["transaction_id"] for event in response.json()["events"]]


def fill(api: Api, *times: Any, **changes: Any) -> None:
    for number, moment in enumerate(times):
        assert api.create(transaction_id=f"t-{number}", timestamp=moment, **changes).status_code == 200


def test_d1_d16_newest_first(api: Api) -> None:
    fill(api, 100, 300, 200)
    response = api.get("/events")
    assert listed(response) == ["t-1", "t-2", "t-0"]
    assert response.json()["meta"] == {
        "current_page": 1,
        "next_page": None,
        "prev_page": None,
        "total_pages": 1,
        "total_count": 3,
    }
    assert response.json()["events"][0] == api.get("/events/t-1").json()["event"]


def test_d2_pages(api: Api) -> None:
    fill(api, 100, 200)
    meta = {"total_pages": 2, "total_count": 2}
    first, second = (api.get("/events", page=page, per_page=1) for page in (1, 2))
    assert (listed(first), listed(second)) == (["t-1"], ["t-0"])
    assert first.json()["meta"] == {"current_page": 1, "next_page": 2, "prev_page": None, **meta}
    assert second.json()["meta"] == {"current_page": 2, "next_page": None, "prev_page": 1, **meta}


def test_d3_page_length(api: Api) -> None:
    for start in (0, 100):
        api.create_batch(*({"transaction_id": f"t-{start + number}"} for number in range(100)))
    assert len(listed(api.get("/events"))) == 100
    assert len(listed(api.get("/events", per_page=1_000))) == 200


def test_d4_nothing(api: Api) -> None:
    meta = {"current_page": 0, "next_page": None, "prev_page": None, "total_pages": 0, "total_count": 0}
    answers(api.get("/events", code="none"), 200, {"events": [], "meta": meta})


def test_d6_d7_code_and_subscription(api: Api) -> None:
    fill(api, 100)
    api.create(transaction_id="other-code", code="other")
    api.create(transaction_id="other-sub", external_subscription_id="sub-2")
    assert listed(api.get("/events", code="other")) == ["other-code"]
    assert listed(api.get("/events", external_subscription_id="sub-2")) == ["other-sub"]
    assert listed(api.get("/events", external_subscription_id="sub-")) == []


@pytest.mark.parametrize(
    ("params", "shown"),
    [
        ({"timestamp_from": "2026-01-31"}, ["t-2", "t-1", "t-0"]),
        ({"timestamp_to": "2026-01-31"}, ["t-0"]),  # a bare date is its midnight
        ({"timestamp_from": "2026-01-31T12:00:00Z"}, ["t-2", "t-1"]),
        ({"timestamp_to": "2026-01-31T12:00:00.000Z"}, ["t-1", "t-0"]),
        ({"timestamp_to": "2026-01-31T11:59:59.999Z"}, ["t-0"]),
        ({"timestamp_from": "2026-01-31T14:00:00+02:00"}, ["t-2", "t-1"]),
        ({"timestamp_from": "2026-01-31T12:00:00", "timestamp_to": "20260131T120000Z"}, ["t-1"]),
    ],
)
def test_d8_window_is_closed_on_both_ends(api: Api, params: dict[str, str], shown: list[str]) -> None:
    midnight = int(datetime.fromisoformat("2026-01-31T00:00:00+00:00").timestamp())
    fill(api, midnight, midnight + 43_200, midnight + 86_399)
    assert listed(api.get("/events", **params)) == shown


@pytest.mark.parametrize("name", ["timestamp_from", "timestamp_to"])
@pytest.mark.parametrize(
    "value", ["garbage", "1" * 200, "1700000000", "2026-01-01 10:00:00", "2026-13-01", "2026-01-01T25:00:00Z", ""]
)
def test_d9_d10_dates_refused(api: Api, name: str, value: str) -> None:
    answers(api.get("/events", **{name: value}), 422, invalid({name: ["invalid_date"]}))


def test_d12_from_the_subscriptions_start(api: Api) -> None:
    fill(api, 1_795_000_000, 1_795_000_100)
    for second in (0, 50):
        api.organization.add_subscription(
            "sub-1", started_at=datetime.fromisoformat(f"2026-11-18T11:07:{second:02}+00:00")
        )
    params = {"timestamp_from_started_at": "true", "external_subscription_id": "sub-1"}
    assert listed(api.get("/events", **params)) == ["t-1"]


def test_d16_ties_are_stable(api: Api) -> None:
    names = [f"t-{number:02}" for number in range(30)]
    api.create_batch(*({"transaction_id": name} for name in reversed(names)))
    pages = [listed(api.get("/events", page=page, per_page=7)) for page in range(1, 6)]
    assert list(itertools.chain.from_iterable(pages)) == names


# E


def test_e1_e2_e6_find(api: Api, lagos: Lagos) -> None:
    created = api.create().json()
    answers(api.get("/events/t-1"), 200, created)
    answers(api.get("/events/t-2"), 404, not_found("event_not_found"))
    answers(lagos.organization("postgres").get("/events/t-1"), 404, not_found("event_not_found"))


def test_e1_ids_are_percent_encoded(api: Api) -> None:
    api.create(transaction_id="a/b?c#d é")
    assert api.get("/events/a%2Fb%3Fc%23d%20%C3%A9").json()["event"]["transaction_id"] == "a/b?c#d é"
    answers(api.get("/events/a/b"), 404, not_found("resource_not_found"))


def test_batches_of_the_same_events_do_not_deadlock(api: Api) -> None:
    """Both wait for a third sender of `m`, and would hold what the other needs if they stored in their own orders."""
    batches = [[{"transaction_id": name} for name in names] for names in ("amb", "bma")]
    with psycopg.connect(api.stand_in.database_url) as third, ThreadPoolExecutor(2) as pool:
        third.execute(
            """INSERT INTO lago.events (organization_id, external_subscription_id, transaction_id, code, "timestamp",
                properties, created_at) VALUES (%s, 'sub-1', 'm', 'c', now(), '{}', now())""",
            (api.organization.id,),
        )
        answered = [pool.submit(api.create_batch, *batch) for batch in batches]
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        while api.stand_in.execute(waiting) != [(2,)]:
            assert not any(answer.done() for answer in answered)
        third.rollback()
        assert sorted(answer.result().status_code for answer in answered) == [200, 422]
    assert api.count() == 3


def test_concurrent_batches_of_the_same_events(api: Api) -> None:
    """Two senders of one batch in different orders: one stores it, the other hears that all of it is there."""
    changes = [{"transaction_id": f"t-{number}"} for number in range(100)]
    bodies = [{"events": [{**EVENT, **change} for change in batch]} for batch in (changes, changes[::-1]) * 4]
    with ThreadPoolExecutor(8) as pool:
        codes = sorted(pool.map(lambda body: api.post("/events/batch", body).status_code, bodies))
    assert codes == [200] + [422] * 7
    assert api.count() == 100

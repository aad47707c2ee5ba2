"""From Lago's JSON to the EVENTS frame: every value as Lago's store takes it, nothing present taken for absent."""

from __future__ import annotations

import json
import math
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconcile.domain.frames import EVENTS, check
from reconcile.errors import LagoFault
from reconcile.lago.events import EventShape, decoder, frame

OWN = "llm_" + "0123456789abcdef" * 2
COST = EventShape(field_name="response_cost", aggregation="sum_agg")
CLICKHOUSE = EventShape(field_name="response_cost", aggregation="sum_agg", store="clickhouse")
NUMBERS = ("response_cost", "prompt_tokens", "completion_tokens", "total_tokens")


def listed(properties: Any, **fields: Any) -> dict[str, Any]:
    return {
        "lago_id": "id",
        "transaction_id": "t",
        "external_subscription_id": "s",
        "code": "llm",
        "timestamp": "2026-11-20T10:00:00.123Z",
        "properties": properties,
    } | fields


def decoded(events: list[Any], shape: EventShape = COST, **options: Any) -> pd.DataFrame:
    page = decoder(shape).page(json.dumps({"events": events, "meta": {}}).encode(), "llm", **options)
    found = frame([page.columns])
    check(found, EVENTS)
    return found


def one(properties: Any, shape: EventShape = COST, **fields: Any) -> dict[str, Any]:
    (row,) = decoded([listed(properties, **fields)], shape).to_dict("records")
    return row


def test_a_full_event() -> None:
    properties = {
        "model": "gpt-4o",
        "response_cost": "0.0000051",
        "prompt_tokens": "10",
        "completion_tokens": 4,
        "total_tokens": 14.0,
        "request_id": "chatcmpl-1",
    }
    assert one(properties, transaction_id=OWN) == {
        "transaction_id": OWN,
        "subscription_id": "s",
        "charge_id": "s",
        "model": "gpt-4o",
        "request_id": "chatcmpl-1",
        "time_ms": 1795168800123,
        "response_cost": 5.1e-06,
        "prompt_tokens": 10.0,
        "completion_tokens": 4.0,
        "total_tokens": 14.0,
        "malformed": False,
        "counted": True,
        "added": 5.1e-06,
    }


def test_no_parts_and_an_empty_page_have_the_same_columns() -> None:
    check(frame([]), EVENTS)
    assert decoded([]).empty


def test_parts_are_joined_in_order() -> None:
    pages = [
        decoder(COST).page(json.dumps({"events": events}).encode(), "llm").columns
        for events in (
            [listed({"model": "b"}, external_subscription_id="y"), listed({"model": "a"})],
            [],
            [listed({"model": "c"}), listed({"model": "b"}, external_subscription_id="x")],
        )
    ]
    found = frame(pages)
    check(found, EVENTS)
    assert found["model"].tolist() == ["b", "a", "c", "b"]
    assert found["subscription_id"].tolist() == found["charge_id"].tolist() == ["y", "s", "s", "x"]


# --- what is there


@pytest.mark.parametrize("properties", [{}, None, [], "x", 5])
@pytest.mark.parametrize("shape", [COST, CLICKHOUSE], ids=["postgres", "clickhouse"])
def test_a_missing_property_says_nothing(properties: Any, shape: EventShape) -> None:
    row = one(properties, shape)
    assert all(math.isnan(row[name]) for name in NUMBERS)
    assert row["model"] == row["request_id"] == ""
    assert not row["malformed"]


@pytest.mark.parametrize("value", [None, ""])
@pytest.mark.parametrize("shape", [COST, CLICKHOUSE], ids=["postgres", "clickhouse"])
def test_null_and_empty_are_a_cost_of_zero_and_no_tokens(value: Any, shape: EventShape) -> None:
    row = one(dict.fromkeys((*NUMBERS, "model"), value), shape)
    assert row["response_cost"] == 0.0
    assert all(math.isnan(row[name]) for name in NUMBERS[1:])
    assert row["model"] == ""
    assert not row["malformed"]


def test_names_are_tried_in_order() -> None:
    shape = EventShape(response_cost=("cost", "response_cost"), model=("llm", "model"))
    events = [
        {"cost": "1", "response_cost": "2", "llm": "a", "model": "b"},
        {"response_cost": "2", "model": "b"},
        {"cost": None, "response_cost": 3, "llm": ""},
        {"cost": "x", "response_cost": 3, "llm": None, "model": "c"},
        {"cost": "", "response_cost": "y"},
        {"cost": None},
        {"cost": 0, "response_cost": 7},
        {},
        {"cost": 1, "response_cost": "x"},
    ]
    found = decoded([listed(one) for one in events], shape)
    assert found["response_cost"].fillna(-1).tolist() == [1, 2, 3, -1, -1, 0, 0, -1, 1]
    assert found["malformed"].tolist() == [False, False, False, True, True, False, False, False, False]
    assert found["model"].tolist() == ["a", "b", "", "c", "", "", "", "", ""]


def test_the_request_is_told_by_our_own_events_alone() -> None:
    shape = EventShape(request_id=("req", "request_id"))
    events = [
        listed({"request_id": "r1"}, transaction_id=OWN),
        listed({"request_id": "r2"}, transaction_id=OWN + "0"),
        listed({"request_id": "r3"}, transaction_id="llm_x"),
        listed({"request_id": "r4"}, transaction_id=OWN.upper()),
        listed({"req": "r5", "request_id": "r6"}, transaction_id=OWN),
        listed({"req": "", "request_id": 7}, transaction_id=OWN),
        listed({}, transaction_id=OWN),
    ]
    assert decoded(events, shape)["request_id"].tolist() == ["r1", "", "", "", "r5", "7", ""]


# --- numbers


@pytest.mark.parametrize(
    "value",
    [
        "1e-05",
        ".5",
        "5.",
        "+1",
        " 1",
        "1 ",
        "1,000",
        "1,2",
        "1_000",
        "NaN",
        "inf",
        "١",
        "1\n",
        "abc",
        True,
        [1],
        {"a": 1},
    ],
)
@pytest.mark.parametrize("field", ["response_cost", "completion_tokens"])
@pytest.mark.parametrize("beside", [[], ["0.5"], [0.5], ["0.5", 1, None]], ids=str)
def test_what_the_postgres_store_does_not_count_is_malformed(field: str, value: Any, beside: list[Any]) -> None:
    found = decoded([listed({field: other}) for other in (value, *beside)])
    assert found["malformed"].tolist() == [True] + [False] * len(beside)
    assert math.isnan(found[field][0])
    assert found[field].notna().sum() == sum(other is not None or field == "response_cost" for other in beside)
    assert not found["counted"][0]
    assert math.isnan(found["added"][0])


@pytest.mark.parametrize("value", [0, 12, -3, 1e-05, "0", "-2.5", "0.00001", "12", "007", "12345678901234567890"])
def test_what_the_postgres_store_counts(value: Any) -> None:
    row = one({"response_cost": value})
    assert row["response_cost"] == row["added"] == float(value)
    assert row["counted"]
    assert not row["malformed"]


@pytest.mark.parametrize("number", ["9" * 310, "9" * 5_000, "1e400", "NaN", "-Infinity"], ids=lambda text: text[:9])
def test_a_number_that_no_double_holds_is_malformed(number: str) -> None:
    events = [listed({"response_cost": value}) for value in ("9" * 400, 1.5, "here")]
    body = json.dumps({"events": events}).replace('"here"', number).encode()
    found = frame([decoder(COST).page(body, "llm").columns])
    assert found["malformed"].tolist() == [True, False, True]
    assert found["response_cost"].fillna(-1).tolist() == [-1, 1.5, -1]


# What a ClickHouse store lists, whether Lago's Decimal(38, 26) reads it, and as what.
DECIMALS: list[tuple[Any, float | None]] = [
    ("12", 12.0),
    ("0.5", 0.5),
    ("-2.5", -2.5),
    ("0.00001", 0.00001),
    ("5.1e-7", 5.1e-07),
    ("1e-05", 1e-05),
    ("1E5", 1e5),
    ("1.2345678e+07", 12345678.0),
    ("+1", 1.0),
    (".5", 0.5),
    ("5.", 5.0),
    ("1.2.3", 1.23),
    ("999999999999.5", 999999999999.5),
    ("1000000000000", None),
    ("1e12", None),
    ("-1000000000000", None),
    ("12345678901234567890", None),
    ("", None),
    ("abc", None),
    ("true", None),
    ('{"a":1}', None),
    (" 1", None),
    ("1 ", None),
    ("1,000", None),
    ("1_000", None),
    ("NaN", None),
    ("1.2.x", None),
]


@pytest.mark.parametrize(("text", "number"), DECIMALS)
@pytest.mark.parametrize("beside", [[], ["0.5"], ["1e-9", "x"]], ids=str)
def test_what_the_clickhouse_store_counts(text: str, number: float | None, beside: list[str]) -> None:
    events = [listed({"response_cost": value}) for value in (text, *beside)]
    found = decoded(events, CLICKHOUSE)
    assert found["counted"].all()
    assert found["added"][0] == (number or 0.0)
    for aggregation in ("max_agg", "latest_agg", "weighted_sum_agg"):
        shape = EventShape(field_name="response_cost", aggregation=aggregation, store="clickhouse")
        found = decoded(events, shape)
        assert found["counted"][0] == (number is not None)
        assert found["added"].fillna(-99)[0] == (-99 if number is None else number)


@pytest.mark.parametrize("text", ["5.1e-7", "1e-05", "+1", ".5", "5.", "12345678901234567890", "1e21"])
def test_a_clickhouse_store_lists_numbers_in_any_notation(text: str) -> None:
    row = one({"response_cost": text, "prompt_tokens": text}, CLICKHOUSE)
    assert row["response_cost"] == row["prompt_tokens"] == float(text)
    assert not row["malformed"]


@pytest.mark.parametrize("text", ["abc", " 1", "1_000", "nan", "1,000", "1.2.3", "true"])
def test_what_is_no_number_is_malformed_on_clickhouse_too(text: str) -> None:
    row = one({"prompt_tokens": text}, CLICKHOUSE)
    assert row["malformed"]
    assert math.isnan(row["prompt_tokens"])


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_come_through_to_the_last_bit(value: float) -> None:
    found = decoded([listed({"response_cost": value}), listed({"response_cost": f"{value:.1080f}"})])
    assert found["response_cost"].tolist() == [value, float(f"{value:.1080f}")]
    found = decoded([listed({"response_cost": repr(value)}), listed({"response_cost": "1"})], CLICKHOUSE)
    assert found["response_cost"].tolist() == [value, 1.0]


@settings(deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(["", "0", "-0", "1e5", "1E-5", "01", "-1.5", "null", "[1]", '"1"', "1,2", ",", " 1", None]),
            st.floats(allow_nan=False, allow_infinity=False),
            st.integers(-(10**20), 10**20),
            st.text(alphabet="0123456789.-+eE, ", max_size=5),
        ),
        max_size=6,
    ),
    st.sampled_from([COST, CLICKHOUSE]),
)
def test_a_page_reads_as_its_events_read_alone(values: list[Any], shape: EventShape) -> None:
    together = decoded([listed({"response_cost": value}) for value in values], shape)
    alone = [decoded([listed({"response_cost": value})], shape) for value in values]
    if alone:
        pd.testing.assert_frame_equal(
            together.astype({name: "str" for name, kind in EVENTS.items() if kind == "category"}),
            pd.concat(alone, ignore_index=True).astype({n: "str" for n, kind in EVENTS.items() if kind == "category"}),
        )


# --- counted


@pytest.mark.parametrize("store", ["postgres", "clickhouse"])
def test_what_a_unique_count_counts(store: str) -> None:
    shape = EventShape(field_name="user", aggregation="unique_count_agg", store=store)
    values = ({}, {"user": None}, {"user": ""}, {"user": "u"}, {"user": 5}, {"user": "1.0"}, {"user": True})
    found = decoded([listed(properties) for properties in values], shape)
    assert found["counted"].tolist() == [False, False, False, True, True, True, True]
    assert found["added"].isna().all()
    assert not found["malformed"].any()


@pytest.mark.parametrize("store", ["postgres", "clickhouse"])
@pytest.mark.parametrize(
    ("aggregation", "adds"), [("count_agg", 1.0), ("custom_agg", None), (None, None), ("new_agg", None)]
)
def test_what_counts_every_event(store: str, aggregation: str | None, adds: float | None) -> None:
    shape = EventShape(aggregation=aggregation, store=store)
    found = decoded([listed({}), listed({"response_cost": "abc"})], shape)
    assert found["counted"].all()
    assert found["added"].fillna(-1).tolist() == [-1 if adds is None else adds] * 2


def test_the_metric_may_add_up_a_property_of_its_own() -> None:
    shape = EventShape(field_name="value", aggregation="sum_agg")
    found = decoded([listed({"response_cost": 1, "value": "2"}), listed({"response_cost": 1})], shape)
    assert found["counted"].tolist() == [True, False]
    assert found["added"].fillna(-1).tolist() == [2, -1]
    found = decoded(
        [listed({"value": "1.2.3"}), listed({})],
        EventShape(field_name="value", aggregation="sum_agg", store="clickhouse"),
    )
    assert found["added"].tolist() == [1.23, 0]


# --- times


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-20T10:00:00Z", "2026-11-20T10:00:00Z"),
        ("2026-11-20T10:00:00.1Z", "2026-11-20T10:00:00.100Z"),
        ("2026-11-20T10:00:00.123999Z", "2026-11-20T10:00:00.123Z"),
        ("2026-11-20T10:00:00.123999999Z", "2026-11-20T10:00:00.123Z"),
        ("2026-11-20T12:00:00.5+02:00", "2026-11-20T10:00:00.500Z"),
        ("2026-11-20T10:00:00.5", "2026-11-20T10:00:00.500Z"),
        ("1969-12-31T23:59:59.999900Z", "1969-12-31T23:59:59.999Z"),
    ],
)
def test_timestamps(text: str, expected: str) -> None:
    found = decoded([listed({}, timestamp=text), listed({})])
    assert found["time_ms"].tolist() == [pd.Timestamp(expected).value // 10**6, 1795168800123]


@pytest.mark.parametrize("value", [None, "", "yesterday\nor so", 1795168800, ["x"], {}, "2026-13-01T00:00:00Z"])
def test_an_event_without_a_time_is_a_fault_of_one_line(value: Any) -> None:
    with pytest.raises(LagoFault, match="timestamp") as caught:
        decoded([listed({}), listed({}, timestamp=value)])
    assert "\n" not in str(caught.value)


# --- filters, and whatever else may come


def test_events_that_were_not_asked_for_are_dropped() -> None:
    events = [listed({}), listed({}, code="other"), listed({}, external_subscription_id="x"), listed({}, code=None)]
    assert len(decoded(events)) == 2
    assert decoded(events, subscription_id="x")["subscription_id"].tolist() == ["x"]


def test_null_is_no_text_and_odd_values_become_text() -> None:
    events = [
        listed({"model": 5}, external_subscription_id=None, lago_id=None),
        listed({"model": {"a": "ü"}}, external_subscription_id=7, transaction_id=7),
        listed({"model": True}, external_subscription_id=["x"], transaction_id=None),
        listed({"model": "\x00"}),
    ]
    found = decoded(events)
    assert found["subscription_id"].tolist() == ["", "7", '["x"]', "s"]
    assert found["transaction_id"].tolist() == ["t", "7", "", "t"]
    assert found["model"].tolist() == ["5", '{"a":"ü"}', "true", "\ufffd"]


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"<html>", b'{"events":', b"\xff"])
def test_what_is_no_object_is_a_fault(body: bytes) -> None:
    with pytest.raises(LagoFault, match="no JSON object"):
        decoder(COST).page(body, "llm")


@pytest.mark.parametrize("events", [None, {}, "x", [], [5, None, [], "x"]])
def test_a_list_without_events_is_empty(events: Any) -> None:
    page = decoder(COST).page(json.dumps({"events": events, "meta": "x"}).encode(), "llm")
    assert (len(page.columns), page.lago_ids) == (0, [])
    assert (page.total, page.pages, page.next_page) == (None, None, None)


def test_half_of_a_surrogate_pair() -> None:
    body = json.dumps({"events": [listed({"model": "x"}, transaction_id="a")]}).replace('"x"', '"\\ud800"').encode()
    assert frame([decoder(COST).page(body, "llm").columns])["model"].tolist() == ["\ufffd"]


def test_a_property_with_a_name_that_no_decoder_takes() -> None:
    with pytest.raises(LagoFault, match="cannot be read"):
        decoder(EventShape(field_name='a"b'))


def test_what_the_meta_says() -> None:
    meta = {"total_count": "7", "total_pages": 2.0, "next_page": None, "prev_page": True}
    page = decoder(COST).page(json.dumps({"events": [listed({})], "meta": meta}).encode(), "llm")
    assert (page.total, page.pages, page.next_page) == (7, 2, None)
    assert page.lago_ids == ["id"]


SCALARS = st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5)
ODD = SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(st.text(max_size=3), SCALARS, max_size=2)
PROPERTIES = st.dictionaries(st.sampled_from([*NUMBERS, "model", "request_id"]), ODD, max_size=4)
EVENT = st.fixed_dictionaries(
    {"code": st.just("llm"), "timestamp": st.just("2026-11-20T10:00:00Z")},
    optional={
        "transaction_id": ODD | st.just(OWN),
        "external_subscription_id": ODD,
        "lago_id": ODD,
        "properties": ODD | PROPERTIES,
    },
)


@settings(deadline=None)
@given(st.lists(EVENT, max_size=4), st.sampled_from([COST, CLICKHOUSE]))
def test_no_type_crashes(events: list[dict[str, Any]], shape: EventShape) -> None:
    assert len(decoded(events, shape)) == len(events)

"""From Lago's JSON to columns: every value as Lago would count it, nothing present taken for absent."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconcile.errors import LagoFault
from reconcile.lago import events_frame


def listed(properties: Any, **fields: Any) -> dict[str, Any]:
    return {
        "lago_id": "id",
        "transaction_id": "t",
        "external_subscription_id": "s",
        "code": "llm",
        "timestamp": "2026-11-20T10:00:00.123Z",
        "properties": properties,
    } | fields


def test_a_full_event() -> None:
    properties = {
        "model": "gpt-4o",
        "response_cost": "0.0000051",
        "prompt_tokens": "10",
        "completion_tokens": 4,
        "total_tokens": 14.0,
        "request_id": "chatcmpl-1",
    }
    (row,) = events_frame([listed(properties)], {}).to_dict("records")
    assert row == {
        "lago_id": "id",
        "transaction_id": "t",
        "external_subscription_id": "s",
        "code": "llm",
        "timestamp": pd.Timestamp("2026-11-20T10:00:00.123Z"),
        "model": "gpt-4o",
        "response_cost": 5.1e-06,
        "cost_null": False,
        "prompt_tokens": 10.0,
        "completion_tokens": 4.0,
        "total_tokens": 14.0,
        "request_id": "chatcmpl-1",
        "malformed": False,
    }


def test_types() -> None:
    frame = events_frame([listed({})], {})
    assert str(frame["timestamp"].dtype) == "datetime64[ms, UTC]"
    assert {str(frame[name].dtype) for name in ("lago_id", "transaction_id", "model", "request_id")} == {"str"}
    assert frame["cost_null"].dtype == frame["malformed"].dtype == bool
    assert frame["response_cost"].dtype == frame["total_tokens"].dtype == float


@pytest.mark.parametrize("properties", [{}, None, [], "x", {"response_cost": None}])
def test_absent_is_not_malformed(properties: Any) -> None:
    (row,) = events_frame([listed(properties)], {}).to_dict("records")
    # Null is LiteLLM's "no price known"; a cost that is not there at all is not compared.
    assert row["cost_null"] == (properties == {"response_cost": None})
    assert not row["malformed"]
    assert math.isnan(row["response_cost"])
    assert math.isnan(row["prompt_tokens"])
    assert pd.isna(row["model"])


@pytest.mark.parametrize(
    "value",
    ["1e-05", ".5", "+1", " 1", "1,000", "", "1_000", "NaN", "inf", "١", "1\n", True, [1], {"a": 1}, 10**400],
)
@pytest.mark.parametrize("field", ["response_cost", "completion_tokens"])
def test_what_lago_does_not_count_is_malformed(field: str, value: Any) -> None:
    (row,) = events_frame([listed({field: value})], {}).to_dict("records")
    assert row["malformed"]
    assert math.isnan(row[field])
    assert not row["cost_null"]


@pytest.mark.parametrize("value", [0, 12, -3, 1e-05, "0", "-2.5", "0.00001", "12", "007"])
def test_what_lago_counts(value: Any) -> None:
    (row,) = events_frame([listed({"response_cost": value})], {}).to_dict("records")
    assert row["response_cost"] == float(value)
    assert not row["malformed"]
    assert not row["cost_null"]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_come_through_to_the_last_bit(value: float) -> None:
    frame = events_frame([listed({"response_cost": value}), listed({"response_cost": f"{value:.1080f}"})], {})
    assert frame["response_cost"].tolist() == [value, float(f"{value:.1080f}")]


def test_names_are_tried_in_order() -> None:
    names = {"response_cost": ("cost", "response_cost"), "model": ("llm",)}
    events = [
        listed({"cost": "1", "response_cost": "2", "llm": "a", "model": "b"}),
        listed({"response_cost": "2", "model": "b"}),
        listed({"cost": None, "response_cost": 3}),
        listed({"cost": "x", "response_cost": 3}),
    ]
    frame = events_frame(events, names)
    assert frame["response_cost"].fillna(-1).tolist() == [1, 2, 3, -1]
    assert frame["malformed"].tolist() == [False, False, False, True]
    assert frame["model"].fillna("-").tolist() == ["a", "-", "-", "-"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-20T10:00:00Z", "2026-11-20T10:00:00Z"),
        ("2026-11-20T10:00:00.1Z", "2026-11-20T10:00:00.100Z"),
        ("2026-11-20T10:00:00.123999Z", "2026-11-20T10:00:00.123Z"),
        ("2026-11-20T12:00:00.5+02:00", "2026-11-20T10:00:00.500Z"),
        ("1969-12-31T23:59:59.999900Z", "1969-12-31T23:59:59.999Z"),
    ],
)
def test_timestamps(text: str, expected: str) -> None:
    frame = events_frame([listed({}, timestamp=text), listed({})], {})
    assert frame["timestamp"][0] == pd.Timestamp(expected)


@pytest.mark.parametrize("value", [None, "", "yesterday"])
def test_an_event_without_a_time_is_a_fault(value: Any) -> None:
    with pytest.raises(LagoFault, match="timestamp"):
        events_frame([listed({}, timestamp=value), listed({})], {})


def test_null_and_empty_subscription_stay_apart_and_odd_ids_become_text() -> None:
    events = [
        listed({"model": 5}, external_subscription_id=None, lago_id=None),
        listed({}, external_subscription_id="", transaction_id=7),
    ]
    frame = events_frame(events, {})
    assert frame["external_subscription_id"].isna().tolist() == [True, False]
    assert frame["external_subscription_id"][1] == ""
    assert frame["transaction_id"][1] == "7"
    assert frame["model"][0] == "5"
    assert frame["lago_id"].isna().tolist() == [True, False]

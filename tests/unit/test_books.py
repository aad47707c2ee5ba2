"""The books: exact sums in money, totals that are the sum of their lines, and a proof that nothing is missing."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconcile.domain.document import DISCREPANCY_COLUMNS, EVENT_CLASSES, ROW_CLASSES, EventTotals, Group, RowTotals
from reconcile.errors import BooksFault
from reconcile.run.books import Books, billable_spend

DAY_MS = 86_400_000
NOON = int(datetime(2025, 11, 20, 12, tzinfo=UTC).timestamp() * 1000)


def utc_days(times: Any) -> Any:
    return np.asarray(pd.DatetimeIndex(pd.to_datetime(times, unit="ms", utc=True)).date, object)


def rows(*found: dict[str, Any]) -> pd.DataFrame:
    default = {
        "class": "matched",
        "reason": "",
        "charge_id": "team-a",
        "model": "gpt",
        "usage_ms": NOON,
        "spend": 0.1,
        "prompt_tokens": 20,
        "completion_tokens": 10,
        "ambiguous": False,
        "request_id": "r-1",
        "transaction_id": "llm_1",
        "event_cost": float("nan"),
        "detail": "",
    }
    return pd.DataFrame([{**default, **one} for one in found], columns=list(default))


def events(*found: dict[str, Any]) -> pd.DataFrame:
    default = {
        "class": "matched",
        "reason": "",
        "charge_id": "team-a",
        "model": "gpt",
        "time_ms": NOON,
        "cost": 0.1,
        "transaction_id": "t-1",
        "row_request_id": "",
        "row_spend": float("nan"),
    }
    return pd.DataFrame([{**default, **one} for one in found], columns=list(default))


def add_events(books: Books, frame: pd.DataFrame, *outside: bool) -> None:
    books.add_events(frame, paired_outside=np.array(outside or [False] * len(frame)))


def closed(*found: dict[str, Any]) -> Books:
    books = Books(utc_days)
    frame = rows(*found)
    books.read(frame, np.empty(0))
    books.add_rows(frame)
    return books


def test_every_class_is_there() -> None:
    books = Books(utc_days)
    books.check()
    assert books.row_classes() == dict.fromkeys(("total", *ROW_CLASSES), RowTotals())
    assert books.event_classes() == dict.fromkeys(("total", *EVENT_CLASSES), EventTotals())
    assert books.by_charge_id() == books.by_day() == books.by_model() == ()
    assert list(books.discrepancies()) == list(DISCREPANCY_COLUMNS)


def test_money_is_added_up_exactly() -> None:
    """Doubles would give 0.30000000000000004 and lose the smallest price beside the largest."""
    books = closed({"spend": 0.1}, {"spend": 0.2}, {"spend": 1e15}, {"spend": 5.1e-06})
    books.check()
    assert books.row_classes()["matched"].spend == Decimal("1000000000000000.3000051")


@pytest.mark.parametrize("spend", [float("nan"), float("inf"), float("-inf"), -0.5])
def test_a_spend_that_cannot_be_billed_counts_as_nothing(spend: float) -> None:
    assert billable_spend(np.array([spend, 0.25])).tolist() == [0.0, 0.25]
    books = closed({"spend": spend, "class": "rejected", "reason": "invalid_spend"})
    books.check()
    assert books.row_classes()["rejected"] == RowTotals(1, Decimal(0), 20, 10)


@pytest.mark.parametrize(
    "booked",
    [
        (),
        ({"spend": 0.1},),
        ({"spend": 0.1}, {"spend": 0.2}, {"spend": 0.0}),
        ({"spend": 0.1}, {"spend": 0.2000001}),
        ({"spend": 0.1}, {"spend": 0.2, "prompt_tokens": 21}),
    ],
)
def test_books_that_do_not_balance(booked: tuple[dict[str, Any], ...]) -> None:
    books = Books(utc_days)
    books.read(rows({"spend": 0.1}, {"spend": 0.2}), np.empty(0))
    books.add_rows(rows(*booked))
    with pytest.raises(BooksFault, match="the rows do not add up"):
        books.check()


def test_events_have_books_of_their_own() -> None:
    books = Books(utc_days)
    books.read(rows(), np.array([0.1, 0.2, 0.4]))
    add_events(books, events({"cost": 0.1}, {"cost": 0.2, "class": "orphan", "reason": "no_row"}))
    assert not books.settled()
    with pytest.raises(BooksFault, match="the events do not add up"):
        books.check()
    books.set_aside(np.array([0.4]))
    books.check()
    assert books.settled()
    assert books.event_classes()["orphan"] == EventTotals(1, Decimal("0.2"))


def test_groups() -> None:
    books = closed(
        {"charge_id": "team-b", "model": "gpt"},
        {"charge_id": "", "class": "unattributed", "reason": "no_charge_id", "model": ""},
        {"usage_ms": NOON + DAY_MS, "class": "delivered", "reason": "accepted", "model": "llama"},
    )
    line = RowTotals(1, Decimal("0.1"), 20, 10)
    none = {"total": EventTotals()}
    assert books.by_charge_id() == (
        Group({"total": line, "unattributed": line}, none, charge_id=None),
        Group({"total": line, "delivered": line}, none, charge_id="team-a"),
        Group({"total": line, "matched": line}, none, charge_id="team-b"),
    )
    assert [(group.model, sorted(group.rows)) for group in books.by_model()] == [
        (None, ["total", "unattributed"]),
        ("gpt", ["matched", "total"]),
        ("llama", ["delivered", "total"]),
    ]
    assert [(group.day, group.rows["total"].count) for group in books.by_day()] == [
        (date(2025, 11, 20), 2),
        (date(2025, 11, 21), 1),
    ]
    assert [(group.charge_id, group.day) for group in books.by_charge_id_and_day()] == [
        (None, date(2025, 11, 20)),
        ("team-a", date(2025, 11, 21)),
        ("team-b", date(2025, 11, 20)),
    ]
    assert books.reasons[("unattributed", "no_charge_id")] == (1, Decimal("0.1"))


def test_discrepancies_come_largest_money_first_and_each_pair_once() -> None:
    books = closed(
        {"request_id": "small", "class": "missing", "reason": "not_sent", "spend": 0.01},
        {"request_id": "pair", "class": "mismatched", "reason": "cost", "spend": 0.02, "event_cost": 5.0},
        {"request_id": "fine", "spend": 900.0},
    )
    add_events(
        books,
        events(
            {
                "transaction_id": "t-pair",
                "class": "mismatched",
                "reason": "cost",
                "cost": 5.0,
                "row_request_id": "pair",
            },
            {"transaction_id": "t-orphan", "class": "orphan", "reason": "no_row", "cost": 0.5},
            {"transaction_id": "t-edge", "class": "mismatched", "reason": "cost", "cost": 0.25, "row_spend": 0.75},
        ),
        False,
        False,
        True,
    )
    found = books.discrepancies()
    assert found["request_id"].fillna("").tolist() == ["pair", "", "", "small"]
    assert found["transaction_id"].tolist() == ["llm_1", "t-edge", "t-orphan", "llm_1"]
    assert found["event_spend"].fillna(-1).tolist() == [5.0, 0.25, 0.5, -1]
    assert found["row_spend"].fillna(-1).tolist() == [0.02, 0.75, -1, 0.01]


def test_packed_books_stand_for_the_slice() -> None:
    """What was delivered then is matched now, on both sides."""
    books = closed(
        {"class": "delivered", "reason": "accepted", "spend": 0.25},
        {"class": "excluded", "reason": "failure", "spend": 0.0},
        {"class": "unattributed", "reason": "no_charge_id", "charge_id": "", "spend": 0.5, "request_id": "r-9"},
    )
    books.read(rows(), np.array([0.1]))
    add_events(books, events({"cost": 0.1}))
    taken_over = Books(utc_days)
    taken_over.absorb(books.pack([]))
    taken_over.check()
    assert taken_over.settled()
    classes = taken_over.row_classes()
    assert (classes["delivered"].count, classes["matched"]) == (0, RowTotals(1, Decimal("0.25"), 20, 10))
    assert taken_over.event_classes()["matched"] == EventTotals(2, Decimal("0.35"))
    assert taken_over.reasons == {
        ("excluded", "failure"): (1, Decimal(0)),
        ("unattributed", "no_charge_id"): (1, Decimal("0.5")),
    }
    pd.testing.assert_frame_equal(taken_over.discrepancies(), books.discrepancies())
    assert [group.charge_id for group in taken_over.by_charge_id()] == [None, "team-a"]


CLASSES = st.sampled_from(ROW_CLASSES)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "class": CLASSES,
            "reason": st.sampled_from(["", "a", "b"]),
            "charge_id": st.sampled_from(["", "team-a", "team-b"]),
            "model": st.sampled_from(["", "gpt", "llama"]),
            "usage_ms": st.integers(NOON, NOON + 3 * DAY_MS),
            "spend": st.floats(0, 1e6) | st.sampled_from([float("nan"), float("inf"), -1.0]),
            "prompt_tokens": st.integers(0, 10**9),
        }
    ),
    max_size=20,
)


@given(ROWS, st.integers(1, 19))
def test_totals_are_the_sum_of_their_lines_however_they_come(found: list[dict[str, Any]], cut: int) -> None:
    whole, parts = closed(*found), Books(utc_days)
    for part in (found[:cut], found[cut:]):
        frame = rows(*part)
        parts.read(frame, np.empty(0))
        parts.add_rows(frame)
    for books in (whole, parts):
        books.check()
        classes = books.row_classes()
        total = classes.pop("total")
        assert total == sum(classes.values(), RowTotals())
        for groups in (books.by_charge_id(), books.by_model(), books.by_day(), books.by_charge_id_and_day()):
            assert total == sum((group.rows["total"] for group in groups), RowTotals())
    assert whole.row_classes() == parts.row_classes()
    assert whole.by_charge_id_and_day() == parts.by_charge_id_and_day()
    assert whole.reasons == parts.reasons

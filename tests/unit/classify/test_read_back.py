"""What Lago lists of what was sent: compared by ID alone, for `delivered` must mean that it is there and counted."""

from __future__ import annotations

import math
from typing import Any

import pytest

from reconcile.classify import as_rows, compare_by_id
from reconcile.domain.frames import ROWS, check

from .worlds import BASE, CLICKHOUSE, NOT_COUNTED, RULES, Record, events_frame, live, own, row, settle


def sent(*rows: Record) -> Any:
    """The rows as the delivery knows them: verdicts of the classification, in the order given."""
    verdicts = settle(rows, []).rows.set_index("request_id", drop=False).loc[[r["request_id"] for r in rows]]
    made = as_rows(verdicts)
    check(made, ROWS)
    return made


def compared(rows: list[Record], events: list[Record], rules: Any = RULES) -> list[tuple[str, str, float | None]]:
    """Class, reason and cost of the event of each row; None for no cost."""
    kinds, reasons, costs = compare_by_id(sent(*rows), events_frame(events), rules)
    told = zip(kinds.tolist(), reasons.tolist(), costs.tolist(), strict=True)
    return [(kind, reason, None if math.isnan(cost) else cost) for kind, reason, cost in told]


def test_each_row_by_the_event_of_its_own_id() -> None:
    """Their content is the same: only the ID tells which of them is there."""
    rows = [row("r1"), row("r2"), row("r3")]
    events = [own(rows[2]), own(rows[0])]
    assert compared(rows, events) == [("matched", "", 0.25), ("", "", None), ("matched", "", 0.25)]


def test_an_event_of_equal_content_under_another_id_is_not_the_one_that_was_sent() -> None:
    assert compared([row()], [live(), own(row("r2"))]) == [("", "", None)]
    assert compared([row()], [own(row(), "old")]) == [("", "", None)]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"response_cost": 9.0}, ("mismatched", "cost", 9.0)),
        ({"total_tokens": 15.0}, ("mismatched", "tokens", 0.25)),
        ({"time_ms": BASE - 2}, ("mismatched", "timestamp", 0.25)),
        ({"subscription_id": "b"}, ("misdirected", "other_subscription", 0.25)),
        (NOT_COUNTED, ("unbilled", "not_counted", 0.25)),
    ],
)
def test_what_stands_there_and_is_not_what_was_sent(changes: Record, expected: tuple[str, str, float]) -> None:
    assert compared([row()], [own(row()) | changes]) == [expected]


def test_of_two_events_of_one_id_the_one_that_was_sent_counts() -> None:
    events = [own(row(), time_ms=BASE - 40, response_cost=7.0), own(row())]
    for listed in (events, events[::-1]):
        assert compared([row()], listed, CLICKHOUSE) == [("matched", "", 0.25)]


def test_nothing_was_listed() -> None:
    assert compared([row()], []) == [("", "", None)]

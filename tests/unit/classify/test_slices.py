"""Where a slice ends, by hand: what can be paired on its own is settled, what could still be paired waits."""

from __future__ import annotations

import pytest

from .worlds import (
    BASE,
    NAN,
    Record,
    live,
    own,
    row,
    settle,
    settle_in_slices,
    told_events,
    told_rows,
)


def same_in_slices(rows: list[Record], events: list[Record]) -> dict[str, str]:
    """The class of each row; the same for the whole and for slices that end anywhere."""
    whole = settle(rows, events)
    for horizon in (-1, 1, 3, 6, 9, 50):
        parts = settle_in_slices(rows, events, [BASE + horizon])
        assert told_rows(*parts) == told_rows(whole)
        assert told_events(*parts) == told_events(whole)
    return {name: str(told["class"]) for name, told in told_rows(whole).items()}


def test_equal_rows_far_apart_do_not_wait_for_one_another() -> None:
    rows = [row("early"), row("late", at=45)]
    first, last = settle_in_slices(rows, [live(at=46)], [BASE + 50])
    assert {name: told["class"] for name, told in told_rows(first).items()} == {"early": "missing"}
    assert {name: told["class"] for name, told in told_rows(last).items()} == {"late": "matched_live"}


def test_an_event_under_another_name_of_the_model_that_has_its_row_by_id_binds_nothing() -> None:
    rows = [row("r1"), row("r2", at=2, spend=0.5)]
    events = [own(rows[0], model="chat"), live(at=4, response_cost=0.5)]
    assert same_in_slices(rows, events) == {"r1": "matched", "r2": "matched_live"}


def test_a_row_without_model_and_amount_waits_for_nobody() -> None:
    rows = [row("odd", model="", model_group="", spend=NAN), row("r2", at=2)]
    assert same_in_slices(rows, [live(at=4)]) == {"odd": "rejected", "r2": "matched_live"}


def test_a_row_without_a_model_that_has_its_event_explains_no_other() -> None:
    rows = [row("bare", model="", model_group=""), row("r2", at=2, spend=0.5)]
    events = [own(rows[0]), live(at=4, response_cost=0.7)]
    assert same_in_slices(rows, events) == {"bare": "matched", "r2": "mismatched"}


def test_the_least_cost_without_any_tokens_is_content_too() -> None:
    """Nothing is compared but the cost and three counts of 0; a row that went out before its event is read is billed
    twice."""
    nothing: Record = dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), 0)
    event = live(at=4, subscription_id="b", model="", **nothing)
    assert same_in_slices([row(**nothing), row("r2", at=2, spend=7.0)], [event]) == {
        "r1": "misdirected",
        "r2": "missing",
    }


@pytest.mark.parametrize("changes", [{"subscription_id": "b", "response_cost": 0.7}, {"subscription_id": ""}])
def test_an_event_that_has_nothing_in_common_with_a_row_does_not_hold_it(changes: Record) -> None:
    assert same_in_slices([row()], [live(at=2, **changes)]) == {"r1": "missing"}

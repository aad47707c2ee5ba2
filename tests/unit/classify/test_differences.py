"""What people are told about an event beside a row: which of its values differ, by the comparison that pairs them."""

from __future__ import annotations

from typing import Any

import pytest

from reconcile.classify.differences import differences

from .worlds import NAN, RULES, events_frame, live, row, rows_frame


def differing(event: dict[str, Any], **changes: Any) -> tuple[str, ...]:
    (found,) = differences(rows_frame([row(**changes)]), events_frame([live(**event)]), RULES)
    return found


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({}, ()),
        ({"subscription_id": "b"}, ("subscription",)),
        ({"response_cost": 0.26}, ("cost",)),
        ({"response_cost": 0.25 * (1 + 1e-10)}, ()),
        ({"model": "gpt-3"}, ("model",)),
        ({"prompt_tokens": 11.0}, ("tokens",)),
        ({"total_tokens": 15.0, "response_cost": 0.0}, ("cost", "tokens")),
        # What the event does not say does not differ, and each of the row's names will do.
        ({"response_cost": NAN, "model": "", "prompt_tokens": NAN, "completion_tokens": NAN, "total_tokens": NAN}, ()),
        ({"model": "chat"}, ()),
        ({"prompt_tokens": NAN, "total_tokens": 15.0}, ("tokens",)),
    ],
)
def test_each_value(event: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert differing(event) == expected


def test_a_row_without_a_model_equals_any() -> None:
    assert differing({"model": "gpt-3"}, model="", model_group="") == ()


def test_counts_of_nothing_are_counts() -> None:
    nothing = dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), 0)
    assert differing({name: float(count) for name, count in nothing.items()}, **nothing) == ()
    assert differing({}, **nothing) == ("tokens",)
    assert differing({"total_tokens": 0.5}, **nothing) == ("tokens",)


def test_events_in_their_order() -> None:
    events = events_frame([live("e1", response_cost=9.0), live("e2"), live("e3", subscription_id="b")])
    assert differences(rows_frame([row()]), events, RULES) == [("cost",), (), ("subscription",)]
    assert differences(rows_frame([row()]), events.iloc[:0], RULES) == []

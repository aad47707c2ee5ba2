"""Intervals of time: joined, cut at a grid, taken away."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from reconcile.domain.intervals import covers, merged, on_grid, without
from reconcile.domain.window import Window

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def at(start: int, end: int) -> Window:
    return Window(BEGIN + start * MINUTE, BEGIN + end * MINUTE)


windows = st.tuples(st.integers(0, 100), st.integers(1, 30)).map(lambda one: at(one[0], one[0] + one[1]))


def minutes(found: list[Window]) -> set[int]:
    return {minute for minute in range(200) if covers(found, BEGIN + minute * MINUTE)}


@given(st.lists(windows, max_size=10))
def test_merging_keeps_the_time_and_leaves_gaps_between(given_windows: list[Window]) -> None:
    joined = merged(given_windows)
    assert minutes(joined) == minutes(given_windows)
    assert all(one.end < other.start for one, other in itertools.pairwise(joined))


@given(windows, st.lists(windows, max_size=10))
def test_taking_away(window: Window, taken: list[Window]) -> None:
    left = without(window, taken)
    assert minutes(left) == minutes([window]) - minutes(taken)
    assert all(one.end <= other.start for one, other in itertools.pairwise(left))


@given(windows, st.integers(1, 20))
def test_a_grid_covers_a_window_once_and_stands_since_1970(window: Window, length: int) -> None:
    pieces = on_grid(window, length * MINUTE)
    assert pieces[0].start == window.start
    assert pieces[-1].end == window.end
    assert all(one.end == other.start for one, other in itertools.pairwise(pieces))
    epoch = datetime.fromtimestamp(0, UTC)
    assert all((piece.end - epoch) % (length * MINUTE) == timedelta(0) for piece in pieces[:-1])

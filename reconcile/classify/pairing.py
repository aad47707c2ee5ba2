"""One-to-one pairs of rows and events that are equal in content and near in time. Pure: arrays in, arrays out.

Items of one key are equal; a row at time t reaches the events stamped within `[t - before, t + after]`. Per key the
largest possible number of pairs is found. Where that leaves a choice, an event goes to the latest row that it can
belong to: so the row left over lies near the one whose event is truly missing, and a neighbour just outside what was
read cannot push a whole chain of identical requests one place along.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Doubles = npt.NDArray[np.float64]
Names = Callable[[Ints], list[Any]]  # what orders the items at the given positions where their times are equal


class Reach(NamedTuple):
    """How far, in milliseconds, an event may be stamped before and after its row's usage time."""

    before: int
    after: int

    @property
    def span(self) -> int:
        return max(self.before, self.after)


def order(keys: Ints, times: Ints, names: Names) -> Ints:
    """Positions in order of key, time and name; names are looked at only where key and time are equal."""
    by_time = np.lexsort((times, keys))
    sorted_keys, sorted_times = keys[by_time], times[by_time]
    tied = (sorted_keys[1:] == sorted_keys[:-1]) & (sorted_times[1:] == sorted_times[:-1])
    if not tied.any():
        return by_time
    in_run = np.concatenate(([False], tied)) | np.concatenate((tied, [False]))
    run = np.cumsum(np.concatenate(([True], ~tied)))
    places = np.flatnonzero(in_run)
    members = by_time[places]
    run, name = run[places].tolist(), names(members)
    by_name = sorted(range(len(members)), key=lambda i: (run[i], name[i]))
    by_time[places] = members[by_name]
    return by_time


def pair(
    row_keys: Ints,
    row_times: Ints,
    row_names: Names,
    event_keys: Ints,
    event_times: Ints,
    event_names: Names,
    reach: Reach,
) -> tuple[Ints, Ints]:
    """Positions of the paired rows and of their events, element by element.

    Keys are codes from 0, however large; times are milliseconds since 1970; names break ties, so that the result does
    not depend on the order of the input.
    """
    none = np.empty(0, np.int64)
    if not len(row_keys) or not len(event_keys):
        return none, none
    row_codes, event_codes, size = _dense(row_keys, event_keys)
    on_rows, on_events = np.bincount(row_codes, minlength=size), np.bincount(event_codes, minlength=size)

    # One row and one event of a key: there is nothing to choose, and most keys are so.
    single = (on_rows == 1) & (on_events == 1)
    place = np.zeros(size, np.int64)
    place[event_codes] = np.arange(len(event_codes))
    lone = np.flatnonzero(single[row_codes])
    partner = place[row_codes[lone]]
    near = in_reach(event_times[partner] - row_times[lone], reach)
    paired_rows, paired_events = [lone[near]], [partner[near]]

    on_both = (on_rows > 0) & (on_events > 0) & ~single
    rows = np.flatnonzero(on_both[row_codes])
    events = np.flatnonzero(on_both[event_codes])
    if not len(rows):
        return paired_rows[0], paired_events[0]
    row_keys, event_keys = row_codes, event_codes
    rows = rows[order(row_keys[rows], row_times[rows], lambda at: row_names(rows[at]))]
    events = events[order(event_keys[events], event_times[events], lambda at: event_names(events[at]))]
    row_segment, event_segment = segments(
        row_keys[rows], row_times[rows], event_keys[events], event_times[events], reach
    )
    count = int(max(row_segment[-1], event_segment[-1])) + 1
    row_counts = np.bincount(row_segment, minlength=count)
    event_counts = np.bincount(event_segment, minlength=count)

    # As many rows as events, and each within reach when taken in order: there is nothing to choose.
    even = row_counts == event_counts
    even_rows, even_events = rows[even[row_segment]], events[even[event_segment]]
    near = in_reach(event_times[even_events] - row_times[even_rows], reach)
    even[event_segment[even[event_segment]][~near]] = False
    paired_rows.append(rows[even[row_segment]])
    paired_events.append(events[even[event_segment]])

    row_start = np.concatenate(([0], np.cumsum(row_counts)))
    event_start = np.concatenate(([0], np.cumsum(event_counts)))
    for segment in np.flatnonzero(~even & (row_counts > 0) & (event_counts > 0)).tolist():
        own_rows = rows[row_start[segment] : row_start[segment + 1]]
        own_events = events[event_start[segment] : event_start[segment + 1]]
        left, right = choose(row_times[own_rows].tolist(), event_times[own_events].tolist(), reach)
        paired_rows.append(own_rows[left])
        paired_events.append(own_events[right])
    return np.concatenate(paired_rows), np.concatenate(paired_events)


def in_reach(distance: Ints, reach: Reach) -> Bools:
    """Whether an event that is stamped so much after its row is within reach."""
    near: Bools = (distance >= -reach.before) & (distance <= reach.after)
    return near


def _dense(row_keys: Ints, event_keys: Ints) -> tuple[Ints, Ints, int]:
    """The keys as codes below a small number, which is given too."""
    largest = int(max(row_keys.max(), event_keys.max())) + 1
    if largest <= 4 * (len(row_keys) + len(event_keys)):
        return row_keys, event_keys, largest
    codes, values = pd.factorize(np.concatenate((row_keys, event_keys)))
    return codes[: len(row_keys)], codes[len(row_keys) :], len(values)


def segments(row_keys: Ints, row_times: Ints, event_keys: Ints, event_times: Ints, reach: Reach) -> tuple[Ints, Ints]:
    """Numbers of the stretches of one key that no pair can cross: cut where nothing happens for longer than reach.

    All four are ordered by key and time; the numbers rise in that order.
    """
    keys = np.concatenate((row_keys, event_keys))
    times = np.concatenate((row_times, event_times))
    merged = np.lexsort((times, keys))
    sorted_keys, sorted_times = keys[merged], times[merged]
    cut = (sorted_keys[1:] != sorted_keys[:-1]) | (sorted_times[1:] - sorted_times[:-1] > reach.span)
    numbers = np.empty(len(keys), np.int64)
    numbers[merged] = np.concatenate(([0], np.cumsum(cut)))
    return numbers[: len(row_keys)], numbers[len(row_keys) :]


def choose(rows: list[int], events: list[int], reach: Reach) -> tuple[list[int], list[int]]:
    """The largest number of pairs of two sorted lists of times; which ones, where there is a choice, by `_latest`."""
    latest = _latest(rows, events, reach)
    if len(latest[0]) == min(len(rows), len(events)):
        return latest
    first_come = _first_come(rows, events, reach)
    return latest if len(latest[0]) == len(first_come[0]) else first_come


def _latest(rows: Sequence[int], events: Sequence[int], reach: Reach) -> tuple[list[int], list[int]]:
    """Each event takes the latest free row that it can belong to; what was chosen is then paired in order of time.

    What becomes of a row depends on nothing outside its reach, so that no edge of what was read can move the row that
    is left over. It need not be the largest number of pairs.
    """
    free: list[int] = []
    chosen_rows: list[int] = []
    chosen_events: list[int] = []
    row = 0
    for event, time in enumerate(events):
        while row < len(rows) and rows[row] <= time:
            free.append(row)
            row += 1
        if free and time <= rows[free[-1]] + reach.after:
            chosen_rows.append(free.pop())
            chosen_events.append(event)
    if len(chosen_events) == len(events):
        return sorted(chosen_rows), chosen_events
    # A clock that is off may have stamped the others before their rows.
    rest_rows = sorted(set(range(len(rows))) - set(chosen_rows))
    rest_events = sorted(set(range(len(events))) - set(chosen_events))
    more_rows, more_events = _first_come([rows[i] for i in rest_rows], [events[i] for i in rest_events], reach)
    chosen_rows += [rest_rows[i] for i in more_rows]
    chosen_events += [rest_events[i] for i in more_events]
    return sorted(chosen_rows), sorted(chosen_events)


def _first_come(rows: Sequence[int], events: Sequence[int], reach: Reach) -> tuple[list[int], list[int]]:
    """Each row takes the first event in reach that is left: no choice has more pairs, since reach is equally wide."""
    left, right = [], []
    row = event = 0
    while row < len(rows) and event < len(events):
        distance = events[event] - rows[row]
        if distance < -reach.before:
            event += 1
        elif distance > reach.after:
            row += 1
        else:
            left.append(row)
            right.append(event)
            row += 1
            event += 1
    return left, right

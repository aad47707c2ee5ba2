"""Which rows and events hang together: parts that can be paired on their own, whatever lies in the others. Pure.

Mostly a part is the rows and events of one content, cut where nothing happens for longer than pairs and groups of
equal rows can reach. Items that can equal others of several contents (loose ones: an event without token counts, a row
without its model) bind together what lies in their reach.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from reconcile.classify.content import Codes, Content, join
from reconcile.classify.frames import ALL_TOKENS, COST, EVERYTHING
from reconcile.classify.pairing import Bools, Ints, Reach, segments


@dataclass(frozen=True, slots=True)
class Side:
    """Where the items of one side lie: their times, and which of them are looked at (positions)."""

    times: Ints
    places: Ints

    def here(self) -> Ints:
        return self.times[self.places]


@dataclass(frozen=True, slots=True)
class Loose:
    """The items that can equal others of several contents.

    `rows` and `events` bind within their subscription and cost; events without a cost (`wide`) within their
    subscription.
    """

    rows: Bools
    events: Bools
    wide: Bools

    def any(self) -> bool:
        return bool(self.rows.any() or self.events.any() or self.wide.any())


def loose(c: Content, coarse: Codes, rows: Ints, events: Ints) -> Loose:
    """The loose ones among the given positions. `coarse` codes subscription and cost (within the tolerance).

    Events are loose without a model or all counts, where costs differ within the tolerance, and under a name of a
    row's model that is not its bare one; rows are without a model.
    """
    loose_rows, loose_events = np.zeros(len(c.spend), bool), np.zeros(len(c.sent), bool)
    wide = np.zeros(len(c.sent), bool)
    loose_rows[rows] = c.nameless[rows]
    carried = c.carried[events]
    loose_events[events] = (carried != EVERYTHING) | c.several[events]
    wide[events] = carried & COST == 0
    loose_events &= ~wide
    for names in c.models[1:]:
        called = np.zeros(names.size, bool)
        called[names.rows[rows][names.rows[rows] >= 0]] = True
        likely = events[(names.events[events] >= 0) & called[names.events[events]]]
        if len(likely):
            key = join(coarse, names).at(rows, likely)
            loose_events[likely[np.isin(key.events, key.rows[key.rows >= 0])]] = True
    return Loose(loose_rows, loose_events & ~wide, wide)


def parts(
    c: Content, coarse: Codes, bound: Loose, row_side: Side, event_side: Side, reach: Reach
) -> tuple[Ints, Ints, int]:
    """The number of the part of each item that is looked at, rows and events, and how many numbers there are."""
    rows, events = row_side.places, event_side.places
    fine = join(coarse, c.models[0], c.tokens[ALL_TOKENS]).at(rows, events)
    gap = reach.before + reach.after
    numbers, count = _stretches(np.concatenate((fine.rows, fine.events)), row_side, event_side, gap)
    if not bound.any():
        return numbers[: len(rows)], numbers[len(rows) :], count
    pairs = [
        _bound(coarse, bound.rows, bound.events, row_side, event_side, numbers, reach),
        _bound(c.subscription, np.zeros(len(bound.rows), bool), bound.wide, row_side, event_side, numbers, reach),
    ]
    left, right, more = [], [], count
    for stretch, window in pairs:
        left.append(stretch)
        right.append(window + more)
        more += int(window.max(initial=-1)) + 1
    labels = _connected(np.concatenate(left), np.concatenate(right), more)
    numbers = labels[numbers]
    return numbers[: len(rows)], numbers[len(rows) :], more


def _stretches(keys: Ints, row_side: Side, event_side: Side, gap: int) -> tuple[Ints, int]:
    """Numbers of the stretches of each key, cut at pauses longer than `gap`; what has no key is a stretch alone."""
    times = np.concatenate((row_side.here(), event_side.here()))
    codes, values = pd.factorize(keys)
    without = np.flatnonzero(keys < 0)
    codes[without] = len(values) + np.arange(len(without))
    count = len(values) + len(without)
    # Most keys come only a few times, and near to one another: they are one stretch.
    by_time = np.argsort(times, kind="stable")
    first, last = np.zeros(count, np.int64), np.zeros(count, np.int64)
    last[codes[by_time]] = times[by_time]
    first[codes[by_time[::-1]]] = times[by_time[::-1]]
    long = np.flatnonzero((last - first > gap)[codes])
    if len(long):
        none = np.empty(0, np.int64)
        in_order = long[np.lexsort((times[long], codes[long]))]
        cut, _ = segments(codes[in_order], times[in_order], none, none, Reach(0, gap))
        codes[in_order] = cut + count
        count += int(cut.max()) + 1
    return codes, count


def _bound(
    group: Codes,
    loose_rows: Bools,
    loose_events: Bools,
    row_side: Side,
    event_side: Side,
    numbers: Ints,
    reach: Reach,
) -> tuple[Ints, Ints]:
    """Which stretches (`numbers`) lie in which windows of time that loose items of a group bind together."""
    none = np.empty(0, np.int64)
    rows, events = row_side.places, event_side.places
    is_loose = np.concatenate((loose_rows[rows], loose_events[events]))
    if not is_loose.any():
        return none, none
    keys = np.concatenate((group.rows[rows], group.events[events]))
    times = np.concatenate((row_side.here(), event_side.here()))
    is_loose &= keys >= 0
    # Only what is of a group with something loose in it.
    chosen = np.flatnonzero(pd.Series(keys).isin(keys[is_loose]).to_numpy(bool))
    if not len(chosen):
        return none, none
    keys, times, is_loose = keys[chosen], times[chosen], is_loose[chosen]
    codes = pd.factorize(keys)[0]
    of_event = chosen >= len(rows)
    base = int(times.min()) - reach.span
    width = int(times.max()) + reach.span + 1 - base
    line = codes * width + (times - base)
    binding = np.flatnonzero(is_loose)
    # An event at t reaches rows from t - after to t + before; a row at t events from t - before to t + after.
    first = line[binding] - np.where(of_event[binding], reach.after, reach.before)
    last = line[binding] + np.where(of_event[binding], reach.before, reach.after)
    in_order = np.argsort(first, kind="stable")
    first, last = first[in_order], np.maximum.accumulate(last[in_order])
    begins = np.concatenate(([True], first[1:] > last[:-1]))
    window = np.cumsum(begins) - 1
    begin = first[begins]
    end = np.zeros(len(begin), np.int64)
    end[window] = last
    at = np.searchsorted(begin, line, side="right") - 1
    inside = at >= 0
    inside[inside] = line[inside] <= end[at[inside]]
    return numbers[chosen[inside]], at[inside]


def _connected(left: Ints, right: Ints, count: int) -> Ints:
    """Labels of the connected parts of a graph of `count` nodes, by its edges."""
    labels = np.arange(count)
    while True:
        low = np.minimum(labels[left], labels[right])
        before = labels.copy()
        np.minimum.at(labels, left, low)
        np.minimum.at(labels, right, low)
        labels = labels[labels]
        if np.array_equal(labels, before):
            return labels

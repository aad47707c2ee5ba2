"""Pairs by content: rows and LiteLLM's own live events, which share no ID. Pure.

In this order: equal content on the same subscription; then, among what is left on both sides, repeats no row that has
its event and equals no row out of reach that has none, one value off on the same subscription (`mismatched`); then
equal content on another subscription (`misdirected`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from reconcile.classify import closure
from reconcile.classify.augment import augment
from reconcile.classify.content import Codes, Content, Turn, content, join, same_cost
from reconcile.classify.frames import ALL_TOKENS, COST, MODEL, Table
from reconcile.classify.pairing import Bools, Ints, Names, Reach, in_reach, order, pair


@dataclass(frozen=True, slots=True)
class Side:
    """Times and tie-breaking names of one side, element by element with its table."""

    times: Ints
    names: Names

    def order(self, keys: Ints, places: Ints) -> Ints:
        """`places` in order of key, time and name; `keys` are theirs."""
        return places[order(keys, self.times[places], self.names_of(places))]

    def names_of(self, places: Ints) -> Names:
        return lambda at: self.names(places[at])


def row_side(rows: Table) -> Side:
    ids, starts = rows["request_id"], rows["start_ms"]
    return Side(rows["usage_ms"], lambda at: list(zip(ids.take(at).tolist(), starts[at].tolist(), strict=True)))


def event_side(events: Table) -> Side:
    ids = events["transaction_id"]
    return Side(events["time_ms"], lambda at: ids.take(at).tolist())


class Stages:
    """The stages over one set of rows and events; positions are those of the two tables."""

    def __init__(self, rows: Table, events: Table, reach: Reach) -> None:
        self.reach = reach
        self.rows, self.events = row_side(rows), event_side(events)
        self.content: Content = content(rows, events)

    @cached_property
    def coarse(self) -> Codes:
        return join(self.content.subscription, self.content.near_cost)

    def parts(self, rows: Ints, events: Ints) -> tuple[Ints, Ints, int]:
        """Numbers of the parts that can be paired on their own, and how many there are (see `closure`)."""
        bound = closure.loose(self.content, self.coarse, rows, events)
        sides = closure.Side(self.rows.times, rows), closure.Side(self.events.times, events)
        return closure.parts(self.content, self.coarse, bound, *sides, self.reach)

    def equal(self, rows: Ints, events: Ints) -> tuple[Ints, Ints]:
        """The largest pairing of equal content on the same subscription, among the given positions."""
        c = self.content
        paired_rows, paired_events = self.in_turn(rows, events, c.turns(cost=c.cost))
        left_rows = _without(rows, paired_rows, len(self.rows.times))
        left_events = _without(events, paired_events, len(self.events.times))
        if not len(left_rows) or not len(left_events):
            return paired_rows, paired_events
        return self._augmented(rows, events, paired_rows, paired_events, left_events)

    def one_off(self, what: str, rows: Ints, events: Ints) -> tuple[Ints, Ints]:
        """Pairs on the same subscription where just `what` (cost, tokens or model) differs.

        Nothing that is equal may be left on both sides: then the equality of the others means that this one differs.
        """
        return self.in_turn(rows, events, self.content.turns((what,)))

    def elsewhere(self, rows: Ints, events: Ints) -> tuple[Ints, Ints]:
        """Pairs of equal content on different subscriptions."""
        return self.in_turn(rows, events, self.content.turns(("subscription",)))

    def twins(self, rows: Ints, events: Ints, blind: int = 0) -> tuple[Ints, Ints]:
        """The nearest of `rows` in reach to each of `events` that equals one, once per way of being equal.

        `blind` holds the bits of what is not compared although an event carries it.
        """
        none = np.empty(0, np.int64)
        found_events, found_rows = [none], [none]
        if not len(rows) or not len(events):
            return none, none
        c = self.content.without(blind)
        for turn in c.turns():
            left, right = _of_turn(c, turn, rows, events)
            if len(left) and len(right):
                key = turn.keys(left, right)
                known_rows, known_events = key.rows >= 0, key.events >= 0
                met, nearest = self._nearest(
                    key.rows[known_rows], left[known_rows], key.events[known_events], right[known_events]
                )
                found_events.append(met)
                found_rows.append(nearest)
        return np.concatenate(found_events), np.concatenate(found_rows)

    def could_explain(self, rows: Ints, events: Ints) -> tuple[Ints, Ints]:
        """The rows and events that `one_off` or `elsewhere` may still pair: each has a possible partner in reach."""
        c = self.content
        kept_rows, kept_events = np.zeros(len(self.rows.times), bool), np.zeros(len(self.events.times), bool)
        if not len(rows) or not len(events):
            return rows[:0], events[:0]
        for differs in ("cost", "tokens", "model", "subscription"):
            for turn in c.turns((differs,)):
                left, right = _of_turn(c, turn, rows, events)
                if not len(left) or not len(right):
                    continue
                key = turn.keys(left, right)
                left, row_keys = left[key.rows >= 0], key.rows[key.rows >= 0]
                right, event_keys = right[key.events >= 0], key.events[key.events >= 0]
                met_rows, met_events = _met(
                    row_keys, self.rows.times[left], event_keys, self.events.times[right], self.reach
                )
                kept_rows[left[met_rows]] = True
                kept_events[right[met_events]] = True
        return rows[kept_rows[rows]], events[kept_events[events]]

    def in_doubt(self, rows: Ints, paired: Ints) -> Ints:
        """The rows of groups of equal content in reach of one another of which some are `paired` and some are not."""
        c = self.content
        has_event = np.zeros(len(self.rows.times), bool)
        has_event[paired] = True
        names = c.models[0]
        named = Codes(names.rows + 1, names.events + 1, names.size + 1)  # rows without a model are equal in it
        keys = join(c.subscription, c.cost, named, c.tokens[ALL_TOKENS]).rows
        rows = rows[keys[rows] >= 0]
        lacking = keys[rows[~has_event[rows]]]
        if not len(lacking):
            return lacking
        rows = rows[pd.Series(keys[rows]).isin(lacking).to_numpy(bool)]
        rows = self.rows.order(keys[rows], rows)
        times = self.rows.times[rows]
        cut = (keys[rows][1:] != keys[rows][:-1]) | (np.diff(times) > self.reach.before + self.reach.after)
        group = np.concatenate(([0], np.cumsum(cut)))
        some = np.bincount(group, weights=has_event[rows]) > 0
        none = np.bincount(group, weights=~has_event[rows]) > 0
        return rows[(some & none)[group]]

    def in_turn(self, rows: Ints, events: Ints, turns: list[Turn]) -> tuple[Ints, Ints]:
        """Pairs by one key after the other, each among what the ones before left over."""
        none = np.empty(0, np.int64)
        found_rows, found_events = [none], [none]
        for turn in turns:
            left, right = _of_turn(self.content, turn, rows, events)
            if not len(left) or not len(right):
                continue
            keys = turn.keys(left, right)
            known_rows, known_events = keys.rows >= 0, keys.events >= 0
            left, right = left[known_rows], right[known_events]
            row_places, event_places = pair(
                keys.rows[known_rows],
                self.rows.times[left],
                self.rows.names_of(left),
                keys.events[known_events],
                self.events.times[right],
                self.events.names_of(right),
                self.reach,
            )
            if not len(row_places):
                continue
            found_rows.append(left[row_places])
            found_events.append(right[event_places])
            rows = _without(rows, found_rows[-1], len(self.rows.times))
            events = _without(events, found_events[-1], len(self.events.times))
        return np.concatenate(found_rows), np.concatenate(found_events)

    def _nearest(self, row_keys: Ints, rows: Ints, event_keys: Ints, events: Ints) -> tuple[Ints, Ints]:
        """The events that have a row of the same key in reach, and the nearest such row of each."""
        none = np.empty(0, np.int64)
        wanted = pd.Series(row_keys).isin(event_keys).to_numpy(bool) if len(rows) and len(events) else none
        if not wanted.any():
            return none, none
        row_keys, rows = row_keys[wanted], rows[wanted]
        codes = pd.factorize(np.concatenate((row_keys, event_keys)))[0]
        row_codes, event_codes = codes[: len(rows)], codes[len(rows) :]
        in_order = order(row_codes, self.rows.times[rows], self.rows.names_of(rows))
        row_codes, rows = row_codes[in_order], rows[in_order]
        base = int(min(self.rows.times[rows].min(), self.events.times[events].min()))
        width = int(max(self.rows.times[rows].max(), self.events.times[events].max())) + 1 - base
        row_line = row_codes * width + (self.rows.times[rows] - base)
        event_line = event_codes * width + (self.events.times[events] - base)
        after = np.searchsorted(row_line, event_line, side="left")
        before = np.searchsorted(row_line, row_line[np.maximum(after - 1, 0)], side="left")
        best = np.full(len(events), -1, np.int64)
        best_distance = np.full(len(events), np.iinfo(np.int64).max)
        for place in (before, np.minimum(after, len(rows) - 1)):
            distance = self.events.times[events] - self.rows.times[rows[place]]
            usable = (row_codes[place] == event_codes) & in_reach(distance, self.reach)
            usable &= np.abs(distance) < best_distance
            best = np.where(usable, rows[place], best)
            best_distance = np.where(usable, np.abs(distance), best_distance)
        return events[best >= 0], best[best >= 0]

    def _augmented(
        self, rows: Ints, events: Ints, paired_rows: Ints, paired_events: Ints, free: Ints
    ) -> tuple[Ints, Ints]:
        """The pairing, lengthened from the `free` events where something is loose."""
        c, coarse = self.content, self.coarse
        bound = closure.loose(c, coarse, rows, events)
        if not bound.any():
            return paired_rows, paired_events
        # A longer pairing stays within a subscription, and within one of its costs but for events without a cost.
        near = np.concatenate((coarse.rows[bound.rows], coarse.events[bound.events]))
        wide = c.subscription.events[bound.wide]
        free = free[_among(coarse.events[free], near[near >= 0]) | _among(c.subscription.events[free], wide)]
        if not len(free):
            return paired_rows, paired_events
        of_free = coarse.events[free][coarse.events[free] >= 0]
        rows = rows[_among(coarse.rows[rows], of_free) | _among(c.subscription.rows[rows], wide)]
        movable = np.zeros(len(self.rows.times), bool)
        movable[rows] = True
        movable = movable[paired_rows]
        row_of = dict(zip(paired_events[movable].tolist(), paired_rows[movable].tolist(), strict=True))
        self._augment(rows, free, row_of)
        return (
            np.concatenate((paired_rows[~movable], np.array(list(row_of.values()), np.int64))),
            np.concatenate((paired_events[~movable], np.array(list(row_of), np.int64))),
        )

    def _augment(self, rows: Ints, free: Ints, row_of: dict[int, int]) -> None:
        """Lengthens `row_of` from the `free` events."""
        c = self.content
        by_cost = _Line(self.coarse, self.rows, self.events, rows, self.reach)
        by_subscription = _Line(c.subscription, self.rows, self.events, rows, self.reach)

        def neighbours(event: int) -> list[int]:
            carried = int(c.carried[event])
            near = (by_cost if carried & COST else by_subscription).near(event)
            equal = c.subscription.rows[near] == c.subscription.events[event]
            told = np.zeros(len(near), bool)  # whether something was compared
            if carried & MODEL:
                model = c.nameless[near]
                told |= ~model
                for names in c.models:
                    model |= (names.rows[near] == names.events[event]) & (names.rows[near] >= 0)
                equal &= model
            if counts := carried & ALL_TOKENS:
                tokens = c.tokens[counts]
                equal &= tokens.rows[near] == tokens.events[event]
            if carried & COST:
                equal &= same_cost(c.spend[near], c.sent[event])
            if carried & (ALL_TOKENS | COST):
                told[:] = True
            chosen: list[int] = near[equal & told].tolist()
            return chosen

        in_order = self.events.order(np.zeros(len(free), np.int64), free)
        augment(in_order.tolist(), neighbours, row_of, {row: event for event, row in row_of.items()})


def _of_turn(c: Content, turn: Turn, rows: Ints, events: Ints) -> tuple[Ints, Ints]:
    """The rows and events that the turn is for."""
    chosen = rows if turn.rows is None else rows[turn.rows[rows]]
    return chosen, events[c.carried[events] == turn.carried]


class _Line:
    """Rows by key and time, to find those in reach of an event."""

    def __init__(self, keys: Codes, row_side: Side, event_side: Side, rows: Ints, reach: Reach) -> None:
        rows = rows[keys.rows[rows] >= 0]
        self._keys, self._reach, self._times = keys, reach, event_side.times
        self._rows = row_side.order(keys.rows[rows], rows)
        self._base = int(min(row_side.times.min(), event_side.times.min())) - reach.span
        self._width = int(max(row_side.times.max(), event_side.times.max())) + reach.span + 1 - self._base
        self._line = keys.rows[self._rows] * self._width + (row_side.times[self._rows] - self._base)

    def near(self, event: int) -> Ints:
        key = int(self._keys.events[event])
        at = key * self._width + int(self._times[event]) - self._base
        bounds = (at - self._reach.after, at + self._reach.before + 1)
        first, stop = np.searchsorted(self._line, bounds)
        return self._rows[first:stop] if key >= 0 else self._rows[:0]


def _met(keys: Ints, times: Ints, event_keys: Ints, event_times: Ints, reach: Reach) -> tuple[Ints, Ints]:
    """Positions of the rows with an event of the same key in reach, and of those events."""
    shared = np.intersect1d(keys, event_keys)
    rows, events = (np.flatnonzero(_among(side, shared)) for side in (keys, event_keys))
    if not len(shared):
        return rows, events
    times, event_times = times[rows], event_times[events]
    codes, event_codes = np.searchsorted(shared, keys[rows]), np.searchsorted(shared, event_keys[events])
    base = int(min(times.min(), event_times.min())) - reach.span
    width = int(max(times.max(), event_times.max())) + reach.span + 1 - base
    line, event_line = codes * width + (times - base), event_codes * width + (event_times - base)
    return (
        rows[_some_within(np.sort(event_line), line - reach.before, line + reach.after)],
        events[_some_within(np.sort(line), event_line - reach.after, event_line + reach.before)],
    )


def _some_within(line: Ints, first: Ints, last: Ints) -> Bools:
    """Whether some place of the sorted line lies from `first` to `last`."""
    some: Bools = np.searchsorted(line, last, side="right") > np.searchsorted(line, first, side="left")
    return some


def _among(values: Ints, wanted: Ints) -> Bools:
    return pd.Series(values).isin(wanted).to_numpy(bool) if len(wanted) else np.zeros(len(values), bool)


def _without(positions: Ints, taken: Ints, size: int) -> Ints:
    gone = np.zeros(size, bool)
    gone[taken] = True
    return positions[~gone[positions]]

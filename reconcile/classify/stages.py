"""Pairs by content: rows and LiteLLM's own live events, which share no ID. Pure.

In this order: equal content on the same subscription; then, among what is left on both sides, one value off on the
same subscription (`mismatched`); then equal content on another subscription (`misdirected`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from reconcile.classify.augment import augment
from reconcile.classify.content import Bools, Codes, Content, content, join, same_cost
from reconcile.classify.frames import ALL_TOKENS
from reconcile.classify.pairing import Ints, Names, Reach, order, pair, segments


@dataclass(frozen=True, slots=True)
class Side:
    """Times and tie-breaking names of one side, element by element with its frame."""

    times: Ints
    names: Names

    def order(self, keys: Ints, places: Ints) -> Ints:
        """`places` in order of key, time and name; `keys` are theirs."""
        return places[order(keys, self.times[places], self.names_of(places))]

    def names_of(self, places: Ints) -> Names:
        return lambda at: self.names(places[at])


def row_side(rows: pd.DataFrame) -> Side:
    ids, starts = rows["request_id"].array, rows["start_ms"].to_numpy(np.int64)
    return Side(
        rows["usage_ms"].to_numpy(np.int64),
        lambda at: list(zip(ids.take(at).tolist(), starts[at].tolist(), strict=True)),
    )


def event_side(events: pd.DataFrame) -> Side:
    ids = events["transaction_id"].array
    return Side(events["time_ms"].to_numpy(np.int64), lambda at: ids.take(at).tolist())


class Stages:
    """The stages over one set of rows and live events; positions are those of the two frames."""

    def __init__(self, rows: pd.DataFrame, events: pd.DataFrame, reach: Reach) -> None:
        self.reach = reach
        self.rows, self.events = row_side(rows), event_side(events)
        self.content: Content = content(rows, events)
        self.coarse = join(self.content.subscription, self.content.near_cost)
        self.irregular = self._irregular()

    def closure_keys(self) -> Codes:
        """Keys whose stretches of time can be paired on their own, whatever lies in other stretches and keys.

        Mostly the full content. Where an event could equal rows of several contents, all content of that subscription
        and cost is kept together.
        """
        c = self.content
        fine = join(self.coarse, c.models[0], c.tokens[ALL_TOKENS])
        if not self.irregular.any():
            return fine
        coarse, irregular = self.coarse, self.irregular
        base = int(max(fine.rows.max(initial=0), fine.events.max(initial=0))) + 1
        return Codes(
            np.where((coarse.rows >= 0) & irregular[coarse.rows], base + coarse.rows, fine.rows),
            np.where((coarse.events >= 0) & irregular[coarse.events], base + coarse.events, fine.events),
        )

    def _irregular(self) -> Bools:
        """Per subscription and cost: whether an event there could equal rows of several contents.

        That is so for events without token counts, for those under another name of a row's model, and where costs
        differ within the tolerance.
        """
        c, coarse = self.content, self.coarse
        size = int(max(coarse.rows.max(initial=0), coarse.events.max(initial=0))) + 1
        irregular = np.zeros(size, bool)
        irregular[coarse.events[((c.carried != ALL_TOKENS) | c.several) & (coarse.events >= 0)]] = True
        for other in c.models[1:]:
            named = join(coarse, other)
            met = np.isin(named.events, np.unique(named.rows[named.rows >= 0]))
            irregular[coarse.events[met]] = True
        return irregular

    def equal(self, rows: Ints, events: Ints) -> tuple[Ints, Ints]:
        """The largest pairing of equal content on the same subscription, among the given positions."""
        c = self.content
        paired_rows, paired_events = self._in_turn(
            rows, events, [((c.subscription, c.cost, model), mask) for mask in c.masks() for model in c.models]
        )
        open_events = events[self.irregular[self.coarse.events[events]] & (self.coarse.events[events] >= 0)]
        open_events = _without(open_events, paired_events, len(self.events.times))
        if not len(open_events) or not len(rows):
            return paired_rows, paired_events
        row_of = dict(zip(paired_events.tolist(), paired_rows.tolist(), strict=True))
        self._augment(rows, open_events, row_of)
        return np.array(list(row_of.values()), np.int64), np.array(list(row_of), np.int64)

    def one_off(self, what: str, rows: Ints, events: Ints) -> tuple[Ints, Ints]:
        """Pairs on the same subscription where just `what` (cost, tokens or model) differs.

        Nothing that is equal may be left on both sides: then the equality of the others means that this one differs.
        """
        c = self.content
        turns: dict[str, list[tuple[tuple[Codes, ...], int]]] = {
            "cost": [((c.subscription, model), mask) for mask in c.masks() for model in c.models],
            "tokens": [
                ((c.subscription, model, c.near_cost), mask) for mask in c.masks() if mask for model in c.models
            ],
            "model": [((c.subscription, c.near_cost), mask) for mask in c.masks()],
        }
        return self._in_turn(rows, events, turns[what], tokens=what != "tokens")

    def elsewhere(self, rows: Ints, events: Ints) -> tuple[Ints, Ints]:
        """Pairs of equal content on different subscriptions."""
        c = self.content
        return self._in_turn(rows, events, [((c.near_cost, model), mask) for mask in c.masks() for model in c.models])

    def twins(self, rows: Ints, events: Ints) -> tuple[Ints, Ints]:
        """The nearest of `rows` in reach to each of `events` that equals one, once per name of the model."""
        c = self.content
        found_events, found_rows = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for mask in c.masks():
            for model in c.models:
                keys = join(c.subscription, c.near_cost, model, c.tokens[mask])
                of_mask = events[(c.carried[events] == mask) & (keys.events[events] >= 0)]
                met, nearest = self._nearest(keys, rows[keys.rows[rows] >= 0], of_mask)
                found_events.append(met)
                found_rows.append(nearest)
        return np.concatenate(found_events), np.concatenate(found_rows)

    def could_explain(self, rows: Ints, events: Ints) -> tuple[Ints, Ints]:
        """The rows and events that `one_off` or `elsewhere` may still pair: each has a possible partner in reach."""
        c = self.content
        kept_rows, kept_events = np.zeros(len(self.rows.times), bool), np.zeros(len(self.events.times), bool)
        for mask in c.masks():
            of_mask = events[c.carried[events] == mask]
            if not len(of_mask) or not len(rows):
                continue
            keys = [join(c.subscription, c.near_cost, c.tokens[mask])]
            for model in c.models:
                keys.append(join(c.subscription, model, c.tokens[mask]))
                keys.append(join(c.subscription, model, c.near_cost))
                keys.append(join(model, c.near_cost, c.tokens[mask]))
            for key in keys:
                usable_rows = rows[key.rows[rows] >= 0]
                usable_events = of_mask[key.events[of_mask] >= 0]
                met, _ = self._nearest(key, usable_rows, usable_events)
                kept_events[met] = True
                met_rows = _in_reach(
                    key.rows[usable_rows],
                    self.rows.times[usable_rows],
                    key.events[usable_events],
                    self.events.times[usable_events],
                    self.reach,
                )
                kept_rows[usable_rows[met_rows]] = True
        return rows[kept_rows[rows]], events[kept_events[events]]

    def stretches(self, keys: Codes, rows: Ints, events: Ints) -> tuple[Ints, Ints]:
        """Numbers of the stretches of `keys` that neither a pair nor a group of equal rows can cross."""
        gap = Reach(0, self.reach.before + self.reach.after)
        by_row = order(keys.rows[rows], self.rows.times[rows], self.rows.names_of(rows))
        by_event = order(keys.events[events], self.events.times[events], self.events.names_of(events))
        sorted_rows, sorted_events = segments(
            keys.rows[rows][by_row],
            self.rows.times[rows][by_row],
            keys.events[events][by_event],
            self.events.times[events][by_event],
            gap,
        )
        row_numbers, event_numbers = np.empty(len(rows), np.int64), np.empty(len(events), np.int64)
        row_numbers[by_row], event_numbers[by_event] = sorted_rows, sorted_events
        return row_numbers, event_numbers

    def in_doubt(self, rows: Ints, paired: Ints) -> Ints:
        """The rows of groups of equal content in reach of one another of which some are `paired` and some are not."""
        c = self.content
        keys = join(c.subscription, c.cost, c.models[0], c.tokens[ALL_TOKENS]).rows
        rows = rows[keys[rows] >= 0]
        if not len(rows):
            return rows
        rows = self.rows.order(keys[rows], rows)
        times = self.rows.times[rows]
        cut = (keys[rows][1:] != keys[rows][:-1]) | (np.diff(times) > self.reach.before + self.reach.after)
        group = np.concatenate(([0], np.cumsum(cut)))
        has_event = np.isin(rows, paired)
        some = np.bincount(group, weights=has_event) > 0
        lacking = np.bincount(group, weights=~has_event) > 0
        return rows[(some & lacking)[group]]

    def _in_turn(
        self, rows: Ints, events: Ints, turns: list[tuple[tuple[Codes, ...], int]], tokens: bool = True
    ) -> tuple[Ints, Ints]:
        """Pairs by one key after the other, each among what the ones before left over.

        A turn is a key and the kind of events (by the counts they carry) that it is for.
        """
        none = np.empty(0, np.int64)
        found_rows, found_events = [none], [none]
        for parts, mask in turns:
            of_mask = events[self.content.carried[events] == mask]
            if not len(rows) or not len(of_mask):
                continue
            keys = join(*(part.at(rows, of_mask) for part in (*parts, *([self.content.tokens[mask]] * tokens))))
            known_rows, known_events = keys.rows >= 0, keys.events >= 0
            left, right = rows[known_rows], of_mask[known_events]
            row_places, event_places = pair(
                keys.rows[known_rows],
                self.rows.times[left],
                self.rows.names_of(left),
                keys.events[known_events],
                self.events.times[right],
                self.events.names_of(right),
                self.reach,
            )
            found_rows.append(left[row_places])
            found_events.append(right[event_places])
            rows = _without(rows, found_rows[-1], len(self.rows.times))
            events = _without(events, found_events[-1], len(self.events.times))
        return np.concatenate(found_rows), np.concatenate(found_events)

    def _nearest(self, keys: Codes, rows: Ints, events: Ints) -> tuple[Ints, Ints]:
        """The events that have a row of the same key in reach, and the nearest such row of each."""
        none = np.empty(0, np.int64)
        if not len(rows) or not len(events):
            return none, none
        rows = self.rows.order(keys.rows[rows], rows)
        span = int(max(self.rows.times[rows].max(), self.events.times[events].max())) + 1
        base = int(min(self.rows.times[rows].min(), self.events.times[events].min()))
        width = span - base
        row_line = keys.rows[rows] * width + (self.rows.times[rows] - base)
        event_line = keys.events[events] * width + (self.events.times[events] - base)
        after = np.searchsorted(row_line, event_line, side="left")
        before = np.searchsorted(row_line, row_line[np.maximum(after - 1, 0)], side="left")
        best = np.full(len(events), -1, np.int64)
        best_distance = np.full(len(events), np.iinfo(np.int64).max)
        for place in (before, np.minimum(after, len(rows) - 1)):
            candidate = rows[place]
            distance = self.events.times[events] - self.rows.times[candidate]
            usable = (
                (keys.rows[candidate] == keys.events[events])
                & (distance >= -self.reach.before)
                & (distance <= self.reach.after)
                & (np.abs(distance) < best_distance)
            )
            best = np.where(usable, candidate, best)
            best_distance = np.where(usable, np.abs(distance), best_distance)
        return events[best >= 0], best[best >= 0]

    def _augment(self, rows: Ints, free: Ints, row_of: dict[int, int]) -> None:
        """Lengthens `row_of` from the `free` events, which can equal rows of several contents."""
        c, coarse = self.content, self.coarse
        rows = rows[coarse.rows[rows] >= 0]
        rows = self.rows.order(coarse.rows[rows], rows)
        width = int(max(self.rows.times.max(), self.events.times.max())) + self.reach.span + 1
        base = int(min(self.rows.times.min(), self.events.times.min())) - self.reach.span
        width -= base
        line = coarse.rows[rows] * width + (self.rows.times[rows] - base)

        def neighbours(event: int) -> list[int]:
            at = int(coarse.events[event]) * width + int(self.events.times[event]) - base
            first, stop = np.searchsorted(line, (at - self.reach.after, at + self.reach.before + 1))
            near = rows[first:stop]
            model = np.zeros(len(near), bool)
            for names in c.models:
                model |= (names.rows[near] == names.events[event]) & (names.rows[near] >= 0)
            tokens = c.tokens[int(c.carried[event])]
            equal = model & (tokens.rows[near] == tokens.events[event])
            chosen: list[int] = near[equal & same_cost(c.spend[near], c.sent[event])].tolist()
            return chosen

        free = self.events.order(coarse.events[free], free)
        augment(free.tolist(), neighbours, row_of, {row: event for event, row in row_of.items()})


def _in_reach(keys: Ints, times: Ints, event_keys: Ints, event_times: Ints, reach: Reach) -> Ints:
    """Positions of the rows with an event of the same key in reach."""
    if not len(keys) or not len(event_keys):
        return np.empty(0, np.int64)
    base = int(min(times.min(), event_times.min())) - reach.before
    width = int(max(times.max(), event_times.max())) + reach.after + 1 - base
    line = np.sort(event_keys * width + (event_times - base))
    at = keys * width + (times - base)
    first = np.searchsorted(line, at - reach.before, side="left")
    stop = np.searchsorted(line, at + reach.after, side="right")
    return np.flatnonzero(stop > first)


def _without(positions: Ints, taken: Ints, size: int) -> Ints:
    gone = np.zeros(size, bool)
    gone[taken] = True
    return positions[~gone[positions]]

"""What "equal content" means: rows and events as small integer codes that can be compared and grouped. Pure.

What an event carries is compared: its model with the row's names, its cost with the row's spend, its token counts with
the row's. A model that is empty on either side says nothing, nor do a cost and counts that the event lacks.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from reconcile.classify.frames import (
    ALL_TOKENS,
    COST,
    MODEL,
    ROW_MODELS,
    TOKENS,
    Table,
)
from reconcile.classify.pairing import Bools, Doubles, Ints

COST_TOLERANCE = 1e-9
_WIDEST = 2**62


@dataclass(frozen=True, slots=True)
class Codes:
    """One code below `size` per item of both sides; equal codes mean equal values, a negative one equals nothing."""

    rows: Ints
    events: Ints
    size: int

    def at(self, rows: Ints, events: Ints) -> Codes:
        return Codes(self.rows[rows], self.events[events], self.size)

    def dense(self) -> Codes:
        """The same with as few codes as there are values."""
        both = np.concatenate((self.rows, self.events))
        codes, values = pd.factorize(both)
        codes[both < 0] = -1
        return Codes(codes[: len(self.rows)], codes[len(self.rows) :], len(values))


@dataclass(frozen=True, slots=True)
class Turn:
    """One way to compare: a key, the kind of events that it is for (by what they carry), and the rows (None: all)."""

    carried: int
    parts: tuple[Codes, ...]
    rows: Bools | None = None

    def keys(self, rows: Ints, events: Ints) -> Codes:
        return join(*(part.at(rows, events) for part in self.parts))


@dataclass(frozen=True, slots=True)
class Content:
    """The comparable content of a set of rows and events.

    `models[0]` codes the rows' bare models, the further ones their other names; each carries the same codes for
    the events. `counts` codes each count of tokens, `tokens` those together that the bits of its key name; `carried`
    holds the bits of what each event carries.

    `cost` codes equal doubles. Being within the tolerance is no such equality: of three costs that follow one
    another within it, the first and the last may be too far apart. `near_cost` gives all three one code, and
    `several` says of each event whether its code holds more than one double. `same_cost` of `spend` and `sent` has
    the last word.
    """

    subscription: Codes
    models: tuple[Codes, ...]
    cost: Codes
    near_cost: Codes
    several: Bools
    spend: Doubles
    sent: Doubles
    counts: tuple[Codes, ...]
    tokens: dict[int, Codes]
    carried: Ints
    nameless: Bools  # rows without a model
    looks: Bools  # rows that a look at a job wrote

    def kinds(self) -> list[int]:
        """What events carry: the most telling first."""
        there: list[int] = np.flatnonzero(np.bincount(self.carried)).tolist()
        return sorted(there, key=lambda bits: (-bits.bit_count(), bits))

    def without(self, bits: int) -> Content:
        """The same as if no event carried what `bits` name."""
        if not bits:
            return self
        carried = self.carried & ~bits
        return replace(self, carried=carried, tokens=_together(self.counts, carried))

    def turns(self, differs: Collection[str] = (), *, cost: Codes | None = None) -> list[Turn]:
        """All ways in which a row and an event can be equal but for what `differs`, the most telling first.

        `differs` names some of subscription, cost, model and tokens. What an event does not carry does not differ, and
        something that it carries must be equal; on another subscription more than the model, or than a cost of 0.
        `cost` is how costs are compared (within the tolerance where it is not given).
        """
        cost = self.near_cost if cost is None else cost
        elsewhere = "subscription" in differs
        found: list[Turn] = []
        for kind in self.kinds():
            counts = kind & ALL_TOKENS
            carried = {"cost": kind & COST, "model": kind & MODEL, "tokens": counts}
            if any(not carried.get(name, True) for name in differs):
                continue
            compared = {name for name, there in carried.items() if there and name not in differs}
            parts: list[Codes] = [] if elsewhere else [self.subscription]
            if "cost" in compared:
                parts.append(cost)
            if "tokens" in compared:
                parts.append(self.tokens[counts])
            # Without the model: rows that have none, and events that have none, or another one.
            rest = compared - {"model"}
            free = self.spend == 0
            if "model" in compared and (not elsewhere or len(compared) > 1):
                found += [Turn(kind, (*parts, names)) for names in self.models]
            if not rest or (elsewhere and rest == {"tokens"}):
                continue
            rows = self.nameless if "model" in compared else None
            if elsewhere and rest == {"cost"}:
                rows = ~free if rows is None else rows & ~free
            elif rows is None and not differs:
                found.append(Turn(kind, tuple(parts), self.looks))  # whose events carry no model
            found.append(Turn(kind, tuple(parts), rows))
        return [turn for turn in found if turn.rows is None or turn.rows.any()]


def content(rows: Table, events: Table) -> Content:
    """Codes for compact rows and events."""
    event_models = _named(events["model"])
    size = int(max(event_models.max(initial=0), *(rows[name].max(initial=0) for name in ROW_MODELS))) + 1
    sent_by_name = np.zeros(size, bool)
    sent_by_name[event_models[event_models >= 0]] = True
    models = [_named(rows["model"])]
    for name in ROW_MODELS[1:]:
        names = _named(rows[name])
        if sent_by_name[names[names >= 0]].any():  # most often no event carries any of them
            models.append(names)
    spend, sent = rows["spend"], events["cost"]
    cost, near_cost, several = _cost_codes(spend, sent)
    carried = events["carried"].astype(np.int64)
    counts = _counts(rows, events)
    return Content(
        subscription=_subscriptions(_named(rows["subscription"]), _named(events["subscription"])),
        models=tuple(Codes(names, event_models, size) for names in models),
        cost=cost,
        near_cost=near_cost,
        several=several,
        spend=spend,
        sent=sent,
        counts=counts,
        tokens=_together(counts, carried),
        carried=carried,
        nameless=rows["model"] == 0,
        looks=rows["look"],
    )


def _named(words: Ints) -> Ints:
    """Codes of words that are none where the word is empty."""
    return np.where(words > 0, words, -1).astype(np.int64)


def _subscriptions(rows: Ints, events: Ints) -> Codes:
    return Codes(rows, events, int(max(rows.max(initial=0), events.max(initial=0))) + 1)


def join(*parts: Codes) -> Codes:
    """Codes of the combination; an item with a negative part equals nothing and stays negative."""
    joined = parts[0]
    for part in parts[1:]:
        if joined.size * part.size > _WIDEST:
            joined = joined.dense()
        if joined.size * part.size > _WIDEST:
            part = part.dense()
        joined = Codes(
            _mix(joined.rows, part.rows, part.size),
            _mix(joined.events, part.events, part.size),
            joined.size * part.size,
        )
    return joined


def _mix(left: Ints, right: Ints, size: int) -> Ints:
    mixed = left * size + right
    mixed[(left < 0) | (right < 0)] = -1
    return mixed


def same_cost(left: Doubles, right: Doubles | np.float64) -> Bools:
    """Equal doubles, or within 1e-9 relative."""
    finite = np.isfinite(left) & np.isfinite(right)
    with np.errstate(invalid="ignore"):
        near = np.abs(left - right) <= COST_TOLERANCE * np.maximum(np.abs(left), np.abs(right))
    return np.asarray(finite & ((left == right) | near))


def _cost_codes(spend: Doubles, sent: Doubles) -> tuple[Codes, Codes, Bools]:
    """`cost`, `near_cost` and `several` of Content; what is no amount has no code."""
    costs = np.concatenate((spend, sent))
    usable = np.isfinite(costs)
    distinct, places = np.unique(costs[usable], return_inverse=True)
    apart = np.diff(distinct) > COST_TOLERANCE * np.maximum(np.abs(distinct[1:]), np.abs(distinct[:-1]))
    cluster = np.concatenate(([0], np.cumsum(apart)))[: len(distinct)].astype(np.int64)
    several = np.bincount(cluster) > 1
    exact, near = np.full(len(costs), -1, np.int64), np.full(len(costs), -1, np.int64)
    exact[usable], near[usable] = places, cluster[places]
    split, size = len(spend), max(len(distinct), 1)
    in_several = np.zeros(len(sent), bool)
    known = near[split:] >= 0
    in_several[known] = several[near[split:][known]]
    return Codes(exact[:split], exact[split:], size), Codes(near[:split], near[split:], size), in_several


def _counts(rows: Table, events: Table) -> tuple[Codes, ...]:
    """Codes of each count of tokens; one that is absent or no whole number equals nothing."""
    single: list[Codes] = []
    for name in TOKENS:
        counts, sent = rows[name], events[name]
        with np.errstate(invalid="ignore"):
            whole = (np.abs(sent) < 2**53) & (sent == np.floor(sent))
        told = np.full(len(sent), -1, np.int64)
        told[whole] = sent[whole].astype(np.int64)
        least = int(min(counts.min(initial=0), told[whole].min(initial=0)))
        if least < 0:
            counts, told = counts - least, np.where(whole, told - least, -1)
        size = int(max(counts.max(initial=0), told.max(initial=0))) + 1
        single.append(Codes(counts, told, size))
    return tuple(single)


def _together(counts: tuple[Codes, ...], carried: Ints) -> dict[int, Codes]:
    """Codes of the counts that events carry together, by their bits; an event that lacks one of them equals nothing."""
    masks = {ALL_TOKENS, *(np.unique(carried) & ALL_TOKENS).tolist()} - {0}
    return {mask: join(*(counts[bit] for bit in range(len(TOKENS)) if mask & (1 << bit))) for mask in masks}

"""What "equal content" means: rows and events as small integer codes that can be compared and grouped. Pure.

A live event equals a row when its model is the row's without the provider prefix or the row's `model_group`, its cost
is the same double or within 1e-9 relative (null is 0), and its token counts, where it carries them, are the row's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from reconcile.classify.frames import ALL_TOKENS, TOKENS
from reconcile.classify.pairing import Ints

COST_TOLERANCE = 1e-9

Bools = npt.NDArray[np.bool_]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Codes:
    """One code per item of both sides; equal codes mean equal values, a negative one equals nothing."""

    rows: Ints
    events: Ints

    def at(self, rows: Ints, events: Ints) -> Codes:
        return Codes(self.rows[rows], self.events[events])


@dataclass(frozen=True, slots=True)
class Content:
    """The comparable content of a set of rows and live events.

    `models[0]` codes the rows' bare models, the further ones their other names; each carries the same codes for
    the events. `tokens` compares the counts that the bits of its key name; `carried` holds those bits per event.

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
    tokens: dict[int, Codes]
    carried: Ints

    def masks(self) -> list[int]:
        """The kinds of events by the token counts they carry: the most telling first."""
        return sorted(self.tokens, key=lambda mask: (-mask.bit_count(), mask))


def content(rows: pd.DataFrame, events: pd.DataFrame) -> Content:
    """Codes for compact rows and events."""
    event_models = events["model"].to_numpy(np.int64)
    models = [Codes(rows["model"].to_numpy(np.int64), event_models)]
    for name in ("group", "part"):
        others = rows[name].to_numpy(np.int64)
        if (others >= 0).any():
            models.append(Codes(others, event_models))
    carried = events["carried"].to_numpy(np.int64)
    spend, sent = rows["spend"].to_numpy(np.float64), events["cost"].to_numpy(np.float64)
    cost, near_cost, several = _cost_codes(spend, sent)
    masks = {ALL_TOKENS, *np.unique(carried).tolist()}
    return Content(
        subscription=Codes(rows["subscription"].to_numpy(np.int64), events["subscription"].to_numpy(np.int64)),
        models=tuple(models),
        cost=cost,
        near_cost=near_cost,
        several=several,
        spend=spend,
        sent=sent,
        tokens={mask: _token_codes(rows, events, mask) for mask in masks},
        carried=carried,
    )


def join(*parts: Codes) -> Codes:
    """Codes of the combination; an item with a negative part equals nothing and stays negative."""
    rows, events = parts[0].rows, parts[0].events
    for part in parts[1:]:
        size = int(max(part.rows.max(initial=0), part.events.max(initial=0))) + 1
        mixed = np.concatenate((_mix(rows, part.rows, size), _mix(events, part.events, size)))
        codes = pd.factorize(mixed)[0].astype(np.int64)
        codes[mixed < 0] = -1
        rows, events = codes[: len(rows)], codes[len(rows) :]
    return Codes(rows, events)


def _mix(left: Ints, right: Ints, size: int) -> Ints:
    return np.where((left < 0) | (right < 0), -1, left * size + right)


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
    split = len(spend)
    in_several = np.zeros(len(sent), bool)
    known = near[split:] >= 0
    in_several[known] = several[near[split:][known]]
    return Codes(exact[:split], exact[split:]), Codes(near[:split], near[split:]), in_several


def _token_codes(rows: pd.DataFrame, events: pd.DataFrame, mask: int) -> Codes:
    """Codes of the token counts that `mask` names; events in which one is absent or no number equal nothing."""
    result = Codes(np.zeros(len(rows), np.int64), np.zeros(len(events), np.int64))
    for bit, name in enumerate(TOKENS):
        if not mask & (1 << bit):
            continue
        both = np.concatenate((rows[name].to_numpy(np.float64), events[name].to_numpy(np.float64)))
        codes = pd.factorize(both)[0].astype(np.int64)  # an absent count is NaN, and has the code -1
        part = Codes(codes[: len(rows)], codes[len(rows) :])
        result = join(result, part)
    return result

"""Classifies rows and events that arrive in order of time, slice by slice. Pure: frames in, frames out.

A row or event is settled once nothing that is still to come can change its class. What is not settled waits, so that
the way the window is cut into slices cannot change the result. `settle` takes what was read up to a horizon and gives
back what is settled; the last call, without a horizon, settles everything.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from reconcile.classify.content import Bools, Doubles
from reconcile.classify.frames import (
    ALL_TOKENS,
    KIND,
    KINDS,
    REASON,
    REASONS,
    TOKENS,
    Rules,
    Vocabulary,
    no_events,
    no_rows,
    prepare_events,
    prepare_rows,
    row_ids,
)
from reconcile.classify.identity import Pairs, pair_by_id, pair_by_other_charge_id
from reconcile.classify.pairing import Ints
from reconcile.classify.stages import Stages

Texts = npt.NDArray[np.object_]
Pairing = Callable[[pd.DataFrame, pd.DataFrame, Rules, Vocabulary], Pairs]

_HAS_EVENT = (KIND["matched"], KIND["matched_live"], KIND["mismatched"], KIND["misdirected"])
_HINTS = ("hint", "hint_ms", "hint_request_id", "hint_spend", *(f"hint_{name}" for name in TOKENS))
_HINT_RANK = {REASON["same_content"]: 0, REASON["excluded_row"]: 1}
_FOREVER = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Settled:
    """Rows and events with their class. Text that repeats is categorical; '' is none.

    rows: request_id, charge_id, subscription_id, model (bare), start_ms, usage_ms, spend, the token counts, class,
    reason (a code), ambiguous (bool), event_id (the transaction ID of the row's event), event_cost (float64, NaN for
    none). The class `missing` says that Lago has no event for the row.
    events: transaction_id, charge_id, subscription_id, model, time_ms, cost (float64, NaN for none), the token
    counts, class, reason, row_request_id (of the row that it is or repeats), row_spend (float64, NaN for none).
    """

    rows: pd.DataFrame
    events: pd.DataFrame


def classify(rows: pd.DataFrame, events: pd.DataFrame, rules: Rules) -> Settled:
    """Classifies two whole frames at once (ROWS and EVENTS columns, in any order)."""
    return Classification(rules).settle(rows, events, None)


def compare_by_id(rows: pd.DataFrame, events: pd.DataFrame, rules: Rules) -> tuple[Texts, Texts, Doubles]:
    """Class, reason and event's cost of each of `rows` (ROWS) by the event of its own ID among `events`.

    '' and NaN where there is none.
    """
    vocabulary = Vocabulary()
    compact = prepare_rows(rows, rules, vocabulary)
    told = prepare_events(events, rules, vocabulary)
    pairs = pair_by_id(compact, told, rules, vocabulary)
    kinds, reasons = np.full(len(rows), "", object), np.full(len(rows), "", object)
    costs = np.full(len(rows), np.nan)
    first = pairs.kinds != KIND["duplicate"]
    kinds[pairs.rows[first]] = np.array(KINDS, object)[pairs.kinds[first]]
    reasons[pairs.rows[first]] = np.array(REASONS, object)[pairs.reasons[first]]
    costs[pairs.rows[first]] = told["cost"].to_numpy(np.float64)[pairs.events[first]]
    return kinds, reasons, costs


def as_rows(settled: pd.DataFrame) -> pd.DataFrame:
    """Settled rows as ROWS again; their model is the bare one."""
    plain = settled.reset_index(drop=True)
    empty = pd.array([""], dtype="str").take(np.zeros(len(plain), np.int64))
    names = ("model_group", "provider", "status", "cache_hit", "earlier_id")
    return plain[["request_id", "start_ms", "usage_ms", "spend", *TOKENS]].assign(
        **{name: plain[name].astype("str") for name in ("charge_id", "subscription_id", "model")},
        **dict.fromkeys(names, empty),
        earlier_sure=np.zeros(len(plain), bool),
    )


class Classification:
    """The running classification of one window."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self._vocabulary = Vocabulary()
        # What waits: compact rows and events that are not settled.
        self._rows = prepare_rows(no_rows(), rules, self._vocabulary)
        self._events = prepare_events(no_events(), rules, self._vocabulary)
        # Settled rows that events still to come may repeat.
        self._recent = self._rows
        # IDs of rows that have their own event: a further event of one may come much later.
        self._known_ids: list[Ints] = []

    def preview(self, rows: pd.DataFrame, events: pd.DataFrame) -> Settled:
        """What would be settled if nothing more came. Changes nothing."""
        other = copy.copy(self)
        other._known_ids = list(self._known_ids)
        return other.settle(rows, events, None)

    def settle(self, rows: pd.DataFrame, events: pd.DataFrame, horizon_ms: int | None) -> Settled:
        """Takes what was read since the last call: all rows and events up to (not including) `horizon_ms`."""
        work = _Work(
            _appended(self._rows, prepare_rows(rows, self.rules, self._vocabulary)),
            _appended(self._events, prepare_events(events, self.rules, self._vocabulary)),
        )
        self._by_id(work)
        self._by_content(work, _FOREVER if horizon_ms is None else horizon_ms)
        self._note_repeats(work)
        if horizon_ms is None:
            self._explain_leftovers(work)
        self._finish(work, last=horizon_ms is None)
        return self._hand_over(work, horizon_ms)

    def _by_id(self, work: _Work) -> None:
        waiting = np.flatnonzero(work.kind_of_rows == 0)
        pairs = self._pairs(pair_by_id, work, waiting)
        ids = work.events["transaction_id"].array.take(pairs.events).tolist()
        # A row that has its own event may have a second one, made for another charge ID: so it takes part in both.
        billable = np.flatnonzero(~np.isin(work.kind_of_rows, (KIND["excluded"], KIND["unattributed"])))
        pairs = self._pairs(pair_by_other_charge_id, work, billable)
        ids += row_ids(work.rows.take(np.unique(pairs.rows)), self.rules.code, self._vocabulary)
        self._known_ids.append(_as_integers(ids))

    def _pairs(self, pairing: Pairing, work: _Work, places: Ints) -> Pairs:
        rows = work.rows.take(places).assign(kind=work.kind_of_rows[places])
        events = work.events.assign(kind=work.kind_of_events)
        pairs = pairing(rows, events, self.rules, self._vocabulary)
        pairs = replace(pairs, rows=places[pairs.rows])
        work.write(pairs)
        return pairs

    def _by_content(self, work: _Work, horizon_ms: int) -> None:
        """Pairs equal content wherever nothing still to come can take part."""
        row_places, event_places = work.waiting()
        stages = Stages(work.rows.take(row_places), work.events.take(event_places), self.rules.reach)
        rows = np.flatnonzero(~work.closed_rows[row_places])
        events = np.flatnonzero(~work.closed_events[event_places])
        if horizon_ms != _FOREVER:
            row_stretch, event_stretch = stages.stretches(stages.closure_keys(), rows, events)
            size = int(max(row_stretch.max(initial=0), event_stretch.max(initial=0))) + 1
            last = np.zeros(size, np.int64)
            np.maximum.at(last, row_stretch, stages.rows.times[rows])
            np.maximum.at(last, event_stretch, stages.events.times[events])
            over = last + self.rules.reach.before + self.rules.reach.after < horizon_ms
            rows, events = rows[over[row_stretch]], events[over[event_stretch]]
        paired_rows, paired_events = stages.equal(rows, events)
        work.ambiguous[row_places[stages.in_doubt(rows, paired_rows)]] = True
        work.closed_rows[row_places[rows]] = True
        work.closed_events[event_places[events]] = True
        work.pair(row_places[paired_rows], event_places[paired_events], "matched_live", "")

    def _note_repeats(self, work: _Work) -> None:
        """Notes on live events without a row which row in reach they repeat, while that row is at hand.

        A row that has its event comes before an excluded one, then the nearest: a nearer one may come with the next
        slice.
        """
        _, waiting = work.waiting()
        known = _appended(self._recent, work.rows)
        kinds = np.concatenate((self._recent["kind"].to_numpy(), work.kind_of_rows))
        notes = [work.events.iloc[waiting[work.events["hint"].to_numpy()[waiting] != 0]][list(_HINTS)]]
        for reason, wanted in (("same_content", _HAS_EVENT), ("excluded_row", (KIND["excluded"],))):
            candidates = np.flatnonzero(np.isin(kinds, wanted))
            if not len(candidates) or not len(waiting):
                continue
            stages = Stages(known.take(candidates), work.events.take(waiting), self.rules.reach)
            met, nearest = stages.twins(np.arange(len(candidates)), np.arange(len(waiting)))
            twins = known.take(candidates[nearest])
            notes.append(
                pd.DataFrame(
                    {
                        "hint": np.full(len(met), REASON[reason], np.int8),
                        "hint_ms": twins["usage_ms"].to_numpy(),
                        "hint_request_id": twins["request_id"].array,
                        "hint_spend": twins["spend"].to_numpy(),
                        **{f"hint_{name}": twins[name].to_numpy(np.float64) for name in TOKENS},
                    },
                    index=waiting[met],
                )
            )
        best = pd.concat(notes)
        distance = np.abs(work.events["time_ms"].to_numpy()[best.index] - best["hint_ms"].to_numpy())
        best = best.assign(rank=best["hint"].map(_HINT_RANK), distance=distance)
        best = best.sort_values(["rank", "distance", "hint_ms", "hint_request_id"])
        best = best[~best.index.duplicated()]
        for name in _HINTS:
            work.events.loc[best.index, name] = best[name]

    def _explain_leftovers(self, work: _Work) -> None:
        """The end of the window: what is left on both sides, with one value off or on another subscription.

        An event that repeats a row which has its event is not taken for another row's with other tokens, another model
        or another subscription: among equal requests such coincidences are common. With another cost it is: a
        guardrail's cost can make two equal calls differ in nothing else, and sending would bill twice.
        """
        row_places, event_places = work.waiting()
        repeats = work.events["hint"].to_numpy()[event_places] == REASON["same_content"]
        told = _with_tokens_of_twins(work.events.take(event_places), repeats)
        stages = Stages(work.rows.take(row_places), told, self.rules.reach)
        rows, events = np.arange(len(row_places)), np.arange(len(event_places))
        for what in ("cost", "tokens", "model"):
            allowed = events if what == "cost" else events[~repeats[events]]
            paired_rows, paired_events = stages.one_off(what, rows, allowed)
            work.pair(row_places[paired_rows], event_places[paired_events], "mismatched", what)
            rows = rows[work.kind_of_rows[row_places[rows]] == 0]
            events = events[work.kind_of_events[event_places[events]] == 0]
        paired_rows, paired_events = stages.elsewhere(rows, events[~repeats[events]])
        work.pair(row_places[paired_rows], event_places[paired_events], "misdirected", "other_subscription")

    def _finish(self, work: _Work, *, last: bool) -> None:
        """Settles what nothing explains: at the end everything, before it what no later stage can pair."""
        row_places, event_places = work.waiting()
        if not last:
            stages = Stages(work.rows.take(row_places), work.events.take(event_places), self.rules.reach)
            wanted_rows, wanted_events = stages.could_explain(np.arange(len(row_places)), np.arange(len(event_places)))
            free_rows, free_events = work.closed_rows[row_places], work.closed_events[event_places]
            free_rows[wanted_rows], free_events[wanted_events] = False, False
            row_places, event_places = row_places[free_rows], event_places[free_events]

        spend = work.rows["spend"].to_numpy(np.float64)[row_places]
        valid = np.isfinite(spend) & (spend >= 0)
        elsewhere = work.rows["earlier_sure"].to_numpy(bool)[row_places]
        choices = [elsewhere, ~valid]
        work.kind_of_rows[row_places] = np.select(choices, [KIND["misdirected"], KIND["rejected"]], KIND["missing"])
        work.reason_of_rows[row_places] = np.select(
            choices, [REASON["other_charge_id"], REASON["invalid_spend"]], REASON["not_sent"]
        )

        if last:
            event_places = np.flatnonzero(work.kind_of_events == 0)
        hint = work.events["hint"].to_numpy()[event_places]
        kind = np.where(hint == REASON["same_content"], KIND["duplicate"], KIND["orphan"])
        reason = np.where(hint == 0, REASON["no_row"], hint)
        own = np.flatnonzero(work.events["own"].to_numpy(bool)[event_places])
        if len(own):
            ids = _as_integers(work.events["transaction_id"].array.take(event_places[own]).tolist())
            own = own[np.isin(ids, np.concatenate(self._known_ids))]
            kind[own], reason[own] = KIND["duplicate"], REASON["same_id"]
        work.kind_of_events[event_places], work.reason_of_events[event_places] = kind, reason

    def _hand_over(self, work: _Work, horizon_ms: int | None) -> Settled:
        words = self._vocabulary
        rows, events = work.finished_rows(), work.finished_events()
        done_rows, done_events = rows["kind"].to_numpy() != 0, events["kind"].to_numpy() != 0
        self._rows, self._events = rows[~done_rows], events[~done_events]
        rows = rows if done_rows.all() else rows[done_rows]
        events = events if done_events.all() else events[done_events]
        if horizon_ms is not None:
            recent = _appended(self._recent, rows.drop(columns=["event_id"]))
            span = self.rules.reach.before + self.rules.reach.after
            self._recent = recent[recent["usage_ms"].to_numpy() + span >= horizon_ms]
            self._rows = self._rows.drop(columns=["event_id"])
            self._events = self._events.drop(columns=["row_request_id", "row_spend"])
        settled_rows = rows[["request_id", "start_ms", "usage_ms", "spend", *TOKENS, "ambiguous", "event_cost"]].assign(
            event_id=rows["event_id"].array,
            charge_id=words.decode(rows["charge"].to_numpy()),
            subscription_id=words.decode(rows["subscription"].to_numpy()),
            model=words.decode(rows["model"].to_numpy()),
            **_names(rows),
        )
        settled_events = events[["transaction_id", "time_ms", "cost", *TOKENS, "row_request_id", "row_spend"]].assign(
            charge_id=words.decode(events["charge"].to_numpy()),
            subscription_id=words.decode(events["subscription"].to_numpy()),
            model=words.decode(events["model"].to_numpy()),
            **_names(events),
        )
        return Settled(settled_rows.reset_index(drop=True), settled_events.reset_index(drop=True))


class _Work:
    """The rows and events of one call, and what is decided about them as plain arrays."""

    def __init__(self, rows: pd.DataFrame, events: pd.DataFrame) -> None:
        self.rows, self.events = rows, events
        self.kind_of_rows = rows["kind"].to_numpy(copy=True)
        self.reason_of_rows = rows["reason"].to_numpy(copy=True)
        self.kind_of_events = events["kind"].to_numpy(copy=True)
        self.reason_of_events = events["reason"].to_numpy(copy=True)
        self.closed_rows = rows["closed"].to_numpy(bool, copy=True)
        self.closed_events = events["closed"].to_numpy(bool, copy=True)
        self.ambiguous = rows["ambiguous"].to_numpy(bool, copy=True)
        self.event_of_row = np.full(len(rows), -1, np.int64)
        self.row_of_event = np.full(len(events), -1, np.int64)

    def waiting(self) -> tuple[Ints, Ints]:
        """Positions of the rows, and of the live events, that have no class yet."""
        live = self.events["live"].to_numpy(bool)
        return np.flatnonzero(self.kind_of_rows == 0), np.flatnonzero((self.kind_of_events == 0) & live)

    def pair(self, rows: Ints, events: Ints, kind: str, reason: str) -> None:
        self.write(Pairs(rows, events, np.full(len(rows), KIND[kind]), np.full(len(rows), REASON[reason], np.int64)))

    def write(self, pairs: Pairs) -> None:
        """Takes pairs down on both sides; one of kind `duplicate` leaves its row as it is."""
        self.kind_of_events[pairs.events], self.reason_of_events[pairs.events] = pairs.kinds, pairs.reasons
        self.row_of_event[pairs.events] = pairs.rows
        first = pairs.kinds != KIND["duplicate"]
        rows = pairs.rows[first]
        self.kind_of_rows[rows], self.reason_of_rows[rows] = pairs.kinds[first], pairs.reasons[first]
        self.event_of_row[rows] = pairs.events[first]

    def finished_rows(self) -> pd.DataFrame:
        cost = self.events["cost"].to_numpy(np.float64)
        paired = self.event_of_row >= 0
        event_cost = np.full(len(self.rows), np.nan)
        event_cost[paired] = cost[self.event_of_row[paired]]
        return self.rows.assign(
            kind=self.kind_of_rows,
            reason=self.reason_of_rows,
            closed=self.closed_rows,
            ambiguous=self.ambiguous,
            event_cost=event_cost,
            event_id=_taken(self.events["transaction_id"], self.event_of_row),
        )

    def finished_events(self) -> pd.DataFrame:
        paired = self.row_of_event >= 0
        row_spend = np.array(self.events["hint_spend"].to_numpy(np.float64))
        row_spend[paired] = self.rows["spend"].to_numpy(np.float64)[self.row_of_event[paired]]
        request_id = pd.Series(_taken(self.rows["request_id"], self.row_of_event))
        hinted = ~paired & (self.events["hint"].to_numpy() != 0)
        if hinted.any():
            request_id[hinted] = self.events["hint_request_id"].to_numpy()[hinted]
        return self.events.assign(
            kind=self.kind_of_events,
            reason=self.reason_of_events,
            closed=self.closed_events,
            row_request_id=request_id.array,
            row_spend=row_spend,
        )


def _with_tokens_of_twins(events: pd.DataFrame, repeats: Bools) -> pd.DataFrame:
    """The events, those that repeat a row with the token counts of that row.

    An event of `/v1/responses` carries none, and would pass for any row of its model with another cost.
    """
    if not repeats.any():
        return events
    known = {name: np.where(repeats, events[f"hint_{name}"], events[name]) for name in TOKENS}
    return events.assign(**known, carried=np.where(repeats, ALL_TOKENS, events["carried"]).astype(np.int8))


def _taken(column: pd.Series, places: Ints) -> pd.api.extensions.ExtensionArray:
    """The values at `places`; '' where a place is negative."""
    return pd.Series(column.array.take(places, allow_fill=True)).fillna("").array


def _appended(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    if not len(first):
        return second.reset_index(drop=True)
    return pd.concat([first, second], ignore_index=True)


def _names(frame: pd.DataFrame) -> dict[str, Any]:
    return {
        "class": pd.Categorical.from_codes(frame["kind"].to_numpy(), pd.Index(KINDS)),
        "reason": pd.Categorical.from_codes(frame["reason"].to_numpy(), pd.Index(REASONS)),
    }


def _as_integers(ids: list[str]) -> Ints:
    """The first 60 bits of each ID's hash: enough to tell one window's IDs apart."""
    return np.array([int(name[4:19], 16) for name in ids], np.int64)

"""Classifies rows and events that arrive in order of time, slice by slice. Pure: frames in, frames out.

A row or event is settled once nothing that is still to come can change its class. What is not settled waits, so that
the way the window is cut into slices cannot change the result. `settle` takes what was read up to a horizon and gives
back what is settled; the last call, without a horizon, settles everything.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from reconcile.classify.frames import (
    COST,
    KIND,
    KINDS,
    REASON,
    REASONS,
    ROW_MODELS,
    TOKENS,
    Rules,
    Table,
    Words,
    prepare_events,
    prepare_rows,
    row_ids,
)
from reconcile.classify.hints import Hints
from reconcile.classify.identity import pair_by_id, pair_by_other_charge_id
from reconcile.classify.judgement import adds_nothing, judged, own_numbers
from reconcile.classify.pairing import Doubles, Ints, in_reach
from reconcile.classify.stages import Stages
from reconcile.classify.work import Work, kinds_in
from reconcile.domain.frames import EVENT_VERDICTS, EVENTS, ROW_VERDICTS, ROWS, constant, empty
from reconcile.domain.vocabulary import Scope

Texts = npt.NDArray[np.object_]

_HAS_EVENT = ("matched", "matched_live", "unbilled", "mismatched", "misdirected")
_REPEATS = (REASON["not_counted"], REASON["same_content"])
_COMPARABLE = ("request_id", "start_ms", "usage_ms", "spend", *TOKENS, "subscription", *ROW_MODELS, "look")
_FOREVER = np.iinfo(np.int64).max // 4
# Bytes of a request ID. Neither the ledger nor Lago's Postgres store can index one of more than about 2,600, which
# whoever calls the proxy may choose; no provider's own has more than a few hundred.
_LONGEST_ID = 2_000
_OWN_NUMBER_BITS = {"spend": COST} | {name: 1 << bit for bit, name in enumerate(TOKENS)}


@dataclass(frozen=True, slots=True)
class Settled:
    """Rows (ROW_VERDICTS) and events (EVENT_VERDICTS) with their class.

    The model of a row is the bare one. `missing` says that Lago has no event for the row.
    """

    rows: pd.DataFrame
    events: pd.DataFrame


def classify(rows: pd.DataFrame, events: pd.DataFrame, rules: Rules) -> Settled:
    """Classifies two whole frames at once (ROWS and EVENTS, in any order)."""
    return Classification(rules).settle(rows, events, None)


def compare_by_id(rows: pd.DataFrame, events: pd.DataFrame, rules: Rules) -> tuple[Texts, Texts, Doubles]:
    """Class, reason and event's cost of each of `rows` (ROWS) by the event of its own ID among `events` (EVENTS).

    '' and NaN where there is none. `matched` says that the metric counts it too, `unbilled` that it does not.
    """
    words = Words()
    compact, told = prepare_rows(rows, rules, words), prepare_events(events, rules, words)
    own = np.flatnonzero(told["own"])
    pairs = judged(pair_by_id(compact, np.arange(len(rows)), told, own, rules, words), compact, told, rules)
    kinds, reasons = np.full(len(rows), "", object), np.full(len(rows), "", object)
    costs = np.full(len(rows), np.nan)
    first = pairs.kinds != KIND["duplicate"]
    kinds[pairs.rows[first]] = np.array(KINDS, object)[pairs.kinds[first]]
    reasons[pairs.rows[first]] = np.array(REASONS, object)[pairs.reasons[first]]
    costs[pairs.rows[first]] = told["cost"][pairs.events[first]]
    return kinds, reasons, costs


def as_rows(verdicts: pd.DataFrame) -> pd.DataFrame:
    """ROW_VERDICTS as ROWS again; their model is the bare one."""
    count = len(verdicts)
    told = {
        name: constant("", count) if kind == "category" else pd.array([""] * count, dtype="str")
        for name, kind in ROWS.items()
        if name not in verdicts and kind != "bool"
    }
    plain = verdicts.reset_index(drop=True).assign(**told, earlier_sure=np.zeros(count, bool))
    return plain[[*ROWS]]


class Classification:
    """The running classification of one window."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self._words = Words()
        # What waits: rows and events that are not settled.
        self._rows = prepare_rows(empty(ROWS), rules, self._words)
        self._events = prepare_events(empty(EVENTS), rules, self._words)
        # Settled rows that events still to come may repeat, and which events repeat what.
        self._recent = self._rows
        self._hints = Hints()
        # Settled rows without an event, of each call: an event that waits or is still to come may be theirs.
        self._missing: list[Table] = []
        # IDs of rows that have their own event: a further event of one may come much later.
        self._known_ids = np.empty(0, np.int64)
        self._serial = 0
        self._horizon_ms = -_FOREVER

    @property
    def frontier_ms(self) -> int:
        """How far both sides are settled: no row or event with an earlier time waits, or is still to come."""
        times = (self._rows["usage_ms"], self._events["time_ms"])
        return min([self._horizon_ms, *(int(waiting.min()) for waiting in times if len(waiting))])

    @property
    def latest_waiting_ms(self) -> int | None:
        """The usage time of the latest row that waits, but for those that are read for their neighbours' sake alone."""
        ours = self._rows["scope"] != self._words.others.numbers([Scope.CONTEXT.value])[0]
        return int(self._rows["usage_ms"][ours].max()) if ours.any() else None

    def settle(
        self, rows: pd.DataFrame, events: pd.DataFrame, horizon_ms: int | None, delivered: Collection[str] = ()
    ) -> Settled:
        """Takes what was read since the last call: all rows and events up to (not including) `horizon_ms`.

        `delivered` are IDs of events that an earlier run delivered: they are paired by their ID alone.
        """
        self._horizon_ms = _FOREVER if horizon_ms is None else horizon_ms
        if not (len(rows) or len(events) or len(self._rows) or len(self._events)):
            # As in most slices of a quiet night: nothing came, and nothing waits.
            self._forget_recent(self._recent)
            return Settled(empty(ROW_VERDICTS), empty(EVENT_VERDICTS))
        waiting = self._rows.joined(prepare_rows(rows, self.rules, self._words))
        told = self._events.joined(prepare_events(events, self.rules, self._words, self._serial, delivered))
        self._serial += len(events)
        work = Work(self._recent.joined(waiting), len(self._recent), told, self.rules)
        self._by_id(work)
        stages = Stages(work.rows, work.events, self.rules.reach)
        self._by_content(work, stages, _FOREVER if horizon_ms is None else horizon_ms)
        self._note_repeats(work, stages)
        if horizon_ms is None:
            self._explain_leftovers(work, stages)
        self._finish(work, stages, last=horizon_ms is None)
        return self._hand_over(work, horizon_ms)

    def _by_id(self, work: Work) -> None:
        """Pairs our own events with their rows, and settles those of excluded rows, and further ones of one ID."""
        if not len(own := work.own_events()):
            return
        rows, events, rules = work.rows, work.events, self.rules
        pairs = pair_by_id(rows, work.waiting_rows(), events, own, rules, self._words)
        work.write(pairs)
        rows["by_id"][pairs.rows] = True
        ids = events["transaction_id"].take(pairs.events).tolist()
        # A row that has its own event may have a second one, made for another charge ID: so it takes part in both.
        billable = np.flatnonzero(~kinds_in(rows["kind"], ("excluded", "unattributed")))
        billable = billable[billable >= work.recent]
        pairs = pair_by_other_charge_id(rows, billable, events, work.own_events(), rules, self._words)
        work.write(pairs)
        rows["by_id"][pairs.rows] = True
        ids += row_ids(rows, np.unique(pairs.rows), rules.code, self._words)
        self._known_ids = np.concatenate((self._known_ids, _as_integers(ids)))
        excluded = np.flatnonzero(rows["kind"] == KIND["excluded"])
        pairs = pair_by_id(rows, excluded, events, work.own_events(), rules, self._words)
        work.row_of_event[pairs.events] = pairs.rows
        events["kind"][pairs.events], events["reason"][pairs.events] = KIND["orphan"], REASON["excluded_row"]
        of_house = pairs.events[events["house"][pairs.events]]
        events["kind"][of_house], events["reason"][of_house] = KIND["own"], 0
        if len(left := work.own_events()):
            again = left[np.isin(_as_integers(events["transaction_id"].take(left).tolist()), self._known_ids)]
            events["kind"][again], events["reason"][again] = KIND["duplicate"], REASON["same_id"]

    def _by_content(self, work: Work, stages: Stages, horizon_ms: int) -> None:
        """Pairs equal content wherever nothing still to come can take part.

        An event of ours that no row explains is paired as a live one is. Its row may still come: so it waits, and with
        it all that it could be paired with.
        """
        rows, events = work.waiting_rows(), work.waiting_events()
        rows, events = rows[~work.rows["closed"][rows]], events[~work.events["closed"][events]]
        if horizon_ms != _FOREVER:
            row_part, event_part, count = stages.parts(rows, events)
            last = np.full(count, -_FOREVER)
            np.maximum.at(last, row_part, work.rows["usage_ms"][rows])
            np.maximum.at(last, event_part, work.events["time_ms"][events])
            last[event_part[work.events["own"][events]]] = _FOREVER
            over = last + self.rules.reach.before + self.rules.reach.after < horizon_ms
            rows, events = rows[over[row_part]], events[over[event_part]]
        paired_rows, paired_events = stages.equal(rows, events)
        work.rows["ambiguous"][stages.in_doubt(rows, paired_rows)] = True
        work.rows["closed"][rows] = True
        work.events["closed"][events] = True
        work.pair(paired_rows, paired_events, "matched_live")

    def _note_repeats(self, work: Work, stages: Stages) -> None:
        """Notes on events without a row which row in reach they repeat, while that row is at hand.

        A row that has its event comes before an excluded one, then the nearest: a nearer one may come with the next
        slice. Beside a row's own event one that adds nothing to the metric is no repeat.
        """
        events, kinds = work.waiting_events(), work.rows["kind"]
        if not len(events):
            return
        has_event = kinds_in(kinds, _HAS_EVENT)
        nothing, rows, blind = self._adding_nothing(work, events, np.flatnonzero(has_event & work.rows["by_id"]))
        hints = self._hints
        for reason, (met, nearest) in {
            "not_counted": stages.twins(rows, nothing, blind),
            "same_content": stages.twins(np.flatnonzero(has_event), events),
            "excluded_row": stages.twins(np.flatnonzero(kinds == KIND["excluded"]), events),
        }.items():
            hints = hints.with_notes(reason, work.events, met, work.rows, nearest)
        self._hints = hints

    def _adding_nothing(self, work: Work, events: Ints, rows: Ints) -> tuple[Ints, Ints, int]:
        """The events that add nothing to the metric, the rows that should, and the bits of the number that it reads.

        That number is not compared: a cost of 0 or null beside a row with spend is what makes it add nothing.
        """
        if not len(rows):
            return events[:0], rows, 0
        numbers = own_numbers(work.rows, rows, self.rules)
        if self.rules.aggregation != "sum_agg" or numbers is None:
            return events[~work.events["counted"][events]], rows, 0
        nothing = events[adds_nothing(work.events, events)]
        return nothing, rows[numbers != 0], _OWN_NUMBER_BITS.get(self.rules.own_number or "", 0)

    def _explain_leftovers(self, work: Work, stages: Stages) -> None:
        """The end of the window: what is left on both sides, with one value off or on another subscription.

        An event that repeats a row which has its event is that row's, and not taken for another one's. Nor is one that
        equals a missing row out of reach: it is late, or a clock was off, and it holds that row back.
        """
        rows, events = work.waiting_rows(), work.waiting_events()
        events = events[~np.isin(self._hints.reasons(work.events["serial"][events]), _REPEATS)]
        events = np.setdiff1d(events, self._late_events(work, rows, events))
        for what in ("cost", "tokens", "model", "subscription"):
            if what == "subscription":
                work.pair(*stages.elsewhere(rows, events), "misdirected", "other_subscription")
            else:
                work.pair(*stages.one_off(what, rows, events), "mismatched", what)
            rows = rows[work.rows["kind"][rows] == 0]
            events = events[work.events["kind"][events] == 0]

    def _late_events(self, work: Work, rows: Ints, events: Ints) -> Ints:
        """Those of `events` that equal a row out of reach without an event: one of `rows`, or one settled before."""
        rows = rows[self._kinds_without_event(work, rows)[0] == KIND["missing"]]
        missing = _comparable(work.rows, rows).joined(*self._missing)
        if not len(missing) or not len(events):
            return events[:0]
        stages = Stages(missing, work.events.take(events), self.rules.doubt)
        met, nearest = stages.twins(np.arange(len(missing)), np.arange(len(events)))
        far = ~in_reach(stages.events.times[met] - stages.rows.times[nearest], self.rules.reach)
        return events[met[far]]

    def _finish(self, work: Work, stages: Stages, *, last: bool) -> None:
        """Settles what nothing explains: at the end everything, before it what no later stage can pair."""
        rows, events = work.waiting_rows(), work.waiting_events()
        if last:
            events = np.flatnonzero((work.events["kind"] == 0) & (work.events["copy_of"] < 0))
        else:
            hints = self._hints.reasons(work.events["serial"][events])
            repeats = np.isin(hints, _REPEATS) & work.events["closed"][events]
            wanted_rows, wanted_events = stages.could_explain(rows, events[~repeats])
            free_rows, free_events = work.rows["closed"].copy(), work.events["closed"].copy()
            free_rows[wanted_rows], free_events[wanted_events] = False, False
            rows, events = rows[free_rows[rows]], events[free_events[events]]
        self._finish_rows(work, rows)
        self._finish_events(work, events)
        work.settle_copies()

    def _finish_rows(self, work: Work, places: Ints) -> None:
        work.rows["kind"][places], work.rows["reason"][places] = self._kinds_without_event(work, places)

    def _kinds_without_event(self, work: Work, places: Ints) -> tuple[Ints, Ints]:
        """Kind and reason (codes) of rows that nothing explains."""
        spend = work.rows["spend"][places]
        choices = {
            ("misdirected", "other_charge_id"): work.rows["earlier_sure"][places],
            ("rejected", "invalid_spend"): ~(np.isfinite(spend) & (spend >= 0)),
            ("rejected", "id_too_long"): _byte_lengths(work.rows["request_id"].take(places)) > _LONGEST_ID,
            ("excluded", "retrieval"): work.rows["retrieval"][places] & (spend == 0),
        }
        conditions, names = list(choices.values()), list(choices)
        return (
            np.select(conditions, [KIND[kind] for kind, _ in names], KIND["missing"]),
            np.select(conditions, [REASON[reason] for _, reason in names], REASON["not_sent"]),
        )

    def _finish_events(self, work: Work, places: Ints) -> None:
        hint = self._hints.reasons(work.events["serial"][places])
        kind = np.full(len(places), KIND["orphan"])
        reason = np.where(hint == 0, REASON["no_row"], hint)
        kind[hint == REASON["same_content"]] = KIND["duplicate"]
        kind[hint == REASON["not_counted"]] = KIND["unbilled"]
        of_house = work.events["house"][places]
        kind[of_house], reason[of_house] = KIND["own"], 0
        work.events["kind"][places], work.events["reason"][places] = kind, reason
        work.events["by_content"][places[hint != 0]] = True

    def _hand_over(self, work: Work, horizon_ms: int | None) -> Settled:
        done_rows = work.settled_rows()
        done = work.events["kind"] != 0
        done_events = np.flatnonzero(done)
        settled = Settled(
            work.row_verdicts(done_rows, self._words), work.event_verdicts(done_events, self._hints, self._words)
        )
        self._rows = work.rows.take(work.waiting_rows())
        self._events = work.events.take(np.flatnonzero(~done))
        self._hints = self._hints.without(work.events["serial"][done_events])
        self._forget_recent(work.rows.take(np.flatnonzero(work.rows["kind"] != 0)))
        missing = done_rows[work.rows["kind"][done_rows] == KIND["missing"]]
        self._missing = [
            table
            for table in (*self._missing, _comparable(work.rows, missing))
            if len(table) and int(table["usage_ms"].max()) + self.rules.doubt.after >= self.frontier_ms
        ]
        return settled

    def _forget_recent(self, settled: Table) -> None:
        """Keeps of settled rows those that an event still to come may repeat."""
        near = settled["usage_ms"] + self.rules.reach.before + self.rules.reach.after >= self._horizon_ms
        self._recent = settled.take(np.flatnonzero(near))


def _comparable(rows: Table, places: Ints) -> Table:
    """What the content of rows is compared by."""
    return Table({name: rows[name].take(places) for name in _COMPARABLE}, len(places))


def _byte_lengths(texts: Any) -> Ints:
    return np.asarray(pc.binary_length(pa.array(texts)).to_numpy(zero_copy_only=False), np.int64)


def _as_integers(ids: list[str]) -> Ints:
    """The first 60 bits of each ID's hash: enough to tell one window's IDs apart."""
    return np.array([int(name[4:19], 16) for name in ids], np.int64)

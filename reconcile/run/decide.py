"""Decides what becomes of rows that have no event: held back with a reason, or sent. Pure.

A missing row waits until every event that could be its own has been read: an unexplained live event of equal content
may lie hours away, where LiteLLM's queue or a clock was late. So may one that repeats a later call of equal content.
And where many rows are missing beside as many unexplained events that could be theirs, nothing is sent at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from reconcile.classify import Reach
from reconcile.classify.doubt import Doubt, doubt, late_events
from reconcile.classify.frames import TOKENS
from reconcile.domain.event import OWN_ID
from reconcile.domain.frames import EVENT_VERDICTS, ROW_VERDICTS, among, changed, empty, joined, where
from reconcile.domain.vocabulary import EventClass, Reason, RowClass, Scope

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_FOREVER = np.iinfo(np.int64).max

Key = tuple[str, int]  # request_id, start_ms


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator set about sending.

    Rows with more spend than `row_limit` (USD) are not sent, nor those with a usage time before `start_ms`. `pushed`
    are classes that are sent although Lago may hold their event; with `push_not_counted` so are rows of which a live
    event adds nothing to the sum that is billed.
    """

    row_limit: float
    start_ms: int | None = None
    pushed: frozenset[str] = frozenset()
    push_not_counted: bool = False


@dataclass(frozen=True, slots=True)
class Pending:
    """Missing rows (ROW_VERDICTS), and the unexplained and second events (EVENT_VERDICTS) that may hold them back.

    `twins` are the keys of those rows that another row of equal content encloses in time.
    """

    rows: pd.DataFrame = field(default_factory=lambda: empty(ROW_VERDICTS))
    events: pd.DataFrame = field(default_factory=lambda: empty(EVENT_VERDICTS))
    twins: frozenset[Key] = frozenset()

    def awaited_ms(self, reach: Reach, unpaired_ms: int | None) -> int | None:
        """How far events have to be read, in ms, before every row can be decided about; None where none waits.

        `unpaired_ms` is the usage time of the latest row that may yet be found to be missing, None for none.
        """
        times = [unpaired_ms] if unpaired_ms is not None else []
        times += [int(self.rows["usage_ms"].max())] if len(self.rows) else []
        return max(times) + reach.after if times else None


@dataclass(frozen=True, slots=True)
class Taken:
    """What a step leaves: rows and events that are decided, rows that may be sent although they have an event, and what
    waits."""

    rows: pd.DataFrame
    pushable: pd.DataFrame
    events: pd.DataFrame
    pending: Pending


@dataclass(frozen=True, slots=True)
class Due:
    """Missing rows whose time has come: every event that could be theirs has been read."""

    rows: pd.DataFrame
    pending: Pending


def take(pending: Pending, rows: pd.DataFrame, events: pd.DataFrame, twins: frozenset[Key], policy: Policy) -> Taken:
    """Sorts fresh verdicts: missing rows wait, with unexplained and second events; the rest is decided.

    A row that was read as context alone belongs to another run's window: nothing becomes of it here.
    """
    if rows.empty and events.empty:
        return Taken(rows, rows, events, pending)
    ours = ~among(rows["scope"], [Scope.CONTEXT])
    missing = ours & among(rows["class"], [RowClass.MISSING])
    pushable = ours & _pushable(rows, policy)
    could_hold = among(events["reason"], [Reason.NO_ROW]) & among(events["class"], [EventClass.ORPHAN])
    could_hold |= _second_events(events)
    waiting = rows[missing]
    if twins:
        twins &= frozenset(zip(waiting["request_id"].tolist(), waiting["start_ms"].tolist(), strict=True))
    return Taken(
        rows=where(rows, ~missing & ~pushable),
        pushable=rows[pushable],
        events=where(events, ~could_hold),
        pending=Pending(
            joined([pending.rows, waiting]), joined([pending.events, events[could_hold]]), pending.twins | twins
        ),
    )


def _second_events(events: pd.DataFrame) -> Bools:
    """Live events that equal a row which has its event. One may be that of an equal row before, for which it came late.

    One under an ID of ours is not: whatever its row was, it is not another one. Nor is one that tells the model alone,
    and no cost or 0, as of images without a price: it repeats any of them.
    """
    second = among(events["class"], [EventClass.DUPLICATE]) & among(events["reason"], [Reason.SAME_CONTENT])
    if second.any():
        second[second] = ~events["transaction_id"][second].str.fullmatch(OWN_ID.pattern).to_numpy(bool)
        second &= events[list(TOKENS)].notna().any(axis=1).to_numpy(bool) | (events["cost"].fillna(0.0) != 0).to_numpy(
            bool
        )
    return np.asarray(second)


def _pushable(rows: pd.DataFrame, policy: Policy) -> Bools:
    """Rows that the operator wants sent though an event is there, of those that can be sent at all."""
    wanted = among(rows["class"], policy.pushed)
    if policy.push_not_counted:
        # An event of our own, under the row's own ID, would be refused or folded: only a live one can be made good.
        live = ~rows["event_id"].str.fullmatch(OWN_ID.pattern).to_numpy(bool)
        wanted |= among(rows["class"], [RowClass.UNBILLED]) & among(rows["reason"], [Reason.NOT_COUNTED]) & live
    spend = rows["spend"].to_numpy(np.float64)
    return np.asarray(wanted & np.isfinite(spend) & (spend >= 0))


def release(pending: Pending, events_until_ms: int, reach: Reach, *, is_beyond: bool) -> Due:
    """Takes out the rows that no event later than what was read can belong to. `events_until_ms` is how far was
    read. None is due while `is_beyond`: those near a stretch's end are decided about together, when all is read."""
    if pending.rows.empty:
        return Due(pending.rows, pending)
    usage = pending.rows["usage_ms"].to_numpy(np.int64)
    due = np.zeros(len(usage), bool) if is_beyond else usage <= events_until_ms - reach.after
    return Due(pending.rows[due].reset_index(drop=True), replace(pending, rows=pending.rows[~due]))


def release_events(pending: Pending, rows_until_ms: int, reach: Reach) -> tuple[pd.DataFrame, Pending]:
    """Takes out the events that hold a row back, and those that no row can claim any more.

    `rows_until_ms` is how far rows were classified.
    """
    if pending.events.empty:
        return pending.events, pending
    earliest = min(rows_until_ms, int(pending.rows["usage_ms"].min()) if len(pending.rows) else _FOREVER)
    over = pending.events["time_ms"].to_numpy(np.int64) < earliest - reach.before
    over |= among(pending.events["reason"], [Reason.LATE_EVENT])
    return pending.events[over].reset_index(drop=True), replace(pending, events=pending.events[~over])


def static_reasons(
    rows: pd.DataFrame, nobody: Sequence[str], second_writing: Sequence[str], policy: Policy
) -> list[str]:
    """Per row why it is held back whatever events there are; '' where it may be sent.

    `nobody` says why Lago would bill nobody for it, `second_writing` that LiteLLM wrote it twice; '' for neither.
    """
    usage, spend = rows["usage_ms"].to_numpy(np.int64), rows["spend"].to_numpy(np.float64)
    early = usage < policy.start_ms if policy.start_ms is not None else np.zeros(len(rows), bool)
    reasons = []
    for too_early, uncovered, twice, over in zip(early, nobody, second_writing, spend > policy.row_limit, strict=True):
        if too_early:
            reasons.append(Reason.BEFORE_START.value)
        else:
            reasons.append(uncovered or twice or (Reason.OVER_LIMIT.value if over else ""))
    return reasons


@dataclass(frozen=True, slots=True)
class Decided:
    """`rows` with class `held` and a reason, or still `missing`: those may be sent. The `pending` events that hold a
    row back have the reason `late_event`. `doubt` says why nothing may be sent."""

    rows: pd.DataFrame
    pending: Pending
    doubt: Doubt | None


def decide(
    rows: pd.DataFrame, reasons: Sequence[str], pending: Pending, reach: Reach, slice_ms: int | None = None
) -> Decided:
    """Holds back what must not be sent. `reasons` are those of `static_reasons`, row by row.

    The rows may be of many slices: `slice_ms` tells them apart, since a single one may be in doubt.

    Only a row that could be sent otherwise claims an event: an unexplained one before a second one, which has to lie
    after it. The doubt is about these rows and unexplained events, and is said before any of them is held for an event
    of its own: a clock that is wrong makes every event look late.
    """
    if rows.empty:
        return Decided(rows, pending, None)
    held = np.array([bool(reason) for reason in reasons], bool)
    told = list(reasons)
    sendable = np.flatnonzero(~held)
    second = among(pending.events["class"], [EventClass.DUPLICATE])
    found = doubt(rows.iloc[sendable], where(pending.events, ~second), reach, slice_ms) if len(sendable) else None
    claimed = _claimed(rows.iloc[sendable], pending.events, second, reach)
    late = sendable[claimed >= 0]
    for place in late.tolist():
        told[place] = Reason.LATE_EVENT.value
    places = np.flatnonzero(held)
    places = np.union1d(places, late)
    events = pending.events
    if len(late):
        # The event is an orphan, with the reason; it can hold no other row back.
        events = _held_for(events, claimed[claimed >= 0])
    decided = rows.assign(
        **{
            "class": changed(rows["class"], places, RowClass.HELD.value),
            "reason": changed(rows["reason"], places, [told[place] for place in places.tolist()]),
        }
    )
    return Decided(decided, replace(pending, events=events), found)


def _claimed(rows: pd.DataFrame, events: pd.DataFrame, second: Bools, reach: Reach) -> Ints:
    """Per row the place of the event that holds it back, -1 for none."""
    claimed = np.full(len(rows), -1, np.int64)
    for places, width in ((np.flatnonzero(~second), reach), (np.flatnonzero(second), reach._replace(before=0))):
        free = np.flatnonzero(claimed < 0)
        if len(free) and len(places):
            found = late_events(rows.iloc[free], events.iloc[places], width)
            claimed[free[found >= 0]] = places[found[found >= 0]]
    return claimed


def _held_for(events: pd.DataFrame, places: Ints) -> pd.DataFrame:
    """The events with those at `places` as orphans that hold a row back: they repeat no other row."""
    held = np.zeros(len(events), bool)
    held[places] = True
    kinds = {"class": changed(events["class"], places, EventClass.ORPHAN.value)}
    return events.assign(
        **kinds,
        reason=changed(events["reason"], places, Reason.LATE_EVENT.value),
        row_request_id=events["row_request_id"].mask(held, ""),
        row_start_ms=events["row_start_ms"].mask(held, 0),
        row_spend=events["row_spend"].mask(held),
        row_scope=changed(events["row_scope"], places, ""),
    )


@dataclass(frozen=True, slots=True)
class Chosen:
    """What becomes of rows now: `kept` stay as they are, `to_send` go out; `ours` marks those of them that go out
    although Lago may hold an event of theirs."""

    kept: pd.DataFrame
    to_send: pd.DataFrame
    ours: Bools


def choose(decided: pd.DataFrame, pushable: pd.DataFrame, pushable_reasons: Sequence[str], *, may_send: bool) -> Chosen:
    """Splits rows into those that go out and those that stay. `pushable_reasons` are those of `static_reasons`."""
    if decided.empty and pushable.empty:
        return Chosen(decided, decided, np.zeros(0, bool))
    if not may_send:
        return Chosen(joined([decided, pushable]), empty(ROW_VERDICTS), np.zeros(0, bool))
    missing = among(decided["class"], [RowClass.MISSING])
    free = np.array([not reason for reason in pushable_reasons], bool)
    return Chosen(
        kept=joined([decided[~missing], pushable[~free]]),
        to_send=joined([decided[missing], pushable[free]]),
        ours=np.concatenate([np.zeros(int(missing.sum()), bool), np.ones(int(free.sum()), bool)]),
    )

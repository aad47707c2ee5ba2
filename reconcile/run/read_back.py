"""Reads Lago back after a delivery: `verified` means that Lago was asked, and holds what the run says.

On the Postgres store a count is enough where everything was simply accepted: events are never changed or deleted there,
and each accepted one was not there before. What was listed plus what was accepted is what Lago has to count now. Where
it does not, and always on a ClickHouse store, the events themselves are listed and compared.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from reconcile.classify import as_rows, compare_by_id
from reconcile.domain.frames import EVENTS, changed, empty, joined
from reconcile.domain.instants import as_ms, milliseconds, moment
from reconcile.domain.vocabulary import Reason, RowClass
from reconcile.domain.window import Window
from reconcile.errors import NotVisibleFault, ReconcileError
from reconcile.run.read import list_events
from reconcile.run.shared import Run

Ints = npt.NDArray[np.int64]

# Up to this many delivered rows of one slice are looked up by subscription, more by listing the slice.
_LOOKED_UP_SINGLY = 3
_LISTED_TOGETHER = 5_000
_SLICES_TOGETHER = 24


@dataclass(frozen=True, slots=True)
class Listed:
    """The parts of time that were listed, in order, and how many events Lago must hold in each by now."""

    windows: tuple[Window, ...] = ()
    events: tuple[int, ...] = ()

    def with_part(self, window: Window, events: int) -> Listed:
        return Listed((*self.windows, window), (*self.events, events))

    def with_accepted(self, times: Ints) -> Listed:
        """The same after events of these times were accepted."""
        starts = np.array([milliseconds(window.start) for window in self.windows], np.int64)
        place = np.searchsorted(starts, times, side="right") - 1
        more = np.bincount(place, minlength=len(self.windows)).tolist()
        return replace(self, events=tuple(a + b for a, b in zip(self.events, more, strict=True)))

    def around(self, times: Ints) -> list[tuple[Window, int]]:
        """The parts that hold these times, neighbours as one, with the number of events that Lago must hold there."""
        starts = np.array([milliseconds(window.start) for window in self.windows], np.int64)
        places = np.unique(np.searchsorted(starts, times, side="right") - 1).tolist()
        found: list[tuple[Window, int]] = []
        for place in places:
            window, events = self.windows[place], self.events[place]
            if found and found[-1][0].end == window.start:
                found[-1] = (Window(found[-1][0].start, window.end), found[-1][1] + events)
            else:
                found.append((window, events))
        return found


@dataclass(frozen=True, slots=True)
class Verified:
    """The delivered rows (ROW_VERDICTS) as Lago shows them, and the fault where it does not show them all."""

    rows: pd.DataFrame
    fault: ReconcileError | None = None


def verify(run: Run, rows: pd.DataFrame, ids: Sequence[str], listed: Listed) -> Verified:
    """Reads Lago back for delivered rows; waits, bounded, for what it shows late.

    `ids` are the rows' transaction IDs; `listed` counts what was accepted already. Rows come back as `delivered` where
    Lago has the event with equal content, else as what Lago's event makes of them.
    """
    times = rows["usage_ms"].to_numpy(np.int64)
    simple = (rows["reason"].to_numpy(object) == Reason.ACCEPTED.value).all()
    with run.timing.stage("verify"):
        if simple and not run.sides.clickhouse and _counts_agree(run, listed.around(times)):
            return Verified(rows)
        return _compared(run, rows, np.array(ids, object), times)


def listed_ids(run: Run, rows: pd.DataFrame, ids: Collection[str]) -> set[str]:
    """Which of the rows' events Lago lists by now."""
    found = joined([empty(EVENTS), *_listings(run, rows["usage_ms"].to_numpy(np.int64), rows)])
    return set(found["transaction_id"].tolist()) & set(ids)


def _counts_agree(run: Run, around: Sequence[tuple[Window, int]]) -> bool:
    lago, code = run.sides.lago, run.settings.event_code
    return all(lago.count_events(code, window.start, window.end) == events for window, events in around)


def _compared(run: Run, rows: pd.DataFrame, ids: npt.NDArray[np.object_], times: Ints) -> Verified:
    kinds = np.full(len(rows), "", object)
    reasons = np.full(len(rows), "", object)
    costs = np.full(len(rows), np.nan)
    deadline = time.monotonic() + run.settings.visible_within.total_seconds()
    pause = 0.5
    while True:
        open_rows = np.flatnonzero(kinds == "")
        part = rows.iloc[open_rows]
        for events in _listings(run, times[open_rows], part):
            ours = events[events["transaction_id"].isin(ids[open_rows].tolist())]
            if ours.empty:
                continue
            found, why, cost = compare_by_id(as_rows(part), ours, run.rules)
            seen = np.flatnonzero(found != "")
            kinds[open_rows[seen]] = np.where(
                found[seen] == RowClass.MATCHED.value, RowClass.DELIVERED.value, found[seen]
            )
            reasons[open_rows[seen]], costs[open_rows[seen]] = why[seen], cost[seen]
        waiting = rows["reason"].to_numpy(object)[kinds == ""]
        # What Lago said it has already, on Postgres, will not appear by waiting.
        may_come = run.sides.clickhouse or bool((waiting != Reason.EXISTS.value).any())
        if not len(waiting) or not may_come or time.monotonic() >= deadline:
            break
        if run.stop.wait(min(pause, max(0.0, deadline - time.monotonic()))):
            break
        pause = min(pause * 1.5, 10.0)
    _find_elsewhere(run, rows, ids, kinds, reasons)
    delivered = kinds == RowClass.DELIVERED.value
    reasons[delivered] = rows["reason"].to_numpy(object)[delivered]
    costs[delivered] = np.nan
    lost = np.flatnonzero(kinds == "")
    kinds[lost], reasons[lost] = RowClass.MISSING.value, Reason.NOT_VISIBLE.value
    places = np.arange(len(rows))
    told = rows.assign(
        **{
            "class": changed(rows["class"], places, kinds.tolist()),
            "reason": changed(rows["reason"], places, reasons.tolist()),
        }
    ).assign(event_cost=costs)
    return Verified(told, _not_visible(run, ids[lost].tolist()) if len(lost) else None)


def _not_visible(run: Run, ids: list[str]) -> NotVisibleFault:
    names = ", ".join(ids[:5])
    more = f" and {len(ids) - 5} more" if len(ids) > 5 else ""
    return NotVisibleFault(
        f"Lago accepted {len(ids)} events that it does not show {run.settings.visible_within.total_seconds():.0f} s "
        f"later: {names}{more}; running again is safe (RECONCILE_VISIBLE_WITHIN sets how long to wait)"
    )


def _listings(run: Run, times: Ints, rows: pd.DataFrame) -> list[pd.DataFrame]:
    """What Lago lists around the usage times of the rows: an event of an older Lago may lie a millisecond early."""
    found = []
    slices, place = np.unique(times // as_ms(run.settings.slice_length), return_inverse=True)
    groups: list[list[int]] = []
    counts = np.bincount(place, minlength=len(slices))
    held = 0
    for number in range(len(slices)):
        near = groups and slices[number] == slices[number - 1] + 1 and len(groups[-1]) < _SLICES_TOGETHER
        if near and held + counts[number] <= _LISTED_TOGETHER:
            groups[-1].append(number)
            held += int(counts[number])
        else:
            groups.append([number])
            held = int(counts[number])
    lago, code = run.sides.lago, run.settings.event_code
    for group in groups:
        members = np.flatnonzero(np.isin(place, group))
        if len(members) <= _LOOKED_UP_SINGLY:
            for at in members.tolist():
                when = int(times[at])
                subscription = str(rows["subscription_id"].iloc[at])
                found.append(
                    lago.list_events(
                        code,
                        moment(when - 1),
                        moment(when + 1),
                        run.event_shape,
                        external_subscription_id=subscription,
                    )
                )
        else:
            span = times[members]
            found.append(list_events(run, Window(moment(int(span.min()) - 1), moment(int(span.max()) + 1))))
    return found


def _find_elsewhere(
    run: Run,
    rows: pd.DataFrame,
    ids: npt.NDArray[np.object_],
    kinds: npt.NDArray[np.object_],
    reasons: npt.NDArray[np.object_],
) -> None:
    """Rows whose event exists, Lago says, but not at their usage time."""
    exists = rows["reason"].to_numpy(object) == Reason.EXISTS.value
    for place in np.flatnonzero((kinds == "") & exists).tolist():
        found = run.sides.lago.find_event(str(ids[place]))
        if found is None:
            # Deleted together with its metric, the ID stays taken (lago-api, unique index over deleted events).
            kinds[place], reasons[place] = RowClass.REJECTED.value, Reason.EXISTS_BUT_DELETED.value
        elif found.get("external_subscription_id") != str(rows["subscription_id"].iloc[place]):
            kinds[place], reasons[place] = RowClass.MISDIRECTED.value, Reason.OTHER_SUBSCRIPTION.value
        else:
            kinds[place], reasons[place] = RowClass.MISMATCHED.value, Reason.TIMESTAMP.value

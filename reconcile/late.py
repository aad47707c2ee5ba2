"""Rows that a window does not reach: late ones in hours that were reconciled already, and those held back before.

LiteLLM can write a row hours or days after its end, and a very long call appears under an old start. Rows never change,
so counting the rows of each hour tells: an hour with more rows than were reconciled is read again, and its rows are
reconciled at their own usage time, whatever the window; one with fewer than it ever had was cut by retention.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt
import pandas as pd

from reconcile.books import Books
from reconcile.classify import no_rows
from reconcile.context import Context, as_ms, moment
from reconcile.settlement import Settlement, hold_reasons
from reconcile.spend_logs import milliseconds
from reconcile.unchanged import aligned, read_together
from reconcile.window import Window
from reconcile.window_run import WindowRun

_HOUR = timedelta(hours=1)
_HOUR_MS = 3_600_000
_EPOCH = moment(0)


@dataclass(frozen=True, slots=True)
class Recount:
    """The hours of "startTime", counted before anything was read.

    `counts` holds every hour that has rows, `grown` the hours with rows that no run has reconciled. `cut_rows` and
    `cut_hours` say how much LiteLLM has deleted since, `cut_until` is the end of the last such hour.
    """

    counts: pd.Series
    grown: list[datetime]
    cut_rows: int
    cut_hours: int
    cut_until: datetime | None


def recount(context: Context, window: Window, *, recheck: bool) -> Recount:
    """Counts the hours that a row of the window may have begun in; with `recheck` all of RECONCILE_RECHECK."""
    settings, sides = context.settings, context.sides
    start = window.start - settings.max_call
    if recheck:
        start = min(start, window.end - settings.recheck)
    start = _EPOCH + (start - _EPOCH) // _HOUR * _HOUR
    end = _EPOCH + -((_EPOCH - window.end) // _HOUR) * _HOUR + _HOUR
    counts = sides.spend_logs.hours(Window(start, end))
    known = sides.ledger.hours(sides.stream, start, end)
    there = counts.reindex(known.index, fill_value=0)
    grown = known.index[there > known["rows"]] if recheck else known.index[:0]
    cut = (known["peak"] - there).clip(lower=0)
    gone = known.index[cut > 0]
    return Recount(
        counts=counts,
        grown=[hour.to_pydatetime() for hour in grown],
        cut_rows=int(cut.sum()),
        cut_hours=len(gone),
        cut_until=(gone.max().to_pydatetime() + _HOUR) if len(gone) else None,
    )


class LateRows:
    """The rows of hours that grew, read whole before the window is worked on."""

    def __init__(self, context: Context, window: Window, found: Recount) -> None:
        self._context, self._window, self._found = context, window, found
        far_past = Window(_EPOCH, window.end)
        frames = [context.sides.spend_logs.rows(hours, far_past) for hours in _runs(found.grown)]
        self.rows = pd.concat(frames, ignore_index=True) if frames else no_rows()
        times = self.rows["usage_ms"].to_numpy(np.int64)
        inside = times >= milliseconds(window.start)
        long = times - self.rows["start_ms"].to_numpy(np.int64) > as_ms(context.settings.max_call)
        # Calls that ended in the window, but began too long before their end to be found by their start. The slices of
        # shorter ones are read anyway, since the hours that they began in have grown.
        self.in_window = self.rows[inside & long].reset_index(drop=True)
        self._before = self.rows[~inside].reset_index(drop=True)

    def must_read(self) -> list[Window]:
        """Where the window has to be read whatever its counts."""
        times = self.in_window["usage_ms"].to_numpy(np.int64)
        return [Window(moment(time), moment(time + 1)) for time in times.tolist()]

    def keys(self) -> set[tuple[str, int]]:
        """The late rows before the window: (request_id, start_ms)."""
        return set(zip(self._before["request_id"].tolist(), self._before["start_ms"].tolist(), strict=True))

    def settle(self, books: Books) -> None:
        """Reconciles the late rows at their own usage time; books rows alone."""
        context = self._context
        if self._before.empty:
            return
        late = self.keys()

        def in_books(rows: pd.DataFrame) -> npt.NDArray[np.bool_]:
            keys = zip(rows["request_id"].tolist(), rows["start_ms"].tolist(), strict=True)
            return np.fromiter((key in late for key in keys), bool, len(rows))

        for window in _usage_windows(self._before, self._window.start):
            settlement = Settlement(context, books, in_books, lambda events: np.zeros(len(events), bool))
            parts = read_together(aligned(window, context.settings.slice_length), self._found.counts)
            WindowRun(context, parts, settlement, lambda part, rows, events: None, self._before).work()

    def keep_counts(self) -> None:
        """Takes down that all rows of the hours that grew are reconciled, up to the end of the window."""
        if not self._found.grown:
            return
        hour_of = self.rows["start_ms"].to_numpy(np.int64) // _HOUR_MS
        read = dict(zip(*(part.tolist() for part in np.unique(hour_of, return_counts=True)), strict=True))
        self._context.sides.ledger.keep_hours(
            self._context.sides.stream,
            self._context.run_id,
            {
                hour: (read.get(milliseconds(hour) // _HOUR_MS, 0), int(self._found.counts.get(pd.Timestamp(hour), 0)))
                for hour in self._found.grown
            },
        )


def retry_held(context: Context, window: Window, books: Books, seen: set[tuple[str, int]]) -> None:
    """Tries rows that were held back before, however old: sends those that Lago would bill now.

    Rows of the window itself are decided by its own reading, and those in `seen` were decided just now.
    """
    stream, ledger = context.sides.stream, context.sides.ledger
    entries = [
        entry
        for entry in ledger.held(stream)
        if not milliseconds(window.start) <= entry["usage_ms"] < milliseconds(window.end)
        and (entry["request_id"], entry["start_ms"]) not in seen
    ]
    if not entries:
        return
    rows = _held_rows(entries)
    subscription, reason = hold_reasons(context, rows["charge_id"].tolist(), rows["usage_ms"].to_numpy(np.int64))
    free = np.flatnonzero(reason == "")
    rows["subscription_id"] = pd.array(subscription, dtype="str")
    for window_of_rows in _usage_windows(rows.iloc[free], window.start) if len(free) else []:
        keys = {(entry["request_id"], entry["start_ms"]) for entry in entries}
        settlement = _Retry(context, books, keys)
        parts = aligned(window_of_rows, context.settings.slice_length)
        WindowRun(context, parts, settlement, lambda part, rows, events: None, rows.iloc[free]).work()
        ledger.release(stream, settlement.settled)


def forget_settled(context: Context, window: Window, held_now: set[tuple[str, int]]) -> None:
    """Forgets the held rows of the window that this run did not have to hold back again."""
    stream, ledger = context.sides.stream, context.sides.ledger
    ledger.release(
        stream,
        [
            (entry["request_id"], entry["start_ms"])
            for entry in ledger.held(stream)
            if milliseconds(window.start) <= entry["usage_ms"] < milliseconds(window.end)
            and (entry["request_id"], entry["start_ms"]) not in held_now
        ],
    )


class _Retry(Settlement):
    """Settles held rows alone, and knows which of them are settled for good."""

    def __init__(self, context: Context, books: Books, keys: set[tuple[str, int]]) -> None:
        self.settled: list[tuple[str, int]] = []

        def in_books(rows: pd.DataFrame) -> npt.NDArray[np.bool_]:
            found = zip(rows["request_id"].tolist(), rows["start_ms"].tolist(), strict=True)
            return np.fromiter((key in keys for key in found), bool, len(rows))

        def booked(rows: pd.DataFrame) -> None:
            done = rows[~rows["class"].isin(("held", "missing"))]
            self.settled += list(zip(done["request_id"].tolist(), done["start_ms"].tolist(), strict=True))

        super().__init__(context, books, in_books, lambda events: np.zeros(len(events), bool), booked_rows=booked)


def _held_rows(entries: list[dict[str, object]]) -> pd.DataFrame:
    """Held rows as ROWS: what the ledger kept of them."""
    frame = no_rows().reindex(range(len(entries)))
    kept: list[dict[str, object]] = [entry["row"] for entry in entries]  # type: ignore[misc]
    for name in frame:
        if name in ("request_id", "start_ms", "usage_ms"):
            values = [entry[name] for entry in entries]
        elif name in kept[0]:
            values = [row[name] for row in kept]
        elif name == "earlier_sure":
            values = [False] * len(entries)
        else:
            values = [""] * len(entries)
        frame[name] = pd.Series(values, dtype=no_rows()[name].dtype)
    return frame


def _runs(hours: list[datetime]) -> list[Window]:
    """Contiguous hours as windows."""
    runs: list[Window] = []
    for hour in sorted(hours):
        if runs and runs[-1].end == hour:
            runs[-1] = Window(runs[-1].start, hour + _HOUR)
        else:
            runs.append(Window(hour, hour + _HOUR))
    return runs


def _usage_windows(rows: pd.DataFrame, before: datetime) -> list[Window]:
    """The hours of the rows' usage times, as contiguous windows that end before the main one."""
    hours = np.unique(rows["usage_ms"].to_numpy(np.int64) // _HOUR_MS)
    windows = _runs([moment(int(hour) * _HOUR_MS) for hour in hours.tolist()])
    return [Window(window.start, min(window.end, before)) if window.start < before else window for window in windows]

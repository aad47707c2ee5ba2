"""Rows that a window does not reach: late ones in hours that were reconciled already, and those held back before.

LiteLLM can write a row hours or days after its end, and a very long call appears under an old start. Rows never change,
so counting the rows of each hour tells: an hour with more rows than were reconciled is read again, and its rows are
reconciled at their own usage time, whatever the window; one with fewer than it ever had was cut by retention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt
import pandas as pd

from reconcile.classify import no_rows
from reconcile.domain.document import RowTotals
from reconcile.domain.money import total
from reconcile.domain.window import Window
from reconcile.litellm.spend_logs import milliseconds
from reconcile.run.books import Books
from reconcile.run.context import Context, as_ms, moment
from reconcile.run.settlement import Settlement, hold_reasons
from reconcile.run.unchanged import aligned, read_together
from reconcile.run.window_run import WindowRun

_HOUR = timedelta(hours=1)
_HOUR_MS = 3_600_000
_EPOCH = moment(0)

# Of a row: request_id, start_ms.
Key = tuple[str, int]


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
        self._long = self.rows[long]
        self._before = self.rows[~inside].reset_index(drop=True)

    def must_read(self) -> list[Window]:
        """Where the window has to be read whatever its counts."""
        times = self.in_window["usage_ms"].to_numpy(np.int64)
        return [Window(moment(time), moment(time + 1)) for time in times.tolist()]

    def settle(self, books: Books, held: HeldRows) -> None:
        """Reconciles the late rows at their own usage time; books rows alone."""
        context = self._context
        if self._before.empty:
            return
        late = set(_keys(self._before))
        for window in _usage_windows(self._before, self._window.start):
            settlement = Settlement(context, books, _among(late, window), _no_events, booked_rows=held.booked)
            parts = read_together(aligned(window, context.settings.slice_length), self._found.counts)
            WindowRun(context, parts, settlement, lambda part, rows, events: None, self._before).work()

    def keep_counts(self) -> None:
        """Takes down that all rows of the hours that grew are reconciled, up to the end of the window."""
        if not self._found.grown:
            return
        self._context.sides.ledger.keep_long_calls(self._context.sides.stream, self._long)
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


def known_long_calls(context: Context, window: Window) -> pd.DataFrame:
    """The rows (ROWS) of calls longer than RECONCILE_MAX_CALL that ended in the window, found by earlier runs."""
    sides = context.sides
    starts = sides.ledger.long_calls(sides.stream, milliseconds(window.start), milliseconds(window.end))
    found = [sides.spend_logs.rows(Window(moment(start), moment(start + 1)), window) for start in starts]
    return pd.concat(found, ignore_index=True) if found else no_rows()


class HeldRows:
    """The rows that earlier runs held back, however old.

    LiteLLM may have deleted them since: then the ledger's copy is sent.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        ledger, stream = context.sides.ledger, context.sides.stream
        self._undecided = {(entry["request_id"], entry["start_ms"]): entry for entry in ledger.held(stream)}
        self._settled: list[Key] = []

    def booked(self, rows: pd.DataFrame) -> None:
        """Takes down what this run has decided about them; only a row that was seen is decided."""
        if not self._undecided:
            return
        for key, kind in zip(_keys(rows), rows["class"].tolist(), strict=True):
            if self._undecided.pop(key, None) is not None and kind not in ("held", "missing"):
                self._settled.append(key)

    def retry(self, books: Books, edge: datetime) -> None:
        """Sends those that Lago would bill now, of the rows that this run has not decided about otherwise.

        No reading goes across `edge`, the start of the run's window.
        """
        if not self._undecided:
            return
        context = self._context
        rows = _held_rows([*self._undecided.values()])
        subscription, reason = hold_reasons(context, rows["charge_id"].tolist(), rows["usage_ms"].to_numpy(np.int64))
        rows["subscription_id"] = pd.array(subscription, dtype="str")
        free = rows[reason == ""]
        keys = set(_keys(free))
        for window in _usage_windows(free, edge):
            settlement = Settlement(context, books, _among(keys, window), _no_events, booked_rows=self.booked)
            parts = aligned(window, context.settings.slice_length)
            WindowRun(context, parts, settlement, lambda part, rows, events: None, free).work()
            self.release()

    def remaining(self) -> RowTotals:
        """The rows outside the window that stay held back: this run could not send them either."""
        spends = [float(entry["row"]["spend"]) for entry in self._undecided.values()]
        return RowTotals(len(spends), total(np.array(spends, np.float64)))

    def release(self) -> None:
        """Forgets the rows that are settled for good."""
        self._context.sides.ledger.release(self._context.sides.stream, self._settled)
        self._settled = []


def _keys(rows: pd.DataFrame) -> Iterator[Key]:
    return zip(rows["request_id"].tolist(), rows["start_ms"].tolist(), strict=True)


def _among(keys: set[Key], window: Window) -> Callable[[pd.DataFrame], npt.NDArray[np.bool_]]:
    """The filter for the rows of these keys that belong to the window."""
    start, end = milliseconds(window.start), milliseconds(window.end)

    def chosen(rows: pd.DataFrame) -> npt.NDArray[np.bool_]:
        times = rows["usage_ms"].to_numpy(np.int64)
        known = np.fromiter((key in keys for key in _keys(rows)), bool, len(rows))
        return np.asarray(known & (times >= start) & (times < end))

    return chosen


def _no_events(events: pd.DataFrame) -> npt.NDArray[np.bool_]:
    return np.zeros(len(events), bool)


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


def _usage_windows(rows: pd.DataFrame, edge: datetime) -> list[Window]:
    """The hours of the rows' usage times as windows, contiguous ones together, none of them across `edge`."""
    times = rows["usage_ms"].to_numpy(np.int64)
    windows = []
    for window in _runs([moment(int(hour) * _HOUR_MS) for hour in np.unique(times // _HOUR_MS).tolist()]):
        if window.start < edge < window.end:
            windows += [Window(window.start, edge), Window(edge, window.end)]
        else:
            windows.append(window)
    return [one for one in windows if ((times >= milliseconds(one.start)) & (times < milliseconds(one.end))).any()]

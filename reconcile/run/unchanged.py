"""What has not changed since it agreed needs no reading: slices of a window, known by counts alone.

A slice stands as it was when the hours in which its rows may have begun still hold as many rows each (rows never
change), and Lago still lists as many events in it. The first is one index-only scan, the second one request for up to a
day of slices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from reconcile.domain.window import Window
from reconcile.litellm.day_totals import DayTotals
from reconcile.litellm.spend_logs import CLOCK_SKEW, milliseconds
from reconcile.run.books import Books
from reconcile.run.context import Context, as_ms

# Another way to classify makes the figures of earlier releases worthless: raise this then.
_VERSION = 2
_HOUR_MS = 3_600_000
_AGREED_ROWS = {"matched", "matched_live", "delivered", "excluded", "unattributed"}
_AGREED_EVENTS = {"matched", "matched_live"}
# So many slices are compared with Lago by one count.
_COUNTED_TOGETHER = 24
# So many slices, or rows, are read at once where the slices hold little.
_READ_TOGETHER = 24
_ROWS_TOGETHER = 20_000


def aligned(window: Window, length: timedelta) -> list[Window]:
    """Slices of a window that end on multiples of `length` since 1970, so that later windows meet the same ones."""
    epoch = datetime.fromtimestamp(0, window.start.tzinfo)
    edge = epoch + ((window.start - epoch) // length + 1) * length
    parts, start = [], window.start
    while edge < window.end:
        parts.append(Window(start, edge))
        start, edge = edge, edge + length
    return [*parts, Window(start, window.end)]


def read_together(parts: Sequence[Window], counts: pd.Series) -> list[Window]:
    """Neighbouring slices that hold few rows, as one: each reading costs the same however little it finds.

    `counts` as in `Fingerprints`: rows by their start tell well enough how many there are by their end.
    """
    hours = counts.index.to_numpy("datetime64[ms]").astype(np.int64)
    order = np.argsort(hours)
    edges = np.append(hours[order], hours.max(initial=0) + _HOUR_MS)
    sums = np.concatenate(([0], np.cumsum(counts.to_numpy(np.int64)[order])))
    ends = np.array([milliseconds(part.end) for part in parts], np.int64)
    until = np.interp(ends, edges, sums) if len(hours) else np.zeros(len(parts))
    together: list[Window] = []
    slices, rows_before = 0, 0.0
    for number, part in enumerate(parts):
        if together and slices < _READ_TOGETHER and until[number] - rows_before <= _ROWS_TOGETHER:
            together[-1] = Window(together[-1].start, part.end)
            slices += 1
        else:
            together.append(part)
            slices, rows_before = 1, float(until[number - 1]) if number else float(until[0])
    return together


class Fingerprints:
    """The fingerprint of each slice: the settings that decide its classes, and the counts of its hours.

    `counts`: rows per hour of "startTime", indexed by datetime64[ms, UTC]; hours without rows are left out.
    """

    def __init__(self, context: Context, counts: pd.Series) -> None:
        settings = context.settings
        self._policy = "|".join(
            str(part)
            for part in (
                _VERSION,
                *context.rules.reach,
                context.rules.clickhouse,
                settings.max_call,
                sorted(settings.exclude),
                settings.id_kind,
                sorted(settings.push_doubtful),
                dict(settings.properties),
                settings.time_zone,
            )
        )
        self._max_call = settings.max_call
        hours = counts.index.to_numpy("datetime64[ms]").astype(np.int64)
        order = np.argsort(hours)
        self._hours, self._counts = hours[order], counts.to_numpy(np.int64)[order]

    def of(self, part: Window) -> str:
        first = milliseconds(part.start - self._max_call) // _HOUR_MS * _HOUR_MS
        last = milliseconds(part.end + CLOCK_SKEW)
        low, high = np.searchsorted(self._hours, (first, last))
        told = self._hours[low:high].tobytes() + self._counts[low:high].tobytes()
        return sha256(self._policy.encode() + told).hexdigest()


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do with a window: totals to take over, and stretches (each a list of contiguous slices) to work on."""

    taken_over: list[bytes] = field(default_factory=list)
    stretches: list[list[Window]] = field(default_factory=list)


def plan(context: Context, parts: Sequence[Window], fingerprints: Fingerprints, must_read: Sequence[Window]) -> Plan:
    """Finds the slices that need no reading; those that overlap `must_read` are read whatever their counts."""
    window = Window(parts[0].start, parts[-1].end)
    stored = context.sides.ledger.slice_totals(context.sides.stream, window.start, window.end)
    known: list[tuple[Window, int, bytes]] = []
    for part in parts:
        fingerprint, events, totals = stored.get((part.start, part.end), ("", 0, b""))
        forced = any(part.start < other.end and other.start < part.end for other in must_read)
        if fingerprint and fingerprint == fingerprints.of(part) and not forced:
            known.append((part, events, totals))
    unchanged: dict[Window, bytes] = {}
    for group in _contiguous(known):
        for place in range(0, len(group), _COUNTED_TOGETHER):
            _confirm(context, group[place : place + _COUNTED_TOGETHER], unchanged)
    stretches: list[list[Window]] = []
    for part in parts:
        if part in unchanged:
            continue
        if stretches and stretches[-1][-1].end == part.start:
            stretches[-1].append(part)
        else:
            stretches.append([part])
    return Plan(list(unchanged.values()), stretches)


def _contiguous(known: list[tuple[Window, int, bytes]]) -> list[list[tuple[Window, int, bytes]]]:
    groups: list[list[tuple[Window, int, bytes]]] = []
    for one in known:
        if groups and groups[-1][-1][0].end == one[0].start:
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups


def _confirm(context: Context, group: list[tuple[Window, int, bytes]], unchanged: dict[Window, bytes]) -> None:
    """Asks Lago for the number of events of the slices together; where it differs, of each half."""
    start, end = group[0][0].start, group[-1][0].end
    if context.sides.lago.count_events(context.settings.event_code, start, end) == sum(one[1] for one in group):
        unchanged.update((part, totals) for part, _, totals in group)
    elif len(group) > 1:
        middle = len(group) // 2
        _confirm(context, group[:middle], unchanged)
        _confirm(context, group[middle:], unchanged)


@dataclass(slots=True)
class _Open:
    part: Window
    books: Books
    days: DayTotals = field(default_factory=DayTotals)
    listed: int = 0
    complete: bool = False


class SliceKeeper:
    """Keeps the totals of each slice that agrees, once all of it is booked. One per stretch of slices.

    A run that sends nothing keeps nothing.
    """

    def __init__(self, context: Context, parts: Sequence[Window], fingerprints: Fingerprints) -> None:
        self._context, self._fingerprints = context, fingerprints
        self._open = [_Open(part, context.new_books()) for part in parts]
        self._ends = np.array([milliseconds(part.end) for part in parts], np.int64)
        self.row_hours: dict[int, int] = {}
        self._agreed: list[dict[str, Any]] = []

    def counted(self, part: Window, rows: pd.DataFrame, events: pd.DataFrame) -> None:
        """Takes down what was read of some neighbouring slices: their rows, and their events as listed."""
        if not self._context.sends:
            return
        of_rows, of_events = self._places(rows["usage_ms"]), self._places(events["time_ms"])
        for place, one in enumerate(self._open):
            if part.start <= one.part.start and one.part.end <= part.end:
                own_events = events[of_events == place]
                one.listed = len(own_events)
                own_rows = rows[of_rows == place]
                one.books.read(own_rows, event_costs(self._context, own_events))
                one.days.add(own_rows)
                one.complete = True
                self._close(one)
        self._keep()
        starts, counts = np.unique(rows["start_ms"].to_numpy(np.int64) // _HOUR_MS, return_counts=True)
        for hour, count in zip(starts.tolist(), counts.tolist(), strict=True):
            self.row_hours[hour] = self.row_hours.get(hour, 0) + count

    def booked_rows(self, rows: pd.DataFrame) -> None:
        if not self._context.sends:
            return
        for place, frame in self._split(rows, rows["usage_ms"]):
            self._open[place].books.add_rows(frame)
            self._close(self._open[place])
        self._keep()

    def booked_events(self, events: pd.DataFrame) -> None:
        if not self._context.sends:
            return
        for place, frame in self._split(events, events["time_ms"]):
            self._open[place].books.add_events(frame, paired_outside=np.zeros(len(frame), bool))
            self._close(self._open[place])
        self._keep()

    def _places(self, times: pd.Series) -> npt.NDArray[np.int64]:
        return np.searchsorted(self._ends, times.to_numpy(np.int64), side="right")

    def _split(self, frame: pd.DataFrame, times: pd.Series) -> list[tuple[int, pd.DataFrame]]:
        places = self._places(times)
        return [(place, frame[places == place].reset_index(drop=True)) for place in np.unique(places).tolist()]

    def _keep(self) -> None:
        sides = self._context.sides
        sides.ledger.keep_slices(sides.stream, self._context.run_id, self._agreed)
        self._agreed = []

    def _close(self, one: _Open) -> None:
        """Packs a slice that is booked whole, if it agrees."""
        if not (self._context.sends and one.complete and one.books.settled()):
            return
        rows = {name for name, found in one.books.row_classes().items() if found.count and name != "total"}
        events = {name for name, found in one.books.event_classes().items() if found.count and name != "total"}
        if rows <= _AGREED_ROWS and events <= _AGREED_EVENTS:
            delivered = one.books.row_classes()["delivered"].count
            self._agreed.append(
                {
                    "slice_from": one.part.start,
                    "slice_to": one.part.end,
                    "fingerprint": self._fingerprints.of(one.part),
                    "events": one.listed + delivered,
                    "totals": one.books.pack(one.days.lines()),
                }
            )
        one.books, one.days, one.complete = self._context.new_books(), DayTotals(), False


def event_costs(context: Context, events: pd.DataFrame) -> npt.NDArray[np.float64]:
    """The costs of listed events (EVENTS); copies of one identity on a ClickHouse store are one event."""
    if context.sides.clickhouse:
        events = events.drop_duplicates(["subscription_id", "transaction_id", "time_ms"])
    return np.where(events["cost_null"], 0.0, events["response_cost"].to_numpy(np.float64))


def hours_read(stretches: Sequence[Sequence[Window]], parts: Sequence[Window], max_call: timedelta) -> set[int]:
    """The hours of "startTime" (numbered since 1970) within the window whose rows were all read in this run.

    A row's usage time may lie `max_call` after its start: all slices from the hour on, that far, must have been read.
    """
    window = Window(parts[0].start, parts[-1].end)
    read = [(milliseconds(stretch[0].start), milliseconds(stretch[-1].end)) for stretch in stretches]
    start, end = milliseconds(window.start), milliseconds(window.end)
    hours = range(-(-start // _HOUR_MS), end // _HOUR_MS)
    return {
        hour
        for hour in hours
        if any(
            low <= hour * _HOUR_MS and min((hour + 1) * _HOUR_MS + as_ms(max_call), end) <= high for low, high in read
        )
    }

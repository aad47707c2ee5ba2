"""Slices that agreed before and stand as they did: they are left unread, and their totals taken over.

A slice stands as it did when the hours in which its rows may have begun hold as many rows each, and Lago lists as many
events in it. The first is one index-only scan, the second one request for up to a day of slices. A row that is changed
in place changes no count: `backfill` reads every slice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256

import numpy as np
import pandas as pd

from reconcile.domain.instants import HOUR_MS, milliseconds
from reconcile.domain.vocabulary import EventClass, RowClass
from reconcile.domain.window import Window
from reconcile.litellm.feed import CLOCK_SKEW
from reconcile.run.shared import Run

# Another way to classify, or to pack, makes the figures of earlier releases worthless: raise this then.
_VERSION = 4
# A row without a charge ID may be given one later, in place: its slice is read again.
AGREED_ROWS = frozenset({RowClass.MATCHED, RowClass.MATCHED_LIVE, RowClass.DELIVERED, RowClass.EXCLUDED})
AGREED_EVENTS = frozenset({EventClass.MATCHED, EventClass.MATCHED_LIVE, EventClass.OWN})
# So many slices are compared with Lago by one count.
_COUNTED_TOGETHER = 24


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The slices that are left unread, and what an earlier run packed of each."""

    totals: tuple[tuple[Window, bytes], ...] = ()

    @property
    def windows(self) -> frozenset[Window]:
        return frozenset(window for window, _ in self.totals)


class Fingerprints:
    """The fingerprint of each slice: the settings that decide its classes, and the counts of its hours.

    `counts`: rows per hour of "startTime", indexed by datetime64[ms, UTC]; hours without rows are left out.
    """

    def __init__(self, run: Run, counts: pd.Series) -> None:
        settings, metric = run.settings, run.sides.metric
        self._policy = "|".join(
            str(part)
            for part in (
                _VERSION,
                *run.rules.reach,
                run.rules.clickhouse,
                settings.max_call,
                sorted(settings.exclude),
                settings.id_kind,
                sorted(settings.push_doubtful),
                dict(settings.properties),
                settings.time_zone,
                sorted(settings.own_ids),
                settings.copies,
                settings.not_counted,
                settings.start,
                (metric.aggregation_type, metric.field_name, metric.expression),
            )
        )
        self._max_call: timedelta = settings.max_call
        hours = counts.index.to_numpy("datetime64[ms]").astype(np.int64)
        order = np.argsort(hours)
        self._hours, self._counts = hours[order], counts.to_numpy(np.int64)[order]

    def of(self, piece: Window) -> str:
        first = milliseconds(piece.start - self._max_call) // HOUR_MS * HOUR_MS
        last = milliseconds(piece.end + CLOCK_SKEW)
        low, high = np.searchsorted(self._hours, (first, last))
        told = self._hours[low:high].tobytes() + self._counts[low:high].tobytes()
        return sha256(self._policy.encode() + told).hexdigest()


def unchanged_slices(
    run: Run, slices: Sequence[Window], fingerprints: Fingerprints, must_read: Sequence[Window]
) -> Unchanged:
    """Finds the slices that need no reading; those that overlap `must_read` are read whatever their counts."""
    sides = run.sides
    stored = sides.ledger.slice_totals(sides.stream, slices[0].start, slices[-1].end)
    known: list[tuple[Window, int, bytes]] = []
    for piece in slices:
        fingerprint, events, totals = stored.get((piece.start, piece.end), ("", 0, b""))
        forced = any(piece.start < other.end and other.start < piece.end for other in must_read)
        if fingerprint and fingerprint == fingerprints.of(piece) and not forced:
            known.append((piece, events, totals))
    confirmed: list[tuple[Window, bytes]] = []
    for group in _neighbours(known):
        for place in range(0, len(group), _COUNTED_TOGETHER):
            confirmed += _confirmed(run, group[place : place + _COUNTED_TOGETHER])
    return Unchanged(tuple(confirmed))


def _neighbours(known: Iterable[tuple[Window, int, bytes]]) -> list[list[tuple[Window, int, bytes]]]:
    groups: list[list[tuple[Window, int, bytes]]] = []
    for one in known:
        if groups and groups[-1][-1][0].end == one[0].start:
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups


def _confirmed(run: Run, group: list[tuple[Window, int, bytes]]) -> list[tuple[Window, bytes]]:
    """Asks Lago for the number of events of the slices together; where it differs, of each half."""
    start, end = group[0][0].start, group[-1][0].end
    if run.sides.lago.count_events(run.settings.event_code, start, end) == sum(one[1] for one in group):
        return [(piece, totals) for piece, _, totals in group]
    if len(group) == 1:
        return []
    middle = len(group) // 2
    return _confirmed(run, group[:middle]) + _confirmed(run, group[middle:])

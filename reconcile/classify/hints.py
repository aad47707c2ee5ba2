"""Which row an event without one repeats, noted while that row is at hand. Pure."""

from __future__ import annotations

import numpy as np
import pandas as pd

from reconcile.classify.frames import REASON, Table
from reconcile.classify.pairing import Ints

# The better word on an event first: it adds nothing beside a row's own event; it repeats a row that has its event;
# it equals a row that is not billable.
_RANKS = {REASON["not_counted"]: 0, REASON["same_content"]: 1, REASON["excluded_row"]: 2}


class Hints:
    """At most one note per event, by its serial number: the best, then the nearest row, then the first by name."""

    def __init__(self) -> None:
        self.table = Table(
            {
                "serial": np.empty(0, np.int64),
                "reason": np.empty(0, np.int64),
                "distance": np.empty(0, np.int64),
                "usage_ms": np.empty(0, np.int64),
                "start_ms": np.empty(0, np.int64),
                "spend": np.empty(0, np.float64),
                "scope": np.empty(0, np.int64),
                "request_id": pd.array([], dtype="str"),
            },
            0,
        )

    def of(self, serials: Ints) -> Ints:
        """The place of each event's note in the table, -1 where there is none."""
        if not len(self.table):
            return np.full(len(serials), -1, np.int64)
        place = np.minimum(np.searchsorted(self.table["serial"], serials), len(self.table) - 1)
        return np.where(self.table["serial"][place] == serials, place, -1)

    def reasons(self, serials: Ints) -> Ints:
        """The reason that is noted of each event, 0 for none."""
        place = self.of(serials)
        reasons = np.zeros(len(serials), np.int64)
        reasons[place >= 0] = self.table["reason"][place[place >= 0]]
        return reasons

    def with_notes(self, reason: str, events: Table, event: Ints, rows: Table, row: Ints) -> Hints:
        """These and more: each of the events at `event` repeats the row at `row` beside it."""
        if not len(event):
            return self
        notes = {name: rows[name][row] for name in ("usage_ms", "start_ms", "spend", "scope")}
        notes |= {
            "serial": events["serial"][event],
            "reason": np.full(len(event), REASON[reason]),
            "distance": np.abs(events["time_ms"][event] - rows["usage_ms"][row]),
            "request_id": rows["request_id"].take(row),
        }
        table = self.table.joined(Table({name: notes[name] for name in self.table.columns}, len(event)))
        rank = pd.Series(table["reason"]).map(_RANKS).to_numpy()
        frame = pd.DataFrame(
            {
                "serial": table["serial"],
                "rank": rank,
                "distance": table["distance"],
                "usage_ms": table["usage_ms"],
                "name": table["request_id"],
                "start_ms": table["start_ms"],
            }
        )
        best = frame.sort_values([*frame.columns]).drop_duplicates("serial").index.to_numpy(np.int64)
        return self._of_table(table.take(best))

    def without(self, serials: Ints) -> Hints:
        """These without the notes on some events."""
        kept = np.flatnonzero(~np.isin(self.table["serial"], serials))
        return self if len(kept) == len(self.table) else self._of_table(self.table.take(kept))

    def _of_table(self, table: Table) -> Hints:
        hints = Hints()
        hints.table = table
        return hints

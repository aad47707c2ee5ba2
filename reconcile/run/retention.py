"""Events whose rows LiteLLM has deleted since they were reconciled: they are not orphans. Pure.

LiteLLM deletes old rows, and a window that is read again then holds events without rows. At most as many are set aside
as rows were deleted, only near the hours that shrank, and only where a deleted row can have had that content: an
earlier run's totals of the slice say which charge IDs and models it held, and how many of each.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

from reconcile.domain.instants import HOUR_MS

# A call is found by the hour in which it began, and its event lies at its end: the next hour counts as near.
_NEAR_MS = 2 * HOUR_MS


@dataclass(slots=True)
class Deleted:
    """How many rows each hour (ms of its start) has lost, and what earlier runs knew of slices (by number): rows by
    charge ID and model. What is set aside is taken off."""

    rows: dict[int, int]
    known: Mapping[int, Mapping[tuple[str, str], int]]
    slice_ms: int
    _used: dict[tuple[int, str, str], int] = field(default_factory=lambda: defaultdict(int))

    def explain(self, events: pd.DataFrame) -> npt.NDArray[np.bool_]:
        """Which of these unexplained events (EVENT_VERDICTS) belong to deleted rows. In order of time, nearest hour
        first."""
        found = np.zeros(len(events), bool)
        if not self.rows or events.empty:
            return found
        times = events["time_ms"].to_numpy(np.int64)
        charge_ids, models = events["charge_id"].astype("str").tolist(), events["model"].astype("str").tolist()
        for place in np.argsort(times, kind="stable").tolist():
            time = int(times[place])
            hour = self._hour_of(time)
            if hour is None or not self._could_be(time // self.slice_ms, charge_ids[place], models[place]):
                continue
            self.rows[hour] -= 1
            self._used[time // self.slice_ms, charge_ids[place], models[place]] += 1
            found[place] = True
        return found

    def _hour_of(self, time: int) -> int | None:
        """The latest hour near the event that has lost a row which no event stands for yet."""
        first = (time - _NEAR_MS) // HOUR_MS * HOUR_MS + HOUR_MS
        for hour in range(time // HOUR_MS * HOUR_MS, first - 1, -HOUR_MS):
            if self.rows.get(hour, 0) > 0:
                return hour
        return None

    def _could_be(self, number: int, charge_id: str, model: str) -> bool:
        """Whether the slice held such a row when it was reconciled; where no run knows, it may have."""
        known = self.known.get(number)
        if known is None:
            return True
        return self._used[number, charge_id, model] < known.get((charge_id, model), 0)

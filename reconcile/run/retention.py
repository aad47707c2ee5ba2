"""Events whose rows LiteLLM has deleted since they were reconciled: they are not orphans. Pure.

LiteLLM deletes old rows, and a window that is read again then holds events without rows. At most as many are set aside
as rows were deleted, only near the hours that shrank, and only where a deleted row can have had that content. An
earlier run's totals of the slice say how many rows of each charge ID and model it held: where it holds fewer now, a row
of that content is gone, however long ago its call began.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
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
    charge ID and model. A call of a known slice may have begun `max_call_ms` before its event. What is set aside is
    taken off."""

    rows: dict[int, int]
    known: Mapping[int, Mapping[tuple[str, str], int]]
    slice_ms: int
    max_call_ms: int = _NEAR_MS
    _used: dict[tuple[int, str, str], int] = field(default_factory=lambda: defaultdict(int))

    def explain(
        self, events: pd.DataFrame, there: Callable[[int], Mapping[tuple[str, str], int]]
    ) -> npt.NDArray[np.bool_]:
        """Which of these unexplained events (EVENT_VERDICTS) belong to deleted rows. `there` counts the rows that a
        slice holds now, by charge ID and model."""
        found = np.zeros(len(events), bool)
        if not self.rows or events.empty:
            return found
        times = events["time_ms"].to_numpy(np.int64)
        charge_ids, models = events["charge_id"].astype("str").tolist(), events["model"].astype("str").tolist()
        for place in np.argsort(times, kind="stable").tolist():
            time, content = int(times[place]), (charge_ids[place], models[place])
            number = time // self.slice_ms
            near = _NEAR_MS
            if number in self.known:
                gone = self.known[number].get(content, 0) - there(number).get(content, 0)
                if gone <= self._used[number, *content]:
                    continue
                near = max(_NEAR_MS, self.max_call_ms + HOUR_MS)
            hour = self._hour_of(time, near)
            if hour is None:
                continue
            self.rows[hour] -= 1
            self._used[number, *content] += 1
            found[place] = True
        return found

    def _hour_of(self, time: int, near_ms: int) -> int | None:
        """The latest hour near the event that has lost a row which no event stands for yet."""
        first = (time - near_ms) // HOUR_MS * HOUR_MS + HOUR_MS
        for hour in range(time // HOUR_MS * HOUR_MS, first - 1, -HOUR_MS):
            if self.rows.get(hour, 0) > 0:
                return hour
        return None

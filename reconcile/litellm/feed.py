"""The rows of a window in order of their usage time, slice by slice, the next slice read ahead in a thread."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Self

import numpy as np
import pandas as pd
import pyarrow as pa

from reconcile.domain.window import Window
from reconcile.litellm.spend_logs import SpendLogs, milliseconds
from reconcile.litellm.tables import rows_frame

# A clock that runs backwards can put a row's start after its end; more than this is not looked for.
CLOCK_SKEW = timedelta(minutes=5)


class RowFeed:
    """The rows of a window, each read once and given with the slice of its usage time. Use it as a context manager.

    A call may have begun `max_call` before its usage time, and by clock skew up to five minutes after it. Reading ahead
    has a connection of its own: `spend_logs` stays free for its thread.
    """

    def __init__(self, spend_logs: SpendLogs, usage: Window, max_call: timedelta) -> None:
        self._spend_logs = spend_logs
        self._usage = usage
        self._read_to = usage.start - max_call
        self._waiting: list[pa.Table] = []
        self._ahead: Future[pa.Table] | None = None
        self._reader: SpendLogs | None = None
        self._thread: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Waits for what is being read."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
        if self._reader is not None:
            self._reader.close()

    def read_ahead(self, horizon: datetime) -> None:
        """Begins to read what `up_to(horizon)` will need, and returns at once. Its errors come from `up_to`.

        Nothing happens while an earlier reading has not been fetched by `up_to`.
        """
        starts = self._unread(horizon)
        if self._ahead is not None or starts is None:
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="rows")
        self._ahead = self._thread.submit(self._read_apart, starts)
        self._read_to = starts.end

    def up_to(self, horizon: datetime) -> pd.DataFrame:
        """The rows (ROWS) with a usage time before `horizon` that were not given yet."""
        if self._ahead is not None:
            reading, self._ahead = self._ahead, None
            self._waiting.append(reading.result())
        if (starts := self._unread(horizon)) is not None:
            self._waiting.append(self._spend_logs.read(starts, self._usage))
            self._read_to = starts.end
        due: list[pa.Table] = []
        later: list[pa.Table] = []
        for table in self._waiting:
            ended = table["usage_ms"].to_numpy() < milliseconds(horizon)
            for part, chosen in ((due, ended), (later, ~ended)):
                if chosen.all():
                    part.append(table)
                elif chosen.any():
                    part.append(table.filter(pa.array(np.asarray(chosen))))
        self._waiting = [pa.concat_tables(later)] if later else []
        return rows_frame(pa.concat_tables(due) if due else pa.table({}))

    def _unread(self, horizon: datetime) -> Window | None:
        """The starts that are not read yet of the rows that may end before `horizon`."""
        read_to = min(horizon, self._usage.end) + CLOCK_SKEW
        return Window(self._read_to, read_to) if read_to > self._read_to else None

    def _read_apart(self, starts: Window) -> pa.Table:
        if self._reader is None:
            self._reader = self._spend_logs.clone()
        return self._reader.read(starts, self._usage)

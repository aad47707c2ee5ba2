"""How many rows of each hour were reconciled, the long calls among them, and the slices that agreed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert as upsert

from reconcile.ledger.database import LedgerDatabase, Stream, of_stream
from reconcile.ledger.tables import hours, long_calls, slices


class Hours(LedgerDatabase):
    """Counts of hours, long calls, and agreed slices."""

    def long_calls(self, stream: Stream, usage_from_ms: int, usage_to_ms: int) -> list[int]:
        """The starts (ms) of known long calls with a usage time in the half-open range."""
        with self._begin() as connection:
            found = connection.execute(
                select(long_calls.c.start_ms)
                .where(*of_stream(long_calls, stream))
                .where(long_calls.c.usage_ms >= usage_from_ms, long_calls.c.usage_ms < usage_to_ms)
                .distinct()
            )
            return sorted(int(start_ms) for (start_ms,) in found)

    def keep_long_calls(self, stream: Stream, calls: pd.DataFrame) -> None:
        """Remembers long calls: request_id, start_ms, usage_ms."""
        if calls.empty:
            return
        entries = [
            {**stream.key(), "request_id": request_id, "start_ms": start_ms, "usage_ms": usage_ms}
            for request_id, start_ms, usage_ms in calls[["request_id", "start_ms", "usage_ms"]].itertuples(index=False)
        ]
        with self._begin() as connection:
            connection.execute(upsert(long_calls).on_conflict_do_nothing(), entries)

    def hours(self, stream: Stream, start: datetime, end: datetime) -> pd.DataFrame:
        """The reconciled hours of "startTime": rows and peak (int64), indexed by datetime64[ms, UTC]."""
        with self._begin() as connection:
            found = connection.execute(
                select(hours.c.hour, hours.c.rows, hours.c.peak).where(
                    *of_stream(hours, stream), hours.c.hour >= start, hours.c.hour < end
                )
            ).all()
        index = pd.DatetimeIndex([row.hour for row in found], tz="UTC").as_unit("ms")
        columns = {"rows": [row.rows for row in found], "peak": [row.peak for row in found]}
        return pd.DataFrame(columns, index=index, dtype=np.int64)

    def keep_hours(
        self, stream: Stream, run_id: str, counts: Mapping[datetime, tuple[int, int]], *, replace: bool = True
    ) -> None:
        """Takes down, per hour, how many of its rows are reconciled, and how many it has.

        Without `replace` what is known of an hour already stays.
        """
        if not counts:
            return
        statement = upsert(hours)
        changed = {
            "rows": statement.excluded.rows,
            "peak": func.greatest(hours.c.peak, statement.excluded.peak),
            "run_id": statement.excluded.run_id,
        }
        with self._begin() as connection:
            connection.execute(
                statement.on_conflict_do_update(index_elements=list(hours.primary_key.columns), set_=changed)
                if replace
                else statement.on_conflict_do_nothing(),
                [
                    {**stream.key(), "hour": hour, "rows": reconciled, "peak": there, "run_id": run_id}
                    for hour, (reconciled, there) in counts.items()
                ],
            )

    def slice_totals(
        self, stream: Stream, start: datetime, end: datetime
    ) -> dict[tuple[datetime, datetime], tuple[str, int, bytes]]:
        """The agreed slices within a window, by their ends: fingerprint, events that Lago had, totals."""
        columns = (slices.c.slice_from, slices.c.slice_to, slices.c.fingerprint, slices.c.events, slices.c.totals)
        with self._begin() as connection:
            found = connection.execute(
                select(*columns).where(
                    *of_stream(slices, stream), slices.c.slice_from >= start, slices.c.slice_to <= end
                )
            ).all()
        return {
            (row.slice_from.astimezone(UTC), row.slice_to.astimezone(UTC)): (row.fingerprint, row.events, row.totals)
            for row in found
        }

    def keep_slices(self, stream: Stream, run_id: str, kept: Sequence[Mapping[str, Any]]) -> None:
        """Keeps the figures of agreed slices: slice_from, slice_to, fingerprint, events, totals."""
        if not kept:
            return
        statement = upsert(slices)
        changed = {name: statement.excluded[name] for name in ("fingerprint", "events", "totals", "run_id")}
        with self._begin() as connection:
            connection.execute(
                statement.on_conflict_do_update(index_elements=list(slices.primary_key.columns), set_=changed),
                [{**stream.key(), **one, "run_id": run_id} for one in kept],
            )

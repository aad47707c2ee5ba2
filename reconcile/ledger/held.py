"""Rows that are missing in Lago and were kept back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert as upsert

from reconcile import statements
from reconcile.ledger.database import LedgerDatabase, Stream, of_stream
from reconcile.ledger.tables import held


class Held(LedgerDatabase):
    """The held rows of each stream."""

    def held(self, stream: Stream) -> list[dict[str, Any]]:
        """The stream's held rows, in order of usage time."""
        with self._begin() as connection:
            found = connection.execute(select(held).where(*of_stream(held, stream)).order_by(held.c.usage_ms))
            return [dict(row) for row in found.mappings()]

    def held_of(self, stream: Stream, request_id: str) -> list[dict[str, Any]]:
        """The stream's held rows of a request ID."""
        with self._begin() as connection:
            found = connection.execute(
                select(held).where(*of_stream(held, stream), held.c.request_id == request_id).order_by(held.c.start_ms)
            )
            return [dict(row) for row in found.mappings()]

    def hold(self, stream: Stream, run_id: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keeps rows: request_id, start_ms, usage_ms, reason, row."""
        if not rows:
            return
        statement = upsert(held)
        with self._begin() as connection:
            connection.execute(
                statement.on_conflict_do_update(
                    index_elements=list(held.primary_key.columns),
                    set_={"reason": statement.excluded.reason, "run_id": statement.excluded.run_id},
                ),
                [{**stream.key(), **row, "run_id": run_id, "since": datetime.now(UTC)} for row in rows],
            )

    def release(self, stream: Stream, keys: Sequence[tuple[str, int]]) -> None:
        """Forgets held rows that are settled now: (request_id, start_ms)."""
        if not keys:
            return
        with self._begin() as connection:
            connection.execute(
                text(statements.text("release_held")),
                {
                    **stream.key(),
                    "request_id": [request_id for request_id, _ in keys],
                    "start_ms": [start_ms for _, start_ms in keys],
                },
            )

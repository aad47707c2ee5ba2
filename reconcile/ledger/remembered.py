"""What Lago said once and is not asked for in every run: the plans of subscriptions, and how wide it can list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert as upsert

from reconcile.ledger.database import LedgerDatabase, Stream
from reconcile.ledger.tables import remembered

_WIDEST = "widest listing"


class Memories(LedgerDatabase):
    """Small facts about a Lago organization, by event code."""

    def recall_catalogue(self, stream: Stream, keys: Sequence[str]) -> dict[str, tuple[str, int, Mapping[str, Any]]]:
        """Those of the keys that are kept: stamp, when it was asked (ms), value."""
        with self._begin() as connection:
            found = connection.execute(
                select(remembered.c.key, remembered.c.stamp, remembered.c.asked_ms, remembered.c.value).where(
                    remembered.c.organization == stream.organization,
                    remembered.c.event_code == stream.event_code,
                    remembered.c.key.in_(keys),
                )
            ).all()
        return {str(key): (str(stamp), int(asked_ms), value) for key, stamp, asked_ms, value in found}

    def keep_catalogue(self, stream: Stream, entries: Sequence[tuple[str, str, int, Mapping[str, Any]]]) -> None:
        """Keeps entries (key, stamp, asked_ms, value) in place of those of the same keys."""
        if not entries:
            return
        statement = upsert(remembered)
        changed = {name: statement.excluded[name] for name in ("stamp", "asked_ms", "value")}
        with self._begin() as connection:
            connection.execute(
                statement.on_conflict_do_update(index_elements=list(remembered.primary_key.columns), set_=changed),
                [
                    {
                        "organization": stream.organization,
                        "event_code": stream.event_code,
                        "key": key,
                        "stamp": stamp,
                        "asked_ms": asked_ms,
                        "value": dict(value),
                    }
                    for key, stamp, asked_ms, value in entries
                ],
            )

    def widest(self, stream: Stream, since_ms: int) -> timedelta | None:
        """The widest window that Lago could list without timing out; None where none was too wide since then."""
        found = self.recall_catalogue(stream, [_WIDEST]).get(_WIDEST)
        return None if found is None or found[1] < since_ms else timedelta(milliseconds=int(found[2]["ms"]))

    def keep_widest(self, stream: Stream, widest: timedelta | None, asked_ms: int) -> None:
        """Keeps what this run has learned about it."""
        if widest is None:
            with self._begin() as connection:
                connection.execute(
                    delete(remembered).where(
                        remembered.c.organization == stream.organization,
                        remembered.c.event_code == stream.event_code,
                        remembered.c.key == _WIDEST,
                    )
                )
            return
        value = {"ms": widest // timedelta(milliseconds=1)}
        self.keep_catalogue(stream, [(_WIDEST, "", asked_ms, value)])

"""What ran, over which window, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import func, insert, select, text, update

from reconcile import statements
from reconcile.domain.window import Window
from reconcile.ledger.database import LedgerDatabase, Stream, of_stream
from reconcile.ledger.tables import runs

_FINISHED = ("agreed", "discrepancies")
_SENDING = ("run", "backfill")


class Runs(LedgerDatabase):
    """The history of runs."""

    def begin_run(
        self,
        run_id: str,
        stream: Stream,
        *,
        command: str,
        dry_run: bool,
        window: tuple[datetime, datetime],
        started_at: datetime,
        litellm: str = "",
    ) -> None:
        """Takes down that a run begins. `litellm` names the database that its rows come from."""
        with self._begin() as connection:
            connection.execute(
                insert(runs).values(
                    run_id=run_id,
                    lago=stream.lago,
                    **stream.key(),
                    command=command,
                    dry_run=dry_run,
                    window_from=window[0],
                    window_to=window[1],
                    started_at=started_at,
                    litellm=litellm,
                )
            )

    def finish_run(
        self, run_id: str, *, status: str, exit_code: int, document: Mapping[str, Any], finished_at: datetime
    ) -> None:
        with self._begin() as connection:
            connection.execute(
                update(runs)
                .where(runs.c.run_id == run_id)
                .values(status=status, exit_code=exit_code, document=document, finished_at=finished_at)
            )

    def note_killed(self, stream: Stream, at: datetime) -> None:
        """Takes down, once, which sending runs of the stream ended without a word. Its lock must be held: none of them
        is alive, and what they sent has left by `at`, which is now."""
        with self._begin() as connection:
            connection.execute(text(statements.text("note_killed")), {**stream.key(), "at": at})

    def runs(self, limit: int) -> list[dict[str, Any]]:
        """The latest runs, newest first, without their documents."""
        columns = [column for column in runs.c if column.name != "document"]
        with self._begin() as connection:
            found = connection.execute(select(*columns).order_by(runs.c.started_at.desc()).limit(limit))
            return [dict(row) for row in found.mappings()]

    def run(self, run_id: str) -> dict[str, Any] | None:
        with self._begin() as connection:
            found = connection.execute(select(runs).where(runs.c.run_id == run_id)).mappings().first()
            return None if found is None else dict(found)

    def runs_over(self, stream: Stream, moment: datetime, limit: int) -> list[dict[str, Any]]:
        """The stream's latest runs whose window holds the instant, newest first, without their documents."""
        columns = [column for column in runs.c if column.name != "document"]
        with self._begin() as connection:
            found = connection.execute(
                select(*columns)
                .where(*of_stream(runs, stream), runs.c.window_from <= moment, runs.c.window_to > moment)
                .order_by(runs.c.started_at.desc())
                .limit(limit)
            )
            return [dict(row) for row in found.mappings()]

    def previous(self, stream: Stream, window: tuple[datetime, datetime], before: str) -> dict[str, Any] | None:
        """The last finished run over just this window and stream, other than the run `before`."""
        with self._begin() as connection:
            found = connection.execute(
                select(runs)
                .where(*of_stream(runs, stream))
                .where(runs.c.window_from == window[0], runs.c.window_to == window[1])
                .where(runs.c.status.in_(_FINISHED), runs.c.run_id != before)
                .order_by(runs.c.started_at.desc())
                .limit(1)
            ).mappings()
            row = found.first()
            return None if row is None else dict(row)

    def asked_windows(self, stream: Stream) -> list[Window]:
        """The windows that finished runs of the stream were asked to bill, in order of their start."""
        with self._begin() as connection:
            found = connection.execute(
                select(runs.c.window_from, runs.c.window_to)
                .where(*of_stream(runs, stream))
                .where(runs.c.status.in_(_FINISHED), runs.c.command.in_(_SENDING), ~runs.c.dry_run)
                .distinct()
                .order_by(runs.c.window_from)
            ).all()
        return [Window(start.astimezone(UTC), end.astimezone(UTC)) for start, end in found]

    def last_run_to(self, stream: Stream) -> datetime | None:
        """Where the window of the stream's last finished `run` ended."""
        with self._begin() as connection:
            found = connection.scalar(
                select(func.max(runs.c.window_to))
                .where(*of_stream(runs, stream))
                .where(runs.c.status.in_(_FINISHED), runs.c.command == "run", ~runs.c.dry_run)
            )
        return None if found is None else found.astimezone(UTC)

    def first_run_from(self, stream: Stream) -> datetime | None:
        """Where the earliest window of the stream's runs began, whatever became of them."""
        with self._begin() as connection:
            found = connection.scalar(
                select(func.min(runs.c.window_from))
                .where(*of_stream(runs, stream))
                .where(runs.c.command == "run", ~runs.c.dry_run)
            )
        return None if found is None else found.astimezone(UTC)

    def streams_beside(self, stream: Stream, litellm: str) -> list[tuple[str, str]]:
        """Event code and charge-by of other streams that billed the same organization from the same database.

        Empty where the stream itself has billed before. A run that was recorded before 0.2 does not say which
        database it read, and counts for every one.
        """
        with self._begin() as connection:
            found = connection.execute(
                select(runs.c.event_code, runs.c.charge_by)
                .where(runs.c.organization == stream.organization, runs.c.litellm.in_(("", litellm)))
                .where(runs.c.command.in_(_SENDING), ~runs.c.dry_run)
                .distinct()
            ).all()
        own = (stream.event_code, stream.charge_by)
        others = sorted((str(code), str(charge_by)) for code, charge_by in found)
        return [] if own in others else others


def new_run_id(started_at: datetime, token: str) -> str:
    """`2026-11-23T02-15-00Z-7f3a`: sorts by time, can be typed, and can be a file name."""
    return f"{started_at.astimezone(UTC):%Y-%m-%dT%H-%M-%SZ}-{token}"

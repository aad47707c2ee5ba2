"""What `reconcile schedule` remembers in the ledger: which firings are settled, and how far the runs reached."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, case, func, select
from sqlalchemy.dialects.postgresql import insert as upsert

from reconcile.ledger import Ledger
from reconcile.ledger.tables import runs, schedule
from reconcile.settings import Settings


@dataclass(frozen=True, slots=True)
class Remembered:
    """`fired_to`: every firing up to it is settled; `window_to`: how far the last finished run reached, if any."""

    fired_to: datetime
    window_to: datetime | None


class Memory(Ledger):
    """The memory of one stream's jobs. The stream is named by Lago's address: its own ID may not be known yet."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.state.sqlalchemy, settings.state.display)
        self._stream = {
            "lago": settings.lago_api_base,
            "event_code": settings.event_code,
            "charge_by": settings.charge_by,
        }

    def recall(self, job: str, since: datetime) -> Remembered:
        """What is known of a job; one that is new here is settled up to `since`."""
        with self._begin() as connection:
            connection.execute(
                upsert(schedule).values(**self._stream, job=job, fired_to=since).on_conflict_do_nothing()
            )
            found = connection.execute(
                select(schedule.c.fired_to, schedule.c.window_to).where(
                    *(schedule.c[name] == value for name, value in self._stream.items()), schedule.c.job == job
                )
            ).one()
        window_to = None if found.window_to is None else found.window_to.astimezone(UTC)
        return Remembered(found.fired_to.astimezone(UTC), window_to)

    def settle(
        self, job: str, fired_to: datetime, window_to: datetime | None, run_id: str | None, *, now: datetime
    ) -> None:
        """Takes down that every firing up to `fired_to` is done, by a run that reached `window_to`.

        What is remembered of a time after `now` is overwritten: it was written by a clock gone wrong.
        """
        new = upsert(schedule).values(**self._stream, job=job, fired_to=fired_to, window_to=window_to, run_id=run_id)

        def latest(name: str) -> ColumnElement[datetime]:
            known, given = schedule.c[name], new.excluded[name]
            return case((known > now, given), else_=func.greatest(known, given))

        with self._begin() as connection:
            connection.execute(
                new.on_conflict_do_update(
                    index_elements=list(schedule.primary_key.columns),
                    set_={
                        "fired_to": latest("fired_to"),
                        "window_to": latest("window_to"),
                        "run_id": func.coalesce(new.excluded.run_id, schedule.c.run_id),
                    },
                )
            )

    def last_success(self, now: datetime) -> tuple[datetime, datetime] | None:
        """When the stream's last run that may send finished (exit 0 or 1), and the latest window end of all such.

        A run that says that it will have finished after `now` had a clock gone wrong, and counts for nothing.
        """
        mine = [runs.c[name] == value for name, value in self._stream.items()]
        with self._begin() as connection:
            found = connection.execute(
                select(func.max(runs.c.finished_at), func.max(runs.c.window_to)).where(
                    *mine,
                    runs.c.status.in_(("agreed", "discrepancies")),
                    runs.c.command.in_(("run", "backfill")),
                    runs.c.dry_run.is_(False),
                    runs.c.finished_at <= now,
                )
            ).one()
        return None if found[0] is None else (found[0].astimezone(UTC), found[1].astimezone(UTC))

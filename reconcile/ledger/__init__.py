"""The job's memory: schema `reconcile` in Postgres. It is the only thing that the job writes to, beside Lago.

What was handed to Lago is written down before the first byte leaves and completed after, so that a run that was killed
at any moment can be repeated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from sqlalchemy import Connection, create_engine, delete, func, insert, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from reconcile import statements
from reconcile.errors import DatabaseFault, LockedError, PreflightError, ReconcileError
from reconcile.ledger.tables import SCHEMA, deliveries, held, hours, journal, long_calls, runs, slices

_MIGRATIONS = Path(__file__).parent / "migrations"

_WRONG_ANSWER = re.compile(
    r"password authentication failed|no password supplied|does not exist|no pg_hba\.conf entry|permission denied",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Stream:
    """What state, locks and reports are kept per. `organization` is Lago's ID of it, or its address."""

    lago: str
    organization: str
    event_code: str
    charge_by: str

    def key(self) -> dict[str, str]:
        return {
            "organization": self.organization,
            "event_code": self.event_code,
            "charge_by": self.charge_by,
        }


class Ledger:
    """Schema `reconcile` at `url` (SQLAlchemy, psycopg). Usable from several threads; `where` names the database."""

    def __init__(self, url: str, where: str) -> None:
        self.where = where
        # A transaction-pooling PgBouncer knows no prepared statements and pools by itself.
        self._engine = create_engine(
            url, poolclass=NullPool, connect_args={"prepare_threshold": None, "connect_timeout": 10}
        )
        self._shared: Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._shared is not None:
            self._shared.close()
            self._shared = None

    @contextmanager
    def _begin(self) -> Iterator[Connection]:
        """One transaction on the ledger's own connection, which is kept; the caller's thread alone uses it."""
        try:
            if self._shared is None or self._shared.closed:
                self._shared = self._engine.connect()
            with self._shared.begin():
                yield self._shared
        except DBAPIError as error:
            self.close()
            raise _explained(error, self.where) from None

    def is_current(self) -> bool:
        """Whether the schema is there, as this release needs it. Raises as any use of the database does."""
        with self._begin() as connection:
            if connection.scalar(text("SELECT to_regnamespace(:name)"), {"name": SCHEMA}) is None:
                return False
            return self._revision(connection) == self._head()

    def migrate(self) -> bool:
        """Creates or upgrades the schema; says whether anything was to do.

        Raises `PreflightError` where this user may not, naming the way out.
        """
        if self.is_current():
            return False
        import alembic.command
        from alembic.config import Config
        from alembic.util import CommandError

        with self._begin() as connection:
            # Two first runs at once: the second waits here, and finds the work done.
            connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('reconcile.migrate'))"))
            # IF NOT EXISTS would ask for the right to create schemas even where this one is there, and it and
            # to_regnamespace may answer from a cache that is older than the wait for the lock.
            there = text("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = :name)")
            if not connection.scalar(there, {"name": SCHEMA}):
                connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))
            config = Config()
            config.set_main_option("script_location", str(_MIGRATIONS))
            config.attributes["connection"] = connection
            try:
                alembic.command.upgrade(config, "head")
            except CommandError:  # it does not know the revision that it found
                raise PreflightError(
                    f"RECONCILE_STATE_URL: {self.where} holds the schema of a newer reconcile; install that version"
                ) from None
        return True

    def _revision(self, connection: Connection) -> str | None:
        """The revision that Alembic noted; read without it, since importing Alembic takes half a second."""
        table = f"{SCHEMA}.alembic_version"
        if connection.scalar(text("SELECT to_regclass(:name)"), {"name": table}) is None:
            return None
        found = connection.scalar(text(f"SELECT version_num FROM {table}"))  # noqa: S608 - a constant
        return None if found is None else str(found)

    def _head(self) -> str:
        return max(path.name for path in (_MIGRATIONS / "versions").glob("[0-9]*.py")).partition("_")[0]

    @contextmanager
    def lock(self, stream: Stream, *, key: str = "") -> Iterator[Lock]:
        """Holds the stream's lock. Raises `LockedError` at once where another run holds it.

        `key` tells the streams of an organization apart that Lago was not asked about yet; it is not stored.

        The lock lives in a transaction that stays open on a connection of its own: it is gone when its holder is, and
        a transaction-pooling PgBouncer cannot hand that connection to anyone else meanwhile.
        """
        name = "\x1f".join((*stream.key().values(), key))
        number = int.from_bytes(sha256(name.encode()).digest()[:8], "big", signed=True)
        try:
            connection = self._engine.connect()
            try:
                connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
                if not connection.scalar(text("SELECT pg_try_advisory_xact_lock(:number)"), {"number": number}):
                    latest = connection.scalar(
                        select(runs.c.run_id)
                        .where(runs.c.lago == stream.lago, runs.c.finished_at.is_(None))
                        .where(runs.c.event_code == stream.event_code, runs.c.charge_by == stream.charge_by)
                        .order_by(runs.c.started_at.desc())
                        .limit(1)
                    )
                    raise LockedError(
                        f"another run of this stream ({stream.event_code}, {stream.charge_by}) is at work"
                        + (f": {latest}" if latest else "")
                        + "; wait until it has ended"
                    )
                yield Lock(connection, self.where)
            finally:
                # Where the connection is gone, so is the lock: nothing is left to give back.
                with suppress(SQLAlchemyError):
                    connection.rollback()
                connection.close()
        except DBAPIError as error:
            raise _explained(error, self.where) from None

    # --- runs

    def begin_run(
        self,
        run_id: str,
        stream: Stream,
        *,
        command: str,
        dry_run: bool,
        window: tuple[datetime, datetime],
        started_at: datetime,
    ) -> None:
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

    def previous(self, stream: Stream, window: tuple[datetime, datetime], before: str) -> dict[str, Any] | None:
        """The last finished run over just this window and stream, other than the run `before`."""
        with self._begin() as connection:
            found = connection.execute(
                select(runs)
                .where(*(runs.c[name] == value for name, value in stream.key().items()))
                .where(runs.c.window_from == window[0], runs.c.window_to == window[1])
                .where(runs.c.status.in_(("agreed", "discrepancies")), runs.c.run_id != before)
                .order_by(runs.c.started_at.desc())
                .limit(1)
            ).mappings()
            row = found.first()
            return None if row is None else dict(row)

    # --- deliveries

    def delivered(self, stream: Stream, usage_from_ms: int, usage_to_ms: int) -> pd.DataFrame:
        """What was handed to Lago for rows with a usage time in the half-open range, for any charge ID.

        Columns: request_id, charge_id, transaction_id (str), start_ms (int64), taken (bool), sent_at.
        """
        names = ("request_id", "charge_id", "transaction_id", "start_ms", "taken", "sent_at")
        with self._begin() as connection:
            found = connection.execute(
                select(*(deliveries.c[name] for name in names)).where(
                    deliveries.c.organization == stream.organization,
                    deliveries.c.event_code == stream.event_code,
                    deliveries.c.usage_ms >= usage_from_ms,
                    deliveries.c.usage_ms < usage_to_ms,
                )
            ).all()
        frame = pd.DataFrame(list(found), columns=list(names))
        return frame.astype(
            {"request_id": "str", "charge_id": "str", "transaction_id": "str", "start_ms": np.int64, "taken": bool}
        )

    def claim(
        self, stream: Stream, run_id: str, rows: pd.DataFrame, *, settled_before: datetime, ours: bool = False
    ) -> set[tuple[str, int]]:
        """Writes down, before they are sent, which rows go out; gives the (request_id, start_ms) that may.

        A request that was handed to Lago for another charge ID stays with it, unless nothing is known of an answer and
        it was sent before `settled_before`. `ours` sends it all the same, as an operator may decide.
        `rows`: request_id, start_ms, charge_id, subscription_id, transaction_id, usage_ms, spend.
        """
        columns = ("request_id", "start_ms", "charge_id", "subscription_id", "transaction_id", "usage_ms", "spend")
        with self._begin() as connection:
            granted = connection.execute(
                text(statements.text("claim_deliveries")),
                {
                    **stream.key(),
                    "run_id": run_id,
                    "sent_at": datetime.now(UTC),
                    "settled_before": settled_before,
                    "ours": ours,
                    **{name: rows[name].tolist() for name in columns},
                },
            )
            return {(str(request_id), int(start_ms)) for request_id, start_ms in granted}

    def sending(self, run_id: str, batch: int, transaction_ids: Sequence[str]) -> None:
        """Takes down that a batch is about to leave."""
        now = datetime.now(UTC)
        with self._begin() as connection:
            connection.execute(
                insert(journal),
                [
                    {"at": now, "run_id": run_id, "batch": batch, "transaction_id": name, "what": "sent"}
                    for name in transaction_ids
                ],
            )

    def answered(self, run_id: str, answers: Sequence[Mapping[str, Any]]) -> None:
        """Takes down what Lago answered: transaction_id, batch, what, http_status, reason."""
        if not answers:
            return
        now = datetime.now(UTC)
        taken = [answer["transaction_id"] for answer in answers if answer["what"] in ("accepted", "exists", "verified")]
        with self._begin() as connection:
            connection.execute(insert(journal), [{"at": now, "run_id": run_id, **answer} for answer in answers])
            if taken:
                connection.execute(update(deliveries).where(deliveries.c.transaction_id.in_(taken)).values(taken=True))

    # --- held rows

    def held(self, stream: Stream) -> list[dict[str, Any]]:
        """The stream's held rows, in order of usage time."""
        with self._begin() as connection:
            found = connection.execute(select(held).where(*_of(held, stream)).order_by(held.c.usage_ms))
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
            for request_id, start_ms in keys:
                connection.execute(
                    delete(held).where(*_of(held, stream), held.c.request_id == request_id, held.c.start_ms == start_ms)
                )

    # --- hours, long calls and slices

    def long_calls(self, stream: Stream, usage_from_ms: int, usage_to_ms: int) -> list[int]:
        """The starts (ms) of known long calls with a usage time in the half-open range."""
        with self._begin() as connection:
            found = connection.execute(
                select(long_calls.c.start_ms)
                .where(*_of(long_calls, stream))
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
                    *_of(hours, stream), hours.c.hour >= start, hours.c.hour < end
                )
            ).all()
        index = pd.DatetimeIndex([row.hour for row in found], tz="UTC").as_unit("ms")
        columns = {"rows": [row.rows for row in found], "peak": [row.peak for row in found]}
        return pd.DataFrame(columns, index=index, dtype=np.int64)

    def keep_hours(self, stream: Stream, run_id: str, counts: Mapping[datetime, tuple[int, int]]) -> None:
        """Takes down, per hour, how many of its rows are reconciled, and how many it has."""
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
                statement.on_conflict_do_update(index_elements=list(hours.primary_key.columns), set_=changed),
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
                select(*columns).where(*_of(slices, stream), slices.c.slice_from >= start, slices.c.slice_to <= end)
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


class Lock:
    """A held lock."""

    def __init__(self, connection: Connection, where: str) -> None:
        self._connection = connection
        self._where = where

    def confirm(self) -> None:
        """Raises `DatabaseFault` where the connection that holds the lock is gone, and with it the lock."""
        try:
            self._connection.execute(text("SELECT 1"))
        except DBAPIError as error:
            raise _explained(error, self._where) from None


def new_run_id(started_at: datetime, token: str) -> str:
    """`2026-11-23T02-15-00Z-7f3a`: sorts by time, can be typed, and can be a file name."""
    return f"{started_at.astimezone(UTC):%Y-%m-%dT%H-%M-%SZ}-{token}"


def _of(table: Any, stream: Stream) -> list[Any]:
    return [table.c[name] == value for name, value in stream.key().items()]


def _explained(error: DBAPIError, where: str) -> ReconcileError:
    said = " ".join(str(error.orig).split())
    said = re.sub(r'host name ".*?" to address|name ".*?@', "the host name", said)
    sqlstate = getattr(error.orig, "sqlstate", None) or ""
    if sqlstate == "42501":
        return PreflightError(
            f"RECONCILE_STATE_URL: {where} refuses: {said}; have its owner run `reconcile migrate`, or grant the rights"
        )
    wrong = isinstance(error, (ProgrammingError,)) or _WRONG_ANSWER.search(said)
    if isinstance(error, OperationalError) and not wrong:
        return DatabaseFault(f"RECONCILE_STATE_URL: {where} does not answer: {said}")
    if wrong:
        return PreflightError(f"RECONCILE_STATE_URL: {where} answered: {said}")
    return DatabaseFault(f"RECONCILE_STATE_URL: {where}: {said}")

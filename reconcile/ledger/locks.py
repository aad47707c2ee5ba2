"""The lock of a stream: one run at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256

from sqlalchemy import Connection, Engine, make_url, select, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from reconcile.errors import LockedError
from reconcile.ledger.database import SESSION, LedgerDatabase, Stream, explained, watched_engine
from reconcile.ledger.tables import runs
from reconcile.settings.database import Database

# The transaction of a lock is open as long as its run, and idle nearly all the time.
_SESSION = SESSION | {"idle_in_transaction_session_timeout": "0"}


class Locks(LedgerDatabase):
    """Takes the lock of a stream."""

    @contextmanager
    def lock(self, stream: Stream, *, key: str = "", rows: Database | None = None) -> Iterator[Lock]:
        """Holds the stream's lock. Raises `LockedError` at once where another run holds it.

        `key` tells the streams of an organization apart that Lago was not asked about yet; it is not stored. `rows` is
        the database that the rows are read from: the lock is taken there, too, since an installation with a ledger of
        its own would send the same rows.

        The lock lives in a transaction that stays open on a connection of its own: it is gone when its holder is, and
        a transaction-pooling PgBouncer cannot hand that connection to anyone else meanwhile.
        """
        with _transaction(self._engine, self.where, self.setting) as connection:
            if not _taken(connection, stream, key):
                raise LockedError(_at_work(stream, _latest(connection, stream)))
            lock = Lock()
            lock.holds(connection, self.where, self.setting)
            if rows is None:
                yield lock
                return
            with ExitStack() as stack:
                reading = connection
                if make_url(rows.sqlalchemy) != self._engine.url:
                    engine = watched_engine(rows.sqlalchemy)
                    reading = stack.enter_context(_transaction(engine, rows.display, "DATABASE_URL"))
                    reading.execute(text("SET TRANSACTION READ ONLY"))
                    lock.holds(reading, rows.display, "DATABASE_URL")
                if not _taken(reading, stream, "rows"):
                    raise LockedError(_at_work(stream, "an installation of reconcile with a ledger of its own"))
                yield lock


class Lock:
    """A held lock, on one connection or two."""

    def __init__(self) -> None:
        self._held: list[tuple[Connection, str, str]] = []

    def holds(self, connection: Connection, where: str, setting: str) -> None:
        """It is held on this connection as well."""
        self._held.append((connection, where, setting))

    def confirm(self) -> None:
        """Raises `DatabaseFault` where a connection that holds the lock is gone, and with it the lock."""
        for connection, where, setting in self._held:
            try:
                connection.execute(text("SELECT 1"))
            except DBAPIError as error:
                raise explained(error, where, setting) from None


@contextmanager
def _transaction(engine: Engine, where: str, setting: str) -> Iterator[Connection]:
    """A transaction that may stay idle, on a connection of its own."""
    try:
        connection = engine.connect()
        try:
            for name, value in _SESSION.items():
                connection.execute(text(f"SET LOCAL {name} = {value}"))
            yield connection
        finally:
            # Where the connection is gone, so is the lock: nothing is left to give back.
            with suppress(SQLAlchemyError):
                connection.rollback()
            connection.close()
    except DBAPIError as error:
        raise explained(error, where, setting) from None


def _taken(connection: Connection, stream: Stream, key: str) -> bool:
    """Whether the lock was free, and is ours until the transaction ends."""
    name = "\x1f".join((*stream.key().values(), key))
    number = int.from_bytes(sha256(name.encode()).digest()[:8], "big", signed=True)
    return bool(connection.scalar(text("SELECT pg_try_advisory_xact_lock(:number)"), {"number": number}))


def _latest(connection: Connection, stream: Stream) -> str:
    """The latest run that has not ended, as far as the ledger knows; '' for none."""
    found = connection.scalar(
        select(runs.c.run_id)
        .where(runs.c.lago == stream.lago, runs.c.finished_at.is_(None))
        .where(runs.c.event_code == stream.event_code, runs.c.charge_by == stream.charge_by)
        .order_by(runs.c.started_at.desc())
        .limit(1)
    )
    return found or ""


def _at_work(stream: Stream, which: str) -> str:
    what = f"another run of this stream ({stream.event_code}, {stream.charge_by}) is at work"
    return what + (f": {which}" if which else "") + "; wait until it has ended"

"""The lock of a stream: one run at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256

from sqlalchemy import Connection, select, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from reconcile.errors import LockedError
from reconcile.ledger.database import LedgerDatabase, Stream, explained
from reconcile.ledger.tables import runs

# The transaction of a lock is open as long as its run, and idle nearly all the time. Where the machine of the run is
# gone, Postgres finds out within about a minute; left to the kernel, nobody else could have the lock for two hours.
_SESSION = {
    "idle_in_transaction_session_timeout": 0,
    "tcp_keepalives_idle": 30,
    "tcp_keepalives_interval": 10,
    "tcp_keepalives_count": 3,
}


class Locks(LedgerDatabase):
    """Takes the lock of a stream."""

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
                for name, value in _SESSION.items():
                    connection.execute(text(f"SET LOCAL {name} = {value}"))
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
            raise explained(error, self.where) from None


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
            raise explained(error, self._where) from None

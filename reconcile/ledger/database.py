"""The connection to schema `reconcile`, its upgrades, and what Postgres' errors mean."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from sqlalchemy import Connection, Engine, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError
from sqlalchemy.pool import NullPool

from reconcile.errors import DatabaseFault, PreflightError, ReconcileError
from reconcile.ledger.tables import SCHEMA
from reconcile.settings.database import LIVENESS

STATE_URL: Final = "RECONCILE_STATE_URL"
_MIGRATIONS = Path(__file__).parent / "migrations"

_WRONG_ANSWER = re.compile(
    r"password authentication failed|no password supplied|does not exist|no pg_hba\.conf entry|permission denied",
    re.IGNORECASE,
)

SESSION: Final = {
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
"""What Postgres is told in each transaction: it is to notice within about a minute that the machine of a run is gone.
Left to the kernel, the locks of that run would be in the way of the next one for two hours."""

# Nothing of the ledger is locked for long, but by a run whose machine is gone.
_WATCHFUL = text(
    "SELECT "
    + ", ".join(f"set_config('{name}', '{value}', true)" for name, value in (SESSION | {"lock_timeout": "90s"}).items())
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


class LedgerDatabase:
    """Schema `reconcile` at `url` (SQLAlchemy, psycopg); `where` and the `setting` that says so name it in errors."""

    def __init__(self, url: str, where: str, setting: str = STATE_URL) -> None:
        self.where = where
        self.setting = setting
        self._engine = watched_engine(url)
        self._shared: Connection | None = None
        self._turn = threading.Lock()
        self._together: Connection | None = None

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
        """One transaction on the ledger's own connection, which is kept; one thread at a time uses it."""
        if self._together is not None:
            yield self._together
            return
        with self._turn:
            try:
                if self._shared is None or self._shared.closed:
                    self._shared = self._engine.connect()
                with self._shared.begin():
                    self._shared.execute(_WATCHFUL)
                    yield self._shared
            except DBAPIError as error:
                self.close()
                raise explained(error, self.where, self.setting) from None

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is written inside is written as one, or not at all. No other thread may use the ledger meanwhile."""
        with self._begin() as connection:
            self._together = connection
            try:
                yield
            finally:
                self._together = None

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
                    f"{self.setting}: {self.where} holds the schema of a newer reconcile; install that version"
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


def watched_engine(url: str) -> Engine:
    """Connections to a Postgres, each new, which notice a server that is gone."""
    given = make_url(url).query
    watched = {name: value for name, value in LIVENESS.items() if name not in given}
    # A transaction-pooling PgBouncer knows no prepared statements and pools by itself.
    arguments = {"prepare_threshold": None, "connect_timeout": 10, **watched}
    return create_engine(url, poolclass=NullPool, connect_args=arguments)


def of_stream(table: Any, stream: Stream) -> list[Any]:
    """The conditions that choose a stream's rows of a table."""
    return [table.c[name] == value for name, value in stream.key().items()]


def explained(error: DBAPIError, where: str, setting: str = STATE_URL) -> ReconcileError:
    """What Postgres said, in one line, as a wrong answer or as none. `setting` names it."""
    said = " ".join(str(error.orig).split())
    said = re.sub(r'host name ".*?" to address|name ".*?@', "the host name", said)
    sqlstate = getattr(error.orig, "sqlstate", None) or ""
    if sqlstate == "42501":
        elsewhere = "" if setting == STATE_URL else f", or name another place for schema {SCHEMA} in {STATE_URL}"
        return PreflightError(
            f"{setting}: {where} refuses: {said}; have its owner run `reconcile migrate`, or grant the rights"
            f"{elsewhere}"
        )
    wrong = isinstance(error, (ProgrammingError,)) or _WRONG_ANSWER.search(said)
    if isinstance(error, OperationalError) and not wrong:
        return DatabaseFault(f"{setting}: {where} does not answer: {said}")
    if wrong:
        return PreflightError(f"{setting}: {where} answered: {said}")
    return DatabaseFault(f"{setting}: {where}: {said}")

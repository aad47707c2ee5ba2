"""One read-only connection to LiteLLM's Postgres, through Arrow, and what its errors mean."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import adbc_driver_postgresql.dbapi as adbc
import pyarrow as pa
from adbc_driver_manager import Error as AdbcError
from psycopg.conninfo import conninfo_to_dict

from reconcile.errors import DatabaseFault, PreflightError, ReconcileError
from reconcile.settings.database import LIVENESS

# What Postgres answers, at the connection, to settings that are wrong: running again will not help.
_WRONG_ANSWER = re.compile(
    r"password authentication failed|no password supplied|does not exist|no pg_hba\.conf entry"
    r"|permission denied|role .* is not permitted|invalid .* option|certificate|SSL",
    re.IGNORECASE,
)
_HIDDEN_ROWS = re.compile(r'row-level security policy for table "(?P<table>.*?)"')

# `row_security = off` turns a policy that would hide rows from this user into an error. Both settings last for the
# transaction alone: a pooler between may give each transaction another server connection.
_READ_EVERYTHING_AND_WRITE_NOTHING = (
    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
    "SET LOCAL row_security = off",
)


class Connection:
    """One connection, for one thread at a time. `uri` is a libpq URL; `where` names the place without its password.

    Raises `PreflightError` where Postgres answers that the settings are wrong, `DatabaseFault` where it does not
    answer. Neither holds a password.
    """

    def __init__(self, uri: str, where: str) -> None:
        self.where = where
        try:
            self._connection = adbc.connect(_watched(uri), autocommit=False)
        except AdbcError as error:
            raise _explained(error, where) from None

    def close(self) -> None:
        self._connection.close()

    def query(self, statement: str) -> pa.Table:
        """The answer to one statement, in a transaction of its own."""
        with self.transaction() as query:
            return query(statement)

    @contextmanager
    def transaction(self) -> Iterator[Callable[[str], pa.Table]]:
        """One read-only transaction that sees one state of the database, and every row of it."""
        try:
            with self._connection.cursor() as cursor:
                for setting in _READ_EVERYTHING_AND_WRITE_NOTHING:
                    cursor.execute(setting)

                def query(statement: str) -> pa.Table:
                    cursor.execute(statement)
                    return cursor.fetch_arrow_table()

                yield query
            self._connection.rollback()
        except AdbcError as error:
            self._forget()
            raise _explained(error, self.where) from None

    def _forget(self) -> None:
        try:
            self._connection.rollback()
        except AdbcError:
            return  # the connection is gone, and its transaction with it


def _watched(uri: str) -> str:
    """The URL with the parameters that notice a server that is gone."""
    given = conninfo_to_dict(uri)
    more = "&".join(f"{name}={value}" for name, value in LIVENESS.items() if name not in given)
    return f"{uri}{'&' if '?' in uri else '?'}{more}" if more else uri


def _explained(error: AdbcError, where: str) -> ReconcileError:
    """What Postgres said, in one line, as a wrong answer or as none."""
    sqlstate = getattr(error, "sqlstate", None) or ""
    text = " ".join(str(error).split())
    # A password with an unescaped @ ends up in what libpq takes for the host.
    text = re.sub(r'host name ".*?" to address', "the host name to an address", text)
    said = re.search(r"(FATAL|ERROR):\s*(.*)", text)
    line = said.group(2) if said else text
    if hidden := _HIDDEN_ROWS.search(line):
        return PreflightError(
            f'DATABASE_URL: row-level security hides rows of table "{hidden["table"]}" from the user of {where}, and '
            "what is not seen is not billed; read as a user that sees every row: ALTER ROLE … BYPASSRLS, or the "
            "table's owner (who is bound, too, where the table says FORCE ROW LEVEL SECURITY)"
        )
    if sqlstate.startswith(("28", "3D", "42", "3F")) or (said and _WRONG_ANSWER.search(line)):
        return PreflightError(f"DATABASE_URL: {where} answered: {line}")
    return DatabaseFault(f"DATABASE_URL: {where} does not answer: {line}")

"""The LiteLLM side: rows of `"LiteLLM_SpendLogs"`, read only, through Arrow.

The table as LiteLLM made it from 1.60 to 1.109 is understood, plain or partitioned. Its usage time, `"endTime"`, has no
index; `"startTime"` has one. So rows are read by their start, a little further than the slice that is wanted, and kept
until the slice of their end comes: each row is read once, by one statement, and each heap page is touched once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Self

import adbc_driver_postgresql.dbapi as adbc
import numpy as np
import pandas as pd
import pyarrow as pa
from adbc_driver_manager import Error as AdbcError

from reconcile import statements
from reconcile.classify import no_rows
from reconcile.domain.window import Window
from reconcile.errors import DatabaseFault, PreflightError, ReconcileError

# A clock that runs backwards can put a row's start after its end; more than this is not looked for.
CLOCK_SKEW = timedelta(minutes=5)

TABLE = "LiteLLM_SpendLogs"
# The opt-in partitioned layout may leave the rows from before it in this table.
LEGACY_TABLE = "LiteLLM_SpendLogs_legacy"
NEEDED_COLUMNS = (
    "request_id",
    "startTime",
    "endTime",
    "model",
    "spend",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
)
DAILY_TABLES = {
    "user": ("LiteLLM_DailyUserSpend", "user_id"),
    "team_id": ("LiteLLM_DailyTeamSpend", "team_id"),
    "end_user": ("LiteLLM_DailyEndUserSpend", "end_user_id"),
    "organization_id": ("LiteLLM_DailyOrganizationSpend", "organization_id"),
}
_DAILY_COLUMNS = {"date", "api_requests", "prompt_tokens", "completion_tokens", "spend"}

# What Postgres answers, at the connection, to settings that are wrong: running again will not help.
_WRONG_ANSWER = re.compile(
    r"password authentication failed|no password supplied|does not exist|no pg_hba\.conf entry"
    r"|permission denied|role .* is not permitted|invalid .* option|certificate|SSL",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Schema:
    """What the preflight found: the tables that hold rows, and the columns each has."""

    columns: dict[str, frozenset[str]]

    @property
    def row_tables(self) -> tuple[str, ...]:
        return tuple(name for name in (TABLE, LEGACY_TABLE) if name in self.columns)


class SpendLogs:
    """One read-only connection to LiteLLM's database. Use it as a context manager; not from two threads at once.

    `uri` is a libpq URL, `schema` the tables' schema, `charge_column` the column that holds the charge ID.
    Raises `PreflightError` where Postgres answers that the settings are wrong, `DatabaseFault` where it does not
    answer. Neither holds a password.
    """

    def __init__(self, uri: str, schema: str, charge_column: str, where: str) -> None:
        self.charge_column = charge_column
        self.where = where
        self._schema_name = schema
        try:
            self._connection = adbc.connect(uri, autocommit=False)
        except AdbcError as error:
            raise _explained(error, where) from None
        self._schema: Schema | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def preflight(self) -> Schema:
        """Reads which columns there are. Raises `PreflightError`, naming the table or column that is missing."""
        found = self._query(statements.render("spend_logs_columns", schema=self._schema_name))
        columns: dict[str, set[str]] = {}
        for table, column in zip(found["table_name"].to_pylist(), found["column_name"].to_pylist(), strict=True):
            columns.setdefault(table, set()).add(column)
        schema = Schema({table: frozenset(names) for table, names in columns.items()})
        if TABLE not in schema.columns:
            raise PreflightError(
                f'DATABASE_URL: {self.where} has no table "{TABLE}" in schema {self._schema_name} that this user may '
                "read; name the proxy's database, its schema by ?schema=NAME, and grant SELECT"
            )
        for column in (*NEEDED_COLUMNS, self.charge_column):
            if column not in schema.columns[TABLE]:
                raise PreflightError(
                    f'DATABASE_URL: table "{TABLE}" has no column "{column}", which '
                    + (
                        "LAGO_API_CHARGE_BY needs; choose another charge ID or upgrade LiteLLM"
                        if column == self.charge_column
                        else "is needed; is this LiteLLM 1.60 or later?"
                    )
                )
        # Asks for the right to read, too: a missing GRANT is an answer of its own.
        moment = datetime.fromisoformat("1970-01-01T00:00:00Z")
        self._schema = schema
        self._read_rows(moment, moment, moment, moment)
        return schema

    @property
    def tables(self) -> Schema:
        """The preflight's result."""
        return self._schema or self.preflight()

    def rows(self, starts: Window, usage: Window) -> pd.DataFrame:
        """Rows that began within `starts` and ended within `usage`, as ROWS without the ledger's columns filled."""
        return self._read_rows(starts.start, starts.end, usage.start, usage.end)

    def hours(self, starts: Window) -> pd.Series:
        """Rows per hour of their start: int64, indexed by datetime64[ms, UTC]. Hours without rows are left out."""
        parts = [
            self._query(
                statements.render(
                    "spend_logs_hours",
                    schema=self._schema_name,
                    table=table,
                    start_from=starts.start,
                    start_to=starts.end,
                )
            ).to_pandas()
            for table in self.tables.row_tables
        ]
        found = pd.concat(parts, ignore_index=True)
        hours = pd.to_datetime(found["hour"], utc=True).dt.as_unit("ms")
        counts: pd.Series = found["rows"].astype(np.int64).groupby(hours).sum()
        return counts

    def daily_totals(self, first_day: str, last_day: str) -> tuple[str, pd.DataFrame] | None:
        """LiteLLM's own totals of the UTC days from `first_day` to `last_day`: the table's name, and a frame of day,
        charge_id (str), requests, tokens (int64), spend (float64). None where this LiteLLM keeps no such table."""
        table, entity = DAILY_TABLES[self.charge_column]
        if not (self.tables.columns.get(table, frozenset()) >= _DAILY_COLUMNS | {entity}):
            return None
        found = self._query(
            statements.render(
                "daily_totals",
                schema=self._schema_name,
                table=table,
                entity_column=entity,
                day_from=first_day,
                day_to=last_day,
            )
        )
        return table, found.to_pandas()

    def _read_rows(
        self, start_from: datetime, start_to: datetime, end_from: datetime, end_to: datetime
    ) -> pd.DataFrame:
        tables = []
        with self._transaction() as query:
            for table in self.tables.row_tables:
                statement = statements.render(
                    "spend_logs_rows",
                    schema=self._schema_name,
                    table=table,
                    charge_column=self.charge_column,
                    start_from=start_from,
                    start_to=start_to,
                    end_from=end_from,
                    end_to=end_to,
                )
                tables.append(query(_without_columns(statement, self.tables.columns[table])))
        frame = rows_frame(pa.concat_tables(tables, promote_options="permissive"))
        if len(tables) > 1:
            frame = frame.drop_duplicates(["request_id", "start_ms"], ignore_index=True)
        return frame

    def _query(self, statement: str) -> pa.Table:
        with self._transaction() as query:
            return query(statement)

    @contextmanager
    def _transaction(self) -> Iterator[Callable[[str], pa.Table]]:
        """One read-only transaction that sees one state of the database, whatever pooler stands between."""
        try:
            with self._connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")

                def query(statement: str) -> Any:
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


class RowFeed:
    """The rows of a window in order of their usage time, slice by slice. Each row is read once.

    A call may have begun `max_call` before its usage time, and by clock skew up to five minutes after it.
    """

    def __init__(self, spend_logs: SpendLogs, usage: Window, max_call: timedelta) -> None:
        self._spend_logs = spend_logs
        self._usage = usage
        self._read_to = usage.start - max_call
        self._waiting = no_rows()

    def up_to(self, horizon: datetime) -> pd.DataFrame:
        """The rows (ROWS) with a usage time before `horizon` that were not given yet."""
        read_to = min(horizon, self._usage.end) + CLOCK_SKEW
        if read_to > self._read_to:
            fresh = self._spend_logs.rows(Window(self._read_to, read_to), self._usage)
            self._read_to = read_to
            self._waiting = pd.concat([self._waiting, fresh], ignore_index=True) if len(self._waiting) else fresh
        due = self._waiting["usage_ms"].to_numpy() < milliseconds(horizon)
        rows, self._waiting = self._waiting[due], self._waiting[~due]
        return rows.reset_index(drop=True)


def milliseconds(moment: datetime) -> int:
    """Whole milliseconds since 1970 UTC."""
    return (moment - datetime.fromisoformat("1970-01-01T00:00:00Z")) // timedelta(milliseconds=1)


def rows_frame(table: pa.Table) -> pd.DataFrame:
    """Arrow rows of `spend_logs_rows.sql` as ROWS. Times finer than a millisecond are cut."""
    frame = no_rows() if not table.num_rows else pd.DataFrame(index=range(table.num_rows))
    for name in ("request_id", "model", "model_group", "provider", "charge_id", "status", "cache_hit"):
        frame[name] = pd.array(table[name].cast(pa.large_string()), dtype="str")
    for name, column in (("start_ms", "start_time"), ("usage_ms", "end_time")):
        frame[name] = _ms_of(table[column])
    frame["spend"] = table["spend"].cast(pa.float64()).to_numpy()
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        frame[name] = table[name].cast(pa.int64()).to_numpy()
    frame["subscription_id"] = frame["charge_id"]
    frame["earlier_id"] = pd.array([""], dtype="str").take(np.zeros(len(frame), np.int64))
    frame["earlier_sure"] = np.zeros(len(frame), bool)
    return frame


def _ms_of(times: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.int64]]:
    micros = times.cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
    return np.asarray(np.floor_divide(micros, 1000), np.int64)


def _without_columns(statement: str, columns: frozenset[str]) -> str:
    """The statement for a table of an older LiteLLM: a column that it lacks is ''."""
    for name in re.findall(r"coalesce\((.*), ''\)", statement):
        if name.strip('"') not in columns:
            statement = statement.replace(f"coalesce({name}, '')", "''::text")
    return statement


def _explained(error: AdbcError, where: str) -> ReconcileError:
    """What Postgres said, in one line, as a wrong answer or as none."""
    sqlstate = getattr(error, "sqlstate", None) or ""
    text = " ".join(str(error).split())
    # A password with an unescaped @ ends up in what libpq takes for the host.
    text = re.sub(r'host name ".*?" to address', "the host name to an address", text)
    said = re.search(r"(FATAL|ERROR):\s*(.*)", text)
    line = said.group(2) if said else text
    if sqlstate.startswith(("28", "3D", "42", "3F")) or (said and _WRONG_ANSWER.search(line)):
        return PreflightError(f"DATABASE_URL: {where} answered: {line}")
    return DatabaseFault(f"DATABASE_URL: {where} does not answer: {line}")

"""The LiteLLM side: rows of `"LiteLLM_SpendLogs"`, read only, through Arrow.

The table as LiteLLM made it from 1.60 to 1.110 is understood, plain or partitioned. Its usage time, `"endTime"`, has no
index; `"startTime"` has one. So rows are read by their start, a little further than the slice that is wanted (`feed.py`
keeps those until the slice of their end comes): each row is read once, and each heap page is touched once.

A row whose start is `infinity`, or lies thousands of years away, is in no window. `unplaced` counts such rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from reconcile import statements
from reconcile.domain.frames import ROWS
from reconcile.domain.window import Window
from reconcile.errors import PreflightError
from reconcile.litellm.connection import Connection
from reconcile.litellm.tables import (
    CHARGE_IDS,
    DAILY_COLUMNS,
    DAILY_TABLES,
    DETAILS,
    LEGACY_TABLE,
    NEEDED_COLUMNS,
    TABLE,
    array_literal,
    compact,
    details_frame,
    for_columns,
    rows_frame,
)

_MILLISECOND = timedelta(milliseconds=1)
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00Z")
# The two rows of one call begin milliseconds apart; sql/spend_logs_same_call.sql has the same figure.
_SAME_CALL = timedelta(seconds=10)
# So many rows are asked for by one statement where each is named.
_NAMED_AT_ONCE = 10_000
# A usage time this far after a window's end is none.
_FAR_FUTURE = timedelta(days=366)


@dataclass(frozen=True, slots=True)
class Schema:
    """What the preflight found: the tables that hold rows, and the columns each has."""

    columns: dict[str, frozenset[str]]

    @property
    def row_tables(self) -> tuple[str, ...]:
        return tuple(name for name in (TABLE, LEGACY_TABLE) if name in self.columns)


@dataclass(frozen=True, slots=True)
class Unplaced:
    """Rows that belong to no window, and their spend in USD (NaN and infinite ones count 0)."""

    count: int
    spend: float


class SpendLogs:
    """One read-only connection to LiteLLM's database. Use it as a context manager, and from one thread at a time:
    `clone` gives another thread its own.

    `uri` is a libpq URL, `schema` the tables' schema, `charge_column` the column that holds the charge ID.
    Raises `PreflightError` where Postgres answers that the settings are wrong, or where row-level security would hide
    rows; `DatabaseFault` where it does not answer. Neither holds a password.
    """

    def __init__(self, uri: str, schema: str, charge_column: str, where: str, found: Schema | None = None) -> None:
        self.charge_column = charge_column
        self.where = where
        self._uri = uri
        self._schema_name = schema
        self._connection = Connection(uri, where)
        self._schema = found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def clone(self) -> SpendLogs:
        """Another connection to the same tables, with this one's preflight."""
        return SpendLogs(self._uri, self._schema_name, self.charge_column, self.where, self._schema)

    def preflight(self) -> Schema:
        """Reads which columns there are, and asks for the right to read every row of every table that holds rows.

        Raises `PreflightError`, naming the table or column that is missing, or what hides rows.
        """
        found = self._connection.query(statements.render("spend_logs_columns", schema=self._schema_name))
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
        self._schema = schema
        self._read(_EPOCH, _EPOCH, _EPOCH, _EPOCH)
        return schema

    @property
    def tables(self) -> Schema:
        """The preflight's result."""
        return self._schema or self.preflight()

    def clock(self) -> datetime:
        """What Postgres' clock says now."""
        (now,) = self._connection.query("SELECT clock_timestamp() AS now")["now"].to_pylist()
        assert isinstance(now, datetime)
        return now

    def rows(self, starts: Window, usage: Window) -> pd.DataFrame:
        """Rows that began within `starts` and ended within `usage`, as ROWS without the ledger's columns filled."""
        return rows_frame(self.read(starts, usage))

    def read(self, starts: Window, usage: Window) -> pa.Table:
        """As `rows`, in the compact form that `tables.rows_frame` takes."""
        return self._read(starts.start, starts.end, usage.start, usage.end)

    def of_request(self, request_id: str) -> tuple[pd.DataFrame, list[dict[str, str]], int]:
        """The rows of a request ID as ROWS; for each, what every charge-by would charge; and how many rows of it have
        a time that cannot be."""
        parts = list(
            self._of_each_table("spend_logs_of_request", charge_column=self.charge_column, request_id=request_id)
        )
        found = pa.concat_tables(parts)
        placed = found.filter(pc.and_(found["start_time"].is_valid(), found["end_time"].is_valid()))
        names = [{name: row[name] for name in CHARGE_IDS} for row in placed.select(CHARGE_IDS).to_pylist()]
        return rows_frame(compact(placed, ROWS)), names, found.num_rows - placed.num_rows

    def hours(self, starts: Window) -> pd.Series:
        """Rows per hour of their start: int64, indexed by datetime64[ms, UTC]. Hours without rows are left out."""
        parts = self._of_each_table("spend_logs_hours", start_from=starts.start, start_to=starts.end)
        found = pd.concat([part.to_pandas() for part in parts], ignore_index=True)
        hours = pd.to_datetime(found["hour"], utc=True).dt.as_unit("ms")
        counts: pd.Series = found["rows"].astype(np.int64).groupby(hours).sum()
        return counts

    def charge_ids(self, usage: Window, split: datetime) -> list[dict[str, Any]]:
        """Who has usage in the range ('' for nobody): charge_id, rows, spend (text, USD), earlier_rows and
        earlier_spend (of what lies before `split`), first_usage, last_usage (aware). Reads every row of the range."""
        parts = self._of_each_table(
            "spend_logs_charge_ids",
            charge_column=self.charge_column,
            start_from=usage.start,
            start_to=usage.end,
            split=split,
        )
        return [
            row | {name: row[name].replace(tzinfo=UTC) for name in ("first_usage", "last_usage")}
            for part in parts
            for row in part.to_pylist()
        ]

    def unplaced(self, starts: Window) -> Unplaced:
        """The rows that no window will ever hold: of those begun within `starts`, the ones whose usage time is more
        than a year after it or before 2020; of all, the ones whose start is."""
        parts = [
            *self._of_each_table(
                "spend_logs_unplaced",
                start_from=starts.start,
                start_to=starts.end,
                future=starts.end + _FAR_FUTURE,
            )
        ]
        return Unplaced(
            sum(part["rows"].to_pylist()[0] for part in parts), sum(part["spend"].to_pylist()[0] for part in parts)
        )

    def details(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The DETAILS of these rows (request_id, start_ms), for a few of them: each costs a look of its own.

        A row that is no longer there is left out.
        """
        return self._details(
            [
                part
                for some in _portions(rows)
                for part in self._of_each_table(
                    "spend_logs_details",
                    charge_column=self.charge_column,
                    request_ids=array_literal(some["request_id"].tolist()),
                    starts=_instants(some["start_ms"]),
                    start_from=_moment(int(some["start_ms"].min())),
                    start_to=_moment(int(some["start_ms"].max()) + 1),
                )
            ]
        )

    def candidates_of_same_call(self, details: pd.DataFrame) -> pd.DataFrame:
        """The rows of the same sessions as these (DETAILS) that began within seconds of them, these among them."""
        return self._details(
            [
                part
                for some in _portions(details[details["session_id"] != ""])
                for part in self._of_each_table(
                    "spend_logs_same_call",
                    charge_column=self.charge_column,
                    sessions=array_literal(some["session_id"].tolist()),
                    starts=_instants(some["start_ms"]),
                    start_from=_moment(int(some["start_ms"].min())) - _SAME_CALL,
                    start_to=_moment(int(some["start_ms"].max()) + 1) + _SAME_CALL,
                )
            ]
        )

    def earlier_of_jobs(self, details: pd.DataFrame, since: datetime) -> pd.DataFrame:
        """For each of these rows (DETAILS, looks at a finished job) the earlier rows that tell whether it was billed
        before: the nearest look and the nearest call for a response that billed the same, and the nearest call for a
        response in the background, which cost nothing. All have its charge ID and key, and began at `since` or later.
        """
        return self._details(
            [
                part
                for some in _portions(details)
                for part in self._of_each_table(
                    "spend_logs_earlier_of_jobs",
                    charge_column=self.charge_column,
                    request_ids=array_literal(some["request_id"].tolist()),
                    starts=_instants(some["start_ms"]),
                    charge_ids=array_literal(some["charge_id"].tolist()),
                    api_keys=array_literal(some["api_key"].tolist()),
                    spends=array_literal(some["spend"].tolist()),
                    prompt_tokens=array_literal(map(str, some["prompt_tokens"].tolist())),
                    completion_tokens=array_literal(map(str, some["completion_tokens"].tolist())),
                    start_from=since,
                    start_to=_moment(int(some["start_ms"].max()) + 1),
                )
            ]
        )

    def daily_totals(self, first_day: str, last_day: str) -> tuple[str, pd.DataFrame] | None:
        """LiteLLM's own totals of the UTC days from `first_day` to `last_day`: the table's name, and a frame of day,
        charge_id (str), tokens (int64), spend (float64), and successful (int64: requests that did not fail, without
        LiteLLM's internal calls and retries; 0 where this LiteLLM does not count them). None where it keeps no table,
        or lets this user not see all of it.
        """
        table, entity = DAILY_TABLES[self.charge_column]
        columns = self.tables.columns.get(table, frozenset())
        if not columns >= DAILY_COLUMNS | {entity}:
            return None
        statement = statements.render(
            "daily_totals",
            schema=self._schema_name,
            table=table,
            entity_column=entity,
            day_from=first_day,
            day_to=last_day,
        )
        try:
            return table, self._connection.query(for_columns(statement, columns)).to_pandas()
        except PreflightError:
            return None  # a hint that cannot be had

    def _read(self, start_from: datetime, start_to: datetime, end_from: datetime, end_to: datetime) -> pa.Table:
        parts = self._of_each_table(
            "spend_logs_rows",
            charge_column=self.charge_column,
            start_from=start_from,
            start_to=start_to,
            end_from=end_from,
            end_to=end_to,
        )
        return _each_once([compact(part, ROWS) for part in parts])

    def _details(self, found: list[pa.Table]) -> pd.DataFrame:
        frame = details_frame(_each_once([compact(part, DETAILS) for part in found]) if found else pa.table({}))
        return frame.drop_duplicates(["request_id", "start_ms"], ignore_index=True)

    def _of_each_table(self, name: str, **values: Any) -> Iterator[pa.Table]:
        """The answers of every table that holds rows, all of one state of the database."""
        with self._connection.transaction() as query:
            for table in self.tables.row_tables:
                statement = statements.render(name, schema=self._schema_name, table=table, **values)
                yield query(for_columns(statement, self.tables.columns[table]))


def milliseconds(moment: datetime) -> int:
    """Whole milliseconds since 1970 UTC."""
    return (moment - _EPOCH) // _MILLISECOND


def _moment(time_ms: int) -> datetime:
    return _EPOCH + time_ms * _MILLISECOND


def _instants(times_ms: pd.Series) -> str:
    """Milliseconds since 1970 as an array of UTC timestamps."""
    return array_literal(np.datetime_as_string(times_ms.to_numpy(np.int64).astype("datetime64[ms]")).tolist())


def _portions(rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """The rows in the order of their start, so many at a time as one statement names."""
    ordered = rows.sort_values("start_ms", kind="stable")
    for place in range(0, len(ordered), _NAMED_AT_ONCE):
        yield ordered.iloc[place : place + _NAMED_AT_ONCE]


def _each_once(parts: list[pa.Table]) -> pa.Table:
    """The parts as one; a row that stands in the table and in the legacy one is taken once."""
    table = pa.concat_tables(parts)
    if len(parts) == 1:
        return table
    keys = pd.DataFrame({name: table[name].to_pandas() for name in ("request_id", "start_ms")})
    return table.filter(pa.array(~keys.duplicated().to_numpy()))

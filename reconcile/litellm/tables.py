"""LiteLLM's tables by name and column, and the frames that their rows become. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from reconcile.domain.frames import NAME, ROWS, TEXT, constant, empty
from reconcile.domain.vocabulary import Scope

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
# What a row can be charged by, in `spend_logs_of_request`.
CHARGE_IDS = ("end_user_id", "user_id", "team_id", "organization_id")
DAILY_TABLES = {
    "user": ("LiteLLM_DailyUserSpend", "user_id"),
    "team_id": ("LiteLLM_DailyTeamSpend", "team_id"),
    "end_user": ("LiteLLM_DailyEndUserSpend", "end_user_id"),
    "organization_id": ("LiteLLM_DailyOrganizationSpend", "organization_id"),
}
DAILY_COLUMNS = frozenset({"date", "prompt_tokens", "completion_tokens", "spend"})

# A row with what tells whether it is another one's call written twice, or its job fetched again.
DETAILS: Mapping[str, str] = {
    "request_id": TEXT,
    "start_ms": "int64",
    "usage_ms": "int64",
    "charge_id": NAME,
    "api_key": NAME,  # its hash
    "call_type": NAME,
    "spend": "float64",
    "prompt_tokens": "int64",
    "completion_tokens": "int64",
    "total_tokens": "int64",
    "session_id": TEXT,
    "litellm_call_id": TEXT,
}
_TIMES = {"start_ms": "start_time", "usage_ms": "end_time"}
_YOUNG_COLUMN = re.compile(r"""coalesce\((?:log\.)?"?(\w+)"?(?: ->> '\w+')?, (''|0)\)""")


def for_columns(statement: str, columns: frozenset[str]) -> str:
    """The statement for a table of another LiteLLM: a column that the table lacks reads as '' or 0."""

    def read(match: re.Match[str]) -> str:
        if match[1] in columns:
            return match[0]
        return "''::text" if match[2] == "''" else "0"

    return _YOUNG_COLUMN.sub(read, statement)


def compact(table: pa.Table, columns: Mapping[str, str]) -> pa.Table:
    """Rows as Postgres gave them, with the columns of `columns` that it gave: text that repeats is encoded, times are
    whole milliseconds (finer ones are cut)."""
    found = {}
    for name, kind in columns.items():
        if (source := _TIMES.get(name, name)) not in table.column_names:
            continue
        column = table[source]
        if name in _TIMES:
            column = pa.chunked_array([_milliseconds(column)])
        elif kind == NAME:
            column = column.cast(pa.string()).dictionary_encode()
        else:
            column = column.cast(pa.large_string() if kind == TEXT else pa.type_for_alias(kind))
        found[name] = column
    return pa.table(found)


def rows_frame(table: pa.Table) -> pd.DataFrame:
    """Compact rows as ROWS: each for itself, handed to Lago by nobody yet, and of the window."""
    count = table.num_rows
    if not count:
        return empty(ROWS)
    charge_ids = _categorical(table["charge_id"])
    made: dict[str, Any] = {
        "subscription_id": charge_ids,
        "earlier_id": _nothing(count),
        "earlier_sure": np.zeros(count, bool),
        "scope": constant(Scope.WINDOW, count),
    }
    return _frame(table, ROWS, made)


def details_frame(table: pa.Table) -> pd.DataFrame:
    """Compact rows as DETAILS."""
    return _frame(table, DETAILS, {}) if table.num_rows else empty(DETAILS)


def array_literal(values: Iterable[str | float]) -> str:
    """An array in Postgres' own text form. A double is written so that it reads back as the same double."""
    quoted = (
        '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' if isinstance(value, str) else repr(float(value))
        for value in values
    )
    return "{" + ",".join(quoted) + "}"


def _frame(table: pa.Table, columns: Mapping[str, str], made: Mapping[str, Any]) -> pd.DataFrame:
    found = {}
    for name, kind in columns.items():
        if name in made:
            found[name] = made[name]
        elif kind == NAME:
            found[name] = _categorical(table[name])
        elif kind == TEXT:
            found[name] = pd.array(table[name], dtype="str")
        else:
            found[name] = table[name].to_numpy()
    return pd.DataFrame(found, copy=False)


def _categorical(column: pa.ChunkedArray) -> pd.Categorical:
    encoded = column.unify_dictionaries().combine_chunks()
    words = pd.Index(pd.array(encoded.dictionary.cast(pa.large_string()), dtype="str"))
    return pd.Categorical.from_codes(encoded.indices.to_numpy(), words)


def _nothing(count: int) -> Any:
    """`count` times ''."""
    texts = pa.LargeStringArray.from_buffers(count, pa.py_buffer(np.zeros(count + 1, np.int64)), pa.py_buffer(b""))
    return pd.array(texts, dtype="str")


def _milliseconds(times: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    micros = times.cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
    return np.asarray(np.floor_divide(micros, 1_000), np.int64)

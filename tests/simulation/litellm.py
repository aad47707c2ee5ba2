"""LiteLLM's spend log in memory, behind the job's own reader: only the answers of Postgres are replaced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa

from reconcile.litellm.spend_logs import Schema, SpendLogs
from reconcile.litellm.tables import DETAILS, NEEDED_COLUMNS, TABLE

from .lago import Key
from .machine import HOUR, Machine, Skew, moment

_TIME = pa.timestamp("us")


@dataclass(frozen=True)
class Content:
    """What a row says of its call and may be mended later."""

    team: str | None
    model: str
    spend: float
    prompt: int
    completion: int

    @property
    def tokens(self) -> int:
        return self.prompt + self.completion


@dataclass
class Row:
    """One row. `start_ms` and `usage_ms` are by the proxy's clock, the other times are true."""

    request_id: str
    start_ms: int
    usage_ms: int
    content: Content
    status: str | None
    ended_at: int
    written_at: int
    provider: str = "openai"
    deleted_at: int | None = None
    mended: list[tuple[int, Content]] = field(default_factory=list)  # true time, and what stood before
    twin: bool = False

    @property
    def key(self) -> Key:
        return self.request_id, self.start_ms

    def there(self, now: int) -> bool:
        return self.written_at <= now and (self.deleted_at is None or now < self.deleted_at)


class Table:
    """The table of one proxy's database."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def there(self, now: int) -> list[Row]:
        return [row for row in self.rows if row.there(now)]


class MemoryLogs(SpendLogs):
    """The job's reader on a table in memory. `skew` is that of Postgres' clock."""

    def __init__(self, machine: Machine, table: Table, skew: Skew) -> None:
        self.charge_column, self.where = "team_id", "memory"
        self._machine, self._table, self._skew = machine, table, skew
        self._schema = Schema({TABLE: frozenset({*NEEDED_COLUMNS, "team_id", "status"})})

    def close(self) -> None:
        return

    def clone(self) -> SpendLogs:
        return MemoryLogs(self._machine, self._table, self._skew)

    def preflight(self) -> Schema:
        self._machine.database()
        assert self._schema is not None
        return self._schema

    def clock(self) -> datetime:
        self._machine.database()
        return moment(self._machine.clock.now + self._skew.ms)

    def daily_totals(self, first_day: str, last_day: str) -> None:
        return None

    def _of_each_table(self, name: str, **values: Any) -> Iterator[pa.Table]:
        self._machine.database()
        rows = self._table.there(self._machine.clock.now)
        if name == "spend_logs_unplaced":
            yield pa.table({"rows": [0], "spend": [0.0]})
            return
        start_from, start_to = _ms(values["start_from"]), _ms(values["start_to"])
        rows = [row for row in rows if start_from <= row.start_ms < start_to]
        if name == "spend_logs_hours":
            counted = Counter(row.start_ms // HOUR * HOUR for row in rows)
            yield pa.table(
                {"hour": pa.array([moment(hour).replace(tzinfo=None) for hour in counted], _TIME),
                 "rows": pa.array(list(counted.values()), pa.int64())}
            )  # fmt: skip
        elif name == "spend_logs_rows":
            end_from, end_to = _ms(values["end_from"]), _ms(values["end_to"])
            yield _rows([row for row in rows if end_from <= row.usage_ms < end_to])
        elif name == "spend_logs_details":
            wanted = set(_names(values["request_ids"]))
            yield _details([row for row in rows if row.request_id in wanted])
        else:
            # No call is written twice in these worlds, and none is a look at a finished job.
            yield _details([])


def _ms(time: datetime) -> int:
    return round(time.timestamp() * 1000)


def _names(literal: str) -> list[str]:
    return [name.strip('"') for name in literal.strip("{}").split(",")]


def _rows(rows: list[Row]) -> pa.Table:
    return pa.table(
        {
            "request_id": pa.array([row.request_id for row in rows], pa.string()),
            "start_time": pa.array([moment(row.start_ms).replace(tzinfo=None) for row in rows], _TIME),
            "end_time": pa.array([moment(row.usage_ms).replace(tzinfo=None) for row in rows], _TIME),
            "model": pa.array([row.content.model for row in rows], pa.string()),
            "model_group": pa.array([""] * len(rows), pa.string()),
            "provider": pa.array([row.provider for row in rows], pa.string()),
            "spend": pa.array([row.content.spend for row in rows], pa.float64()),
            "prompt_tokens": pa.array([row.content.prompt for row in rows], pa.int64()),
            "completion_tokens": pa.array([row.content.completion for row in rows], pa.int64()),
            "total_tokens": pa.array([row.content.tokens for row in rows], pa.int64()),
            "charge_id": pa.array([row.content.team or "" for row in rows], pa.string()),
            "status": pa.array([row.status or "" for row in rows], pa.string()),
            "cache_hit": pa.array(["False"] * len(rows), pa.string()),
            "call_type": pa.array(["acompletion"] * len(rows), pa.string()),
        }
    )


def _details(rows: list[Row]) -> pa.Table:
    read = _rows(rows)
    other = {name: pa.array([""] * len(rows), pa.string()) for name in ("api_key", "session_id", "litellm_call_id")}
    wanted = {"start_ms": "start_time", "usage_ms": "end_time"}
    names = [wanted.get(name, name) for name in DETAILS]
    return pa.table({name: other[name] if name in other else read[name] for name in names})

"""Captured traffic of LiteLLM's real proxies (tests/data): rows for the table, events with times, and their requests.

Every row and event of the newer captures says in `request` which request of the client caused it: that label is the
truth that classes are held to. It is in neither frame and in no table.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from reconcile.domain.frames import EVENTS, ROWS
from reconcile.sandbox.traffic import LiveEvent

Capture = Literal["mock", "upstream_team"]

EVENT_CODE = "llm_tokens"
CHARGE_BY = "team_id"

# The captures with labels, by the name of their files. Those that end in a version were made with it, the others with
# 1.110.2.
LABELLED = (
    "bridged_team",
    "bridged_team_1.102.3",
    "jobs_team",
    "jobs_team_1.106.2",
    "mock",
    "other_team",
    "retries_team",
    "special_team",
    "special_team_1.106.2",
    "upstream_end_user",
    "upstream_team",
    "upstream_team_1.106.2",
)

_DATA = Path(__file__).parent.parent / "data"
_OLD, _NEW = _DATA / "litellm-1.106.2", _DATA / "litellm-1.110.2"
_INTEGERS = ("total_tokens", "prompt_tokens", "completion_tokens", "request_duration_ms")
_TIMES = ("startTime", "endTime", "completionStartTime")
_NULLABLE = ("mcp_namespaced_tool_name", "agent_id", "billing_agent_id")  # 'None' in the capture
# The labels of requests whose ID a real provider, or LiteLLM itself, used before: the table keeps the first row. The
# fake provider of the captures makes its IDs from the prompt; where that alone made two rows share one, each gets its
# own here, as with a real provider.
_USED_BEFORE = ("id 42 again", "batch retrieve again", "messages bridged to openai")
_TOKENS = ("prompt_tokens", "completion_tokens", "total_tokens")


@dataclass(frozen=True, slots=True)
class Labelled:
    """A capture as frames (ROWS, EVENTS), the request of each row and event beside."""

    rows: pd.DataFrame
    row_requests: list[str]
    events: pd.DataFrame
    event_requests: list[str]


def captured_rows(capture: Capture) -> list[dict[str, Any]]:
    """The rows that the table holds: columns of "LiteLLM_SpendLogs", typed as for `load_traffic`.

    Of rows with one request ID the table's primary key keeps the first, as LiteLLM's writer does.
    """
    rows: dict[str, dict[str, Any]] = {}
    for line in _lines(_OLD / f"rows_{capture}.jsonl"):
        rows.setdefault(line["request_id"], _typed(line))
    return list(rows.values())


def captured_events(capture: Capture) -> list[LiveEvent]:
    """The events in the order in which the Lago on loopback got them."""
    return [_live(line) for line in _lines(_OLD / f"events_{capture}.jsonl")]


def labelled_rows(name: str) -> list[tuple[str, dict[str, Any]]]:
    """The rows that the table holds, each after its request."""
    rows: dict[str, tuple[str, dict[str, Any]]] = {}
    for line in _lines(_NEW / f"rows_{name}.jsonl"):
        request, row = line["request"], _typed(line["row"])
        if row["request_id"] in rows:
            if request in _USED_BEFORE:
                continue
            row["request_id"] += "-2"
        rows[row["request_id"]] = (request, row)
    return list(rows.values())


def labelled_events(name: str) -> list[tuple[str, LiveEvent]]:
    """The events in the order in which the Lago on loopback got them, each after its request."""
    return [(line["request"], _live(line)) for line in _lines(_NEW / f"events_{name}.jsonl")]


def labelled(name: str) -> Labelled:
    """A capture as the job reads it, for a metric that adds up `response_cost` on a Postgres store."""
    rows, events = labelled_rows(name), labelled_events(name)
    column = "end_user" if name.endswith("end_user") else "team_id"
    return Labelled(
        rows=_rows_frame([row for _, row in rows], column),
        row_requests=[request for request, _ in rows],
        events=_events_frame([event for _, event in events]),
        event_requests=[request for request, _ in events],
    )


def daily_team_lines() -> list[dict[str, Any]]:
    """ "LiteLLM_DailyTeamSpend" after seven calls, two of them under one request ID, as LiteLLM's ledger wrote it."""
    return [*_lines(_NEW / "deliveries_daily_team.jsonl")]


def rows_beside_daily() -> pd.DataFrame:
    """The rows (ROWS) that the spend log held after those calls."""
    rows = [*_lines(_NEW / "deliveries_spend_logs.jsonl")]
    return _rows_frame([_typed({**row, "completionStartTime": row["endTime"]}) for row in rows], CHARGE_BY)


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    for line in file.read_text(encoding="utf-8").splitlines():
        yield json.loads(line)


def _live(line: dict[str, Any]) -> LiveEvent:
    return LiveEvent(received_at=datetime.fromisoformat(line["recv"]), event=line["body"]["event"])


def _typed(row: dict[str, Any]) -> dict[str, Any]:
    return {
        **row,
        "spend": float(row["spend"]),
        **{name: None if row[name] == "None" else int(row[name]) for name in _INTEGERS},
        **{name: _milliseconds(datetime.fromisoformat(row[name])) for name in _TIMES},
        **{name: None if row[name] == "None" else row[name] for name in _NULLABLE if name in row},
    }


def _milliseconds(moment: datetime) -> datetime:
    return moment.replace(microsecond=moment.microsecond // 1_000 * 1_000)


def _rows_frame(rows: list[dict[str, Any]], charge_column: str) -> pd.DataFrame:
    columns: dict[str, list[Any]] = {
        **{name: [row[name] for row in rows] for name in ROWS if name in rows[0]},
        "start_ms": [_ms(row["startTime"]) for row in rows],
        "usage_ms": [_ms(row["endTime"]) for row in rows],
        "provider": [row["custom_llm_provider"] for row in rows],
        "charge_id": [row[charge_column] for row in rows],
        "subscription_id": [row[charge_column] for row in rows],
        "earlier_id": [""] * len(rows),
        "earlier_sure": [False] * len(rows),
        "scope": ["window"] * len(rows),
    }
    return _frame(columns, ROWS)


def _events_frame(events: list[LiveEvent]) -> pd.DataFrame:
    bodies = [event.event for event in events]
    properties = [body["properties"] for body in bodies]
    costs = [one["response_cost"] for one in properties]
    columns: dict[str, list[Any]] = {
        "transaction_id": [body["transaction_id"] for body in bodies],
        "subscription_id": [body["external_subscription_id"] for body in bodies],
        "charge_id": [body["external_subscription_id"] for body in bodies],
        "model": [one["model"] or "" for one in properties],
        "request_id": [""] * len(events),
        "time_ms": [_ms(event.received_at) for event in events],
        "response_cost": [cost or 0.0 for cost in costs],
        **{name: [one.get(name, np.nan) for one in properties] for name in _TOKENS},
        "malformed": [False] * len(events),
        # A Postgres store leaves an event whose number is null out of the sum.
        "counted": [cost is not None for cost in costs],
        "added": [np.nan if cost is None else cost for cost in costs],
    }
    return _frame(columns, EVENTS)


def _frame(columns: dict[str, list[Any]], kinds: Any) -> pd.DataFrame:
    return pd.DataFrame(
        {
            name: pd.Categorical(pd.array(columns[name], dtype="str"))
            if kind == "category"
            else pd.Series(columns[name], dtype=kind)
            for name, kind in kinds.items()
        }
    )


def _ms(moment: datetime) -> int:
    return round(moment.replace(tzinfo=UTC).timestamp() * 1_000)

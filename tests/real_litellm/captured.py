"""The captured traffic of LiteLLM's real proxy (tests/data/litellm-1.106.2): rows for the table, events with times."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from reconcile.sandbox.traffic import LiveEvent

Capture = Literal["mock", "upstream_team"]

EVENT_CODE = "llm_tokens"
CHARGE_BY = "team_id"

_DATA = Path(__file__).parent.parent / "data" / "litellm-1.106.2"
_INTEGERS = ("total_tokens", "prompt_tokens", "completion_tokens", "request_duration_ms")
_TIMES = ("startTime", "endTime", "completionStartTime")
_NULLABLE = ("mcp_namespaced_tool_name", "agent_id", "billing_agent_id")  # 'None' in the capture


def captured_rows(capture: Capture) -> list[dict[str, Any]]:
    """The rows that the table holds: columns of "LiteLLM_SpendLogs", typed as for `load_traffic`.

    Of rows with one request ID the table's primary key keeps the first, as LiteLLM's writer does.
    """
    rows: dict[str, dict[str, Any]] = {}
    for line in _lines(f"rows_{capture}.jsonl"):
        rows.setdefault(line["request_id"], _typed(line))
    return list(rows.values())


def captured_events(capture: Capture) -> list[LiveEvent]:
    """The events in the order in which the Lago on loopback got them."""
    return [
        LiveEvent(received_at=datetime.fromisoformat(line["recv"]), event=line["body"]["event"])
        for line in _lines(f"events_{capture}.jsonl")
    ]


def _lines(name: str) -> Iterator[dict[str, Any]]:
    for line in (_DATA / name).read_text(encoding="utf-8").splitlines():
        yield json.loads(line)


def _typed(row: dict[str, Any]) -> dict[str, Any]:
    return {
        **row,
        "spend": float(row["spend"]),
        **{name: int(row[name]) for name in _INTEGERS},
        **{name: _milliseconds(datetime.fromisoformat(row[name])) for name in _TIMES},
        **{name: None if row[name] == "None" else row[name] for name in _NULLABLE},
    }


def _milliseconds(moment: datetime) -> datetime:
    return moment.replace(microsecond=moment.microsecond // 1_000 * 1_000)

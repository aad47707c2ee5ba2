"""Frames for unit tests, written as records: what a record leaves out has a plain default."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd

from reconcile.domain.frames import EVENT_VERDICTS, EVENTS, ROW_VERDICTS, ROWS, check, empty, named

NOON = int(datetime(2025, 11, 20, 12, tzinfo=UTC).timestamp() * 1000)

_DEFAULTS: Mapping[str, Any] = {
    "request_id": "r-1",
    "start_ms": NOON - 2_000,
    "usage_ms": NOON,
    "time_ms": NOON,
    "model": "gpt",
    "charge_id": "team-a",
    "subscription_id": "team-a",
    "transaction_id": "t-1",
    "spend": 0.1,
    "cost": 0.1,
    "response_cost": 0.1,
    "prompt_tokens": 20,
    "completion_tokens": 10,
    "total_tokens": 30,
    "scope": "window",
    "class": "matched",
    "event_cost": float("nan"),
    "row_spend": float("nan"),
    "counted": True,
    "added": 0.1,
    "live": True,
}


def frame(columns: Mapping[str, str], records: tuple[Mapping[str, Any], ...]) -> pd.DataFrame:
    """Records as a frame of these columns."""
    if not records:
        return empty(columns)
    made: dict[str, Any] = {}
    for name, kind in columns.items():
        nothing: Any = "" if kind in ("str", "category") else 0
        values = [one.get(name, _DEFAULTS.get(name, nothing)) for one in records]
        made[name] = named(values) if kind == "category" else pd.array(values, dtype="str")
        if kind not in ("str", "category"):
            made[name] = np.array(values, dtype=kind)
    found = pd.DataFrame(made)
    check(found, columns)
    return found


def rows(*records: Mapping[str, Any]) -> pd.DataFrame:
    return frame(ROWS, records)


def events(*records: Mapping[str, Any]) -> pd.DataFrame:
    return frame(EVENTS, records)


def row_verdicts(*records: Mapping[str, Any]) -> pd.DataFrame:
    return frame(ROW_VERDICTS, records)


def event_verdicts(*records: Mapping[str, Any]) -> pd.DataFrame:
    return frame(EVENT_VERDICTS, records)

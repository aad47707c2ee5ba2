"""Rows that earlier runs held back, however old. LiteLLM may have deleted them since: then the ledger's copy is
sent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from reconcile.domain.frames import ROWS, empty, named
from reconcile.domain.vocabulary import Reason, Scope

# What the ledger keeps of a held row: what its event is made from.
KEPT = ("charge_id", "model", "spend", "prompt_tokens", "completion_tokens", "total_tokens")
# Nothing but reading the row and its surroundings again can end these: a backfill over its time does.
_LASTING = (Reason.LATE_EVENT, Reason.SAME_CALL, Reason.REPEAT)


@dataclass(frozen=True, slots=True)
class HeldRow:
    """One row of the ledger's table `held`. `row` holds the columns of `KEPT`."""

    request_id: str
    start_ms: int
    usage_ms: int
    reason: str
    row: dict[str, Any]

    @property
    def key(self) -> tuple[str, int]:
        return self.request_id, self.start_ms


def held_rows(entries: Iterable[dict[str, Any]]) -> list[HeldRow]:
    """The ledger's entries as values."""
    return [HeldRow(one["request_id"], one["start_ms"], one["usage_ms"], one["reason"], one["row"]) for one in entries]


def may_end(row: HeldRow) -> bool:
    """Whether Lago's catalogue or a setting alone can end the holding of a row."""
    return row.reason not in _LASTING


def as_rows(held: Sequence[HeldRow]) -> pd.DataFrame:
    """Held rows as ROWS, of scope `held`: what the ledger kept of them, '' for the rest."""
    if not held:
        return empty(ROWS)
    count = len(held)
    columns: dict[str, Any] = {}
    for name, kind in ROWS.items():
        if name in ("request_id", "start_ms", "usage_ms"):
            values: list[Any] = [getattr(one, name) for one in held]
        elif name == "subscription_id":
            values = [one.row["charge_id"] for one in held]
        elif name == "scope":
            values = [Scope.HELD.value] * count
        elif name in KEPT:
            values = [one.row[name] for one in held]
        else:
            values = [False if kind == "bool" else ""] * count
        if kind == "category":
            columns[name] = named(values)
        elif kind == "str":
            columns[name] = pd.array(values, dtype="str")
        else:
            columns[name] = np.array(values, dtype=kind)
    return pd.DataFrame(columns)

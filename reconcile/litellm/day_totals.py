"""Rows per UTC day of their start and charge ID, as LiteLLM's own daily tables count them. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd

from reconcile.domain.money import add, plain, total

DAY_MS = 86_400_000
# LiteLLM drops every further row of a request ID that comes again: 'None' (BerriAI/litellm #39749), and the short
# numbers that some servers count up from one after each start (#28376).
_COMES_AGAIN = r"None|(?:[A-Za-z_]+-)?\d{1,9}"


@dataclass(slots=True)
class DayTotals:
    """Rows per UTC day of their start and charge ID, as they are read."""

    requests: dict[tuple[int, str], int] = field(default_factory=dict)
    tokens: dict[tuple[int, str], int] = field(default_factory=dict)
    spend: dict[tuple[int, str], Decimal] = field(default_factory=dict)
    losing_ids: int = 0

    def add(self, rows: pd.DataFrame) -> None:
        """Takes rows (ROWS), each once."""
        if rows.empty:
            return
        self.losing_ids += int(rows["request_id"].str.fullmatch(_COMES_AGAIN).sum())
        day = rows["start_ms"].to_numpy(np.int64) // DAY_MS
        charge, names = pd.factorize(rows["charge_id"])
        group = day * (len(names) + 1) + charge
        order = np.argsort(group, kind="stable")
        starts = np.flatnonzero(np.concatenate(([True], np.diff(group[order]) != 0)))
        tokens = rows["prompt_tokens"].to_numpy(np.int64) + rows["completion_tokens"].to_numpy(np.int64)
        spend = rows["spend"].to_numpy(np.float64)
        for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(order)], strict=True):
            members = order[start:end]
            key = (int(day[members[0]]), str(names[charge[members[0]]]))
            self._count(key, len(members), int(tokens[members].sum()), total(spend[members]))

    def lines(self) -> list[list[Any]]:
        """For `absorb`: day, charge ID, requests, tokens, spend."""
        return [[*key, count, self.tokens[key], plain(self.spend[key])] for key, count in self.requests.items()]

    def absorb(self, lines: list[list[Any]]) -> None:
        for day, charge_id, requests, tokens, spend in lines:
            self._count((day, charge_id), requests, tokens, Decimal(spend))

    def _count(self, key: tuple[int, str], requests: int, tokens: int, spend: Decimal) -> None:
        self.requests[key] = self.requests.get(key, 0) + requests
        self.tokens[key] = self.tokens.get(key, 0) + tokens
        self.spend[key] = add((self.spend.get(key, Decimal(0)), spend))

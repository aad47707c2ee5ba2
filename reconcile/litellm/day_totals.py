"""Rows per UTC day of their start and charge ID, set beside LiteLLM's own daily tables. Pure.

LiteLLM counts its daily tables from another queue than the spend log. Where they say more, the spend log has lost rows:
a request ID that came twice, a full queue, a row that Postgres refused. Where they say less, LiteLLM has not counted
yet, or has given a delivery up; nothing is lost then. Spend and tokens mean the same on both sides. Requests do not:
LiteLLM leaves its internal calls and its retries out of its count. So only more successful requests than rows that did
not fail are a gap.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from reconcile.domain import exact
from reconcile.domain.document import SpendLogsGap
from reconcile.domain.money import add, decimal_of, plain

DAY_MS = 86_400_000
# LiteLLM drops every further row of a request ID that comes again: 'None' (BerriAI/litellm #39749), and the short
# numbers that some servers count up from one after each start (#28376).
_COMES_AGAIN = r"None|(?:[A-Za-z_]+-)?\d{1,9}"
_LONGEST = 24  # of such an ID: `chatcmpl-123456789`
# Money sums of doubles in another order differ in the last digits.
_MONEY_TOLERANCE = Decimal("0.000001")


@dataclass(frozen=True, slots=True)
class DayTotal:
    """Rows of one day and charge ID: those that did not fail, and the tokens and spend (USD) of all."""

    succeeded: int = 0
    tokens: int = 0
    spend: Decimal = Decimal(0)

    def __add__(self, other: DayTotal) -> DayTotal:
        return DayTotal(self.succeeded + other.succeeded, self.tokens + other.tokens, add((self.spend, other.spend)))


@dataclass(slots=True)
class DayTotals:
    """Totals by UTC day of the start (days since 1970) and charge ID ('' for none), as the rows are read.

    `losing_ids` counts rows whose request ID is of a kind that loses rows.
    """

    totals: dict[tuple[int, str], DayTotal] = field(default_factory=dict)
    losing_ids: int = 0

    def add(self, rows: pd.DataFrame) -> None:
        """Takes rows (ROWS), each once. A spend that is no amount, NaN or infinite, counts 0."""
        if rows.empty:
            return
        short = rows["request_id"][rows["request_id"].str.len() <= _LONGEST]
        self.losing_ids += int(short.str.fullmatch(_COMES_AGAIN).sum())
        charge = rows["charge_id"].cat
        names = charge.categories.tolist()
        day = rows["start_ms"].to_numpy(np.int64) // DAY_MS
        groups, found = pd.factorize(day * len(names) + charge.codes.to_numpy())
        count = len(found)
        status = rows["status"].cat
        succeeded = np.array([word != "failure" for word in status.categories.tolist()])[status.codes.to_numpy()]
        tokens = rows["prompt_tokens"].to_numpy(np.int64) + rows["completion_tokens"].to_numpy(np.int64)
        spend = rows["spend"].to_numpy(np.float64)
        limbs, odd = exact.limbs_of(spend)
        sums = exact.as_decimals(exact.group_sums(limbs, groups, count))
        for place, amount in zip(groups[odd].tolist(), exact.odd_amounts(spend, odd), strict=True):
            sums[place] = add((sums[place], amount))
        totals = map(DayTotal, _sums(groups, succeeded, count), _sums(groups, tokens, count), sums)
        for group, total in zip(found.tolist(), totals, strict=True):
            self._take(group // len(names), names[group % len(names)], total)

    def of(self, day: date, charge_id: str) -> DayTotal:
        """The total of a UTC day and charge ID; zeros where there was no row."""
        return self.totals.get(((day - date(1970, 1, 1)).days, charge_id), DayTotal())

    def lines(self) -> list[list[Any]]:
        """For `absorb`: day, charge ID, rows that did not fail, tokens, spend."""
        return [[*key, one.succeeded, one.tokens, plain(one.spend)] for key, one in self.totals.items()]

    def absorb(self, lines: Iterable[Iterable[Any]]) -> None:
        """Takes the `lines` of another one."""
        for day, charge_id, succeeded, tokens, spend in lines:
            self._take(day, charge_id, DayTotal(succeeded, tokens, Decimal(spend)))

    def _take(self, day: int, charge_id: str, total: DayTotal) -> None:
        key = (day, charge_id)
        self.totals[key] = self.totals[key] + total if key in self.totals else total


def gaps(found: DayTotals, table: str, daily: pd.DataFrame) -> tuple[SpendLogsGap, ...]:
    """Where the daily table says something else than the rows, by day and charge ID. `daily` is of
    `SpendLogs.daily_totals`; days and charge IDs that it does not have are not compared."""
    differing = []
    columns = daily[["day", "charge_id", "successful", "tokens", "spend"]]
    for day, charge_id, successful, tokens, spend in columns.itertuples(index=False):
        rows = found.of(date.fromisoformat(day), str(charge_id))
        gap = SpendLogsGap(
            day=date.fromisoformat(day),
            charge_id=str(charge_id),
            table=table,
            rows_requests=rows.succeeded,
            daily_requests=int(successful),
            rows_tokens=rows.tokens,
            daily_tokens=int(tokens),
            rows_spend=rows.spend,
            daily_spend=decimal_of(spend),
        )
        if lost_rows(gap) or _tokens_or_money(gap):
            differing.append(gap)
    return tuple(sorted(differing, key=lambda gap: (gap.day, gap.charge_id)))


def lost_rows(gap: SpendLogsGap) -> bool:
    """Whether the daily table says more than the rows: the spend log has lost some."""
    return (
        gap.daily_requests > gap.rows_requests
        or gap.daily_tokens > gap.rows_tokens
        or gap.daily_spend - gap.rows_spend > _tolerance(gap)
    )


def _tokens_or_money(gap: SpendLogsGap) -> bool:
    return gap.daily_tokens != gap.rows_tokens or abs(gap.daily_spend - gap.rows_spend) > _tolerance(gap)


def _tolerance(gap: SpendLogsGap) -> Decimal:
    return max(_MONEY_TOLERANCE, abs(gap.daily_spend) * Decimal("1e-9"))


def _sums(groups: npt.NDArray[np.int64], numbers: npt.NDArray[Any], count: int) -> list[int]:
    sums = np.zeros(count, np.int64)
    np.add.at(sums, groups, numbers)
    return sums.tolist()

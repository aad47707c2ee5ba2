"""The document's lists as tables, which HTML, XLSX and CSV all render: one order, one set of columns, one total line.

Cells are raw values: exact decimals, codes, aware instants. How they look is each renderer's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Final, Literal, TypeAlias

import pandas as pd

from reconcile.domain.document import Document
from reconcile.domain.money import add, decimal_of
from reconcile.domain.vocabulary import EVENT_CLASSES, ROW_CLASSES
from reconcile.report import figures
from reconcile.report.words import Words

Kind: TypeAlias = Literal["text", "code", "side", "class", "count", "money", "units", "day", "instant", "local"]
Cell: TypeAlias = str | int | Decimal | date | datetime | None
Line: TypeAlias = tuple[Cell, ...]

_CHUNK: Final = 10_000

NUMBERS: Final = ("count", "money", "units")


@dataclass(frozen=True, slots=True)
class Column:
    """`key` names it for machines, in every language; `label` is for readers, `short` under a heading for its side."""

    key: str
    label: str
    kind: Kind
    short: str | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """`lines` are as wide as `columns` and can be read again and again.

    `total` is the exact sum of the lines, None where adding up means nothing.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    lines: Iterable[Line]
    total: Line | None = None

    def of(self, keys: Iterable[str]) -> Table:
        """The same table with the columns `keys` alone, in their order."""
        at = [next(i for i, column in enumerate(self.columns) if column.key == key) for key in keys]
        return Table(
            self.name,
            self.title,
            tuple(self.columns[i] for i in at),
            [tuple(line[i] for i in at) for line in self.lines],
            None if self.total is None else tuple(self.total[i] for i in at),
        )


def summary(document: Document, words: Words) -> Table:
    """Every class of both sides and both totals; no total line, since the two sides do not add up to anything."""
    lines: list[Line] = []
    for name in (*ROW_CLASSES, "total"):
        row = document.rows[name]
        lines.append(("rows", name, row.count, row.spend, row.prompt_tokens, row.completion_tokens))
    for name in (*EVENT_CLASSES, "total"):
        event = document.events[name]
        lines.append(("events", name, event.count, event.spend, None, None))
    return Table(
        "summary",
        words.text("section_classes"),
        (
            Column("side", words.text("col_side"), "side"),
            Column("class", words.text("col_class"), "class"),
            Column("count", words.text("col_count"), "count"),
            Column("spend", words.text("col_money"), "money"),
            Column("prompt_tokens", words.text("col_prompt_tokens"), "count"),
            Column("completion_tokens", words.text("col_completion_tokens"), "count"),
        ),
        lines,
    )


def reasons(document: Document, words: Words) -> Table:
    lines: list[Line] = []
    for name, counts in document.reasons.items():
        for reason, count in counts.items():
            wording = words.of_reason(reason)
            spend = document.reason_spend.get(name, {}).get(reason)
            lines.append((name, reason, wording.label, count, spend, wording.next))
    return Table(
        "reasons",
        words.text("col_reason"),
        (
            Column("class", words.text("col_class"), "class"),
            Column("reason", words.text("col_reason_code"), "code"),
            Column("reason_text", words.text("col_reason"), "text"),
            Column("count", words.text("col_count"), "count"),
            Column("spend", words.text("col_money"), "money"),
            Column("next_step", words.text("col_next"), "text"),
        ),
        lines,
    )


def discrepancies(document: Document, words: Words, limit: int | None = None) -> Table:
    """The largest `limit` entries by money (None: all), with the reason in words and what to do next."""
    frame = document.discrepancies if limit is None else document.discrepancies.head(limit)
    return Table(
        "discrepancies",
        words.text("section_discrepancies"),
        (
            Column("class", words.text("col_class"), "class"),
            Column("charge_id", words.text("col_charge_id"), "text"),
            Column("model", words.text("col_model"), "text"),
            Column("usage_time", words.text("col_usage_time_utc"), "instant"),
            Column("usage_time_local", words.text("col_usage_time_zone", zone=words.time_zone), "local"),
            Column("row_spend", words.text("col_row_spend"), "money"),
            Column("event_spend", words.text("col_event_spend"), "money"),
            Column("reason", words.text("col_reason_code"), "code"),
            Column("reason_text", words.text("col_reason"), "text"),
            Column("detail", words.text("col_detail"), "text"),
            Column("next_step", words.text("col_next"), "text"),
            Column("request_id", words.text("col_request_id"), "text"),
            Column("transaction_id", words.text("col_transaction_id"), "text"),
        ),
        _Entries(frame, words),
    )


@dataclass(frozen=True, slots=True)
class _Entries:
    """The discrepancies as lines, made chunk by chunk: a month against an empty Lago has a million of them."""

    frame: pd.DataFrame
    words: Words

    def __iter__(self) -> Iterator[Line]:
        for start in range(0, len(self.frame), _CHUNK):
            yield from self._chunk(self.frame.iloc[start : start + _CHUNK])

    def _chunk(self, frame: pd.DataFrame) -> Iterator[Line]:
        def texts(column: str) -> list[str | None]:
            return [None if pd.isna(value) else str(value) for value in frame[column].tolist()]

        def amounts(column: str) -> list[Decimal | None]:
            return [None if pd.isna(value) else decimal_of(value) for value in frame[column].tolist()]

        times = [None if pd.isna(at) else at.to_pydatetime() for at in frame["usage_time"].tolist()]
        for name, charge_id, model, request_id, transaction_id, at, row, event, reason, detail in zip(
            frame["class"].tolist(),
            texts("charge_id"),
            texts("model"),
            texts("request_id"),
            texts("transaction_id"),
            times,
            amounts("row_spend"),
            amounts("event_spend"),
            texts("reason"),
            texts("detail"),
            strict=True,
        ):
            of_reason = self.words.of_reason(reason or "")
            next_step = of_reason.next or self.words.of_class(name).next
            yield (
                *(name, charge_id, model, at, at, row, event),
                *(reason, of_reason.label, detail, next_step, request_id, transaction_id),
            )


def spend_logs_gap(document: Document, words: Words) -> Table:
    lines: list[Line] = [
        (
            gap.day,
            gap.charge_id,
            gap.table,
            gap.rows_requests,
            gap.daily_requests,
            gap.rows_tokens,
            gap.daily_tokens,
            gap.rows_spend,
            gap.daily_spend,
            _difference(gap.daily_spend, gap.rows_spend),
        )
        for gap in document.spend_logs_gap
    ]
    return Table(
        "spend-logs-gap",
        words.text("litellm_totals"),
        (
            key_column("day", words),
            key_column("charge_id", words),
            Column("table", words.text("col_table"), "text"),
            Column("rows_requests", words.text("col_rows_requests"), "count"),
            Column("daily_requests", words.text("col_daily_requests"), "count"),
            Column("rows_tokens", words.text("col_rows_tokens"), "count"),
            Column("daily_tokens", words.text("col_daily_tokens"), "count"),
            Column("rows_spend", words.text("col_gap_rows_spend"), "money"),
            Column("daily_spend", words.text("col_daily_spend"), "money"),
            Column("gap_spend", words.text("col_gap_spend"), "money"),
        ),
        lines,
    )


def lago_usage(document: Document, words: Words) -> Table:
    """Without a total: charge IDs can have different currencies and periods."""
    return Table(
        "lago-usage",
        words.text("lago_totals"),
        (
            key_column("charge_id", words),
            Column("period", words.text("col_period"), "text"),
            Column("period_from", words.text("col_period_from"), "instant"),
            Column("period_to", words.text("col_period_to"), "instant"),
            Column("events_units", words.text("col_events_units"), "units"),
            Column("events_count", words.text("col_units_count"), "count"),
            Column("lago_units", words.text("col_lago_units"), "units"),
            Column("lago_events_count", words.text("col_lago_count"), "count"),
            Column("amount", words.text("col_amount"), "units"),
            Column("currency", words.text("col_currency"), "text"),
        ),
        [
            (
                usage.charge_id,
                words.text(f"period_{usage.period}") if words.knows(f"period_{usage.period}") else usage.period,
                usage.period_from,
                usage.period_to,
                usage.events_units,
                usage.events_count,
                usage.lago_units,
                usage.lago_events_count,
                words.currency_units(usage.amount_cents, usage.currency),
                usage.currency,
            )
            for usage in document.lago_usage
        ],
    )


def findings(document: Document, words: Words) -> Table:
    return Table(
        "findings",
        words.text("section_findings"),
        (
            Column("kind", words.text("col_kind"), "code"),
            Column("title", words.text("col_finding"), "text"),
            Column("text", words.text("col_text"), "text"),
            Column("count", words.text("col_count"), "count"),
            Column("spend", words.text("col_money"), "money"),
        ),
        [(f.kind, words.of_finding(f.kind), f.text, f.count, f.spend) for f in document.findings],
    )


def previous(document: Document, words: Words) -> Table:
    """The classes then and now, and the change; empty where there is no earlier report."""
    lines: list[Line] = []
    then = document.previous
    if then is not None:
        for name in (*ROW_CLASSES, "total"):
            was, now = then.rows.get(name, figures.NO_ROWS), document.rows[name]
            lines.append(("rows", name, *_change(was.count, was.spend, now.count, now.spend)))
        for name in (*EVENT_CLASSES, "total"):
            had, has = then.events.get(name, figures.NO_EVENTS), document.events[name]
            lines.append(("events", name, *_change(had.count, had.spend, has.count, has.spend)))
    return Table(
        "previous",
        words.text("section_previous"),
        (
            Column("side", words.text("col_side"), "side"),
            Column("class", words.text("col_class"), "class"),
            Column("previous_count", words.text("col_previous_count"), "count"),
            Column("previous_spend", words.text("col_previous_spend"), "money"),
            Column("count", words.text("col_now_count"), "count"),
            Column("spend", words.text("col_now_spend"), "money"),
            Column("change_count", words.text("col_change_count"), "count"),
            Column("change_spend", words.text("col_change_spend"), "money"),
        ),
        lines,
    )


def _change(was: int, was_spend: Decimal, now: int, now_spend: Decimal) -> Line:
    return was, was_spend, now, now_spend, now - was, _difference(now_spend, was_spend)


def _difference(left: Decimal, right: Decimal) -> Decimal:
    return add((left, right.copy_negate()))


def key_column(key: str, words: Words) -> Column:
    """The column that says whose line it is."""
    return Column(key, words.text(f"col_{key}"), "day" if key == "day" else "text")

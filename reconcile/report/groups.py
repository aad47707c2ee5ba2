"""The tables of groups: a line for each charge ID, model or day, with every class of both sides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Final

from reconcile.domain.document import Document, Group
from reconcile.domain.vocabulary import EVENT_CLASSES, ROW_CLASSES
from reconcile.report import figures
from reconcile.report.figures import Sides
from reconcile.report.tables import Cell, Column, Kind, Line, Table, key_column
from reconcile.report.words import Words


@dataclass(frozen=True, slots=True)
class _Measure:
    column: Column
    of: Callable[[Sides], Cell]


def by_charge_id(document: Document, words: Words, limit: int | None = None) -> Table:
    return _groups("by-charge-id", words.text("section_charge_ids"), document, words, limit)


def by_model(document: Document, words: Words, limit: int | None = None) -> Table:
    return _groups("by-model", words.text("section_models"), document, words, limit)


def by_day(document: Document, words: Words, limit: int | None = None) -> Table:
    return _groups("by-day", words.text("section_days"), document, words, limit)


def by_charge_id_and_day(document: Document, words: Words) -> Table:
    """Without a total: it can be a part of the document's lines."""
    groups = sorted(document.by_charge_id_and_day, key=lambda g: (g.day or date.min, g.charge_id or ""))
    measures = _measures(words)
    return Table(
        "by-charge-id-and-day",
        words.text("section_heat"),
        (key_column("day", words), key_column("charge_id", words), *(measure.column for measure in measures)),
        [(group.day, group.charge_id, *(measure.of(figures.sides(group)) for measure in measures)) for group in groups],
    )


def parts(name: str, document: Document, words: Words, limit: int | None = None) -> list[tuple[Cell, Sides]]:
    """Head and sides of each line of a table of groups: days in their order, else the largest first.

    By LiteLLM's spend, then Lago's, then by name. Past `limit` lines, the others stand as one.
    """
    groups, key = _GROUPED[name](document)
    ordered = sorted(
        groups,
        key=lambda group: (
            group.day or date.min,
            group.rows["total"].spend.copy_negate() if key != "day" else Decimal(0),
            group.events["total"].spend.copy_negate() if key != "day" else Decimal(0),
            group.charge_id or group.model or "",
        ),
    )
    lines: list[tuple[Cell, Sides]] = [(getattr(group, key), figures.sides(group)) for group in ordered[:limit]]
    rest = ordered[len(lines) :]
    if rest:
        lines.append((words.text("rest_line", count=words.count(len(rest))), figures.combined(rest)))
    return lines


_GROUPED: Final[Mapping[str, Callable[[Document], tuple[Sequence[Group], str]]]] = {
    "by-charge-id": lambda document: (document.by_charge_id, "charge_id"),
    "by-model": lambda document: (document.by_model, "model"),
    "by-day": lambda document: (document.by_day, "day"),
}


def _groups(name: str, title: str, document: Document, words: Words, limit: int | None) -> Table:
    measures = _measures(words)

    def line(head: Cell, of: Sides) -> Line:
        return (head, *(measure.of(of) for measure in measures))

    return Table(
        name,
        title,
        (key_column(_GROUPED[name](document)[1], words), *(measure.column for measure in measures)),
        [line(head, of) for head, of in parts(name, document, words, limit)],
        line(words.text("total"), figures.sides(document)),
    )


def present_columns(document: Document, table: Table) -> list[str]:
    """The columns of a table of groups, without those of classes that have no member in the document."""
    empty = {f"{name}_{field}" for name in ROW_CLASSES if not document.rows[name].count for field in ("count", "spend")}
    empty |= {
        f"lago_{name}_{field}"
        for name in EVENT_CLASSES
        if not document.events[name].count
        for field in ("count", "spend")
    }
    return [column.key for column in table.columns if column.key not in empty]


def _measures(words: Words) -> list[_Measure]:
    def row(name: str, field: str) -> Callable[[Sides], Cell]:
        return lambda of: getattr(of.row(name), field)

    def event(name: str, field: str) -> Callable[[Sides], Cell]:
        return lambda of: getattr(of.event(name), field)

    def label(key: str, name: str) -> str:
        return words.text(key, label=words.of_class(name).label)

    unit = words.text("col_money")

    def totals(key: str, kind: Kind, of: Callable[[Sides], Cell], short: str | None = None) -> _Measure:
        return _Measure(Column(key, words.text(f"col_{key}"), kind, short), of)

    measures = [
        totals("rows_count", "count", row("total", "count")),
        totals("rows_spend", "money", row("total", "spend"), unit),
        _Measure(
            Column("open_spend", words.text("col_open"), "money", words.text("col_open_short")),
            lambda of: of.open,
        ),
    ]
    for row_class in ROW_CLASSES:
        name = str(row_class)
        count, spend = label("col_class_count", name), label("col_class_spend", name)
        measures += [
            _Measure(Column(f"{name}_count", count, "count"), row(name, "count")),
            _Measure(Column(f"{name}_spend", spend, "money", words.of_class(name).label), row(name, "spend")),
        ]
    measures += [
        totals("prompt_tokens", "count", row("total", "prompt_tokens")),
        totals("completion_tokens", "count", row("total", "completion_tokens")),
        totals("events_count", "count", event("total", "count")),
        totals("events_spend", "money", event("total", "spend"), words.text("col_events_spend_short")),
    ]
    for event_class in EVENT_CLASSES:
        name = str(event_class)
        count, spend = label("col_event_class_count", name), label("col_event_class_spend", name)
        measures += [
            _Measure(Column(f"lago_{name}_count", count, "count"), event(name, "count")),
            _Measure(Column(f"lago_{name}_spend", spend, "money", words.of_class(name).label), event(name, "spend")),
        ]
    return measures

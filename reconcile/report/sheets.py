"""CSV: one file per table, for spreadsheets and for scripts.

UTF-8 with a byte-order mark, without which Excel takes the file for the machine's old code page; Python reads it with
`utf-8-sig`. Column names and codes are the same in every language; sentences are in the report's. Numbers are exact and
plain. Text that a spreadsheet would take for a formula begins with an apostrophe.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import BinaryIO, Final

from reconcile.domain.document import Document, instant
from reconcile.domain.money import plain
from reconcile.report import groups, made, tables
from reconcile.report.shown import defused, visible
from reconcile.report.tables import Cell, Kind, Table
from reconcile.report.words import Words

TABLES: Final[Mapping[str, Callable[[Document, Words], Table]]] = {
    "summary": tables.summary,
    "reasons": tables.reasons,
    "by-charge-id": groups.by_charge_id,
    "by-model": groups.by_model,
    "by-day": groups.by_day,
    "by-charge-id-and-day": groups.by_charge_id_and_day,
    "discrepancies": tables.discrepancies,
    "spend-logs-gap": tables.spend_logs_gap,
    "lago-usage": tables.lago_usage,
    "findings": tables.findings,
    "previous": tables.previous,
    "method": made.method,
}


def write(table: Table, words: Words, target: BinaryIO) -> None:
    """Writes the header and the lines; no total line, which a pivot would count twice."""
    text = io.TextIOWrapper(target, encoding="utf-8-sig", newline="")
    lines = csv.writer(text)
    lines.writerow([column.key for column in table.columns])
    kinds = [column.kind for column in table.columns]
    for line in table.lines:
        lines.writerow([_cell(cell, kind, words) for cell, kind in zip(line, kinds, strict=True)])
    text.flush()
    text.detach()


def _cell(cell: Cell, kind: Kind, words: Words) -> str | int:
    if cell is None:
        return ""
    if isinstance(cell, str):
        return defused(visible(cell))
    if isinstance(cell, Decimal):
        return plain(cell)
    if isinstance(cell, datetime):
        return cell.astimezone(words.zone).isoformat("T", "milliseconds") if kind == "local" else instant(cell)
    return cell.isoformat() if isinstance(cell, date) else cell

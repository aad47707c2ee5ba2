"""XLSX: sheets with real numbers and dates, totals as formulas, native charts.

Amounts are doubles here, as any spreadsheet has them; the exact decimals are in the CSV and JSON files. Strings are
always written as strings: nothing in them becomes a formula, a number or a link.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO, Final, TypeAlias

import xlsxwriter
from xlsxwriter.chart import Chart
from xlsxwriter.format import Format
from xlsxwriter.utility import xl_range
from xlsxwriter.worksheet import Worksheet

from reconcile.domain.document import Document
from reconcile.report import figures, groups, headline, made, tables
from reconcile.report.shown import shortened, visible
from reconcile.report.tables import Cell, Column, Kind, Table
from reconcile.report.words import Words

LISTED: Final = 100_000  # discrepancies: Excel opens no more than a million lines, and is slow long before
_TEXT: Final = 32_000  # characters: Excel's limit for a cell is 32,767
_MONEY: Final = "[>=0.1]#,##0.00;[<=-0.1]-#,##0.00;0.00##########"
_FORMATS: Final = {
    "money": _MONEY,
    "units": "#,##0.######",
    "count": "#,##0",
    "day": "yyyy-mm-dd",
    "instant": "yyyy-mm-dd hh:mm:ss.000",
    "local": "yyyy-mm-dd hh:mm:ss.000",
}
_WIDTHS: Final = {"money": 16, "units": 16, "count": 14, "day": 12, "instant": 24, "local": 24, "class": 22, "side": 10}
# The page's colours; shades tell the classes of one outcome.
_COLOURS: Final = {
    "excluded": "#b4bcc8",
    "unattributed": "#f3c98b",
    "matched": "#1d5558",
    "matched_live": "#2f7d80",
    "unbilled": "#e8b04a",
    "mismatched": "#8a4b94",
    "misdirected": "#c199c8",
    "delivered": "#6db3e3",
    "missing": "#e08e0b",
    "held": "#b4690b",
    "rejected": "#7a3510",
}
_CHARTED: Final = {"charge_ids": 20, "models": 20, "days": 366}
_CHART_ROWS: Final = 22
_GRID: Final = {"visible": True, "line": {"color": "#e4e7eb"}}
_Book: TypeAlias = xlsxwriter.Workbook


@dataclass(frozen=True, slots=True)
class _Styles:
    cells: Mapping[str, Format]
    totals: Mapping[str, Format]
    heading: Format
    title: Format
    strong: Format
    wrapped: Format


def write(document: Document, words: Words, target: BinaryIO) -> None:
    """Writes the workbook. The same document gives the same bytes; when it was made stands on the last sheet only."""
    with TemporaryDirectory(prefix="reconcile-") as folder:
        path = Path(folder) / "report.xlsx"
        options = {
            "constant_memory": True,
            "strings_to_formulas": False,
            "strings_to_numbers": False,
            "strings_to_urls": False,
            "nan_inf_to_errors": True,  # a sum past 1.8e308 is #NUM! in a spreadsheet, as it would compute itself
            "tmpdir": folder,
        }
        with xlsxwriter.Workbook(path, options) as book:
            # A date of the document's own: xlsxwriter would take the clock's.
            created = document.window_to.astimezone(UTC).replace(tzinfo=None)
            book.set_properties({"title": words.text("report"), "created": created})
            _fill(book, document, words)
        target.write(path.read_bytes())


def _fill(book: _Book, document: Document, words: Words) -> None:
    styles = _styles(book)
    summary = _sheet(book, words.text("sheet_summary"))
    row = _summary(summary, document, words, styles)
    for key, make in (("charge_ids", groups.by_charge_id), ("models", groups.by_model), ("days", groups.by_day)):
        table = make(document, words)
        table = table.of(groups.present_columns(document, table))
        name = words.text(f"sheet_{key}")
        lines = _table(_sheet(book, name), table, words, styles)
        if lines:
            chart = _chart(book, name, table, min(lines, _CHARTED[key]), key, document, words)
            summary.insert_chart(row, 0, chart)
            row += _CHART_ROWS
    entries = _sheet(book, words.text("sheet_discrepancies"))
    lines = _table(entries, tables.discrepancies(document, words, LISTED), words, styles)
    if len(document.discrepancies) > lines:
        total = words.count(len(document.discrepancies))
        entries.write_string(
            lines + 2, 0, words.text("workbook_limited", shown=words.count(lines), total=total), styles.strong
        )
    method = _sheet(book, words.text("sheet_method"))
    method.set_column(0, 0, 34)
    method.set_column(1, 1, 90)
    for number, text in enumerate(("method_scope", "method_lead", "unit")):
        method.write_string(number, 1, words.text(text), styles.wrapped)
    for number, (label, value) in enumerate([*made.basis(document, words), *made.making(document, words)], 4):
        method.write_string(number, 0, _safe(label, words), styles.strong)
        method.write_string(number, 1, _safe(value, words), styles.wrapped)


def _sheet(book: _Book, name: str) -> Worksheet:
    """A sheet that prints on A4 across its width."""
    sheet = book.add_worksheet(name)
    sheet.set_paper(9)
    sheet.set_landscape()
    sheet.fit_to_pages(1, 0)
    return sheet


def _summary(sheet: Worksheet, document: Document, words: Words, styles: _Styles) -> int:
    """The first sheet: status, classes of both sides, the steps from one to the other. Returns the next free row."""
    sheet.set_column(0, 0, 30)
    sheet.set_column(1, 1, 26)
    sheet.set_column(2, 5, 18)
    head = headline.of(document, words)
    sheet.write_string(0, 0, f"{words.text('report')}: {head.period_short}", styles.title)
    sheet.write_string(1, 0, head.status, styles.strong)
    texts = [
        head.lead,
        head.nature,
        head.bounds,
        f"{head.period} ({document.method.time_zone})",
        head.instants,
        head.stream,
    ]
    if document.fault is not None:
        texts.append(f"{words.of_fault(document.fault.kind)} {document.fault.message}")
    texts.append(words.text("unit"))
    row = 2
    for text in filter(None, texts):
        sheet.write_string(row, 0, _safe(text, words))
        row += 1
    row += 1
    table = tables.summary(document, words)
    _headings(sheet, row, table.columns, styles)
    first = row + 1
    for line in table.lines:
        row += 1
        formats = styles.totals if line[1] == "total" else styles.cells
        for column, (cell, of) in enumerate(zip(line, table.columns, strict=True)):
            if line[1] == "total" and isinstance(cell, int | Decimal):
                _sum(sheet, row, column, first, row - 1, cell, formats[of.kind])
            else:
                _cell(sheet, row, column, cell, of.kind, words, formats)
        if line[1] == "total":
            first = row + 1
    row += 2
    for column, key in enumerate(("step", "col_money")):
        sheet.write_string(row, column, words.text(key), styles.heading)
    first = row + 1
    *steps, end = figures.waterfall(document)
    for step in steps:
        row += 1
        sheet.write_string(row, 0, headline.step_label(step.name, document, words), styles.cells["text"])
        _cell(sheet, row, 1, step.change, "money", words, styles.cells)
    row += 1
    sheet.write_string(row, 0, headline.step_label(end.name, document, words), styles.totals["text"])
    _sum(sheet, row, 1, first, row - 1, end.after, styles.totals["money"])
    return row + 2


def _table(sheet: Worksheet, table: Table, words: Words, styles: _Styles) -> int:
    """A sheet of one table: frozen headings, filter, lines, total. Returns the number of lines."""
    for number, column in enumerate(table.columns):
        width = _WIDTHS.get(column.kind, 28)
        sheet.set_column(number, number, 60 if column.key == "next_step" else width)
    _headings(sheet, 0, table.columns, styles)
    sheet.set_row(0, 32)
    sheet.freeze_panes(1, 1)
    sheet.repeat_rows(0)
    row = 0
    for line in table.lines:
        row += 1
        for number, (cell, column) in enumerate(zip(line, table.columns, strict=True)):
            shown = words.text("nobody") if cell is None and number == 0 else cell
            _cell(sheet, row, number, shown, column.kind, words, styles.cells)
    sheet.autofilter(0, 0, max(row, 1), len(table.columns) - 1)
    if table.total is not None:
        for number, (cell, column) in enumerate(zip(table.total, table.columns, strict=True)):
            if row and isinstance(cell, int | Decimal):
                _sum(sheet, row + 1, number, 1, row, cell, styles.totals[column.kind])
            else:
                _cell(sheet, row + 1, number, cell, "text" if number == 0 else column.kind, words, styles.totals)
    return row


def _headings(sheet: Worksheet, row: int, columns: Sequence[Column], styles: _Styles) -> None:
    for number, column in enumerate(columns):
        sheet.write_string(row, number, column.label, styles.heading)


def _sum(sheet: Worksheet, row: int, column: int, first: int, last: int, value: int | Decimal, style: Format) -> None:
    """A SUM over the lines above, with the exact sum as the value that readers without a calculator see."""
    double = float(value)
    shown = double if math.isfinite(double) else "#NUM!"
    sheet.write_formula(row, column, f"=SUM({xl_range(first, column, last, column)})", style, shown)


def _cell(
    sheet: Worksheet, row: int, column: int, cell: Cell, kind: Kind, words: Words, styles: Mapping[str, Format]
) -> None:
    if cell is None:
        return
    if isinstance(cell, datetime):
        zone = words.zone if kind == "local" else UTC
        sheet.write_datetime(row, column, cell.astimezone(zone).replace(tzinfo=None), styles[kind])
    elif isinstance(cell, date):
        sheet.write_datetime(row, column, datetime(cell.year, cell.month, cell.day), styles["day"])  # noqa: DTZ001  # a calendar day
    elif isinstance(cell, str):
        sheet.write_string(row, column, _safe(words.worded(cell, kind), words), styles["text"])
    else:
        sheet.write_number(row, column, float(cell), styles[kind])


def _safe(text: str, words: Words) -> str:
    return shortened(visible(text), _TEXT, words.text("more", count=words.count(len(text))))


def _chart(book: _Book, sheet: str, table: Table, lines: int, key: str, document: Document, words: Words) -> Chart:
    """LiteLLM's spend of the first `lines` lines, stacked by class."""
    chart = book.add_chart({"type": "column" if key == "days" else "bar", "subtype": "stacked"})
    keys = [column.key for column in table.columns]
    for name in itertools.chain.from_iterable(figures.OUTCOMES.values()):
        if document.rows[name].count:
            at = keys.index(f"{name}_spend")
            chart.add_series(
                {
                    "name": words.of_class(name).label,
                    "categories": [sheet, 1, 0, lines, 0],
                    "values": [sheet, 1, at, lines, at],
                    "fill": {"color": _COLOURS[name]},
                    "gap": 60,
                }
            )
    chart.set_title({"name": f"{table.title}, {words.text('col_rows_spend')}", "name_font": {"size": 12}})
    chart.set_legend({"position": "bottom"})
    if key == "days":
        chart.set_x_axis({"num_format": "d mmm", "date_axis": True, "line": {"none": True}})
        chart.set_y_axis({"num_format": "#,##0.00", "line": {"none": True}, "major_gridlines": _GRID})
    else:
        chart.set_y_axis({"reverse": True, "line": {"none": True}})
        chart.set_x_axis({"num_format": "#,##0.00", "line": {"none": True}, "major_gridlines": _GRID})
    chart.set_size({"width": 1000, "height": _CHART_ROWS * 20 - 30})
    return chart


def _styles(book: _Book) -> _Styles:
    def cells(**changes: object) -> dict[str, Format]:
        formats = {kind: book.add_format({"num_format": pattern, **changes}) for kind, pattern in _FORMATS.items()}
        return {**formats, **dict.fromkeys(("text", "code", "side", "class"), book.add_format(changes))}

    return _Styles(
        cells(),
        cells(bold=True, top=1),
        book.add_format({"bold": True, "bottom": 1, "text_wrap": True, "valign": "bottom", "bg_color": "#edf0f3"}),
        book.add_format({"bold": True, "font_size": 16}),
        book.add_format({"bold": True}),
        book.add_format({"text_wrap": True, "valign": "top"}),
    )

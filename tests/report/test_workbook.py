"""XLSX: read back by another library, and by LibreOffice, which computes the formulas itself."""

from __future__ import annotations

import csv
import subprocess
import zipfile
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import openpyxl
import pytest

from reconcile.domain.document import Document
from reconcile.report import figures, workbook, write
from report import factory
from report.factory import HOSTILE, Row

ENGLISH = ["Summary", "By charge ID", "By model", "By day", "Discrepancies", "Method"]
CHINESE = ["汇总", "按计费标识", "按模型", "按日", "差异", "方法"]


def saved(document: Document, folder: Path, language: str = "en") -> Path:
    (path,) = write(document, folder, ["xlsx"], language)
    return path


def both(path: Path) -> tuple[Any, Any]:
    """The workbook with its formulas, and with the values that stand beside them."""
    return openpyxl.load_workbook(path), openpyxl.load_workbook(path, data_only=True)


@pytest.mark.parametrize(("language", "names"), [("en", ENGLISH), ("zh-CN", CHINESE)])
def test_the_sheets_in_each_language(tmp_path: Path, language: str, names: list[str]) -> None:
    assert openpyxl.load_workbook(saved(factory.typical(), tmp_path, language)).sheetnames == names


@pytest.mark.parametrize("name", ENGLISH[1:4])
def test_totals_are_formulas_that_agree_with_their_values_and_the_document(tmp_path: Path, name: str) -> None:
    document = factory.typical()
    formulas, values = (book[name] for book in both(saved(document, tmp_path)))
    last = formulas.max_row
    headings = [cell.value for cell in formulas[1]]
    assert formulas.cell(last, 1).value == "Total"
    for column in range(2, formulas.max_column + 1):
        lines = [values.cell(row, column).value for row in range(2, last)]
        letter = openpyxl.utils.get_column_letter(column)
        assert formulas.cell(last, column).value == f"=SUM({letter}2:{letter}{last - 1})"
        assert all(isinstance(line, int | float) for line in lines)
        assert values.cell(last, column).value == pytest.approx(sum(lines), rel=1e-12)
    total = values.cell(last, headings.index("LiteLLM, USD") + 1).value
    assert total == float(document.rows["total"].spend)
    assert values.cell(last, headings.index("Requests") + 1).value == document.rows["total"].count


def test_sheets_have_frozen_headings_and_a_filter_over_the_lines(tmp_path: Path) -> None:
    book = openpyxl.load_workbook(saved(factory.typical(), tmp_path))
    for name in ENGLISH[1:5]:
        sheet = book[name]
        assert sheet.freeze_panes == "B2"
        lines = sheet.max_row - (0 if name == "Discrepancies" else 1)
        assert sheet.auto_filter.ref.endswith(str(lines))
        assert sheet.print_title_rows == "$1:$1"


def test_dates_are_dates_in_the_report_s_zone(tmp_path: Path) -> None:
    document = factory.typical()
    book = openpyxl.load_workbook(saved(document, tmp_path))
    days = book["By day"]
    assert days["A2"].value == datetime(2026, 11, 1)  # noqa: DTZ001  # a cell has no zone
    assert days["A2"].number_format == "yyyy-mm-dd"
    entries = book["Discrepancies"]
    headings = [cell.value for cell in entries[1]]
    assert "Time of use (Europe/Berlin)" in headings
    at = document.discrepancies["usage_time"].iloc[0].to_pydatetime()
    utc = entries.cell(2, headings.index("Time of use (UTC)") + 1).value
    local = entries.cell(2, headings.index("Time of use (Europe/Berlin)") + 1).value
    assert abs(utc.replace(tzinfo=UTC) - at) < timedelta(milliseconds=1)
    assert abs(local.replace(tzinfo=ZoneInfo("Europe/Berlin")) - at) < timedelta(milliseconds=1)


def test_the_summary_leads_from_one_side_to_the_other(tmp_path: Path) -> None:
    document = factory.typical()
    formulas, values = (book["Summary"] for book in both(saved(document, tmp_path)))
    labels = [cell.value for cell in values["A"]]
    assert labels[1] == "95.50 USD of 4,015.85 USD does not agree"
    row = labels.index("Billed by Lago") + 1
    assert formulas.cell(row, 2).value.startswith("=SUM(B")
    assert values.cell(row, 2).value == float(figures.lago_bills(document).spend)
    steps = [values.cell(number, 2).value for number in range(labels.index("Recorded by LiteLLM") + 1, row)]
    assert sum(steps) == pytest.approx(values.cell(row, 2).value, rel=1e-12)


def test_there_are_native_charts(tmp_path: Path) -> None:
    with zipfile.ZipFile(saved(factory.typical(), tmp_path)) as archive:
        assert sum(name.startswith("xl/charts/chart") for name in archive.namelist()) == 3


def test_strings_are_strings_whatever_they_look_like(tmp_path: Path) -> None:
    path = saved(factory.hostile(), tmp_path)
    book = openpyxl.load_workbook(path)
    found = {book["By charge ID"].cell(row, 1).value for row in range(2, book["By charge ID"].max_row)}
    assert {HOSTILE[1], "0123", "1e5", "https://evil.example/a", "␉=1+1", "team⟪U+202E⟫gnp.exe"} <= found
    for sheet in book:
        for cell in (cell for line in sheet.iter_rows() for cell in line):
            assert cell.hyperlink is None
            assert cell.data_type != "f" or cell.value.startswith("=SUM(")
            if isinstance(cell.value, str):
                assert cell.value.isprintable()
    with zipfile.ZipFile(path) as archive:
        assert not any("externalLink" in name for name in archive.namelist())


def test_a_string_longer_than_a_cell_is_cut_and_says_so(tmp_path: Path) -> None:
    document = factory.document([Row("held", charge_id="x" * 40_000, reason="no_subscription")])
    value = openpyxl.load_workbook(saved(document, tmp_path))["Discrepancies"]["B2"].value
    assert value == "x" * 32_000 + "… (40,000 characters)"


def test_an_empty_window_is_a_workbook_too(tmp_path: Path) -> None:
    _, values = both(saved(factory.document(), tmp_path))
    assert values["By charge ID"]["A2"].value == "Total"
    assert values["By charge ID"]["B2"].value == 0


def test_past_its_limit_the_sheet_says_where_the_rest_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workbook, "LISTED", 5)
    sheet = openpyxl.load_workbook(saved(factory.large(20, 3, 2), tmp_path))["Discrepancies"]
    assert sheet.cell(8, 1).value == "This sheet holds the largest 5 of 20 entries. The CSV file holds all."
    assert sheet.cell(7, 1).value is None


def test_libreoffice_computes_the_same_totals(tmp_path: Path, soffice: Path) -> None:
    document = factory.typical()
    # -1: every sheet as a file of its own; the formulas are computed anew on loading.
    options = "csv:Text - txt - csv (StarCalc):44,34,76,1,,0,false,false,false,false,false,-1"
    subprocess.run(
        [
            *(soffice, "--headless", f"-env:UserInstallation=file://{tmp_path}/profile"),
            *("--convert-to", options, "--outdir", tmp_path, saved(document, tmp_path)),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    for name in ENGLISH[1:4]:
        (path,) = tmp_path.glob(f"*-{name}.csv")
        with path.open(encoding="utf-8", newline="") as source:
            headings, *lines = list(csv.reader(source))
        total = dict(zip(headings, lines[-1], strict=True))
        assert int(total["Requests"]) == document.rows["total"].count
        for heading, amount in (
            ("LiteLLM, USD", document.rows["total"].spend),
            ("Lago before, USD", document.events["total"].spend),
            ("Missing in Lago, USD", document.rows["missing"].spend),
        ):
            assert abs(Decimal(total[heading]) - amount) < Decimal("1e-9")

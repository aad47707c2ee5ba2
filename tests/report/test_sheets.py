"""CSV: exact numbers, codes for machines, sentences for readers, and no cell that a spreadsheet would run."""

from __future__ import annotations

import csv
from decimal import Decimal
from pathlib import Path

import pytest

from reconcile.domain.document import Document
from reconcile.domain.money import add, plain
from reconcile.report import sheets, write
from report import factory
from report.factory import HOSTILE, Row


def read(document: Document, folder: Path, table: str, language: str = "en") -> list[dict[str, str]]:
    written = write(document, folder, ["csv"], language)
    (path,) = [path for path in written if path.name.endswith(f".{table}.csv")]
    with path.open(encoding="utf-8-sig", newline="") as source:
        return list(csv.DictReader(source))


def test_excel_is_told_that_it_is_utf8(tmp_path: Path) -> None:
    for path in write(factory.typical(), tmp_path, ["csv"], "en"):
        content = path.read_bytes()
        assert content.startswith(b"\xef\xbb\xbf")
        assert content.count(b"\n") == content.count(b"\r\n")


def test_every_class_is_in_the_summary_with_exact_money(tmp_path: Path) -> None:
    document = factory.typical()
    lines = read(document, tmp_path, "summary")
    found = {(line["side"], line["class"]): (line["count"], line["spend"]) for line in lines}
    for name, row in document.rows.items():
        assert found["rows", name] == (str(row.count), plain(row.spend))
    for name, event in document.events.items():
        assert found["events", name] == (str(event.count), plain(event.spend))
    assert len(found) == len(lines) == len(document.rows) + len(document.events)


@pytest.mark.parametrize("table", ["by-charge-id", "by-model", "by-day"])
def test_lines_add_up_to_the_document_to_the_last_digit(tmp_path: Path, table: str) -> None:
    document = factory.typical()
    lines = read(document, tmp_path, table)
    for name, totals in document.rows.items():
        key = "rows" if name == "total" else name
        assert add(Decimal(line[f"{key}_spend"]) for line in lines) == totals.spend
        assert sum(int(line[f"{key}_count"]) for line in lines) == totals.count
    for name, event in document.events.items():
        key = "events" if name == "total" else f"lago_{name}"
        assert add(Decimal(line[f"{key}_spend"]) for line in lines) == event.spend
        assert sum(int(line[f"{key}_count"]) for line in lines) == event.count


def test_columns_do_not_depend_on_language_or_content(tmp_path: Path) -> None:
    english = write(factory.typical(), tmp_path / "en", ["csv"], "en")
    chinese = write(factory.document(), tmp_path / "zh", ["csv"], "zh-CN")
    assert len(english) == len(chinese) == len(sheets.TABLES)
    for one, other in zip(english, chinese, strict=True):
        first = one.read_text(encoding="utf-8-sig").splitlines()[0]
        assert first == other.read_text(encoding="utf-8-sig").splitlines()[0]
        assert first.replace(",", "").replace("_", "").isalpha()


def test_all_discrepancies_are_listed_with_code_sentence_and_both_times(tmp_path: Path) -> None:
    document = factory.typical()
    lines = read(document, tmp_path, "discrepancies", "zh-CN")
    assert len(lines) == len(document.discrepancies)
    line = next(line for line in lines if line["reason"] == "no_subscription")
    assert line["class"] == "held"
    assert line["reason_text"] == "没有订阅"
    assert line["next_step"].startswith("请在 Lago 中创建订阅")
    assert line["usage_time"].endswith("Z")
    assert line["usage_time_local"].endswith("+01:00")


def test_an_unknown_reason_takes_the_next_step_of_its_class(tmp_path: Path) -> None:
    (line,) = read(factory.document([Row("held", reason="moon_phase")]), tmp_path, "discrepancies")
    assert (line["reason"], line["reason_text"]) == ("moon_phase", "moon_phase")
    assert line["next_step"].startswith("Remove the cause")


def test_no_cell_of_text_starts_like_a_formula(tmp_path: Path) -> None:
    for path in write(factory.hostile(), tmp_path, ["csv"], "en"):
        with path.open(encoding="utf-8-sig", newline="") as source:
            for cell in (cell for line in csv.reader(source) for cell in line):
                assert cell.isprintable(), cell
                assert not cell.startswith(("=", "+", "@", "\t", "\r")), cell
                assert not cell.startswith("-") or is_number(cell), cell


def is_number(cell: str) -> bool:
    try:
        return Decimal(cell).is_finite()
    except ArithmeticError:
        return False


def test_a_string_is_whole_in_the_csv_and_only_escaped(tmp_path: Path) -> None:
    found = {line["charge_id"] for line in read(factory.hostile(), tmp_path, "by-charge-id")}
    assert '\'=HYPERLINK("http://evil.example","click")' in found
    assert "team⟪U+202E⟫gnp.exe" in found
    assert "␉=1+1" in found
    assert "''quoted" in found
    assert "x" * 5_000 in found
    assert len(found) == len(HOSTILE) + 2


def test_negative_amounts_stay_numbers(tmp_path: Path) -> None:
    lines = read(factory.typical(), tmp_path, "previous")
    (missing,) = [line for line in lines if line["class"] == "missing"]
    assert Decimal(missing["change_spend"]) < 0
    assert int(missing["change_count"]) < 0


def test_nobody_and_no_model_are_empty_cells(tmp_path: Path) -> None:
    document = factory.document([Row("unattributed", charge_id=None, model=None, reason="no_charge_id")])
    assert read(document, tmp_path, "by-charge-id")[0]["charge_id"] == ""
    assert read(document, tmp_path, "by-model")[0]["model"] == ""

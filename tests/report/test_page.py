"""HTML as it is written: complete without a script, safe whatever the strings, small enough to open at once."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from reconcile.domain.document import Document, Fault
from reconcile.report import charts, figures, languages, write
from reconcile.report.words import Words
from report import factory
from report.factory import Event, Row

VOID = {"meta", "link", "br", "input", "img", "hr"}


class Page(HTMLParser):
    """Elements, attributes and text of a page, by the section they stand in."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[tuple[str, str | None]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        if tag not in VOID and not (self.get_starttag_text() or "").endswith("/>"):
            self.open.append((tag, attributes.get("id")))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID and self.open[-1][0] == tag:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        where = next((name for tag, name in reversed(self.open) if tag == "section" and name), "head")
        self.texts.setdefault(where, []).append(data)

    def text(self, section: str) -> str:
        return " ".join(" ".join(self.texts[section]).split())


def page(document: Document, folder: Path, language: str = "en") -> tuple[Page, str]:
    (path,) = write(document, folder, ["html"], language)
    source = path.read_text(encoding="utf-8")
    return Page(source), source


def test_the_page_is_well_formed_and_needs_nothing_from_anywhere(tmp_path: Path) -> None:
    parsed, source = page(factory.typical(), tmp_path)
    assert parsed.open == []
    for tag, attributes in parsed.elements:
        assert tag not in ("img", "iframe", "object", "embed", "form")
        assert "src" not in attributes
        assert "style" not in attributes
        href = attributes.get("href") or "#"
        assert href.startswith("#") or href == "data:,"
    targets = {attributes["id"] for _, attributes in parsed.elements if attributes.get("id")}
    for _, attributes in parsed.elements:
        if (href := attributes.get("href") or "").startswith("#"):
            assert href[1:] in targets
    assert "@import" not in source
    assert "url(" not in source


@pytest.mark.parametrize("language", languages())
def test_every_section_is_there_in_every_language(tmp_path: Path, language: str) -> None:
    document = factory.typical()
    words = Words(language, document.method.time_zone)
    parsed, _ = page(document, tmp_path, language)
    for section in (
        *("bridge", "actions", "charge-ids", "models", "days", "discrepancies"),
        *("totals", "findings", "previous", "method", "made", "sign"),
    ):
        assert words.text(f"section_{section.replace('-', '_')}") in parsed.text(section)
    assert document.method.time_zone in parsed.text("head")
    assert "2026-10-31T23:00:00Z" in parsed.text("head")
    for name in ("RECONCILE_LATE", "0.1.0", "1.51.0"):
        assert name in parsed.text("method")
    assert document.run_id in parsed.text("made")


def test_figures_are_the_document_s(tmp_path: Path) -> None:
    document = factory.typical()
    words = Words("en", document.method.time_zone)
    parsed, _ = page(document, tmp_path)
    for step in figures.waterfall(document):
        assert words.usd(step.after if step.name in ("litellm", "lago") else step.change) in parsed.text("bridge")
    for name, totals in document.rows.items():
        for section in ("charge-ids", "models", "days"):
            assert not totals.count or words.money(totals.spend) in parsed.text(section), name
    for name in ("missing", "held", "rejected", "mismatched", "misdirected", "unattributed"):
        heading = f"{words.of_class(name).label} {words.usd(document.rows[name].spend)}"
        assert heading in parsed.text("actions")


@pytest.mark.parametrize(
    ("document", "status"),
    [
        (factory.document([Row("matched")]), "Lago agrees with LiteLLM to the cent"),
        (factory.document(), "LiteLLM recorded no request in this period"),
        (
            factory.document([Row("matched", "9"), Row("unattributed", "1", None, reason="no_charge_id")]),
            "Lago agrees with LiteLLM; 1.00 USD of 10.00 USD stays unbilled or unexplained",
        ),
        (factory.document([Row("missing", "2.5"), Row("matched", "10")]), "2.50 USD of 12.50 USD does not agree"),
        (
            factory.document([Row("matched", "1")], [Event("orphan", "5")]),
            "5.00 USD does not agree, beside 1.00 USD that LiteLLM recorded",
        ),
        (factory.document([Row("held", "0", reason="no_customer")]), "Requests that do not agree: 1. They carry no"),
        (factory.incomplete(), "Not finished: these figures are not final"),
        (factory.incomplete(), "Lago stopped answering. Lago answered 503"),
        (factory.document(dry_run=True), "Dry run: nothing was sent."),
        (factory.document(command="report"), "Report only: nothing was sent."),
        (factory.document([Row("delivered")]), "Lago was read back after the last delivery"),
    ],
)
def test_the_status_is_in_words(tmp_path: Path, document: Document, status: str) -> None:
    parsed, _ = page(document, tmp_path)
    assert status in parsed.text("head")


def test_hostile_strings_are_text(tmp_path: Path) -> None:
    parsed, source = page(factory.hostile(), tmp_path)
    assert [tag for tag, _ in parsed.elements].count("script") == 1
    assert not any(tag == "img" for tag, _ in parsed.elements)
    assert not any(name.startswith("on") for _, attributes in parsed.elements for name in attributes)
    assert '<script>document.title="owned"</script>' in parsed.text("charge-ids")
    assert "{{ 7 * 7 }}" in parsed.text("charge-ids")
    assert "team⟪U+202E⟫gnp.exe" in parsed.text("discrepancies")
    assert "… (5,000 characters)" in parsed.text("discrepancies")
    assert parsed.open == []
    assert all(character.isprintable() or character == "\n" for character in source)


def test_a_fault_s_message_is_text(tmp_path: Path) -> None:
    document = replace(factory.incomplete(), fault=Fault("lago", "<b>503</b>\u202e"))
    parsed, source = page(document, tmp_path)
    assert "<b>503</b>⟪U+202E⟫" in parsed.text("head")
    assert "<b>503" not in source


def test_a_month_with_100_000_discrepancies_stays_small(tmp_path: Path) -> None:
    document = factory.large()
    parsed, source = page(document, tmp_path)
    assert len(source.encode()) < 2_000_000
    lines = [attributes for tag, attributes in parsed.elements if tag == "tr" and attributes.get("data-c")]
    assert len(lines) == 1_000
    assert "Entries: 100,000. Shown are the largest 1,000 by money" in parsed.text("discrepancies")


def test_past_500_lines_the_others_stand_as_one_and_the_total_is_their_sum(tmp_path: Path) -> None:
    rows = [Row("matched", "1", f"user-{number:04d}") for number in range(620)]
    parsed, source = page(factory.document(rows), tmp_path)
    assert "All others (120)" in parsed.text("charge-ids")
    table = source.split('id="t-by-charge-id"')[1].split("</table>")[0]
    body, foot = table.split("<tbody>")[1].split("<tfoot>")
    spends = [Decimal(line.split('data-v="')[3].split('"')[0]) for line in body.split("<tr")[1:]]
    assert len(spends) == 501
    assert sum(spends) == 620
    assert "620.00" in foot


def test_charts_have_titles_and_text_alternatives(tmp_path: Path) -> None:
    parsed, _ = page(factory.typical(), tmp_path)
    ids = {attributes.get("id") for _, attributes in parsed.elements}
    pictures = [attributes for tag, attributes in parsed.elements if tag == "svg" and attributes.get("role") == "img"]
    assert len(pictures) >= 2 + len(figures.waterfall(factory.typical()))
    for labelled in (attributes["aria-labelledby"] for attributes in pictures if "aria-labelledby" in attributes):
        assert set((labelled or "").split()) <= ids
    assert re.search(r"30 days from 1 Nov 2026 to 30 Nov 2026\. The largest day is \d+ Nov", parsed.text("days"))
    for tag, attributes in parsed.elements:
        assert tag != "svg" or attributes.get("role") == "img" or attributes.get("aria-hidden") == "true"


@pytest.mark.parametrize(
    ("zone", "first", "last", "shown"),
    [
        (
            "Europe/Berlin",
            datetime(2026, 10, 24, 22, tzinfo=UTC),
            datetime(2026, 10, 25, 23, tzinfo=UTC),
            "25 Oct 2026",
        ),
        # No midnight: the day begins at 01:00.
        ("America/Santiago", datetime(2026, 9, 6, 4, tzinfo=UTC), datetime(2026, 9, 7, 3, tzinfo=UTC), "6 Sep 2026"),
    ],
)
def test_a_day_of_23_or_25_hours_is_a_whole_day(
    tmp_path: Path, zone: str, first: datetime, last: datetime, shown: str
) -> None:
    parsed, _ = page(factory.document(window_from=first, window_to=last, time_zone=zone), tmp_path)
    assert f"{shown}, the whole day" in parsed.text("head")
    assert zone in parsed.text("head")


def test_a_window_that_is_not_made_of_days_shows_its_instants(tmp_path: Path) -> None:
    start = datetime(2026, 11, 1, 9, 30, tzinfo=UTC)
    document = factory.document(window_from=start, window_to=start + timedelta(hours=2), time_zone="Asia/Kolkata")
    parsed, _ = page(document, tmp_path)
    assert "1 Nov 2026, 15:00:00 (UTC+05:30) to 1 Nov 2026, 17:00:00 (UTC+05:30)" in parsed.text("head")


def test_a_row_after_local_midnight_is_on_the_local_day() -> None:
    at = datetime(2026, 11, 1, 23, 30, tzinfo=UTC)
    document = factory.document([Row("missing", "1", at=at)], time_zone="Europe/Berlin")
    (column,) = charts.days(document).columns
    assert column.day == at.astimezone(ZoneInfo("Europe/Berlin")).date() == date(2026, 11, 2)


def test_small_steps_of_a_waterfall_can_be_seen() -> None:
    document = factory.document([Row("matched", "10000"), Row("missing", "0.01")])
    picture = charts.waterfall(figures.waterfall(document))
    assert picture.low > 0
    missing = next(bar for bar in picture.bars if bar.step.name == "missing")
    assert float(missing.width) > 100


@pytest.mark.parametrize("document", [factory.document(), factory.hostile(), factory.typical(), factory.incomplete()])
def test_the_marks_of_the_charts_stay_inside(document: Document) -> None:
    for bar in charts.waterfall(figures.waterfall(document)).bars:
        assert 0 <= float(bar.x) <= float(bar.x) + float(bar.width) <= charts.WIDTH + 0.1
    picture = charts.days(document)
    for column in picture.columns:
        assert charts.PLOT_LEFT <= float(column.x) <= float(column.x) + float(column.width) <= picture.width
        for block in column.blocks:
            assert charts.PLOT_TOP - 10 <= float(block.y) <= charts.PLOT_TOP + charts.PLOT_HEIGHT
    heat = charts.heat(document)
    for cell in heat.cells:
        assert 1 <= cell.shade <= 5
        assert cell.x + charts.CELL_WIDTH <= heat.width
        assert cell.y + charts.CELL_HEIGHT <= heat.height


def test_the_heat_map_holds_all_money_that_does_not_agree() -> None:
    document = factory.typical()
    assert sum(cell.amount for cell in charts.heat(document).cells) == figures.sides(document).open


def test_two_years_are_cut_to_the_last_days() -> None:
    rows = [Row("missing", "1", at=factory.FROM + timedelta(days=day)) for day in range(0, 800, 7)]
    document = factory.document(rows, window_to=factory.FROM + timedelta(days=800))
    assert (len(charts.days(document).columns), charts.days(document).cut) == (charts.DAYS_IN_CHART, True)
    assert (len(charts.heat(document).days), charts.heat(document).cut) == (charts.DAYS_IN_HEAT, True)

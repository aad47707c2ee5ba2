"""The page in a real browser: silent, sortable, filterable, readable on a screen, a phone and paper."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser
from playwright.sync_api import Page as Tab

from reconcile.domain.document import Document
from reconcile.report import figures, languages, write
from reconcile.report.words import Words
from report import factory

LOOKS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1280, "height": 900}},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True},
}


@contextmanager
def tab(browser: Browser, path: Path, **options: Any) -> Iterator[Tab]:
    """The page, opened; at the end it must have said nothing and asked for nothing."""
    context = browser.new_context(**options)
    opened = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(path.as_uri())
    yield opened
    context.close()
    assert said == []
    assert [url for url in asked if url not in (path.as_uri(), "data:,")] == []


def html(document: Document, folder: Path, language: str = "en") -> Path:
    (path,) = write(document, folder, ["html"], language)
    return path


def column(opened: Tab, table: str, number: int) -> list[str]:
    """The sort keys of a column as the reader sees them, hidden lines left out."""
    script = """([table, number]) => Array.from(document.querySelectorAll(`#${table} tbody tr:not([hidden])`))
        .map((row) => row.cells[number].dataset.v ?? row.cells[number].textContent.trim())"""
    found: list[str] = opened.evaluate(script, [table, number])
    return found


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("language", languages())
def test_the_page_shows_the_document(browser: Browser, tmp_path: Path, language: str, look: str) -> None:
    document = factory.typical()
    words = Words(language, document.method.time_zone)
    with tab(browser, html(document, tmp_path, language), **LOOKS[look]) as opened:
        text = opened.inner_text("body")
        whole = figures.sides(document)
        for amount in (document.rows["total"].spend, figures.lago_bills(document).spend, whole.open, whole.surplus):
            assert words.money(amount) in text
        for name in ("missing", "held", "duplicate"):
            assert words.of_class(name).label in text
            assert words.of_class(name).meaning in text
        assert len(column(opened, "t-discrepancies", 0)) == len(document.discrepancies)
        assert len(column(opened, "t-by-charge-id", 0)) == len(document.by_charge_id)
        # Wide tables scroll in their own container, never the page.
        assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_tables_sort_by_exact_money_and_by_name(browser: Browser, tmp_path: Path) -> None:
    with tab(browser, html(factory.typical(), tmp_path), **LOOKS["light"]) as opened:
        money = opened.locator("#t-by-charge-id thead th[data-sort=n]").first
        for direction, descending in (("descending", True), ("ascending", False), ("descending", True)):
            money.locator("button").click()
            assert money.get_attribute("aria-sort") == direction
            amounts = [Decimal(key) for key in column(opened, "t-by-charge-id", 2)]
            assert amounts == sorted(amounts, reverse=descending)
            assert len(set(amounts)) > 5
        name = opened.locator("#t-by-model thead th[data-sort=t]").first
        name.locator("button").click()
        assert name.get_attribute("aria-sort") == "ascending"
        names = column(opened, "t-by-model", 0)
        assert names == sorted(names)
        name.locator("button").press("Enter")
        assert column(opened, "t-by-model", 0) == names[::-1]
        opened.locator("#t-discrepancies thead th").nth(3).locator("button").click()
        times = column(opened, "t-discrepancies", 3)
        assert times == sorted(times)


def test_tables_filter_by_text_and_by_class(browser: Browser, tmp_path: Path) -> None:
    document = factory.typical()
    with tab(browser, html(document, tmp_path), **LOOKS["light"]) as opened:
        tools = opened.locator(".tools[data-for=t-discrepancies]")
        tools.locator("select").select_option("held")
        assert set(column(opened, "t-discrepancies", 0)) == {"Kept back"}
        assert tools.locator("output").inner_text() == f"Lines shown: {document.rows['held'].count}"
        tools.locator("input").fill("TEAM-ATLAS")
        assert set(column(opened, "t-discrepancies", 1)) == {"team-atlas"}
        tools.locator("input").fill("no such thing")
        assert column(opened, "t-discrepancies", 0) == []
        opened.locator("a[data-class=orphan]").click()
        assert set(column(opened, "t-discrepancies", 0)) == {"Only in Lago"}


def test_hostile_strings_do_nothing(browser: Browser, tmp_path: Path) -> None:
    with tab(browser, html(factory.hostile(), tmp_path), **LOOKS["light"]) as opened:
        assert opened.title() == "Usage and billing, 1 Nov 2026"
        assert '<script>document.title="owned"</script>' in opened.inner_text("#charge-ids")
        assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_injected_script_could_not_run(browser: Browser, tmp_path: Path) -> None:
    path = html(factory.document(), tmp_path)
    page = path.read_text(encoding="utf-8").replace("<main>", "<main><script>document.title = 'owned'</script>")
    path.write_text(page, encoding="utf-8")
    context = browser.new_context()
    opened = context.new_page()
    opened.goto(path.as_uri())
    assert opened.title() == "Usage and billing, 1 Nov 2026"
    context.close()


def test_the_page_is_whole_without_javascript(browser: Browser, tmp_path: Path) -> None:
    document = factory.typical()
    path = html(document, tmp_path)
    context = browser.new_context(java_script_enabled=False, **LOOKS["light"])
    opened = context.new_page()
    opened.goto(path.as_uri())
    assert opened.locator("#t-discrepancies tbody tr").count() == len(document.discrepancies)
    assert not opened.locator(".tools").first.is_visible()
    assert opened.locator("#t-discrepancies thead button").count() == 0
    context.close()


def test_it_prints_on_a4_and_wide_tables_on_a4_across(browser: Browser, tmp_path: Path) -> None:
    with tab(browser, html(factory.typical(), tmp_path), **LOOKS["light"]) as opened:
        pdf = opened.pdf(prefer_css_page_size=True, print_background=True)
    sizes = {
        (round(float(width)), round(float(height)))
        for width, height in re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", pdf)
    }
    assert sizes == {(595, 842), (842, 595)}


def test_paper_holds_the_classes_and_no_more_than_200_entries(browser: Browser, tmp_path: Path) -> None:
    with tab(browser, html(factory.large(300, 5, 3), tmp_path), **LOOKS["light"]) as opened:
        opened.emulate_media(media="print")
        assert opened.locator("#t-discrepancies tbody tr >> visible=true").count() == 200
        assert "On paper stand the first 200 lines." in opened.inner_text("#discrepancies")
        assert not opened.locator(".tools").first.is_visible()
        assert opened.locator("#t-summary").bounding_box() is not None
        opened.emulate_media(media="screen")
        assert "On paper" not in opened.inner_text("#discrepancies")


def test_100_000_discrepancies_open_at_once(browser: Browser, tmp_path: Path) -> None:
    with tab(browser, html(factory.large(), tmp_path), **LOOKS["light"]) as opened:
        assert len(column(opened, "t-discrepancies", 0)) == 1_000
        opened.locator("#t-discrepancies thead th").nth(4).locator("button").click()
        assert len(column(opened, "t-discrepancies", 4)) == 1_000

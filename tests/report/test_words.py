"""Every language says everything; numbers and dates follow its locale and the report's time zone."""

from __future__ import annotations

import string
import tomllib
from datetime import UTC, date, datetime
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from reconcile import errors
from reconcile.domain.vocabulary import (
    EVENT_CLASSES,
    EVENT_REASONS,
    ROW_CLASSES,
    ROW_REASONS,
    FindingKind,
    Reason,
    RowClass,
)
from reconcile.errors import UsageError
from reconcile.report import languages
from reconcile.report.words import Words, rounded


def source(language: str) -> dict[str, Any]:
    return tomllib.loads((files("reconcile.report") / "languages" / f"{language}.toml").read_text(encoding="utf-8"))


def leaves(table: dict[str, Any], path: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in table.items():
        if isinstance(value, dict):
            found |= leaves(value, f"{path}{name}.")
        else:
            found[f"{path}{name}"] = value
    return found


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_the_languages_of_the_contract_are_there() -> None:
    assert {"en", "zh-CN"} <= set(languages())


@pytest.mark.parametrize("language", languages())
def test_every_language_has_every_text_with_the_same_names_to_fill_in(language: str) -> None:
    english, other = leaves(source("en")), leaves(source(language))
    assert other.keys() == english.keys()
    for key, text in english.items():
        assert text.strip(), key
        assert other[key].strip(), key
        if key.startswith("text."):
            assert fields(other[key]) == fields(text), key


def kinds(base: type[errors.ReconcileError]) -> set[str]:
    return {base.kind}.union(*map(kinds, base.__subclasses__()))


@pytest.mark.parametrize("language", languages())
def test_a_language_has_words_for_what_there_is_and_for_nothing_else(language: str) -> None:
    words = source(language)
    assert words["classes"].keys() == {*ROW_CLASSES, *EVENT_CLASSES}
    assert words["reasons"].keys() == {*Reason}
    assert words["findings"].keys() == {*FindingKind}
    # Of these there is no document: nothing had begun.
    assert words["faults"].keys() == kinds(errors.ReconcileError) - {"usage", "settings", "locked"}


def test_every_reason_belongs_to_a_class() -> None:
    used = {reason for reasons in (*ROW_REASONS.values(), *EVENT_REASONS.values()) for reason in reasons}
    assert used == {*Reason}


@pytest.mark.parametrize("language", languages())
def test_every_class_and_reason_has_a_name_a_meaning_and_a_next_step(language: str) -> None:
    words = Words(language, "UTC")
    for name in (*ROW_CLASSES, *EVENT_CLASSES):
        wording = words.of_class(name)
        assert wording.label != name
        assert wording.meaning
        assert wording.next
    for code in Reason:
        wording = words.of_reason(code)
        assert wording.label != code
        assert wording.meaning
        assert wording.next


def test_finance_finds_every_class_and_kept_back_reason_in_its_guide() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "finance.md").read_text(encoding="utf-8")
    words = Words("en", "UTC")
    for name in {*ROW_CLASSES, *EVENT_CLASSES}:
        assert f"| {words.of_class(name).label} | `{name}` |" in guide
    for code in (*ROW_REASONS[RowClass.HELD], *ROW_REASONS[RowClass.UNBILLED]):
        assert f"| {words.of_reason(code).label} (`{code}`) |" in guide


def test_an_unknown_code_is_shown_as_it_is() -> None:
    words = Words("en", "UTC")
    assert words.of_reason("moon_phase").label == "moon_phase"
    assert words.of_reason("moon_phase").next == ""
    assert words.of_class("sideways").label == "sideways"
    assert words.of_finding("ufo") == "ufo"
    assert words.charge_by("tag_id") == "tag_id"


@pytest.mark.parametrize("language", ["xx", "", "../en", "EN"])
def test_an_unknown_language_is_refused_by_name(language: str) -> None:
    with pytest.raises(UsageError, match=r"Choose one of .*en.*zh-CN"):
        Words(language, "UTC")


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        ("0", "0.00"),
        ("-0", "0.00"),
        ("4310.08", "4,310.08"),
        ("1234567.891", "1,234,567.89"),
        ("0.125", "0.13"),
        ("2.675", "2.68"),
        ("-12.345", "-12.35"),
        ("0.1", "0.10"),
        ("0.0999", "0.10"),
        ("0.01", "0.01"),
        ("0.0123", "0.012"),
        ("0.0000051", "0.0000051"),
        ("-0.00123", "-0.0012"),
        ("0.00999", "0.01"),
        ("1e-12", "0.000000000001"),
        ("5e-324", "5.00E-324"),
        ("999999999999999.99", "999,999,999,999,999.99"),
        ("1.7976931348623157e308", "1.80E308"),
    ],
)
def test_money_shows_cents_and_small_sums_never_as_zero(amount: str, shown: str) -> None:
    assert Words("en", "UTC").money(Decimal(amount)) == shown


def test_money_rounds_exactly_whatever_its_size() -> None:
    assert rounded(Decimal("123456789012345678901234567890.125")) == Decimal("123456789012345678901234567890.13")


def test_money_names_its_unit() -> None:
    assert Words("en", "UTC").usd(Decimal("12.41")) == "12.41 USD"


@pytest.mark.parametrize(
    ("cents", "currency", "units"),
    [(81_240, "USD", "812.4"), (500, "JPY", "500"), (1_234, "KWD", "1.234"), (-1, "EUR", "-0.01")],
)
def test_the_smallest_unit_is_the_currency_s_own(cents: int, currency: str, units: str) -> None:
    assert Words("en", "UTC").currency_units(cents, currency) == Decimal(units)


def test_units_keep_six_decimals_at_most() -> None:
    words = Words("en", "UTC")
    assert words.units(Decimal("1733")) == "1,733"
    assert words.units(Decimal("0.12345678")) == "0.123457"


@pytest.mark.parametrize(
    ("language", "day", "moment"),
    [("en", "1 Nov 2026", "1 Nov 2026, 10:05:09"), ("zh-CN", "2026年11月1日", "2026年11月1日 10:05:09")],
)
def test_dates_follow_the_language(language: str, day: str, moment: str) -> None:
    words = Words(language, "UTC")
    assert words.day(date(2026, 11, 1)) == day
    assert words.moment(datetime(2026, 11, 1, 10, 5, 9, tzinfo=UTC)) == moment


def test_an_hour_that_comes_twice_can_be_told_apart() -> None:
    words = Words("en", "Europe/Berlin")
    first = words.instant(datetime(2026, 10, 25, 0, 30, tzinfo=UTC))
    second = words.instant(datetime(2026, 10, 25, 1, 30, tzinfo=UTC))
    assert first == "25 Oct 2026, 02:30:00 (UTC+02:00)"
    assert second == "25 Oct 2026, 02:30:00 (UTC+01:00)"

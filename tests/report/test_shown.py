"""Strings from strangers: shown, not obeyed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconcile.report.shown import defused, shortened, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("team-a", "team-a"),
        ("团队 שלום é", "团队 שלום é"),
        ("", ""),
        ("a\x00b", "a␀b"),
        ("tab\tline\nreturn\r", "tab␉line␊return␍"),
        ("\x1b[31mred", "␛[31mred"),
        ("\x7f", "␡"),
        ("team\u202egnp.exe", "team⟪U+202E⟫gnp.exe"),
        ("\u200b\ufeff\u2066", "⟪U+200B⟫⟪U+FEFF⟫⟪U+2066⟫"),
        ("a\u00a0b", "a⟪U+00A0⟫b"),
        ("\ud800", "⟪U+D800⟫"),
        ("\U000e0041", "⟪U+E0041⟫"),
    ],
)
def test_what_does_not_print_is_shown_as_an_escape(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text(st.characters(codec=None)))
def test_what_is_shown_is_printable(text: str) -> None:
    assert visible(text).isprintable()
    assert visible(visible(text)) == visible(text)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", "'"])
def test_a_cell_that_starts_like_a_formula_is_defused(start: str) -> None:
    assert defused(f"{start}1+1") == f"'{start}1+1"


@pytest.mark.parametrize("text", ["team-a", "1=1", "a@b", " =1", ""])
def test_any_other_cell_stays(text: str) -> None:
    assert defused(text) == text


@given(st.text())
def test_defusing_can_be_undone(text: str) -> None:
    assert defused(text).removeprefix("'") == text


def test_long_strings_say_that_they_were_cut() -> None:
    assert shortened("abcdef", 3, "…") == "abc…"
    assert shortened("abc", 3, "…") == "abc"

"""The summary on a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from reconcile.domain.document import Document
from reconcile.errors import UsageError
from reconcile.report import terminal
from report import factory
from report.factory import Event, Row


def shown(document: Document, language: str = "en") -> str:
    console = Console(file=io.StringIO(), width=110, force_terminal=False)
    terminal.render(document, console, language)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_window_that_agrees_takes_a_few_lines() -> None:
    text = shown(factory.document([Row("matched_live", "12.34"), Row("delivered", "0.0041")]))
    assert text.splitlines() == [
        "✔ Lago agrees with LiteLLM to the cent",
        "  Every billable request that has a charge ID is in Lago exactly once, and Lago bills it.",
        "  1 Nov 2026, the whole day (UTC) · openai_tokens, charged by team",
        "  Lago was read back after the last delivery and holds what this report says.",
        "  LiteLLM recorded: 12.34 USD · Lago bills now: 12.34 USD · Sent by this run: 1",
    ]


def test_what_does_not_agree_stands_with_money_and_next_step() -> None:
    text = shown(
        factory.document(
            [Row("matched", "5"), Row("held", "7", "team-b", reason="no_subscription"), Row("delivered", "1")],
            [Event("orphan", "2.5")],
        )
    )
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "▲ 9.50 USD of 13.00 USD does not agree" in lines
    assert "Kept back 1 7.00" in lines
    assert "Only in Lago 1 2.50" in lines
    assert "After this run 3 8.50" in lines
    assert "team-b 1 7.00 7.00" in lines
    assert lines.index("team-b 1 7.00 7.00") < lines.index("team-a 2 6.00 2.50")
    assert "No subscription (1): Create the subscription in Lago with a start at or before the time of" in text
    assert "Twice in Lago" not in text


def test_the_most_money_comes_first() -> None:
    text = shown(factory.document([Row("held", "1", reason="no_subscription"), Row("missing", "3", reason="not_sent")]))
    steps = text[text.index("What to do") :]
    assert steps.index("Missing in Lago") < steps.index("Kept back")


def test_an_incomplete_run_says_why() -> None:
    text = shown(factory.incomplete())
    assert "✖ Not finished: these figures are not final" in text
    assert "Lago answered 503 for 10 minutes" in text


def test_strings_of_strangers_do_not_reach_the_terminal_s_controls() -> None:
    text = shown(factory.hostile())
    assert "[bold red]rich[/]" in text
    assert "\u202e" not in text
    assert "\x1b" not in shown(factory.document([Row("held", charge_id="\x1b[2J")]))


def test_it_speaks_the_chosen_language() -> None:
    assert "Lago 与 LiteLLM 分毫不差" in shown(factory.document([Row("matched")]), "zh-CN")
    with pytest.raises(UsageError):
        shown(factory.document(), "tlh")


def test_an_unknown_reason_is_shown_with_its_class_s_next_step() -> None:
    text = shown(factory.document([Row("held", "1", reason="moon_phase")]))
    assert "moon_phase (1): Remove the cause that the reason names." in text

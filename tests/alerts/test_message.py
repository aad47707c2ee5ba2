"""What raises an alert, and how it reads."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from reconcile.domain.document import Fault, Finding, RowTotals
from reconcile.domain.vocabulary import EVENT_CLASSES, ROW_CLASSES
from reconcile.settings.alerting import Threshold, thresholds
from reconcile.unattended import alerts

from .documents import END, made

CLASSES = tuple(dict.fromkeys((*map(str, ROW_CLASSES), *map(str, EVENT_CLASSES))))


def on(text: str) -> tuple[Threshold, ...]:
    return thresholds(*CLASSES)(text)


def test_an_alert_holds_the_figures_and_the_place_of_the_report(tmp_path: Path) -> None:
    document = made(
        rows={"matched": (90, "9.00"), "delivered": (7, "0.70"), "held": (3, "1.05")},
        events={"matched": (90, "9.00"), "orphan": (12, "0.000012")},
    )
    path = tmp_path / "reconcile.html"
    alert = alerts.of_run(document, on("missing,orphan>10,held>1.00usd"), job="nightly", reports=[path])
    assert alert is not None
    assert alert.kind == "discrepancies"
    assert alert.subject == "reconcile: llm_usage: 12 orphan, 3 held"
    assert alert.text == (
        "Discrepancies between LiteLLM and Lago are over their thresholds.\n\n"
        "Run 2026-11-20T01-58-30Z-7f3a (job nightly): run\n"
        "Window: 2026-11-17T02:00:00Z to 2026-11-20T01:45:00Z\n"
        "Stream: llm_usage, charged by team_id, at http://lago.example:3000\n\n"
        "orphan: 12, 0.000012 USD (threshold: orphan>10)\n"
        "held: 3, 1.05 USD (threshold: held>1.00usd)\n\n"
        "Rows: 100, 10.75 USD\n"
        "Events in Lago: 102, 9.000012 USD\n"
        "Delivered by this run: 7, 0.7 USD\n\n"
        f"Report: {path}\n"
        "Look: reconcile show 2026-11-20T01-58-30Z-7f3a\n"
    )


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_can_raise_an_alert_by_count_and_by_money(kind: str) -> None:
    side = {kind: (5, "2.50")}
    document = made(rows=side if kind in ROW_CLASSES else {}, events=side if kind in EVENT_CLASSES else {})
    for threshold, raised in (("", True), (">4", True), (">5", False), (">2.49usd", True), (">2.50usd", False)):
        found = alerts.of_run(document, on(kind + threshold), job=None, reports=[])
        assert (found is not None) is raised, threshold


def test_a_class_of_both_sides_counts_by_the_larger() -> None:
    document = made(rows={"mismatched": (1, "5.00")}, events={"mismatched": (3, "1.00")})
    assert alerts.of_run(document, on("mismatched>2"), job=None, reports=[]) is not None
    assert alerts.of_run(document, on("mismatched>4.00usd"), job=None, reports=[]) is not None
    assert alerts.of_run(document, on("mismatched>3,mismatched>5.00usd"), job=None, reports=[]) is None


def test_late_rows_and_rows_that_stay_held_count_too() -> None:
    """They are in no window: without this nobody would hear of them."""
    late = {"held": RowTotals(2, Decimal("1.50")), "rejected": RowTotals(1, Decimal("9"))}
    stay = (Finding("still_held", "…", 4, Decimal("0.25")), Finding("late_held", "…", 2, Decimal("1.50")))
    document = made(rows={"held": (1, "1.00")}, late=late, findings=stay)
    for threshold, raised in (("held>6", True), ("held>7", False), ("held>2.74usd", True), ("held>2.75usd", False)):
        assert (alerts.of_run(document, on(threshold), job=None, reports=[]) is not None) is raised, threshold
    alert = alerts.of_run(document, on("held,rejected"), job=None, reports=[])
    assert alert is not None
    assert alert.subject == "reconcile: llm_usage: 7 held, 1 rejected"
    assert "held: 7, 2.75 USD (threshold: held)" in alert.text
    assert alerts.of_run(document, on("missing"), job=None, reports=[]) is None


def test_unbilled_counts_by_its_rows() -> None:
    """A live event that is not counted may stand beside the row's own event, which is billed."""
    beside = made(rows={"matched": (1, "1.00")}, events={"unbilled": (1, "0"), "matched": (1, "1.00")})
    assert alerts.of_run(beside, on("unbilled"), job=None, reports=[]) is None
    assert alerts.of_run(made(rows={"unbilled": (1, "1.00")}), on("unbilled"), job=None, reports=[]) is not None


def test_a_run_that_agrees_raises_none() -> None:
    assert alerts.of_run(made(rows={"matched": (9, "1")}), on("missing,orphan"), job=None, reports=[]) is None


def test_an_incomplete_run_raises_one_whatever_the_thresholds() -> None:
    document = made(fault=Fault("lago", "Lago does not answer"))
    alert = alerts.of_run(document, (), job=None, reports=[])
    assert alert is not None
    assert (alert.kind, alert.subject) == ("incomplete", "reconcile: llm_usage: a fault stopped the run")
    assert "Fault (lago): Lago does not answer\n" in alert.text
    assert "Run 2026-11-20T01-58-30Z-7f3a: run\n" in alert.text


def test_the_other_kinds() -> None:
    refused = alerts.refused("LAGO_API_KEY: wrong", event_code="llm\nusage", job="nightly")
    assert refused.subject == "reconcile: llm usage: the run could not begin"
    assert "of job nightly" in refused.text
    assert "LAGO_API_KEY: wrong\n" in refused.text
    common = {"event_code": "llm_usage", "charge_by": "team_id", "since": END, "allowed": timedelta(hours=26)}
    late = alerts.overdue(succeeded=True, **common)  # type: ignore[arg-type]  # the values' types are mixed
    assert late.subject == "reconcile: llm_usage: no finished run for more than 26h"
    assert "The last finished run ended at 2026-11-20T02:00:00Z." in late.text
    never = alerts.overdue(succeeded=False, **common)  # type: ignore[arg-type]  # as above
    assert "No run has finished since `reconcile schedule` began at 2026-11-20T02:00:00Z." in never.text
    assert alerts.trial().kind == "test"

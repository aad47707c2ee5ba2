"""The pages tell of everything that there is, and of nothing else; their links lead somewhere."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import click
import pytest
import typer.main

from reconcile import errors, settings
from reconcile.cli import app
from reconcile.domain.vocabulary import (
    EVENT_CLASSES,
    EVENT_REASONS,
    ROW_CLASSES,
    ROW_REASONS,
    FindingKind,
    Reason,
    Scope,
)
from reconcile.unattended.metrics import ScheduleMetrics

ROOT = Path(__file__).parents[1]
RUNBOOK = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
SETTINGS = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
GLOSSARY = (ROOT / "docs/glossary.md").read_text(encoding="utf-8")
MATCHING = (ROOT / "docs/matching.md").read_text(encoding="utf-8")
PAGES = sorted([*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md"), ROOT / "callback/README.md"])


def section(title: str, page: str = RUNBOOK) -> str:
    return page.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def first_cells(title: str, page: str = RUNBOOK) -> set[str]:
    """What stands in backticks in the first column of the section's tables."""
    rows = [line.split("|")[1] for line in section(title, page).splitlines() if line.startswith("|")]
    return {name for cell in rows for name in re.findall(r"`([^`]+)`", cell)}


def classes_of_reasons(page: str, title: str) -> dict[str, set[str]]:
    """Of a table `| class | reason | … |` whose empty first cells repeat the one above: each reason's classes."""
    named: dict[str, set[str]] = {}
    classes: set[str] = set()
    for line in section(title, page).splitlines():
        if line.startswith("| "):
            cells = line.split("|")
            classes = set(re.findall(r"`([^`]+)`", cells[1])) or classes
            for reason in re.findall(r"`([^`]+)`", cells[2]):
                named.setdefault(reason, set()).update(classes)
    return named


def classes_of(reason: Reason) -> set[str]:
    tables = (*ROW_REASONS.items(), *EVENT_REASONS.items())
    return {str(name) for name, reasons in tables if reason in reasons}


def commands() -> dict[str, click.Command]:
    group = typer.main.get_command(app)
    return {name: group.get_command(None, name) for name in group.list_commands(None)}  # type: ignore[attr-defined,arg-type,misc]


def subclasses(base: type[errors.ReconcileError]) -> set[type[errors.ReconcileError]]:
    return {base}.union(*(subclasses(one) for one in base.__subclasses__()))


def test_every_command() -> None:
    documented = {name.split()[1] for name in first_cells("Commands") if name.startswith("reconcile ")}
    assert documented == set(commands())


def test_every_option() -> None:
    root = typer.main.get_command(app)
    options = {
        name
        for command in (root, *commands().values())
        for parameter in command.params
        for name in parameter.opts
        if name.startswith("--")
    }
    text = section("Commands")
    assert {name for name in options if f"`{name}" not in text} == set()
    assert set(re.findall(r"`(--[a-z-]+)", text)) <= options | {"--help"}


def test_every_command_has_a_help_text_and_an_example() -> None:
    for name, command in commands().items():
        assert command.help, name
        assert command.epilog, name
        assert f"reconcile {name}" in command.epilog


def test_the_man_page_is_current() -> None:
    """Where it is not: python tools/make_man_page.py"""
    made = runpy.run_path(str(ROOT / "tools/make_man_page.py"))["page"]()
    assert (ROOT / "man/reconcile.1").read_text(encoding="utf-8") == made
    for name, command in commands().items():
        assert f".SS reconcile {name}".replace("-", "\\-") in made
        for parameter in command.params:
            for option in parameter.opts:
                if option.startswith("--"):
                    assert "\\fB" + option.replace("-", "\\-") in made, (name, option)


def test_every_setting() -> None:
    names = {one.name for one in settings.documentation()}
    assert set(re.findall(r"^\| `([A-Z_]+)`", SETTINGS, re.MULTILINE)) == names
    mentioned = set(re.findall(r"\b(?:RECONCILE|LAGO_API)_[A-Z_]+\b", RUNBOOK))
    assert mentioned - names == set()


def test_every_exit_code() -> None:
    rows = re.findall(r"^\| ([0-9]+) \|", section("Exit codes"), re.MULTILINE)
    used = {one.exit_code for one in subclasses(errors.ReconcileError)} | {0, 1}
    assert {int(code) for code in rows} == used
    assert len(rows) == len(used)
    airflow = (ROOT / "docs/airflow.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| ([0-9]+) \|", airflow, re.MULTILINE) == rows


def test_every_kind_of_fault() -> None:
    assert first_cells("Faults") == {one.kind for one in subclasses(errors.ReconcileError)}


def test_every_class() -> None:
    assert first_cells("Classes") == {*ROW_CLASSES, *EVENT_CLASSES}


def test_every_reason() -> None:
    assert first_cells("Reasons") == {*Reason}
    named = {}
    for line in section("Reasons").splitlines()[2:]:
        for reason in re.findall(r"`([^`]+)`", line.split("|")[1] if line else ""):
            named[reason] = set(line.split("|")[2].strip().split(", "))
    for reason in Reason:
        assert named[reason] == classes_of(reason), reason


def test_the_glossary_has_every_word() -> None:
    assert first_cells("Classes of rows", GLOSSARY) == {*ROW_CLASSES}
    others = {*EVENT_CLASSES} - {*ROW_CLASSES}
    assert first_cells("Classes of events", GLOSSARY) == others
    assert set(re.findall(r"`([^`]+)`", section("Classes of events", GLOSSARY))) >= {*EVENT_CLASSES}
    assert classes_of_reasons(GLOSSARY, "Reasons") == {str(reason): classes_of(reason) for reason in Reason}
    assert first_cells("Findings", GLOSSARY) == {*FindingKind}
    (scopes,) = re.findall(r"^`scope` says(?:.+\n)+", GLOSSARY, re.MULTILINE)
    assert set(re.findall(r"`([^`]+)`", scopes)) == {"scope", *Scope}


def test_the_glossary_gives_each_word_one_meaning() -> None:
    words = re.findall(r"^\| ([^|`]+) \|", GLOSSARY, re.MULTILINE)
    words = [word for word in words if word not in ("word", "class", "finding", "---")]
    assert len(words) == len(set(words))


def test_the_page_on_matching_has_every_class_and_reason() -> None:
    assert first_cells("What the classes mean, and what to do", MATCHING) == {*ROW_CLASSES, *EVENT_CLASSES}
    told = classes_of_reasons(MATCHING, "The reasons")
    unsaid = {reason for reason in Reason if classes_of(reason) == {"delivered"}}  # they need no word
    assert told == {str(reason): classes_of(reason) for reason in Reason if reason not in unsaid}


def test_every_alert() -> None:
    templates = {path.name.split(".")[0] for path in (ROOT / "reconcile/unattended/alerts/templates").iterdir()}
    assert first_cells("Alerts") == templates - {"run"}


def metrics() -> dict[str, set[str]]:
    """Each metric's own labels, beside those of the stream."""
    found = {}
    for collector in set(ScheduleMetrics().registry._collector_to_names):
        (family,) = collector.describe()
        name = family.name + ("_total" if family.type == "counter" else "")
        found[name] = set(collector._labelnames) - {"event_code", "charge_by"}  # type: ignore[attr-defined]
    return found


def test_every_metric_with_its_labels() -> None:
    documented = {}
    for cell in first_cells("Metrics"):
        name, _, labels = cell.partition("{")
        documented[name] = set(filter(None, labels.rstrip("}").split(",")))
    assert documented == metrics()


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    dashboard = json.loads((ROOT / "docs/grafana-dashboard.json").read_text(encoding="utf-8"))
    queries = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    asked = set(re.findall(r"reconcile_[a-z_]+", queries))
    assert asked <= set(metrics())
    assert set(metrics()) - asked == {"reconcile_last_run_timestamp_seconds", "reconcile_build_info"}


def anchors(page: Path) -> set[str]:
    """The names under which the headings of a page can be linked to."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("http:", "https:")):
            continue
        path, _, anchor = target.partition("#")
        other = page.parent / path if path else page
        assert other.exists(), target
        if anchor:
            assert anchor in anchors(other), target

"""docs/operations.md tells of everything that there is, and of nothing else."""

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
from reconcile.domain.vocabulary import EVENT_CLASSES, EVENT_REASONS, ROW_CLASSES, ROW_REASONS, Reason
from reconcile.unattended.metrics import ScheduleMetrics

ROOT = Path(__file__).parents[1]
RUNBOOK = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
SETTINGS = (ROOT / "docs/settings.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return RUNBOOK.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def first_cells(title: str) -> set[str]:
    """What stands in backticks in the first column of the section's tables."""
    rows = [line.split("|")[1] for line in section(title).splitlines() if line.startswith("|")]
    return {name for cell in rows for name in re.findall(r"`([^`]+)`", cell)}


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
    tables = (*ROW_REASONS.items(), *EVENT_REASONS.items())
    for reason in Reason:
        assert named[reason] == {str(name) for name, reasons in tables if reason in reasons}, reason


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


@pytest.mark.parametrize("page", [*(ROOT / "docs").glob("*.md"), ROOT / "README.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings, target
        elif not target.startswith(("http:", "https:")):
            assert (page.parent / target.partition("#")[0]).exists(), target

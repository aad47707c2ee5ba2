"""The commands that look at what is there: `check`, `runs`, `show`; and `migrate`, which makes room for it."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any

import typer

from reconcile import logs
from reconcile.cli.console import print_json, print_line, printing, say
from reconcile.cli.options import (
    ChargeByOption,
    EventCodeOption,
    JsonOption,
    Language,
    LanguageOption,
    settings_with,
)
from reconcile.errors import OutputFault, ReconcileError, UsageError

_COMPLETED = 50  # runs that a shell is offered


def check(as_json: JsonOption = False, charge_by: ChargeByOption = None, event_code: EventCodeOption = None) -> None:
    """Preflight: each check and what to do.

    Settings, database, Lago, metric and subscriptions. Sends nothing. Exits 0 or 2.
    """
    from reconcile.run.check import checks
    from reconcile.settings import documentation

    logs.configure("info", "auto")
    settings = settings_with(charge_by, event_code, None)
    warnings, results = settings.warnings(), checks(settings)
    ok = all(result.ok for result in results)
    with contextlib.nullcontext() if ok else contextlib.suppress(OutputFault):  # what is wrong is said on stderr
        if as_json and ok:
            origins = {one.name: settings.sources.get(one.name, "default") for one in documentation()}
            print_json(
                {
                    "ok": ok,
                    "settings": origins,
                    "warnings": list(warnings),
                    "checks": [result.as_json() for result in results],
                }
            )
        elif not as_json:
            print_line(
                "ok    settings: " + "; ".join(f"{source}: {text}" for source, text in settings.origins().items())
            )
            for result in results:
                if result.ok:
                    print_line(f"ok    {result.name}: {result.text}")
    for warning in warnings:
        say(f"note  {warning}")
    for result in results:
        if not result.ok:
            say(f"wrong {result.name}: {result.text}")
    raise typer.Exit(0 if ok else 2)


def migrate() -> None:
    """Create or upgrade schema `reconcile`.

    It holds the job's own state. `run` and `backfill` do it too where they may.
    """
    from reconcile.run.preflight import open_ledger

    settings = settings_with()
    with open_ledger(settings) as ledger:
        changed = ledger.migrate()
    print_line(f"{settings.state.display}: schema reconcile " + ("created or upgraded" if changed else "is up to date"))


def runs(
    as_json: JsonOption = False,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=10_000, help="How many, newest first.")] = 20,
    only_last: Annotated[bool, typer.Option("--last", help="The last run alone, as `show` prints it.")] = False,
    language: LanguageOption = None,
) -> None:
    """The history of runs."""
    from reconcile.run.preflight import open_ledger

    if only_last:
        _show(None, as_json=as_json, language=language)
        return
    with open_ledger(settings_with()) as ledger:
        found = ledger.runs(limit) if ledger.is_current() else []
    if as_json:
        print_json({"runs": [_entry_json(entry) for entry in found]})
        return
    if not found:
        print_line("no runs yet")
        return
    # Whole on every terminal and in every pipe: the IDs are there to be copied.
    lines = [("run", "command", "from", "to", "status", "exit")]
    for entry in found:
        code = "" if entry["exit_code"] is None else str(entry["exit_code"])
        window = _entry_json(entry)["window"]
        lines.append(
            (entry["run_id"], _command(entry), window["from"], window["to"], entry["status"] or "unfinished", code)
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print_line("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _run_ids(incomplete: str) -> list[tuple[str, str]]:
    """For the shell: the latest runs whose ID begins like that, each with what it was. Silent where it cannot tell."""
    from reconcile.run.preflight import open_ledger

    with contextlib.suppress(ReconcileError), open_ledger(settings_with()) as ledger:
        found = ledger.runs(_COMPLETED) if ledger.is_current() else []
        return [
            (entry["run_id"], f"{_command(entry)}, {entry['status'] or 'unfinished'}")
            for entry in found
            if entry["run_id"].startswith(incomplete)
        ]
    return []


def show(
    run_id: Annotated[
        str, typer.Argument(metavar="RUN_ID", help="As `reconcile runs` lists it.", autocompletion=_run_ids)
    ],
    as_json: JsonOption = False,
    language: LanguageOption = None,
) -> None:
    """One run, as it was reported."""
    _show(run_id, as_json=as_json, language=language)


def _show(run_id: str | None, *, as_json: bool, language: Language | None) -> None:
    """Prints a run, the latest one where none is named."""
    from reconcile.domain.document import from_json
    from reconcile.report import terminal
    from reconcile.run.preflight import open_ledger

    settings = settings_with(language=language)
    with open_ledger(settings) as ledger:
        is_current = ledger.is_current()
        if run_id is None and is_current:
            run_id = next((entry["run_id"] for entry in ledger.runs(1)), None)
        entry = ledger.run(run_id) if run_id is not None and is_current else None
    if run_id is None:
        raise UsageError("--last: there is no run yet; `reconcile run` makes the first")
    if entry is None:
        raise UsageError(f"RUN_ID: there is no run {run_id!r}; `reconcile runs` lists them")
    if entry["document"] is None:
        if as_json:
            print_json(_entry_json(entry))
        else:
            began = f"{entry['started_at']:%Y-%m-%d %H:%M:%S}"
            print_line(f"{run_id}: {_command(entry)} began at {began} UTC and has not finished")
            print_line("it is at work, or was killed; then running the same command again is safe and carries on")
        return
    if as_json:
        print_json(entry["document"])
        return
    document = from_json(entry["document"])
    with printing() as console:
        terminal.heading(document, console, settings.language)
        terminal.render(document, console, settings.language)


def _command(entry: dict[str, Any]) -> str:
    return str(entry["command"]) + (" --dry-run" if entry["dry_run"] else "")


def _entry_json(entry: dict[str, Any]) -> dict[str, Any]:
    from reconcile.domain.dates import instant

    return {
        "run_id": entry["run_id"],
        "command": entry["command"],
        "dry_run": entry["dry_run"],
        "status": entry["status"],
        "exit_code": entry["exit_code"],
        "window": {"from": instant(entry["window_from"]), "to": instant(entry["window_to"])},
        "stream": {"lago": entry["lago"], "event_code": entry["event_code"], "charge_by": entry["charge_by"]},
        "started_at": instant(entry["started_at"]),
        "finished_at": None if entry["finished_at"] is None else instant(entry["finished_at"]),
    }

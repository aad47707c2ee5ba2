"""The commands. The only room that prints: results to stdout, everything else to stderr."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from reconcile import __version__
from reconcile.cli.console import print_json, print_line, progress_bar, say, stopping
from reconcile.errors import ReconcileError, UsageError

if TYPE_CHECKING:
    from reconcile.domain.document import Document
    from reconcile.run.job import Order, Result
    from reconcile.settings import Settings

HELP = """Compares LiteLLM's spend logs with the usage events in Lago, sends what is missing exactly once, and reports
every discrepancy.

Settings come from the environment and from `.env` in the current directory; LiteLLM's own names are kept
(DATABASE_URL, LAGO_API_BASE, LAGO_API_KEY, LAGO_API_EVENT_CODE, LAGO_API_CHARGE_BY). `.env.example` and
docs/settings.md list them all.

Exit codes: 0 everything agrees, 1 discrepancies remain, 2 wrong usage or settings (nothing was sent), 3 a fault
stopped the run (running it again is safe), 4 another run is at work, 130 interrupted."""

app = typer.Typer(
    name="reconcile",
    help=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


class Format(StrEnum):
    html = "html"
    xlsx = "xlsx"
    csv = "csv"
    json = "json"


class ChargeBy(StrEnum):
    end_user_id = "end_user_id"
    user_id = "user_id"
    team_id = "team_id"
    organization_id = "organization_id"


class EventsStore(StrEnum):
    postgres = "postgres"
    clickhouse = "clickhouse"


class LagoVersion(StrEnum):
    newest = "1.51"
    old = "1.38"


class Language(StrEnum):
    en = "en"
    zh_cn = "zh-CN"


FromOption = Annotated[
    str,
    typer.Option(
        "--from",
        metavar="D",
        help="First day (2026-11-01), or an exact instant (2026-11-01T08:00:00Z).",
    ),
]
ToOption = Annotated[
    str,
    typer.Option("--to", metavar="D", help="Last day, included whole (2026-11-30), or an exact instant, not included."),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Find what is missing; send nothing.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result document, and nothing else, on stdout.")]
OutputOption = Annotated[
    Path | None, typer.Option("--output", metavar="DIR", help="Folder for report files, made if it is missing.")
]
FormatOption = Annotated[
    list[Format] | None, typer.Option("--format", help="Format of the report files; repeat it. [html and json]")
]
ChargeByOption = Annotated[ChargeBy | None, typer.Option("--charge-by", help="Instead of LAGO_API_CHARGE_BY.")]
EventCodeOption = Annotated[
    str | None, typer.Option("--event-code", metavar="CODE", help="Instead of LAGO_API_EVENT_CODE.")
]
LanguageOption = Annotated[Language | None, typer.Option("--lang", help="Instead of RECONCILE_LANG.")]


def main() -> NoReturn:
    """The entry point. No traceback: an error is one line on stderr and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a sign gets a question mark, no traceback
    try:
        app()
    except ReconcileError as error:
        for line in str(error).splitlines():
            say(f"reconcile: {line}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        say("reconcile: interrupted; running it again is safe")
        sys.exit(130)
    except BrokenPipeError:
        # The reader of stdout has gone away; so has any reason to print.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    sys.exit(0)


@app.callback(invoke_without_command=True)
def _root(
    shown: Annotated[bool, typer.Option("--version", help="Show versions and exit.", is_eager=True)] = False,
) -> None:
    if shown:
        names = ("pandas", "pyarrow", "adbc-driver-postgresql", "psycopg", "sqlalchemy", "httpx")
        parts = ", ".join(f"{name} {version(name)}" for name in names)
        print_line(f"reconcile {__version__} (Python {sys.version.split()[0]}, {parts})")
        print_line("speaks to LiteLLM 1.60 to 1.109 and Lago 1.13 to 1.51")
        raise typer.Exit


@app.command(epilog="Example: reconcile run --output /var/lib/reconcile/reports")
def run(
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    output: OutputOption = None,
    formats: FormatOption = None,
    charge_by: ChargeByOption = None,
    event_code: EventCodeOption = None,
    language: LanguageOption = None,
) -> None:
    """The nightly job: the last hours.

    From RECONCILE_LOOKBACK before RECONCILE_LAG ago; late rows and rows that were held back before, however old.
    """
    from reconcile.domain.window import lookback_window
    from reconcile.run.job import Order

    settings = _settings(charge_by, event_code, language)
    window = lookback_window(datetime.now(UTC), settings.lag, settings.lookback)
    _work(settings, Order("run", window, dry_run), as_json=as_json, output=output, formats=formats)


@app.command(epilog="Example: reconcile backfill --from 2026-11-01 --to 2026-11-30 --dry-run")
def backfill(
    from_text: FromOption,
    to_text: ToOption,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    output: OutputOption = None,
    formats: FormatOption = None,
    charge_by: ChargeByOption = None,
    event_code: EventCodeOption = None,
    language: LanguageOption = None,
) -> None:
    """The same for a chosen range. Dates are days in RECONCILE_TIMEZONE, both ends included."""
    from reconcile.domain.window import parse_range
    from reconcile.run.job import Order

    settings = _settings(charge_by, event_code, language)
    window = parse_range(from_text, to_text, settings.time_zone)
    _work(settings, Order("backfill", window, dry_run), as_json=as_json, output=output, formats=formats)


@app.command(epilog="Example: reconcile report --from 2026-11-01 --to 2026-11-30 --output . --format xlsx --lang zh-CN")
def report(
    from_text: FromOption,
    to_text: ToOption,
    as_json: JsonOption = False,
    output: OutputOption = None,
    formats: FormatOption = None,
    charge_by: ChargeByOption = None,
    event_code: EventCodeOption = None,
    language: LanguageOption = None,
) -> None:
    """Read both sides and report.

    Changes nothing in Lago or in LiteLLM.
    """
    from reconcile.domain.window import parse_range
    from reconcile.run.job import Order

    settings = _settings(charge_by, event_code, language)
    window = parse_range(from_text, to_text, settings.time_zone)
    _work(settings, Order("report", window), as_json=as_json, output=output, formats=formats)


@app.command(epilog="Example: reconcile check && reconcile run")
def check(as_json: JsonOption = False, charge_by: ChargeByOption = None, event_code: EventCodeOption = None) -> None:
    """Preflight: each check and what to do.

    Settings, database, Lago, metric and subscriptions. Sends nothing. Exits 0 or 2.
    """
    from reconcile.run.preflight import checks

    _log_to_stderr(None)
    results = checks(_settings(charge_by, event_code, None))
    ok = all(result.ok for result in results)
    if as_json:
        if ok:
            print_json({"ok": ok, "checks": [result.as_json() for result in results]})
    else:
        for result in results:
            if result.ok:
                print_line(f"ok    {result.name}: {result.text}")
    for result in results:
        if not result.ok:
            say(f"wrong {result.name}: {result.text}")
    raise typer.Exit(0 if ok else 2)


@app.command(epilog="Example: reconcile migrate")
def migrate() -> None:
    """Create or upgrade schema `reconcile`.

    It holds the job's own state. `run` and `backfill` do it too where they may.
    """
    from reconcile.run.preflight import open_ledger

    settings = _settings(None, None, None)
    with open_ledger(settings) as ledger:
        changed = ledger.migrate()
    print_line(f"{settings.state.display}: schema reconcile " + ("created or upgraded" if changed else "is up to date"))


@app.command(epilog="Example: reconcile runs --limit 5")
def runs(
    as_json: JsonOption = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many, newest first.")] = 20,
) -> None:
    """The history of runs."""
    from reconcile.run.preflight import open_ledger

    with open_ledger(_settings(None, None, None)) as ledger:
        found = ledger.runs(limit) if ledger.is_current() else []
    if as_json:
        print_json({"runs": [_run_json(entry) for entry in found]})
        return
    if not found:
        print_line("no runs yet")
        return
    # Whole on every terminal and in every pipe: the IDs are there to be copied.
    lines = [("run", "command", "from", "to", "status", "exit")]
    for entry in found:
        one = _run_json(entry)
        command = entry["command"] + (" --dry-run" if entry["dry_run"] else "")
        code = "" if entry["exit_code"] is None else str(entry["exit_code"])
        window = one["window"]
        lines.append((entry["run_id"], command, window["from"], window["to"], entry["status"] or "unfinished", code))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print_line("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


@app.command(epilog="Example: reconcile show 2026-11-23T02-15-00Z-7f3a")
def show(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help="As `reconcile runs` lists it.")],
    as_json: JsonOption = False,
    language: LanguageOption = None,
) -> None:
    """One run, as it was reported."""
    from reconcile.domain.document import from_json
    from reconcile.run.preflight import open_ledger

    settings = _settings(None, None, language)
    with open_ledger(settings) as ledger:
        entry = ledger.run(run_id) if ledger.is_current() else None
    if entry is None:
        raise UsageError(f"there is no run {run_id!r}; `reconcile runs` lists them")
    if entry["document"] is None:
        if as_json:
            print_json(_run_json(entry))
        else:
            began = f"{entry['started_at']:%Y-%m-%d %H:%M:%S}"
            print_line(f"{run_id}: {entry['command']} began at {began} UTC and has not finished")
        return
    if as_json:
        print_json(entry["document"])
        return
    _summary(from_json(entry["document"]), settings.language)


@app.command(epilog="Example: reconcile schedule --file cron.yaml --print")
def schedule(
    file: Annotated[
        Path | None,
        typer.Option("--file", metavar="FILE", help="The jobs. [./cron.yaml, else the one that comes with reconcile]"),
    ] = None,
    only_print: Annotated[
        bool, typer.Option("--print", help="Print the next ten firing times of each job, and exit.")
    ] = False,
) -> None:
    """Runs the jobs of cron.yaml until stopped; catches up on what was missed. SIGHUP or a changed file reloads.

    Serves /metrics and /healthz (RECONCILE_METRICS_ADDRESS). SIGTERM or Ctrl-C lets the batches on their way end, and
    exits 0 within ten seconds.
    """
    from reconcile.unattended import schedule as schedules

    path = file or schedules.default_file()
    if only_print:
        _print_firings(path)
        return
    service = schedules.Service(path)
    _log_to_stderr(service.settings)
    if not service.serve():
        # Something hangs in a thread that nothing can end. What it was at is safe to repeat.
        sys.stderr.flush()
        os._exit(0)


def _print_firings(path: Path) -> None:
    from itertools import islice

    from reconcile.domain.document import instant
    from reconcile.settings import load
    from reconcile.unattended import schedule as schedules

    found = schedules.load(path)
    zone = found.zone or load().time_zone
    for name, job in found.jobs.items():
        print_line(f"{name}: {job.command}{f' {job.window}' if job.window else ''}, {job.cron} ({zone.key})")
        for moment in islice(schedules.firings(schedules.CronLine(job.cron, zone), datetime.now(UTC)), 10):
            print_line(f"  {moment:%a %Y-%m-%d %H:%M %z}  {instant(moment)}")


@app.command("test-alert", epilog="Example: reconcile test-alert")
def test_alert() -> None:
    """Sends a test alert to every channel that is set. Exits 0, or 3 where one did not take it."""
    from reconcile.unattended import alerts

    settings = _settings(None, None, None)
    channels = alerts.channels(settings)
    if not channels:
        raise UsageError("no channel for alerts is set; for example RECONCILE_ALERT_EMAIL_TO=ops@example.com")
    _log_to_stderr(settings)
    with stopping() as stop:
        if not alerts.send(alerts.trial(), channels, stop=stop):
            raise ReconcileError("the test alert was not delivered to every channel")
    print_line(f"delivered by {' and '.join(channel.name for channel in channels)}")


@app.command(epilog="Example: reconcile demo --output /tmp/demo")
def demo(
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="Folder for the report files.")] = Path(
        "reconcile-demo"
    ),
    language: LanguageOption = None,
) -> None:
    """Everything on one machine.

    A real Postgres with LiteLLM's tables, a stand-in for Lago, sample traffic, one run, its report.
    """
    from reconcile.domain.window import Window
    from reconcile.run.job import Order
    from reconcile.settings import load

    sandbox = _sandbox_room()
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    traffic = sandbox.load_traffic((today - timedelta(days=1)).date())
    say("starting Postgres and the Lago sandbox, loading four days of sample traffic …")
    with stopping() as stop, sandbox.sandbox(traffic) as servers:
        settings = load(servers.environment, None, language=None if language is None else language.value)
        order = Order("backfill", Window(today - timedelta(days=4), today))
        _work(settings, order, as_json=False, output=output, formats=None, stop=stop)


@app.command(epilog="Example: reconcile sandbox > sandbox.env &  # then: . ./sandbox.env; reconcile run")
def sandbox(
    charge_by: Annotated[
        ChargeBy, typer.Option("--charge-by", help="Whom the sample traffic charges.")
    ] = ChargeBy.team_id,
    store: Annotated[EventsStore, typer.Option("--store", help="Lago's event store.")] = EventsStore.postgres,
    version: Annotated[LagoVersion, typer.Option("--version", help="Lago's version.")] = LagoVersion.newest,
    slow: Annotated[bool, typer.Option("--slow", help="Let Lago take as long as a real one.")] = False,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Lago's processes, with --slow.")] = 1,
) -> None:
    """The demo's two servers, until Ctrl-C.

    Their settings are printed as `export` lines, to be sourced by a shell.
    """
    room = _sandbox_room()
    yesterday = (datetime.now(UTC) - timedelta(days=1)).date()
    if charge_by is ChargeBy.organization_id:
        raise UsageError("--charge-by: LiteLLM's callback does not offer organization_id; for example team_id")
    with stopping() as stop:
        say("starting Postgres and the Lago sandbox, loading four days of sample traffic …")
        with room.sandbox(
            room.load_traffic(yesterday, charge_by.value),
            charge_by=charge_by.value,
            store=store.value,
            version=version.value,
            slow_workers=workers if slow else None,
        ) as servers:
            for name, value in servers.environment.items():
                print_line(f"export {name}='{value}'")
            sys.stdout.flush()
            say("running; Ctrl-C stops it")
            while not stop.wait(3600):
                continue


# --- what the commands share


def _settings(charge_by: ChargeBy | None, event_code: str | None, language: Language | None) -> Settings:
    from reconcile.settings import load

    return load(
        charge_by=None if charge_by is None else charge_by.value,
        event_code=event_code,
        language=None if language is None else language.value,
    )


def _work(
    settings: Settings,
    order: Order,
    *,
    as_json: bool,
    output: Path | None,
    formats: list[Format] | None,
    stop: threading.Event | None = None,
) -> NoReturn:
    """Runs a job, prints its document or summary, writes its report files, and exits with its code."""
    from reconcile.run import job
    from reconcile.unattended import oneshot

    if formats and output is None:
        raise UsageError("--format: report files need a folder; for example --output reports --format xlsx")
    if output is not None:
        _make_folder(output)
    _log_to_stderr(settings)
    with contextlib.ExitStack() as stack:
        stop = stop or stack.enter_context(stopping())
        try:
            with progress_bar() as progress:
                result = job.run(settings, order, stop=stop, progress=progress, announce=say)
        except ReconcileError as error:
            oneshot.refused(settings, order, error, stop)
            raise
        reports = _deliver_result(settings, result, as_json=as_json, output=output, formats=formats)
        oneshot.ended(settings, order, result, reports, stop)
    raise typer.Exit(result.exit_code)


def _deliver_result(
    settings: Settings, result: Result, *, as_json: bool, output: Path | None, formats: list[Format] | None
) -> list[Path]:
    """The paths of the report files."""
    if result.exit_code == 130:
        say("interrupted; running it again is safe and carries on")
        return []
    if as_json:
        print_json(result.document.as_json())
    else:
        _summary(result.document, settings.language)
    if output is not None:
        from reconcile import report as reports

        wanted = [one.value for one in formats or (Format.html, Format.json)]
        try:
            written = reports.write(result.document, output, wanted, settings.language)
        except OSError as error:
            raise ReconcileError(f"--output: {output} cannot be written any more: {error.strerror}") from None
        for path in written:
            say(f"wrote {path}")
        return written
    return []


def _make_folder(output: Path) -> None:
    """Before anything is sent: a run whose report cannot be written should not begin."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise UsageError(
            f"--output: {output} cannot be written ({error.strerror}); for example --output reports"
        ) from None


def _summary(document: Document, language: str) -> None:
    from reconcile.report import terminal

    terminal.render(document, Console(), language)


def _run_json(entry: dict[str, Any]) -> dict[str, Any]:
    from reconcile.domain.document import instant

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


def _log_to_stderr(settings: Settings | None) -> None:
    from reconcile.logs import configure

    configure("info" if settings is None else settings.log_level, "auto" if settings is None else settings.log_format)


def _sandbox_room() -> Any:
    """The sandbox is an extra: its packages may be missing."""
    try:
        from reconcile.sandbox import servers, traffic
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the sandbox needs the package {error.name}; "
            "install it with: pip install 'litellm-lago-reconcile[sandbox]'"
        ) from None

    class Room:
        sandbox: Callable[..., Any] = staticmethod(servers.sandbox)
        load_traffic: Callable[..., Any] = staticmethod(traffic.load_traffic)

    return Room

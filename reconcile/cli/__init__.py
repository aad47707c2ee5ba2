"""The commands. The only room that prints: results to stdout, everything else to stderr."""

from __future__ import annotations

import contextlib
import gc
import sys
from importlib.metadata import version
from typing import Annotated, NoReturn

import typer

from reconcile import __version__
from reconcile.cli import explain, jobs, sandbox, setup, state, watch
from reconcile.cli.console import guarded, print_line, say
from reconcile.errors import Defect, OutputFault, ReconcileError

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


@app.callback(invoke_without_command=True)
def _root(
    shown: Annotated[bool, typer.Option("--version", help="Show versions and exit.", is_eager=True)] = False,
) -> None:
    if shown:
        names = ("pandas", "pyarrow", "adbc-driver-postgresql", "psycopg", "sqlalchemy", "httpx")
        parts = ", ".join(f"{name} {version(name)}" for name in names)
        print_line(f"reconcile {__version__} (Python {sys.version.split()[0]}, {parts})")
        print_line("speaks to LiteLLM 1.60 to 1.110 and Lago 1.13 to 1.51")
        raise typer.Exit


for _name, _command, _example in (
    ("run", jobs.run, "run --output /var/lib/reconcile/reports"),
    ("backfill", jobs.backfill, "backfill --from 2026-11-01 --to 2026-11-30 --dry-run"),
    ("report", jobs.report, "report --month 2026-11 --output reports --format xlsx"),
    ("check", state.check, "check && reconcile run"),
    ("setup", setup.setup, "setup --curl > setup.sh  # then read it, and: sh setup.sh"),
    ("migrate", state.migrate, "migrate"),
    ("runs", state.runs, "runs --limit 5"),
    ("show", state.show, "show 2026-11-23T02-15-00Z-7f3a"),
    ("explain", explain.explain, "explain chatcmpl-9f2c41d07b3a --json"),
    ("schedule", watch.schedule, "schedule --file cron.yaml --print"),
    ("test-alert", watch.test_alert, "test-alert"),
    ("demo", sandbox.demo, "demo --output /tmp/demo"),
    ("sandbox", sandbox.sandbox, "sandbox > sandbox.env &  # then: . ./sandbox.env; reconcile run"),
):
    app.command(_name, epilog=f"Example: reconcile {_example}")(_command)


def main() -> NoReturn:
    """The entry point. No traceback: an error is one line on stderr and an exit code."""
    # Looking for cycles after every 700 new objects takes a tenth of a night's time, and finds next to none.
    gc.set_threshold(50_000)
    with guarded() as results:
        code = _exit_code()
        with contextlib.suppress(OutputFault):
            results.flush()
        if results.fault is not None and code in (0, 1):  # not told yet: it came last, or a library swallowed it
            say(f"reconcile: {results.fault}")
            code = results.fault.exit_code
    sys.exit(code)


def _exit_code() -> int:
    try:
        app()
    except SystemExit as end:  # how typer ends
        return end.code if isinstance(end.code, int) else 0
    except ReconcileError as error:
        for line in str(error).splitlines():
            say(f"reconcile: {line}")
        return error.exit_code
    except KeyboardInterrupt:
        say("reconcile: interrupted; running it again is safe")
        return 130
    except Exception as error:
        defect = Defect.of(error)
        say(f"reconcile: {defect}")
        return defect.exit_code
    return 0

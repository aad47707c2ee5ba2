"""The commands that need nothing installed: `demo`, `sandbox`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from reconcile.cli import jobs
from reconcile.cli.console import print_line, say, stopping
from reconcile.cli.options import ChargeBy, EventsStore, LagoVersion, LanguageOption, choice
from reconcile.errors import UsageError


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
        # The traffic is all there, also just after midnight.
        settings = load(servers.environment, None, language=None if language is None else language.value, lag="0s")
        order = Order("backfill", Window(today - timedelta(days=4), today))
        try:
            jobs.work(settings, order, as_json=False, output=output, formats=None, stop=stop)
        except typer.Exit as end:
            if end.exit_code in (0, 1):
                say("open the HTML file in a browser; `reconcile sandbox` keeps both servers, for the other commands")
            raise


def sandbox(
    charge_by: Annotated[
        ChargeBy,
        choice("--charge-by", ChargeBy, "COLUMN", "Whom the sample traffic charges: end_user_id, user_id or team_id."),
    ] = ChargeBy.team_id,
    store: Annotated[
        EventsStore, choice("--store", EventsStore, "postgres|clickhouse", "Lago's event store.")
    ] = EventsStore.postgres,
    version: Annotated[
        LagoVersion, choice("--version", LagoVersion, "1.51|1.38", "Lago's version.")
    ] = LagoVersion.newest,
    slow: Annotated[bool, typer.Option("--slow", help="Let Lago take as long as a real one.")] = False,
    workers: Annotated[int, typer.Option("--workers", metavar="N", min=1, help="Lago's processes, with --slow.")] = 1,
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

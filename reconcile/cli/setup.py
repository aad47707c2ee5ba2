"""The command that says what Lago lacks: `setup`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from reconcile import logs
from reconcile.cli.console import print_bytes, print_line, say, stopping
from reconcile.cli.options import ChargeByOption, EventCodeOption, settings_with
from reconcile.errors import UsageError


def setup(
    as_curl: Annotated[
        bool, typer.Option("--curl", help="Print a shell script that makes what is missing, to read and to run.")
    ] = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print what is missing as CSV, for those who use Lago's page.")
    ] = False,
    plan: Annotated[
        str | None,
        typer.Option("--plan", metavar="CODE", help="The plan that new subscriptions get; made if it is missing."),
    ] = None,
    charge_by: ChargeByOption = None,
    event_code: EventCodeOption = None,
) -> None:
    """What Lago needs before usage can be billed, and what of it is missing.

    The metric, a plan with a charge on it, and customers and subscriptions for the charge IDs of the last 35 days, most
    money first. Each missing thing comes with the curl call that makes it. Reads both sides, changes nothing.
    """
    from reconcile.report import set_up as rendering
    from reconcile.run.setup import set_up

    if as_curl and as_csv:
        raise UsageError("--csv: not together with --curl; choose one")
    if plan is not None and not plan.strip():
        raise UsageError("--plan: is given an empty value; for example --plan llm_usage_at_cost")
    settings = settings_with(charge_by, event_code)
    logs.configure("warning", settings.log_format)
    with stopping() as stop:
        found = set_up(settings, datetime.now(UTC), plan_code=plan, stop=stop)
    if as_curl:
        print_bytes(rendering.script(found).encode("ascii"))
    elif as_csv:
        print_bytes(rendering.table(found))
    else:
        for line in rendering.text(found):
            print_line(line)
        return
    if found.is_complete:
        say("nothing is missing")

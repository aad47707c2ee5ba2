"""The command that tells one row's story: `explain`."""

from __future__ import annotations

from typing import Annotated

import typer

from reconcile import logs
from reconcile.cli.console import print_json, printing, stopping
from reconcile.cli.options import ChargeByOption, EventCodeOption, JsonOption, LanguageOption, settings_with


def explain(
    request_id: Annotated[
        str,
        typer.Argument(
            metavar="REQUEST_ID",
            help="As reports list it; LiteLLM's answers carry it as `id`. Or a transaction ID of ours.",
        ),
    ],
    as_json: JsonOption = False,
    charge_by: ChargeByOption = None,
    event_code: EventCodeOption = None,
    language: LanguageOption = None,
) -> None:
    """One row's story: the row, its event, its class and why.

    Also the events near it in Lago, what was sent for it and when, and the subscription and plan of that time. Reads
    both sides with a few requests and sends nothing.
    """
    from reconcile.report import story
    from reconcile.run.explain import explain as explained

    settings = settings_with(charge_by, event_code, language)
    logs.configure("warning", settings.log_format)
    with stopping() as stop:
        found = explained(settings, request_id, stop=stop)
    if as_json:
        print_json(found.as_json())
        return
    with printing() as console:
        story.render(found, console, settings.language)

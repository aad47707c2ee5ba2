"""The commands for what nobody watches: `schedule`, `test-alert`."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from reconcile import logs
from reconcile.cli.console import print_line, stopping
from reconcile.cli.options import settings_with
from reconcile.errors import ReconcileError, UsageError


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
    logs.configure(service.settings.log_level, service.settings.log_format)
    if not service.serve():
        # Something hangs in a thread that nothing can end. What it was at is safe to repeat.
        sys.stderr.flush()
        os._exit(0)


def _print_firings(path: Path) -> None:
    from itertools import islice

    from reconcile.domain.dates import instant
    from reconcile.settings import load
    from reconcile.unattended import schedule as schedules

    found = schedules.load(path)
    zone = found.zone or load().time_zone
    for name, job in found.jobs.items():
        print_line(f"{name}: {job.command}{f' {job.window}' if job.window else ''}, {job.cron} ({zone.key})")
        for moment in islice(schedules.firings(schedules.CronLine(job.cron, zone), datetime.now(UTC)), 10):
            print_line(f"  {moment:%a %Y-%m-%d %H:%M %z}  {instant(moment)}")


def test_alert() -> None:
    """Sends a test alert to every channel that is set. Exits 0, or 3 where one did not take it."""
    from reconcile.unattended import alerts

    settings = settings_with()
    channels = alerts.channels(settings)
    if not channels:
        raise UsageError("no channel for alerts is set; for example RECONCILE_ALERT_EMAIL_TO=ops@example.com")
    logs.configure(settings.log_level, settings.log_format)
    with stopping() as stop:
        if not alerts.send(alerts.trial(), channels, stop=stop):
            raise ReconcileError("the test alert was not delivered to every channel")
    print_line(f"delivered by {' and '.join(channel.name for channel in channels)}")

"""What a run from cron or a systemd timer leaves behind: metrics in a file, and alerts. It never fails the run.

Alerts are for `run`, the command that nobody watches; whoever types `backfill` reads its result. Both write metrics.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from reconcile.errors import ReconcileError
from reconcile.run.job import EXIT_INTERRUPTED, Order, Result
from reconcile.settings import Settings

if TYPE_CHECKING:
    from reconcile.unattended.metrics import Metrics

log = structlog.get_logger()


def ended(settings: Settings, order: Order, result: Result, reports: Sequence[Path], stop: threading.Event) -> None:
    """After a run that came to a document (exit code 0, 1 or 3). An interrupted one is no news."""
    if not order.sends or result.exit_code == EXIT_INTERRUPTED:
        return
    _keep_metrics(settings, lambda metrics: metrics.observe(result.document, result.exit_code))
    if order.command == "run":
        from reconcile.unattended import alerts

        alert = alerts.of_run(result.document, settings.alert_on, job=None, reports=reports)
        if alert is not None:
            alerts.send(alert, alerts.channels(settings), stop=stop)


def refused(settings: Settings, order: Order, error: ReconcileError, stop: threading.Event) -> None:
    """After a run that did not begin (exit code 2 or 4)."""
    if not order.sends:
        return
    stream = settings.event_code, settings.charge_by
    _keep_metrics(settings, lambda metrics: metrics.ended(stream, datetime.now(UTC), error.exit_code))
    if order.command == "run" and error.exit_code != 4:
        from reconcile.unattended import alerts

        alert = alerts.refused(str(error), event_code=settings.event_code, job=None)
        alerts.send(alert, alerts.channels(settings), stop=stop)


def _keep_metrics(settings: Settings, take_down: Callable[[Metrics], None]) -> None:
    """Adds to what the last run left in the file, where there is to be one."""
    if not settings.metrics_textfile:
        return
    from reconcile.unattended.metrics import Metrics

    metrics, path = Metrics(), Path(settings.metrics_textfile)
    try:
        metrics.take_over(path)
    except (OSError, ValueError) as error:
        log.warning("metrics of the last run not read", file=str(path), reason=type(error).__name__)
    take_down(metrics)
    try:
        metrics.write(path)
    except OSError as error:
        log.error("metrics not written", file=str(path), reason=error.strerror)

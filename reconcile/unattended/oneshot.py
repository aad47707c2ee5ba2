"""What a run from cron or a systemd timer leaves behind: metrics in a file, and alerts. It never fails the run.

Alerts are for `run`, the command that nobody watches; whoever types `backfill` reads its result. Both write metrics.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import structlog

from reconcile.errors import ReconcileError
from reconcile.run.job import EXIT_INTERRUPTED, Order, Result
from reconcile.settings import Settings
from reconcile.unattended import alerts
from reconcile.unattended.metrics import Metrics

log = structlog.get_logger()


def ended(settings: Settings, order: Order, result: Result, reports: Sequence[Path], stop: threading.Event) -> None:
    """After a run that came to a document (exit code 0, 1 or 3). An interrupted one is no news."""
    if not order.sends or result.exit_code == EXIT_INTERRUPTED:
        return
    metrics = _metrics(settings)
    metrics.observe(result.document, result.exit_code)
    _write(metrics, settings)
    if order.command == "run":
        alert = alerts.of_run(result.document, settings.alert_on, job=None, reports=reports)
        if alert is not None:
            alerts.send(alert, alerts.channels(settings), stop=stop)


def refused(settings: Settings, order: Order, error: ReconcileError, stop: threading.Event) -> None:
    """After a run that did not begin (exit code 2 or 4)."""
    if not order.sends:
        return
    metrics = _metrics(settings)
    metrics.ended((settings.event_code, settings.charge_by), datetime.now(UTC), error.exit_code)
    _write(metrics, settings)
    if order.command == "run" and error.exit_code != 4:
        alert = alerts.refused(str(error), event_code=settings.event_code, job=None)
        alerts.send(alert, alerts.channels(settings), stop=stop)


def _metrics(settings: Settings) -> Metrics:
    """Metrics with what the last run left in the file."""
    metrics = Metrics()
    if settings.metrics_textfile:
        try:
            metrics.take_over(Path(settings.metrics_textfile))
        except (OSError, ValueError) as error:
            log.warning("metrics of the last run not read", file=settings.metrics_textfile, reason=type(error).__name__)
    return metrics


def _write(metrics: Metrics, settings: Settings) -> None:
    if settings.metrics_textfile:
        try:
            metrics.write(Path(settings.metrics_textfile))
        except OSError as error:
            log.error("metrics not written", file=settings.metrics_textfile, reason=error.strerror)

"""Does what is due for one job: the run, its report files, its metrics, its alerts, and the memory of it."""

from __future__ import annotations

import threading
import traceback
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from reconcile import report
from reconcile.domain.document import Document
from reconcile.errors import ReconcileError
from reconcile.run import job
from reconcile.settings import Settings
from reconcile.unattended import alerts
from reconcile.unattended.heartbeat import Heartbeat
from reconcile.unattended.metrics import ScheduleMetrics
from reconcile.unattended.schedule.cron_file import CronJob
from reconcile.unattended.schedule.due import Due, due
from reconcile.unattended.schedule.memory import Memory

log = structlog.get_logger()

RETRY_AFTER_FAULT = timedelta(minutes=10)
RETRY_WHEN_LOCKED = timedelta(minutes=5)
_FINISHED = (0, 1)


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """A job of cron.yaml with its settings. One that is new is settled up to `since`."""

    name: str
    job: CronJob
    settings: Settings
    since: datetime

    @property
    def stream(self) -> tuple[str, str]:
        return self.settings.event_code, self.settings.charge_by

    @property
    def sends(self) -> bool:
        return self.job.command != "report" and not self.job.dry_run


@dataclass(slots=True)
class Runner:
    """Runs jobs, one at a time. `stop`, when set, ends the one at work after the batches on their way."""

    metrics: ScheduleMetrics
    stop: threading.Event
    _told: dict[str, tuple[datetime, str]] = field(default_factory=dict)

    def work(self, planned: PlannedJob) -> timedelta | None:
        """Does all that is due; says how long to wait before trying again, or None: until the next firing."""
        with structlog.contextvars.bound_contextvars(job=planned.name):
            while not self.stop.is_set():
                try:
                    todo = self._due(planned)
                    if todo is None:
                        return None
                    pause = self._settle(planned, todo)
                except ReconcileError as error:  # the ledger: the job itself hands its faults back
                    log.error(str(error), kind=error.kind)
                    return RETRY_AFTER_FAULT
                except Exception as error:
                    _log_defect(error)
                    return RETRY_AFTER_FAULT
                if pause is not None:
                    return pause or None
        return None

    def _due(self, planned: PlannedJob) -> Due | None:
        settings = planned.settings
        with Memory(settings) as memory:
            memory.migrate()
            known = memory.recall(planned.name, planned.since)
        return due(
            planned.job,
            known,
            datetime.now(UTC),
            zone=settings.time_zone,
            lag=settings.lag,
            lookback=settings.lookback,
        )

    def _settle(self, planned: PlannedJob, todo: Due) -> timedelta | None:
        """Runs an order. None: it is settled; a pause: try again after it, with zero for the next firing."""
        if todo.order is None:
            log.info("no day to cover", window=planned.job.window)
            with Memory(planned.settings) as memory:
                memory.settle(planned.name, todo.fired_to, None, None, now=datetime.now(UTC))
            return None
        if todo.missed:
            log.warning("catching up", missed_firings=todo.missed)
        log.info("job begins", command=todo.order.command)
        exit_code, run_id = self._run(planned, todo)
        log.info("job ends", exit_code=exit_code)
        self.metrics.runs.labels(planned.name, str(exit_code)).inc()
        if exit_code in _FINISHED:
            with Memory(planned.settings) as memory:
                now = datetime.now(UTC)
                memory.settle(planned.name, todo.fired_to, todo.order.window.end, run_id, now=now)
            return None
        return {3: RETRY_AFTER_FAULT, 4: RETRY_WHEN_LOCKED}.get(exit_code, timedelta())

    def _run(self, planned: PlannedJob, todo: Due) -> tuple[int, str | None]:
        """Exit code and run ID."""
        assert todo.order is not None
        heartbeat = Heartbeat.of(planned.settings, todo.order)

        def announce(text: str) -> None:
            heartbeat.begins()
            log.info(text)

        try:
            result = job.run(planned.settings, todo.order, stop=self.stop, announce=announce)
        except ReconcileError as error:
            log.error(str(error), kind=error.kind)
            heartbeat.ended(error.exit_code)
            self._refused(planned, todo, error.exit_code, str(error))
            return error.exit_code, None
        except Exception as error:
            _log_defect(error)
            heartbeat.ended(3)
            self._refused(planned, todo, 3, f"a defect of reconcile: {type(error).__name__}; the log has its place")
            return 3, None
        heartbeat.ended(result.exit_code)
        if result.exit_code != job.EXIT_INTERRUPTED:
            self.metrics.observe(result.document, result.exit_code)
            # What cannot be written keeps no alert back.
            self._alert_of_run(planned, todo, result.document)
            self._write_reports(planned, result.document)
        return result.exit_code, result.document.run_id

    def _write_reports(self, planned: PlannedJob, document: Document) -> None:
        wanted = planned.job.report
        if wanted is None:
            return
        try:
            report.write(document, Path(wanted.folder), wanted.formats, wanted.language or planned.settings.language)
        except ReconcileError as error:
            log.error("report not written", folder=wanted.folder, reason=str(error))

    # --- alerts

    def _alert_of_run(self, planned: PlannedJob, todo: Due, document: Document) -> None:
        own, files = planned.job.thresholds, planned.job.report
        reports = [] if files is None else report.paths(document, Path(files.folder), files.formats)
        thresholds = planned.settings.alert_on if own is None else own
        alert = alerts.of_run(document, thresholds, job=planned.name, reports=reports)
        if alert is not None:
            self._alert(planned, todo, alert, "" if document.fault is None else document.fault.kind)

    def _refused(self, planned: PlannedJob, todo: Due, exit_code: int, message: str) -> None:
        if planned.sends:
            self.metrics.ended(planned.stream, datetime.now(UTC), exit_code)
        if exit_code != 4:  # another run at work is no reason to wake anybody
            alert = alerts.refused(message, event_code=planned.settings.event_code, job=planned.name)
            self._alert(planned, todo, alert, alert.kind)

    def _alert(self, planned: PlannedJob, todo: Due, alert: alerts.Alert, cause: str) -> None:
        """Sends an alert, but not the same one again for every retry of a firing."""
        if planned.job.alerts is False or self._told.get(planned.name) == (todo.fired_to, cause):
            return
        self._told[planned.name] = (todo.fired_to, cause)
        self.send(alert, planned.settings)

    def send(self, alert: alerts.Alert, settings: Settings) -> None:
        """Sends an alert to every channel that is set, and counts it."""

        def told(channel: str, taken: bool) -> None:
            self.metrics.alerts.labels(channel, "delivered" if taken else "failed").inc()

        alerts.send(alert, alerts.channels(settings), stop=self.stop, told=told)


def _log_defect(error: Exception) -> None:
    """Says where it was. Its message is not logged: nobody knows what is in it."""
    trace = "".join(traceback.format_tb(error.__traceback__))
    log.error("a defect of reconcile", error=type(error).__name__, trace=trace)

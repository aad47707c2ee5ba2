"""`reconcile schedule`: APScheduler fires the jobs of cron.yaml until the process is told to stop."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler

from reconcile.errors import DatabaseFault, ReconcileError
from reconcile.settings import Settings, load
from reconcile.unattended import alerts
from reconcile.unattended.metrics import ScheduleMetrics, serving
from reconcile.unattended.schedule import cron_file
from reconcile.unattended.schedule.memory import Memory
from reconcile.unattended.schedule.runner import RETRY_AFTER_FAULT, RETRY_WHEN_LOCKED, PlannedJob, Runner
from reconcile.unattended.schedule.trigger import CronLine

log = structlog.get_logger()

TICK_SECONDS = 5.0  # how soon a changed file, a clock that was set, or a machine that woke up is noticed
STOP_SECONDS = 8.0  # what a run gets to end in order, so that the process is gone within ten
_STALLED_SECONDS = 60.0
_OVERDUE_CHECK_SECONDS = 60
_PULSE_SECONDS = 10
_LONGEST_PAUSE = max(RETRY_AFTER_FAULT, RETRY_WHEN_LOCKED, timedelta(seconds=_OVERDUE_CHECK_SECONDS))
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Service:
    """The jobs of one cron.yaml at work. Raises SettingsError where the file or the settings are wrong."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._began_at = datetime.now(UTC)
        self._seen = self._state()
        self.settings, self._jobs = self._read()
        self._stop = threading.Event()
        self.metrics = ScheduleMetrics()
        self._runner = Runner(self.metrics, self._stop)
        self._overdue = Overdue(self._runner, self._began_at)
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            # One job at a time: they would wait for each other's lock anyway. The watch never waits for a job.
            executors={name: ThreadPoolExecutor(1) for name in ("default", "watch", "pulse")},
            # However late a firing is, it is wanted, and several that were missed are one.
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )
        self._ticked = self._beat = time.monotonic()

    def serve(self) -> bool:
        """Works until SIGTERM or SIGINT; says whether everything ended in order within `STOP_SECONDS`.

        SIGHUP or a changed file reads cron.yaml and the settings again. Runs in the main thread. Raises
        PreflightError where the ledger gives a wrong answer at the start; one that does not answer is waited for.
        """
        logging.getLogger("apscheduler").setLevel(logging.ERROR)
        with contextlib.suppress(DatabaseFault), Memory(self.settings) as memory:
            memory.migrate()
        with _mailbox() as mailbox, self._metrics_served():
            self._scheduler.start()
            self._plan(self._jobs)
            for work, seconds, executor in (
                (self._check_overdue, _OVERDUE_CHECK_SECONDS, "watch"),
                (self._pulse, _PULSE_SECONDS, "pulse"),
            ):
                now = datetime.now(UTC)
                self._scheduler.add_job(work, "interval", seconds=seconds, next_run_time=now, executor=executor)
            self._log_settings()
            log.info("schedule at work", file=str(self._path), jobs=sorted(self._jobs))
            while True:
                signals = _received(mailbox, TICK_SECONDS)
                if signals & {signal.SIGTERM, signal.SIGINT}:
                    break
                self._tick(reload=signal.SIGHUP in signals)
            log.info("stopping")
            self._stop.set()
            closing = threading.Thread(target=self._scheduler.shutdown, daemon=True)
            closing.start()
            closing.join(STOP_SECONDS)
        log.info("stopped", in_order=not closing.is_alive())
        return not closing.is_alive()

    def _tick(self, *, reload: bool) -> None:
        if reload or self._state() != self._seen:
            self._reload()
        # The scheduler sleeps by a clock that knows nothing of a time that was set or of a machine that slept.
        self._set_back()
        self._scheduler.wakeup()
        for name in self._jobs:
            found = self._scheduler.get_job(name)
            if found is not None and found.next_run_time is not None:
                self.metrics.next_run.labels(name).set(found.next_run_time.timestamp())
        self._ticked = time.monotonic()

    def _set_back(self) -> None:
        """Firings that were planned by a clock in the future are planned anew."""
        now = datetime.now(UTC)
        for found in self._scheduler.get_jobs():
            if isinstance(found.trigger, CronLine):
                latest = found.trigger.get_next_fire_time(None, now)
            else:
                latest = now + _LONGEST_PAUSE
            if latest is not None and found.next_run_time is not None and found.next_run_time > latest:
                with contextlib.suppress(JobLookupError):  # it has just fired for the last time
                    self._scheduler.modify_job(found.id, next_run_time=now)

    def _healthy(self) -> bool:
        """Whether this loop turns, and the scheduler still has its threads run what is due."""
        now = time.monotonic()
        return now - self._ticked < _STALLED_SECONDS and now - self._beat < _STALLED_SECONDS

    def _pulse(self) -> None:
        self._beat = time.monotonic()

    @contextlib.contextmanager
    def _metrics_served(self) -> Iterator[None]:
        address = self.settings.metrics_address
        if address is None:
            yield
            return
        with serving(self.metrics, address.host, address.port, self._healthy) as port:
            log.info("metrics served", address=address.host, port=port)
            yield

    # --- the file

    def _state(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self) -> tuple[Settings, dict[str, PlannedJob]]:
        """The file and the settings, checked. A job that is new has nothing to catch up on from before now."""
        found = cron_file.load(self._path)
        now = datetime.now(UTC)
        jobs = {
            name: PlannedJob(
                name,
                job,
                load(charge_by=job.charge_by, event_code=job.event_code, time_zone=found.timezone),
                now,
            )
            for name, job in found.jobs.items()
        }
        return load(time_zone=found.timezone), jobs

    def _reload(self) -> None:
        self._seen = self._state()
        try:
            self.settings, jobs = self._read()
        except ReconcileError as error:
            self.metrics.reloads.labels("refused").inc()
            for line in str(error).splitlines():
                log.error("cron.yaml not taken, the old jobs go on", problem=line)
            return
        for name in self._jobs.keys() & jobs.keys():
            jobs[name] = replace(jobs[name], since=self._jobs[name].since)
        for name in self._jobs.keys() - jobs.keys():
            with contextlib.suppress(JobLookupError):
                self._scheduler.remove_job(name)
            with contextlib.suppress(KeyError):
                self.metrics.next_run.remove(name)
        self._plan(jobs)
        self.metrics.reloads.labels("taken").inc()
        self._log_settings()
        log.info("cron.yaml taken", jobs=sorted(jobs))

    def _log_settings(self) -> None:
        """Says which settings were given where, and which values are likely to be a mistake."""
        log.info("settings", **self.settings.origins())
        for warning in dict.fromkeys(self.settings.warnings()):
            log.warning(warning)

    def _plan(self, jobs: dict[str, PlannedJob]) -> None:
        """Hands jobs to the scheduler. Each one looks at once whether it has something to catch up on."""
        self._jobs = jobs
        for name, planned in jobs.items():
            self._scheduler.add_job(
                self._fire,
                CronLine(planned.job.cron, planned.settings.time_zone),
                args=[name],
                id=name,
                next_run_time=datetime.now(UTC),
                replace_existing=True,
            )

    # --- what the scheduler's threads do

    def _fire(self, name: str) -> None:
        planned = self._jobs.get(name)
        if planned is None:  # it was taken out while a retry was waiting
            return
        pause = self._runner.work(planned)
        if self._stop.is_set():
            return
        if pause is None:
            found = self._scheduler.get_job(name)
            next_at = None if found is None else found.next_run_time.isoformat(timespec="seconds")
            log.info("waiting for the next firing", job=name, at=next_at)
        else:
            again_at = datetime.now(UTC) + pause
            log.info("trying again later", job=name, at=again_at.isoformat(timespec="seconds"))
            self._scheduler.add_job(
                self._fire, "date", run_date=again_at, args=[name], id=f"{name} again", replace_existing=True
            )

    def _check_overdue(self) -> None:
        self._overdue.check(list(self._jobs.values()))


class Overdue:
    """Raises an alert for each stream that has had no finished run for too long, once for each such length."""

    def __init__(self, runner: Runner, began_at: datetime) -> None:
        self._runner, self._began_at = runner, began_at
        self._last: dict[tuple[str, str], datetime] = {}
        self._told: dict[tuple[str, str], datetime] = {}

    def check(self, jobs: list[PlannedJob]) -> None:
        for stream, planned in {one.stream: one for one in jobs if one.sends}.items():
            self._look_up(planned)
            allowed, now = planned.settings.alert_overdue, datetime.now(UTC)
            since = self._last.get(stream)
            # A time that has not come was told by a clock gone wrong.
            self._began_at = min(self._began_at, now)
            told = min(self._told.get(stream, self._began_at), now)
            start = max(since or self._began_at, told)
            if not allowed or now - start <= allowed:
                continue
            self._told[stream] = now
            log.error("no finished run for too long", event_code=stream[0], charge_by=stream[1])
            alert = alerts.overdue(
                event_code=stream[0],
                charge_by=stream[1],
                since=since or self._began_at,
                succeeded=since is not None,
                allowed=allowed,
            )
            self._runner.send(alert, planned.settings)

    def _look_up(self, planned: PlannedJob) -> None:
        """The stream's last success, also by a run of another process. A ledger that is away changes nothing."""
        try:
            with Memory(planned.settings) as memory:
                found = memory.last_success(datetime.now(UTC))
        except ReconcileError as error:
            log.warning("last success not known", reason=str(error))
            return
        if found is None:
            self._last.pop(planned.stream, None)
        else:
            self._last[planned.stream] = found[0]
            self._runner.metrics.succeeded(planned.stream, *found)


@contextlib.contextmanager
def _mailbox() -> Iterator[int]:
    """A file descriptor on which each signal arrives as a byte: nothing runs between two steps of anything."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    handlers = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
    try:
        yield reader
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before)
        os.close(reader)
        os.close(writer)


def _received(mailbox: int, seconds: float) -> set[int]:
    """The signals that have arrived; waits for the first one at most so long."""
    ready, _, _ = select.select([mailbox], [], [], seconds)
    return set(os.read(mailbox, 1024)) if ready else set()

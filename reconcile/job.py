"""The job: both sides of a window are read and paired, what is missing is sent, Lago is read back, the books closed."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import structlog

from reconcile import summary
from reconcile.document import Document
from reconcile.errors import LagoFault, ReconcileError
from reconcile.lago import Interrupted
from reconcile.ledger import new_run_id
from reconcile.preflight import Sides, connected
from reconcile.settings import Settings
from reconcile.window import Window
from reconcile.window_run import WindowRun

log = structlog.get_logger()

EXIT_INTERRUPTED = 130


class Progress(Protocol):
    """What a terminal may show while the job runs: steps of a total, and what it waits for."""

    def total(self, steps: int) -> None: ...

    def step(self, text: str) -> None: ...

    def note(self, text: str) -> None: ...


class Silent:
    """No progress, as in a pipe."""

    def total(self, steps: int) -> None:
        return

    def step(self, text: str) -> None:
        return

    def note(self, text: str) -> None:
        return


@dataclass(frozen=True, slots=True)
class Order:
    """What to do. `command` is run, backfill or report; a report and a dry run send nothing and take no lock."""

    command: str
    window: Window
    dry_run: bool = False

    @property
    def sends(self) -> bool:
        return self.command != "report" and not self.dry_run


@dataclass(frozen=True, slots=True)
class Result:
    document: Document
    exit_code: int


@dataclass(slots=True)
class Timing:
    """Where and when a run was made."""

    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began


def run(
    settings: Settings,
    order: Order,
    *,
    stop: threading.Event | None = None,
    progress: Progress | None = None,
    announce: Callable[[str], None] | None = None,
) -> Result:
    """Runs one job to its document and exit code (0 agreed, 1 discrepancies, 3 a fault, 130 interrupted).

    Raises the errors of exit codes 2 and 4, which come before anything is sent. `stop`, when set, ends the run after
    the batches on their way; `announce` is told the window's UTC instants before anything is read.
    """
    stop = stop or threading.Event()
    progress = progress or Silent()
    timing = Timing()
    run_id = new_run_id(timing.started_at, secrets.token_hex(2))
    structlog.contextvars.bind_contextvars(run_id=run_id)
    if announce is not None:
        announce(f"window {order.window} UTC")
    try:
        with connected(settings, stop) as sides:
            for warning in sides.warnings:
                log.warning(warning)
            with contextlib.ExitStack() as held:
                lock = held.enter_context(sides.ledger.lock(sides.stream)) if order.sends else None
                return _locked_run(settings, order, sides, run_id, timing, stop, progress, lock)
    except ReconcileError as error:
        if error.exit_code != 3:
            raise
        log.error(str(error), kind=error.kind)
        document = summary.of_nothing(settings, order, run_id, timing, error)
        return Result(document, EXIT_INTERRUPTED if isinstance(error, Interrupted) else 3)
    finally:
        structlog.contextvars.unbind_contextvars("run_id")


def _locked_run(
    settings: Settings,
    order: Order,
    sides: Sides,
    run_id: str,
    timing: Timing,
    stop: threading.Event,
    progress: Progress,
    lock: Any,
) -> Result:
    ledger, window = sides.ledger, (order.window.start, order.window.end)
    ledger.begin_run(
        run_id,
        sides.stream,
        command=order.command,
        dry_run=order.dry_run,
        window=window,
        started_at=timing.started_at,
    )
    window_run = WindowRun(settings, sides, run_id, order.window, order.sends, timing, stop, progress, lock)
    fault: ReconcileError | None = None
    try:
        window_run.work()
    except ReconcileError as error:
        if error.exit_code != 3:  # an answer that was right at the preflight is wrong now
            error = LagoFault(str(error))
        fault = error
        log.error(str(error), kind=error.kind)
    document = summary.document(settings, order, sides, run_id, timing, window_run, fault)
    exit_code = summary.EXIT_CODES[document.status]
    if isinstance(fault, Interrupted):
        exit_code = EXIT_INTERRUPTED
    with contextlib.suppress(ReconcileError) if fault else contextlib.nullcontext():
        ledger.finish_run(
            run_id,
            status=document.status,
            exit_code=exit_code,
            document=document.as_json(),
            finished_at=document.method.finished_at,
        )
    return Result(document, exit_code)

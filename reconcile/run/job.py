"""The job: both sides of a window are read and paired, what is missing is sent, Lago is read back, the books closed."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from reconcile.domain.document import Document
from reconcile.errors import Interrupted, ReconcileError
from reconcile.ledger import Stream, new_run_id
from reconcile.run import summary
from reconcile.run.context import Context, Order, Progress, Silent, Timing
from reconcile.run.preflight import connected, open_ledger
from reconcile.run.work import Work
from reconcile.settings import Settings

log = structlog.get_logger()

EXIT_INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Result:
    document: Document
    exit_code: int


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
    stop, progress, timing = stop or threading.Event(), progress or Silent(), Timing()
    run_id = new_run_id(timing.started_at, secrets.token_hex(2))
    structlog.contextvars.bind_contextvars(run_id=run_id)
    if announce is not None:
        announce(f"window {order.window} UTC")
    try:
        with connected(settings, stop, locks=order.sends) as sides, contextlib.ExitStack() as held:
            for warning in sides.warnings:
                log.warning(warning)
            lock = held.enter_context(sides.ledger.lock(sides.stream)) if order.sends else None
            return _recorded(order, Work(Context(settings, sides, run_id, order.sends, timing, stop, progress, lock)))
    except ReconcileError as error:
        if error.exit_code not in (3, EXIT_INTERRUPTED):
            raise
        log.error(str(error), kind=error.kind)
        document = summary.of_nothing(settings, order, run_id, timing, error)
        _record_nothing(settings, order, document, error)
        return Result(document, error.exit_code)
    finally:
        structlog.contextvars.unbind_contextvars("run_id")


def _turned(error: ReconcileError) -> ReconcileError:
    """An answer that was right at the preflight and is wrong now: a fault of the run, of the same kind."""
    fault = ReconcileError(str(error))
    fault.kind = error.kind
    return fault


def _record_nothing(settings: Settings, order: Order, document: Document, fault: ReconcileError) -> None:
    """Writes down a run that a fault stopped before it began, where the ledger is within reach."""
    stream = Stream(settings.lago_api_base, settings.lago_api_base, settings.event_code, settings.charge_by)
    with contextlib.suppress(ReconcileError), open_ledger(settings) as ledger:
        ledger.begin_run(
            document.run_id,
            stream,
            command=order.command,
            dry_run=order.dry_run,
            window=(order.window.start, order.window.end),
            started_at=document.method.started_at,
        )
        ledger.finish_run(
            document.run_id,
            status=document.status,
            exit_code=fault.exit_code,
            document=document.as_json(),
            finished_at=document.method.finished_at,
        )


def _recorded(order: Order, work: Work) -> Result:
    """Does the work, and writes it down in the ledger from begin to end."""
    context, ledger = work.context, work.context.sides.ledger
    ledger.begin_run(
        context.run_id,
        context.sides.stream,
        command=order.command,
        dry_run=order.dry_run,
        window=(order.window.start, order.window.end),
        started_at=context.timing.started_at,
    )
    fault: ReconcileError | None = None
    try:
        work.do(order)
    except ReconcileError as error:
        fault = error if error.exit_code in (3, EXIT_INTERRUPTED) else _turned(error)
        log.error(str(error), kind=error.kind)
    document = summary.document(order, work, fault)
    exit_code = EXIT_INTERRUPTED if isinstance(fault, Interrupted) else summary.EXIT_CODES[document.status]
    with contextlib.suppress(ReconcileError) if fault else contextlib.nullcontext():
        ledger.finish_run(
            context.run_id,
            status=document.status,
            exit_code=exit_code,
            document=document.as_json(),
            finished_at=document.method.finished_at,
        )
    return Result(document, exit_code)


__all__ = ["Order", "Progress", "Result", "Silent", "run"]

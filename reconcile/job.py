"""The job: both sides of a window are read and paired, what is missing is sent, Lago is read back, the books closed."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pandas as pd
import structlog

from reconcile import summary
from reconcile.context import Context, Progress, Silent, Timing, moment
from reconcile.document import Document, LagoUsage, SpendLogsGap
from reconcile.errors import Interrupted, LagoFault, ReconcileError
from reconcile.late import HeldRows, LateRows, Recount, recount
from reconcile.ledger import new_run_id
from reconcile.preflight import connected
from reconcile.settings import Settings
from reconcile.settlement import Settlement
from reconcile.spend_logs import milliseconds
from reconcile.totals import DayTotals, lago_usage, spend_logs_gap
from reconcile.unchanged import Fingerprints, Plan, SliceKeeper, aligned, event_costs, hours_read, plan, read_together
from reconcile.window import Window
from reconcile.window_run import WindowRun

log = structlog.get_logger()

EXIT_INTERRUPTED = 130


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
        with connected(settings, stop) as sides, contextlib.ExitStack() as held:
            for warning in sides.warnings:
                log.warning(warning)
            lock = held.enter_context(sides.ledger.lock(sides.stream)) if order.sends else None
            return _recorded(order, Work(Context(settings, sides, run_id, order.sends, timing, stop, progress, lock)))
    except ReconcileError as error:
        if error.exit_code not in (3, EXIT_INTERRUPTED):
            raise
        log.error(str(error), kind=error.kind)
        document = summary.of_nothing(settings, order, run_id, timing, error)
        return Result(document, error.exit_code)
    finally:
        structlog.contextvars.unbind_contextvars("run_id")


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
        # An answer that was right at the preflight and is wrong now is a fault of the run.
        fault = error if error.exit_code in (3, EXIT_INTERRUPTED) else LagoFault(str(error))
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


class Work:
    """One run's work on its window, and what it gathers for the document."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.books, self.late_books = context.new_books(), context.new_books()
        self.recount: Recount | None = None
        self.day_totals = DayTotals()
        self.gaps: tuple[SpendLogsGap, ...] = ()
        self.usage: tuple[LagoUsage, ...] = ()

    def do(self, order: Order) -> None:
        """Raises the faults of exit code 3; what was read before is in the books."""
        context, window = self.context, order.window
        parts = aligned(window, context.settings.slice_length)
        recheck = order.sends and order.command == "run"
        found = self.recount = recount(context, window, recheck=recheck)
        if found.cut_until is not None:
            allowance = context.settings.max_call + context.settings.match_after
            context.retention_until_ms = milliseconds(found.cut_until + allowance)
        late, held = LateRows(context, window, found), HeldRows(context)
        fingerprints = Fingerprints(context, found.counts)
        # A report and a dry run read everything afresh.
        todo = plan(context, parts, fingerprints, late.must_read()) if order.sends else Plan(stretches=[parts])
        for totals in todo.taken_over:
            self.books.absorb(totals)
        readings = [read_together(stretch, found.counts) for stretch in todo.stretches]
        context.progress.total(sum(map(len, readings)))
        row_hours: dict[int, int] = {}
        for stretch, reading in zip(todo.stretches, readings, strict=True):
            self._work_on(stretch, reading, fingerprints, late.in_window, held, row_hours)
        if order.sends:
            self._keep_hours(found, hours_read(todo.stretches, parts, context.settings.max_call), row_hours)
            late.settle(self.late_books, held)
            late.keep_counts()
            held.release()
            held.retry(self.late_books, window.start)
        if not todo.taken_over:
            self.gaps = spend_logs_gap(context, window, self.day_totals)
        if order.command == "report":
            self.usage = lago_usage(context, window, self.books)

    def _work_on(
        self,
        stretch: list[Window],
        reading: list[Window],
        fingerprints: Fingerprints,
        further: pd.DataFrame,
        held: HeldRows,
        row_hours: dict[int, int],
    ) -> None:
        context = self.context
        start, end = milliseconds(stretch[0].start), milliseconds(stretch[-1].end)
        keeper = SliceKeeper(context, stretch, fingerprints)

        def inside(times: pd.Series) -> npt.NDArray[np.bool_]:
            values = times.to_numpy(np.int64)
            return np.asarray((values >= start) & (values < end))

        def counted(part: Window, rows: pd.DataFrame, events: pd.DataFrame) -> None:
            rows, events = rows[inside(rows["usage_ms"])], events[inside(events["time_ms"])]
            self.books.read(rows, event_costs(context, events))
            self.day_totals.add(rows)
            keeper.counted(part, rows, events)

        def booked(rows: pd.DataFrame) -> None:
            held.booked(rows)
            keeper.booked_rows(rows)

        settlement = Settlement(
            context,
            self.books,
            lambda rows: inside(rows["usage_ms"]),
            lambda events: inside(events["time_ms"]),
            booked_rows=booked,
            booked_events=keeper.booked_events,
        )
        WindowRun(context, reading, settlement, counted, further).work()
        for hour, count in keeper.row_hours.items():
            row_hours[hour] = row_hours.get(hour, 0) + count

    def _keep_hours(self, found: Recount, hours: set[int], row_hours: dict[int, int]) -> None:
        """Takes down how many rows of each hour this run has reconciled."""
        numbers = found.counts.index.to_numpy("datetime64[ms]").astype(np.int64) // 3_600_000
        there = dict(zip(numbers.tolist(), found.counts.tolist(), strict=True))
        self.context.sides.ledger.keep_hours(
            self.context.sides.stream,
            self.context.run_id,
            {_hour(number): (row_hours.get(number, 0), there.get(number, 0)) for number in sorted(hours)},
        )


def _hour(number: int) -> datetime:
    return moment(number * 3_600_000)


__all__ = ["Order", "Progress", "Result", "Silent", "run"]

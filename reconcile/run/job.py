"""THE STORY of a run: plan → read → classify → judge → decide → deliver → read back → tally → cross-check →
document."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Callable
from dataclasses import replace

import structlog

from reconcile.classify import Classification
from reconcile.domain.dates import instant
from reconcile.domain.document import Document
from reconcile.domain.frames import EVENTS, ROW_VERDICTS, ROWS, empty, joined
from reconcile.domain.instants import as_ms
from reconcile.errors import ClockFault, Interrupted, ReconcileError
from reconcile.ledger import Ledger, Stream, new_run_id
from reconcile.run.books import Books
from reconcile.run.conclude import Seen, document
from reconcile.run.courier import Courier
from reconcile.run.cross_check import (
    lago_usage,
    previous_run_of,
    remarks_on_plans,
    spend_logs_gaps,
    unplaced_rows,
)
from reconcile.run.decide import Pending, choose, decide, release, release_events, take
from reconcile.run.held_rows import held_rows
from reconcile.run.judge import judged
from reconcile.run.keep import deleted_rows, keep, keep_held, keep_widest, new_books
from reconcile.run.look_up import directory_of, doubt_fault, free_rows, look_up, policy_of
from reconcile.run.order import Order, Progress, Result, Silent, Timing
from reconcile.run.plan import begun_where_the_last_run_ended, left_before, make_plan
from reconcile.run.preflight import connected, open_ledger
from reconcile.run.read import Reader
from reconcile.run.shared import Run, begin
from reconcile.run.tracing import spans
from reconcile.settings import Settings

log = structlog.get_logger()

EXIT_INTERRUPTED = 130
EXIT_CODES = {"agreed": 0, "discrepancies": 1, "incomplete": 3}


def reconcile(run: Run, books: Books) -> Seen:
    """What happens to a row, in order. A fault ends the sending; what was read before it is in the books."""
    policy, reach, slice_ms = policy_of(run), run.rules.doubt, as_ms(run.settings.slice_length)
    courier, directory, seen = Courier(run, may_send=run.order.sends), directory_of(run), Seen()
    classification, pending, in_hand, counted = Classification(run.rules), Pending(), empty(ROW_VERDICTS), None
    try:
        held = held_rows(run.sides.ledger.held(run.sides.stream))
        plan = make_plan(run, run.order, held, free_rows(run, directory, held))
        seen = replace(seen, plan=plan)
        books.held_before = plan.held_keys
        books.take_over(plan.unchanged)
        books.deleted = deleted_rows(run, plan, books)
        run.progress.total(plan.parts)

        for stretch in plan.stretches:
            classification, pending, counted = Classification(run.rules), Pending(), stretch.counted
            with Reader(run, plan, stretch, directory) as reader:
                while True:
                    # The next part of both sides; nothing more at the end.
                    part = reader.read(pending.awaited_ms(reach, classification.latest_waiting_ms))
                    books.read(part)
                    courier.note_listed(part)

                    # Which event is whose, and whether Lago bills it.
                    with run.timing.stage("classify"):
                        settled = classification.settle(part.rows, part.events, part.horizon_ms, part.delivered)
                    rows, events = judged(settled.rows, settled.events, directory.coverage)
                    step = take(pending, rows, events, part.twins, policy)
                    pending, in_hand = step.pending, step.pushable
                    books.add_rows(step.rows)
                    books.add_events(step.events, counted)

                    # What becomes of rows without an event, once every event that could be theirs has been read.
                    frontier = classification.frontier_ms
                    due = release(pending, frontier, reach, is_beyond=part.is_beyond)
                    facts = look_up(run, directory, due.rows, pending.twins)
                    other = look_up(run, directory, step.pushable)
                    decided = decide(facts.rows, facts.reasons, due.pending, reach, slice_ms)
                    if decided.doubt is not None:
                        courier.doubt(doubt_fault(decided.doubt))
                        books.note_doubt(decided.doubt)
                    explained, pending = release_events(decided.pending, frontier, reach)
                    books.add_events(explained, counted)
                    chosen = choose(decided.rows, other.rows, other.reasons, may_send=courier.may_send)
                    in_hand = chosen.to_send
                    books.add_rows(chosen.kept)
                    keep_held(run, chosen.kept)

                    # Written down, sent and answered while the next part is read; read back now and then.
                    books.note_pushed(chosen)
                    books.add_rows(courier.deliver(chosen.to_send, chosen.ours), courier.details)
                    in_hand = empty(ROW_VERDICTS)
                    if courier.is_full or part.is_last:
                        books.add_rows(courier.read_back(), courier.details)
                    courier.go_on()
                    if part.is_last:
                        break
            courier.end_stretch()

        courier.raise_doubt()
        seen = replace(
            seen,
            gaps=spend_logs_gaps(run, plan, books),
            findings=(*unplaced_rows(run, plan), *remarks_on_plans(run, books, directory)),
            previous=previous_run_of(run, plan),
        )
        if run.order.command == "report":
            usage, findings = lago_usage(run, plan, books, directory)
            seen = replace(seen, usage=usage, findings=(*seen.findings, *findings))
        books.tally.check()
    except ReconcileError as error:
        seen = replace(seen, fault=error)
        # What is undecided yet, so that every row and event that was read is in a class.
        rest = classification.settle(empty(ROWS), empty(EVENTS), None)
        rows, events = judged(rest.rows, rest.events, directory.coverage)
        books.add_rows(joined([courier.abandon(), in_hand, pending.rows, rows]), courier.details)
        books.add_events(joined([pending.events, events]), counted)
    finally:
        courier.close()
    return replace(seen, verified=courier.verified, **run.figures())


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
    stop, progress, timing = stop or threading.Event(), progress or Silent(), Timing(spans=spans())
    run_id = new_run_id(timing.started_at, secrets.token_hex(2))
    structlog.contextvars.bind_contextvars(run_id=run_id)
    try:
        with contextlib.ExitStack() as holding:
            holding.enter_context(timing.spans.run(order.command, run_id, event_code=settings.event_code))
            sides = holding.enter_context(connected(settings, stop, locks=order.sends))
            lock = None
            if order.sends:
                lock = holding.enter_context(sides.ledger.lock(sides.stream, rows=settings.database))
                sides.ledger.note_killed(sides.stream, timing.now())
            order = begun_where_the_last_run_ended(settings, sides, order)
            if announce is not None:
                announce(f"window {order.window} UTC")
                if order.extended_from is not None:
                    announce(f"begins where earlier runs left off, before {instant(order.extended_from)}")
                if (before := left_before(settings, sides, order)) is not None:
                    announce(
                        f"nothing has billed this stream before: usage older than {instant(before)} is left alone; "
                        "`reconcile backfill --from D --to D` bills it"
                    )
            return _recorded(begin(settings, order, sides, run_id, timing, stop, progress, lock))
    except ReconcileError as error:
        if error.exit_code not in (3, EXIT_INTERRUPTED):
            raise
        log.error(str(error), kind=error.kind)
        return _not_begun(settings, order, run_id, timing, error)
    finally:
        structlog.contextvars.unbind_contextvars("run_id")


def _recorded(run: Run) -> Result:
    """Does the work, and writes it down in the ledger from begin to end."""
    ledger, order = run.sides.ledger, run.order
    books = new_books(run.settings, run.sides.metric, sends=order.sends)
    _begin(ledger, run.sides.stream, order, run.run_id, run.timing, run.sides.litellm)
    widest = run.sides.lago.widest
    seen = reconcile(run, books)
    fault = seen.fault
    if fault is not None:
        log.error(str(fault), kind=fault.kind)
    found = document(run.settings, order, run.run_id, run.timing, books, seen)
    exit_code = EXIT_CODES[found.status]
    if isinstance(fault, (Interrupted, ClockFault)):
        exit_code = fault.exit_code
    try:
        # Kept with the run's end, or not at all: what a run that did not finish said of late rows is said by nobody.
        with ledger.together():
            if fault is None and seen.plan is not None:
                keep(run, seen.plan, books)
            keep_widest(run, widest)
            _finish(ledger, found, exit_code)
    except ReconcileError as error:
        if fault is None:
            # What was done stands in the document; that it is not recorded is said there, and by the exit code.
            log.error(str(error), kind=error.kind)
            found = document(run.settings, order, run.run_id, run.timing, books, replace(seen, fault=error))
            exit_code = EXIT_CODES[found.status]
        with contextlib.suppress(ReconcileError):
            _finish(ledger, found, exit_code)
    run.timing.spans.ended(found.status, exit_code)
    if isinstance(fault, ClockFault):
        raise fault
    return Result(found, exit_code)


def _not_begun(settings: Settings, order: Order, run_id: str, timing: Timing, fault: ReconcileError) -> Result:
    """The document of a run that a fault stopped before it began; recorded where the ledger is within reach."""
    found = document(settings, order, run_id, timing, new_books(settings), Seen(fault=fault))
    stream = Stream(settings.lago_api_base, settings.lago_api_base, settings.event_code, settings.charge_by)
    with contextlib.suppress(ReconcileError), open_ledger(settings) as ledger:
        _begin(ledger, stream, order, run_id, timing, "")
        _finish(ledger, found, fault.exit_code)
    return Result(found, fault.exit_code)


def _finish(ledger: Ledger, found: Document, exit_code: int) -> None:
    ledger.finish_run(
        found.run_id,
        status=found.status,
        exit_code=exit_code,
        document=found.as_json(),
        finished_at=found.method.finished_at,
    )


def _begin(ledger: Ledger, stream: Stream, order: Order, run_id: str, timing: Timing, litellm: str) -> None:
    ledger.begin_run(
        run_id,
        stream,
        command=order.command,
        dry_run=order.dry_run,
        window=(order.window.start, order.window.end),
        started_at=timing.started_at,
        litellm=litellm,
    )


__all__ = ["EXIT_INTERRUPTED", "Order", "Progress", "Result", "Silent", "reconcile", "run"]

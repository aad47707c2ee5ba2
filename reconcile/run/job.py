"""THE STORY of a run: plan → read → classify → judge → decide → deliver → read back → tally → cross-check → document."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Callable

import structlog

from reconcile.classify import Classification
from reconcile.domain.vocabulary import RowClass
from reconcile.errors import ClockFault, Interrupted, ReconcileError
from reconcile.ledger import Stream, new_run_id
from reconcile.run import conclude
from reconcile.run.books import Books
from reconcile.run.connect import connected, open_ledger
from reconcile.run.courier import Courier
from reconcile.run.cross_check import cross_check
from reconcile.run.decide import Pending, choose, decide, release, release_events, take
from reconcile.run.held_rows import held_rows
from reconcile.run.judge import judged
from reconcile.run.keep import keep, keep_held, new_books
from reconcile.run.look_up import directory_of, doubt_fault, free_rows, look_up
from reconcile.run.order import Order, Progress, Result, Silent, Timing
from reconcile.run.plan import extended, make_plan
from reconcile.run.read import Reader
from reconcile.run.shared import Run, begin
from reconcile.settings import Settings

log = structlog.get_logger()

EXIT_INTERRUPTED = 130


def reconcile(run: Run) -> conclude.Outcome:
    """Everything that happens to a row, in order. A fault ends the sending; what was read before is in the books."""
    courier, books, found = Courier(run, may_send=run.order.sends), new_books(run), conclude.Found()
    pending, classification = Pending(), Classification(run.rules)
    try:
        directory = directory_of(run)
        held = held_rows(run.sides.ledger.held(run.sides.stream))
        plan = make_plan(run, held, free_rows(run, directory, held))
        found = found.planned(plan, books.take_over(plan.unchanged))
        run.progress.total(plan.parts)

        for stretch in plan.stretches:
            pending, classification = Pending(), Classification(run.rules)
            with Reader(run, plan, stretch, directory) as reader:
                while True:
                    read = reader.read(pending.awaited_ms(run.doubt_reach))
                    books.read(read)
                    if read.part is not None and read.part.core:
                        courier.note_listed(read.part.window, len(read.events))

                    with run.timing.stage("classify"):
                        settled = classification.settle(read.rows, read.events, read.horizon_ms)
                    rows, events = judged(settled.rows, settled.events, directory.coverage)
                    taken = take(pending, rows, events, twins=read.twins)
                    pending = taken.pending

                    due = release(pending, classification.waiting_from(read.horizon_ms), run.doubt_reach)
                    looked_up = look_up(run, directory, due)
                    decided = decide(looked_up, due.pending, run.doubt_reach)
                    if decided.doubt is not None and courier.may_send and not run.settings.doubtful:
                        courier.may_send, found = False, found.doubted(doubt_fault(decided.doubt))
                    final_events, pending = release_events(
                        decided.pending, classification.waiting_from(read.horizon_ms), run.doubt_reach
                    )

                    chosen = choose(run, directory, taken.rows, decided.rows, may_send=courier.may_send)
                    books.add_rows(chosen.kept)
                    books.add_events([taken.events, final_events], stretch.counted, plan)
                    books.push(chosen.to_send, chosen.ours)
                    keep_held(run, chosen.kept)
                    books.add_rows(courier.deliver(chosen.to_send, chosen.ours), courier.details)
                    if courier.is_full or read.part is None:
                        books.add_rows(courier.read_back())
                    if courier.fault is not None:
                        raise courier.fault
                    if read.part is None:
                        break
            courier.next_stretch()
            keep(run, plan, books, stretch)

        found = cross_check(run, plan, books, directory, found)
    except ReconcileError as error:
        found = found.stopped(error)
        books.add_rows(courier.abandon())
        books.abandon(pending, classification)
    return found.outcome(run, books, courier)

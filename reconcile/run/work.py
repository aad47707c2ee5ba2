"""One run's work: its window, late rows and held ones, in this order, and what it gathers for the document."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import numpy.typing as npt
import pandas as pd

from reconcile.domain.document import LagoUsage, RowTotals, SpendLogsGap
from reconcile.domain.window import Window, widen
from reconcile.litellm.day_totals import DayTotals
from reconcile.litellm.spend_logs import milliseconds
from reconcile.run.context import Context, Order, moment
from reconcile.run.late import HeldRows, LateRows, Recount, known_long_calls, recount
from reconcile.run.settlement import Settlement
from reconcile.run.totals import lago_usage, spend_logs_gap
from reconcile.run.unchanged import (
    Fingerprints,
    Plan,
    SliceKeeper,
    aligned,
    event_costs,
    hours_read,
    plan,
    read_together,
)
from reconcile.run.window_run import WindowRun, halo


class Work:
    """One run's work on its window, and what it gathers for the document."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.books, self.late_books = context.new_books(), context.new_books()
        self.recount: Recount | None = None
        self.day_totals = DayTotals()
        self.still_held = RowTotals()
        self.window_end = context.timing.started_at
        self.gaps: tuple[SpendLogsGap, ...] = ()
        self.usage: tuple[LagoUsage, ...] = ()

    def do(self, order: Order) -> None:
        """Raises the faults of exit code 3; what was read before is in the books."""
        context, window = self.context, order.window
        self.window_end = window.end
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
            self.day_totals.absorb(self.books.absorb(totals))
        readings = [read_together(stretch, found.counts) for stretch in todo.stretches]
        context.progress.total(sum(map(len, readings)))
        around = widen(window, halo(context), halo(context))
        further = pd.concat([late.in_window, known_long_calls(context, around)], ignore_index=True)
        row_hours: dict[int, int] = {}
        for stretch, reading in zip(todo.stretches, readings, strict=True):
            self._work_on(stretch, reading, fingerprints, further, held, row_hours)
        if order.sends:
            self._keep_hours(found, hours_read(todo.stretches, parts, context.settings.max_call), row_hours)
            late.settle(self.late_books, held)
            late.keep_counts()
            held.release()
            held.retry(self.late_books, window.start)
            self.still_held = held.remaining()
        # The nightly job compares a day once it lies far back; of a chosen range the last day is read to its end.
        reads_on = order.command != "run" and bool(todo.stretches)
        self.gaps = spend_logs_gap(context, window, self.day_totals, reads_on=reads_on)
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

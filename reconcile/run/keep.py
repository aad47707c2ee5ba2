"""What a run begins with and what the ledger keeps of it, so that later ones need not read the same, and lose
nothing."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pandas as pd

from reconcile.domain.frames import among
from reconcile.domain.instants import HOUR_MS, as_ms, milliseconds, moment
from reconcile.domain.tally import Tally
from reconcile.domain.vocabulary import RowClass
from reconcile.lago import Metric
from reconcile.run.books import Books
from reconcile.run.held_rows import KEPT
from reconcile.run.plan import Plan, begun_within, hours_before, hours_read
from reconcile.run.retention import Deleted
from reconcile.run.shared import Run
from reconcile.run.unchanged import AGREED_EVENTS, AGREED_ROWS
from reconcile.settings import Settings

_QUARTER_MS = 900_000


def new_books(settings: Settings, metric: Metric | None = None, *, sends: bool = False) -> Books:
    """Empty books for a run. One that sends hands the totals of its slices over to the next."""
    tally = Tally(
        lambda times: local_day_numbers(times, settings.time_zone), as_ms(settings.slice_length), keeps_slices=sends
    )
    reach = (as_ms(settings.match_before), as_ms(settings.match_after))
    return Books(settings.event_code, tally, reach, aggregation=None if metric is None else metric.aggregation_type)


def deleted_rows(run: Run, plan: Plan, books: Books) -> Deleted:
    """What LiteLLM has deleted since it was reconciled, and what earlier runs knew of those slices."""
    if not plan.recount.cut:
        return Deleted({}, {}, books.tally.slice_ms)
    stored = run.sides.ledger.slice_totals(run.sides.stream, plan.window.start, plan.window.end)
    known = {}
    for (start, _), (_, _, totals) in stored.items():
        # What 0.1 packed is compressed, and told by its first byte: such a slice counts as not known.
        if totals[:1] == b"{":
            known[milliseconds(start) // books.tally.slice_ms] = books.tally.groups_of(totals)
    books.tally.keeps_slices |= bool(known)  # what is there now is set beside it
    return Deleted(dict(plan.recount.cut), known, books.tally.slice_ms, as_ms(run.settings.max_call))


def local_day_numbers(times: npt.NDArray[np.int64], zone: ZoneInfo) -> npt.NDArray[np.int64]:
    """The local day, numbered since 1970, of each instant in ms. Offsets of zones change at quarters of an hour."""
    quarters, place = np.unique(times // _QUARTER_MS, return_inverse=True)
    local = pd.DatetimeIndex(pd.to_datetime(quarters * _QUARTER_MS, unit="ms", utc=True)).tz_convert(zone)
    days = local.tz_localize(None).to_numpy("datetime64[D]").astype(np.int64)
    return np.asarray(days[place], np.int64)


def keep_held(run: Run, rows: pd.DataFrame) -> None:
    """Writes down the rows that are held back (ROW_VERDICTS), with what their events are made from."""
    if not run.order.sends or rows.empty:
        return
    held = rows[among(rows["class"], [RowClass.HELD])]
    run.sides.ledger.hold(
        run.sides.stream,
        run.run_id,
        [
            {
                "request_id": row["request_id"],
                "start_ms": row["start_ms"],
                "usage_ms": row["usage_ms"],
                "reason": str(row["reason"]),
                "row": {name: row[name] for name in KEPT},
            }
            for row in held.to_dict("records")
        ],
    )


def _keep_agreed(run: Run, plan: Plan, books: Books) -> None:
    """Keeps the totals of the slices that were read and agree."""
    tally = books.tally
    numbers = {piece: milliseconds(piece.start) // tally.slice_ms for piece in plan.read_slices}
    agreed = set(tally.agreed_slices(numbers.values(), AGREED_ROWS, AGREED_EVENTS))
    kept = []
    for piece, number in numbers.items():
        if number in agreed:
            kept.append(
                {
                    "slice_from": piece.start,
                    "slice_to": piece.end,
                    "fingerprint": plan.fingerprints.of(piece),
                    "events": books.listed_of_slices.get(number, 0) + tally.delivered_in(number),
                    "totals": tally.pack(number, books.days_of_slices.get(number, [])),
                }
            )
    run.sides.ledger.keep_slices(run.sides.stream, run.run_id, kept)


def keep(run: Run, plan: Plan, books: Books) -> None:
    """Writes down what this run has settled: agreed slices, the counts of its hours, held rows that are held no
    more."""
    if not run.order.sends:
        return
    ledger, stream = run.sides.ledger, run.sides.stream
    _keep_agreed(run, plan, books)
    numbers = plan.recount.counts.index.to_numpy("datetime64[ms]").astype(np.int64) // HOUR_MS
    there = dict(zip(numbers.tolist(), plan.recount.counts.tolist(), strict=True))
    read = hours_read(plan, run.settings.max_call)
    ledger.keep_hours(
        stream,
        run.run_id,
        {_hour(number): (books.rows_of_hours.get(number, 0), there.get(number, 0)) for number in sorted(read)},
    )
    # Hours that no run was asked for: what ends in this window was read, and what is written later makes them grow.
    before = hours_before(plan, run.settings.max_call, ledger.asked_windows(stream))
    known = {_hour(number): (there.get(number, 0), there.get(number, 0)) for number in before}
    ledger.keep_hours(stream, run.run_id, known, replace=False)
    if (hour := begun_within(plan, run.settings.max_call)) is not None:
        # Not known to an earlier run: with the rows that it lacks it counts as grown, and the next night reads it.
        first = {_hour(hour): (books.rows_of_hours.get(hour, 0), there.get(hour, 0))}
        ledger.keep_hours(stream, run.run_id, first, replace=False)
    _keep_grown(run, plan, there)
    ledger.release(stream, sorted(books.settled))


def keep_widest(run: Run, known: timedelta | None) -> None:
    """Writes down how wide a range Lago could list, where that is not what was `known`: the next run asks no wider."""
    if run.order.sends and run.sides.lago.widest != known:
        asked_ms = milliseconds(run.timing.started_at)
        run.sides.ledger.keep_widest(run.sides.stream, run.sides.lago.widest, asked_ms)


def _keep_grown(run: Run, plan: Plan, there: dict[int, int]) -> None:
    """Takes down that the rows of the hours that grew are reconciled, up to the end of the window."""
    if not plan.recount.grown:
        return
    ledger, stream = run.sides.ledger, run.sides.stream
    rows = plan.grown_rows
    lasted = rows["usage_ms"].to_numpy(np.int64) - rows["start_ms"].to_numpy(np.int64)
    ledger.keep_long_calls(stream, rows[lasted > as_ms(run.settings.max_call)])
    hours, counts = np.unique(rows["start_ms"].to_numpy(np.int64) // HOUR_MS, return_counts=True)
    read = dict(zip(hours.tolist(), counts.tolist(), strict=True))
    numbers = [milliseconds(hour) // HOUR_MS for hour in plan.recount.grown]
    ledger.keep_hours(
        stream, run.run_id, {_hour(number): (read.get(number, 0), there.get(number, 0)) for number in numbers}
    )


def _hour(number: int) -> datetime:
    return moment(number * HOUR_MS)

"""What a run has to look at: the slices of its window, and those of late and held rows, each with its surroundings.

A slice that agreed before is left unread where its counts stand as they were: the hours in which its rows may have
begun hold as many rows each, and Lago lists as many events in it. A row that was written late makes its hour grow.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import numpy as np
import pandas as pd

from reconcile.domain.dates import instant
from reconcile.domain.frames import ROWS, empty, joined
from reconcile.domain.instants import EPOCH, HOUR, HOUR_MS, as_ms, milliseconds, moment
from reconcile.domain.intervals import merged, on_grid, without
from reconcile.domain.vocabulary import Scope
from reconcile.domain.window import Window
from reconcile.errors import PreflightError
from reconcile.run.held_rows import HeldRow
from reconcile.run.order import Order
from reconcile.run.preflight import Sides
from reconcile.run.shared import Run
from reconcile.run.unchanged import Fingerprints, Unchanged, unchanged_slices
from reconcile.settings import Settings

# So many slices, or rows, are read at once where the slices hold little: each reading costs the same however little it
# finds.
_SLICES_TOGETHER = 24
_ROWS_TOGETHER = 20_000

Key = tuple[str, int]  # request_id, start_ms


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of time that is read at once. Its rows and events count where `scope` is `window`."""

    window: Window
    scope: Scope
    # Whether rows of it may be sent: not where it is read for its neighbours' sake alone.
    core: bool = True
    # Read only while a row waits for events that may lie here.
    if_awaited: bool = False


@dataclass(frozen=True, slots=True)
class Stretch:
    """Parts that follow one another without a gap, and are classified together."""

    parts: tuple[Part, ...]

    @property
    def counted(self) -> Window | None:
        """The time of the stretch that lies in the window that was asked for."""
        inside = [part.window for part in self.parts if part.scope is Scope.WINDOW]
        return Window(inside[0].start, inside[-1].end) if inside else None


@dataclass(frozen=True, slots=True)
class Recount:
    """The hours of "startTime", counted before anything was read.

    `counts` holds every hour that has rows (int64, indexed by datetime64[ms, UTC]), `grown` the hours with rows that no
    run has reconciled, `cut` how many rows LiteLLM has deleted of an hour (ms) since they were reconciled.
    """

    counts: pd.Series
    grown: tuple[datetime, ...] = ()
    cut: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is decided before the first slice is read."""

    window: Window
    slices: tuple[Window, ...]
    stretches: tuple[Stretch, ...]
    unchanged: Unchanged
    recount: Recount
    fingerprints: Fingerprints
    # Rows (ROWS) that the feed may not find by their start: of hours that grew, and calls longer than
    # RECONCILE_MAX_CALL.
    further: pd.DataFrame
    late: frozenset[Key]
    # The stream's held rows, those of them that Lago would bill now, and of these the ones from outside the window.
    held: tuple[HeldRow, ...]
    free: tuple[HeldRow, ...]
    retried: tuple[HeldRow, ...]
    grown_rows: pd.DataFrame

    @property
    def parts(self) -> int:
        return sum(not part.if_awaited for stretch in self.stretches for part in stretch.parts)

    @property
    def held_keys(self) -> frozenset[Key]:
        return frozenset(row.key for row in self.held)

    @property
    def read_slices(self) -> list[Window]:
        """The slices of the window that are read."""
        return [piece for piece in self.slices if piece not in self.unchanged.windows]

    def read_windows(self) -> list[Window]:
        """The parts of the window that are read, in order, those that meet as one."""
        return merged(part.window for stretch in self.stretches for part in stretch.parts if part.scope is Scope.WINDOW)


def begun_where_the_last_run_ended(settings: Settings, sides: Sides, order: Order) -> Order:
    """The order of a nightly run, begun where the last one ended if that is earlier: a night that failed leaves no gap.
    Where none has ended well yet, it begins where the first one did.

    Raises `PreflightError` for the first `run` of a stream beside another one that has billed the same organization
    from the same database: what that one billed would be billed once more.
    """
    if order.command != "run" or not order.sends:
        return order
    ledger, stream = sides.ledger, sides.stream
    if settings.start is None and (others := ledger.streams_beside(stream, sides.litellm)):
        code, charge_by = others[0]
        raise PreflightError(
            f"RECONCILE_START: this is the first run of {stream.event_code} by {stream.charge_by}, and {code} by "
            f"{charge_by} has billed the same usage before; say from when on this one bills, for example "
            f"RECONCILE_START={instant(order.window.end)}"
        )
    last = ledger.last_run_to(stream) or ledger.first_run_from(stream)
    start = order.window.start if last is None else max(last, order.window.end - settings.recheck)
    if start >= order.window.start:
        return order
    return replace(order, window=Window(start, order.window.end), extended_from=order.window.start)


def left_before(settings: Settings, sides: Sides, order: Order) -> datetime | None:
    """The time before which usage may be unbilled and no nightly run looks, where nothing billed the stream before.

    None where something did, and where RECONCILE_START says that older usage is not to be billed.
    """
    begins = order.window.start
    if order.command != "run" or (settings.start is not None and settings.start >= begins):
        return None
    return None if sides.ledger.asked_windows(sides.stream) else begins


def make_plan(run: Run, order: Order, held: Sequence[HeldRow], free: Sequence[HeldRow]) -> Plan:
    """Looks at counts alone, but for the hours that grew, whose rows are read.

    `held` are the stream's held rows, `free` those of them that Lago would bill now.
    """
    settings, window = run.settings, order.window
    nightly = order.sends and order.command == "run"
    recount = _recount(run, window, recheck=nightly)
    grown = _rows_that_began(run, recount.grown, Window(EPOCH, window.end))
    late, in_window = _late(run, window, grown)
    further = joined([in_window, late, _known_long_calls(run, window)])
    fingerprints = Fingerprints(run, recount.counts)
    slices = on_grid(window, settings.slice_length)
    unchanged = Unchanged()
    if order.skips_unchanged:
        # A row of a long call, or one that was held back and can be sent now: the counts of its slice do not show it.
        times = [*in_window["usage_ms"].tolist(), *(row.usage_ms for row in free)]
        unchanged = unchanged_slices(run, slices, fingerprints, [Window(moment(t), moment(t + 1)) for t in times])
    retried = [row for row in free if not window.start <= moment(row.usage_ms) < window.end] if order.sends else []
    outside = _slices_of(
        [*late["usage_ms"].tolist(), *(row.usage_ms for row in retried)], settings.slice_length, window
    )
    wanted = [(piece, Scope.WINDOW) for piece in slices if piece not in unchanged.windows]
    wanted += [(piece, Scope.CONTEXT) for piece in outside]
    return Plan(
        window=window,
        slices=tuple(slices),
        stretches=tuple(_stretches(run, wanted, recount.counts, unchanged.windows)),
        unchanged=unchanged,
        recount=recount,
        fingerprints=fingerprints,
        further=further.drop_duplicates(["request_id", "start_ms"], ignore_index=True),
        late=frozenset(zip(late["request_id"].tolist(), late["start_ms"].tolist(), strict=True)),
        held=tuple(held),
        free=tuple(free),
        retried=tuple(retried),
        grown_rows=grown,
    )


def _recount(run: Run, window: Window, *, recheck: bool) -> Recount:
    """Counts the hours that a row of the window may have begun in; with `recheck` all of RECONCILE_RECHECK."""
    settings, sides = run.settings, run.sides
    start = window.start - settings.max_call
    if recheck:
        start = min(start, window.end - settings.recheck)
    start = EPOCH + (start - EPOCH) // HOUR * HOUR
    end = EPOCH + -((EPOCH - window.end) // HOUR) * HOUR + HOUR
    counts = sides.spend_logs.hours(Window(start, end))
    known = sides.ledger.hours(sides.stream, start, end)
    there = counts.reindex(known.index, fill_value=0)
    grown = known.index[there > known["rows"]] if recheck else known.index[:0]
    cut = (known["peak"] - there).clip(lower=0)
    return Recount(
        counts=counts,
        grown=tuple(hour.to_pydatetime() for hour in grown),
        cut=dict(zip(_ms(cut[cut > 0].index), cut[cut > 0].tolist(), strict=True)),
    )


def _ms(hours: pd.Index) -> list[int]:
    """The instants of an index of hours, in ms."""
    numbers: list[int] = hours.to_numpy("datetime64[ms]").astype(np.int64).tolist()
    return numbers


def _rows_that_began(run: Run, hours: Iterable[datetime], usage: Window) -> pd.DataFrame:
    windows = merged(Window(hour, hour + HOUR) for hour in hours)
    frames = [run.sides.spend_logs.rows(window, usage) for window in windows]
    return joined([empty(ROWS), *frames])


def _late(run: Run, window: Window, grown: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of the rows of hours that grew: those from before the window that a run was asked for, and the window's long
    ones.

    A row outside every window that was asked for is nobody's business yet: a call that began in one of them and ended
    after it is billed by whoever asks for its time.
    """
    times = grown["usage_ms"].to_numpy(np.int64)
    inside = times >= milliseconds(window.start)
    long = times - grown["start_ms"].to_numpy(np.int64) > as_ms(run.settings.max_call)
    in_window = grown[inside & long].reset_index(drop=True)
    before = grown[~inside].reset_index(drop=True)
    if before.empty:
        return before, in_window
    asked = run.sides.ledger.asked_windows(run.sides.stream)
    times = before["usage_ms"].to_numpy(np.int64)
    wanted = np.zeros(len(before), bool)
    for one in merged(asked):
        wanted |= (times >= milliseconds(one.start)) & (times < milliseconds(one.end))
    return before[wanted].reset_index(drop=True), in_window


def _known_long_calls(run: Run, window: Window) -> pd.DataFrame:
    """The rows (ROWS) of calls longer than RECONCILE_MAX_CALL that ended in the window, found by earlier runs."""
    sides = run.sides
    around = Window(window.start - run.halo, window.end + run.halo)
    starts = sides.ledger.long_calls(sides.stream, milliseconds(around.start), milliseconds(around.end))
    found = [sides.spend_logs.rows(Window(moment(start), moment(start + 1)), around) for start in starts]
    return joined([empty(ROWS), *found])


def _slices_of(times: Sequence[int], length: timedelta, window: Window) -> list[Window]:
    """The slices of the grid that hold these instants, cut at the window's ends."""
    size = as_ms(length)
    slices = []
    for number in sorted({time // size for time in times}):
        piece = Window(moment(number * size), moment((number + 1) * size))
        slices += [
            part
            for part in without(piece, [window])
            if any(milliseconds(part.start) <= time < milliseconds(part.end) for time in times)
        ]
    return slices


def _stretches(
    run: Run, wanted: Sequence[tuple[Window, Scope]], counts: pd.Series, unchanged: frozenset[Window]
) -> Iterable[Stretch]:
    """The slices in order, neighbours together, each group with the surroundings that its pairs may reach into."""
    groups: list[list[tuple[Window, Scope]]] = []
    for piece, scope in sorted(wanted, key=lambda one: one[0].start):
        if groups and groups[-1][-1][0].end == piece.start:
            groups[-1].append((piece, scope))
        else:
            groups.append([(piece, scope)])
    settings, halo_ = run.settings, run.halo
    for group in groups:
        start, end = group[0][0].start, group[-1][0].end
        # An unexplained event that belongs to a row near the start may lie further back than the pairing reaches. In
        # slices that are known to agree there is none.
        before = [Window(start - halo_ - settings.doubt_before, start - halo_)]
        far = without(before[0], [*unchanged])
        first = min((one.start for one in far), default=start - halo_)
        parts = [Part(Window(first, start), Scope.CONTEXT, core=False)]
        parts += [Part(window, scope) for window, scope in _read_together(group, counts)]
        parts.append(Part(Window(end, end + halo_), Scope.CONTEXT, core=False))
        after = on_grid(Window(end + halo_, end + halo_ + settings.doubt_after), max(settings.slice_length, HOUR))
        parts += [Part(window, Scope.CONTEXT, core=False, if_awaited=True) for window in after]
        yield Stretch(tuple(parts))


def _read_together(group: Sequence[tuple[Window, Scope]], counts: pd.Series) -> list[tuple[Window, Scope]]:
    """Neighbouring slices that hold few rows as one. Rows by their start tell well enough how many end in a slice."""
    hours = counts.index.to_numpy("datetime64[ms]").astype(np.int64)
    order = np.argsort(hours)
    edges = np.append(hours[order], hours.max(initial=0) + HOUR_MS)
    sums = np.concatenate(([0], np.cumsum(counts.to_numpy(np.int64)[order])))
    ends = np.array([milliseconds(window.end) for window, _ in group], np.int64)
    until = np.interp(ends, edges, sums) if len(hours) else np.zeros(len(group))
    together: list[tuple[Window, Scope]] = []
    slices, rows_before = 0, 0.0
    for number, (window, scope) in enumerate(group):
        few = slices < _SLICES_TOGETHER and until[number] - rows_before <= _ROWS_TOGETHER
        if together and few and together[-1][1] is scope:
            together[-1] = (Window(together[-1][0].start, window.end), scope)
            slices += 1
        else:
            together.append((window, scope))
            slices, rows_before = 1, float(until[number - 1]) if number else float(until[0])
    return together


def hours_read(plan: Plan, max_call: timedelta) -> set[int]:
    """The hours of "startTime" (numbered since 1970) within the window whose rows were all read in this run.

    A row's usage time may lie `max_call` after its start: all slices from the hour on, that far, must have been read.
    """
    read = [(milliseconds(one.start), milliseconds(one.end)) for one in plan.read_windows()]
    start, end = milliseconds(plan.window.start), milliseconds(plan.window.end)
    hours = range(-(-start // HOUR_MS), end // HOUR_MS)
    return {
        hour
        for hour in hours
        if any(low <= hour * HOUR_MS and min((hour + 1) * HOUR_MS + as_ms(max_call), end) <= high for low, high in read)
    }


def hours_before(plan: Plan, max_call: timedelta, asked: Sequence[Window]) -> list[int]:
    """The hours of "startTime" (numbered since 1970) before the window in which a call may begin that ends in it.

    Those that an `asked` window touches are left out: their counts are that run's to tell.
    """
    start = milliseconds(plan.window.start)
    hours = range((start - as_ms(max_call)) // HOUR_MS, start // HOUR_MS)
    touched = [(milliseconds(one.start), milliseconds(one.end)) for one in asked]
    return [
        hour
        for hour in hours
        if not any(first < (hour + 1) * HOUR_MS and hour * HOUR_MS < last for first, last in touched)
    ]


def begun_within(plan: Plan, max_call: timedelta) -> int | None:
    """The hour of "startTime" (numbered since 1970) that the window begins within, where its rows from there on were
    all read; None where the window begins with an hour.

    Where the last window ended just there, no run reads that hour as a whole.
    """
    start, end = milliseconds(plan.window.start), milliseconds(plan.window.end)
    hour = start // HOUR_MS
    until = min((hour + 1) * HOUR_MS + as_ms(max_call), end)
    if hour * HOUR_MS == start or not any(
        milliseconds(one.start) <= start and until <= milliseconds(one.end) for one in plan.read_windows()
    ):
        return None
    return hour

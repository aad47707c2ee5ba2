"""Reads both sides part by part. Rows are read ahead in a thread, and so are the events of the next parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from reconcile.classify import without_copies
from reconcile.classify.second_writing import OVERLAPPING, overlapping
from reconcile.domain.exact import usable
from reconcile.domain.frames import EVENTS, ROWS, among, empty, joined, where
from reconcile.domain.instants import milliseconds
from reconcile.domain.vocabulary import Scope
from reconcile.domain.window import Window
from reconcile.lago.directory import Directory
from reconcile.litellm.feed import RowFeed
from reconcile.run.held_rows import as_rows
from reconcile.run.plan import Key, Part, Plan, Stretch
from reconcile.run.shared import Run

# One call that was written twice ends within milliseconds of itself: a minute of the part before is enough.
_NEAR_MS = 60_000


@dataclass(frozen=True, slots=True)
class Read:
    """What was read of a part: rows (ROWS) and events (EVENTS) with a time in it, each once. The last one is empty.

    `listed_ms` are the times of all events that Lago listed, further copies of one included. `counted` marks the events
    that count: those of the window that was asked for. `twins` are the rows (by key) that another row of equal content
    encloses in time: LiteLLM may have written one call twice. `delivered` are IDs of events that an earlier run
    delivered here. `horizon_ms` is how far both
    sides were read, None at the end.
    """

    part: Part | None
    rows: pd.DataFrame
    events: pd.DataFrame
    listed_ms: npt.NDArray[np.int64]
    counted: npt.NDArray[np.bool_]
    twins: frozenset[Key]
    delivered: frozenset[str]
    horizon_ms: int | None

    @property
    def is_last(self) -> bool:
        return self.part is None

    @property
    def is_beyond(self) -> bool:
        """Whether it lies behind what is to be decided about, and was read because rows wait for its events."""
        return self.part is not None and self.part.if_awaited

    @property
    def counted_events(self) -> pd.DataFrame:
        return where(self.events, self.counted)


class Reader:
    """Reads a stretch part by part. Use it as a context manager."""

    def __init__(self, run: Run, plan: Plan, stretch: Stretch, directory: Directory) -> None:
        self._run, self._plan, self._stretch, self._directory = run, plan, stretch, directory
        self._planned = [part for part in stretch.parts if not part.if_awaited]
        self._number = 0
        self._recent = empty(ROWS)[list(OVERLAPPING)]
        span = Window(stretch.parts[0].window.start, stretch.parts[-1].window.end)
        # Every event that is read finds its row: rows are read from one reach earlier on.
        usage = Window(span.start - run.settings.match_after, span.end)
        self._feed = RowFeed(run.sides.spend_logs, usage, run.settings.max_call)
        # Listed on while the job is at work: how many requests are in flight is decided in the client.
        edges = [part.window.start for part in self._planned] + [self._planned[-1].window.end]
        self._pieces = run.sides.lago.list_pieces(run.settings.event_code, edges, run.event_shape)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._feed.__exit__(*exception)
        self._pieces.close()

    def read(self, awaited_ms: int | None) -> Read:
        """The next part in order of time; behind the stretch's end only as far as a row waits, up to `awaited_ms`."""
        run, parts, number = self._run, self._stretch.parts, self._number
        run.go_on()
        if number == len(parts) or (parts[number].if_awaited and not _awaited(parts[number], awaited_ms)):
            nothing = frozenset[Any]()
            return Read(
                None, empty(ROWS), empty(EVENTS), np.zeros(0, np.int64), np.zeros(0, bool), nothing, nothing, None
            )
        part = parts[number]
        self._number += 1
        with run.timing.stage("read"):
            rows = self._feed.up_to(part.window.end)
            if number + 1 < len(self._planned):
                self._feed.read_ahead(self._planned[number + 1].window.end)
            rows = _with_further(rows, self._plan, part)
        with run.timing.stage("list"):
            events = next(self._pieces) if not part.if_awaited else list_events(run, part.window)
        with run.timing.stage("look up"):
            rows = _scoped(rows, part, self._plan)
            rows, events = _named_for_lago(rows, events, self._directory)
            rows, events, delivered = _with_deliveries(run, rows, part, events)
            listed_ms = events["time_ms"].to_numpy(np.int64)
            if run.sides.clickhouse and run.rules.copies == "one":
                events = without_copies(events)
        looked_at = rows[list(OVERLAPPING)]
        near = joined([self._recent, looked_at])
        self._recent = looked_at[rows["usage_ms"].to_numpy(np.int64) >= milliseconds(part.window.end) - _NEAR_MS]
        counted = np.full(len(events), part.scope is Scope.WINDOW)
        if not part.if_awaited:
            run.progress.step(f"{part.window.end:%Y-%m-%d %H:%M}")
        return Read(
            part,
            rows,
            events,
            listed_ms,
            counted,
            frozenset(overlapping(near)),
            delivered,
            milliseconds(part.window.end),
        )


def _awaited(part: Part, awaited_ms: int | None) -> bool:
    """Whether a row waits for what may lie in the part. Nothing lies in the future."""
    until = min(awaited_ms if awaited_ms is not None else 0, milliseconds(datetime.now(UTC)))
    return milliseconds(part.window.start) < until


def list_events(run: Run, window: Window) -> pd.DataFrame:
    """The events of the stream's code in a window (EVENTS), as Lago lists them."""
    return run.sides.lago.list_events(run.settings.event_code, window.start, window.end, run.event_shape)


def _with_further(rows: pd.DataFrame, plan: Plan, part: Part) -> pd.DataFrame:
    """The rows of a part with those that their start does not lead to, and the ledger's copies of deleted ones."""
    start, end = milliseconds(part.window.start), milliseconds(part.window.end)
    times = plan.further["usage_ms"].to_numpy(np.int64)
    due = plan.further[(times >= start) & (times < end)]
    if not due.empty:
        rows = joined([rows, due]).drop_duplicates(["request_id", "start_ms"], ignore_index=True)
    copies = [row for row in plan.free if start <= row.usage_ms < end]
    if copies:
        there = set(zip(rows["request_id"].tolist(), rows["start_ms"].tolist(), strict=True))
        deleted = as_rows([row for row in copies if row.key not in there])
        rows = joined([rows, deleted])
    return rows


def _scoped(rows: pd.DataFrame, part: Part, plan: Plan) -> pd.DataFrame:
    """Gives every row its scope. A copy of the ledger's keeps the one that it has."""
    if rows.empty:
        return rows
    times = rows["usage_ms"].to_numpy(np.int64)
    inside = (times >= milliseconds(part.window.start)) & (times < milliseconds(part.window.end))
    words = [one.value for one in Scope]
    context, held, late, own = (words.index(one.value) for one in (Scope.CONTEXT, Scope.HELD, Scope.LATE, part.scope))
    scope = np.where(inside, own, context)
    copies = among(rows["scope"], [Scope.HELD])
    # What is read for its neighbours' sake is in the core of another stretch, if it is anybody's business.
    scope[copies] = held if part.core else context
    if part.core and part.scope is not Scope.WINDOW:
        scope[_among(rows, {row.key for row in plan.retried})] = held
        scope[_among(rows, plan.late)] = late
    return rows.assign(scope=pd.Categorical.from_codes(scope, pd.Index(words, dtype="str")))


def _among(rows: pd.DataFrame, keys: frozenset[Key] | set[Key]) -> npt.NDArray[np.bool_]:
    found = np.zeros(len(rows), bool)
    if keys and len(rows):
        starts = rows["start_ms"].to_numpy(np.int64)
        near = np.flatnonzero(np.isin(starts, [start for _, start in keys]))
        requests = rows["request_id"].array.take(near).tolist()
        found[near] = [key in keys for key in zip(requests, starts[near].tolist(), strict=True)]
    return found


def _named_for_lago(
    rows: pd.DataFrame, events: pd.DataFrame, directory: Directory
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Asks Lago for the subscriptions that have money here; gives rows and events the IDs of the other side."""
    if rows.empty and events.empty:
        return rows, events
    charge_ids, subscriptions = _used(rows["charge_id"]), _used(events["subscription_id"])
    since = int(
        min(rows["usage_ms"].min() if len(rows) else np.inf, events["time_ms"].min() if len(events) else np.inf, 2**62)
    )
    money = _money(rows)
    if directory.by_customer:
        directory.learn(charge_ids, subscription_ids=subscriptions, since_ms=since, money=money)
        coverage = directory.coverage
        resolved = coverage.resolve(rows["charge_id"].array, rows["usage_ms"].to_numpy(np.int64))
        return (
            rows.assign(subscription_id=resolved.subscription),
            events.assign(charge_id=coverage.charge_ids_of(events["subscription_id"].array)),
        )
    directory.learn({*charge_ids, *subscriptions}, since_ms=since, money=money)
    return rows, events


def _money(rows: pd.DataFrame) -> dict[str, float]:
    """What the rows of each charge ID cost, about: it decides whom Lago is asked about first."""
    codes, names = rows["charge_id"].cat.codes.to_numpy(), rows["charge_id"].cat.categories.tolist()
    sums = np.bincount(codes, weights=usable(rows["spend"].to_numpy(np.float64)), minlength=len(names))
    return {names[code]: float(sums[code]) for code in np.unique(codes).tolist()}


def _used(column: pd.Series) -> list[str]:
    codes = np.unique(column.cat.codes.to_numpy())
    names: list[str] = column.cat.categories.take(codes).tolist()
    return names


def _with_deliveries(
    run: Run, rows: pd.DataFrame, part: Part, events: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame, frozenset[str]]:
    """Tells rows what was handed to Lago for another charge ID, and waits for what was sent lately on ClickHouse.

    Gives the IDs of all that was delivered in the part, too.
    """
    sides = run.sides
    known = sides.ledger.delivered(sides.stream, milliseconds(part.window.start), milliseconds(part.window.end))
    if known.empty:
        return rows, events, frozenset()
    merged = rows[["request_id", "start_ms"]].merge(known, on=["request_id", "start_ms"], how="left")
    given = merged["charge_id"].fillna("").to_numpy(object)
    elsewhere = (given != "") & (given != rows["charge_id"].to_numpy(object))
    if elsewhere.any():
        rows = rows.assign(
            earlier_id=merged["transaction_id"].where(elsewhere, "").astype("str").array,
            earlier_sure=elsewhere & merged["taken"].eq(True).to_numpy(bool),
        )
    if sides.clickhouse:
        due = {
            str(name): left_by + run.settings.visible_within
            for name, left_by in zip(known["transaction_id"].tolist(), known["left_by"].tolist(), strict=True)
        }
        events = _await_visible(run, part, events, due)
    return rows, events, frozenset(known["transaction_id"].tolist())


def _await_visible(run: Run, part: Part, events: pd.DataFrame, due: Mapping[str, datetime]) -> pd.DataFrame:
    """Lists a part again until what was sent lately is there, or has had the time to become visible."""
    pause = 0.5
    now = run.timing.now()
    young = {name: until for name, until in due.items() if until > now}
    while True:
        unseen = young.keys() - set(events["transaction_id"].tolist()) if young else set()
        left = max(((young[name] - run.timing.now()).total_seconds() for name in unseen), default=0.0)
        if left <= 0:
            return events
        run.progress.note(f"waiting for {len(unseen)} events that Lago may not show yet")
        run.stop.wait(min(pause, left))
        run.go_on()
        pause = min(pause * 1.5, 10.0)
        events = list_events(run, part.window)

"""Bugs that were planted in the job, one function each: what a careless change could do. The simulator finds them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock

import numpy as np

from reconcile.domain import event_frames, window
from reconcile.errors import ReconcileError
from reconcile.lago import batch, coverage, events
from reconcile.lago.delivery import Delivery
from reconcile.ledger import Ledger
from reconcile.litellm.feed import RowFeed
from reconcile.run import courier, decide, deliver, held_rows, job, keep, plan, read, read_back

Bug = Callable[[], AbstractContextManager[object]]
BUGS: dict[str, Bug] = {}
# A seed that finds each: CI plays these, so that a bug that is planted nowhere any more does not go unnoticed.
KNOWN = {
    "random_transaction_id": 3,
    "ledger_after_sending": 10,
    "read_back_skipped": 298,
    "late_tolerance_ignored": 118,
    "late_rows_ignored": 11,
    "copies_not_folded": 289,
    "visibility_ignored": 148,
    "held_rows_forgotten": 8,
    "lag_ignored": 32,
    "retention_ignored": 94,
    "failed_batch_taken_as_sent": 281,
    "edge_hours_forgotten": 11,
    "doubted_hours_kept": 36,
    "subscription_end_ignored": 10,
    "not_counted_ignored": 108,
    "price_ignored": 8,
    "rows_at_the_edge_lost": 1,
    "own_time_of_sending": 3,
}


def bug(plant: Callable[[], Iterator[None]]) -> Callable[[], Iterator[None]]:
    BUGS[plant.__name__] = contextmanager(plant)
    return plant


@bug
def random_transaction_id() -> Iterator[None]:
    """Every run gives its events new IDs."""
    chance = random.Random(1)

    def ids(code: str, charge_ids: Any, request_ids: Any, starts_ms: Any) -> list[str]:
        return [f"llm_{chance.getrandbits(128):032x}" for _ in request_ids]

    with mock.patch.object(deliver, "transaction_ids", ids):
        yield


@bug
def ledger_after_sending() -> Iterator[None]:
    """Events leave first, and are written down once Lago has answered."""
    claim, sending, real = Ledger.claim, Ledger.sending, Delivery.deliver
    later: list[Callable[[], Any]] = []

    def put_off(self: Any, stream: Any, run_id: str, rows: Any, **options: Any) -> Any:
        later.append(lambda: claim(self, stream, run_id, rows, **options))
        return np.ones(len(rows), bool)

    def put_off_too(self: Any, run_id: str, batches: Any) -> None:
        later.append(lambda: sending(self, run_id, batches))

    def send(self: Any, *arguments: Any, **options: Any) -> Any:
        found = real(self, *arguments, **options)
        while later:
            later.pop(0)()
        return found

    with (
        mock.patch.object(Ledger, "claim", put_off),
        mock.patch.object(Ledger, "sending", put_off_too),
        mock.patch.object(Delivery, "deliver", send),
    ):
        yield


@bug
def read_back_skipped() -> Iterator[None]:
    """What Lago answered is taken for what it holds: a row is delivered once the sending is over."""

    def verify(run: Any, rows: Any, ids: Any, listed: Any) -> Any:
        return read_back.Verified(rows)

    def after(outcomes: list[Any]) -> list[Any]:
        return [one._replace(status="accepted") if one.status == "unknown" else one for one in outcomes]

    real = Delivery.deliver

    def send(self: Any, made: Any, *, after_batch: Any, **options: Any) -> Any:
        try:
            return real(self, made, after_batch=lambda outcomes: after_batch(after(outcomes)), **options)
        except ReconcileError:
            return []

    with mock.patch.object(courier, "verify", verify), mock.patch.object(Delivery, "deliver", send):
        yield


@bug
def late_tolerance_ignored() -> Iterator[None]:
    """A live event beyond the reach of the pairing is nobody's: the row beside it is sent."""

    def late_events(rows: Any, unexplained: Any, reach: Any) -> Any:
        return np.full(len(rows), -1, np.int64)

    with mock.patch.object(decide, "late_events", late_events):
        yield


@bug
def late_rows_ignored() -> Iterator[None]:
    """Hours are not counted again: what is written after its night is nobody's."""
    real = plan._recount

    def recount(run: Any, window: Any, *, recheck: bool) -> Any:
        return replace(real(run, window, recheck=recheck), grown=())

    with mock.patch.object(plan, "_recount", recount):
        yield


@bug
def copies_not_folded() -> Iterator[None]:
    """A lost answer of a ClickHouse store is followed by the same batch again, and every copy is billed."""

    def not_listed(self: Any, items: Any) -> Any:
        return items

    with mock.patch.object(batch.Settler, "_not_listed", not_listed):
        yield


@bug
def visibility_ignored() -> Iterator[None]:
    """What a killed run sent to a ClickHouse store a moment ago is not waited for."""

    def seen(run: Any, part: Any, listed: Any, due: Any) -> Any:
        return listed

    with mock.patch.object(read, "_await_visible", seen):
        yield


@bug
def held_rows_forgotten() -> Iterator[None]:
    """Held rows stay held, whatever becomes of what held them."""
    with mock.patch.object(job, "free_rows", return_value=[]):
        yield


@bug
def lag_ignored() -> Iterator[None]:
    """A run goes up to now: live events of its last rows are still on their way."""
    real = window.lookback_window

    def up_to_now(now: Any, lag: Any, lookback: Any) -> Any:
        return real(now, timedelta(0), lookback)

    with mock.patch.object(window, "lookback_window", up_to_now):
        yield


@bug
def retention_ignored() -> Iterator[None]:
    """A held row that LiteLLM has deleted meanwhile is not sent from the ledger's copy."""
    with mock.patch.object(read, "as_rows", return_value=held_rows.as_rows([])):
        yield


@bug
def failed_batch_taken_as_sent() -> Iterator[None]:
    """A 500 is taken for an answer like any other, and the batch for stored."""

    def isolate(self: Any, items: Any, answer: Any) -> None:
        for item in items:
            item.settle("accepted", None, 200)

    def verify(run: Any, rows: Any, ids: Any, listed: Any) -> Any:
        return read_back.Verified(rows)

    with mock.patch.object(batch.Settler, "_isolate", isolate), mock.patch.object(courier, "verify", verify):
        yield


@bug
def subscription_end_ignored() -> Iterator[None]:
    """A subscription that has ended covers later usage all the same."""
    real = coverage._ends

    def ends(places: Any) -> list[int]:
        return [coverage._NEVER for _ in real(places)]

    def period_closed(self: Any, covering: Any, usage_ms: Any, drafts: Any = ()) -> Any:
        return np.zeros(len(covering), bool)

    with (
        mock.patch.object(coverage, "_ends", ends),
        mock.patch.object(coverage.Coverage, "period_closed", period_closed),
    ):
        yield


@bug
def not_counted_ignored() -> Iterator[None]:
    """An event that the metric does not count passes for a billed one."""
    real = events.PageDecoder._counted

    def counted(self: Any, count: int, number: Any, values: Any) -> Any:
        flags, added = real(self, count, number, values)
        return np.ones_like(flags), np.where(flags & (added != 0), added, np.nan)

    with mock.patch.object(events.PageDecoder, "_counted", counted):
        yield


@bug
def price_ignored() -> Iterator[None]:
    """A plan without a charge on the metric is taken for one that has it."""

    def not_priced(self: Any, covering: Any) -> Any:
        return np.zeros(len(covering), bool)

    with mock.patch.object(coverage.Coverage, "not_priced", not_priced):
        yield


@bug
def rows_at_the_edge_lost() -> Iterator[None]:
    """The slices of the feed leave out what began before them: calls are taken to be short."""
    real = RowFeed.__init__

    def begin(self: Any, spend_logs: Any, usage: Any, max_call: Any) -> None:
        real(self, spend_logs, usage, timedelta(0))

    with mock.patch.object(RowFeed, "__init__", begin):
        yield


@bug
def edge_hours_forgotten() -> Iterator[None]:
    """The hour that a window begins within is not noted: what is written into it later is nobody's."""
    with mock.patch.object(keep, "begun_within", return_value=None):
        yield


@bug
def doubted_hours_kept() -> Iterator[None]:
    """A run that could not finish has reconciled its late rows all the same."""
    real = job.Courier.raise_doubt
    seen: list[Any] = []

    def plan_made(run: Any, *rest: Any) -> Any:
        seen[:] = [(run, made := plan.make_plan(run, *rest))]
        return made

    def raise_doubt(self: Any) -> None:
        for run, made in seen:
            numbers = made.recount.counts.index.to_numpy("datetime64[ms]").astype(np.int64) // 3_600_000
            keep._keep_grown(run, made, dict(zip(numbers.tolist(), made.recount.counts.tolist(), strict=True)))
        real(self)

    with mock.patch.object(job, "make_plan", plan_made), mock.patch.object(job.Courier, "raise_doubt", raise_doubt):
        yield


@bug
def own_time_of_sending() -> Iterator[None]:
    """Events carry the time of their sending instead of the call's end."""
    real = event_frames.build

    def build(*arguments: Any, **named: Any) -> Any:
        for one in real(*arguments, **named):
            yield {**one, "timestamp": f"{datetime.now(UTC).timestamp():.3f}2"}

    with mock.patch.object(deliver, "build", build):
        yield

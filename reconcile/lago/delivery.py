"""Delivering events: batches as they are built, sent side by side as far as Lago gains from it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson

from reconcile.errors import Interrupted, ReconcileError
from reconcile.lago.batch import Item, Look, Outcome, Settler
from reconcile.lago.gate import Gate
from reconcile.lago.http import Http

BATCH_SIZE: Final = 100  # LAGO_EVENTS_BATCH_MAX_LENGTH's default
BATCH_BYTES: Final = 900_000  # nginx refuses bodies over 1 MB by default

BeforeBatch = Callable[[list[str], int], None]
AfterBatch = Callable[[list[Outcome]], None]
FirstAnswer = Callable[[datetime | None], None]


@dataclass(slots=True, eq=False)
class _Batch:
    items: list[Item]
    number: int = 0
    fault: ReconcileError | None = None

    @property
    def outcomes(self) -> list[Outcome]:
        return [
            Outcome(item.transaction_id, item.status, item.reason, self.number, item.http_status) for item in self.items
        ]


class Delivery:
    """Writes of events."""

    http: Http
    batches: Gate

    def deliver(
        self,
        events: Iterable[dict[str, Any]],
        *,
        look: Look | None = None,
        stored: Mapping[str, Any] | None = None,
        first_answer: FirstAnswer | None = None,
        before_batch: BeforeBatch | None = None,
        after_batch: AfterBatch | None = None,
        stop: threading.Event | None = None,
    ) -> list[Outcome]:
        """Send events (Lago's own fields, `transaction_id` among them); their outcomes in the same order.

        `events` is iterated over in the calling thread while batches are on their way, so it may build them one by one.

        `before_batch(transaction IDs, number)` and `after_batch(outcomes)` run in the calling thread, one at a time:
        the first before the first byte of its events leaves, the other once for every batch that was begun. At most
        one batch more is begun than may be in flight.

        `look(transaction IDs)` is given where Lago would store an event twice (ClickHouse): it waits until what was
        sent would be visible, and returns those IDs that Lago lists; only the others are sent again after an answer
        that was lost. It is called by the threads that send. Without it, what is in doubt is simply sent again.

        `stored` is an event that Lago is known to hold (transaction_id, external_subscription_id, code, timestamp). It
        is sent again where Lago answers 500, to see whether Lago works at all; it comes back as existing.

        `first_answer(created_at)` is called once, in the calling thread, when Lago has first taken an event and before
        another batch leaves: with Lago's time of that (whole seconds), None where it does not say (ClickHouse). It may
        raise to end the delivery.

        When `stop` is set, no batch is begun any more and those on their way are finished; the rest comes out as
        `unknown`.

        Raises `LagoFault` when a batch could not be settled, after all batches on their way have ended and
        `after_batch` has told what is known of them. An exception of a callback ends the delivery in the same
        way.
        """
        stops = [self.http.stop] + ([stop] if stop is not None else [])
        settler = Settler(self.http, self.batches, look, None if stored is None else orjson.dumps(dict(stored)))
        batches: list[_Batch] = []
        running: set[Future[_Batch]] = set()
        fault: ReconcileError | None = None
        asked = first_answer is None

        def ask() -> None:
            nonlocal asked
            if first_answer is not None and not asked and settler.accepted:
                asked = True
                first_answer(settler.created_at)

        def settle(batch: _Batch) -> _Batch:
            try:
                settler.settle(batch.items)
            except ReconcileError as error:
                batch.fault = error
                for item in batch.items:
                    if item.status == "unknown":
                        item.settle("unknown", str(error), None)
            return batch

        def collect(ended: set[Future[_Batch]]) -> None:
            nonlocal fault
            running.difference_update(ended)
            for batch in sorted((future.result() for future in ended), key=lambda batch: batch.number):
                fault = fault or batch.fault
                if after_batch is not None:
                    after_batch(batch.outcomes)

        with ThreadPoolExecutor(self.http.concurrency, thread_name_prefix="lago-deliver") as pool:
            try:
                for batch in _batches(events):
                    batches.append(batch)
                    if fault is not None or any(event.is_set() for event in stops):
                        continue  # it is named among the unsent
                    while len(running) > (self.batches.limit if asked else 0):
                        collect(wait(running, return_when=FIRST_COMPLETED).done)
                        ask()
                    if fault is not None or any(event.is_set() for event in stops):
                        continue
                    batch.number = len(batches)
                    if before_batch is not None:
                        before_batch([item.transaction_id for item in batch.items], batch.number)
                    for item in batch.items:
                        item.reason = None
                    running.add(pool.submit(settle, batch))
            finally:
                # Whatever ended the loop, what is on its way in Lago's direction must be known.
                collect(wait(running).done)
        if fault is not None and not isinstance(fault, Interrupted):
            raise fault
        ask()
        return [outcome for batch in batches for outcome in batch.outcomes]


def _batches(events: Iterable[dict[str, Any]]) -> Iterator[_Batch]:
    """In order, as large as both limits allow, never with one transaction ID twice.

    Lago keeps the books of a batch by transaction ID alone: it refuses a second subscription's event of the
    same ID.
    """
    items: list[Item] = []
    ids: set[str] = set()
    size = 0
    for event in events:
        transaction_id = str(event["transaction_id"])
        body = orjson.dumps(event)
        if items and (len(items) == BATCH_SIZE or size + len(body) > BATCH_BYTES or transaction_id in ids):
            yield _Batch(items)
            items, ids, size = [], set(), 0
        items.append(Item(transaction_id, body))
        ids.add(transaction_id)
        size += len(body) + 1
    if items:
        yield _Batch(items)

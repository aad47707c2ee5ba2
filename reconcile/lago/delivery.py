"""Delivering events: batches, what each refusal means, and an outcome for every event.

Lago's batch is all or nothing since v1.39.0: a 422 names the bad items by index and nothing is stored
(create_batch_service.rb). Before v1.39.0 the good items of a refused batch could be stored all the same: sent
again, they come back as existing. So the rule is safe on both: what a 422 flags is settled, the rest is sent
again. A request whose answer was lost is repeated as it is; what it had stored comes back as existing. On the
ClickHouse store nothing is ever refused as existing, and an event that arrives twice is one by its identity.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Any, Literal

import orjson

from reconcile.errors import Interrupted, ReconcileError
from reconcile.lago.http import Answer, Http, as_dict, as_int, as_list

BATCH_SIZE = 100  # LAGO_EVENTS_BATCH_MAX_LENGTH's default
BATCH_BYTES = 900_000  # nginx refuses bodies over 1 MB by default
_ROUNDS = 4  # of one batch before its events are sent one by one: invalid, existing, accepted, and one to spare
_REASON = 200  # characters

_REFUSALS = frozenset({400, 409, 413, 422})  # final answers to a request; everything else is held and tried again

Status = Literal["accepted", "exists", "refused", "unknown"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one event.

    - `accepted`: Lago took it (200). That is not billed yet.
    - `exists`: Lago has an event of this subscription and transaction ID; whether of equal content, the
      caller compares.
    - `refused`: Lago will never take it; `reason` says why.
    - `unknown`: not sent, or sent and the answer never came. Sending it again is safe.

    `batch` counts from 1 within one delivery, in the order of `before_batch`; 0 for an event that was never
    sent. `http_status` is that of the answer that decided, None where there was none.
    """

    transaction_id: str
    status: Status
    reason: str | None
    batch: int
    http_status: int | None


@dataclass(slots=True)
class _Item:
    event: dict[str, Any]
    body: bytes
    outcome: Outcome

    def settle(self, status: Status, reason: str | None, http_status: int | None) -> None:
        self.outcome = replace(self.outcome, status=status, reason=reason, http_status=http_status)


@dataclass(frozen=True, slots=True)
class _Batch:
    items: list[_Item]
    fault: ReconcileError | None = None


class Delivery:
    """Writes of events."""

    http: Http

    def deliver(
        self,
        events: Sequence[dict[str, Any]],
        *,
        concurrency: int | None = None,
        before_batch: Callable[[list[dict[str, Any]]], None] | None = None,
        after_batch: Callable[[list[Outcome]], None] | None = None,
        stop: threading.Event | None = None,
    ) -> list[Outcome]:
        """Send events (Lago's own fields, `transaction_id` among them); their outcomes in the same order.

        At most `concurrency` batches are on their way at a time (default: the client's). Both callbacks run
        in the calling thread, one at a time: `before_batch` before the first byte of its events leaves,
        `after_batch` once for every batch that was begun, with an outcome per event. When `stop` is set, no
        batch is begun any more and those on their way are finished; the rest comes out as `unknown`.

        Raises `LagoFault` when a batch could not be settled, after all batches on their way have ended and
        `after_batch` has told what is known of them. An exception of a callback ends the delivery in the same
        way.
        """
        items = [_item(event) for event in events]
        stops = [self.http.stop] + ([stop] if stop is not None else [])
        running: set[Future[_Batch]] = set()
        fault: ReconcileError | None = None

        def collect(ended: set[Future[_Batch]]) -> None:
            nonlocal fault
            for future in ended:
                batch = future.result()
                fault = fault or batch.fault
                if after_batch is not None:
                    after_batch([item.outcome for item in batch.items])

        limit = concurrency or self.http.concurrency
        with ThreadPoolExecutor(limit, thread_name_prefix="lago-deliver") as pool:
            try:
                for number, batch in enumerate(_batches(items), start=1):
                    if len(running) >= limit:
                        ended, running = wait(running, return_when=FIRST_COMPLETED)
                        collect(ended)
                    if fault is not None or any(event.is_set() for event in stops):
                        break
                    if before_batch is not None:
                        before_batch([item.event for item in batch])
                    for item in batch:
                        item.outcome = replace(item.outcome, reason=None, batch=number)
                    running.add(pool.submit(self._settle, batch))
            finally:
                # Whatever ended the loop, what is on its way in Lago's direction must be known.
                collect(wait(running).done)
        if fault is not None and not isinstance(fault, Interrupted):
            raise fault
        return [item.outcome for item in items]

    def _settle(self, items: list[_Item]) -> _Batch:
        """Give every item its outcome; on a fault, those without an answer stay `unknown` and say why."""
        try:
            self._send(items, _ROUNDS)
        except ReconcileError as error:
            for item in items:
                if item.outcome.status == "unknown":
                    item.settle("unknown", str(error), None)
            return _Batch(items, error)
        return _Batch(items)

    def _send(self, group: list[_Item], rounds: int) -> None:
        if len(group) == 1 or rounds == 0:
            self._send_one_by_one(group)
            return
        body = b'{"events":[' + b",".join(item.body for item in group) + b"]}"
        answer = self.http.post("/events/batch", body, answers=_REFUSALS)
        if answer.ok:
            for item in group:
                item.settle("accepted", None, answer.status)
        elif answer.status == 413 or _too_many(answer):
            middle = len(group) // 2
            self._send(group[:middle], rounds)
            self._send(group[middle:], rounds)
        elif flagged := _flagged(group, answer):
            for index, details in flagged.items():
                _settle_refusal(group[index], details, answer.status)
            if rest := [item for index, item in enumerate(group) if index not in flagged]:
                self._send(rest, rounds - 1)
        else:  # refused as a whole, for a reason that names no event
            self._send_one_by_one(group)

    def _send_one_by_one(self, group: list[_Item]) -> None:
        for item in group:
            answer = self.http.post("/events", b'{"event":' + item.body + b"}", answers=_REFUSALS)
            if answer.ok:
                item.settle("accepted", None, answer.status)
            else:
                _settle_refusal(item, _details(answer) or answer.excerpt or None, answer.status)


def _item(event: dict[str, Any]) -> _Item:
    unsent = Outcome(str(event["transaction_id"]), "unknown", "not sent", 0, None)
    return _Item(event, orjson.dumps(event), unsent)


def _batches(items: Sequence[_Item]) -> Iterator[list[_Item]]:
    """In order, as large as both limits allow, never with one transaction ID twice.

    Lago keeps the books of a batch by transaction ID alone: it refuses a second subscription's event of the
    same ID.
    """
    seen: Counter[str] = Counter()
    turns: dict[int, list[_Item]] = defaultdict(list)
    for item in items:
        turns[seen[item.outcome.transaction_id]].append(item)
        seen[item.outcome.transaction_id] += 1
    for turn in turns.values():
        batch: list[_Item] = []
        size = 0
        for item in turn:
            if batch and (len(batch) == BATCH_SIZE or size + len(item.body) > BATCH_BYTES):
                yield batch
                batch, size = [], 0
            batch.append(item)
            size += len(item.body) + 1
        yield batch


def _details(answer: Answer) -> object:
    return (answer.body or {}).get("error_details") if answer.status == 422 else None


def _too_many(answer: Answer) -> bool:
    details = as_dict(_details(answer))
    return "too_many_events" in as_list(details.get("events"))


def _flagged(group: list[_Item], answer: Answer) -> dict[int, object]:
    """The refused items of a 422 by their position in the request; empty where it names none."""
    found: dict[int, object] = {}
    for key, details in as_dict(_details(answer)).items():
        index = as_int(key)
        if index is not None and 0 <= index < len(group):
            found[index] = details
    return found


def _settle_refusal(item: _Item, details: object, http_status: int) -> None:
    """`details` of one event: codes by field, or a string (a metric's expression that failed)."""
    fields = as_dict(details)
    if list(fields) == ["transaction_id"] and "value_already_exist" in as_list(fields["transaction_id"]):
        item.settle("exists", None, http_status)
        return
    if fields:
        reason = "; ".join(f"{name}: {', '.join(map(str, as_list(codes)))}" for name, codes in fields.items())
    else:
        reason = str(details) if details else f"refused with {http_status}"
    item.settle("refused", reason[:_REASON], http_status)

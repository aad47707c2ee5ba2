"""What becomes of one batch: every refusal read, every lost answer followed up, an outcome for every event.

Lago's batch is all or nothing since v1.39.0: a 422 names the bad items by index and nothing is stored
(create_batch_service.rb). Before v1.39.0 the good items of a refused batch could be stored all the same: sent
again, they come back as existing. So the rule is safe on both: what a 422 flags is settled, the rest is sent
again.

A 500 may be one item's fault (a NUL, an infinite timestamp, properties beyond what an index of `events` takes), or
Lago is down. An answer other than a 5xx tells the two apart: see `Settler._isolate`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal, NamedTuple

import msgspec

from reconcile.errors import LagoFault
from reconcile.lago.body import shown
from reconcile.lago.gate import Gate
from reconcile.lago.http import Answer, AnswerLost, Http, as_dict, as_int, as_list

Status = Literal["accepted", "exists", "refused", "unknown"]
Look = Callable[[Sequence[str]], Collection[str]]

_ROUNDS: Final = 4  # of one batch before its events go one by one: invalid, existing, accepted, and one to spare
_TRIES: Final = 3  # of what Lago answers 500 to
_TRIES_LOOKING: Final = 2  # where each one costs a look at what is listed
_LOST: Final = 4  # answers lost in a row
_PAUSE: Final = 0.2  # seconds between two tries, at most
_SAMPLE: Final = 3  # single events that Lago answers 500 to, and nothing else, before it is held to be down
_REASON: Final = 200  # characters
_REFUSALS: Final = frozenset({400, 409, 413, 422})  # final answers to a request
_JUDGED: Final = _REFUSALS | {500}  # everything else is held and tried again


class Outcome(NamedTuple):
    """What became of one event.

    - `accepted`: Lago took it (200). That is not billed yet.
    - `exists`: Lago has an event of this subscription and transaction ID; whether of equal content, the
      caller compares.
    - `refused`: Lago will never take it; `reason` says why.
    - `unknown`: not sent, or sent and the answer never came.

    `batch` counts from 1 within one delivery, 0 for an event that was never sent. `http_status` is that of the answer
    that decided, None where there was none.
    """

    transaction_id: str
    status: Status
    reason: str | None
    batch: int
    http_status: int | None


@dataclass(slots=True, eq=False)
class Item:
    """One event on its way."""

    transaction_id: str
    body: bytes
    status: Status = "unknown"
    reason: str | None = "not sent"
    http_status: int | None = None

    def settle(self, status: Status, reason: str | None, http_status: int | None) -> None:
        self.status, self.reason, self.http_status = status, reason, http_status
        self.body = b""


class _Stored(msgspec.Struct, gc=False):
    created_at: Any = None


class _StoredBatch(msgspec.Struct, gc=False):
    events: list[_Stored] = []
    event: _Stored | None = None


_CREATED: Final = msgspec.json.Decoder(_StoredBatch).decode


class Settler:
    """Settles the batches of one delivery; usable from several threads.

    `look` is given where what was sent must not be sent again blindly (ClickHouse). `known` is the body of an event
    that Lago holds: to send it again changes nothing on the Postgres store, and tells whether Lago works.
    """

    def __init__(self, http: Http, gate: Gate, look: Look | None, known: bytes | None) -> None:
        self._http = http
        self._gate = gate
        self._look = look
        self._known = known
        self._tries = _TRIES if look is None else _TRIES_LOOKING
        self._lock = threading.Lock()
        self._worked = 0  # answers to events that were no 5xx
        self.accepted = False
        self.created_at: datetime | None = None  # of the first event that was stored, by Lago's clock

    def settle(self, items: list[Item]) -> None:
        """Give every item its outcome. On a fault those without an answer stay `unknown`."""
        self._send(items, _ROUNDS)

    def _send(self, items: list[Item], rounds: int) -> None:
        if len(items) == 1 or rounds == 0:
            for item in items:
                self._send_alone(item)
            return
        answer, left = self._ask(items, self._tries)
        if answer is None:
            return
        if answer.status == 500:
            self._isolate(left, answer)
        else:
            too_large = answer.status == 413 or _too_many(answer)
            for group in self._read(answer, left):
                self._send(group, rounds if too_large else rounds - 1)

    def _send_alone(self, item: Item) -> None:
        answer, left = self._ask([item], self._tries)
        if answer is None:
            return
        if answer.status == 500:
            self._isolate(left, answer)
        else:
            self._read(answer, left)

    def _read(self, answer: Answer, items: list[Item]) -> list[list[Item]]:
        """Settle what the answer settles; the groups that have to be sent again."""
        if answer.ok:
            for item in items:
                item.settle("accepted", None, answer.status)
            return []
        if len(items) == 1:
            _settle_refusal(items[0], _details_of_one(answer), answer)
            return []
        if answer.status == 413 or _too_many(answer):
            return list(_halves(items))
        if flagged := _flagged(items, answer):
            for index, details in flagged.items():
                _settle_refusal(items[index], details, answer)
            rest = [item for index, item in enumerate(items) if index not in flagged]
            return [rest] if rest else []
        return [[item] for item in items]  # refused as a whole, for a reason that names no event

    def _ask(self, items: list[Item], tries: int) -> tuple[Answer | None, list[Item]]:
        """Lago's answer, and the items that it is about: those that were not found listed. None where all were.

        Tries a few times where the answer is 500, and returns that one then.
        """
        lost = 0
        while True:
            try:
                answer = self._post(items)
            except AnswerLost as fault:
                lost += 1
                items = self._not_listed(items)
                if not items:
                    return None, []
                if lost == _LOST:
                    raise LagoFault(f"{fault} (gave up after {lost} attempts)") from None
                continue
            if answer.status != 500:
                self._note(answer, items)
                return answer, items
            tries -= 1
            items = self._not_listed(items)
            if not items:
                return None, []
            if tries == 0:
                return answer, items
            self._http.pause(min(_PAUSE, self._http.first_pause))

    def _post(self, items: list[Item]) -> Answer:
        if len(items) == 1:
            path, body = "/events", b'{"event":' + items[0].body + b"}"
        else:
            path, body = "/events/batch", b'{"events":[' + b",".join([item.body for item in items]) + b"]}"
        return self._http.post(
            path,
            body,
            answers=_JUDGED,
            gate=self._gate,
            items=lambda _: len(items),
            repeatable=self._look is None,
        )

    def _not_listed(self, items: list[Item]) -> list[Item]:
        """What has to be sent again after an answer that leaves open what was stored."""
        if self._look is None:
            return items  # to send it again is safe: what was stored comes back as existing
        listed = self._look([item.transaction_id for item in items])
        for item in items:
            if item.transaction_id in listed:
                item.settle("exists", None, None)
        return [item for item in items if item.status == "unknown"]

    def _note(self, answer: Answer, items: list[Item]) -> None:
        with self._lock:
            self._worked += 1
            if answer.ok:
                self.accepted = True
                self._known = self._known or items[0].body
                self.created_at = self.created_at or _created_at(answer)

    # --- 500

    def _isolate(self, items: list[Item], answer: Answer) -> None:
        """Lago answered 500 to these each time. Find those that are the reason, or see that Lago is down.

        First a proof that Lago works: an event that it holds answers "already exists" (Postgres store), or one of a few
        single events is taken. Then halves, and halves of these. Single events that Lago keeps answering 500 to are
        refused in the end, if Lago still works then.

        Raises `LagoFault` where nothing but 500 comes.
        """
        suspects: list[tuple[Item, Answer]] = []
        works = self._still_works()
        if len(items) == 1:
            suspects, groups = [(items[0], answer)], []
        elif works is None:
            suspects = self._sample(items)
            if len(suspects) == _SAMPLE:
                raise _down(answer)
            tried = {id(item) for item, _ in suspects}
            groups = [[item for item in items if item.status == "unknown" and id(item) not in tried]]
        else:
            groups = list(_halves(items))
        if works is False:
            raise _down(answer)
        in_a_row = 0
        while groups:
            group = groups.pop()
            if not group:
                continue
            alone = len(group) == 1
            answer_now, left = self._ask(group, self._tries if alone else 1)
            if answer_now is None:
                continue
            if answer_now.status != 500:
                groups += self._read(answer_now, left)
                in_a_row = 0
            elif not alone:
                groups += _halves(left)
            else:
                suspects.append((left[0], answer_now))
                in_a_row += 1
                if in_a_row == _SAMPLE:
                    if not self._still_works():
                        raise _down(answer_now)
                    in_a_row = 0
        if suspects and self._still_works() is False:
            raise _down(answer)
        for item, last in suspects:
            item.settle("refused", f"Lago answers 500 to it: {last.excerpt}"[:_REASON], 500)

    def _sample(self, items: list[Item]) -> list[tuple[Item, Answer]]:
        """Single events from all over the batch, until Lago answers something else than 500; those that it did not."""
        suspects = []
        for place in dict.fromkeys((0, len(items) - 1, len(items) // 2)):
            answer, left = self._ask([items[place]], self._tries)
            if answer is not None and answer.status == 500:
                suspects.append((left[0], answer))
                continue
            if answer is not None:
                self._read(answer, left)
            break
        return suspects

    def _still_works(self) -> bool | None:
        """Whether Lago takes events at all, None where nothing tells."""
        with self._lock:
            known = self._known
        if self._look is not None or known is None:
            return None
        answer = self._http.post("/events", b'{"event":' + known + b"}", answers=_JUDGED, gate=self._gate)
        return answer.status != 500


def _down(answer: Answer) -> LagoFault:
    return LagoFault(f"POST /events answers 500 whatever is sent: {answer.excerpt}".rstrip(": "))


def _halves(items: list[Item]) -> Iterator[list[Item]]:
    middle = len(items) // 2
    yield items[:middle]
    yield items[middle:]


def _details(answer: Answer) -> object:
    return (answer.body or {}).get("error_details") if answer.status == 422 else None


def _details_of_one(answer: Answer) -> object:
    """A single event's details stand alone, or under its index where it was the last of a batch."""
    details = _details(answer)
    return as_dict(details).get("0", details)


def _too_many(answer: Answer) -> bool:
    return "too_many_events" in as_list(as_dict(_details(answer)).get("events"))


def _flagged(items: list[Item], answer: Answer) -> dict[int, object]:
    """The refused items of a 422 by their position in the request; empty where it names none."""
    found: dict[int, object] = {}
    for key, details in as_dict(_details(answer)).items():
        index = as_int(key)
        if index is not None and 0 <= index < len(items):
            found[index] = details
    return found


def _settle_refusal(item: Item, details: object, answer: Answer) -> None:
    """`details` of one event: codes by field, or a string (a metric's expression that failed)."""
    fields = as_dict(details)
    if list(fields) == ["transaction_id"] and "value_already_exist" in as_list(fields["transaction_id"]):
        item.settle("exists", None, answer.status)
        return
    if fields:
        reason = "; ".join(f"{name}: {', '.join(map(str, as_list(codes)))}" for name, codes in fields.items())
    else:
        reason = str(details or answer.excerpt or f"refused with {answer.status}")
    item.settle("refused", shown(reason)[:_REASON], answer.status)


def _created_at(answer: Answer) -> datetime | None:
    """When Lago stored the first event of an answer, None where it does not say (ClickHouse)."""
    with suppress(msgspec.MsgspecError, ValueError, TypeError, RecursionError):
        stored = _CREATED(answer.content)
        first = stored.event or (stored.events[0] if stored.events else None)
        if first is not None and first.created_at is not None:
            moment = datetime.fromisoformat(first.created_at)
            return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return None

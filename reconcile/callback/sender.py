"""Events wait in a bounded queue; one thread of each process sends them in batches, and tries again for a while.

What is not sent is not lost: its row is in LiteLLM's table, and the nightly run sends it under the same ID. So nothing
here waits for Lago longer than that run's lag allows.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from .measures import Measures, log
from .posting import EXISTS, Answer, Reply

_HURRIED_PAUSE = 0.2  # between two tries while the process ends


class Posting(Protocol):
    """What sends one request; see `posting.Post`."""

    def __call__(self, events: Sequence[bytes], /) -> Reply: ...

    def repeatable(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """Counts of events, and times in seconds."""

    queue: int = 10_000
    batch: int = 100
    linger: float = 1.0  # an event waits this long for others
    first_pause: float = 1.0  # after a fault; doubled up to the longest
    longest_pause: float = 30.0
    give_up: float = (
        600.0  # after the end of its call an event is left to the nightly run, which begins with RECONCILE_LAG
    )
    strikes: int = 3  # an event that fails alone this often, while others pass, is at fault itself
    fruitless: int = 16  # this many failures in a row are Lago's, not the events'


@dataclass(slots=True)
class Waiting:
    """An event as JSON, the end of its call (s since 1970), and how often it failed alone."""

    body: bytes
    ended: float
    strikes: int = 0


class Sender:
    """The queue and its thread. `put` never blocks; it may be called from any thread, event loop or forked process."""

    def __init__(
        self,
        make_post: Callable[[], Posting],
        limits: Limits = Limits(),
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._make_post = make_post
        self._limits = limits
        self._wall_clock = wall_clock
        self.measures = Measures()
        self._begin()
        _senders.add(self)

    def _begin(self) -> None:
        """Nothing waits and nothing runs: at first, and in a forked process, whose parent sends what waited."""
        self.measures.begin()
        self._changed = threading.Condition()
        self._queue: deque[Waiting] = deque()
        self._hand: list[Waiting] = []  # taken from the queue, and neither settled nor given up
        self._hurry = 0
        self._thread: threading.Thread | None = None

    def waiting(self) -> int:
        return len(self._queue) + len(self._hand)

    def put(self, body: bytes, ended: float) -> None:
        """Queue an event whose call ended at `ended` (s since 1970), or drop it where the queue is full."""
        with self._changed:
            full = self.waiting() >= self._limits.queue
            if not full:
                self._queue.append(Waiting(body, ended))
                if self._thread is None or not self._thread.is_alive():
                    self._thread = threading.Thread(target=self._run, name="reconcile-callback", daemon=True)
                    self._thread.start()
                if len(self._queue) in (1, self._limits.batch):
                    self._changed.notify_all()
        if full:
            self.measures.drop("queue_full", 1, "an event did not fit into the queue")
        else:
            self.measures.wait(self.waiting())

    def flush(self, seconds: float) -> bool:
        """Send without waiting for more, for at most `seconds`; whether nothing waits any more."""
        until = time.monotonic() + seconds
        with self._changed:
            self._hurry += 1
            self._changed.notify_all()
            try:
                while self.waiting() and (rest := until - time.monotonic()) > 0:
                    self._changed.wait(rest)
            finally:
                self._hurry -= 1
            left = self.waiting()
        if left:
            log.warning("%d events were not sent before the end; the nightly run sends them", left)
        return not left

    def _run(self) -> None:
        post: Posting | None = None
        pause = 0.0
        while True:
            self._take(pause)
            try:
                post = post or self._make_post()
                before = len(self._hand)
                asked, hand = self._round(post, self._give_up_old(self._hand), alone=pause > 0)
            except Exception:
                log.exception("a batch of usage events failed; the nightly run sends them")
                self.measures.drop("error", len(self._hand), "a fault of the callback itself")
                asked, hand, before = None, [], 0
            progress = len(hand) < before
            with self._changed:
                self._hand = hand
                self._changed.notify_all()
            self.measures.wait(self.waiting())
            pause = self._next_pause(pause, asked, progress) if hand else 0.0

    def _next_pause(self, pause: float, asked: float | None, progress: bool) -> float:
        if asked:
            return min(asked, self._limits.longest_pause)
        if progress or not pause:
            return self._limits.first_pause
        return min(2 * pause, self._limits.longest_pause)

    def _take(self, pause: float) -> None:
        """Wait out a pause, or for a whole batch or the linger of its first event; then fill the hand."""
        with self._changed:
            if pause:
                self._changed.wait_for(lambda: self._hurry > 0, pause)
                if self._hurry:
                    self._changed.wait_for(lambda: False, min(pause, _HURRIED_PAUSE))
            else:
                self._changed.wait_for(lambda: bool(self._queue))
                self._changed.wait_for(
                    lambda: self._hurry > 0 or len(self._queue) >= self._limits.batch, self._limits.linger
                )
            while self._queue and len(self._hand) < self._limits.batch:
                self._hand.append(self._queue.popleft())

    def _give_up_old(self, hand: list[Waiting]) -> list[Waiting]:
        oldest = self._wall_clock() - self._limits.give_up
        young = [one for one in hand if one.ended >= oldest]
        if len(young) < len(hand):
            self.measures.drop("too_old", len(hand) - len(young), "an event could not be sent in time")
        return young

    def _round(self, post: Posting, hand: list[Waiting], alone: bool) -> tuple[float | None, list[Waiting]]:
        """Send `hand` once: Lago's own wish how long to wait, and the events to try again.

        `alone`: the last round failed; where this one does too, it may be one event's fault.
        """
        if not hand:
            return None, []
        reply = post([one.body for one in hand])
        match reply.answer:
            case Answer.TAKEN:
                self._settle(hand)
                return None, []
            case Answer.FLAGGED:
                rest = self._sort_out(hand, reply)
                return self._round(post, rest, alone) if len(rest) < len(hand) else (None, self._drop(hand, reply))
            case Answer.REFUSED if len(hand) == 1:
                return None, self._drop(hand, reply)
            case Answer.REFUSED:
                return self._split(post, hand)
            case Answer.LOST | Answer.FAILED if not post.repeatable():
                return None, self._lose(hand, reply)
            case Answer.FAILED if alone and len(hand) > 1:
                return self._split(post, hand)
        self.measures.warn("retry", f"{reply.text}; events wait and are sent again")
        return reply.wait, hand

    def _split(self, post: Posting, hand: list[Waiting]) -> tuple[float | None, list[Waiting]]:
        """Send `hand` in halves of halves, so that one event's fault is its own.

        Where nothing passes, the fault is Lago's, and no event's.
        """
        middle = len(hand) // 2
        pieces = [hand[middle:], hand[:middle]]
        failed: list[Waiting] = []
        again: list[Waiting] = []
        fruitless = 0
        passed = False
        while pieces and fruitless < self._limits.fruitless:
            piece = pieces.pop()
            reply = post([one.body for one in piece])
            if reply.answer in (Answer.LOST, Answer.FAILED) and not post.repeatable():
                self._lose(piece, reply)
                fruitless += 1
            elif reply.answer is Answer.FLAGGED and len(rest := self._sort_out(piece, reply)) < len(piece):
                pieces += [rest] if rest else []
                passed, fruitless = True, 0
            elif reply.answer is Answer.TAKEN:
                self._settle(piece)
                passed, fruitless = True, 0
            elif reply.answer in (Answer.REFUSED, Answer.FAILED, Answer.FLAGGED) and len(piece) > 1:
                pieces += [piece[len(piece) // 2 :], piece[: len(piece) // 2]]
                fruitless += 1
            elif reply.answer in (Answer.REFUSED, Answer.FLAGGED):
                self._drop(piece, reply)
                fruitless = 0
            elif reply.answer is Answer.FAILED:
                failed += piece
                fruitless += 1
            else:
                return reply.wait, [*again, *failed, *piece, *(one for rest in pieces for one in rest)]
        for one in failed:
            one.strikes += passed
            if one.strikes < self._limits.strikes:
                again.append(one)
            else:
                self.measures.drop("refused", 1, "Lago fails on this event and takes others")
        return None, again + [one for rest in reversed(pieces) for one in rest]

    def _sort_out(self, hand: list[Waiting], reply: Reply) -> list[Waiting]:
        """What Lago did not name; of the others, those that it has are settled, and the rest is dropped."""
        self._settle([one for place, one in enumerate(hand) if reply.flagged.get(place) == EXISTS])
        for place in range(len(hand)):
            if place in reply.flagged and reply.flagged[place] != EXISTS:
                self.measures.drop("refused", 1, f"Lago refused an event: {reply.flagged[place]}")
        return [one for place, one in enumerate(hand) if place not in reply.flagged]

    def _settle(self, hand: Sequence[Waiting]) -> None:
        now = self._wall_clock()
        self.measures.deliver([max(0.0, now - one.ended) for one in hand])

    def _lose(self, hand: Sequence[Waiting], reply: Reply) -> list[Waiting]:
        text = f"{reply.text}, and a second sending might be billed twice"
        self.measures.drop("answer_lost", len(hand), text)
        return []

    def _drop(self, hand: Sequence[Waiting], reply: Reply) -> list[Waiting]:
        self.measures.drop("refused", len(hand), f"{reply.text} for an event")
        return []


_senders: weakref.WeakSet[Sender] = weakref.WeakSet()


def _after_fork() -> None:
    for sender in list(_senders):
        sender._begin()


os.register_at_fork(after_in_child=_after_fork)

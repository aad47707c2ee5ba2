"""How many requests may be in flight: one at first, another only while Lago then answers more a second. Pure.

Lago is somebody's production: LiteLLM's callback posts to the server that the job reads. On a small Lago a second
request in flight buys next to nothing, and live traffic waits behind it; on a large one it doubles what is answered.
Which one it is, the answers tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# Of what the added requests could bring at best, they have to bring this much: a second one 30% more answers, the
# eighth 4%. A server with one worker gives nothing, a real one with a single process 5% (62 ms a page, two cores).
_WORTH: Final = 0.3
_SETTLED: Final = 32  # answers between two trials, doubled with each trial that changed nothing
_SETTLED_MOST: Final = 512


@dataclass(frozen=True, slots=True)
class Seen:
    """One request: when it left and when its answer was there (seconds of one clock), and what it brought.

    `in_flight` counts the requests that were in flight when it left, itself included. `items` is how much work the
    answer was to Lago, in any unit that is the same for all. `status` is None where no answer came.
    """

    started: float
    finished: float
    in_flight: int
    items: float
    status: int | None

    @property
    def refused(self) -> bool:
        """Too much for Lago: 429, 5xx, a timeout, a lost connection."""
        return self.status is None or self.status == 429 or self.status >= 500


class Pace:
    """The limit for one kind of request, at most `most`.

    A level is judged by its throughput: what the requests brought that left while the limit was reached, over the time
    that they took, times their number. (By Little's law that is the rate of answers; unlike a count over time it needs
    no run-up, and a caller that pauses does not look like a slow server.) The first levels double, so that eight are
    reached within some thirty answers. Then the level rests, and tries now and then whether one more is worth it, or
    one less is enough.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = 1
        self._level = 1  # what was last found right
        self._rate = 0.0  # items a second there; 0 where not measured
        self._climbing = True
        self._down = True  # the direction of the next trial
        self._patience = _SETTLED
        self._rest = 0
        self._warm = False
        self._since = float("-inf")  # when the present limit was set
        self._cut = float("-inf")  # when a refusal last halved it
        self._answers = 0
        self._items = 0.0
        self._seconds = 0.0

    def saw(self, seen: Seen) -> None:
        """Learn from one request; `limit` may be another one afterwards."""
        if seen.refused:
            if seen.started > self._cut:  # those that left before it are of the same incident
                self._halve(seen.finished)
            return
        if not self._warm:  # the first answer pays for the connection and for cold caches
            self._warm = True
            self._since = seen.finished
            return
        if seen.started < self._since or seen.in_flight != self.limit:
            return
        self._answers += 1
        self._items += seen.items
        self._seconds += max(seen.finished - seen.started, 1e-9)
        if self._answers >= max(5, 2 * self.limit):
            self._judge(self.limit * self._items / self._seconds, seen.finished)

    def _judge(self, rate: float, now: float) -> None:
        if self.limit == self._level:
            self._rest -= self._answers
            self._rate = rate if self._climbing or not self._rate else (self._rate + rate) / 2
            self._set(self.limit if self._rest > 0 else self._trial(), now)
        elif self.limit > self._level and _worth(self.limit, rate, self._level, self._rate):
            self._accept(rate, now)
        elif self.limit < self._level and not _worth(self._level, self._rate, self.limit, rate):
            self._climbing = False
            self._accept(rate, now)
        else:
            self._climbing = False
            self._patience = min(2 * self._patience, _SETTLED_MOST)
            self._rest = self._patience
            self._set(self._level, now)

    def _accept(self, rate: float, now: float) -> None:
        """While climbing, and on the way down, the next step is tried at once. Whether fewer are enough comes first."""
        again = self._climbing or self.limit < self._level
        self._level, self._rate = self.limit, rate
        self._down = True
        self._patience = _SETTLED
        self._rest = 0 if again else _SETTLED
        self._set(self._trial() if again else self._level, now)

    def _trial(self) -> int:
        """The level to try next, by turns below and above; while climbing, twice as many."""
        if self._climbing and self._level < self.most:
            return min(2 * self._level, self.most)
        self._climbing = False
        below, above = max(self._level - 1, 1), min(self._level + 1, self.most)
        chosen = below if (self._down and below != self._level) or above == self._level else above
        self._down = not self._down
        if chosen == self._level:  # `most` is 1
            self._rest = self._patience
        return chosen

    def _halve(self, now: float) -> None:
        self._level = max(1, min(self.limit, self._level) // 2)
        self._rate = 0.0
        self._climbing = False
        self._patience = self._rest = _SETTLED
        self._cut = now
        self._set(self._level, now)

    def _set(self, limit: int, now: float) -> None:
        self.limit = limit
        self._since = now
        self._answers, self._items, self._seconds = 0, 0.0, 0.0


def _worth(more: int, more_rate: float, fewer: int, fewer_rate: float) -> bool:
    """Whether `more` requests in flight answer so much more than `fewer` that they are worth it."""
    return more_rate >= fewer_rate * (1 + _WORTH * (more / fewer - 1))

"""The gate that a kind of request passes: it lets through as many at a time as its pace allows."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from reconcile.errors import Interrupted
from reconcile.lago.pace import Pace, Seen

# Told the limit before and after each change, by the thread that caused it.
OnLimit = Callable[[int, int], None]

_LOOK = 0.5  # seconds between two looks at `stop`


@dataclass(frozen=True, slots=True)
class InFlight:
    """What one kind of request settled on: the `mean` in flight while any was, the present `limit`, and the `most`."""

    mean: float
    limit: int
    most: int


class Gate:
    """Shared by all threads that send requests of one kind."""

    def __init__(self, most: int, on_limit: OnLimit | None = None) -> None:
        self._on_limit = on_limit
        self._pace = Pace(most)
        self._changed = threading.Condition()
        self._in_flight = 0
        self._at = 0.0
        self._busy = 0.0  # seconds in which something was in flight
        self._area = 0.0  # requests in flight, added up over these seconds

    @property
    def limit(self) -> int:
        return self._pace.limit

    @property
    def report(self) -> InFlight:
        with self._changed:
            return InFlight(self._area / self._busy if self._busy else 0.0, self._pace.limit, self._pace.most)

    def enter(self, stop: threading.Event) -> tuple[float, int]:
        """Wait for a turn. When the request left, and how many were then in flight: `leave` wants both back.

        Raises `Interrupted` where the run is told to stop before there is a turn.
        """
        with self._changed:
            while self._in_flight >= self._pace.limit:
                if stop.is_set():
                    raise Interrupted("stopped while requests to Lago waited for their turn")
                self._changed.wait(_LOOK)
            return self._count(1), self._in_flight

    def leave(self, entered: tuple[float, int], items: float, status: int | None) -> None:
        """The request is over; see `Seen` for `items` and `status`."""
        with self._changed:
            now, before = self._count(-1), self._pace.limit
            self._pace.saw(Seen(entered[0], now, entered[1], items, status))
            limit = self._pace.limit
            self._changed.notify_all()
        if limit != before and self._on_limit is not None:
            self._on_limit(before, limit)

    def _count(self, change: int) -> float:
        now = monotonic()
        if self._in_flight:
            self._busy += now - self._at
            self._area += self._in_flight * (now - self._at)
        self._at = now
        self._in_flight += change
        return now

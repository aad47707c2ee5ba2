"""What the callback counts: in itself, in rate-limited warnings, and as Prometheus metrics in LiteLLM's registry.

prometheus_client is used where LiteLLM has loaded it, and never loaded here: a proxy without metrics serves none.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import Any

log = logging.getLogger("reconcile.callback")

_WARN_EVERY = 60.0  # seconds between two warnings of one kind
# From a tenth of a second to the two hours of the job's default lag: a lag below the highest that is seen is too short.
_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200)


class Measures:
    """Counts of one process. Every method may be called from any thread, and raises nothing."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.begin()

    def begin(self) -> None:
        """Nothing is counted yet: at first, and in a forked process. What is registered stays so."""
        self.delivered = 0
        self.dropped: Counter[str] = Counter()
        self.left: Counter[str] = Counter()
        self._lock = Lock()
        self._warned: dict[str, float] = {}
        self._quiet: Counter[str] = Counter()

    def wait(self, count: int) -> None:
        """So many events wait."""
        _served().waiting.set(count)

    def deliver(self, seconds: list[float]) -> None:
        """Events that Lago holds, each with the time from the end of its call until Lago said so."""
        with self._lock:
            self.delivered += len(seconds)
        histogram = _served().seconds
        for value in seconds:
            histogram.observe(value)

    def leave(self, reason: str) -> None:
        """A call of which no event is sent, by rule."""
        with self._lock:
            self.left[reason] += 1
        _served().left.labels(reason).inc()

    def drop(self, reason: str, count: int, text: str) -> None:
        """Events that were to be sent and were not; `text` says why, in the warning."""
        with self._lock:
            self.dropped[reason] += count
        _served().dropped.labels(reason).inc(count)
        self.warn(reason, f"{text}; the nightly run sends it", count)

    def warn(self, kind: str, text: str, count: int = 1) -> None:
        """Warn, at most once a minute for each kind, with how often it was said in between."""
        with self._lock:
            self._quiet[kind] += count
            now = self._clock()
            if now - self._warned.get(kind, float("-inf")) < _WARN_EVERY:
                return
            self._warned[kind] = now
            times = self._quiet.pop(kind)
        log.warning("%s (%s, %d times)", text, kind, times)


class _Nothing:
    """A metric that nobody serves."""

    def labels(self, *_: str) -> _Nothing:
        return self

    def inc(self, _: float = 1) -> None:
        pass

    def observe(self, _: float) -> None:
        pass

    def set(self, _: float) -> None:
        pass


@dataclass(frozen=True, slots=True)
class _Metrics:
    waiting: Any
    seconds: Any
    left: Any
    dropped: Any


_NONE = _Metrics(*[_Nothing()] * 4)
_registering = Lock()


def _served() -> _Metrics:
    client = sys.modules.get("prometheus_client")
    if client is None:
        return _NONE
    with _registering:
        return _registered(client)


@cache
def _registered(client: Any) -> _Metrics:
    """Metrics in the default registry, which is the one that LiteLLM serves; of every worker where it has several."""
    try:
        return _Metrics(
            waiting=client.Gauge(
                "reconcile_callback_waiting", "Usage events that wait to be sent to Lago", multiprocess_mode="livesum"
            ),
            seconds=client.Histogram(
                "reconcile_callback_delivery_seconds",
                "Time from the end of a call until Lago held its usage event",
                buckets=_BUCKETS,
            ),
            left=client.Counter(
                "reconcile_callback_left", "Calls of which no usage event is sent, by rule", ["reason"]
            ),
            dropped=client.Counter(
                "reconcile_callback_dropped",
                "Usage events that were not sent, and that the nightly run sends",
                ["reason"],
            ),
        )
    except Exception:
        log.warning("the callback's metrics could not be registered", exc_info=True)
        return _NONE

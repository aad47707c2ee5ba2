"""How long to hold on: repeated requests, and the rate limit that all threads share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import TypeVar

import tenacity

from reconcile.errors import Interrupted, LagoFault
from reconcile.lago.clock import ServerClock

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Retry:
    """How long to hold on when Lago does not take a request. Times are seconds.

    A request is given up after `attempts` attempts or after `seconds`, whichever comes first. Waiting for the
    rate limit is no attempt: a request waits at most `rate_limit_wait` at a time and `rate_limit_seconds` in
    all.
    """

    attempts: int = 12
    seconds: float = 60.0
    wait_initial: float = 1.0
    wait_max: float = 10.0
    rate_limit_wait: float = 60.0
    rate_limit_seconds: float = 600.0


# A preflight shall answer while the operator looks at it.
PREFLIGHT = Retry(attempts=3, seconds=10.0, wait_initial=0.2, wait_max=1.0, rate_limit_seconds=60.0)


class Passing(LagoFault):
    """Lago did not take the request, for a reason that may pass: hold it and try again."""


class RateLimited(Exception):
    """429. `seconds` until the limit opens, None where Lago did not say."""

    def __init__(self, seconds: float | None) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class Shared:
    """What all views and threads of one client share: the counters and the rate limit's gate."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._opens_at = 0.0
        self.requests = 0
        self.retries = 0
        self.clock = ServerClock()

    def saw_date(self, date: str, sent: float, received: float) -> None:
        with self._lock:
            self.clock.saw(date, sent, received)

    def count(self, *, requests: int = 0, retries: int = 0) -> None:
        with self._lock:
            self.requests += requests
            self.retries += retries

    def close_gate(self, seconds: float) -> None:
        """Hold every thread for `seconds`: they share Lago's limit, so they share the wait."""
        with self._lock:
            self._opens_at = max(self._opens_at, monotonic() + seconds)

    def pass_gate(self, stop: threading.Event) -> None:
        while (left := self._opens_at - monotonic()) > 0:
            if stop.wait(left):
                raise Interrupted("stopped while Lago's rate limit was closed")


@dataclass(frozen=True, slots=True)
class Patience:
    """Repeats what may pass. `stop` ends every wait (`Interrupted`)."""

    retry: Retry
    shared: Shared
    stop: threading.Event

    def hold(self, what: str, attempt: Callable[[], T]) -> T:
        """What an attempt returns in the end. Raises `LagoFault` where none did."""
        deadline = monotonic() + self.retry.rate_limit_seconds
        unsaid = 1.0
        while True:
            try:
                return self._with_retries(attempt)
            except RateLimited as limit:
                if limit.seconds is None:
                    wait, unsaid = unsaid, unsaid * 2
                else:
                    wait = max(limit.seconds, 0.05)
                wait = min(wait, self.retry.rate_limit_wait)
                if monotonic() + wait > deadline:
                    raise LagoFault(
                        f"{what}: Lago's rate limit stays closed for over {self.retry.rate_limit_seconds:.0f} s"
                    ) from None
                self.shared.count(retries=1)
                self.shared.close_gate(wait)

    def _with_retries(self, attempt: Callable[[], T]) -> T:
        # tenacity, the engine under stamina: stamina's waits cannot be ended early, and `stop` must end them.
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Passing),
            stop=tenacity.stop_any(
                tenacity.stop_after_attempt(self.retry.attempts),
                tenacity.stop_before_delay(self.retry.seconds),
            ),
            wait=tenacity.wait_random_exponential(
                multiplier=self.retry.wait_initial,
                max=self.retry.wait_max,
                min=self.retry.wait_initial / 2,
            ),
            sleep=self.pause,
            before_sleep=lambda _: self.shared.count(retries=1),
            reraise=True,
        )
        try:
            return retrying(attempt)
        except Passing as fault:
            attempts = retrying.statistics["attempt_number"]
            raise LagoFault(f"{fault} (gave up after {attempts} attempts)") from None

    def pause(self, seconds: float) -> None:
        """Wait before something is tried again. Raises `Interrupted` where a run is told to stop."""
        if self.stop.wait(seconds):
            raise Interrupted("stopped while a request to Lago waited to be repeated")

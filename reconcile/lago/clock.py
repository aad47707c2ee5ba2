"""How far Lago's clock is ahead of this host's, as `Date` headers tell it. Pure.

Lago itself sends no `Date`; a proxy in front of it does, in whole seconds. Each one bounds the offset: the second that
it names had begun when the answer was written, and was not over. What several say together is narrower.
"""

from __future__ import annotations

from dataclasses import dataclass
from email.utils import parsedate_to_datetime


@dataclass(frozen=True, slots=True)
class ClockOffset:
    """Lago's clock is ahead of this host's by `seconds`, give or take `within`."""

    seconds: float
    within: float


class ServerClock:
    """What the `Date` headers of one server said. Times are seconds since 1970 by this host's clock."""

    def __init__(self) -> None:
        self._last = ""
        self._second = 0.0
        self._low = float("-inf")
        self._high = float("inf")

    @property
    def offset(self) -> ClockOffset | None:
        if self._low == float("-inf"):
            return None
        return ClockOffset((self._low + self._high) / 2, (self._high - self._low) / 2)

    def saw(self, date: str, sent: float, received: float) -> None:
        """Learn from one answer. A header that cannot be read says nothing."""
        if date != self._last:
            try:
                self._second = parsedate_to_datetime(date).timestamp()
            except (TypeError, ValueError, OverflowError):
                return
            self._last = date
        low, high = self._second - received, self._second + 1 - sent
        if low > self._high or high < self._low:  # one of the clocks was set: what was known no longer holds
            self._low, self._high = low, high
        else:
            self._low, self._high = max(self._low, low), min(self._high, high)

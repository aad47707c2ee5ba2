"""How wide to ask: windows of a listing, as narrow as what was seen before says. Pure.

A listing costs Lago the count of its whole window and everything before the page, so windows hold about one page of
events. Where a window is too wide for Lago (504, or no answer in time) it is cut in halves; the width at which one of
them is answered is remembered, and nothing wider is asked for. A gateway that fails now and then looks the same, so
after many answers in a row at that width twice as much is tried, the sooner the narrower it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

_FIRST_MS: Final = 600_000  # where nothing is known: the traffic of ten minutes
_GROWTH: Final = 8  # no window is wider than this many times the widest that was answered
_FEWEST: Final = 500  # events that a window aims at, where pages are small
_KNOWN: Final = 200
_NARROWEST_MS: Final = 1_000  # no window is cut below this for being slow
_IN_A_ROW: Final = 8  # windows that were too slow without one that was not: Lago is down, and no width helps
_ANSWERS_AT_LEAST: Final = 8  # in a row, before twice the widest is tried; one for each second of it where that is more
MAX_PAGES: Final = 10


@dataclass(frozen=True, slots=True)
class Span:
    """[start, end) in whole milliseconds since the epoch."""

    start: int
    end: int

    @property
    def width(self) -> int:
        return self.end - self.start

    def parts(self, count: int) -> list[Span]:
        count = max(1, min(count, self.width))
        edges = [self.start + self.width * step // count for step in range(count + 1)]
        return [Span(low, high) for low, high in pairwise(edges)]


def aim(page_size: int) -> int:
    """How many events a window should hold: nine tenths of a page, for some hold more than expected."""
    return min(max(page_size * 9 // 10, _FEWEST), page_size * (MAX_PAGES - 1))


@dataclass(slots=True)
class Widths:
    """What is known of one Lago's events and patience, kept from listing to listing. Widths are milliseconds.

    `density` is in events a millisecond, where they were last seen. `answered` is the widest window that was answered,
    `widest` the widest that may be asked for (None: none was found too wide).
    """

    widest: int | None = None
    density: float | None = None
    answered: int = _FIRST_MS // _GROWTH
    slow_in_a_row: int = 0
    suspect: int | None = None  # the narrowest that was too slow, until a narrower one is answered
    answers: int = 0  # in a row at the widest
    trying: bool = False  # whether the widest was doubled, and not answered yet
    caution: int = 1  # doubled each time that such a try was too slow

    @property
    def patient(self) -> bool:
        """Nothing is answered at any width: wait for Lago instead of cutting on."""
        return self.slow_in_a_row >= _IN_A_ROW

    def next(self, page_size: int) -> int:
        """The width of the next window, by the density and by what Lago can take."""
        most = self.answered * _GROWTH
        if self.widest is not None:
            most = min(most, self.widest)
        if self.density is not None:
            most = min(most, int(aim(page_size) / self.density))
        return max(most, 1)

    def fitting(self, span: Span) -> list[Span]:
        """The span, or where it is known to be too wide what may be asked for of it first, and the rest.

        The rest is cut when its turn comes: by then it may be asked for in wider parts.
        """
        if self.widest is None or span.width <= self.widest:
            return [span]
        edge = span.start + self.widest
        return [Span(span.start, edge), Span(edge, span.end)]

    def expect(self, events: int, span: Span) -> None:
        """So many events are thought to lie in the span."""
        self.density = max(events, 0.5) / span.width

    def saw(self, span: Span, events: int) -> None:
        """A window was answered, and held so many events."""
        if self.suspect is not None and span.width < self.suspect and not self.patient:
            self.widest = min(self.widest or span.width, span.width)
        self.slow_in_a_row = 0
        self.suspect = None
        self._try_wider(span)
        self.answered = max(self.answered, span.width)
        if self.density is None:
            self.density = max(events, 0.5) / span.width
        else:  # what was known weighs as much as a few hundred events
            self.density = (events + _KNOWN) / (span.width + _KNOWN / self.density)

    def slow(self, span: Span) -> list[Span]:
        """A window was not answered in time: its halves, or itself where cutting it is no way out."""
        self.slow_in_a_row += 1
        if self.trying:
            self.caution *= 2
        self.answers, self.trying = 0, False
        if span.width <= _NARROWEST_MS or self.patient:
            return [span]
        self.suspect = min(self.suspect or span.width, span.width)
        return span.parts(2)

    def _try_wider(self, span: Span) -> None:
        """Lets the next windows be twice as wide, where many have been answered that were as wide as they may be."""
        if self.widest is None or 2 * span.width <= self.widest:
            return
        self.answers, self.trying = self.answers + 1, False
        if self.answers >= self.caution * max(_ANSWERS_AT_LEAST, self.widest // 1_000):
            self.widest *= 2
            self.answers, self.trying = 0, True

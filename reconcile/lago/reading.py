"""One window of a listing, read until what was seen is a whole. See `listing` for the rules."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np

from reconcile.errors import LagoFault
from reconcile.lago.events import Columns, Decode, EventShape, Page
from reconcile.lago.gate import Gate
from reconcile.lago.http import Http, TooSlow
from reconcile.lago.windows import MAX_PAGES, Span, Widths, aim

_MAX_PAGES_OF_ONE_MS: Final = 200  # a window that cannot be cut
_READINGS: Final = 5  # of one window before it is cut, or taken as it is
_USUAL_GRANTS: Final = frozenset({10, 20, 25, 50, 100, 200, 250, 500})
_MOST_PARTS: Final = 100  # that one window is cut into
_COUNTING: Final = 100_000  # what a list costs Lago besides its events, in bytes of them
MS: Final = timedelta(milliseconds=1)
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

OnPage = Callable[[int], None]


class ListingState:
    """What one client learns from its listings, shared by its threads and views."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.widths = Widths()
        # How many events this server puts on a page where fewer than asked for: told by a page that had a next one.
        self.grant: int | None = None
        self.no_grants: set[int] = set()  # lengths of a page that had no next one

    def page_size(self, asked: int) -> int:
        return min(asked, self.grant or asked)


@dataclass(slots=True)
class _Reading:
    """One pass over the pages of a window."""

    pages: list[Page] = field(default_factory=list)

    @property
    def listed(self) -> int:
        return sum(page.listed for page in self.pages)

    @property
    def parts(self) -> list[Columns]:
        return [page.columns for page in self.pages if len(page.columns)]

    @property
    def is_a_snapshot(self) -> bool:
        """All that there is stood on one page."""
        return sum(page.listed > 0 for page in self.pages) <= 1

    @property
    def is_counted(self) -> bool:
        """Lago's count stood still and is what was read, or there was no count to go by."""
        listed = self.listed
        return all(page.total in (None, listed) for page in self.pages)

    @property
    def ids(self) -> list[str] | None:
        """What tells the events apart, None where something does not."""
        ids = [one for page in self.pages for one in page.lago_ids]
        return ids if len(ids) == self.listed and all(type(one) is str for one in ids) else None


@dataclass(frozen=True, slots=True)
class Window:
    """What became of a window: its events, or the windows to read instead."""

    span: Span
    parts: list[Columns]
    instead: list[Span] = field(default_factory=list)
    slow: bool = False


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads windows of one listing; usable from several threads."""

    http: Http
    gate: Gate
    state: ListingState
    decode: Decode
    shape: EventShape
    code: str
    subscription_id: str | None
    page_size: int
    on_page: OnPage | None
    telling: threading.Lock = field(default_factory=threading.Lock)

    def window(self, span: Span, patient: bool) -> Window:
        """Read a window. `patient`: hold the request where Lago is slow, there is nothing better to do."""
        try:
            found = self._events(span, patient)
        except TooSlow:
            return Window(span, [], slow=True)
        if isinstance(found, int):
            return Window(span, [], instead=span.parts(found))
        # The filter is Lago's; this one holds even where a server reads its bounds more coarsely.
        return Window(span, [inside for part in found if len(inside := between(part, span))])

    def _events(self, span: Span, patient: bool) -> list[Columns] | int:
        """All events of the span, or the number of parts to cut it into."""
        divisible = span.width > 1
        seen: set[str] = set()
        found: list[Columns] = []
        for number in range(1, _READINGS + 1):
            reading = self._reading(span, patient, MAX_PAGES if divisible else _MAX_PAGES_OF_ONE_MS)
            if isinstance(reading, int):
                if divisible:
                    return reading
                break
            if reading.is_a_snapshot:
                return reading.parts
            ids = None if self.shape.clickhouse else reading.ids
            if ids is None:
                if reading.is_counted:
                    return reading.parts
                continue
            for page in reading.pages:
                found.append(_unseen(page, seen))
            totals = [page.total for page in reading.pages]
            if totals[-1] in (None, len(seen)):
                return found
            if number == _READINGS and _only_grew(totals, len(set(ids))):
                return found
        if divisible:
            return 2
        raise LagoFault(f"GET /events: the events at {_iso(EPOCH + span.start * MS)} did not settle")

    def _reading(self, span: Span, patient: bool, max_pages: int) -> _Reading | int:
        """One pass over the pages; where there are more than `max_pages`, the number of parts to cut into."""
        reading = _Reading()
        number = 1
        while True:
            page = self._page(span, number, patient)
            if number > 1 and page.listed:
                self._learn(reading.pages[-1].listed)
            reading.pages.append(page)
            if not self._goes_on(page, number, reading.listed):
                return reading
            is_full = page.listed >= self.state.page_size(self.page_size)
            expected = max(page.total or 0, (page.pages or 0) * page.listed)
            if is_full and span.width > 1 and expected > max_pages * page.listed:
                return min(max(2, -(-expected // aim(page.listed))), _MOST_PARTS)
            if number == max_pages:
                return 2
            number += 1

    def _page(self, span: Span, number: int, patient: bool) -> Page:
        self.http.check_stop()
        filters = [("code", self.code)]
        if self.subscription_id is not None:
            filters.append(("external_subscription_id", self.subscription_id))
        answer = self.http.get(
            "/events",
            [*filters, *bounds_of(span), ("page", number), ("per_page", self.page_size)],
            gate=self.gate,
            items=work,
            large=not patient,
            whole=False,
        )
        page = self.decode(self.shape, self.code, self.subscription_id, answer.content)
        if self.on_page is not None:
            with self.telling:
                self.on_page(page.listed)
        return page

    def _learn(self, length: int) -> None:
        """A page of this length had a next one."""
        if length < self.page_size:
            with self.state.lock:
                self.state.grant = max(self.state.grant or 0, length)

    def _goes_on(self, page: Page, number: int, read: int) -> bool:
        """Whether there may be a next page: this one is as long as the server's pages are, or Lago says so."""
        if page.listed == 0:
            return False
        if page.listed >= self.state.page_size(self.page_size):
            return True
        if (page.next_page or 0) > number or (page.pages or 0) > number or (page.total or 0) > read:
            return True
        if page.next_page is page.pages is page.total is None:
            return True
        # A server that grants fewer than asked for, and whose count is old: one look, once for each length.
        with self.state.lock:
            suspicious = number == 1 and page.listed in _USUAL_GRANTS - self.state.no_grants
            self.state.no_grants.add(page.listed)
        return suspicious


def _unseen(page: Page, seen: set[str]) -> Columns:
    """The events of a page that no earlier one showed; they are seen afterwards."""
    new = []
    for one in page.lago_ids:
        new.append(one not in seen)
        seen.add(one)
    return page.columns if all(new) else page.columns.only(np.array(new, np.bool_))


def _only_grew(totals: list[int | None], distinct: int) -> bool:
    """New events kept arriving: what existed when the reading began was pushed back, never out of sight."""
    counts = [total or 0 for total in totals]
    return counts == sorted(counts) and distinct >= counts[0]


def between(part: Columns, span: Span) -> Columns:
    inside = (part.time_ms >= span.start) & (part.time_ms < span.end)
    return part if inside.all() else part.only(inside)


def work(body: bytes) -> float:
    """What a list was to Lago, in bytes: its events, and the count of what lies in the window."""
    return _COUNTING + len(body)


def bounds_of(span: Span) -> list[tuple[str, str]]:
    """Lago compares in microseconds and includes both ends, so the last one before `end` is asked for."""
    last = EPOCH + span.end * MS - timedelta(microseconds=1)
    return [("timestamp_from", _iso(EPOCH + span.start * MS)), ("timestamp_to", _iso(last))]


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")

"""Listing events: any page size, any number of events, a steady picture while new ones arrive.

`GET /events` pages by offset, newest first, and counts anew for every page (Lago v1.51.0, events_query.rb).
So an event that arrives between two pages pushes the others back, and before v1.48.0 events of one timestamp
could repeat or vanish between pages. Events are never changed or deleted. These rules make a whole of it:

- Time is cut into windows of about one page (see `windows`), and pages are read until a short one.
- A window of one page is one snapshot. One of several is read until what was seen is what Lago counts. On
  the Postgres store `lago_id` tells events apart, and what one reading missed the next one adds. On
  ClickHouse copies of an event are listed as they were sent, so the count must stand still during the
  reading. A window that does not settle is cut in halves.
- Lago's count sizes the work and proves nothing by itself.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from queue import Queue
from typing import Final

import numpy as np
import pandas as pd

from reconcile.errors import LagoFault
from reconcile.lago.events import Columns, EventShape, Page, PageDecoder, decoder, frame
from reconcile.lago.gate import Gate
from reconcile.lago.http import Http, Params, TooSlow, as_dict, as_int
from reconcile.lago.windows import MAX_PAGES, Span, Widths, aim

PAGE_SIZE: Final = 1_000  # asked for; the server may grant less
_MAX_PAGES_OF_ONE_MS: Final = 1_000  # a window that cannot be cut
_READINGS: Final = 5  # of one window before it is cut, or taken as it is
_USUAL_GRANTS: Final = frozenset({10, 20, 25, 50, 100, 200, 250, 500})
_MOST_PARTS: Final = 100  # that one window is cut into
_COUNTING: Final = 100_000  # what a list costs Lago besides its events, in bytes of them
_MS: Final = timedelta(milliseconds=1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

OnPage = Callable[[int], None]


class Listing:
    """Reads of events. Every method raises `LagoFault`, or `PreflightError` in a preflight view."""

    http: Http
    page_size: int
    lists: Gate
    state: ListingState

    @property
    def widest(self) -> timedelta | None:
        """The widest window that this Lago was found to answer, None where none was too wide for it."""
        widest = self.state.widths.widest
        return None if widest is None else widest * _MS

    def list_events(
        self,
        code: str,
        start: datetime,
        end: datetime,
        shape: EventShape | None = None,
        *,
        external_subscription_id: str | None = None,
        expected: int | None = None,
        on_page: OnPage | None = None,
    ) -> pd.DataFrame:
        """The events of `code` with a timestamp in [start, end), as an EVENTS frame in no set order.

        See `list_pieces`.
        """
        (listed,) = self.list_pieces(
            code,
            [start, end],
            shape,
            external_subscription_id=external_subscription_id,
            expected=expected,
            on_page=on_page,
        )
        return listed

    def list_pieces(
        self,
        code: str,
        edges: Sequence[datetime],
        shape: EventShape | None = None,
        *,
        external_subscription_id: str | None = None,
        expected: int | None = None,
        on_page: OnPage | None = None,
    ) -> Generator[pd.DataFrame]:
        """One EVENTS frame for each two neighbours of `edges`, in order, read on while the caller is at work.

        `edges` are aware, ascend, and lie on whole milliseconds; a piece holds what lies in [edge, next edge). Requests
        do not follow the edges: many narrow pieces of little traffic cost one. `shape.store` is the organization's: on
        "clickhouse" every copy of an event is a row. `expected` is how many events there may be in all, where that is
        known. `on_page` is called with the number of events of each page as it arrives, by the threads that read,
        one at a time (pages that have to be read again are told again).

        Raises `LagoFault` when Lago's answers do not settle, `ValueError` for edges that make no intervals.
        """
        bounds = [_milliseconds(edge) for edge in edges]
        if len(bounds) < 2 or any(low >= high for low, high in pairwise(bounds)):
            raise ValueError(f"an empty interval: {', '.join(map(str, edges))}")
        span = Span(bounds[0], bounds[-1])
        if expected is not None:
            with self.state.lock:
                self.state.widths.expect(expected, span)
        reader = _Reader(
            self.http, self.lists, self.state, decoder(shape or EventShape()), (shape or EventShape()).clickhouse,
            code, external_subscription_id, self.page_size, on_page,
        )  # fmt: skip
        return _pieces(reader, span, bounds)

    def count_events(self, code: str, start: datetime, end: datetime) -> int:
        """How many events of `code` Lago counts in [start, end), copies counted: one request."""
        span = Span(_milliseconds(start), _milliseconds(end))
        params: Params = [("code", code), *_bounds(span), ("page", 1), ("per_page", 1)]
        answer = self.http.get("/events", params, gate=self.lists, items=_work)
        total = as_int(as_dict((answer.body or {}).get("meta")).get("total_count"))
        if total is None:
            raise LagoFault("GET /events did not say how many events there are (meta.total_count)")
        return total


class ListingState:
    """What one client learns from its listings, shared by its threads and views."""

    def __init__(self, widest: timedelta | None = None) -> None:
        self.lock = threading.Lock()
        self.widths = Widths(widest=None if widest is None else max(widest // _MS, 1))
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
class _Window:
    """What became of a window: its events, or the windows to read instead."""

    span: Span
    parts: list[Columns]
    instead: list[Span] = field(default_factory=list)
    slow: bool = False


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads windows of one listing; usable from several threads."""

    http: Http
    gate: Gate
    state: ListingState
    decoder: PageDecoder
    clickhouse: bool
    code: str
    subscription_id: str | None
    page_size: int
    on_page: OnPage | None
    telling: threading.Lock = field(default_factory=threading.Lock)

    def window(self, span: Span, patient: bool) -> _Window:
        """Read a window. `patient`: hold the request where Lago is slow, there is nothing better to do."""
        try:
            found = self._events(span, patient)
        except TooSlow:
            return _Window(span, [], slow=True)
        if isinstance(found, int):
            return _Window(span, [], instead=span.parts(found))
        # The filter is Lago's; this one holds even where a server reads its bounds more coarsely.
        return _Window(span, [inside for part in found if len(inside := _between(part, span))])

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
            ids = None if self.clickhouse else reading.ids
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
        raise LagoFault(f"GET /events: the events at {_iso(_EPOCH + span.start * _MS)} did not settle")

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
            [*filters, *_bounds(span), ("page", number), ("per_page", self.page_size)],
            gate=self.gate,
            items=_work,
            large=not patient,
            whole=False,
        )
        page = self.decoder.page(answer.content, self.code, self.subscription_id)
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


def _pieces(reader: _Reader, span: Span, bounds: list[int]) -> Generator[pd.DataFrame]:
    """The frames between the bounds. A thread reads on while the caller works on the last one."""
    ready: Queue[pd.DataFrame | BaseException] = Queue(maxsize=2)
    closed = threading.Event()

    def read() -> None:
        try:
            for piece in _read(reader, span, bounds, closed):
                ready.put(piece)
        except BaseException as error:  # the caller's thread raises it
            ready.put(error)

    thread = threading.Thread(target=read, name="lago-listing", daemon=True)
    thread.start()
    try:
        for _ in pairwise(bounds):
            piece = ready.get()
            if isinstance(piece, BaseException):
                raise piece
            yield piece
    finally:
        closed.set()
        while thread.is_alive():
            while not ready.empty():
                ready.get_nowait()
            thread.join(0.01)


@dataclass(slots=True)
class _Task:
    span: Span
    future: Future[_Window] | None = None


def _read(reader: _Reader, span: Span, bounds: list[int], closed: threading.Event) -> Iterator[pd.DataFrame]:
    """Windows are read side by side as the gate allows, and put together in order of time."""
    spans = pairwise(bounds)
    piece = Span(*next(spans))
    held: list[Columns] = []
    with ThreadPoolExecutor(reader.http.concurrency, thread_name_prefix="lago-list") as pool:
        tasks: deque[_Task] = deque()
        frontier = span.start
        try:
            while not closed.is_set():
                frontier = _plan(reader, pool, tasks, frontier, span.end)
                task = tasks[0]
                assert task.future is not None
                window = task.future.result()
                tasks.popleft()
                if instead := _instead(reader.state, window):
                    tasks.extendleft(_Task(part) for part in reversed(instead))
                    continue
                held += window.parts
                while piece.end <= window.span.end:
                    yield frame([inside for part in held if len(inside := _between(part, piece))])
                    held = [rest for part in held if len(rest := _between(part, Span(piece.end, span.end)))]
                    if piece.end == span.end:
                        return
                    piece = Span(*next(spans))
        finally:
            for task in tasks:
                if task.future is not None:
                    task.future.cancel()


def _plan(reader: _Reader, pool: ThreadPoolExecutor, tasks: deque[_Task], frontier: int, end: int) -> int:
    """Let as many windows be read as the gate may soon let through; where the next one begins."""
    state = reader.state
    with state.lock:
        widths = state.widths
        # While it is not known how wide a window may be, one at a time tells.
        ahead = 2 * reader.gate.limit + 1 if widths.density is not None and widths.suspect is None else 1
        fitting = [
            one
            for task in tasks
            for one in ([task] if task.future is not None else map(_Task, widths.fitting(task.span)))
        ]
        tasks.clear()
        tasks.extend(fitting)
        while len(tasks) < ahead and frontier < end:
            width = widths.next(state.page_size(reader.page_size))
            tasks.append(_Task(Span(frontier, min(frontier + width, end))))
            frontier = tasks[-1].span.end
        for task in islice(tasks, ahead):
            if task.future is None:
                task.future = pool.submit(reader.window, task.span, widths.patient)
    return frontier


def _instead(state: ListingState, window: _Window) -> list[Span]:
    """What to read instead of a window that could not be read as it is; learns from those that could."""
    with state.lock:
        if window.slow:
            return state.widths.slow(window.span)
        if not window.instead:
            state.widths.saw(window.span, sum(map(len, window.parts)))
        return window.instead


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


def _between(part: Columns, span: Span) -> Columns:
    inside = (part.time_ms >= span.start) & (part.time_ms < span.end)
    return part if inside.all() else part.only(inside)


def _work(body: bytes) -> float:
    """What a list was to Lago, in bytes: its events, and the count of what lies in the window."""
    return _COUNTING + len(body)


def _bounds(span: Span) -> list[tuple[str, str]]:
    """Lago compares in microseconds and includes both ends, so the last one before `end` is asked for."""
    last = _EPOCH + span.end * _MS - timedelta(microseconds=1)
    return [("timestamp_from", _iso(_EPOCH + span.start * _MS)), ("timestamp_to", _iso(last))]


def _milliseconds(moment: datetime) -> int:
    since, rest = divmod(moment - _EPOCH, _MS)
    if rest:
        raise ValueError(f"{moment} does not lie on a whole millisecond")
    return since


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")

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
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice, pairwise
from queue import Queue
from typing import Final

import pandas as pd

from reconcile.errors import LagoFault
from reconcile.lago.events import Columns, Decode, EventShape, frame
from reconcile.lago.gate import Gate
from reconcile.lago.http import Http, Params, TooSlow, as_dict, as_int
from reconcile.lago.reading import EPOCH, MS, ListingState, OnPage, Reader, Window, between, bounds_of, work
from reconcile.lago.windows import Span

PAGE_SIZE: Final = 1_000  # asked for; the server may grant less


class Listing:
    """Reads of events. Every method raises `LagoFault`, or `PreflightError` in a preflight view."""

    http: Http
    page_size: int
    lists: Gate
    state: ListingState
    decode: Decode

    @property
    def widest(self) -> timedelta | None:
        """The widest window that this Lago was found to answer, None where none was too wide for it."""
        widest = self.state.widths.widest
        return None if widest is None else widest * MS

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
        reader = Reader(
            self.http, self.lists, self.state, self.decode, shape or EventShape(),
            code, external_subscription_id, self.page_size, on_page,
        )  # fmt: skip
        return _pieces(reader, span, bounds)

    def count_events(self, code: str, start: datetime, end: datetime) -> int:
        """How many events of `code` Lago counts in [start, end), copies counted: one request, where it counts so wide.

        Raises `LagoFault` where Lago does not say.
        """
        total = 0
        spans = deque([Span(_milliseconds(start), _milliseconds(end))])
        while spans:
            self.http.check_stop()
            with self.state.lock:
                # What the last one taught holds for the others.
                span, *others = self.state.widths.fitting(spans.popleft())
            spans.extendleft(reversed(others))
            counted = self._count(code, span)
            with self.state.lock:
                if counted is None:
                    spans.extendleft(reversed(self.state.widths.slow(span)))
                else:
                    self.state.widths.saw(span, counted)
            total += counted or 0
        return total

    def learn_widest(self, widest: timedelta | None) -> None:
        """Takes what an earlier run learnt (see `widest`)."""
        with self.state.lock:
            self.state.widths.widest = None if widest is None else max(widest // MS, 1)

    def _count(self, code: str, span: Span) -> int | None:
        """None where the span is too wide for Lago."""
        params: Params = [("code", code), *bounds_of(span), ("page", 1), ("per_page", 1)]
        patient = self.state.widths.patient
        try:
            answer = self.http.get("/events", params, gate=self.lists, items=work, large=not patient)
        except TooSlow:
            return None
        total = as_int(as_dict((answer.body or {}).get("meta")).get("total_count"))
        if total is None:
            raise LagoFault("GET /events did not say how many events there are (meta.total_count)")
        return total


def _pieces(reader: Reader, span: Span, bounds: list[int]) -> Generator[pd.DataFrame]:
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
    future: Future[Window] | None = None


def _read(reader: Reader, span: Span, bounds: list[int], closed: threading.Event) -> Iterator[pd.DataFrame]:
    """Windows are read side by side as the gate allows, and put together in order of time."""
    spans = pairwise(bounds)
    piece = Span(*next(spans))
    held: list[Columns] = []
    # The gate holds the requests. More threads than that: some decode while others wait for an answer.
    with ThreadPoolExecutor(2 * reader.http.concurrency, thread_name_prefix="lago-list") as pool:
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
                    yield frame([inside for part in held if len(inside := between(part, piece))])
                    held = [rest for part in held if len(rest := between(part, Span(piece.end, span.end)))]
                    if piece.end == span.end:
                        return
                    piece = Span(*next(spans))
        finally:
            for task in tasks:
                if task.future is not None:
                    task.future.cancel()


def _plan(reader: Reader, pool: ThreadPoolExecutor, tasks: deque[_Task], frontier: int, end: int) -> int:
    """Let as many windows be read as the gate may soon let through; where the next one begins."""
    state = reader.state
    with state.lock:
        widths = state.widths
        ahead = 2 * reader.gate.limit + 1 if widths.suspect is None else 1
        fitting: list[_Task] = []
        while tasks and len(fitting) < ahead:
            task = tasks.popleft()
            if task.future is None:
                first, *rest = widths.fitting(task.span)
                task = _Task(first)
                tasks.extendleft(map(_Task, rest))
            fitting.append(task)
        tasks.extendleft(reversed(fitting))
        while len(tasks) < ahead and frontier < end:
            width = widths.next(state.page_size(reader.page_size))
            if tasks and width > widths.answered:
                break  # whether Lago answers to so wide a window, one at a time tells
            tasks.append(_Task(Span(frontier, min(frontier + width, end))))
            frontier = tasks[-1].span.end
        for task in islice(tasks, ahead):
            if task.future is None:
                task.future = pool.submit(reader.window, task.span, widths.patient)
    return frontier


def _instead(state: ListingState, window: Window) -> list[Span]:
    """What to read instead of a window that could not be read as it is; learns from those that could."""
    with state.lock:
        if window.slow:
            return state.widths.slow(window.span)
        if not window.instead:
            state.widths.saw(window.span, sum(map(len, window.parts)))
        return window.instead


def _milliseconds(moment: datetime) -> int:
    since, rest = divmod(moment - EPOCH, MS)
    if rest:
        raise ValueError(f"{moment} does not lie on a whole millisecond")
    return since

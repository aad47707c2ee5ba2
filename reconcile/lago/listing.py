"""Listing events: any page size, any number of events, a steady picture while new ones arrive.

`GET /events` pages by offset, newest first, and counts anew for every page (Lago v1.51.0, events_query.rb).
So an event that arrives between two pages pushes the others back, and before v1.48.0 events of one timestamp
could repeat or vanish between pages. Events are never changed or deleted. These rules make a whole of it:

- A listing that would go deeper than `MAX_PAGES` pages is cut in time, until every part is shallow.
- A part of one page is one snapshot. A part of several is read until what was seen is what Lago counts. On
  the Postgres store `lago_id` tells events apart, and what one reading missed the next one adds. On
  ClickHouse copies of an event are listed as they were sent, so the count must stand still during the
  reading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pandas as pd

from reconcile.errors import LagoFault
from reconcile.lago.frame import events_frame
from reconcile.lago.http import Http, Params, as_dict, as_int, as_list, following

PAGE_SIZE = 1_000  # asked for; the server may grant less
MAX_PAGES = 10
_MAX_PAGES_OF_ONE_MS = 1_000  # a part that cannot be cut
_MAX_PARTS = 16  # that one part is cut into
_READINGS = 5  # of one part before it is cut, or taken as it is
_MS = timedelta(milliseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Event = dict[str, Any]
OnPage = Callable[[int], None]


@dataclass(slots=True)
class _Reading:
    """One pass over the pages of a part: what they held, and what Lago counted at each."""

    events: list[Event] = field(default_factory=list)
    totals: list[int | None] = field(default_factory=list)
    pages: int = 0

    @property
    def settled_in_itself(self) -> bool:
        """Lago's count stood still and is what was read, or there was no count to go by."""
        return all(total in (None, len(self.events)) for total in self.totals)


@dataclass(frozen=True, slots=True)
class _Span:
    """[start, end) in whole milliseconds since the epoch."""

    start: int
    end: int

    def parts(self, count: int) -> Iterator[_Span]:
        width = self.end - self.start
        count = min(count, width)
        edges = [self.start + width * step // count for step in range(count + 1)]
        return (_Span(low, high) for low, high in pairwise(edges))

    def params(self) -> Params:
        """Lago compares in microseconds and includes both ends, so the last one before `end` is asked for."""
        last = _EPOCH + self.end * _MS - timedelta(microseconds=1)
        return [("timestamp_from", _iso(_EPOCH + self.start * _MS)), ("timestamp_to", _iso(last))]


class Listing:
    """Reads of events. Every method raises `LagoFault`, or `PreflightError` in a preflight view."""

    http: Http
    page_size: int

    def list_events(
        self,
        code: str,
        start: datetime,
        end: datetime,
        *,
        names: Mapping[str, tuple[str, ...]] | None = None,
        store: str = "postgres",
        external_subscription_id: str | None = None,
        on_page: OnPage | None = None,
    ) -> pd.DataFrame:
        """The events of `code` with a timestamp in [start, end), as `events_frame` gives them; in no set
        order.

        `start` and `end` are aware and lie on whole milliseconds. `names` maps a field of the frame to the
        properties that may hold it. `store` is the organization's: on "clickhouse" every copy of an event is
        a row. `on_page` is called in this thread with the number of events of each page as it arrives (pages
        that have to be read again are told again). Raises `LagoFault` when Lago's answers do not settle.
        """
        span = _Span(_milliseconds(start), _milliseconds(end))
        if span.start >= span.end:
            raise ValueError(f"an empty interval: {start} to {end}")
        filters: list[tuple[str, str | int]] = [("code", code)]
        if external_subscription_id is not None:
            filters.append(("external_subscription_id", external_subscription_id))
        frames = []
        todo = [span]
        while todo:
            part = todo.pop()
            events = self._read(part, filters, store, on_page)
            if isinstance(events, int):
                todo += part.parts(events)
            elif events:
                frames.append(events_frame(events, names or {}))
        listed = pd.concat(frames, ignore_index=True) if frames else events_frame([], names or {})
        # The filter is Lago's; this one holds even where a server reads its bounds more coarsely.
        return listed[(listed["timestamp"] >= start) & (listed["timestamp"] < end)].reset_index(drop=True)

    def count_events(self, code: str, start: datetime, end: datetime) -> int:
        """How many events of `code` Lago lists in [start, end), copies counted: one request."""
        span = _Span(_milliseconds(start), _milliseconds(end))
        answer = self.http.get("/events", [("code", code), *span.params(), ("page", 1), ("per_page", 1)])
        total = _total(answer.body)
        if total is None:
            raise LagoFault("GET /events did not say how many events there are (meta.total_count)")
        return total

    def _read(self, span: _Span, filters: Params, store: str, on_page: OnPage | None) -> list[Event] | int:
        """All events of the span, or the number of parts to cut it into."""
        divisible = span.end - span.start > 1
        seen: dict[str, Event] = {}
        for reading_number in range(1, _READINGS + 1):
            reading = self._one_reading(span, filters, on_page, MAX_PAGES if divisible else _MAX_PAGES_OF_ONE_MS)
            if isinstance(reading, int):
                if divisible:
                    return reading
                break
            ids = [event.get("lago_id") for event in reading.events]
            # Copies on one page are no trick of paging: Lago's store keeps them.
            by_id = store == "postgres" and reading.pages > 1 and all(isinstance(one, str) for one in ids)
            if not by_id:
                if reading.settled_in_itself:
                    return reading.events
                continue
            seen |= {str(event["lago_id"]): event for event in reading.events}
            if reading.totals[-1] in (None, len(seen)):
                return list(seen.values())
            if reading_number == _READINGS and _only_grew(reading.totals, len(set(ids))):
                return list(seen.values())
        if divisible:
            return 2
        raise LagoFault(f"GET /events: the events at {_iso(_EPOCH + span.start * _MS)} did not settle")

    def _one_reading(self, span: _Span, filters: Params, on_page: OnPage | None, max_pages: int) -> _Reading | int:
        """One pass over the pages; where there are more than `max_pages`, the number of parts to cut into."""
        reading = _Reading()
        page: int | None = 1
        while page is not None:
            self.http.check_stop()
            answer = self.http.get("/events", [*filters, *span.params(), ("page", page), ("per_page", self.page_size)])
            events = [event for event in as_list((answer.body or {}).get("events")) if isinstance(event, dict)]
            total = _total(answer.body)
            if on_page is not None:
                on_page(len(events))
            reading.events += events
            reading.totals.append(total)
            reading.pages += 1
            page = _next_page(answer.body, page, len(reading.events)) if events else None
            pages = _pages(answer.body, total, len(events))
            if page is not None and (pages > max_pages or page > max_pages):
                return min(max(2, -(-pages * 2 // max_pages)), _MAX_PARTS)
        return reading


def _only_grew(totals: list[int | None], distinct: int) -> bool:
    """New events kept arriving: what existed when the reading began was pushed back, never out of sight."""
    counts = [total or 0 for total in totals]
    return counts == sorted(counts) and distinct >= counts[0]


def _next_page(body: dict[str, Any] | None, page: int, read: int) -> int | None:
    """The page to read next. Raises `LagoFault` where the answer says nothing about further pages."""
    meta = as_dict((body or {}).get("meta"))
    if "next_page" in meta or "total_pages" in meta:
        return following(body, page)
    total = _total(body)
    if total is None:
        raise LagoFault("GET /events did not say whether there are more pages (meta)")
    return page + 1 if read < total else None


def _total(body: dict[str, Any] | None) -> int | None:
    return as_int(as_dict((body or {}).get("meta")).get("total_count"))


def _pages(body: dict[str, Any] | None, total: int | None, length: int) -> int:
    """How many pages there are; 1 where the server does not say."""
    stated = as_int(as_dict((body or {}).get("meta")).get("total_pages"))
    return stated or (-(-total // length) if total and length else 1)


def _milliseconds(moment: datetime) -> int:
    since, rest = divmod(moment - _EPOCH, _MS)
    if rest:
        raise ValueError(f"{moment} does not lie on a whole millisecond")
    return since


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")

"""POST /events, POST /events/batch, GET /events, GET /events/{transaction_id}, GET /events_enriched.

What is common to both event stores; `events_postgres` and `events_clickhouse` hold what each does with an event.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from reconcile.sandbox.lago.call import Account, Call, Lago, Work
from reconcile.sandbox.lago.http import (
    Refused,
    answer,
    broken,
    failure,
    invalid,
    meta,
    not_found,
    paging,
    rendered,
    rendered_page,
)
from reconcile.sandbox.lago.pay_in_advance import bill_in_advance
from reconcile.sandbox.lago.posted import Event, read_event
from reconcile.sandbox.lago.store import Listing
from reconcile.sandbox.lago.timestamps import microseconds, read_time

BATCH_LENGTH = 100

# Longer texts make old versions' date parser give up with an error that nobody catches.
LONGEST_DATE = 128


class EventStore(Protocol):
    """What an event store does for the endpoints."""

    async def insert(self, account: Account, events: Sequence[Event], now: int) -> list[dict[str, Any]]:
        """Takes events received at `now` (microseconds); what a POST answers. Raises Refused."""
        ...

    async def find(self, account: Account, transaction_id: str) -> str | None: ...
    async def newest_start(self, account: Account, external_subscription_id: str) -> Any: ...
    async def page(self, listing: Listing, page: int, per_page: int) -> tuple[list[str], int]: ...
    def listing(self, account: Account, filters: dict[str, Any], page: int, *, enriched: bool = False) -> Listing: ...


class Events:
    def __init__(self, lago: Lago, postgres: EventStore, clickhouse: EventStore) -> None:
        self._lago = lago
        self._postgres = postgres
        self._clickhouse = clickhouse

    def _store(self, call: Call) -> EventStore:
        return self._clickhouse if call.account.clickhouse else self._postgres

    async def create(self, call: Call) -> Response:
        self._may_write(call)
        posted = call.params.get("event")
        if not posted:
            message = "param is missing or the value is empty or invalid: event"
            return failure(400, f"BadRequest: {message}")
        if not isinstance(posted, dict):
            return broken()
        now = microseconds(self._lago.clock())
        event = self._read(call, posted, now)
        if not isinstance(event, Event):
            return invalid(event)
        if event.errors and not call.account.clickhouse:
            return invalid(event.errors)
        try:
            (stored,) = await self._store(call).insert(call.account, [event], now)
        except Duplicates as duplicates:
            return invalid(duplicates.details["0"])
        await self._bill(call, [event])
        return answer({"event": stored})

    async def create_batch(self, call: Call) -> Response:
        self._may_write(call)
        items = call.params.get("events")
        posted = [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
        if not posted:
            return invalid({"events": ["no_events"]})
        if len(posted) > BATCH_LENGTH:
            return invalid({"events": ["too_many_events"]})
        call.work.shown = len(posted)
        now = microseconds(self._lago.clock())
        events: list[Event] = []
        details: dict[str, Any] = {}
        for index, item in enumerate(posted):
            event = self._read(call, item, now)
            if not isinstance(event, Event):
                details[str(index)] = event
            elif event.errors:
                details[str(index)] = event.errors
            else:
                events.append(event)
        if details:
            return invalid(details)
        try:
            stored = await self._store(call).insert(call.account, events, now)
        except Duplicates as duplicates:
            return invalid(duplicates.details)
        await self._bill(call, events)
        return answer({"events": stored})

    async def list(self, call: Call) -> Response:
        return await self._list(call, enriched=False)

    async def list_enriched(self, call: Call) -> Response:
        if not call.account.clickhouse:
            return failure(403, "Forbidden", code="endpoint_not_available")
        return await self._list(call, enriched=True)

    async def _list(self, call: Call, *, enriched: bool) -> Response:
        self._may_read(call)
        if self._lago.faults.before_list is not None:
            await run_in_threadpool(self._lago.faults.before_list)
        filters = await self._filters(call)
        page, per_page = paging(call.query, self._lago.faults.max_per_page)
        listing = self._store(call).listing(call.account, filters, page, enriched=enriched)
        shown = await event_page(self._lago, self._store(call), listing, page, per_page, call.work)
        return rendered_page("events", *shown)

    async def _filters(self, call: Call) -> dict[str, Any]:
        query = call.query
        filters: dict[str, Any] = {name: query[name] for name in ("code", "external_subscription_id") if name in query}
        for name in ("timestamp_from", "timestamp_to"):
            if name in query:
                if not self._lago.version.exact_times and len(query[name]) > LONGEST_DATE:
                    raise Refused(broken())
                moment = read_time(query[name])
                if moment is None:
                    raise Refused(invalid({name: ["invalid_date"]}))
                filters[name] = moment.replace(tzinfo=None)
        if query.get("timestamp_from_started_at") == "true":
            if "external_subscription_id" not in query:
                wrong = {"external_subscription_id": ["required with timestamp_from_started_at"]}
                raise Refused(invalid(wrong))
            if "timestamp_from" in query:
                raise Refused(invalid({"timestamp_from": ["cannot be used with timestamp_from_started_at"]}))
            started = await self._store(call).newest_start(call.account, query["external_subscription_id"])
            if started is not None:
                filters["timestamp_from"] = started
        return filters

    async def find(self, call: Call) -> Response:
        self._may_read(call)
        text = await self._store(call).find(call.account, call.path["transaction_id"])
        return not_found("event") if text is None else rendered("event", text)

    def _read(self, call: Call, posted: dict[str, Any], now: int) -> Any:
        return read_event(
            posted,
            now,
            self._lago.metrics(call.organization),
            exact_times=self._lago.version.exact_times,
            takes_nul=call.account.clickhouse,
        )

    async def _bill(self, call: Call, events: Sequence[Event]) -> None:
        """Makes the fees of charges that are paid in advance. Lago's worker does it, moments later."""
        metrics = self._lago.metrics(call.organization)
        due = [event for event in events if (found := metrics.get(event.code or "")) and found.in_advance]
        if due:
            await run_in_threadpool(bill_in_advance, self._lago, call.account, due)

    def _may_write(self, call: Call) -> None:
        if not call.account.writes_events:
            raise Refused(failure(403, "Forbidden", code="write_action_not_allowed_for_event"))

    def _may_read(self, call: Call) -> None:
        if not call.account.reads_events:
            raise Refused(failure(403, "Forbidden", code="read_action_not_allowed_for_event"))


class Duplicates(Exception):
    """Events that are stored already. `details` by the event's index in the request, as text."""

    def __init__(self, indexes: Sequence[int]) -> None:
        self.details = {str(index): {"transaction_id": ["value_already_exist"]} for index in indexes}


async def event_page(
    lago: Lago, store: EventStore, listing: Listing, page: int, per_page: int, work: Work
) -> tuple[list[str], dict[str, Any]]:
    """The JSON texts of a page of events, and the page's metadata. Raises Refused."""
    if per_page == 0 and lago.version.counts_past_the_end:
        raise Refused(broken())
    rows, total = await store.page(listing, page, per_page)
    if not rows and not lago.version.counts_past_the_end:
        total = 0
    work.shown, work.counted, work.skipped = len(rows), total, min((page - 1) * per_page, total)
    return rows, meta(page, per_page, total)

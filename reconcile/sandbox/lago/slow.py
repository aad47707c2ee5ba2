"""As slow as a real Lago: what each request takes of it, and how many it works on at a time.

The times were measured on a server of one Puma process on two cores that it shared with its database. In Ruby one
request is computed at a time in each process, so that requests in flight wait for one another.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from reconcile.sandbox.lago.call import Work

# Milliseconds. Of a listing: for the request, for each event shown, counted by COUNT(*), and skipped by the offset.
LIST, SHOWN, COUNTED, SKIPPED = 12.0, 0.062, 0.00015, 0.0005
CREATE, BATCH, BATCH_EVENT = 25.0, 10.0, 2.9
FIND = 21.0
PLAN = 25.0
SUBSCRIPTION, SUBSCRIPTIONS_LISTED = 20.0, 1.8
USAGE = 60.0
OTHER = 15.0


class Slow:
    """The time of `workers` processes. A request keeps one of them busy for what it costs."""

    def __init__(self, workers: int = 1) -> None:
        self.workers = workers
        self._free = asyncio.Semaphore(workers)

    @asynccontextmanager
    async def worker(self, method: str, route: str, work: Work) -> AsyncIterator[None]:
        """Waits for a worker and keeps it until the request's time is over; `work` is filled in meanwhile."""
        async with self._free:
            begin = time.monotonic()
            yield
            await asyncio.sleep(max(0.0, begin + cost(method, route, work) / 1000 - time.monotonic()))


def cost(method: str, route: str, work: Work) -> float:
    """Milliseconds of one request, by its route such as `/events/{transaction_id}`."""
    match method, route:
        case "GET", "/events" | "/events_enriched":
            return LIST + SHOWN * work.shown + COUNTED * work.counted + SKIPPED * work.skipped
        case "POST", "/events":
            return CREATE
        case "POST", "/events/batch":
            return BATCH + BATCH_EVENT * work.shown
        case "GET", "/events/{transaction_id}":
            return FIND
        case "GET", "/plans":
            return OTHER + PLAN * work.shown
        case "GET", "/plans/{code}":
            return PLAN
        case "GET", "/subscriptions":
            return OTHER + SUBSCRIPTIONS_LISTED * work.shown
        case "GET", "/subscriptions/{external_id}":
            return SUBSCRIPTION
        case "GET", "/customers/{external_id}/current_usage":
            return USAGE + COUNTED * work.counted
    return OTHER

"""The client: everything that the job asks of one Lago organization."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

from reconcile.lago.catalog import Catalog
from reconcile.lago.clock import ClockOffset
from reconcile.lago.delivery import Delivery
from reconcile.lago.events import Decode, decode_page
from reconcile.lago.gate import Gate, InFlight
from reconcile.lago.http import Http
from reconcile.lago.listing import PAGE_SIZE, Listing
from reconcile.lago.patience import Retry
from reconcile.lago.reading import ListingState

# Lago Cloud allows 50 requests a second that are not for events.
_PLANS_MOST = 4


@dataclass(frozen=True, slots=True)
class Gates:
    """Requests in flight, by kind."""

    lists: InFlight
    batches: InFlight
    plans: InFlight


class Lago(Catalog, Listing, Delivery):
    """One Lago organization, usable from several threads. Use it as a context manager, or `close` it.

    `base_url` and `api_key` are LAGO_API_BASE and LAGO_API_KEY; `concurrency` is the most requests in flight, of lists
    and of batches each (of subscriptions' plans at most four); `page_size` is the number of events asked for per page;
    `timeout` is in seconds and holds for connecting, for sending a request, and for all of its answer. `ca_file` names
    a file of further certificates.
    `decode` decodes a page of events: here, or wherever it sends it. `on_limit` is told a kind of request ("list",
    "deliver", "plan") and how many of it were and are let in flight, whenever that changes.
    Setting `stop` ends all waits early: reads raise `Interrupted`, a delivery returns what it knows.

    Raises `SettingsError` where the address or the key cannot be used.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        concurrency: int = 8,
        timeout: float = 30.0,
        retry: Retry | None = None,
        stop: threading.Event | None = None,
        page_size: int = PAGE_SIZE,
        ca_file: str | None = None,
        decode: Decode = decode_page,
        on_limit: Callable[[str, int, int], None] | None = None,
    ) -> None:
        self.page_size = page_size
        self.decode = decode
        self.state = ListingState()
        self.lists, self.batches, self.plan_requests = (
            Gate(most, None if on_limit is None else partial(on_limit, kind))
            for kind, most in (("list", concurrency), ("deliver", concurrency), ("plan", min(concurrency, _PLANS_MOST)))
        )
        self.http = Http(
            base_url,
            api_key,
            concurrency=concurrency,
            timeout=timeout,
            retry=retry or Retry(),
            stop=stop or threading.Event(),
            ca_file=ca_file,
        )

    @property
    def preflight(self) -> Lago:
        """The same client for the time before the run: a wrong answer raises `PreflightError` at once.

        Nothing is held for long: a Lago that does not answer raises `LagoFault` after seconds. It shares the
        connections, the counters and the rate limit, and needs no closing.
        """
        view = copy.copy(self)
        view.http = self.http.preflight()
        return view

    @property
    def requests(self) -> int:
        """Requests sent to Lago so far, repeated ones included."""
        return self.http.requests

    @property
    def retries(self) -> int:
        """How often a request had to be repeated so far."""
        return self.http.retries

    @property
    def in_flight(self) -> Gates:
        """How many requests were in flight, and what their number settled on."""
        return Gates(self.lists.report, self.batches.report, self.plan_requests.report)

    @property
    def clock_offset(self) -> ClockOffset | None:
        """How far Lago's clock is ahead of this host's by the `Date` of its answers, None where they have none."""
        return self.http.clock_offset

    def close(self) -> None:
        self.http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

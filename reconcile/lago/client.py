"""The client: everything that the job asks of one Lago organization."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from reconcile.lago.catalog import Catalog
from reconcile.lago.delivery import Delivery
from reconcile.lago.http import Http, Retry
from reconcile.lago.listing import PAGE_SIZE, Listing


class Lago(Catalog, Listing, Delivery):
    """One Lago organization, usable from several threads. Use it as a context manager, or `close` it.

    `base_url` and `api_key` are LAGO_API_BASE and LAGO_API_KEY; `concurrency` is the size of the connection pool;
    `page_size` is the number of events asked for per page; `timeout` is in seconds and holds for connecting, and for
    every read and write on its own. Setting `stop` ends all waits early: reads raise `Interrupted`, a delivery returns
    what it knows.

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
    ) -> None:
        self.page_size = page_size
        self.http = Http(
            base_url,
            api_key,
            concurrency=concurrency,
            timeout=timeout,
            retry=retry or Retry(),
            stop=stop or threading.Event(),
        )

    @property
    def preflight(self) -> Lago:
        """The same client for the time before the run: a wrong answer raises `PreflightError` at once.

        Nothing is held for long: a Lago that does not answer raises `LagoFault` after seconds. It shares the
        connections, the counters and the rate limit, and needs no closing.
        """
        view = object.__new__(Lago)
        view.http = self.http.preflight()
        view.page_size = self.page_size
        return view

    @property
    def requests(self) -> int:
        """Requests sent to Lago so far, repeated ones included."""
        return self.http.requests

    @property
    def retries(self) -> int:
        """How often a request had to be repeated so far."""
        return self.http.retries

    def close(self) -> None:
        self.http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

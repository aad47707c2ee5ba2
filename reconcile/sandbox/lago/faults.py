"""What may go wrong between a client and Lago: knobs that tests set while the stand-in runs.

None of this is in Lago's Rails code: proxies, networks and rate limits do it, or an older Lago did.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, Literal
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reconcile.sandbox.lago.timestamps import read_time

Action = Literal["answer", "drop", "reset", "hang"]

BAD_GATEWAY = {
    413: "413 Request Entity Too Large",
    500: "500 Internal Server Error",
    502: "502 Bad Gateway",
    503: "503 Service Temporarily Unavailable",
    504: "504 Gateway Time-out",
}


@dataclass(slots=True)
class Fault:
    """One planned fault: the next `times` requests that match, after letting `after` of them through."""

    action: Action
    times: int
    after: int
    method: str | None
    path: str
    status: int = 500
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def matches(self, method: str, path: str) -> bool:
        return self.times > 0 and self.method in (None, method) and path.startswith(self.path)


@dataclass(slots=True)
class Faults:
    """Every knob, off by default. Planned faults are looked at in the order they were planned in.

    `max_body_bytes`: a longer request body is answered 413 by the proxy in front (nginx's HTML).
    `before_1_39`: a batch answered 422 for duplicates has stored its other events all the same.
    `visibility_lag`: seconds until an event of a ClickHouse store is shown; looked at when reading.
    `max_per_page`: the server's own upper end for `per_page`.
    `unstable_ties`: events of equal timestamp come in any order, as before Lago 1.48: another on each page.
    `before_list`: called (in a thread) before each GET /events, as when events arrive between pages.
    `widest_list`: a GET /events of a longer range of time, or of an open one, is answered 504 by the proxy.
    `latency`: seconds that requests take longer, by the beginning of their path (the longest that fits).
    `requests_per_second`: more than this many within a second are answered 429, by the beginning of their path.
    `broken_usage`: external IDs of subscriptions whose current usage is a 500, for good.
    `date_header`: a proxy in front adds the header `Date`; Lago itself sends none.
    `clock_skew`: how far Lago's clock is ahead of the true time: in `Date`, `created_at`, and whatever it computes.
    """

    max_body_bytes: int | None = None
    before_1_39: bool = False
    visibility_lag: float = 0.0
    max_per_page: int | None = None
    unstable_ties: bool = False
    before_list: Callable[[], None] | None = None
    widest_list: timedelta | None = None
    latency: dict[str, float] = field(default_factory=dict)
    requests_per_second: dict[str, int] = field(default_factory=dict)
    broken_usage: set[str] = field(default_factory=set)
    date_header: bool = False
    clock_skew: timedelta = timedelta()
    planned: list[Fault] = field(default_factory=list)
    recent: dict[str, deque[float]] = field(default_factory=dict)

    def answer(
        self,
        status: int,
        *,
        times: int = 1,
        after: int = 0,
        method: str | None = None,
        path: str = "",
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> None:
        """The next requests get this answer and are not carried out. Without `body`: nginx's HTML for 5xx."""
        if body is None:
            body, headers = _default(status, headers or {})
        self.planned.append(Fault("answer", times, after, method, path, status, headers or {}, body))

    def rate_limit(self, *, reset: float = 1, times: int = 1, path: str = "", body: bytes = b"") -> None:
        """429 as Lago Cloud's docs have it: `reset` seconds until the window begins anew."""
        headers = {"x-ratelimit-limit": "50", "x-ratelimit-remaining": "0", "x-ratelimit-reset": f"{reset:g}"}
        self.answer(429, times=times, path=path, headers=headers, body=body)

    def drop(self, *, times: int = 1, after: int = 0, method: str | None = None, path: str = "") -> None:
        """The next requests are carried out, and the connection is reset without an answer."""
        self.planned.append(Fault("drop", times, after, method, path))

    def reset(self, *, times: int = 1, after: int = 0, method: str | None = None, path: str = "") -> None:
        """The next requests are carried out, and the connection ends in the middle of the answer's body."""
        self.planned.append(Fault("reset", times, after, method, path))

    def hang(self, *, times: int = 1, after: int = 0, method: str | None = None, path: str = "") -> None:
        """The next requests are neither carried out nor answered."""
        self.planned.append(Fault("hang", times, after, method, path))

    def take(self, method: str, path: str) -> Fault | None:
        """The fault that this request meets, counted down."""
        for fault in self.planned:
            if fault.matches(method, path):
                if fault.after > 0:
                    fault.after -= 1
                    return None
                fault.times -= 1
                return fault
        return None

    def over_limit(self, path: str) -> int | None:
        """The limit that this request, made now, goes beyond; such a request is not counted."""
        prefix = max((prefix for prefix in self.requests_per_second if path.startswith(prefix)), key=len, default=None)
        if prefix is None:
            return None
        limit, now = self.requests_per_second[prefix], time.monotonic()
        recent = self.recent.setdefault(prefix, deque())
        while recent and recent[0] <= now - 1:
            recent.popleft()
        if len(recent) >= limit:
            return limit
        recent.append(now)
        return None

    def delay(self, path: str) -> float:
        prefix = max((prefix for prefix in self.latency if path.startswith(prefix)), key=len, default=None)
        return 0.0 if prefix is None else self.latency[prefix]

    def too_wide(self, path: str, query: str) -> bool:
        if self.widest_list is None or path != "/api/v1/events":
            return False
        given = parse_qs(query)
        ends = [read_time(given[name][0]) if name in given else None for name in ("timestamp_from", "timestamp_to")]
        start, end = ends
        return start is None or end is None or end - start > self.widest_list


def _default(status: int, headers: Mapping[str, str]) -> tuple[bytes, Mapping[str, str]]:
    if status == 401:
        return b'{"status":401,"error":"Unauthorized"}', {"content-type": "application/json; charset=utf-8", **headers}
    title = BAD_GATEWAY.get(status)
    if title is None:
        return b"", headers
    page = f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n"
    page += "<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    return page.encode(), {"content-type": "text/html", **headers}


class FaultInjector:
    """ASGI middleware between the HTTP server (uvicorn) and the stand-in.

    It also hands the path on undecoded, so that an encoded `/` in a transaction ID does not split the path,
    and tells `seen` of each request: method, path and query.
    """

    def __init__(
        self,
        app: ASGIApp,
        faults: Faults,
        seen: Callable[[str, str, str], None],
        clock: Callable[[], datetime],
    ) -> None:
        self._app = app
        self._faults = faults
        self._seen = seen
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["raw_path"].decode("ascii").rstrip("/") or "/"
        query = scope["query_string"].decode("ascii")
        scope = {**scope, "path": path}
        self._seen(scope["method"], path, query)
        if self._faults.date_header:
            send = self._dated(send)
        if delay := self._faults.delay(path):
            await asyncio.sleep(delay)
        proxied = self._proxied(scope, path, query)
        if proxied is not None:
            await _answer(receive, send, *proxied)
            return
        fault = self._faults.take(scope["method"], path)
        if fault is None:
            await self._app(scope, receive, send)
        elif fault.action == "answer":
            await _answer(receive, send, fault.status, fault.headers, fault.body)
        elif fault.action == "hang":
            while (await receive())["type"] != "http.disconnect":
                pass
        else:
            await self._carry_out(scope, receive, send, fault.action)

    def _proxied(self, scope: Scope, path: str, query: str) -> tuple[int, Mapping[str, str], bytes] | None:
        """What a proxy in front answers by itself: status, headers, body."""
        status, headers = 0, {}
        most, limit = self._faults.max_body_bytes, self._faults.over_limit(path)
        if most is not None and _content_length(scope) > most:
            status = 413
        elif limit is not None:
            status = 429
            headers = {"x-ratelimit-limit": str(limit), "x-ratelimit-remaining": "0", "x-ratelimit-reset": "1"}
        elif self._faults.too_wide(path, query):
            status = 504
        if not status:
            return None
        body, more = _default(status, headers)
        return status, more, body

    def _dated(self, send: Send) -> Send:
        async def dated(message: Message) -> None:
            if message["type"] == "http.response.start":
                date = format_datetime(self._clock().astimezone(UTC), usegmt=True).encode()
                message = {**message, "headers": [*message.get("headers", ()), (b"date", date)]}
            await send(message)

        return dated

    async def _carry_out(self, scope: Scope, receive: Receive, send: Send, action: Action) -> None:
        messages: list[Message] = []

        async def keep(message: Message) -> None:
            messages.append(message)

        await self._app(scope, receive, keep)
        if action == "reset":
            await send(messages[0])
            body: bytes = messages[1]["body"]
            await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
        _cut(receive, reset=action == "drop")
        while (await receive())["type"] != "http.disconnect":
            pass


async def _answer(receive: Receive, send: Send, status: int, headers: Mapping[str, str], body: bytes) -> None:
    while (await receive()).get("more_body", False):
        pass
    lines = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    lines.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body})


def _content_length(scope: Scope) -> int:
    return next((int(value) for name, value in scope["headers"] if name == b"content-length"), 0)


def _cut(receive: Receive, *, reset: bool) -> None:
    """Closes the connection at once, or resets it, which may take from the client what it has not read yet.

    ASGI has no word for it: uvicorn's transport is asked.
    """
    # A bound method of uvicorn's RequestResponseCycle.
    cycle: Any = receive.__self__  # type: ignore[attr-defined]
    if reset:
        connection: socket.socket = cycle.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    cycle.transport.abort()

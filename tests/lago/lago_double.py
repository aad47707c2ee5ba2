"""A small Lago on loopback for the client's tests: Lago's rules for events, and whatever a test scripts.

Its rules are those of Lago v1.51.0 as far as these tests need them; `mode` "pre-1.39" and "clickhouse" change
them.
"""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from reconcile.lago import Retry

KEY = "lago_key-5ecret"
QUICK = Retry(attempts=4, seconds=20, wait_initial=0.002, wait_max=0.004, rate_limit_seconds=10)
EXISTS = {"transaction_id": ["value_already_exist"]}


@dataclass
class Request:
    method: str
    path: str  # as sent, without the query
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: Any

    @property
    def page(self) -> int:
        return int(self.query.get("page", ["1"])[0])


@dataclass
class Reply:
    status: int = 200
    body: Any = None  # a str is sent as HTML, anything else as JSON, None as nothing
    headers: dict[str, str] = field(default_factory=dict)


class Drop(Exception):
    """Close the connection instead of answering."""


def refusal(details: Any) -> Reply:
    envelope = {"status": 422, "error": "Unprocessable Entity", "code": "validation_errors"}
    return Reply(422, envelope | {"error_details": details})


def visible(event: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in event.items() if not name.startswith("_")}


Script = Callable[[Request], Reply | None]


@dataclass
class Double:
    """`scripts` see every request first: one that returns a reply decides (it may also raise Drop)."""

    url: str = ""
    mode: str = "postgres"
    stored: list[dict[str, Any]] = field(default_factory=list)
    scripts: list[Script] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    page_cap: int = 100_000
    batch_limit: int = 100
    shuffle_ties: bool = False
    before_list: Callable[[], object] = lambda: None
    lock: threading.Lock = field(default_factory=threading.Lock)
    clock: int = 0

    def answer(self, request: Request) -> Reply:
        with self.lock:
            self.requests.append(request)
        for script in list(self.scripts):
            if (reply := script(request)) is not None:
                return reply
        with self.lock:
            return self.serve(request)

    def serve(self, request: Request) -> Reply:
        path = request.path.removeprefix("/api/v1")
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return Reply(401, {"status": 401, "error": "Unauthorized"})
        if (request.method, path) == ("POST", "/events/batch"):
            return self.create_batch(request.body.get("events") or [])
        if (request.method, path) == ("POST", "/events"):
            return self.create(request.body["event"])
        if (request.method, path) == ("GET", "/events"):
            self.before_list()
            return self.list_page(request)
        if path.startswith("/events/"):
            wanted = unquote(path.removeprefix("/events/"))
            for event in self.stored:
                if event["transaction_id"] == wanted:
                    return Reply(200, {"event": visible(event)})
            return Reply(404, {"status": 404, "error": "Not Found", "code": "event_not_found"})
        return Reply(404, "<html>no such page</html>")

    def create(self, event: dict[str, Any]) -> Reply:
        details = self.problem(event) or (EXISTS if self.has(event) else None)
        if details:
            return refusal(details)
        return Reply(200, {"event": self.add(event)})

    def create_batch(self, events: list[dict[str, Any]]) -> Reply:
        if not events:
            return refusal({"events": ["no_events"]})
        if len(events) > self.batch_limit:
            return refusal({"events": ["too_many_events"]})
        invalid = {str(index): found for index, event in enumerate(events) if (found := self.problem(event))}
        if invalid:
            return refusal(invalid)
        ids = [event["transaction_id"] for event in events]
        existing = {
            str(index): EXISTS
            for index, event in enumerate(events)
            if self.mode != "clickhouse" and (self.has(event) or ids[index] in ids[:index])
        }
        if existing:
            if self.mode == "pre-1.39":
                for index, event in enumerate(events):
                    if str(index) not in existing:
                        self.add(event)
            return refusal(existing)
        return Reply(200, {"events": [self.add(event) for event in events]})

    def problem(self, event: dict[str, Any]) -> Any:
        return event.get("properties", {}).get("problem")

    def has(self, event: dict[str, Any]) -> bool:
        keys = {(one["external_subscription_id"], one["transaction_id"]) for one in self.stored}
        return self.mode != "clickhouse" and (event["external_subscription_id"], event["transaction_id"]) in keys

    def add(self, event: dict[str, Any]) -> dict[str, Any]:
        """Store an event; its `timestamp` is in seconds, and kept to the microsecond."""
        self.clock += 1
        moment = datetime.fromtimestamp(0, UTC) + datetime.resolution * round(float(event["timestamp"]) * 1e6)
        shown = moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03}Z"
        identity = f"org-{event['external_subscription_id']}-{event['transaction_id']}-{event['timestamp']}"
        stored = {
            "lago_id": identity if self.mode == "clickhouse" else f"00000000-0000-4000-8000-{self.clock:012}",
            "transaction_id": event["transaction_id"],
            "external_subscription_id": event["external_subscription_id"],
            "code": event["code"],
            "timestamp": shown,
            "properties": event.get("properties", {}),
        }
        self.stored.append(stored | {"_moment": moment, "_ingested": self.clock})
        return stored

    def list_page(self, request: Request) -> Reply:
        low, high = (datetime.fromisoformat(request.query[name][0]) for name in ("timestamp_from", "timestamp_to"))
        subscription = request.query.get("external_subscription_id")
        found = [
            event
            for event in self.stored
            if low <= event["_moment"] <= high
            and [event["code"]] == request.query["code"]
            and subscription in (None, [event["external_subscription_id"]])
        ]
        if self.mode == "clickhouse":
            found.sort(key=lambda event: -event["_ingested"])
        elif self.shuffle_ties:
            found.sort(key=lambda event: (event["_moment"], random.random()), reverse=True)
        else:
            found.sort(key=lambda event: event["transaction_id"])
            found.sort(key=lambda event: event["_moment"], reverse=True)
        size = min(int(request.query["per_page"][0]), self.page_cap)
        shown = found[(request.page - 1) * size : request.page * size]
        pages = -(-len(found) // size)
        meta = {
            "current_page": request.page,
            "next_page": request.page + 1 if request.page < pages else None,
            "prev_page": None,
            "total_pages": pages,
            "total_count": len(found),
        }
        return Reply(200, {"events": [visible(event) for event in shown], "meta": meta})

    def paths(self) -> list[str]:
        return [f"{request.method} {request.path.removeprefix('/api/v1')}" for request in self.requests]


@contextmanager
def running() -> Iterator[Double]:
    double = Double()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def handle_any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            raw = self.rfile.read(length)
            parts = urlsplit(self.path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(
                self.command, parts.path, parse_qs(parts.query), headers, json.loads(raw) if raw else None
            )
            try:
                reply = double.answer(request)
            except Drop:
                self.close_connection = True
                return
            body = b"" if reply.body is None else reply.body.encode() if isinstance(reply.body, str) else b""
            kind = "text/html" if isinstance(reply.body, str) else "application/json"
            if reply.body is not None and not isinstance(reply.body, str):
                body = json.dumps(reply.body).encode()
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = handle_any

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that left is no news
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    double.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield double
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def times(count: int, reply: Reply | type[Drop], path: str = "") -> Script:
    """A script: the next `count` requests whose path ends like this get `reply`."""
    left = [count]

    def script(request: Request) -> Reply | None:
        if left[0] == 0 or not request.path.endswith(path):
            return None
        left[0] -= 1
        if isinstance(reply, Reply):
            return reply
        raise reply

    return script

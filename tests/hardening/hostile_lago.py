"""A Lago in the hands of somebody who means harm: it keeps Lago's rules until a trap or a twist says otherwise.

It is written for these tests alone, from what Lago's API answers, and shares nothing with the sandbox: what arrives
here is what left the program.
"""

from __future__ import annotations

import json
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

KEY = "canary-lago-key-6d1f"
CODE = "llm_usage"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class Request:
    """One request as it arrived. `path` is percent-decoded, without `/api/v1`; `events` are those of a POST."""

    method: str
    path: str
    target: str  # as it was sent
    query: dict[str, list[str]]
    headers: dict[str, str]
    events: list[dict[str, Any]]

    @property
    def posts(self) -> bool:
        return self.method == "POST"

    @property
    def lists(self) -> bool:
        return (self.method, self.path) == ("GET", "/events")

    def number(self, name: str, default: int) -> int:
        return int(self.query.get(name, [str(default)])[0])


@dataclass
class Reply:
    """An answer, byte by byte."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class HangUp(Exception):
    """Instead of an answer: the connection is closed."""


Trap = Callable[[Request], Reply | None]
Twist = Callable[[Request, Reply], Reply]


def answer(value: Any, status: int = 200) -> Reply:
    return Reply(status, json.dumps(value).encode())


def html(status: int) -> Reply:
    page = f"<html><body><h1>{status} from a proxy</h1></body></html>".encode()
    return Reply(status, page, {"Content-Type": "text/html"})


def refused(details: Any) -> Reply:
    envelope = {"status": 422, "error": "Unprocessable Entity", "code": "validation_errors"}
    return answer(envelope | {"error_details": details}, 422)


def not_found(what: str) -> Reply:
    return answer({"status": 404, "error": "Not Found", "code": f"{what}_not_found"}, 404)


@dataclass
class HostileLago:
    """`trap` sees a request first: its reply, where it gives one, is all that happens. `twist` sees what was answered
    after everything was stored, and may answer something else. `poison` names request IDs and what Lago makes of them.
    """

    store: str = "postgres"
    url: str = ""
    key: str = KEY
    trap: Trap = lambda _: None
    twist: Twist = lambda _, reply: reply
    poison: dict[str, Reply] = field(default_factory=dict)
    subscriptions: list[dict[str, Any]] = field(default_factory=list)
    stored: list[dict[str, Any]] = field(default_factory=list)
    seen: list[Request] = field(default_factory=list)
    page_cap: int = 1_000
    lock: threading.RLock = field(default_factory=threading.RLock)

    # --- what a test asks

    def billed(self) -> Counter[str]:
        """How often each request ID would be billed: every stored copy counts."""
        return Counter(str(event["properties"]["request_id"]) for event in self.stored)

    def posts(self) -> list[Request]:
        return [request for request in self.seen if request.posts]

    # --- what it answers

    def respond(self, request: Request) -> Reply:
        with self.lock:
            self.seen.append(request)
        reply = self.trap(request)
        if reply is not None:
            return reply
        with self.lock:
            reply = self.serve(request)
        return self.twist(request, reply)

    def serve(self, request: Request) -> Reply:
        if request.headers.get("authorization") != f"Bearer {self.key}":
            return answer({"status": 401, "error": "Unauthorized"}, 401)
        head, _, name = request.path.strip("/").partition("/")
        if request.posts:
            return self.take(request.events, single=name != "batch")
        if head == "organizations":
            return answer({"organization": {"lago_id": "org-1", "name": "Acme", "events_store": self.store}})
        if head == "billable_metrics":
            return answer({"billable_metric": self.metric()}) if name == CODE else not_found("billable_metric")
        if head == "plans":
            return answer({"plan": self.plan()})
        if head == "subscriptions":
            return self.show_subscription(name) if name else self.list_subscriptions(request)
        if head == "events":
            return self.show_event(name) if name else self.list_events(request)
        if head == "invoices":
            return answer({"invoices": [], "meta": {"current_page": 1, "next_page": None, "total_count": 0}})
        return not_found("resource")

    def metric(self) -> dict[str, Any]:
        found = {"lago_id": "metric-1", "code": CODE, "name": "Usage", "aggregation_type": "sum_agg", "filters": []}
        return found | {"field_name": "response_cost", "recurring": False, "expression": None}

    def plan(self) -> dict[str, Any]:
        charge = {"billable_metric_code": CODE, "charge_model": "standard", "properties": {"amount": "1"}}
        return {"lago_id": "plan-1", "code": "plan", "interval": "monthly", "charges": [charge]}

    def subscribe(self, *external_ids: str, **changes: Any) -> None:
        for external_id in external_ids:
            one = {
                "lago_id": f"sub-{external_id[:40]}-{len(self.subscriptions)}",
                "external_id": external_id,
                "external_customer_id": f"customer of {external_id[:40]}",
                "plan_code": "plan",
                "status": "active",
                "started_at": "2025-01-01T00:00:00.000Z",
                "terminated_at": None,
                "current_billing_period_started_at": "2025-01-01T00:00:00Z",
                "current_billing_period_ending_at": "2035-01-01T00:00:00Z",
            }
            self.subscriptions.append(one | changes)

    def list_subscriptions(self, request: Request) -> Reply:
        found = [one for one in self.subscriptions if one["status"] in request.query.get("status[]", ["active"])]
        for name in ("external_id", "external_customer_id"):
            if name in request.query:
                found = [one for one in found if [one[name]] == request.query[name]]
        return self.page("subscriptions", found, request)

    def show_subscription(self, external_id: str) -> Reply:
        for one in self.subscriptions:
            if one["external_id"] == external_id:
                return answer({"subscription": one | {"plan": self.plan()}})
        return not_found("subscription")

    def show_event(self, transaction_id: str) -> Reply:
        for event in self.stored:
            if event["transaction_id"] == transaction_id:
                return answer({"event": event})
        return not_found("event")

    def take(self, events: list[dict[str, Any]], single: bool) -> Reply:
        for event in events:
            reply = self.poison.get(str(event["properties"].get("request_id")) if "properties" in event else "")
            if reply is not None and (reply.status != 422 or single):
                return reply
        flagged = {
            str(place): self.poison[event["properties"]["request_id"]].json["error_details"]
            for place, event in enumerate(events)
            if event.get("properties", {}).get("request_id") in self.poison
        }
        if flagged:
            return refused(flagged)
        known = {(one["external_subscription_id"], one["transaction_id"]) for one in self.stored}
        twice = {"transaction_id": ["value_already_exist"]}
        exist = {
            str(place): twice
            for place, event in enumerate(events)
            if self.store == "postgres" and (event["external_subscription_id"], event["transaction_id"]) in known
        }
        if exist:
            return refused(exist["0"] if single else exist)
        taken = [self.keep(event) for event in events]
        return answer({"event": taken[0]} if single else {"events": taken})

    def keep(self, event: dict[str, Any]) -> dict[str, Any]:
        micros = int(Decimal(event["timestamp"]) * 1_000_000)
        moment = datetime.fromtimestamp(micros // 1_000_000, UTC)
        stored = {
            "lago_id": f"event-{len(self.stored)}",
            "timestamp": f"{moment:%Y-%m-%dT%H:%M:%S}.{micros // 1000 % 1000:03}Z",
            **{name: event.get(name) for name in ("transaction_id", "external_subscription_id", "code", "properties")},
        }
        self.stored.append(stored)
        return stored

    def list_events(self, request: Request) -> Reply:
        low, high = (_ms(request.query[name][0]) for name in ("timestamp_from", "timestamp_to"))
        found = [event for event in self.stored if low <= _ms(event["timestamp"]) <= high]
        for name, field_name in (("code", "code"), ("external_subscription_id", "external_subscription_id")):
            if name in request.query:
                found = [event for event in found if [event[field_name]] == request.query[name]]
        found.sort(key=lambda event: (event["timestamp"], str(event["transaction_id"])), reverse=True)
        return self.page("events", found, request)

    def page(self, key: str, found: list[dict[str, Any]], request: Request) -> Reply:
        size = min(request.number("per_page", 100), self.page_cap)
        page, pages = request.number("page", 1), -(-len(found) // size)
        meta = {
            "current_page": page,
            "next_page": page + 1 if page < pages else None,
            "total_pages": pages,
            "total_count": len(found),
        }
        return answer({key: found[(page - 1) * size : page * size], "meta": meta})


def _ms(text: str) -> int:
    return (datetime.fromisoformat(text) - EPOCH).total_seconds() * 1000 // 1  # type: ignore[return-value]


@contextmanager
def serving(lago: HostileLago, tls: ssl.SSLContext | None = None) -> Iterator[HostileLago]:
    """Serves it on a port of loopback, and tells it its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def handle_any(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            sent = json.loads(raw) if raw else {}
            parts = urlsplit(self.path)
            request = Request(
                method=self.command,
                path=unquote(parts.path.removeprefix("/api/v1")),
                target=self.path,
                query=parse_qs(parts.query, keep_blank_values=True),
                headers={name.lower(): value for name, value in self.headers.items()},
                events=sent.get("events") or ([sent["event"]] if "event" in sent else []),
            )
            try:
                reply = lago.respond(request)
            except HangUp:
                self.close_connection = True
                return
            self.send_response_only(reply.status)
            for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)
            # An answer that is shorter or longer than it says ends with the connection.
            self.close_connection |= "Content-Length" in reply.headers or "Transfer-Encoding" in reply.headers

        do_GET = do_POST = handle_any

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that went away is no news."""

    server = Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    lago.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield lago
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

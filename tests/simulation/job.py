"""Runs the real job on a simulated machine: its wire, its reader and its ledger's transactions are taken over.

The ledger itself is the real one in Postgres; every transaction of it is an I/O boundary at which the job may be
killed, cut off or told to stop: before it begins, before it is committed, after it was committed.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any
from unittest import mock
from urllib.parse import urlsplit
from zlib import crc32

import structlog
from sqlalchemy import Engine, create_engine

from reconcile.errors import ReconcileError
from reconcile.lago import delivery, gate, http, listing, patience, price_list
from reconcile.lago.wire import NoAnswer, Response
from reconcile.ledger import Ledger, database, locks
from reconcile.litellm import feed
from reconcile.run import conclude, courier, job, preflight
from reconcile.run.order import Order, Result
from reconcile.settings import Settings

from .lago import Key, Lago, Reply
from .litellm import MemoryLogs, Table
from .machine import InlineExecutor, Killed, LazyExecutor, Machine, Skew

# What a request may meet. `after` is done by Lago before the answer goes wrong.
BEFORE = ("429", "429 for long", "500", "502", "503", "504", "refused", "timeout", "reset", "html")
AFTER = ("500 after", "504 after", "timeout after", "reset after", "truncated after", "timeout, done later")
ONCE = ("401",)
KINDS = BEFORE + AFTER + ONCE

_HTML = b"<html><body><h1>502 Bad Gateway</h1></body></html>"


class SimulatedWire:
    """In place of the connections to Lago: a request becomes a call of the model, or goes wrong on the way."""

    def __init__(
        self, machine: Machine, lago: Lago, label: Callable[[Mapping[str, Any]], Key | None], run: int
    ) -> None:
        self._machine, self._lago, self._label, self._run = machine, lago, label, run
        self.posts: list[tuple[str, Any]] = []
        self.requests = 0

    def exchange(self, method: str, target: str, headers: Mapping[str, str], content: bytes | None) -> Response:
        machine = self._machine
        body = None if content is None else json.loads(content)
        if method == "POST" and (
            machine.count + 1 == machine.trouble.kill_at or len(self.posts) + 1 == machine.trouble.kill_at_send
        ):
            self._killed_on_the_way(method, target, body)
        machine.boundary()
        self.requests += 1
        if method == "POST":
            self.posts.append((urlsplit(target).path, body))
        machine.clock.advance(20)
        kind = self._goes_wrong(method)
        reply = self._ask(method, target, body) if kind is None else self._wrong(kind, method, target, body)
        machine.boundary()
        return Response(reply.status, {name.lower(): text for name, text in reply.headers.items()}, reply.content)

    def close(self) -> None:
        return

    def _ask(self, method: str, target: str, body: Any) -> Reply:
        return self._lago.answer(method, target, body, self._label, self._run)

    def _killed_on_the_way(self, method: str, target: str, body: Any) -> None:
        """The job is gone while its request is on the wire: Lago takes it a little later, or never."""
        arrives = self._machine.chance.random() < 0.7
        if arrives:
            later = self._machine.clock.now + self._machine.chance.choice((1, 300, 20_000))
            self._machine.clock.at(later, lambda: self._asked_for_nobody(method, target, body))
            self.posts.append((urlsplit(target).path, body))
        self._machine.kill()

    def _asked_for_nobody(self, method: str, target: str, body: Any) -> None:
        self._ask(method, target, body)

    def _goes_wrong(self, method: str) -> str | None:
        trouble, chance = self._machine.trouble, self._machine.chance
        if trouble.sends_alone and method != "POST":
            return None
        if not trouble.lago or self._machine.clock.now >= trouble.lago_until or chance.random() >= trouble.lago:
            return None
        return chance.choice(trouble.kinds)

    def _wrong(self, kind: str, method: str, target: str, body: Any) -> Reply:
        clock = self._machine.clock
        if kind.endswith("after"):
            self._ask(method, target, body)
        if kind == "timeout, done later":
            if method == "POST":
                clock.at(clock.now + 45_000, lambda: self._asked_for_nobody(method, target, body))
            kind = "timeout"
        match kind.removesuffix(" after"):
            case "429":
                return Reply(429, b"", {"X-RateLimit-Reset": "2"})
            case "429 for long":
                return Reply(429, b"", {"Retry-After": "50"})
            case "401":
                return Reply(401, b'{"status":401,"error":"Unauthorized"}')
            case "html":
                return Reply(200, _HTML)
            case "500":
                return Reply(500, b'{"status":500,"error":"Internal Server Error"}')
            case "truncated":
                return Reply(200, b'{"events":[{"lago_id":"1","transaction_id":"tr')
            case "refused":
                raise NoAnswer("ConnectionRefusedError", sent=False, timed_out=False)
            case "reset":
                raise NoAnswer("ConnectionResetError", sent=True, timed_out=False)
            case "timeout":
                clock.advance(30_000)
                raise NoAnswer("none within 30 s", sent=True, timed_out=True)
            case status:
                return Reply(int(status), _HTML)


class SimulatedLedger(Ledger):
    """The real ledger, whose transactions are boundaries."""

    machine: Machine

    @contextmanager
    def _begin(self) -> Iterator[Any]:
        self.machine.database()
        with super()._begin() as connection:
            yield connection
            self.machine.database()
        self.machine.database()


@dataclass
class Ended:
    """How one run ended: with a result, refused (exit 2 and 4), or killed."""

    result: Result | None
    refused: ReconcileError | None
    killed: bool
    posts: list[tuple[str, Any]]
    requests: int
    boundaries: int

    @property
    def exit_code(self) -> int | None:
        if self.result is not None:
            return self.result.exit_code
        return None if self.refused is None else self.refused.exit_code


def run(
    machine: Machine,
    settings: Settings,
    order: Order,
    *,
    lago: Lago,
    table: Table,
    label: Callable[[Mapping[str, Any]], Key | None],
    number: int,
    postgres: Skew,
) -> Ended:
    """Runs the job to its end, whatever that is."""
    wire = SimulatedWire(machine, lago, label, number)
    ledgers: list[SimulatedLedger] = []

    def open_ledger(given: Settings) -> SimulatedLedger:
        ledger = SimulatedLedger(given.state.sqlalchemy, given.state.display)
        ledger.machine = machine
        ledgers.append(ledger)
        return ledger

    patches = (
        (http, "_wire", lambda *_: wire),
        (preflight, "open_spend_logs", lambda _: MemoryLogs(machine, table, postgres)),
        (preflight, "open_ledger", open_ledger),
        (job, "open_ledger", open_ledger),
        (delivery, "ThreadPoolExecutor", InlineExecutor),
        (courier, "ThreadPoolExecutor", InlineExecutor),
        (listing, "ThreadPoolExecutor", LazyExecutor),
        (price_list, "ThreadPoolExecutor", InlineExecutor),
        (feed, "ThreadPoolExecutor", LazyExecutor),
        (listing, "_pieces", _pieces),
        (database, "watched_engine", _engine),
        (locks, "watched_engine", _engine),
        (conclude, "version", _version),
        # Worlds share a ledger's tables, and some of their runs begin in the same second.
        (job.secrets, "token_hex", lambda _: f"{number:04x}{crc32(settings.lago_api_base.encode()):08x}"),
        (time, "monotonic", machine.monotonic),
        (patience, "monotonic", machine.monotonic),
        (gate, "monotonic", machine.monotonic),
    )
    result, refused, killed = None, None, False
    random.seed(number)  # tenacity's waits
    with ExitStack() as stack:
        for place, name, value in patches:
            stack.enter_context(mock.patch.object(place, name, value))
        stack.enter_context(machine.on())
        try:
            result = job.run(settings, order, stop=machine.stop)
        except Killed:
            killed = True
        except ReconcileError as error:
            refused = error
        finally:
            for ledger in ledgers:
                ledger.close()
    return Ended(result, refused, killed, wire.posts, wire.requests, machine.count)


@cache
def _engine(url: str) -> Engine:
    """One for all runs: its own connections, and all statements compiled anew, cost as much as a small run."""
    return create_engine(url, connect_args={"prepare_threshold": None})


@cache
def _version(name: str) -> str:
    return version(name)


def _pieces(reader: Any, span: Any, bounds: list[int]) -> Iterator[Any]:
    """The listing without its thread: each piece is read when the caller wants it."""
    import threading

    yield from listing._read(reader, span, bounds, threading.Event())


@contextmanager
def quiet() -> Iterator[None]:
    """Without the job's log lines."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    try:
        yield
    finally:
        structlog.configure(**before)

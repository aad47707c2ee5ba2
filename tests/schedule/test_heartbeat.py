"""The heartbeat: a monitor learns of each `run` over real HTTP, and nothing that it does reaches the run."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import structlog.testing

from reconcile.domain.window import Window
from reconcile.run.order import Order
from reconcile.settings import load
from reconcile.unattended import heartbeat
from reconcile.unattended.heartbeat import Heartbeat

from .conftest import World

NOW = "2026-11-03T01:30Z"
SECRET = "s3cr3t-0d6ae2f5"
RUN = "5f5c3a0e-8f1f-4f0e-9d5b-2f7f0a1b2c3d"


@dataclass
class Monitor:
    """Takes pings; answers the status."""

    base: str = ""
    status: int = 200
    pings: list[str] = field(default_factory=list)
    news: threading.Condition = field(default_factory=threading.Condition)

    def saw(self, count: int) -> list[str]:
        """The paths of the pings, once there are so many."""
        with self.news:
            assert self.news.wait_for(lambda: len(self.pings) >= count, 30), self.pings
            return [urlsplit(ping).path.removeprefix(f"/{SECRET}") for ping in self.pings]

    def queries(self) -> list[dict[str, list[str]]]:
        return [parse_qs(urlsplit(ping).query) for ping in self.pings]


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """What a test leaves waiting would write into the next one's log."""
    yield
    for thread in threading.enumerate():
        if thread.name == "heartbeat":
            thread.join(30)
            assert not thread.is_alive()


@pytest.fixture
def monitor() -> Iterator[Monitor]:
    monitor = Monitor()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with monitor.news:
                monitor.pings.append(self.path)
                monitor.news.notify_all()
            self.send_response(monitor.status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    monitor.base = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield monitor
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def deaf() -> Iterator[str]:
    """The address of a server that takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/{SECRET}"


@pytest.mark.parametrize(
    ("address", "start", "well", "badly"),
    [
        (
            "https://hc-ping.com/0d6ae2f5-5c2b-4d2f-9b9e-3a4f2a1c7b1e",
            f"https://hc-ping.com/0d6ae2f5-5c2b-4d2f-9b9e-3a4f2a1c7b1e/start?rid={RUN}",
            f"https://hc-ping.com/0d6ae2f5-5c2b-4d2f-9b9e-3a4f2a1c7b1e/0?rid={RUN}",
            f"https://hc-ping.com/0d6ae2f5-5c2b-4d2f-9b9e-3a4f2a1c7b1e/3?rid={RUN}",
        ),
        (
            "https://hc.example.com/ping/key/nightly/?create=1",
            f"https://hc.example.com/ping/key/nightly/start?create=1&rid={RUN}",
            f"https://hc.example.com/ping/key/nightly/0?create=1&rid={RUN}",
            f"https://hc.example.com/ping/key/nightly/3?create=1&rid={RUN}",
        ),
        (
            "https://cronitor.link/p/0123abc/reconcile?env=production",
            f"https://cronitor.link/p/0123abc/reconcile?env=production&state=run&series={RUN}",
            f"https://cronitor.link/p/0123abc/reconcile?env=production&state=complete&series={RUN}&status_code=0",
            f"https://cronitor.link/p/0123abc/reconcile?env=production&state=fail&series={RUN}&status_code=3",
        ),
    ],
)
def test_the_form_of_each_monitor(address: str, start: str, well: str, badly: str) -> None:
    assert heartbeat._start_of(address, RUN) == start
    assert heartbeat._end_of(address, RUN, 0) == well
    assert heartbeat._end_of(address, RUN, 3) == badly


def test_without_an_address_nobody_is_told() -> None:
    silent = Heartbeat(None)
    silent.begins()
    silent.ended(0)
    assert [one for one in threading.enumerate() if one.name == "heartbeat"] == []


def test_the_end_never_arrives_before_the_start(monitor: Monitor) -> None:
    for _ in range(20):
        beat = Heartbeat(f"{monitor.base}/{SECRET}")
        beat.begins()
        beat.begins()
        beat.ended(1)
    assert monitor.saw(40) == ["/start", "/1"] * 20
    assert len({query["rid"][0] for query in monitor.queries()}) == 20


@pytest.mark.parametrize("exit_code", [4, 130])
def test_another_run_at_work_and_an_interruption_are_no_end(monitor: Monitor, exit_code: int) -> None:
    Heartbeat(f"{monitor.base}/{SECRET}").ended(exit_code)
    Heartbeat(f"{monitor.base}/{SECRET}").ended(2)
    assert monitor.saw(1) == ["/2"]


def test_a_monitor_that_never_answers_costs_the_end_its_patience(deaf: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "PATIENCE_SECONDS", 0.3)
    beat = Heartbeat(deaf)
    began = time.monotonic()
    beat.begins()
    assert time.monotonic() - began < 0.2
    with structlog.testing.capture_logs() as logs:
        beat.ended(0)
    assert time.monotonic() - began < 2.0
    assert {line["event"] for line in logs} == {"heartbeat not told"}
    assert SECRET not in str(logs)


def test_a_name_that_is_looked_up_for_ever_does_not_hold_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The resolver of the system knows no timeout: nothing of the request itself can be relied on."""
    monkeypatch.setattr(heartbeat, "PATIENCE_SECONDS", 0.2)
    released = threading.Event()

    def get(*_: Any, **__: Any) -> httpx.Response:
        released.wait(30)
        return httpx.Response(200)

    monkeypatch.setattr(httpx, "get", get)
    beat = Heartbeat(f"https://monitor.example/{SECRET}")
    beat.begins()
    with structlog.testing.capture_logs() as logs:
        beat.ended(0)
    released.set()
    assert [(line["host"], line["reason"]) for line in logs] == [("monitor.example", "no answer within 0.2 s")]


@pytest.mark.parametrize(
    ("command", "dry_run", "told"), [("run", False, True), ("run", True, False), ("backfill", False, False)]
)
def test_only_a_run_that_may_send_is_told_of(monitor: Monitor, command: str, dry_run: bool, told: bool) -> None:
    environment = {
        "DATABASE_URL": "postgresql://db/litellm",
        "LAGO_API_BASE": "http://lago",
        "LAGO_API_KEY": "k",
        "LAGO_API_EVENT_CODE": "llm_usage",
        "RECONCILE_HEARTBEAT_URL": f"{monitor.base}/{SECRET}",
    }
    window = Window(datetime(2026, 11, 2, tzinfo=UTC), datetime(2026, 11, 3, tzinfo=UTC))
    Heartbeat.of(load(environment, None), Order(command, window, dry_run)).ended(0)
    assert len(monitor.pings) == told


def test_runs_of_every_ending(world: World, monitor: Monitor) -> None:
    """With discrepancies; with none that is a failure here, beside a monitor that refuses; refused itself."""
    settings = {"RECONCILE_HEARTBEAT_URL": f"{monitor.base}/{SECRET}"}
    world.add_rows("2026-11-02T12:00Z")
    world.execute("UPDATE \"LiteLLM_SpendLogs\" SET team_id = 'nobody'")
    assert world.start(NOW, "run", **settings).ended() == 1
    assert monitor.saw(2) == ["/start", "/1"]

    monitor.status = 404
    cronitor = {"RECONCILE_HEARTBEAT_URL": f"{monitor.base}/p/{SECRET}/nightly"}
    process = world.start(NOW, "run", **cronitor, RECONCILE_FAIL_ON="")
    assert process.ended() == 0
    assert [query["state"] for query in monitor.queries()[2:]] == [["run"], ["complete"]]
    warnings = [line for line in process.lines if line["event"] == "heartbeat not told"]
    assert [(line["level"], line["host"], line["reason"]) for line in warnings] == [
        ("warning", "127.0.0.1", "answered 404")
    ] * 2
    assert SECRET not in json.dumps(process.lines)

    assert world.start(NOW, "run", **settings, LAGO_API_KEY="wrong-key-1").ended() == 2
    assert monitor.saw(5)[4:] == ["/2"]


def test_schedule_tells_of_its_nights(world: World, monitor: Monitor) -> None:
    world.cron(
        """
        jobs:
          nightly: {cron: "30 1 * * *", command: run}
          weekly: {cron: "40 1 * * *", command: backfill, window: yesterday}
        """
    )
    world.add_rows("2026-11-02T12:00Z")
    process = world.start(
        "2026-11-03T01:00Z", RECONCILE_HEARTBEAT_URL=f"{monitor.base}/{SECRET}", RECONCILE_TIMEZONE="UTC"
    )
    process.saw("schedule at work")
    for _ in range(2):
        process.saw("waiting for the next firing")
    process.at("2026-11-03T02:00:01Z")
    for _ in range(2):
        process.saw("job ends", exit_code=0)
    assert monitor.saw(2) == ["/start", "/0"]
    process.signal(signal.SIGTERM)
    assert process.ended() == 0
    assert len(monitor.pings) == 2

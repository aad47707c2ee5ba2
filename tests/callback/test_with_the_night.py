"""The proxy with this callback by day, and the job by night: the night sends exactly what is missing."""

from __future__ import annotations

import signal
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from reconcile.domain.document import Document
from reconcile.domain.window import Window, cut
from reconcile.run.job import Order, run
from reconcile.sandbox.servers import lago_server
from reconcile.settings import load

from .conftest import until
from .litellm_proxy import REQUIREMENTS, Proxy, proxy
from .requests import REQUESTS, ask, chat
from .worlds import World, times, world

VERSION = "1.110.2"
OURS, THEIRS = "reconcile.callback.lago", "lago"


@pytest.fixture(params=["postgres", "clickhouse"])
def made(request: pytest.FixtureRequest, postgres_url: str, litellm_template: str) -> Iterator[World]:
    with world(postgres_url, litellm_template, request.param) as found:
        yield found


def night(found: World) -> Document:
    """A backfill of the last hours, charged by team; its document."""
    now = datetime.now(UTC)
    minute = now.replace(second=0, microsecond=0)
    window, _ = cut(Window(minute - timedelta(hours=3), minute + timedelta(hours=1)), now, timedelta(0))
    settings = {**found.settings(), "DATABASE_URL": found.database_url, "RECONCILE_LAG": "0s"}
    ran = run(load(settings, None), Order("backfill", window))
    assert ran.exit_code in (0, 1), ran.document.fault
    return ran.document


def count(document: Document, side: str, kind: str) -> int:
    return int(getattr(document, side)[kind].count)


def billed_once(found: World) -> None:
    """Every row that bills has one event with its values, and nothing else is there."""
    rows, events = found.rows("team_id"), found.events("team_id")
    assert set(times(events).values()) <= {1}
    wanted = Counter((row["subscription"], row["content"]) for row in rows.values() if row["billable"])
    assert len(events) == wanted.total()


@contextmanager
def running(version: str, wheel: Path, place: Path, found: World, callback: str, **more: str) -> Iterator[Proxy]:
    with proxy(version, wheel, place, found.settings(**more), [callback]) as one:
        yield one


@pytest.mark.parametrize("version", REQUIREMENTS)
def test_a_day_of_every_kind_of_call_leaves_the_night_nothing_to_send(
    version: str, wheel: Path, made: World, tmp_path: Path
) -> None:
    cache = {"cache": True, "cache_params": {"type": "local"}}
    names = [name for name in REQUESTS if name != "an ID used twice"]  # the table keeps the first of its rows
    with proxy(version, wheel, tmp_path / "proxy", made.settings(), [OURS], **cache) as one:
        for name in names:
            ask(one, name)
        until(lambda: len(one.rows()) == len(names))
        one.stop()
        made.write(one.rows())
    document = night(made)
    assert count(document, "rows", "delivered") == 0
    assert count(document, "rows", "matched_live") == 1  # the cache hit
    assert count(document, "rows", "matched") == len(names) - 4  # and a failure, nobody's, the house's
    assert count(document, "events", "orphan") == 0
    assert count(night(made), "rows", "delivered") == 0
    billed_once(made)


def test_lago_is_down_for_a_while_and_comes_back(wheel: Path, made: World, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with running(VERSION, wheel, tmp_path / "proxy", made, OURS, LAGO_API_BASE=f"http://127.0.0.1:{port}") as one:
        for number in range(30):
            assert one.ask(*chat(f"down-{number}")).status_code == 200
        with lago_server(made.stand_in, port):
            until(lambda: len(made.events("team_id")) == 30, 120)
            one.stop()
        made.write(one.rows())
    assert count(night(made), "rows", "delivered") == 0
    billed_once(made)


def test_a_killed_proxys_queue_is_sent_by_the_night(wheel: Path, made: World, tmp_path: Path) -> None:
    with running(VERSION, wheel, tmp_path / "proxy", made, OURS) as one:
        for number in range(10):
            assert one.ask(*chat(f"sent-{number}")).status_code == 200
        until(lambda: len(made.events("team_id")) == 10)
        made.stand_in.faults.answer(503, times=10_000, method="POST")
        for number in range(10):
            assert one.ask(*chat(f"queued-{number}")).status_code == 200
        until(lambda: len(one.rows()) == 20)
        one.process.send_signal(signal.SIGKILL)
        one.process.wait(60)
        made.write(one.rows())
    made.stand_in.faults.planned.clear()
    assert count(night(made), "rows", "delivered") == 10
    assert count(night(made), "rows", "delivered") == 0
    billed_once(made)


def test_a_rate_limit_is_waited_out_or_left_to_the_night(wheel: Path, made: World, tmp_path: Path) -> None:
    made.stand_in.faults.rate_limit(reset=1, times=5, path="/api/v1/events")
    with running(VERSION, wheel, tmp_path / "proxy", made, OURS) as one:
        for number in range(30):
            assert one.ask(*chat(f"limited-{number}")).status_code == 200
        until(lambda: len(made.events("team_id")) == 30, 120)
        one.stop()
        made.write(one.rows())
    assert count(night(made), "rows", "delivered") == 0
    billed_once(made)


def test_the_day_of_the_switch_sends_nothing_twice(wheel: Path, made: World, tmp_path: Path) -> None:
    """LiteLLM's callback until noon, ours after it, and one that was lost on each side."""
    for callback, name in ((THEIRS, "before"), (OURS, "after")):
        with running(VERSION, wheel, tmp_path / name, made, callback) as one:
            for number in range(8):
                assert one.ask(*chat(f"{name}-{number}")).status_code == 200
            until(lambda one=one: len(one.rows()) == 8)
            until(lambda name=name: len(made.events("team_id")) == (8 if name == "before" else 16))
            one.stop()
            lost = {**one.rows()[0], "request_id": f"chatcmpl-lost-{name}", "spend": 0.0123}
            made.write([*one.rows(), lost])
    document = night(made)
    assert count(document, "rows", "matched_live") == 8
    assert count(document, "rows", "matched") == 8
    assert count(document, "rows", "delivered") == 2
    assert count(night(made), "rows", "delivered") == 0
    billed_once(made)

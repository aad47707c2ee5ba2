"""The sender against a Lago over HTTP: every answer that a real one has given, and what is in its store afterwards."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from conftest import Lago

from reconcile.callback.posting import EXISTS, Answer, Post, reply_of
from reconcile.callback.row_event import Made, event_of
from reconcile.callback.sender import Sender
from reconcile.callback.settings import Settings
from reconcile.sandbox.servers import lago_server

from .conftest import row, settings, until

MakeSender = Callable[..., Sender]


def of(lago: Lago, **more: str) -> Settings:
    return settings(LAGO_API_BASE=lago.url, LAGO_API_KEY=lago.key, **more)


def events(count: int, first: int = 0) -> list[dict[str, Any]]:
    found = [event_of(row(request_id=f"chatcmpl-{first + number}"), 0.001, settings()) for number in range(count)]
    return [one.event for one in found if isinstance(one, Made)]


def put(sender: Sender, made: list[dict[str, Any]]) -> None:
    for event in made:
        sender.put(json.dumps(event).encode(), time.time())


def stored(lago: Lago) -> Counter[str]:
    return Counter(one["transaction_id"] for one in lago.organization.stored_events("llm_usage"))


def once(made: list[dict[str, Any]]) -> Counter[str]:
    return Counter(one["transaction_id"] for one in made)


def test_events_arrive_as_they_were_made(lago: Lago, sender_to: MakeSender) -> None:
    sender, made = sender_to(of(lago)), events(230)
    put(sender, made)
    assert sender.flush(30)
    assert stored(lago) == once(made)
    (one,) = (one for one in lago.organization.stored_events() if one["transaction_id"] == made[0]["transaction_id"])
    assert one["properties"] == made[0]["properties"]
    assert one["external_subscription_id"] == "team-a"


def test_what_lago_has_is_settled_beside_what_it_has_not(lago: Lago, sender_to: MakeSender) -> None:
    made = events(120)
    put(first := sender_to(of(lago)), made[20:90])
    assert first.flush(30)
    put(second := sender_to(of(lago)), made)
    assert second.flush(30)
    assert stored(lago) == once(made)
    assert second.measures.delivered == 120
    assert not second.measures.dropped


def test_a_batch_of_an_old_lago_that_was_refused_and_stored_is_settled(lago: Lago, sender_to: MakeSender) -> None:
    lago.faults.before_1_39 = True
    made = events(60)
    put(first := sender_to(of(lago)), made[:5])
    assert first.flush(30)
    put(second := sender_to(of(lago)), made)
    assert second.flush(30)
    assert stored(lago) == once(made)
    assert second.measures.delivered == 60


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_an_answer_that_is_none_is_tried_again(status: int, lago: Lago, sender_to: MakeSender) -> None:
    lago.faults.answer(status, times=3, method="POST")
    sender, made = sender_to(of(lago)), events(40)
    put(sender, made)
    until(lambda: sender.measures.delivered == 40)
    assert stored(lago) == once(made)


def test_a_rate_limit_of_a_minute_is_waited_out(lago: Lago, sender_to: MakeSender) -> None:
    """Six answers 429, each with ten seconds to wait; this sender's longest pause is short."""
    lago.faults.rate_limit(reset=10, times=6, path="/api/v1/events")
    sender, made = sender_to(of(lago)), events(40)
    put(sender, made)
    until(lambda: sender.measures.delivered == 40)
    assert stored(lago) == once(made)
    assert not sender.measures.dropped


@pytest.mark.parametrize("fault", ["drop", "reset"])
def test_a_lost_answer_is_asked_for_again_on_a_postgres_store(fault: str, lago: Lago, sender_to: MakeSender) -> None:
    getattr(lago.faults, fault)(times=2, method="POST")
    sender, made = sender_to(of(lago)), events(40)
    put(sender, made)
    until(lambda: sender.measures.delivered == 40)
    assert stored(lago) == once(made)


def test_a_lost_answer_is_not_asked_for_again_on_a_clickhouse_store(
    clickhouse_lago: Lago, sender_to: MakeSender
) -> None:
    clickhouse_lago.faults.drop(times=1, method="POST")
    sender, made = sender_to(of(clickhouse_lago)), events(140)
    put(sender, made[:40])
    until(lambda: sender.measures.dropped == {"answer_lost": 40})
    put(sender, made[40:])
    assert sender.flush(30)
    assert max(stored(clickhouse_lago).values()) == 1
    assert set(once(made[40:])) <= set(stored(clickhouse_lago))


def test_a_store_that_lago_does_not_tell_is_taken_for_the_careful_one(lago: Lago, sender_to: MakeSender) -> None:
    lago.faults.answer(403, times=100, path="/api/v1/organizations", body=b"{}")
    lago.faults.drop(times=1, method="POST")
    sender = sender_to(of(lago))
    put(sender, events(10))
    until(lambda: sender.measures.dropped == {"answer_lost": 10})


def test_a_store_that_the_operator_names_is_not_asked_for(lago: Lago) -> None:
    for name, repeatable in (("postgres", True), ("clickhouse", False)):
        post = Post(of(lago, RECONCILE_EVENTS_STORE=name))
        assert post.repeatable() is repeatable
        post.close()
    assert not [one for one in lago.stand_in.requests if one.path.endswith("organizations")]


def test_a_wrong_key_is_waited_out_and_warned_about_without_the_key(
    lago: Lago, sender_to: MakeSender, caplog: pytest.LogCaptureFixture
) -> None:
    sender = sender_to(settings(LAGO_API_BASE=lago.url, LAGO_API_KEY="wrong-key-8d1f"))
    put(sender, events(3))
    until(lambda: "Lago answered 401" in caplog.text)
    assert "wrong-key" not in caplog.text
    assert sender.waiting() == 3


def test_lago_is_down_and_comes_back(lago: Lago, sender_to: MakeSender) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    sender = sender_to(settings(LAGO_API_BASE=f"http://127.0.0.1:{port}", LAGO_API_KEY=lago.key))
    made = events(150)
    put(sender, made[:100])
    until(lambda: "retry" in sender.measures._warned)
    with lago_server(lago.stand_in, port):
        put(sender, made[100:])
        until(lambda: sender.measures.delivered == 150)
    assert stored(lago) == once(made)


@pytest.mark.parametrize(
    ("status", "body", "answer", "flagged"),
    [
        (200, b"{}", Answer.TAKEN, {}),
        (422, b'{"error_details":{"1":{"transaction_id":["value_already_exist"]}}}', Answer.FLAGGED, {1: EXISTS}),
        (
            422,
            b'{"error_details":{"0":{"code":["value_is_mandatory"]}}}',
            Answer.FLAGGED,
            {0: '{"code": ["value_is_mandatory"]}'},
        ),
        (422, b'{"error_details":{"events":["too_many_events"]}}', Answer.REFUSED, {}),
        (422, b'{"error_details":"expression"}', Answer.REFUSED, {}),
        (422, b"<html>", Answer.REFUSED, {}),
        (400, b"", Answer.REFUSED, {}),
        (413, b"<html>", Answer.REFUSED, {}),
        (429, b"", Answer.BUSY, {}),
        (503, b"<html>", Answer.BUSY, {}),
        (500, b"", Answer.FAILED, {}),
        (502, b"", Answer.LOST, {}),
        (504, b"", Answer.LOST, {}),
        (401, b"", Answer.CLOSED, {}),
        (404, b"", Answer.CLOSED, {}),
        (302, b"", Answer.CLOSED, {}),
    ],
)
def test_answers_mean(status: int, body: bytes, answer: Answer, flagged: dict[int, str]) -> None:
    reply = reply_of(status, {}, body)
    assert (reply.answer, reply.flagged) == (answer, flagged)


def test_the_wish_of_a_rate_limit_is_read() -> None:
    assert reply_of(429, {"X-RateLimit-Reset": "7"}, b"").wait == 7.0
    assert reply_of(503, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, b"").wait is None


def test_a_server_that_closes_idle_connections_costs_no_batch(sender_to: MakeSender) -> None:
    """As a balancer does that gives up a kept connection: the next batch goes over a new one."""
    got: list[int] = []

    class Closing(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 0.3

        def do_POST(self) -> None:
            got.append(len(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["events"]))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Closing)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}"
        sender = sender_to(settings(LAGO_API_BASE=url, RECONCILE_EVENTS_STORE="clickhouse"))
        for turn in range(3):
            put(sender, events(1, first=turn))
            assert sender.flush(30)
            closed = time.monotonic() + 0.6
            until(lambda closed=closed: time.monotonic() > closed)
        assert got == [1, 1, 1]
        assert not sender.measures.dropped
    finally:
        server.shutdown()
        server.server_close()

"""Lago's bad days, and a Lago in hostile hands: counted from the outside, nothing is stored twice and nothing is lost.

What a test does to one request passes; then the run is right, and a second run finds nothing to do.
"""

from __future__ import annotations

import itertools
import json
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from acceptance.harness import Ran
from integration.spend_rows import DAY, row

from .conftest import Besiege, Siege
from .hostile_lago import (
    CODE,
    HangUp,
    HostileLago,
    Reply,
    Request,
    Twist,
    answer,
    html,
    refused,
    serving,
)

pytestmark = pytest.mark.usefixtures("impatient")

COUNT = 120  # a batch of a hundred and one of twenty
BILLED = {f"r-{number}": 1 for number in range(COUNT)}
HOUR = ("--from", "2025-11-20T00:00:00Z", "--to", "2025-11-20T01:00:00Z")
JSON = {"Content-Type": "application/json"}
STORES = pytest.mark.parametrize("store", ["postgres", "clickhouse"])


def besieged(siege: Siege, count: int = COUNT) -> Siege:
    siege.add_rows([row(f"r-{number}", DAY + timedelta(seconds=1 + 20 * number)) for number in range(count)])
    return siege


def night(siege: Siege, *arguments: str, **settings: str) -> Ran:
    """One run over the hour. Whatever happens in it, nothing is stored twice."""
    ran = siege.backfill(*HOUR, *arguments, RECONCILE_VISIBLE_WITHIN="1s", RECONCILE_TIMEOUT="2s", **settings)
    assert max(siege.hostile.billed().values(), default=0) <= 1
    return ran


def recovers(siege: Siege) -> None:
    """Lago is itself again: everything is there once."""
    siege.hostile.trap, siege.hostile.twist = lambda _: None, lambda _, reply: reply
    siege.hostile.poison.clear()
    ran = night(siege)
    assert ran.code == 0, ran.err
    assert siege.hostile.billed() == BILLED


def once(matches: Callable[[Request], bool], twist: Twist) -> Twist:
    """The twist, for the first request that matches."""
    left = iter([True])
    return lambda request, reply: twist(request, reply) if matches(request) and next(left, False) else reply


def cut(request: Request, reply: Reply) -> Reply:
    return Reply(reply.status, reply.body[: len(reply.body) // 2 - 3], JSON)


def says(body: bytes, status: int = 200, **headers: str) -> Twist:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda request, reply: Reply(status, body, JSON | headers)


DEEP = b'{"events":' + b"[" * 100_000 + b"]" * 100_000 + b"}"

# --- answers to what was stored


@pytest.mark.parametrize(
    ("store", "twist"),
    [
        pytest.param("postgres", cut, id="cut in its middle, postgres"),
        pytest.param("clickhouse", cut, id="cut in its middle"),
        pytest.param("clickhouse", lambda request, reply: html(200), id="a page"),
        pytest.param("clickhouse", says(b"[1]"), id="a list"),
        pytest.param("clickhouse", says(b"gz", Content_Encoding="gzip"), id="no gzip"),
        pytest.param("clickhouse", says(b"{", Content_Length="900"), id="shorter than it says"),
        pytest.param("clickhouse", says(DEEP), id="very deep"),
        pytest.param("clickhouse", lambda request, reply: html(503), id="a proxy's page"),
        pytest.param("clickhouse", lambda request, reply: html(520), id="a page of another kind"),
    ],
)
def test_a_batch_that_was_stored_behind_an_answer_that_is_none(besiege: Besiege, store: str, twist: Twist) -> None:
    """On ClickHouse, where Lago refuses nothing, sending it once more would bill it once more."""
    siege = besieged(besiege(store))
    siege.hostile.twist = once(lambda request: request.posts, twist)
    ran = night(siege)
    assert (ran.code, ran.document["verified"]) == (0, True), ran.err
    assert siege.hostile.billed() == BILLED


def test_a_storm_of_429(siege: Siege) -> None:
    besieged(siege)
    resets = itertools.chain(["nan", "-1"], itertools.cycle(["0.05", "0.01", None]))
    storm = (None if reset is None else {"X-RateLimit-Reset": reset} for reset in resets)

    def trap(request: Request) -> Reply | None:
        headers = next(storm) if request.path.startswith("/events") else None
        return None if headers is None else Reply(429, b"<html>slow down</html>", headers)

    siege.hostile.trap = trap
    ran = night(siege)
    assert ran.code in (0, 3), ran.err  # in the end the rate limit may be given up on
    recovers(siege)


# --- one bad item


@pytest.mark.parametrize(
    ("store", "reply"),
    [
        pytest.param("postgres", refused({"transaction_id": ["a\0b", "\x1b[31m"]}), id="refused with a NUL"),
        pytest.param("postgres", Reply(422, refused("x").body.replace(b'"x"', b'"\\ud800"')), id="half a character"),
        pytest.param("postgres", Reply(409, DEEP), id="a conflict of great depth"),
        pytest.param("clickhouse", html(500), id="a page of 500"),
        pytest.param("clickhouse", Reply(400), id="nothing said"),
    ],
)
def test_a_poisoned_item_takes_none_of_its_neighbours_along(besiege: Besiege, store: str, reply: Reply) -> None:
    siege = besieged(besiege(store))
    siege.hostile.poison["r-37"] = reply
    ran = night(siege)
    assert ran.code == 1, ran.err
    assert (ran.count("rows", "delivered"), ran.count("rows", "rejected")) == (COUNT - 1, 1)
    assert siege.hostile.billed() == {name: 1 for name in BILLED if name != "r-37"}
    (entry,) = [one for one in ran.document["discrepancies"] if one["class"] == "rejected"]
    assert entry["request_id"] == "r-37"
    assert "\x1b" not in json.dumps(entry, ensure_ascii=False)


# --- answers that are none of Lago's


LISTS: dict[str, Twist] = {
    "cut": cut,
    "a page": lambda request, reply: html(200),
    "a redirect to no address": says(b"", 302, Location="http://[::1/steal"),
    "no text": says(b"\xff\xfe{}"),
    "wrong types": says(b'{"events":{},"meta":[]}'),
    "a list of nothing": says(b'{"events":[null,1],"meta":{"total_count":2}}'),
    "a number of 5,000 digits": says(b'{"events":[],"meta":{"total_count":%b}}' % (b"9" * 5_000)),
}


def test_lists_that_are_none_for_a_moment(siege: Siege) -> None:
    besieged(siege)
    for twist in LISTS.values():
        siege.hostile.twist = once(lambda request: request.lists, twist)
        assert night(siege).code in (0, 3)
    recovers(siege)


@pytest.mark.parametrize("path", ["/organizations", "/events", "/subscriptions"])
def test_depth_without_end_is_a_fault_of_one_line(siege: Siege, path: str) -> None:
    besieged(siege)
    siege.hostile.twist = lambda request, reply: Reply(200, DEEP, JSON) if request.path == path else reply
    assert night(siege).code == (2 if path == "/organizations" else 3)
    assert siege.hostile.posts() == []


@pytest.mark.parametrize(
    ("path", "field_name"),
    [("/organizations", "lago_id"), ("/organizations", "name"), ("/subscriptions", "plan_code"), ("/events", "model")],
)
def test_names_that_nothing_can_store_or_show(siege: Siege, path: str, field_name: str) -> None:
    besieged(siege, 3)
    properties = {"model": "ODD", "response_cost": "1", "request_id": "o"}
    orphan = {"lago_id": "o", "transaction_id": "o", "external_subscription_id": "team-c", "code": CODE}
    siege.hostile.stored.append({**orphan, "timestamp": "2025-11-20T00:40:00.000Z", "properties": properties})

    def twist(request: Request, reply: Reply) -> Reply:
        if request.path != path:
            return reply
        body = json.loads(reply.body)
        for place in _places(body, field_name) if path != "/events" else ():
            place[field_name] = f"ODD{place[field_name]}"
        return Reply(reply.status, json.dumps(body).replace("ODD", "\\u0000\\ud800\\u001b]0;x\\u0007").encode())

    siege.hostile.twist = twist
    ran = night(siege)
    assert ran.code == 1, ran.err
    assert (ran.count("rows", "delivered"), ran.count("events", "orphan")) == (3, 1)


def _places(value: Any, name: str) -> Iterator[dict[str, Any]]:
    """Every object in the value that has the name."""
    if isinstance(value, dict):
        if name in value:
            yield value
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from _places(one, name)


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00", []])
def test_a_subscription_of_another_age(siege: Siege, moment: object) -> None:
    besieged(siege)
    siege.hostile.subscriptions[0]["terminated_at"] = moment
    ran = night(siege)
    assert (ran.code, ran.document["fault"]["kind"]) == (3, "lago")
    assert siege.hostile.posts() == []


# --- lists without an end


def endless(path: str, key: str, item: Callable[[int], dict[str, Any]]) -> Callable[[Request], Reply | None]:
    def trap(request: Request) -> Reply | None:
        if request.method != "GET" or request.path != path:
            return None
        page = request.number("page", 1)
        items = [item(number) for number in range(request.number("per_page", 100))]
        return answer({key: items, "meta": {"next_page": page + 1, "total_pages": 10**9, "total_count": 10**12}})

    return trap


@pytest.mark.parametrize(
    ("path", "key", "item"),
    [
        ("/events", "events", lambda n: {"lago_id": f"e-{n}", "code": CODE, "timestamp": "2025-11-20T00:30:00.000Z"}),
        ("/subscriptions", "subscriptions", lambda n: {"lago_id": f"s-{n}", "external_id": "team-a", "status": "x"}),
    ],
)
def test_a_list_that_never_ends_ends_the_run(siege: Siege, path: str, key: str, item: Any) -> None:
    besieged(siege)
    siege.hostile.trap = endless(path, key, item)
    ran = night(siege)
    assert ran.code in (1, 3)
    assert siege.hostile.posts() == []
    assert len(siege.hostile.seen) < 2_000


def test_metrics_that_never_end(siege: Siege) -> None:
    def trap(request: Request) -> Reply | None:
        if request.path.startswith("/billable_metrics/"):
            return answer({"billable_metric": {"code": "another"}})
        return endless("/billable_metrics", "billable_metrics", lambda number: {"code": f"m-{number}"})(request)

    siege.hostile.trap = trap
    assert night(siege).code == 3
    assert len(siege.hostile.seen) < 50


@STORES
def test_pages_smaller_than_asked_for(besiege: Besiege, store: str) -> None:
    siege = besieged(besiege(store))
    assert night(siege).code == 0
    siege.query("DROP SCHEMA reconcile CASCADE")
    siege.hostile.page_cap = 7
    ran = night(siege)
    assert (ran.code, ran.count("rows", "matched")) == (0, COUNT), ran.err


# --- the key goes to nobody else


@pytest.mark.parametrize("status", [302, 307])
def test_a_redirect_is_never_followed(siege: Siege, status: int) -> None:
    with serving(HostileLago()) as thief:
        besieged(siege)
        headers = {"Location": f"{thief.url}/api/v1/events"}
        siege.hostile.trap = lambda request: Reply(status, b"", headers) if request.path.startswith("/events") else None
        ran = night(siege)
        assert ran.code == 3
        assert "redirect" in ran.document["fault"]["message"]
        assert thief.seen == []


def test_a_redirect_in_the_preflight_is_a_wrong_address(siege: Siege) -> None:
    siege.hostile.trap = lambda _: Reply(302, b"", {"Location": "https://evil.example/login?next=/"})
    ran = night(siege)
    assert (ran.code, ran.out) == (2, "")
    assert "a redirect to https://evil.example/login" in ran.err


# --- connections


def test_connections_that_end_at_any_place(siege: Siege) -> None:
    besieged(siege)
    numbers = itertools.count()

    def trap(request: Request) -> Reply | None:
        if next(numbers) % 3 == 2:
            raise HangUp
        return None

    def twist(request: Request, reply: Reply) -> Reply:
        if next(numbers) % 5 == 4:
            raise HangUp
        return reply

    siege.hostile.trap, siege.hostile.twist = trap, twist
    assert night(siege).code in (0, 3)
    recovers(siege)


def test_a_server_that_speaks_another_language(siege: Siege) -> None:
    """Not HTTP: a mail server's greeting, with what a terminal would obey."""
    listener = socket.create_server(("127.0.0.1", 0))

    def greet() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.sendall(b"220 \x1b]0;owned\x07 \x00 ESMTP\r\n")

    thread = threading.Thread(target=greet, daemon=True)
    thread.start()
    ran = siege.backfill(*HOUR, LAGO_API_BASE=f"http://127.0.0.1:{listener.getsockname()[1]}")
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()
    assert ran.code == 3
    assert "\x1b" not in ran.err
    assert ran.document["fault"]["kind"] == "lago"

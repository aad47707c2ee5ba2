"""Keys, addresses, retries, the rate limit, and what an error may say."""

from __future__ import annotations

import logging
import socket
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from time import monotonic

import pytest

from reconcile.errors import Interrupted, LagoFault, PreflightError, ReconcileError, SettingsError
from reconcile.lago import Lago, Retry

from .lago_double import KEY, QUICK, Double, Drop, Reply, Request, times

ORGANIZATION = Reply(200, {"organization": {"lago_id": "o1", "name": "Acme", "events_store": "postgres"}})


def served(request: Request) -> Reply | None:
    return ORGANIZATION if request.path.endswith("/organizations") else None


def test_sends_key_and_agent(double: Double, client: Lago) -> None:
    double.scripts.append(served)
    assert client.organization().name == "Acme"
    (request,) = double.requests
    assert request.path == "/api/v1/organizations"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["user-agent"].startswith("litellm-lago-reconcile/")
    assert (client.requests, client.retries) == (1, 0)


@pytest.mark.parametrize("key", ["k", "acme", KEY])
def test_what_lago_says_is_read_as_it_stands(double: Double, key: str) -> None:
    """Some keys of trials are a part of a word, and one may be a part of an ID."""
    named = {"lago_id": "o1", "name": f"Kiosk acme {KEY}", "events_store": "clickhouse"}
    double.scripts.append(lambda request: Reply(200, {"organization": named}))
    with Lago(double.url, key) as lago:
        found = lago.organization()
    assert (found.name, found.events_store) == (named["name"], "clickhouse")


def test_trailing_slash_of_the_address(double: Double) -> None:
    double.scripts.append(served)
    with Lago(f"{double.url}/", KEY) as lago:
        lago.organization()
    assert double.requests[0].path == "/api/v1/organizations"


@pytest.mark.parametrize(
    "address",
    [
        "",
        "localhost:3000",
        "ftp://lago",
        "http://",
        "http://user:hunter2@lago",
        "http://lago?x=1",
        "http://[::",
    ],
)
def test_unusable_address(address: str) -> None:
    with pytest.raises(SettingsError, match="LAGO_API_BASE") as caught:
        Lago(address, KEY)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("key", ["", "two words", "line\nbreak", "clé"])
def test_unusable_key(key: str) -> None:
    with pytest.raises(SettingsError, match="LAGO_API_KEY") as caught:
        Lago("http://localhost:3000", key)
    assert not key or key not in str(caught.value)


@pytest.mark.parametrize(
    "fault",
    [
        *(Reply(status, {"error": "x"}) for status in (401, 402, 403, 404, 405, 408, 415, 500, 503)),
        Reply(502, "<html>bad gateway</html>"),
        Reply(200, "<html>maintenance</html>"),
        Reply(302, "", {"Location": "https://elsewhere/login"}),
        Reply(200, None),
        Reply(200, [1]),
        Drop,
    ],
    ids=repr,
)
def test_under_way_a_refusal_is_held_and_the_request_repeated(
    double: Double, client: Lago, fault: Reply | type[Drop]
) -> None:
    double.scripts += [times(2, fault, "/billable_metrics/llm"), metric]
    found = client.metric("llm")
    assert found is not None
    assert found.field_name == "response_cost"
    # The first 404 is looked at: it may be Lago's own word that there is no such metric.
    looked_at = isinstance(fault, Reply) and fault.status == 404
    assert (client.requests, client.retries) == (3, 1 if looked_at else 2)


def metric(request: Request) -> Reply | None:
    item = {"code": "llm", "aggregation_type": "sum_agg", "field_name": "response_cost"}
    return Reply(200, {"billable_metric": item}) if request.path.endswith("/billable_metrics/llm") else None


def test_gives_up_after_the_attempts(double: Double, client: Lago) -> None:
    double.scripts.append(times(-1, Reply(503, {"error": "down"})))
    with pytest.raises(LagoFault, match=r"GET /billable_metrics/llm answered 503.*gave up after 4 attempts"):
        client.metric("llm")
    assert len(double.requests) == QUICK.attempts
    assert client.retries == QUICK.attempts - 1


def test_gives_up_after_the_time(double: Double) -> None:
    double.scripts.append(times(-1, Reply(503, {"error": "down"})))
    retry = Retry(attempts=10_000, seconds=0.1, wait_initial=0.01, wait_max=0.02)
    with Lago(double.url, KEY, retry=retry) as lago, pytest.raises(LagoFault, match="503"):
        lago.metric("llm")
    assert 2 < len(double.requests) < 30


def test_a_server_that_hangs_runs_into_the_timeout(double: Double) -> None:
    released = threading.Event()

    def hang(request: Request) -> Reply | None:
        released.wait(10)
        return None

    double.scripts.append(hang)
    retry = Retry(attempts=2, wait_initial=0.001, wait_max=0.001)
    try:
        with (
            Lago(double.url, KEY, timeout=0.1, retry=retry) as lago,
            pytest.raises(LagoFault, match=r"none within 0\.1 s"),
        ):
            lago.organization()
    finally:
        released.set()


@pytest.mark.parametrize(
    ("reply", "names"),
    [
        (Reply(401, {"status": 401, "error": "Unauthorized"}), "LAGO_API_KEY"),
        (
            Reply(403, {"status": 403, "code": "read_action_not_allowed_for_event"}),
            "LAGO_API_KEY lacks a permission",
        ),
        (Reply(404, "<html>nginx</html>"), "LAGO_API_BASE"),
        (Reply(200, "<html>Lago's web page</html>"), "LAGO_API_BASE"),
        (Reply(301, "", {"Location": "https://lago.example/api/v1/x"}), "redirect to https://lago.example"),
        (Reply(422, {"error": "?"}), "422"),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value.status),
)
def test_preflight_takes_a_wrong_answer_at_once(double: Double, client: Lago, reply: Reply, names: str) -> None:
    double.scripts.append(times(-1, reply))
    with pytest.raises(PreflightError, match=names) as caught:
        client.preflight.metric("llm")
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert len(double.requests) == (2 if reply.status == 404 else 1)


def test_preflight_without_any_answer_is_a_fault() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with Lago(f"http://127.0.0.1:{port}", KEY) as lago, pytest.raises(LagoFault, match="no answer") as caught:
        lago.preflight.organization()
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("fault", [Reply(503, "<html>starting</html>"), Drop], ids=["503", "drop"])
def test_preflight_bridges_a_moment_without_answer(double: Double, client: Lago, fault: Reply | type[Drop]) -> None:
    double.scripts += [times(2, fault), served]
    assert client.preflight.organization().name == "Acme"
    double.scripts = [times(-1, fault)]
    with pytest.raises(LagoFault) as caught:
        client.preflight.organization()
    assert caught.value.exit_code == 3


def test_preflight_shares_the_counters(double: Double, client: Lago) -> None:
    double.scripts.append(served)
    client.preflight.organization()
    client.organization()
    assert client.requests == client.preflight.requests == 2


def test_the_key_is_in_no_error_and_no_log(double: Double, client: Lago, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    echo = Reply(500, f"<html>Authorization: Bearer {KEY}</html>")
    for reply in (echo, Reply(401, f"bad {KEY}"), Drop):
        double.scripts = [times(-1, reply)]
        for lago in (client, client.preflight):
            with pytest.raises(ReconcileError) as caught:
                lago.metric("llm")
            assert KEY not in "".join(traceback.format_exception(caught.value))
    assert KEY not in caplog.text


def test_a_redirect_that_echoes_the_key_is_redacted(double: Double, client: Lago) -> None:
    double.scripts.append(times(-1, Reply(302, "", {"Location": f"http://x/{KEY}"})))
    with pytest.raises(PreflightError, match="redirect") as caught:
        client.preflight.metric("llm")
    assert KEY not in str(caught.value)


def test_the_rate_limit_is_waited_out_and_is_no_attempt(double: Double, client: Lago) -> None:
    limited = Reply(429, None, {"X-RateLimit-Reset": "0"})
    double.scripts += [times(QUICK.attempts + 3, limited), served]
    client.organization()
    assert client.requests == QUICK.attempts + 4
    assert client.retries == QUICK.attempts + 3


def test_the_rate_limit_holds_every_thread(double: Double, client: Lago) -> None:
    moments: list[float] = []

    def first_is_limited(request: Request) -> Reply | None:
        with double.lock:
            moments.append(monotonic())
            return Reply(429, {"error": "slow"}, {"X-RateLimit-Reset": "0.3"}) if len(moments) == 1 else ORGANIZATION

    double.scripts.append(first_is_limited)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(client.organization)
        while client.retries == 0:
            assert first.running() or not first.done()
        others = [pool.submit(client.organization) for _ in range(3)]
        for call in [first, *others]:
            call.result()
    assert len(moments) == 5
    assert min(moments[1:]) - moments[0] >= 0.3


def test_the_rate_limit_is_not_waited_out_for_ever(double: Double) -> None:
    double.scripts.append(times(-1, Reply(429, None, {"Retry-After": "5"})))
    with (
        Lago(double.url, KEY, retry=Retry(rate_limit_seconds=1)) as lago,
        pytest.raises(LagoFault, match="rate limit"),
    ):
        lago.organization()
    assert len(double.requests) == 1


@pytest.mark.parametrize("reply", [Reply(503, ""), Reply(429, None, {"X-RateLimit-Reset": "60"})], ids=["503", "429"])
def test_stop_ends_a_wait(double: Double, reply: Reply) -> None:
    stop = threading.Event()
    double.scripts.append(times(-1, reply))
    began = monotonic()
    with (
        Lago(double.url, KEY, retry=Retry(wait_initial=60, wait_max=60), stop=stop) as lago,
        ThreadPoolExecutor(1) as pool,
    ):
        call = pool.submit(lago.organization)
        while not double.requests:
            assert monotonic() - began < 10
        stop.set()
        with pytest.raises(Interrupted) as caught:
            call.result(timeout=10)
    assert caught.value.exit_code == 130

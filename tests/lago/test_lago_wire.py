"""Connections: kept, given up in time, through proxies, over TLS that is always checked."""

from __future__ import annotations

import gzip
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from reconcile.errors import LagoFault, SettingsError
from reconcile.lago import Lago, Retry
from reconcile.lago.wire import NoAnswer, Wire

from .lago_double import KEY, QUICK, Double, Reply, running

BODY = b'{"ok":true}'
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\nX-Kind: a\r\n\r\n" + BODY
Handler = Callable[[socket.socket, bytes], bool]


@contextmanager
def serving(answer: Handler, tls: ssl.SSLContext | None = None) -> Iterator[tuple[str, list[bytes]]]:
    """A server of raw bytes. `answer` gets a connection and a request's head, and says whether the connection stays."""
    heads: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))
    connections: list[socket.socket] = []

    def serve(connection: socket.socket) -> None:
        try:
            if tls is not None:
                connection = tls.wrap_socket(connection, server_side=True)
            pending = b""
            while True:
                while b"\r\n\r\n" not in pending:
                    received = connection.recv(65_536)
                    if not received:
                        return
                    pending += received
                head, _, pending = pending.partition(b"\r\n\r\n")
                heads.append(head)
                if not answer(connection, head):
                    return
        except OSError:
            return
        finally:
            connection.close()

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connections.append(connection)
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{listener.getsockname()[1]}", heads
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for connection in connections:
            connection.close()
        thread.join()


def says(*parts: bytes, stays: bool = True) -> Handler:
    def answer(connection: socket.socket, head: bytes) -> bool:
        for part in parts:
            connection.sendall(part)
        return stays

    return answer


def test_a_connection_is_kept(double: Double) -> None:
    ports: set[int] = set()

    def answer(connection: socket.socket, head: bytes) -> bool:
        ports.add(connection.getpeername()[1])
        connection.sendall(OK)
        return True

    with serving(answer) as (url, heads):
        wire = Wire(url, timeout=5)
        for _ in range(3):
            response = wire.exchange("GET", "/x?y=1", {"A": "b"}, None)
            assert (response.status, response.content, response.headers["x-kind"]) == (200, BODY, "a")
        wire.close()
    assert len(ports) == 1
    assert heads[0].startswith(b"GET /x?y=1 HTTP/1.1\r\n")
    assert b"\r\nA: b" in heads[0]


def test_a_connection_that_the_server_closed_is_not_used_again() -> None:
    closed = threading.Event()

    def answer(connection: socket.socket, head: bytes) -> bool:
        connection.sendall(OK)
        connection.shutdown(socket.SHUT_RDWR)
        closed.set()
        return False

    with serving(answer) as (url, heads):
        wire = Wire(url, timeout=5)
        for _ in range(5):
            closed.clear()
            assert wire.exchange("GET", "/", {}, None).content == BODY
            assert closed.wait(5)
        assert len(heads) == 5


@pytest.mark.parametrize(
    "parts",
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b'5\r\n{"ok"\r\n', b"6\r\n:true}\r\n0\r\n\r\n"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(gzip.compress(BODY)),
            gzip.compress(BODY),
        ),
        (b"HTTP/1.1 100 Continue\r\n\r\n", OK),
    ],
    ids=["chunked", "gzip", "continue"],
)
def test_bodies(parts: tuple[bytes, ...]) -> None:
    with serving(says(*parts)) as (url, _):
        wire = Wire(url, timeout=5)
        assert [wire.exchange("GET", "/", {}, None).content for _ in range(2)] == [BODY, BODY]


@pytest.mark.parametrize(
    "parts",
    [
        (),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{",),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",),
        (b"SSH-2.0-OpenSSH\r\n",),
    ],
    ids=["nothing", "half", "no gzip", "no http"],
)
def test_no_answer_after_the_request_was_sent(parts: tuple[bytes, ...]) -> None:
    with serving(says(*parts, stays=False)) as (url, _):
        with pytest.raises(NoAnswer) as caught:
            Wire(url, timeout=5).exchange("POST", "/", {}, b"{}")
        assert caught.value.sent
        assert not caught.value.timed_out


def test_no_answer_in_time() -> None:
    with serving(says()) as (url, _):
        with pytest.raises(NoAnswer, match="none within") as caught:
            Wire(url, timeout=0.05).exchange("POST", "/", {}, b"{}")
        assert caught.value.sent
        assert caught.value.timed_out


@pytest.mark.parametrize("dripping", [OK, OK[:20]], ids=["all of it", "its head"])
def test_an_answer_in_drops_ends_in_time_as_well(dripping: bytes) -> None:
    """No pause is as long as the timeout, all of them together are."""
    done = threading.Event()

    def drip(connection: socket.socket, head: bytes) -> bool:
        for place in range(len(dripping)):
            connection.sendall(dripping[place : place + 1])
            if done.wait(0.05):
                break
        return False

    with serving(drip) as (url, _):
        wire = Wire(url, timeout=0.4)
        with pytest.raises(NoAnswer, match=r"none within 0\.4 s") as none:
            wire.exchange("GET", "/", {}, None)
        done.set()
    assert none.value.timed_out


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BOMB = gzip.compress(bytes(1_000_000))
PACKED = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"


@pytest.mark.parametrize(
    ("parts", "what"),
    [
        ((CHUNKED, *[b"2710\r\n" + b" " * 10_000 + b"\r\n"] * 20), "more than"),
        ((b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 200_000,), "more than"),
        ((PACKED % len(BOMB) + BOMB,), "more than"),
        ((PACKED % (len(BOMB) - 9) + BOMB[:-9],), "ends too early"),
    ],
    ids=["chunks", "without a length", "packed", "packed and cut"],
)
def test_an_answer_that_memory_has_no_room_for(
    monkeypatch: pytest.MonkeyPatch, parts: tuple[bytes, ...], what: str
) -> None:
    room = 2_000_000 if what == "ends too early" else 100_000
    monkeypatch.setattr("reconcile.lago.wire._LARGEST", room)
    with serving(says(*parts, stays=False)) as (url, _), pytest.raises(NoAnswer, match=what) as caught:
        Wire(url, timeout=5).exchange("GET", "/", {}, None)
    assert caught.value.sent


def test_no_connection_is_nothing_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(NoAnswer) as caught:
        Wire(f"http://127.0.0.1:{port}", timeout=1).exchange("POST", "/", {}, b"{}")
    assert not caught.value.sent


def test_a_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(says(OK)) as (url, heads):
        monkeypatch.setenv("http_proxy", url.replace("//", "//me:p%40ss@"))
        monkeypatch.setenv("no_proxy", "direct.example")
        assert Wire("http://lago.example:3000", timeout=5).exchange("GET", "/api", {}, None).content == BODY
        assert heads[0].startswith(b"GET http://lago.example:3000/api HTTP/1.1\r\n")
        assert b"Proxy-Authorization: Basic bWU6cEBzcw==" in heads[0]
        with pytest.raises(NoAnswer):
            Wire("http://direct.example:1", timeout=1).exchange("GET", "/api", {}, None)
        assert len(heads) == 1


def test_a_proxy_for_tls_is_asked_for_a_tunnel(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(says(b"HTTP/1.1 403 Forbidden\r\n\r\n", stays=False)) as (url, heads):
        monkeypatch.setenv("https_proxy", url)
        monkeypatch.delenv("no_proxy", raising=False)
        with pytest.raises(NoAnswer, match="403") as caught:
            Wire("https://lago.example", timeout=5).exchange("GET", "/api", {"Authorization": "Bearer k"}, None)
        assert not caught.value.sent
        assert heads[0].startswith(b"CONNECT lago.example:443 HTTP/1.")
        assert b"Bearer" not in heads[0]


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1080", "https://proxy:3128", "http://"])
def test_a_proxy_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(SettingsError, match="proxy"):
        Lago("http://lago.example", KEY)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that signs itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "36500", "-subj", "/CN=lago",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


def test_certificates_are_checked(certificate: tuple[Path, Path]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with serving(says(OK), context) as (url, heads):
        with pytest.raises(NoAnswer, match="CERTIFICATE_VERIFY_FAILED"):
            Wire(url, timeout=5).exchange("GET", "/", {}, None)
        assert heads == []
        trusting = Wire(url, timeout=5, ca_file=str(certificate[0]))
        assert [trusting.exchange("GET", "/", {}, None).content for _ in range(2)] == [BODY, BODY]


def test_a_file_of_certificates_that_is_none(tmp_path: Path) -> None:
    for name, text in (("absent.pem", None), ("empty.pem", "no certificate")):
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(SettingsError, match=name):
            Lago("https://lago.example", KEY, ca_file=str(tmp_path / name))


@pytest.mark.parametrize(
    ("headers", "known"),
    [
        (b"", False),  # a Lago without a proxy in front of it
        (b"Date: Wed, 25 Nov 2026 03:00:00 GMT\r\n", True),
        (b"Date: Wed, 25 Nov 2026 03:00:00 GMT\r\nAge: 5\r\n", False),  # from a cache
        (b"Date: soon\r\n", False),
    ],
    ids=["none", "date", "cached", "no date"],
)
def test_the_date_of_an_answer_tells_the_clock(headers: bytes, known: bool) -> None:
    dated = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n%b\r\n{}" % headers
    with serving(says(dated)) as (url, _), Lago(url, KEY, retry=QUICK) as lago:
        assert lago.clock_offset is None
        lago.http.get("/x")
        assert (lago.clock_offset is not None) == known
        assert lago.preflight.clock_offset == lago.clock_offset


def test_a_base_with_a_path(double: Double) -> None:
    with Lago(f"{double.url}/lago", KEY, retry=Retry(attempts=1)) as lago, pytest.raises(LagoFault):
        lago.metric("llm")
    assert double.requests[0].path == "/lago/api/v1/billable_metrics/llm"


def test_odd_texts_travel_whole() -> None:
    odd = 'a b/ü?&=#%"+\n'
    with running() as double, Lago(double.url, KEY, retry=QUICK) as lago:
        double.scripts.append(lambda request: Reply(200, {}))
        lago.http.get("/events", [("code", odd), ("x[]", 1), ("x[]", 2)])
    assert double.requests[0].query == {"code": [odd], "x[]": ["1", "2"]}

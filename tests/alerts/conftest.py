"""Servers that take alerts: HTTP and SMTP, on loopback."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import which
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

SECRET_PATH = "/services/T000/s3cr3t-hook"
USER, PASSWORD = "mailer", "s3cr3t p@ssword"


@dataclass
class Hook:
    """A webhook. It gives the planned answers first, then 200."""

    url: str = ""
    planned: list[int] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)

    def took(self) -> list[str]:
        return [body["text"] for body in self.bodies]


@pytest.fixture
def hook() -> Iterator[Hook]:
    hook = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            status = hook.planned.pop(0) if hook.planned else 200
            if status == 200 and self.path == SECRET_PATH:
                hook.bodies.append(body)
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hook.url = f"http://127.0.0.1:{server.server_port}{SECRET_PATH}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield hook
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass
class Mail:
    """A mail server and what it took: envelopes with their messages."""

    port: int
    planned: list[str] = field(default_factory=list)
    logins: list[tuple[str, str]] = field(default_factory=list)
    envelopes: list[tuple[str, list[str], EmailMessage]] = field(default_factory=list)
    encrypted: list[bool] = field(default_factory=list)

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if self.planned:
            return self.planned.pop(0)
        message = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(message, EmailMessage)
        self.envelopes.append((envelope.mail_from, envelope.rcpt_tos, message))
        self.encrypted.append(session.ssl is not None or server.transport.get_extra_info("sslcontext") is not None)
        return "250 OK"


MailServers = Callable[..., Mail]


@pytest.fixture
def mail_servers() -> Iterator[MailServers]:
    """A maker of mail servers; options are aiosmtpd's. `login`: they want USER and PASSWORD."""
    with ExitStack() as stack:

        def make(*, login: bool = False, **options: Any) -> Mail:
            return stack.enter_context(_mail_server(login, options))

        yield make


@contextmanager
def _mail_server(login: bool, options: dict[str, Any]) -> Iterator[Mail]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        mail = Mail(probe.getsockname()[1])

    def authenticate(_server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        mail.logins.append((data.login.decode(), data.password.decode()))
        return AuthResult(success=mail.logins[-1] == (USER, PASSWORD), handled=False)

    if login:
        options = {"authenticator": authenticate, "auth_required": True, **options}
    controller = Controller(mail, hostname="127.0.0.1", port=mail.port, **options)
    controller.start()
    try:
        yield mail
    finally:
        controller.stop()


@dataclass(frozen=True)
class Certificate:
    """A self-signed one of 127.0.0.1."""

    path: Path
    context: ssl.SSLContext


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    if which("openssl") is None:
        pytest.skip("makes a certificate with openssl")
    folder = tmp_path_factory.mktemp("certificate")
    key, path = folder / "key.pem", folder / "certificate.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(path)]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "36500", *subject, *files],
        check=True,
        capture_output=True,
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(path, key)
    return Certificate(path, context)


@pytest.fixture
def trusted(certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificate is among those that this process trusts."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.path))

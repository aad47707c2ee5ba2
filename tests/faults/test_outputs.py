"""Disks that are full, under the reports and under the ledger, and kills while reports are written.

What else may happen to output is in `acceptance/test_output.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from reconcile.sandbox.postgres import create_database, drop_database

from .launcher import until
from .world import COMMAND, World

REPORTS = ("--output", "reports", "--format", "html", "--format", "xlsx", "--format", "csv", "--format", "json")


def test_killed_while_reports_are_written(worlds: Callable[..., World]) -> None:
    """Files appear whole or not at all, and what was begun is gone with the process."""
    world = worlds()
    world.fill()
    formats = ("--output", "reports", "--format", "html", "--format", "csv", "--format", "json")
    process = world.start(*COMMAND, *formats)
    until(lambda: any(reports(world)), process)
    process.kill()
    process.wait()
    assert [path.name for path in reports(world) if path.suffix == ".part"] == []
    world.nothing_left()
    world.heals(*COMMAND, *formats)
    assert are_whole(reports(world))


def are_whole(files: list[Path]) -> bool:
    """Whether every report is there, the document among them."""
    (document,) = [json.loads(path.read_bytes()) for path in files if path.suffix == ".json"]
    return document["status"] == "agreed" and all(path.stat().st_size > 0 for path in files) and len(files) > 10


def reports(world: World) -> list[Path]:
    folder = world.folder / "reports"
    return sorted(folder.iterdir()) if folder.exists() else []


@contextlib.contextmanager
def small_disk(kilobytes: int) -> Iterator[Path]:
    """A file system of its own of this size; only root may make one."""
    folder = Path(tempfile.mkdtemp(prefix="reconcile-disk-"))
    mount(folder, kilobytes)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
        folder.rmdir()


def mount(folder: Path, kilobytes: int, *, again: bool = False) -> None:
    options = f"{'remount,' if again else ''}size={kilobytes}k,mode=755"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)


@pytest.mark.whole_matrix
def test_the_disk_of_the_reports_is_full(worlds: Callable[..., World]) -> None:
    world = worlds()
    world.fill()
    with small_disk(48) as disk:
        ran = world.run(*COMMAND, "--output", str(disk), *REPORTS[2:])
        assert (ran.code, ran.document["status"]) == (3, "agreed")
        assert f"reconcile: --output: {disk} cannot be written: No space left on device" in ran.err.splitlines()
        world.is_exact()
        assert world.query("SELECT status, exit_code FROM reconcile.runs") == [("agreed", 0)]
        for path in disk.iterdir():
            assert path.stat().st_size > 0
            assert path.suffix != ".part"
        mount(disk, 4_000, again=True)
        world.heals(*COMMAND, "--output", str(disk), *REPORTS[2:])
        assert are_whole(list(disk.iterdir()))


@pytest.mark.whole_matrix
@pytest.mark.parametrize("left_kb", [0, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256])
def test_the_disk_of_the_ledger_is_full(worlds: Callable[..., World], postgres_url: str, left_kb: int) -> None:
    """What cannot be written down is not sent."""
    world = worlds()
    world.fill()
    with small_disk(64_000) as disk:
        if os.geteuid() == 0:
            shutil.chown(disk, "nobody")
        name = f"small_{os.urandom(4).hex()}"
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(f"CREATE TABLESPACE {name} LOCATION '{disk}'".encode())
        ledger = create_database(postgres_url)
        try:
            with psycopg.connect(postgres_url, autocommit=True) as connection:
                connection.execute(f'ALTER DATABASE "{urlsplit(ledger).path[1:]}" SET TABLESPACE {name}'.encode())
            assert world.run("migrate", RECONCILE_STATE_URL=ledger).code == 0
            with psycopg.connect(postgres_url, autocommit=True) as connection:
                connection.execute("CHECKPOINT")
            used = shutil.disk_usage(disk).used // 1024
            mount(disk, used + left_kb, again=True)
            ran = world.run(*COMMAND, RECONCILE_STATE_URL=ledger)
            assert ran.code in (0, 3)
            if ran.code == 3:
                assert "No space left on device" in ran.document["fault"]["message"]
            mount(disk, 64_000, again=True)
            sent = set(world.billed()) & world.billable
            with psycopg.connect(ledger) as connection:
                known = connection.execute("SELECT request_id FROM reconcile.deliveries").fetchall()
            assert sent <= {request_id for (request_id,) in known}
            assert world.run(*COMMAND, RECONCILE_STATE_URL=ledger).code == 0
        finally:
            drop_database(postgres_url, urlsplit(ledger).path[1:])
            with psycopg.connect(postgres_url, autocommit=True) as connection:
                connection.execute(f"DROP TABLESPACE {name}".encode())

"""Output that cannot be written: a full disk, a pipe whose reader has gone, streams that are closed.

It never decides what is sent, recorded or alerted, and it is exit code 3, in one line. Real processes throughout.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from integration.spend_rows import DAY, row

from .harness import PROGRAM, World

DAYS = "--from 2025-11-20 --to 2025-11-20"


def shell(world: World, command: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Runs a line of bash in which `reconcile` is the program."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("LAGO_", "RECONCILE_"))}
    return subprocess.run(
        ["/bin/bash", "-c", f'reconcile() {{ exec "{PROGRAM}" "$@"; }}; {command}'],
        cwd=world.folder,
        env={**clean, **world.environment, **settings},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def status(ran: subprocess.CompletedProcess[str]) -> list[int]:
    """The exit codes that the line printed as `codes …`, on stderr."""
    (line,) = [line for line in ran.stderr.splitlines() if line.startswith("codes ")]
    return [int(code) for code in line.split()[1:]]


@pytest.fixture
def full(world: World) -> World:
    """A world with one row to send and one that stays held: exit code 1 where nothing else happens."""
    world.add_rows([row("r-1", DAY), row("r-2", DAY, team_id="team-without-subscription", spend=7.5)])
    world.subscribe()
    return world


def recorded(world: World) -> list[tuple[object, ...]]:
    return world.query("SELECT status, exit_code FROM reconcile.runs ORDER BY started_at")


@pytest.mark.parametrize("form", ["", "--json"])
@pytest.mark.parametrize(("place", "reason"), [("> /dev/full", "No space left on device"), (">&-", "it is closed")])
def test_stdout_that_cannot_be_written_is_exit_3_in_one_line(full: World, form: str, place: str, reason: str) -> None:
    ran = shell(full, f"(reconcile backfill {DAYS} {form} {place}); echo codes $? >&2", RECONCILE_LOG_LEVEL="error")
    assert status(ran) == [3]
    lines = [line for line in ran.stderr.splitlines() if not line.startswith(("codes ", "window "))]
    assert lines == [f"reconcile: stdout cannot be written: {reason}"]
    assert full.billed() == {"r-1": 1}
    assert recorded(full) == [("discrepancies", 1)]


@pytest.mark.parametrize(
    "command", ["runs", "runs --json", "check", "check --json", "--help", "run --help", "--version", "migrate"]
)
def test_every_command_says_so(full: World, command: str) -> None:
    ran = shell(full, f"(reconcile {command} > /dev/full); echo codes $? >&2")
    assert status(ran) == [3]
    assert "Traceback" not in ran.stderr
    assert "reconcile: stdout cannot be written: No space left on device" in ran.stderr.splitlines()


def test_what_is_wrong_is_still_said_by_check(full: World) -> None:
    ran = shell(full, "(reconcile check > /dev/full); echo codes $? >&2", LAGO_API_KEY="another-key")
    assert status(ran) == [2]
    assert "wrong Lago: " in ran.stderr


def test_a_reader_of_stdout_that_goes_away_does_not_make_a_run_agree(full: World) -> None:
    # The reader is gone before the first byte comes.
    ran = shell(full, f"(reconcile backfill {DAYS} --json) | true; echo codes ${{PIPESTATUS[0]}} >&2")
    assert status(ran) == [3]
    assert "reconcile: stdout cannot be written: Broken pipe" in ran.stderr.splitlines()
    assert full.billed() == {"r-1": 1}


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("(reconcile backfill {days}) 2>&1 >/dev/null | true; echo codes ${{PIPESTATUS[0]}} >&2", 1),
        ("(reconcile backfill {days} 2>&-); echo codes $? >&2", 1),
        ("(reconcile backfill {days} 2>/dev/full); echo codes $? >&2", 1),
        ("(reconcile backfill {days} <&- 2>&- >/dev/null); echo codes $? >&2", 1),
        ("(reconcile backfill {days} >&- 2>&-); echo codes $? >&2", 3),
        ("(reconcile check 2>/dev/full >/dev/null); echo codes $? >&2", 0),
        ("(reconcile show nothing 2>/dev/full); echo codes $? >&2", 2),
        ("(reconcile no-such-command 2>/dev/full); echo codes $? >&2", 2),
    ],
)
def test_stderr_that_cannot_be_written_changes_nothing(full: World, line: str, code: int) -> None:
    ran = shell(full, line.format(days=DAYS))
    assert status(ran) == [code]
    assert full.billed() == ({"r-1": 1} if "backfill" in line else {})


def test_a_run_whose_log_has_no_reader_agrees(world: World) -> None:
    """`2>&1 | head -1`: the reader leaves after the first line, long before the last."""
    world.add_rows([row("r-1", DAY)])
    world.subscribe()
    line = f"(reconcile backfill {DAYS} >/dev/null) 2> >(head -1 >/dev/null; exec <&-); code=$?; echo codes $code >&2"
    assert status(shell(world, line, RECONCILE_LOG_LEVEL="debug")) == [0]
    assert world.billed() == {"r-1": 1}


# --- alerts and metrics


@dataclass
class Hook:
    url: str
    bodies: list[str] = field(default_factory=list)


@pytest.fixture
def hook() -> Iterator[Hook]:
    hook = Hook("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            hook.bodies.append(self.rfile.read(int(self.headers["content-length"])).decode())
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hook.url = f"http://127.0.0.1:{server.server_port}/hook"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield hook
    server.shutdown()
    thread.join()
    server.server_close()


def test_alerts_and_metrics_go_out_before_what_cannot_be_written(world: World, hook: Hook) -> None:
    world.subscribe()
    world.add_rows([row("r-1", DAY, team_id="team-without-subscription")])
    settings = {
        "RECONCILE_ALERT_WEBHOOK": hook.url,
        "RECONCILE_METRICS_TEXTFILE": str(world.folder / "reconcile.prom"),
        # A lookback that reaches the day of the row.
        "RECONCILE_LOOKBACK": "3000d",
        "RECONCILE_SLICE": "7d",
    }
    # No file may be longer than 20 kB: the page is.
    ran = shell(world, "ulimit -f 20; (reconcile run --output reports > /dev/full); echo codes $? >&2", **settings)
    assert status(ran) == [3]
    assert "reconcile: stdout cannot be written: No space left on device" in ran.stderr.splitlines()
    assert "reconcile: --output: reports cannot be written: File too large" in ran.stderr.splitlines()
    assert list((world.folder / "reports").iterdir()) == []
    (body,) = hook.bodies
    assert "1 held" in body
    assert ".html" in body
    assert "reconcile_rows{" in (world.folder / "reconcile.prom").read_text()
    assert recorded(world) == [("discrepancies", 1)]


def test_stdout_gets_the_document_also_where_the_report_cannot_be_written(full: World) -> None:
    line = f"ulimit -f 20; (reconcile backfill {DAYS} --json --output reports); echo codes $? >&2"
    ran = shell(full, line)
    assert status(ran) == [3]
    assert '"status": "discrepancies"' in ran.stdout
    assert "Traceback" not in ran.stderr


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_sent(full: World) -> None:
    (full.folder / "taken").write_text("a file")
    ran = full.backfill("--output", str(full.folder / "taken"))
    assert (ran.code, full.batches()) == (2, 0)

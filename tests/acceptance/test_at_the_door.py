"""What somebody meets who has just found the program, or is woken by it: each line says what to do next."""

from __future__ import annotations

import os
import re
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from integration.spend_rows import DAY, row

from .harness import CODE, PROGRAM, World
from .test_interrupted import until

DAYS = ("--from", "2025-11-20", "--to", "2025-11-20")
LEFT = "nothing has billed this stream before: usage older than "


def test_the_usage_before_the_first_run_is_not_forgotten(world: World) -> None:
    """A first `run` begins 72 hours back. Who set Lago up for older usage is told the command that bills it."""
    now = datetime.now(UTC)
    old = now - timedelta(days=5)
    world.add_rows([row("old", old, team_id="team-a"), row("young", now - timedelta(hours=5), team_id="team-a")])
    backfill = f"reconcile backfill --from {old:%Y-%m-%d} --to {now - timedelta(hours=74):%Y-%m-%d}"
    told = world.run("setup")
    assert told.out.splitlines()[-1].startswith(f"next     {backfill} --dry-run; ")
    assert backfill in world.run("setup", "--curl").out.splitlines()[-1]

    world.lago.organization.add_subscription("team-a", started_at=old - timedelta(days=1))
    assert LEFT in world.run("run", "--dry-run").err
    first = world.run("run")
    assert LEFT in first.err
    assert world.billed() == {"young": 1}
    assert LEFT not in world.run("run").err
    assert world.run(*backfill.split()[1:]).code == 0
    assert world.billed() == {"old": 1, "young": 1}


def test_nothing_older_is_no_news(world: World) -> None:
    """Where a backfill came first, and where older usage is somebody else's."""
    now = datetime.now(UTC)
    world.add_rows([row("young", now - timedelta(hours=5), team_id="team-a")])
    assert not [line for line in world.run("setup").out.splitlines() if "backfill" in line]
    start, earlier = (f"{now - timedelta(days=days):%Y-%m-%dT%H:%M:%SZ}" for days in (1, 9))
    assert LEFT not in world.run("run", RECONCILE_START=start, LAGO_API_CHARGE_BY="user_id").err
    assert LEFT in world.run("run", RECONCILE_START=earlier).err


def test_a_run_that_was_killed_says_what_to_do(world: World) -> None:
    world.add_rows([row("r-1", DAY)])
    world.subscribe()
    world.lago.faults.hang(times=99, path="/api/v1/events/batch")
    process = world.start("backfill", *DAYS)
    until(lambda: world.batches() >= 1, process)
    process.kill()
    world.ended(process)
    world.lago.faults.planned.clear()
    shown = world.run("runs", "--last")
    assert shown.code == 0
    assert "has not finished" in shown.out
    assert "running the same command again is safe and carries on" in shown.out


def test_in_a_pipe_no_line_is_broken(world: World) -> None:
    """It is searched, and mailed by cron. On a terminal, and where COLUMNS says so, it is as wide as that."""
    world.add_rows([row("r-1", DAY, team_id=None, spend=1.5)])
    world.subscribe()

    def out(**settings: str) -> str:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("LAGO_", "RECONCILE_"))}
        clean.pop("COLUMNS", None)
        environment = {**clean, **world.environment, **settings}
        command = [PROGRAM, "report", *DAYS]
        return subprocess.run(command, env=environment, cwd=world.folder, capture_output=True, text=True).stdout

    lines = out().splitlines()
    (step,) = [line for line in lines if "Nobody named" in line]
    assert step.endswith("invoice it by hand.")
    assert not [line for line in lines if line != line.rstrip()]
    assert max(map(len, out(COLUMNS="60").splitlines())) <= 60


def test_a_period_in_utc_names_its_zone_once(world: World) -> None:
    world.add_rows([row("r-1", DAY)])
    world.subscribe()
    exact = ("--from", "2025-11-20T08:00", "--to", "2025-11-20T20:00")
    assert world.run("report", *exact).out.count("UTC") == 1
    elsewhere = world.run("report", *exact, RECONCILE_TIMEZONE="Europe/Berlin").out
    # An hour may come twice there.
    assert elsewhere.count("(UTC+01:00)") == 2


@pytest.mark.parametrize("command", [("runs",), ("show", "x"), ("migrate",)])
def test_a_database_is_named_by_the_setting_that_is_set(world: World, command: tuple[str, ...]) -> None:
    nowhere = "postgresql://reader@127.0.0.1:9/litellm"
    assert world.run(*command, DATABASE_URL=nowhere).err.startswith("reconcile: DATABASE_URL: ")
    assert world.run(*command, RECONCILE_STATE_URL=nowhere).err.startswith("reconcile: RECONCILE_STATE_URL: ")


def test_a_lago_that_is_not_there(world: World) -> None:
    assert "is it up, and is this its address?" in world.run("setup", LAGO_API_BASE="http://127.0.0.1:9").err
    tls = world.lago.url.replace("http://", "https://")
    assert "without TLS: is http:// meant" in world.run("setup", LAGO_API_BASE=tls).err


def test_an_event_leads_to_its_request(world: World) -> None:
    """Lago's page shows the transaction ID alone. One of LiteLLM's callback leads nowhere, and that is said."""
    live = {
        "code": CODE,
        "transaction_id": "live-1",
        "external_subscription_id": "team-a",
        "properties": {"model": "m"},
    }
    world.add_rows([row("r-1", DAY)])
    world.subscribe()
    world.lago.organization.seed_events([(DAY, live)])
    assert world.backfill().count("rows", "delivered") == 1
    ((sent,),) = world.query("SELECT transaction_id FROM reconcile.deliveries")
    found = world.run("explain", "--json", sent).document
    assert (found["request_id"], found["stories"][0]["event"]["transaction_id"]) == ("r-1", sent)
    live_one = world.run("explain", "live-1")
    assert (live_one.code, live_one.out) == (2, "")
    assert "is an event in Lago that names no request" in live_one.err
    nothing = world.run("explain", "llm_831707c2b4fe53c5d9808dc4c3957230")
    assert (nothing.code, nothing.out) == (2, "")
    assert "has no row with the request_id" in nothing.err


def test_help_is_for_people(tmp_path: Path) -> None:
    """What an option takes is said in words of the program, not in those of a library's types."""
    ran = subprocess.run([PROGRAM, "--help"], cwd=tmp_path, capture_output=True, text=True, check=True)
    commands = re.findall(r"^  ([a-z-]+)  ", ran.stdout.partition("Commands:")[2], re.MULTILINE)
    assert "backfill" in commands
    for command in commands:
        shown = subprocess.run([PROGRAM, command, "--help"], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert not re.search(r"list\[|int range", shown.stdout), shown.stdout

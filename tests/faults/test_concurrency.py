"""Several at work on one Lago: one works, the others say in one line why they do not, and nothing is sent twice."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from reconcile.sandbox.postgres import create_database

from .launcher import Process, until
from .test_kills import BATCH
from .world import COMMAND, Mode, Ran, World

MODES: tuple[Mode, ...] = ("postgres", "clickhouse", "1.38")
IN_ALL_MODES = [pytest.param(mode, marks=() if mode == "clickhouse" else pytest.mark.whole_matrix) for mode in MODES]
AT_WORK = "another run of this stream (llm_usage, team_id) is at work"


def held_up(world: World, **settings: str) -> Process:
    """A run whose first batch has reached the wire, and stays there until the traffic to Lago flows on."""
    trap = world.to_lago.trap(BATCH, when="before")
    process = world.start(*COMMAND, RECONCILE_TIMEOUT="60s", **settings)
    until(trap.sprung.is_set, process)
    return process


def asks_again(world: World) -> bool:
    """Whether one page of events has been asked for a second time."""
    asked = [one for one in list(world.stand_in.requests) if one.path == "/api/v1/events"]
    return len(set(asked)) < len(asked)


def turned_away(ran: Ran) -> None:
    assert (ran.code, ran.out) == (4, "")
    (line,) = [line for line in ran.err.splitlines() if line.startswith("reconcile: ")]
    assert line.startswith(f"reconcile: {AT_WORK}")


@pytest.mark.parametrize("mode", IN_ALL_MODES)
def test_several_that_start_at_once(worlds: Callable[..., World], mode: Mode) -> None:
    world = worlds(mode)
    world.fill()
    world.to_lago.latency = 0.02
    ran = [world.ended(process) for process in [world.start(*COMMAND) for _ in range(3)]]
    assert {one.code for one in ran} <= {0, 4}
    # One that started after another had ended found nothing to do.
    assert sum(one.count("delivered") for one in ran if one.code == 0) == len(world.billable)
    for one in ran:
        if one.code == 4:
            turned_away(one)
    world.is_exact()
    world.nothing_left()


def test_the_first_runs_of_an_installation_at_once(worlds: Callable[..., World]) -> None:
    """Each would make the ledger."""
    world = worlds(fresh=True)
    world.fill()
    ran = [world.ended(process) for process in [world.start(*COMMAND) for _ in range(3)]]
    assert {one.code for one in ran} <= {0, 4}
    world.is_exact()
    world.nothing_left()


@pytest.mark.parametrize("mode", IN_ALL_MODES)
def test_a_run_that_has_lost_its_lock_sends_no_further_batch(worlds: Callable[..., World], mode: Mode) -> None:
    """Another one may have it by now, and be about to send the same rows."""
    world = worlds(mode)
    world.fill()
    process = held_up(world, RECONCILE_CONCURRENCY="1")
    ((number,),) = world.query(
        """SELECT count(*) FROM (SELECT pg_terminate_backend(pid) FROM pg_locks
            WHERE locktype = 'advisory' AND granted GROUP BY pid) AS ended"""
    )
    assert number >= 1
    second = world.start(*COMMAND, LAGO_API_BASE=world.lago_url)
    if mode != "clickhouse":
        assert world.ended(second).code == 0
    else:
        # It waits for what the first one may have sent: until it is there, or has had the time to appear.
        until(lambda: asks_again(world), second)
    world.to_lago.resume()
    first = world.ended(process)
    assert (first.code, first.document["fault"]["kind"]) == (3, "database")
    assert world.ended(second).code == 0
    world.is_exact()
    world.nothing_left()


@pytest.mark.parametrize("pooled", [False, True], ids=["directly", "through PgBouncer"])
def test_one_that_comes_while_another_is_at_work(
    worlds: Callable[..., World], request: pytest.FixtureRequest, pooled: bool
) -> None:
    world = worlds("clickhouse")
    world.fill()
    settings = {}
    if pooled:
        settings["DATABASE_URL"] = request.getfixturevalue("pgbouncer")(world.database_url)
    process = held_up(world, **settings)
    turned_away(world.run(*COMMAND, LAGO_API_BASE=world.lago_url, **settings))
    # Whoever changes nothing is let in.
    report = world.run("report", *COMMAND[1:], LAGO_API_BASE=world.lago_url, **settings)
    assert (report.code, report.count("missing")) == (1, len(world.billable))
    world.to_lago.resume()
    assert world.ended(process).code == 0
    assert world.heals(pooled=pooled, **settings).count("delivered") == 0


@pytest.mark.parametrize("mode", IN_ALL_MODES)
def test_a_second_installation_with_a_ledger_of_its_own(
    worlds: Callable[..., World], postgres_url: str, mode: Mode
) -> None:
    """Neither ledger knows of the other: that the rows come from one database is what keeps them apart."""
    world = worlds(mode)
    world.fill()
    elsewhere = {"RECONCILE_STATE_URL": create_database(postgres_url), "LAGO_API_BASE": world.lago_url}
    process = held_up(world)
    turned_away(world.run(*COMMAND, **elsewhere))
    world.to_lago.resume()
    assert world.ended(process).code == 0
    after = world.run(*COMMAND, **elsewhere)
    assert (after.code, after.count("matched")) == (0, len(world.billable))
    world.nothing_left()

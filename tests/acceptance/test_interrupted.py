"""Killed or stopped in the middle of a delivery, and run again: each row is in Lago exactly once."""

from __future__ import annotations

import random
import signal

import pytest
from integration.spend_rows import DAY, a_day, billable, row

from reconcile.sandbox.lago import Organization

from .harness import Ran, World, until

ROWS = 1_500


def filled(world: World, seed: int) -> set[str]:
    rows = a_day(ROWS, seed=seed)
    world.add_rows(rows)
    world.subscribe()
    return billable(rows)


DAYS = ("--from", "2025-11-20", "--to", "2025-11-20")


def killed_after(world: World, batches: int, **settings: str) -> None:
    """Starts a backfill and kills it as soon as Lago has seen so many more batches, wherever it is then."""
    seen = world.batches()
    process = world.start("backfill", *DAYS, **settings)
    until(lambda: world.batches() >= seen + batches, process)
    process.kill()
    assert world.ended(process).code == -signal.SIGKILL


def test_killed_at_random_moments_on_a_postgres_store(world: World) -> None:
    expected = filled(world, seed=11)
    chance = random.Random(11)
    for _ in range(3):
        killed_after(world, chance.randrange(1, 6))
        assert set(world.billed().values()) <= {1}
    ran = world.backfill()
    assert ran.code == 0, ran.err
    assert world.billed() == dict.fromkeys(expected, 1)
    assert ran.count("rows", "matched") + ran.count("rows", "delivered") == len(expected)


def test_killed_at_random_moments_on_a_clickhouse_store(clickhouse_world: World) -> None:
    """Nothing is refused there, and what was stored is not seen for a while."""
    world = clickhouse_world
    world.lago.faults.visibility_lag = 1.5
    expected = filled(world, seed=12)
    chance = random.Random(12)
    visible_within = {"RECONCILE_VISIBLE_WITHIN": "10s"}
    for _ in range(2):
        killed_after(world, chance.randrange(1, 6), **visible_within)
    ran = world.backfill(**visible_within)
    assert ran.code == 0, ran.err
    assert world.billed() == dict.fromkeys(expected, 1)
    assert ran.count("rows", "matched") + ran.count("rows", "delivered") == len(expected)


def test_killed_while_the_answer_is_awaited(world: World) -> None:
    """Lago has stored the batch, the ledger knows nothing of an answer."""
    world.add_rows([row(f"r-{number}", DAY) for number in range(50)])
    world.subscribe()
    world.lago.faults.drop(path="/api/v1/events/batch")
    world.lago.faults.hang(times=99, path="/api/v1/events/batch")
    process = world.start("backfill", *DAYS)
    until(lambda: world.batches() >= 2, process)
    assert len(world.billed()) == 50
    process.kill()
    world.ended(process)
    world.lago.faults.planned.clear()
    assert world.query("SELECT count(*) FROM reconcile.deliveries WHERE NOT taken") == [(50,)]
    ran = world.backfill()
    assert ran.code == 0, ran.err
    assert ran.count("rows", "matched") == 50
    assert world.billed() == {f"r-{number}": 1 for number in range(50)}


def test_killed_before_anything_was_stored(world: World) -> None:
    world.add_rows([row(f"r-{number}", DAY) for number in range(50)])
    world.subscribe()
    world.lago.faults.hang(times=99, path="/api/v1/events/batch")
    process = world.start("backfill", *DAYS)
    until(lambda: world.batches() >= 1, process)
    process.kill()
    world.ended(process)
    world.lago.faults.planned.clear()
    assert world.billed() == {}
    ran = world.backfill()
    assert (ran.code, ran.count("rows", "delivered")) == (0, 50)
    assert world.billed() == {f"r-{number}": 1 for number in range(50)}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped(world: World, number: signal.Signals) -> None:
    """The batches on their way are finished; the rest goes out the next time."""
    expected = filled(world, seed=13)
    process = world.start("backfill", "--json", *DAYS)
    until(lambda: world.batches() >= 3, process)
    process.send_signal(number)
    ran = world.ended(process)
    assert (ran.code, ran.out) == (130, ""), ran.out
    assert ran.err.splitlines()[-1] == "interrupted; running it again is safe and carries on"
    assert 0 < len(world.billed()) < len(expected)
    ((status, code),) = world.query("SELECT status, exit_code FROM reconcile.runs")
    assert (status, code) == ("incomplete", 130)
    assert world.backfill().code == 0
    assert world.billed() == dict.fromkeys(expected, 1)


def test_another_run_at_work(world: World) -> None:
    world.add_rows([row("r-1", DAY)])
    world.subscribe()
    world.lago.faults.hang(method="POST")
    process = world.start("backfill", *DAYS)
    until(lambda: world.batches() >= 1, process)
    locked = world.backfill()
    assert (locked.code, locked.out) == (4, "")
    assert locked.err.count("another run of this stream (llm_usage, team_id) is at work") == 1
    assert world.backfill("--event-code", other_metric(world.lago.organization)).code == 0
    for changes_nothing in (world.backfill("--dry-run"), report(world)):
        assert changes_nothing.code == 1, changes_nothing.err
        assert changes_nothing.count("rows", "missing") == 1
    process.kill()
    world.ended(process)
    assert world.backfill().code == 0
    assert world.billed() == {"r-1": 1}


def report(world: World) -> Ran:
    return world.run("report", "--json", *DAYS)


def other_metric(organization: Organization) -> str:
    organization.add_billable_metric("another_usage")
    return "another_usage"

"""What may go wrong between the job and Lago: the outcome is right, and nothing is billed twice."""

from __future__ import annotations

from datetime import timedelta

import pytest
from integration.spend_rows import DAY, row

from .harness import World

COUNT = 250  # three batches
EVENTS = "/api/v1/events"
BILLED = {f"r-{number}": 1 for number in range(COUNT)}


@pytest.fixture
def world(world: World) -> World:
    """One with a full hour to send, whose rows wait for the same events and so leave together."""
    world.add_rows([row(f"r-{number}", DAY + timedelta(seconds=1 + 10 * number)) for number in range(COUNT)])
    world.subscribe()
    return world


HOUR = ("--from", "2025-11-20T00:00:00Z", "--to", "2025-11-20T01:00:00Z")


def delivers_all(world: World) -> None:
    """The fault passes within the run."""
    ran = world.backfill(*HOUR)
    assert ran.code == 0, ran.err
    assert world.billed() == BILLED
    assert ran.count("rows", "delivered") + ran.count("rows", "matched") == COUNT
    assert ran.document["verified"] is True


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_gateway_that_fails_for_a_moment(world: World, status: int) -> None:
    world.lago.faults.answer(status, times=2, method="POST")
    world.lago.faults.answer(status, times=1, after=4, method="GET", path=EVENTS)
    delivers_all(world)


def test_the_rate_limit_is_waited_for(world: World) -> None:
    world.lago.faults.rate_limit(reset=0.3, times=4, path=EVENTS)
    delivers_all(world)


def test_a_proxy_that_takes_small_bodies_only(world: World) -> None:
    world.lago.faults.max_body_bytes = 9_000
    delivers_all(world)
    assert world.batches() > COUNT // 100 * 3


@pytest.mark.usefixtures("impatient")
def test_stored_and_then_dropped(world: World) -> None:
    world.lago.faults.drop(times=2, method="POST")
    delivers_all(world)


@pytest.mark.usefixtures("impatient")
def test_the_answer_ends_in_its_middle(world: World) -> None:
    world.lago.faults.reset(times=2, method="POST")
    world.lago.faults.reset(times=1, after=4, method="GET", path=EVENTS)
    delivers_all(world)


@pytest.mark.usefixtures("impatient")
def test_a_lago_that_hangs(world: World) -> None:
    world.lago.faults.hang(method="POST")
    ran = world.backfill(*HOUR, RECONCILE_TIMEOUT="1s")
    assert ran.code == 0, ran.err
    assert world.billed() == BILLED


@pytest.mark.parametrize("before_1_39", [True, False])
def test_a_batch_that_is_refused_for_some_of_its_events(world: World, before_1_39: bool) -> None:
    """Before Lago 1.39 it had stored the others all the same."""
    assert world.backfill(*HOUR).code == 0
    world.query("DROP SCHEMA reconcile CASCADE")
    for change in (
        """DELETE FROM lago.events
            WHERE organization_id = %s AND properties->>'request_id' NOT IN ('r-5', 'r-6', 'r-150')""",
        # Out of the window's sight; the identity on this store does not hold the time.
        """UPDATE lago.events SET "timestamp" = "timestamp" - interval '9 days' WHERE organization_id = %s""",
    ):
        world.query(change, (world.lago.organization.id,), url=world.lago.stand_in.database_url)
    world.lago.faults.before_1_39 = before_1_39
    ran = world.backfill(*HOUR)
    assert ran.code == 1, ran.err
    assert (ran.count("rows", "delivered"), ran.count("rows", "mismatched")) == (COUNT - 3, 3)
    assert ran.document["reasons"]["mismatched"] == {"timestamp": 3}
    assert world.billed() == BILLED


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_lago_that_stays_down_in_the_middle_of_the_delivery(world: World, after: int) -> None:
    world.lago.faults.answer(500, times=10_000, after=after, method="POST")
    ran = world.backfill(*HOUR, RECONCILE_CONCURRENCY="1")
    assert ran.code == 3
    document = ran.document
    assert (document["status"], document["fault"]["kind"]) == ("incomplete", "lago")
    assert "answers 500" in document["fault"]["message"]
    assert ran.count("rows", "delivered") + ran.count("rows", "missing") == COUNT
    assert ran.count("rows", "delivered") == len(world.billed()) == 100 * after
    assert document["verified"] is (False if after else None)
    ((status, code),) = world.query("SELECT status, exit_code FROM reconcile.runs")
    assert (status, code) == ("incomplete", 3)

    world.lago.faults.planned.clear()
    assert world.backfill(*HOUR).code == 0
    assert world.billed() == BILLED


@pytest.mark.usefixtures("impatient")
def test_a_lago_that_cannot_be_read_back(world: World) -> None:
    """Everything is stored, and nobody has seen it: the run does not claim that it agrees."""
    assert world.backfill(*HOUR, "--dry-run").code == 1
    before = sum(one.path == EVENTS for one in world.lago.stand_in.requests)
    world.lago.faults.answer(500, times=10_000, after=before, method="GET", path=EVENTS)
    ran = world.backfill(*HOUR)
    assert ran.code == 3
    assert ran.document["verified"] is False
    assert ran.count("rows", "delivered") == COUNT
    world.lago.faults.planned.clear()
    assert world.backfill(*HOUR).code == 0
    assert world.billed() == BILLED


@pytest.mark.usefixtures("impatient")
def test_a_key_that_is_revoked_during_the_run(world: World) -> None:
    world.lago.faults.answer(401, times=10_000, after=1, method="POST")
    ran = world.backfill(*HOUR, RECONCILE_CONCURRENCY="1")
    assert ran.code == 3
    assert "LAGO_API_KEY" in ran.document["fault"]["message"]
    assert len(world.billed()) == 100


def test_a_database_that_goes_away_during_the_run(world: World) -> None:
    """The ledger cannot be written, so nothing more is sent."""
    name = world.database_url.rsplit("/", 1)[1]

    def cut() -> None:
        terminate = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
        )
        world.query(terminate, (name,))

    world.lago.faults.before_list = cut
    ran = world.backfill(*HOUR)
    assert ran.code == 3
    assert ran.document["fault"]["kind"] == "database"
    world.lago.faults.before_list = None
    assert world.backfill(*HOUR).code == 0
    assert world.billed() == BILLED

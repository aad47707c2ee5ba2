"""Nothing is forgotten, and nothing is said that was not looked at."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from reconcile.domain.document import Document
from reconcile.domain.window import Window
from reconcile.run.check import checks
from reconcile.run.job import run
from reconcile.run.order import Order
from reconcile.unattended import alerts
from reconcile.unattended.alerts.message import Alert

from .world import (
    DAY,
    HOUR,
    MS,
    NIGHT,
    NOON,
    TEAM,
    World,
    events_in,
    findings,
    late_in,
    live_event,
    live_pairs,
    row,
    rows_in,
    rows_of,
)

# --- rows that are mended in place


def test_a_team_that_is_filled_in_later(any_world: World) -> None:
    """LiteLLM wrote rows without a team; somebody mends them. No count tells it."""
    world = any_world
    world.subscribe()
    live_pairs(world, rows_of(DAY, 20))
    world.write(*rows_of(DAY + 90 * MS, 5, "mended", team_id=None))
    first = world.nightly(DAY + NIGHT)
    assert (first.exit_code, rows_in(first.document)) == (0, {"matched_live": 20, "unattributed": 5})
    world.sql("UPDATE \"LiteLLM_SpendLogs\" SET team_id = 'team-a' WHERE request_id LIKE 'mended%%'")
    ran = world.nightly(DAY + NIGHT + HOUR)
    assert (ran.exit_code, rows_in(ran.document)) == (0, {"matched_live": 20, "delivered": 5})


def test_a_spend_that_is_corrected_later(any_world: World) -> None:
    world = any_world
    world.subscribe()
    live_pairs(world, rows_of(DAY, 20))
    assert world.nightly(DAY + NIGHT).exit_code == 0
    world.sql("UPDATE \"LiteLLM_SpendLogs\" SET spend = 5 WHERE request_id = 'r-of-7'")
    ran = world.day()  # a backfill reads every slice
    assert (ran.exit_code, rows_in(ran.document)) == (1, {"matched_live": 19, "mismatched": 1})
    assert ran.document.rows["total"].spend == Decimal("0.202") + 5


# --- rows that LiteLLM deletes


def test_one_deleted_row_explains_one_event(any_world: World) -> None:
    """50 events of 20 USD that nobody asked for lie in the 24 hours after it."""
    world = any_world
    world.subscribe()
    live_pairs(world, rows_of(DAY, 24))
    assert world.day().exit_code == 0
    world.sql("DELETE FROM \"LiteLLM_SpendLogs\" WHERE request_id = 'r-of-3'")
    stray = row("stray", NOON, spend=20.0, model="openai/gpt-4o", prompt_tokens=999, total_tokens=1009)
    for n in range(50):
        world.live(DAY + 4 * HOUR + n * timedelta(minutes=23), live_event(stray, f"stray-{n}"))
    for command in ("backfill", "report"):
        ran = world.day(command=command)
        assert (ran.exit_code, rows_in(ran.document)) == (1, {"matched_live": 23})
        assert events_in(ran.document) == {"matched_live": 23, "orphan": 50}
        assert ran.document.events["orphan"].spend == Decimal(1000)
        assert findings(ran.document)["retention"] == 1
    # The same content as the deleted row: as many as rows were deleted, and no more.
    for n in range(3):
        world.live(DAY + 3 * HOUR + n * timedelta(minutes=20), live_event(rows_of(DAY, 24)[3], f"alike-{n}"))
    ran = world.day(command="report")
    assert ran.document.events["orphan"].count == 50 + 3


# --- gaps between runs


def test_a_gap_between_two_runs(any_world: World) -> None:
    """The host was down for five days; the lookback is three."""
    world = any_world
    world.subscribe()
    assert world.nightly(DAY).exit_code == 0
    rows = [one for day in range(5) for one in rows_of(DAY + day * NIGHT, 40, f"day-{day}")]
    world.write(*rows)
    ran = world.nightly(DAY + 5 * NIGHT)
    assert (ran.exit_code, rows_in(ran.document)) == (0, {"delivered": 200})
    document = ran.document.as_json()
    assert document["window"]["from"] == "2025-11-20T00:00:00Z"
    assert document["window"]["extended_from"] == "2025-11-22T00:00:00Z"
    assert world.nightly(DAY + 5 * NIGHT).document.window_extended_from is None


def test_a_first_night_that_failed(any_world: World) -> None:
    """No run has ended well before: the next one begins where the failed one did."""
    world = any_world
    world.subscribe()
    rows = [one for day in range(5) for one in rows_of(DAY + day * NIGHT, 8, f"day-{day}")]
    world.write(*rows)
    stop = threading.Event()
    stop.set()
    order = Order("run", Window(DAY, DAY + NIGHT))
    assert run(world.configured(), order, stop=stop).exit_code != 0
    ran = world.nightly(DAY + 5 * NIGHT)
    assert (ran.exit_code, rows_in(ran.document)) == (0, {"delivered": 40})
    assert ran.document.window_from == DAY


def test_a_gap_is_closed_as_far_as_rows_are_counted_again(world: World) -> None:
    world.subscribe()
    assert world.nightly(DAY).exit_code == 0
    ran = world.nightly(DAY + 50 * NIGHT)
    assert ran.document.window_from == DAY + 15 * NIGHT
    assert world.nightly(DAY + 52 * NIGHT).document.window_extended_from is None


# --- rows that nobody asked for


def test_a_run_sends_nothing_that_a_backfill_was_not_asked_for(any_world: World) -> None:
    """Calls that began inside the backfill's window and ended after it: ten hours of long calls."""
    world = any_world
    world.subscribe()
    inside = rows_of(DAY, 20)
    long = [
        row(f"long-{n}", DAY + NIGHT + (n + 1) * timedelta(minutes=2), seconds=10 * 3600.0, spend=0.01 + n / 1000)
        for n in range(300)
    ]
    world.write(*inside, *long)
    assert rows_in(world.day().document) == {"delivered": 20}
    ran = world.nightly(DAY + 10 * NIGHT)
    # Rows of an hour that grew are looked at again; nothing becomes of them.
    assert (ran.exit_code, rows_in(ran.document), late_in(ran.document).keys()) == (0, {}, {"matched"})
    assert sum(world.billed().values()) == 20


def test_rows_of_a_window_that_was_asked_for_are_late(any_world: World) -> None:
    world = any_world
    world.subscribe()
    world.write(*rows_of(DAY, 20))
    world.day()
    world.write(row("late", NOON), row("unasked", DAY + NIGHT + HOUR, seconds=2 * 3600.0))
    ran = world.nightly(DAY + 10 * NIGHT)
    assert late_in(ran.document)["delivered"] == 1
    assert world.billed()["late", TEAM] == 1
    assert world.billed()["unasked", TEAM] == 0


# --- alerts


def alert_of(world: World, document: Document, threshold: str) -> Alert | None:
    thresholds = world.configured(RECONCILE_ALERT_ON=threshold).alert_on
    return alerts.of_run(document, thresholds, job=None, reports=[])


def late_and_held(world: World) -> None:
    world.day()
    world.write(row("late", NOON, team_id="team-nobody"))


def held_and_out_of_the_window(world: World) -> None:
    world.write(row("old", NOON, team_id="team-nobody"))
    assert world.day().exit_code == 1


@pytest.mark.parametrize("setup", [late_and_held, held_and_out_of_the_window])
def test_late_rows_and_rows_that_stay_held_raise_alerts(world: World, setup: Callable[[World], None]) -> None:
    world.subscribe()
    setup(world)
    for night in (10, 11):
        ran = world.nightly(DAY + night * NIGHT)
        assert (ran.exit_code, rows_in(ran.document)) == (0, {})
        assert alert_of(world, ran.document, "held")
        assert not alert_of(world, ran.document, "orphan")


# --- what else there is in Lago


def test_check_says_where_another_proxy_posts_under_the_same_code(world: World) -> None:
    world.subscribe()
    (first,) = [one for one in checks(world.configured(RECONCILE_LAG="1h")) if one.name == "traffic"]
    assert "another proxy" not in first.text
    yesterday = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=12)
    rows = [row(f"r-{n}", yesterday + n * MS) for n in range(60)]
    live_pairs(world, rows[:30])
    for n, one in enumerate(rows[30:]):
        world.live(one["endTime"], live_event(one, f"other-{n}"))
    (found,) = [one for one in checks(world.configured(RECONCILE_LAG="1h")) if one.name == "traffic"]
    assert "30 rows here and 60 events in Lago" in found.text
    assert "another proxy" in found.text

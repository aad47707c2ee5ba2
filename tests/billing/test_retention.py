"""LiteLLM deletes old rows. Their events are no orphans, and what went is said, not counted as a discrepancy."""

from __future__ import annotations

from typing import Any

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
    own_id,
    row,
    rows_in,
    rows_of,
)


def a_reconciled_day(world: World) -> list[dict[str, Any]]:
    """Half of its rows had live events."""
    world.subscribe()
    rows = rows_of(DAY, 20)
    world.write(*rows)
    for one in rows[::2]:
        world.live(one["endTime"] + 20 * MS, live_event(one, f"live-{one['request_id']}"))
    assert world.day().exit_code == 0
    return rows


def test_a_deleted_day(world: World) -> None:
    rows = a_reconciled_day(world)
    spend = sum(one["spend"] for one in rows)
    world.delete_started(DAY - HOUR, DAY + NIGHT)
    for _ in range(2):
        ran = world.day()
        assert (ran.exit_code, ran.document.status) == (0, "agreed")
        assert (rows_in(ran.document), events_in(ran.document)) == ({}, {})
        (finding,) = ran.document.findings
        assert (finding.kind, finding.count, round(float(finding.spend), 9)) == ("retention", 20, round(spend, 9))
        assert "20 rows" in finding.text
        assert "20 events" in finding.text
    nightly = world.nightly(DAY + 5 * NIGHT)
    assert (nightly.exit_code, late_in(nightly.document), findings(nightly.document)) == (0, {}, {"retention": 20})
    report = world.day(command="report")
    assert (report.exit_code, events_in(report.document)) == (0, {})


def test_a_part_of_an_hour(world: World) -> None:
    """The rows that are left keep their events; the others' are set aside."""
    world.subscribe()
    world.write(*(row(f"r-of-{number}", NOON + number * MS) for number in range(10)))
    assert world.day().exit_code == 0
    world.delete_started(DAY, NOON + 4 * MS - 2000 * MS)
    ran = world.day()
    assert (ran.exit_code, rows_in(ran.document), events_in(ran.document)) == (0, {"matched": 6}, {"matched": 6})
    assert findings(ran.document) == {"retention": 4}


def test_the_day_after_it_is_reconciled_as_ever(world: World) -> None:
    """An event that no row explains is an orphan there, long after the deleted hours."""
    rows = a_reconciled_day(world)
    world.delete_started(DAY - HOUR, DAY + NIGHT)
    world.write(row("new", DAY + 3 * NIGHT))
    world.live(DAY + 3 * NIGHT + HOUR, live_event(rows[0], "stray"))
    ran = world.day(DAY + 3 * NIGHT)
    assert (ran.exit_code, rows_in(ran.document), events_in(ran.document)) == (1, {"delivered": 1}, {"orphan": 1})


def test_orphans_before_retention_stay_orphans(world: World) -> None:
    """Nothing was deleted: nothing is explained away."""
    rows = a_reconciled_day(world)
    world.live(NOON, live_event({**rows[0], "spend": 99.0}, "stray"))
    ran = world.day()
    assert (ran.exit_code, events_in(ran.document)["orphan"], findings(ran.document)) == (1, 1, {})


def test_a_call_that_began_in_a_deleted_hour(world: World) -> None:
    """It ended in an hour that is still there."""
    world.subscribe()
    world.write(row("long", NOON, seconds=10 * 3600), row("short", NOON))
    assert world.day().exit_code == 0
    world.delete_started(DAY, DAY + 3 * HOUR)
    ran = world.day()
    assert (ran.exit_code, events_in(ran.document), findings(ran.document)) == (0, {"matched": 1}, {"retention": 1})


def test_deleted_rows_come_back(world: World) -> None:
    """From a backup, say: they are matched, and nobody is billed again."""
    rows = a_reconciled_day(world)
    world.delete_started(DAY - HOUR, DAY + NIGHT)
    world.day()
    world.write(*rows)
    ran = world.nightly(DAY + 10 * NIGHT)
    assert (ran.exit_code, late_in(ran.document)) == (0, {"matched": 10, "matched_live": 10})
    assert findings(ran.document) == {}
    assert len(world.lago.organization.stored_events()) == 20


def test_a_row_that_is_late_in_a_deleted_hour(world: World) -> None:
    world.subscribe()
    world.write(row("a", NOON))
    world.day()
    world.delete_started(DAY, DAY + NIGHT)
    world.day()
    world.write(row("late", NOON + MS, spend=0.5))
    ran = world.nightly(DAY + 10 * NIGHT)
    assert (late_in(ran.document), world.billed()) == ({"delivered": 1}, {("a", TEAM): 1, ("late", TEAM): 1})


def test_deleted_before_it_was_ever_reconciled(world: World) -> None:
    """Nobody has counted these rows: an event of theirs cannot be told from one that nobody explains."""
    world.subscribe()
    gone = row("a", NOON)
    world.live(NOON, live_event(gone, "live-1"))
    assert events_in(world.day().document) == {"orphan": 1}
    assert own_id(gone) not in {one["transaction_id"] for one in world.lago.organization.stored_events()}

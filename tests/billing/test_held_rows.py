"""Held rows are tried again by every later run: the missing subscription is made, and the next night bills them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from reconcile.errors import NotVisibleFault
from reconcile.run import courier

from .world import (
    DAY,
    HOUR,
    MS,
    NIGHT,
    NOON,
    TEAM,
    World,
    findings,
    late_in,
    live_event,
    own_id,
    row,
    rows_in,
)

MUCH_LATER = DAY + 90 * NIGHT
NEXT_NIGHT = DAY + NIGHT


def held_row(world: World) -> dict[str, Any]:
    found = row("a", NOON, spend=1.5)
    world.write(found)
    assert world.nightly(NEXT_NIGHT).exit_code == 1
    assert world.held() == {"a": "no_subscription"}
    return found


def test_in_the_window_of_the_next_night(world: World) -> None:
    held_row(world)
    world.subscribe()
    ran = world.nightly(NEXT_NIGHT + NIGHT)
    assert (ran.exit_code, rows_in(ran.document), late_in(ran.document)) == (0, {"delivered": 1}, {})
    assert (world.billed(), world.held()) == ({("a", TEAM): 1}, {})


def test_long_before_the_window(world: World) -> None:
    held = held_row(world)
    world.subscribe()
    ran = world.nightly(MUCH_LATER)
    assert (ran.exit_code, rows_in(ran.document), late_in(ran.document)) == (0, {}, {"delivered": 1})
    assert (findings(ran.document), ran.document.verified) == ({"late_delivered": 1}, True)
    assert (world.billed(), world.held()) == ({("a", TEAM): 1}, {})
    (sent,) = world.lago.organization.stored_events()
    assert (sent["transaction_id"], sent["timestamp"]) == (own_id(held), NOON.replace(tzinfo=None, microsecond=200))
    again = world.nightly(MUCH_LATER)
    assert (again.exit_code, late_in(again.document), again.document.verified) == (0, {}, None)


@pytest.mark.parametrize("now", [NEXT_NIGHT + NIGHT, MUCH_LATER], ids=["in the window", "long before it"])
def test_after_litellm_deleted_the_row(world: World, now: datetime) -> None:
    """The ledger holds all that the event is made from."""
    held = held_row(world)
    world.delete_started(DAY, NEXT_NIGHT)
    for _ in range(2):
        world.nightly(now)
        assert world.held() == {"a": "no_subscription"}
    world.subscribe()
    ran = world.nightly(now)
    assert late_in(ran.document) == {"delivered": 1}
    assert (world.billed(), world.held()) == ({("a", TEAM): 1}, {})
    (sent,) = world.lago.organization.stored_events()
    assert sent["transaction_id"] == own_id(held)
    assert sent["properties"] == {
        "model": "gpt-4o-mini",
        "response_cost": "1.5",
        "prompt_tokens": "20",
        "completion_tokens": "10",
        "total_tokens": "30",
        "input_tokens": "20",
        "output_tokens": "10",
        "request_id": "a",
    }


def test_a_late_row_held_in_a_slice_that_had_agreed(world: World) -> None:
    """When LiteLLM deletes it again, the slice looks as it did when it agreed; the row is not forgotten."""
    world.subscribe("team-b")
    world.write(row("b", NOON, team_id="team-b"))
    assert world.nightly(NEXT_NIGHT).exit_code == 0
    world.write(row("a", NOON + HOUR))
    assert world.nightly(NEXT_NIGHT).exit_code == 1
    world.sql("""DELETE FROM "LiteLLM_SpendLogs" WHERE request_id = 'a'""")
    assert world.nightly(NEXT_NIGHT).exit_code == 0
    world.subscribe()
    world.nightly(NEXT_NIGHT)
    assert (world.billed(), world.held()) == ({("a", TEAM): 1, ("b", "team-b"): 1}, {})


def test_rows_on_both_sides_of_the_edge_of_a_window(world: World) -> None:
    """Held, deleted, and in neighbouring hours, one of them inside the window."""
    for name, at in (("outside", NOON - MS), ("inside", NOON)):
        world.write(row(name, at))
    world.day()
    world.delete_started(DAY, NEXT_NIGHT)
    world.subscribe()
    ran = world.run(NOON, NEXT_NIGHT)
    assert late_in(ran.document) == {"delivered": 2}
    assert world.billed() == {("outside", TEAM): 1, ("inside", TEAM): 1}
    assert world.held() == {}


def test_newer_than_the_window(world: World) -> None:
    """A backfill of an older day tries it as well."""
    held_row(world)
    world.subscribe()
    ran = world.day(DAY - 10 * NIGHT)
    assert (late_in(ran.document), world.billed(), world.held()) == ({"delivered": 1}, {("a", TEAM): 1}, {})


def test_a_subscription_that_begins_too_late_repairs_nothing(world: World) -> None:
    held_row(world)
    world.subscribe(started_at=NOON + HOUR)
    assert world.nightly(MUCH_LATER).exit_code == 0
    assert (world.billed(), world.held()) == ({}, {"a": "no_subscription"})


def test_only_the_rows_that_are_covered_now(world: World) -> None:
    """Two held rows side by side, one of them free to go."""
    world.write(row("a", NOON), row("b", NOON + MS, team_id="team-b"))
    world.day()
    world.subscribe()
    ran = world.nightly(MUCH_LATER)
    assert (late_in(ran.document), world.billed()) == ({"delivered": 1}, {("a", TEAM): 1})
    assert world.held() == {"b": "no_subscription"}


def test_the_reason_may_change(world: World) -> None:
    held_row(world)
    world.subscribe(period=(NEXT_NIGHT, MUCH_LATER))
    world.nightly(NEXT_NIGHT + NIGHT)
    assert world.held() == {"a": "period_closed"}
    world.nightly(MUCH_LATER, RECONCILE_LATE="push")
    assert (world.billed(), world.held()) == ({("a", TEAM): 1}, {})


def test_a_period_that_was_closed_and_is_a_draft_again(world: World) -> None:
    """An invoice that was voided and made anew takes the row."""
    world.subscribe(period=(NEXT_NIGHT, MUCH_LATER))
    world.write(row("a", NOON))
    world.day()
    assert world.held() == {"a": "period_closed"}
    world.lago.organization.add_invoice(TEAM, (DAY - 29 * NIGHT, NEXT_NIGHT - MS))
    world.nightly(MUCH_LATER)
    assert (world.billed(), world.held()) == ({("a", TEAM): 1}, {})


def test_an_event_that_somebody_else_sent_meanwhile(world: World) -> None:
    """The row is not sent again; it is no longer held."""
    held = held_row(world)
    world.subscribe()
    world.live(NOON + 50 * MS, live_event(held, "live-1"))
    ran = world.nightly(MUCH_LATER)
    assert (late_in(ran.document), world.held()) == ({"matched_live": 1}, {})
    assert len(world.lago.organization.stored_events()) == 1


def test_pushed_by_hand(world: World) -> None:
    held_row(world)
    world.nightly(NEXT_NIGHT, RECONCILE_UNCOVERED="push")
    assert (world.billed(), world.held()) == ({("a", TEAM): 1}, {})


@pytest.mark.usefixtures("impatient")
def test_a_fault_while_it_is_sent(world: World) -> None:
    held_row(world)
    world.subscribe()
    world.faults.answer(500, times=99, path="/api/v1/events", method="POST")
    ran = world.nightly(MUCH_LATER)
    assert (ran.exit_code, late_in(ran.document)) == (3, {"missing": 1})
    assert world.held() == {"a": "no_subscription"}
    world.faults.planned.clear()
    assert late_in(world.nightly(MUCH_LATER).document) == {"delivered": 1}
    assert (world.billed(), world.held()) == ({("a", TEAM): 1}, {})


def test_delivered_and_not_released(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped between the two: the next run finds the event, and sends nothing."""
    held_row(world)
    world.subscribe()

    def fails(*_: object) -> object:
        raise NotVisibleFault("stopped here")

    monkeypatch.setattr(courier, "verify", fails)
    assert world.nightly(MUCH_LATER).exit_code == 3
    monkeypatch.undo()
    assert (world.billed(), world.held()) == ({("a", TEAM): 1}, {"a": "no_subscription"})
    ran = world.nightly(MUCH_LATER)
    assert (ran.exit_code, late_in(ran.document), world.held()) == (0, {"matched": 1}, {})
    assert world.billed() == {("a", TEAM): 1}


def test_report_and_dry_run_release_nothing(world: World) -> None:
    held_row(world)
    world.subscribe()
    world.nightly(NEXT_NIGHT, RECONCILE_SLICE="1d")
    assert world.held() == {}
    world.write(row("b", NOON, team_id="team-b"))
    world.day()
    world.subscribe("team-b")
    world.day(command="report")
    world.day(dry_run=True)
    assert world.held() == {"b": "no_subscription"}

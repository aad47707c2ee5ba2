"""What Lago would store and bill nobody for is held back, shown in money, and not sent."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal

import pytest

from .world import BEGIN, DAY, END, HOUR, MS, NIGHT, NOON, TEAM, World, events_in, findings, row, rows_in

Setup = Callable[[World], None]

# The open billing period of closed-period tests begins here; the row of `NOON` lies before it.
PERIOD = (DAY + NIGHT, DAY + 31 * NIGHT)
BEFORE_IT = (DAY - 30 * NIGHT, PERIOD[0] - MS)


def nothing(world: World) -> None:
    """Lago knows the charge ID not at all."""


def pending(world: World) -> None:
    world.lago.organization.add_subscription(TEAM, status="pending")


def canceled(world: World) -> None:
    world.subscribe(started_at=BEGIN, status="canceled")


def started_later(world: World) -> None:
    world.subscribe(started_at=NOON + MS)


def terminated_before(world: World) -> None:
    world.subscribe(started_at=BEGIN, terminated_at=NOON - timedelta(seconds=1))


def gap_between_two(world: World) -> None:
    world.subscribe(started_at=BEGIN, terminated_at=NOON - HOUR)
    world.subscribe(started_at=NOON + HOUR)


def another_customer(world: World) -> None:
    world.subscribe("team-b")


def active(world: World) -> None:
    world.subscribe()


def started_at_that_very_moment(world: World) -> None:
    world.subscribe(started_at=NOON)


def terminated_at_that_very_moment(world: World) -> None:
    world.subscribe(started_at=BEGIN, terminated_at=NOON)


def terminated_after(world: World) -> None:
    world.subscribe(started_at=BEGIN, terminated_at=NOON + HOUR)


def one_after_the_other(world: World) -> None:
    world.subscribe(started_at=BEGIN, terminated_at=NOON - timedelta(seconds=1))
    world.subscribe(started_at=NOON - timedelta(seconds=1))


def pending_beside_active(world: World) -> None:
    pending(world)
    world.subscribe()


UNCOVERED = (nothing, pending, canceled, started_later, terminated_before, gap_between_two, another_customer)
COVERED = (
    active,
    started_at_that_very_moment,
    one_after_the_other,
    pending_beside_active,
)


@pytest.mark.parametrize("setup", UNCOVERED)
def test_no_subscription_covers_the_usage_time(world: World, setup: Setup) -> None:
    setup(world)
    world.write(row("a", NOON, spend=1.25))
    ran = world.day()
    assert (ran.exit_code, rows_in(ran.document)) == (1, {"held": 1})
    assert ran.document.reasons["held"] == {"no_subscription": 1}
    assert ran.document.reason_spend["held"] == {"no_subscription": Decimal("1.25")}
    assert ran.document.verified is None
    assert world.requests()["send"] == 0
    assert world.held() == {"a": "no_subscription"}
    listed = ran.document.as_json()["discrepancies"]
    assert [(one["class"], one["request_id"], one["row_spend"], one["reason"]) for one in listed] == [
        ("held", "a", "1.25", "no_subscription")
    ]
    assert listed[0]["transaction_id"].startswith("llm_")


@pytest.mark.parametrize("setup", COVERED)
def test_a_subscription_covers_the_usage_time(world: World, setup: Setup) -> None:
    setup(world)
    world.write(row("a", NOON))
    ran = world.day()
    assert (ran.exit_code, rows_in(ran.document), ran.document.verified) == (0, {"delivered": 1}, True)
    assert (world.billed(), world.held()) == ({("a", TEAM): 1}, {})


@pytest.mark.parametrize("setup", [terminated_at_that_very_moment, terminated_after])
def test_a_subscription_that_has_ended_has_no_open_period(world: World, setup: Setup) -> None:
    """Covered, and billed by nobody any more: no invoice can be seen, and none will come. A draft would take it."""
    setup(world)
    world.write(row("a", NOON))
    ran = world.day()
    assert (ran.exit_code, rows_in(ran.document), world.held()) == (1, {"held": 1}, {"a": "period_closed"})
    world.lago.organization.add_invoice(TEAM, (DAY, DAY + NIGHT))
    assert (world.day().exit_code, world.billed(), world.held()) == (0, {("a", TEAM): 1}, {})


def test_the_edges_of_a_subscription(world: World) -> None:
    """Lago tells the start to the millisecond and the end to the second; both count as covered."""
    start, end = NOON + 123 * MS, NOON + HOUR
    world.subscribe(started_at=start, terminated_at=end)
    world.lago.organization.add_invoice(TEAM, (DAY, DAY + NIGHT))
    times = (start - MS, start, end, end + MS)
    world.write(*(row(f"r-of-{number}", at) for number, at in enumerate(times)))
    ran = world.day()
    assert rows_in(ran.document) == {"delivered": 2, "held": 2}
    assert world.billed() == {("r-of-1", TEAM): 1, ("r-of-2", TEAM): 1}


def test_push_sends_uncovered_rows(world: World) -> None:
    world.write(row("a", NOON))
    ran = world.day(RECONCILE_UNCOVERED="push")
    assert (ran.exit_code, rows_in(ran.document), world.held()) == (0, {"delivered": 1}, {})
    assert world.billed() == {("a", TEAM): 1}


def open_period(world: World, **options: datetime) -> None:
    world.subscribe(period=PERIOD, **options)


def finalized(world: World) -> None:
    open_period(world)
    world.lago.organization.add_invoice(TEAM, BEFORE_IT, status="finalized")


def draft_of_another_period(world: World) -> None:
    open_period(world)
    world.lago.organization.add_invoice(TEAM, (BEFORE_IT[0], NOON - HOUR))


def draft_of_another_subscription(world: World) -> None:
    open_period(world)
    world.subscribe("team-b", period=PERIOD)
    world.lago.organization.add_invoice("team-b", BEFORE_IT)


def ended_and_invoiced(world: World) -> None:
    world.subscribe(terminated_at=NOON + HOUR)
    world.lago.organization.add_invoice(TEAM, (BEFORE_IT[0], NOON + HOUR), status="finalized")


def draft(world: World) -> None:
    open_period(world)
    world.lago.organization.add_invoice(TEAM, BEFORE_IT)


def grace_period(world: World) -> None:
    """The subscription has ended, and its last invoice waits as a draft."""
    world.subscribe(terminated_at=NOON + HOUR)
    world.lago.organization.add_invoice(TEAM, (BEFORE_IT[0], NOON + HOUR))


@pytest.mark.parametrize(
    "setup", [open_period, finalized, draft_of_another_period, draft_of_another_subscription, ended_and_invoiced]
)
def test_the_period_is_closed(world: World, setup: Setup) -> None:
    setup(world)
    world.write(row("a", NOON, spend=2.5))
    ran = world.day()
    assert (ran.exit_code, rows_in(ran.document)) == (1, {"held": 1})
    assert ran.document.reason_spend["held"] == {"period_closed": Decimal("2.5")}
    assert (world.requests()["send"], world.held()) == (0, {"a": "period_closed"})


@pytest.mark.parametrize("setup", [draft, grace_period])
def test_a_draft_invoice_takes_the_row(world: World, setup: Setup) -> None:
    setup(world)
    world.write(row("a", NOON))
    ran = world.day()
    assert (ran.exit_code, rows_in(ran.document), world.billed()) == (0, {"delivered": 1}, {("a", TEAM): 1})


def test_the_edge_of_the_open_period(world: World) -> None:
    world.subscribe(period=(NOON, END))
    world.write(row("before", NOON - MS), row("at", NOON))
    assert rows_in(world.day().document) == {"delivered": 1, "held": 1}
    assert world.held() == {"before": "period_closed"}


def test_the_edges_of_a_draft(world: World) -> None:
    """Lago cuts the end of a period to the second, and means all of it."""
    open_period(world)
    end = NOON.replace(hour=13) - MS
    world.lago.organization.add_invoice(TEAM, (NOON, end))
    times = (NOON - MS, NOON, end, end + MS)
    world.write(*(row(f"r-of-{number}", at) for number, at in enumerate(times)))
    world.day()
    assert world.held() == {"r-of-0": "period_closed", "r-of-3": "period_closed"}


def test_push_sends_rows_of_closed_periods(world: World) -> None:
    finalized(world)
    world.write(row("a", NOON))
    ran = world.day(RECONCILE_LATE="push")
    assert (ran.exit_code, rows_in(ran.document)) == (0, {"delivered": 1})
    # One push does not mean the other.
    world.write(row("b", NOON, team_id="team-b"))
    assert rows_in(world.day(RECONCILE_LATE="push").document) == {"matched": 1, "held": 1}
    world.write(row("c", NOON + MS))
    assert world.day(RECONCILE_UNCOVERED="push").document.reasons["held"] == {"period_closed": 1}


def test_held_rows_may_be_no_failure(world: World) -> None:
    world.write(row("a", NOON))
    ran = world.day(RECONCILE_FAIL_ON="mismatched")
    assert (ran.exit_code, ran.document.status, rows_in(ran.document)) == (0, "agreed", {"held": 1})


@pytest.mark.parametrize("command", ["report", "dry run"])
def test_nothing_is_kept_by_a_report(world: World, command: str) -> None:
    world.write(row("a", NOON))
    ran = world.day(command="report") if command == "report" else world.day(dry_run=True)
    assert (ran.exit_code, rows_in(ran.document), world.held()) == (1, {"held": 1}, {})


def test_a_row_that_has_its_event_is_not_held(world: World) -> None:
    """Whether Lago bills the event is no reason to think that it is not there; it is `unbilled`, and never sent
    again."""
    world.write(row("a", NOON))
    assert world.day(RECONCILE_UNCOVERED="push").exit_code == 0
    ran = world.day()
    assert (ran.exit_code, rows_in(ran.document), events_in(ran.document)) == (1, {"unbilled": 1}, {"unbilled": 1})
    assert ran.document.reasons["unbilled"] == {"no_subscription": 1}
    assert findings(ran.document) == {}
    assert len(world.lago.organization.stored_events()) == 1


def test_subscriptions_are_read_once(world: World) -> None:
    world.subscribe()
    world.write(*(row(f"r-{hour}", DAY + hour * HOUR + 30 * timedelta(minutes=1)) for hour in range(24)))
    assert world.requests() == {}
    world.day(RECONCILE_SLICE="1h")
    assert world.requests()["subscriptions"] == 1

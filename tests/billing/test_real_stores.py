"""What real Lagos do to events between the request and the list: text for null, and times a millisecond early."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from reconcile.sandbox.lago import V1_38

from .world import CODE, DAY, TEAM, World, live_event, row, rows_in

# The millisecond of an event's time that each of these Lagos stores one too low.
EARLY_ON_CLICKHOUSE, EARLY_BEFORE_1_48 = 2, 100


def ending_at(millisecond: int, count: int) -> list[dict[str, Any]]:
    """Rows that end in this millisecond of a second that makes it early on both."""
    return [
        row(f"early-{number}", DAY + timedelta(hours=1, seconds=number, milliseconds=millisecond), spend=0.001 + number)
        for number in range(count)
    ]


@pytest.mark.xfail(strict=True, reason="the job takes the empty text that ClickHouse lists for null for another cost")
def test_null_and_the_empty_text_are_one(clickhouse_world: World) -> None:
    """LiteLLM posts a null cost where it knows no price; ClickHouse lists it as an empty text."""
    world = clickhouse_world
    world.subscribe()
    rows = [row(f"free-{number}", DAY + timedelta(hours=number + 1), spend=0.0) for number in range(14)]
    world.write(*rows)
    for number, one in enumerate(rows):
        nothing = live_event(one, f"live-{number}", response_cost=None)
        world.live(one["endTime"] + timedelta(milliseconds=250), nothing)
    ran = world.day()
    assert (ran.exit_code, rows_in(ran.document)) == (0, {"matched_live": 14})
    assert len(world.lago.organization.stored_events(CODE)) == 14


@pytest.mark.xfail(strict=True, reason="the job looks for its events at the very millisecond that it sent")
def test_own_events_a_millisecond_early_in_clickhouse(clickhouse_world: World) -> None:
    world = clickhouse_world
    _own_events_are_known(world, EARLY_ON_CLICKHOUSE)


@pytest.mark.xfail(strict=True, reason="the job looks for its events at the very millisecond that it sent")
def test_own_events_a_millisecond_early_before_1_48(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.lago.stand_in, "version", V1_38)
    _own_events_are_known(world, EARLY_BEFORE_1_48)


def test_the_stores_are_early_there(clickhouse_world: World, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the tests above would be about nothing."""
    for one, millisecond in ((clickhouse_world, EARLY_ON_CLICKHOUSE), (world, EARLY_BEFORE_1_48)):
        monkeypatch.setattr(one.lago.stand_in, "version", V1_38 if one is world else one.lago.stand_in.version)
        sent = [made["endTime"] for made in ending_at(millisecond, 40)]
        one.lago.organization.seed_events(
            (
                DAY,
                {
                    "transaction_id": f"t-{number}",
                    "code": CODE,
                    "external_subscription_id": TEAM,
                    "timestamp": f"{at.timestamp():.3f}",
                },
            )
            for number, at in enumerate(sent)
        )
        stored = [event["timestamp"] for event in one.lago.organization.stored_events()]
        early = [at.replace(tzinfo=None) - timedelta(milliseconds=1) for at in sent]
        assert {at.replace(microsecond=at.microsecond // 1000 * 1000) for at in stored} & set(early)


def _own_events_are_known(world: World, millisecond: int) -> None:
    """A run sends rows whose events are stored early, sees them, and the next run finds nothing to do."""
    world.subscribe()
    rows = ending_at(millisecond, 40)
    world.write(*rows)
    first = world.day(RECONCILE_VISIBLE_WITHIN="5s")
    assert (first.exit_code, rows_in(first.document), first.document.verified) == (0, {"delivered": 40}, True)
    again = world.day(RECONCILE_VISIBLE_WITHIN="5s")
    assert (again.exit_code, rows_in(again.document)) == (0, {"matched": 40})
    assert len(world.lago.organization.stored_events(CODE)) == 40

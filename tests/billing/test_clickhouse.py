"""A ClickHouse store: 200 for everything, copies listed as they came, new events shown late."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from datetime import datetime, timedelta, tzinfo
from typing import Any

import pytest

from reconcile.errors import PreflightError
from reconcile.run import order, read

from .world import (
    CODE,
    DAY,
    HOUR,
    MS,
    NIGHT,
    NOON,
    TEAM,
    World,
    events_in,
    live_event,
    own_id,
    row,
    rows_in,
    rows_of,
)

DAYS = ("--from", "2025-11-20", "--to", "2025-11-20")


def event_of(of: dict[str, Any]) -> dict[str, Any]:
    """A row's own event, as the job sends it."""
    event = live_event(of, own_id(of))
    event["timestamp"] = f"{of['endTime'].timestamp():.3f}"
    event["properties"]["request_id"] = of["request_id"]
    return event


def test_a_run_waits_for_what_it_has_sent(clickhouse_world: World) -> None:
    world = clickhouse_world
    world.faults.visibility_lag = 1.2
    world.subscribe()
    world.write(*rows_of(DAY, 250))
    ran = world.day(RECONCILE_VISIBLE_WITHIN="20s")
    assert (ran.exit_code, rows_in(ran.document), ran.document.verified) == (0, {"delivered": 250}, True)
    assert ran.document.method.lago_store == "clickhouse"
    assert len(world.lago.organization.stored_events(CODE)) == 250
    again = world.day(RECONCILE_VISIBLE_WITHIN="20s")
    assert (again.exit_code, rows_in(again.document), again.document.verified) == (0, {"matched": 250}, None)
    assert set(world.billed().values()) == {1}


def test_killed_at_random_moments(clickhouse_world: World) -> None:
    """And run again at once, while what the killed run has sent is not shown yet."""
    world = clickhouse_world
    world.faults.visibility_lag = 1.0
    world.subscribe()
    rows = rows_of(DAY, 1_200)
    world.write(*rows)
    chance = random.Random(4)
    for _ in range(3):
        world.requests()
        process = world.start("backfill", *DAYS, RECONCILE_VISIBLE_WITHIN="3s", RECONCILE_CONCURRENCY="1")
        enough = chance.randrange(1, 4)
        while process.poll() is None and _sent(world) < enough:
            time.sleep(0.002)
        time.sleep(chance.random() * 0.02)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert 0 < len(world.billed()) < len(rows)
    ran = world.day(RECONCILE_VISIBLE_WITHIN="3s")
    assert (ran.exit_code, ran.document.rows["missing"].count) == (0, 0)
    assert world.billed() == Counter({(one["request_id"], TEAM): 1 for one in rows})
    # Copies under one identity are one event; nothing was ever sent under another millisecond.
    sent = {(one["transaction_id"], one["timestamp"]) for one in world.lago.organization.stored_events(CODE)}
    assert len(sent) == len(rows)


def _sent(world: World) -> int:
    return sum(one.method == "POST" for one in list(world.lago.stand_in.requests))


def test_events_that_are_never_shown(clickhouse_world: World) -> None:
    world = clickhouse_world
    world.faults.visibility_lag = 3600.0
    world.subscribe()
    rows = rows_of(DAY, 8)
    world.write(*rows)
    ran = world.day(RECONCILE_VISIBLE_WITHIN="1s")
    document = ran.document
    assert (ran.exit_code, document.status, document.verified) == (3, "incomplete", False)
    assert document.fault is not None
    assert document.fault.kind == "not_visible"
    assert "8 events" in document.fault.message
    assert sum(own_id(one) in document.fault.message for one in rows) == 5
    listed = document.discrepancies
    assert set(listed["transaction_id"]) == {own_id(one) for one in rows}
    assert set(listed["reason"]) == {"not_visible"}
    assert rows_in(document) == {"missing": 8}
    # They are shown at last: the next run finds them, and bills nobody twice.
    world.faults.visibility_lag = 0.0
    healed = world.day(RECONCILE_VISIBLE_WITHIN="1s")
    assert (healed.exit_code, rows_in(healed.document), healed.document.verified) == (0, {"matched": 8}, None)
    assert len(world.lago.organization.stored_events(CODE)) == 8


def test_some_are_never_shown(clickhouse_world: World) -> None:
    """Lago lost one after its 200: sent again under the same identity, it is billed once."""
    world = clickhouse_world
    world.subscribe()
    rows = rows_of(DAY, 8)
    world.write(*rows)
    lost = own_id(rows[3])
    world.faults.before_list = lambda: world.delete_raw(lost)
    ran = world.day(RECONCILE_VISIBLE_WITHIN="1s")
    assert (ran.exit_code, rows_in(ran.document), ran.document.verified) == (3, {"delivered": 7, "missing": 1}, False)
    assert ran.document.fault is not None
    assert lost in ran.document.fault.message
    world.faults.before_list = None
    healed = world.day(RECONCILE_VISIBLE_WITHIN="1s")
    assert (healed.exit_code, rows_in(healed.document)) == (0, {"matched": 7, "delivered": 1})
    assert set(world.billed().values()) == {1}


def test_a_rerun_waits_before_it_takes_a_sent_row_for_missing(clickhouse_world: World) -> None:
    """Exit 3, then again at once: not one event is sent a second time while it may be on its way."""
    world = clickhouse_world
    world.faults.visibility_lag = 2.5
    world.subscribe()
    world.write(*rows_of(DAY, 30))
    assert world.day(RECONCILE_VISIBLE_WITHIN="1s").exit_code == 3
    ran = world.day(RECONCILE_VISIBLE_WITHIN="20s")
    assert (ran.exit_code, rows_in(ran.document)) == (0, {"matched": 30})
    assert len(world.lago.organization.stored_events(CODE)) == 30


def test_a_clock_that_is_set_meanwhile_does_not_shorten_the_wait(
    clickhouse_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NTP sets this host's clock a minute ahead once the run has begun: what was sent is waited for all the same."""
    world = clickhouse_world
    world.faults.visibility_lag = 3600.0
    world.subscribe()
    world.write(*rows_of(DAY, 30))
    assert world.day(RECONCILE_VISIBLE_WITHIN="1s").exit_code == 3
    ahead, listings = timedelta(), 0

    class Jumping(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + ahead

    def jump() -> None:
        nonlocal ahead, listings
        ahead, listings = timedelta(minutes=1), listings + 1
        if listings == 8:
            world.faults.visibility_lag = 0.0

    for module in (order, read):
        monkeypatch.setattr(module, "datetime", Jumping)
    world.faults.before_list = jump
    ran = world.day(RECONCILE_VISIBLE_WITHIN="20s")
    assert (ran.exit_code, rows_in(ran.document)) == (0, {"matched": 30})
    assert len(world.lago.organization.stored_events(CODE)) == 30


def test_copies_of_one_event_are_billed_unless_the_organization_folds_them(clickhouse_world: World) -> None:
    """Lago's API does not show the switch, so it is taken to be off."""
    world = clickhouse_world
    world.subscribe()
    one = row("a", NOON)
    world.write(one)
    for seconds in range(3):
        world.live(NOON + timedelta(seconds=seconds), event_of(one))
    ran = world.day()
    assert (ran.exit_code, rows_in(ran.document)) == (1, {"matched": 1})
    assert events_in(ran.document) == {"matched": 1, "duplicate": 2}
    assert ran.document.reasons["duplicate"] == {"copy": 2}
    ran = world.day(RECONCILE_COPIES="one")
    assert (ran.exit_code, rows_in(ran.document), events_in(ran.document)) == (0, {"matched": 1}, {"matched": 1})


def test_the_same_id_at_another_millisecond_is_billed_twice(clickhouse_world: World) -> None:
    world = clickhouse_world
    world.subscribe()
    one = row("a", NOON)
    world.write(one)
    world.live(NOON, event_of(one))
    world.live(NOON, {**event_of(one), "timestamp": f"{(NOON + 1 * MS).timestamp():.3f}"})
    ran = world.day()
    assert (ran.exit_code, rows_in(ran.document)) == (1, {"matched": 1})
    assert events_in(ran.document) == {"matched": 1, "duplicate": 1}


def test_a_window_with_copies_is_unchanged_all_the_same(clickhouse_world: World) -> None:
    """Lago counts copies, and so do we."""
    world = clickhouse_world
    world.settings["RECONCILE_COPIES"] = "one"
    world.subscribe()
    one = row("a", NOON)
    world.write(one)
    for _ in range(2):
        world.live(NOON, event_of(one))
    world.day()
    world.requests()
    ran = world.day(skip_unchanged=True)
    seen = world.requests()
    assert (rows_in(ran.document), events_in(ran.document)) == ({"matched": 1}, {"matched": 1})
    assert (seen["list"], seen["count"]) == (0, 1)


def test_the_setting_overrides_what_lago_says(world: World) -> None:
    """An older Lago tells nothing about its store."""
    world.subscribe()
    world.write(row("a", NOON))
    assert world.day(RECONCILE_EVENTS_STORE="clickhouse").document.method.lago_store == "clickhouse"
    assert world.day().document.method.lago_store == "postgres"


@pytest.mark.parametrize("store", ["auto", "clickhouse"])
def test_an_older_lago_without_organizations(world: World, store: str) -> None:
    world.faults.answer(404, times=99, path="/api/v1/organizations", body=b'{"status":404,"code":"not_found"}')
    world.subscribe()
    name = f"a-{store}"
    day = DAY if store == "auto" else DAY + NIGHT  # the ledger of such a Lago goes by its address, which tests share
    world.write(row(name, day + 12 * HOUR))
    for expected in ("delivered", "matched"):
        ran = world.day(day, RECONCILE_EVENTS_STORE=store)
        assert (ran.exit_code, rows_in(ran.document)) == (0, {expected: 1})
        assert ran.document.method.lago_store == ("postgres" if store == "auto" else "clickhouse")
    assert world.billed() == {(name, TEAM): 1}


def test_an_unknown_metric_is_said_before_anything_is_sent(clickhouse_world: World) -> None:
    clickhouse_world.write(row("a", NOON))
    with pytest.raises(PreflightError, match="no billable metric with the code 'other'"):
        clickhouse_world.run(DAY, DAY + NIGHT, LAGO_API_EVENT_CODE="other")
    assert clickhouse_world.requests()["send"] == 0

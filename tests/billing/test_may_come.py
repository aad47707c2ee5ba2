"""What may still come, or may be there already, is not sent: late events, doubt, young rows, answers that were lost."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import Any

import pytest

from reconcile.errors import PreflightError
from reconcile.litellm.spend_logs import SpendLogs

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
    findings,
    live_event,
    live_pairs,
    own_id,
    row,
    rows_in,
    rows_of,
)

SECOND = timedelta(seconds=1)


def thousand(day: datetime = DAY) -> list[dict[str, Any]]:
    """A day of a busy team, whose calls are not all alike."""
    return [
        {**one, "prompt_tokens": 20 + n % 90, "total_tokens": 30 + n % 90} for n, one in enumerate(rows_of(day, 1000))
    ]


@pytest.mark.parametrize(
    ("offset", "told"),
    [
        (150 * SECOND, "median 150.005 s later"),  # Lago's clock is ahead
        (-45 * SECOND, "median 44.995 s earlier"),
        (-1 * HOUR, "median 3,599.995 s earlier"),  # LiteLLM 1.60 wrote local time, in Berlin
        (5 * HOUR, "median 18,000.005 s later"),  # the same in New York
    ],
    ids=["150 s later", "45 s earlier", "an hour earlier", "five hours later"],
)
def test_a_clock_that_is_off_sends_nothing(any_world: World, offset: timedelta, told: str) -> None:
    world = any_world
    world.subscribe()
    live_pairs(world, thousand(), after=offset + 5 * MS)
    for command in ("run", "backfill"):
        ran = world.day(command=command)
        assert (ran.exit_code, ran.document.status) == (3, "incomplete")
        assert ran.document.fault is not None
        assert ran.document.fault.kind == "doubtful"
        assert told in ran.document.fault.message
        assert "no value differs but the time" in ran.document.fault.message
        # The reading goes on, so that the report is whole.
        assert ran.document.rows["total"].count == 1000
        assert ran.document.rows["delivered"].count == 0
    assert world.requests()["send"] == 0
    report = world.day(command="report")
    assert (report.exit_code, report.document.fault) == (1, None)
    assert rows_in(report.document)["held"] > 900


def test_a_clock_that_is_off_and_the_operator_s_decision(world: World) -> None:
    world.subscribe()
    live_pairs(world, rows_of(DAY, 40), after=150 * SECOND)
    world.write(*rows_of(DAY, 5, "lost", model="openai/gpt-4o"))
    ran = world.day(RECONCILE_DOUBTFUL="send")
    # What has an event of its own nearby is held all the same.
    assert (ran.exit_code, rows_in(ran.document)) == (1, {"held": 40, "delivered": 5})
    assert ran.document.reasons["held"] == {"late_event": 40}
    assert "doubtful" in findings(ran.document)
    assert ran.document.method.settings["RECONCILE_DOUBTFUL"] == "send"


def test_a_few_late_events_hold_their_rows(any_world: World) -> None:
    world = any_world
    world.subscribe()
    on_time, late, lost = rows_of(DAY, 200, "a"), rows_of(DAY, 12, "b"), rows_of(DAY, 9, "c", model="openai/gpt-4o")
    for number, one in enumerate(late):
        one["spend"] = 7.0 + number
    live_pairs(world, on_time)
    live_pairs(world, late, after=240 * SECOND)
    world.write(*lost)
    ran = world.day()
    assert (ran.exit_code, rows_in(ran.document)) == (1, {"matched_live": 200, "held": 12, "delivered": 9})
    assert ran.document.reasons["held"] == {"late_event": 12}
    assert events_in(ran.document) == {"matched_live": 200, "orphan": 12}
    assert ran.document.reasons["orphan"] == {"late_event": 12}
    # A wider reach pairs them; what was held is settled by it.
    wider = world.day(RECONCILE_MATCH_AFTER="5m")
    assert (wider.exit_code, rows_in(wider.document)) == (0, {"matched_live": 212, "matched": 9})
    assert world.held() == {}


def test_late_events_beyond_the_edges_of_a_window(any_world: World) -> None:
    """Those that a row of the other day explains are not taken for it."""
    world = any_world
    world.subscribe()
    first, last = row("first", DAY + 60 * SECOND, spend=3.0), row("last", DAY + NIGHT - 60 * SECOND, spend=4.0)
    bot = {"spend": 0.5, "model": "openai/gpt-4o"}
    lost = row("lost", DAY + NIGHT - 30 * SECOND, **bot)
    later = [row(f"later-{n}", DAY + NIGHT + (n + 1) * HOUR, **bot) for n in range(4)]
    world.write(first, last, lost)
    live_pairs(world, later)
    world.live(first["endTime"] - 50 * 60 * SECOND, live_event(first, "early"))
    world.live(last["endTime"] + 3 * HOUR, live_event(last, "late"))
    ran = world.day()
    assert (ran.exit_code, rows_in(ran.document)) == (1, {"held": 2, "delivered": 1})
    assert world.held() == {"first": "late_event", "last": "late_event"}
    assert world.billed()["lost", TEAM] == 1


def without_tokens(event: dict[str, Any]) -> dict[str, Any]:
    """As LiteLLM's callback posts it for `/v1/responses`: the model and the cost, no more."""
    properties = {name: value for name, value in event["properties"].items() if not name.endswith("_tokens")}
    return {**event, "properties": properties}


def test_a_late_event_is_not_taken_for_that_of_a_neighbour(any_world: World) -> None:
    """It is in reach of a call of another cost, and equals one that it arrives too late for: it holds that one back."""
    world = any_world
    world.subscribe()
    late, lost = row("late", NOON, spend=3.0), row("lost", NOON + 150 * SECOND, spend=0.5)
    world.write(late, lost)
    world.live(NOON + 180 * SECOND, without_tokens(live_event(late, "of-late")))
    ran = world.day()
    assert (ran.exit_code, rows_in(ran.document)) == (1, {"held": 1, "delivered": 1})
    assert world.held() == {"late": "late_event"}
    assert ran.document.reasons["orphan"] == {"late_event": 1}
    assert world.billed()["lost", TEAM] == 1


def test_a_row_that_the_end_alone_decides_about_waits_for_events_beyond_it(any_world: World) -> None:
    """An event of another cost could be either row's, and is the last one's. The other row's own comes hours later."""
    world = any_world
    world.subscribe()
    first, last = (
        row(name, DAY + NIGHT - s * SECOND, spend=cost) for name, s, cost in (("a", 60, 3.0), ("b", 50, 4.0))
    )
    world.write(first, last)
    world.live(DAY + NIGHT - 40 * SECOND, without_tokens(live_event({**last, "spend": 9.0}, "of-either")))
    world.live(DAY + NIGHT + 3 * HOUR, live_event(first, "of-first"))
    ran = world.day()
    assert (ran.exit_code, rows_in(ran.document)) == (1, {"mismatched": 1, "held": 1})
    assert world.held() == {"a": "late_event"}


def test_a_late_event_that_repeats_a_later_call_holds_its_own_row_back(any_world: World) -> None:
    """Two equal calls, whose events come together: both are in reach of the second alone, and one is the first's."""
    world = any_world
    world.subscribe()
    first, second = row("first", NOON), row("second", NOON + 150 * SECOND)
    world.write(first, second)
    world.live(NOON + 180 * SECOND, live_event(first, "of-first"))
    world.live(NOON + 181 * SECOND, live_event(second, "of-second"))
    ran = world.day()
    assert (ran.exit_code, rows_in(ran.document)) == (1, {"matched_live": 1, "held": 1})
    assert world.held() == {"first": "late_event"}
    assert events_in(ran.document) == {"matched_live": 1, "orphan": 1}
    assert ran.document.reasons["orphan"] == {"late_event": 1}


def test_a_bot_s_events_that_come_all_at_once_hold_its_calls_back(any_world: World) -> None:
    """A call a minute for an hour, all alike: most events look like second ones of the last calls."""
    world = any_world
    world.subscribe()
    calls = [row(f"bot-{n}", NOON + n * 60 * SECOND) for n in range(60)]
    world.write(*calls)
    for n, one in enumerate(calls):
        world.live(NOON + HOUR + n * SECOND, live_event(one, f"of-{n}"))
    ran = world.day()
    assert rows_in(ran.document)["held"] + rows_in(ran.document)["matched_live"] == 60
    assert world.requests()["send"] == 0


def test_a_second_event_of_an_earlier_call_holds_no_row_back(any_world: World) -> None:
    """It came before that row's call had ended, so it is not the row's."""
    world = any_world
    world.subscribe()
    first, lost = row("first", NOON), row("lost", NOON + 600 * SECOND)
    world.write(first, lost)
    world.live(NOON + 1 * SECOND, live_event(first, "of-first"))
    world.live(NOON + 2 * SECOND, live_event(first, "again"))
    ran = world.day()
    assert (ran.exit_code, rows_in(ran.document)) == (1, {"matched_live": 1, "delivered": 1})
    assert events_in(ran.document) == {"matched_live": 1, "duplicate": 1}


def test_a_late_event_after_slices_that_agreed_before(world: World) -> None:
    """The next day has agreed, and is left unread but where a row waits for what may lie there."""
    world.subscribe()
    live_pairs(world, rows_of(DAY + NIGHT, 24, "next"))
    assert world.nightly(DAY + 2 * NIGHT).exit_code == 0
    last = row("last", DAY + NIGHT - 60 * SECOND, spend=4.0)
    world.write(last)
    world.live(last["endTime"] + 3 * HOUR, live_event(last, "late"))
    ran = world.nightly(DAY + 2 * NIGHT)
    assert (ran.exit_code, world.held()) == (1, {"last": "late_event"})
    assert world.requests()["send"] == 0


def test_litellm_s_logging_queue_while_lago_is_slow(world: World) -> None:
    """60 requests/s, and Lago answering in 5 s: half of the events are over 120 s late, 242 s at most."""
    world.subscribe()
    rng = random.Random(60)
    rows = [
        row(f"r-of-{n}", NOON + n * 17 * MS, spend=round(rng.uniform(0.001, 0.5), 6), prompt_tokens=rng.randrange(9000))
        for n in range(900)
    ]
    rows = [{**one, "total_tokens": one["prompt_tokens"] + 10} for one in rows]
    world.write(*rows)
    world.lago.organization.seed_events(
        (one["endTime"] + 242 * SECOND * n / 900, live_event(one, f"live-{n}")) for n, one in enumerate(rows)
    )
    ran = world.day()
    assert (ran.exit_code, ran.document.fault and ran.document.fault.kind) == (3, "doubtful")
    assert world.requests()["send"] == 0
    assert len(world.lago.organization.stored_events()) == 900


def test_events_that_come_slowly_are_said(world: World) -> None:
    world.subscribe()
    live_pairs(world, rows_of(DAY, 200), after=90 * SECOND)
    ran = world.day()
    assert (ran.exit_code, findings(ran.document)) == (0, {"slow_events": 200})
    assert "90.0 s or more after their rows" in ran.document.findings[0].text


def test_a_wrong_charge_by_with_two_values_off(any_world: World) -> None:
    """LiteLLM's callback charges users and leaves a guardrail's cost out; this job is told `team_id`."""
    world = any_world
    world.subscribe()
    rows = [{**one, "user": f"user-{n % 7}", "spend": one["spend"] + 0.0025} for n, one in enumerate(rows_of(DAY, 600))]
    world.write(*rows)
    world.lago.organization.seed_events(
        (
            one["endTime"] + 5 * MS,
            live_event({**one, "team_id": one["user"], "spend": one["spend"] - 0.0025}, f"live-{n}"),
        )
        for n, one in enumerate(rows)
    )
    ran = world.day()
    assert (ran.exit_code, ran.document.fault and ran.document.fault.kind) == (3, "doubtful")
    assert ran.document.fault is not None
    # Of the rows whose reach had been read when it was seen: those of 18 hours.
    assert "different: cost in 449, subscription in 449" in ran.document.fault.message
    assert "LAGO_API_CHARGE_BY" in ran.document.fault.message
    assert world.requests()["send"] == 0


def test_hours_without_any_event_hide_no_doubt(any_world: World) -> None:
    """The callback was off for ten hours; then it was on again, with another charge-by."""
    world = any_world
    world.subscribe()
    lost = [row(f"lost-{n}", DAY + n * 90 * SECOND, spend=round(1 + n / 1000, 3)) for n in range(400)]
    moved = [
        row(f"moved-{n}", DAY + 14 * HOUR + n * 60 * SECOND, spend=round(5 + n / 1000, 3), model="openai/gpt-4o")
        for n in range(240)
    ]
    world.write(*lost, *moved)
    world.lago.organization.seed_events(
        (one["endTime"] + 5 * MS, live_event({**one, "team_id": "user-7", "spend": one["spend"] - 0.5}, f"live-{n}"))
        for n, one in enumerate(moved)
    )
    for slice_length in ("6h", "1h"):
        ran = world.day(RECONCILE_SLICE=slice_length)
        assert (ran.exit_code, ran.document.fault and ran.document.fault.kind) == (3, "doubtful")
        assert not [one for one in world.billed() if one[0].startswith("moved")]


def test_two_ledgers_with_different_charge_bys(any_world: World) -> None:
    """600 requests were billed to teams by a job whose ledger this one does not have."""
    world = any_world
    world.subscribe()
    world.subscribe(*(f"user-{n}" for n in range(7)))
    world.write(*({**one, "user": f"user-{n % 7}"} for n, one in enumerate(rows_of(DAY, 600))))
    assert world.day().exit_code == 0
    world.sql("DROP SCHEMA reconcile CASCADE")
    world.requests()
    ran = world.day(LAGO_API_CHARGE_BY="user_id")
    assert ran.exit_code in (1, 3)
    assert ran.document.rows["delivered"].count == 0
    assert world.requests()["send"] == 0


# --- another stream beside


def test_a_new_event_code_begins_where_it_is_told(world: World) -> None:
    """The first `run` of the new code would send 72 hours that the old one billed."""
    world.subscribe()
    world.lago.organization.add_billable_metric("llm_usage_2")
    live_pairs(world, rows_of(DAY, 60))
    now = DAY + 30 * HOUR
    world.write(*rows_of(DAY + NIGHT, 11, "new"))
    assert world.nightly(DAY + NIGHT).exit_code == 0
    with pytest.raises(PreflightError, match=r"^RECONCILE_START: this is the first run .*llm_usage by team_id has"):
        world.nightly(now, LAGO_API_EVENT_CODE="llm_usage_2")
    world.requests()
    ran = world.nightly(now, LAGO_API_EVENT_CODE="llm_usage_2", RECONCILE_START="2025-11-21T00:00:00Z")
    early = sum(one["endTime"] < now for one in rows_of(DAY + NIGHT, 11))
    assert (ran.exit_code, rows_in(ran.document)) == (1, {"held": 60, "delivered": early})
    assert ran.document.reasons["held"] == {"before_start": 60}
    assert len(world.lago.organization.stored_events("llm_usage_2")) == early
    # Its own next run is no first one; the setting is needed as long as those hours are in the window.
    again = world.nightly(now, LAGO_API_EVENT_CODE="llm_usage_2", RECONCILE_START="2025-11-21T00:00:00Z")
    assert rows_in(again.document) == {"held": 60, "matched": early}
    assert world.nightly(now).exit_code == 0  # the old code goes on


def test_a_backfill_before_the_start_sends_nothing(any_world: World) -> None:
    world = any_world
    world.subscribe()
    world.write(row("before", NOON - MS), row("at", NOON))
    ran = world.day(RECONCILE_START="2025-11-20T12:00:00Z")
    assert (ran.exit_code, rows_in(ran.document), world.held()) == (
        1,
        {"delivered": 1, "held": 1},
        {"before": "before_start"},
    )
    assert world.billed() == {("at", TEAM): 1}


# --- clocks of hosts


@pytest.mark.parametrize("ahead", [20, -20])
def test_a_host_whose_clock_is_20_minutes_off_lago_s(world: World, ahead: int) -> None:
    """A plain Lago tells its time in the answer to the first batch: no second one leaves."""
    world.subscribe()
    world.write(*rows_of(DAY, 350))
    world.faults.clock_skew = timedelta(minutes=ahead)
    with pytest.raises(PreflightError, match=r"Lago's are more than a minute apart"):
        world.day()
    assert world.requests()["send"] == 1
    world.faults.clock_skew = timedelta()
    healed = world.day()
    assert (healed.exit_code, rows_in(healed.document)) == (0, {"matched": 100, "delivered": 250})
    assert set(world.billed().values()) == {1}


def test_where_a_proxy_tells_lago_s_time_nothing_leaves(any_world: World) -> None:
    world = any_world
    world.subscribe()
    world.write(*rows_of(DAY, 3))
    world.faults.date_header, world.faults.clock_skew = True, timedelta(minutes=20)
    with pytest.raises(PreflightError, match=r"Lago's are 1\d\d\d s apart"):
        world.day()
    assert world.requests()["send"] == 0


@pytest.mark.parametrize("ahead", [20, -20])
def test_a_host_whose_clock_is_20_minutes_off_postgres(
    any_world: World, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    world = any_world
    world.subscribe()
    world.write(*rows_of(DAY, 3))
    real = SpendLogs.clock
    monkeypatch.setattr(SpendLogs, "clock", lambda self: real(self) - timedelta(minutes=ahead))
    with pytest.raises(PreflightError, match=r"this host's clock says .* and Postgres'"):
        world.day()
    assert world.requests()["send"] == 0


# --- ClickHouse, where a copy is billed


@pytest.mark.parametrize("stored", ["drop", "reset"])
def test_a_batch_whose_answer_was_lost_is_not_repeated(clickhouse_world: World, stored: str) -> None:
    world = clickhouse_world
    world.subscribe()
    world.write(*rows_of(DAY, 250))
    getattr(world.faults, stored)(times=2, method="POST", path="/api/v1/events/batch")
    ran = world.day(RECONCILE_VISIBLE_WITHIN="10s")
    assert (ran.exit_code, rows_in(ran.document), ran.document.verified) == (0, {"delivered": 250}, True)
    assert len(world.lago.organization.stored_events(CODE)) == 250


def test_what_was_not_stored_behind_a_lost_answer_goes_again(clickhouse_world: World) -> None:
    world = clickhouse_world
    world.subscribe()
    world.write(*rows_of(DAY, 120))
    world.faults.answer(504, times=1, method="POST", path="/api/v1/events/batch")
    ran = world.day(RECONCILE_VISIBLE_WITHIN="3s")
    assert (ran.exit_code, rows_in(ran.document)) == (0, {"delivered": 120})
    assert len(world.lago.organization.stored_events(CODE)) == 120


def test_copies_are_duplicates_unless_the_organization_removes_them(clickhouse_world: World) -> None:
    world = clickhouse_world
    world.subscribe()
    one = row("a", NOON, spend=2.0)
    world.write(one)
    event = {**live_event(one, own_id(one), request_id="a"), "timestamp": f"{NOON.timestamp():.3f}2"}
    for seconds in (1, 60, 120):
        world.live(NOON + seconds * SECOND, event)
    ran = world.day()
    assert (ran.exit_code, rows_in(ran.document)) == (1, {"matched": 1})
    assert events_in(ran.document) == {"matched": 1, "duplicate": 2}
    assert ran.document.reasons["duplicate"] == {"copy": 2}
    folded = world.day(RECONCILE_COPIES="one")
    assert (folded.exit_code, rows_in(folded.document), events_in(folded.document)) == (
        0,
        {"matched": 1},
        {"matched": 1},
    )


# --- doubt compares like with like


def test_lost_rows_beside_hundreds_of_events_without_rows_are_sent(any_world: World) -> None:
    """Where providers' IDs collide LiteLLM loses rows, and their events have none; other teams' losses go out."""
    world = any_world
    world.subscribe("team-a", "team-b", "team-c")
    for n, one in enumerate(rows_of(DAY, 400, "collided")):
        world.live(one["endTime"], live_event(one, f"orphan-{n}"))
    lost = [
        row(
            f"lost-{n}",
            DAY + (n + 1) * HOUR * 23 / 26,
            spend=3.0 + n,
            prompt_tokens=777 + n,
            total_tokens=787 + n,
            team_id=f"team-{'bc'[n % 2]}",
            model="openai/gpt-4o",
        )
        for n in range(25)
    ]
    lost = [{**one, "endTime": one["endTime"].replace(microsecond=0)} for one in lost]
    world.write(*lost)
    ran = world.day()
    assert (ran.exit_code, rows_in(ran.document), ran.document.verified) == (1, {"delivered": 25}, True)
    assert events_in(ran.document) == {"orphan": 400}

"""Rows that appear after their hour was reconciled, and calls that ran for days: the next nightly run bills them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from reconcile.domain.window import Window
from reconcile.errors import DatabaseFault
from reconcile.ledger import Ledger
from reconcile.litellm.spend_logs import SpendLogs

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

# The night after `DAY`, and one long after it.
NEXT_NIGHT = DAY + NIGHT
MUCH_LATER = DAY + 21 * NIGHT


def call(name: str, hours: float, ended: datetime = NOON) -> dict[str, Any]:
    return row(name, ended, seconds=hours * 3600)


def test_hours_leave_their_counts(world: World) -> None:
    """Those without rows as well: a first row in one of them is as late as any other."""
    world.subscribe()
    world.write(row("a", DAY + 30 * MS, seconds=0.01), row("b", NOON), row("c", NOON + 1 * MS))
    assert world.day().exit_code == 0
    counts = world.ledger("hour, rows, peak", "hours")
    # A call that ends in the window may have begun up to RECONCILE_MAX_CALL (24 h) before it.
    assert [hour for hour, _, _ in counts] == [DAY + number * HOUR for number in range(-24, 24)]
    # b and c began before noon.
    assert {hour: rows for hour, rows, _ in counts if rows} == {DAY: 1, NOON - HOUR: 2}
    assert all(rows == peak for _, rows, peak in counts)


@pytest.mark.parametrize("hour", ["with rows", "without rows"])
def test_a_row_written_20_days_late(world: World, hour: str) -> None:
    world.subscribe()
    world.write(*rows_of(DAY, 20))
    world.day()
    late = row("late", (DAY + 20 * HOUR / 7 if hour == "with rows" else DAY + 5 * HOUR / 10).replace(microsecond=0))
    assert world.nightly(MUCH_LATER).exit_code == 0
    world.write(late)
    ran = world.nightly(MUCH_LATER)
    assert (ran.exit_code, ran.document.verified) == (0, True)
    assert ran.document.rows["total"].count == 0
    assert late_in(ran.document)["delivered"] == 1
    assert findings(ran.document)["late_delivered"] == 1
    assert world.billed()["late", TEAM] == 1
    sent = next(one for one in world.lago.organization.stored_events() if one["properties"]["request_id"] == "late")
    assert sent["timestamp"] == late["endTime"].replace(tzinfo=None, microsecond=200)
    again = world.nightly(MUCH_LATER)
    assert (again.exit_code, late_in(again.document), again.document.verified) == (0, {}, None)
    assert set(world.billed().values()) == {1}


def test_late_rows_beyond_the_recheck_stay_unseen(world: World) -> None:
    """The setting is the limit."""
    world.subscribe()
    world.write(*rows_of(DAY, 3))
    world.day()
    world.write(row("late", NOON))
    assert late_in(world.nightly(MUCH_LATER, RECONCILE_RECHECK="20d").document) == {}
    assert late_in(world.nightly(MUCH_LATER).document)["delivered"] == 1


def test_a_late_row_that_has_its_live_event(world: World) -> None:
    world.subscribe()
    world.day()
    late = row("late", NOON)
    world.write(late)
    world.live(NOON + 40 * MS, live_event(late, "live-1"))
    ran = world.nightly(MUCH_LATER)
    assert (ran.exit_code, late_in(ran.document), ran.document.verified) == (0, {"matched_live": 1}, None)
    assert len(world.lago.organization.stored_events()) == 1


def test_a_late_row_that_is_held(world: World) -> None:
    """It fails no run, and the night after the repair it is billed."""
    world.day()
    world.write(row("late", NOON))
    ran = world.nightly(MUCH_LATER)
    assert (ran.exit_code, late_in(ran.document), world.held()) == (0, {"held": 1}, {"late": "no_subscription"})
    assert world.billed() == {}
    world.subscribe()
    assert late_in(world.nightly(MUCH_LATER).document) == {"delivered": 1}
    assert (world.billed(), world.held()) == ({("late", TEAM): 1}, {})


def test_a_late_row_in_an_hour_of_the_window(world: World) -> None:
    """Twice in the same hour, while the window still covers it: it counts as any row of the window."""
    world.subscribe()
    world.write(*rows_of(DAY, 10))
    world.nightly(NEXT_NIGHT)
    for number in (1, 2):
        world.write(row(f"late-{number}", NOON + number * MS))
        ran = world.nightly(NEXT_NIGHT)
        assert (ran.exit_code, late_in(ran.document)) == (0, {})
        assert rows_in(ran.document) == {"matched": 9 + number, "delivered": 1}
    assert set(world.billed().values()) == {1}
    assert len(world.billed()) == 12


def test_late_rows_of_an_hour_twice_long_after(world: World) -> None:
    world.subscribe()
    world.write(row("a", NOON))
    world.day()
    for number in (1, 2):
        world.write(row(f"late-{number}", NOON + number * MS))
        ran = world.nightly(MUCH_LATER)
        assert (ran.exit_code, late_in(ran.document)) == (0, {"matched": number, "delivered": 1})
    assert len(world.billed()) == 3


def test_rows_beside_the_late_one_keep_their_events(world: World) -> None:
    """The hour's other rows take part in the pairing, so the late twin does not take an event of theirs."""
    world.subscribe()
    first = row("first", NOON)
    world.write(first)
    world.live(NOON + 20 * MS, live_event(first, "live-1"))
    assert rows_in(world.day().document) == {"matched_live": 1}
    world.write(row("twin", NOON + 5 * MS))
    ran = world.nightly(MUCH_LATER)
    assert late_in(ran.document) == {"matched_live": 1, "delivered": 1}
    assert len(world.lago.organization.stored_events()) == 2
    assert world.nightly(MUCH_LATER).document.verified is None


@pytest.mark.parametrize("hours", [5, 20])
def test_a_call_of_40_hours(world: World, hours: int) -> None:
    """It ended last night; its start hour was reconciled the night before, and so were hours in between."""
    world.subscribe()
    world.write(*rows_of(DAY - NIGHT, 10), *rows_of(DAY, 10, "s"))
    assert world.nightly(NEXT_NIGHT).exit_code == 0
    world.write(call("long", 40, NEXT_NIGHT + hours * HOUR))
    ran = world.nightly(NEXT_NIGHT + NIGHT)
    assert (ran.exit_code, ran.document.rows["delivered"].count) == (0, 1)
    assert world.billed()["long", TEAM] == 1
    for number in (2, 3, 4, 5):
        again = world.nightly(NEXT_NIGHT + number * NIGHT)
        assert (again.exit_code, again.document.verified, events_in(again.document).keys() <= {"matched"}) == (
            0,
            None,
            True,
        )
    assert set(world.billed().values()) == {1}


def test_a_call_of_40_hours_written_late(world: World) -> None:
    """The slice of its end had agreed without it."""
    world.subscribe()
    world.write(*rows_of(DAY - NIGHT, 10), *rows_of(DAY, 10, "s"))
    for number in range(1, 3):
        world.nightly(DAY + number * NIGHT)
    world.write(call("long", 40, DAY + 20 * HOUR))
    for number in range(2, 6):
        assert world.nightly(DAY + number * NIGHT).exit_code == 0
    assert world.billed()["long", TEAM] == 1


def test_a_call_of_5_days(world: World) -> None:
    """Longer than the lookback and the longest call together; its start hour was reconciled long before."""
    world.subscribe()
    world.write(*rows_of(DAY, 5))
    for number in range(1, 5):
        world.nightly(DAY + number * NIGHT)
    ended = DAY + 5 * NIGHT + 3 * HOUR
    world.write(call("long", 5 * 24, ended))
    ran = world.nightly(DAY + 6 * NIGHT)
    assert (ran.exit_code, rows_in(ran.document), world.billed()["long", TEAM]) == (0, {"delivered": 1}, 1)
    for number in range(6, 10):
        again = world.nightly(DAY + number * NIGHT)
        assert (again.exit_code, again.document.verified) == (0, None)
        assert events_in(again.document).keys() <= {"matched"}


@pytest.mark.parametrize("own", [True, False], ids=["delivered", "live"])
def test_a_long_call_is_no_orphan_afterwards(world: World, own: bool) -> None:
    """A window that does not reach its start lists its event all the same."""
    world.subscribe()
    world.nightly(DAY + NIGHT)
    world.nightly(DAY + 4 * NIGHT)
    long = call("long", 5 * 24, DAY + 5 * NIGHT + 90 * timedelta(minutes=1))
    world.write(long)
    if not own:
        world.live(long["endTime"] + 30 * MS, live_event(long, "live-1"))
    world.nightly(DAY + 6 * NIGHT)
    # This window cuts the slice of its end, so it is read anew.
    ran = world.run(DAY + 5 * NIGHT + HOUR + 7 * timedelta(minutes=1), DAY + 7 * NIGHT)
    assert (ran.exit_code, events_in(ran.document)) == (0, {"matched" if own else "matched_live": 1})
    report = world.run(DAY + 5 * NIGHT, DAY + 6 * NIGHT, "report")
    assert (report.exit_code, events_in(report.document)) == (0, {"matched" if own else "matched_live": 1})


@pytest.mark.parametrize("reading", ["window", "late hour"])
def test_a_row_written_between_count_and_reading(world: World, monkeypatch: pytest.MonkeyPatch, reading: str) -> None:
    """The hours were counted before: the next run finds that they have grown."""
    world.subscribe()
    world.write(row("a", NOON))
    if reading == "late hour":
        world.day()
        world.write(row("b", NOON + 1 * MS))
    after_hours(monkeypatch, lambda: world.write(row("between", NOON + 2 * MS)))
    first = world.nightly(NEXT_NIGHT if reading == "window" else MUCH_LATER)
    assert first.exit_code == 0
    monkeypatch.undo()
    assert world.nightly(MUCH_LATER).exit_code == 0
    assert world.billed()["between", TEAM] == 1
    assert set(world.billed().values()) == {1}


@pytest.mark.parametrize("reading", ["window", "late hour"])
def test_a_row_written_after_the_reading(world: World, monkeypatch: pytest.MonkeyPatch, reading: str) -> None:
    """The run takes down what it has read, not what is there at its end."""
    world.subscribe()
    world.write(row("a", NOON))
    if reading == "late hour":
        world.day()
        world.write(row("b", NOON + 1 * MS))
    after_rows(monkeypatch, "a", lambda: world.write(row("after", NOON + 2 * MS)))
    assert world.nightly(NEXT_NIGHT if reading == "window" else MUCH_LATER).exit_code == 0
    monkeypatch.undo()
    assert ("after", TEAM) not in world.billed()
    assert late_in(world.nightly(MUCH_LATER).document)["delivered"] == 1
    assert set(world.billed().values()) == {1}


def test_a_backfill_of_the_day_finds_its_late_rows_too(world: World) -> None:
    world.subscribe()
    world.write(*rows_of(DAY, 10))
    world.day()
    world.write(row("late", NOON))
    ran = world.day()
    assert (rows_in(ran.document), late_in(ran.document)) == ({"matched": 10, "delivered": 1}, {})
    assert late_in(world.nightly(MUCH_LATER).document) == {}


def after_hours(monkeypatch: pytest.MonkeyPatch, work: Callable[[], None]) -> None:
    """Does `work` once, right after the hours were counted."""
    real, todo = SpendLogs.hours, [work]

    def hours(self: SpendLogs, starts: Window) -> pd.Series:
        counts = real(self, starts)
        if todo:
            todo.pop()()
        return counts

    monkeypatch.setattr(SpendLogs, "hours", hours)


def after_rows(monkeypatch: pytest.MonkeyPatch, request_id: str, work: Callable[[], None]) -> None:
    """Does `work` once, right after the row of this request was read."""
    real, todo = SpendLogs.read, [work]

    def read(self: SpendLogs, starts: Window, usage: Window) -> pa.Table:
        found = real(self, starts, usage)
        if todo and request_id in found["request_id"].to_pylist():
            todo.pop()()
        return found

    monkeypatch.setattr(SpendLogs, "read", read)


def test_late_rows_of_a_night_in_doubt_are_sent_once_it_is_over(world: World) -> None:
    """That night sends nothing: what it has seen of older hours is not reconciled by that."""
    world.subscribe()
    live_pairs(world, rows_of(DAY, 5, "first"))
    assert world.nightly(NEXT_NIGHT).exit_code == 0
    world.write(row("late", NOON))
    tonight = MUCH_LATER + NIGHT
    # Tonight's live events are two hours off their rows, and so are in doubt.
    fast = rows_of(MUCH_LATER, 200, "in doubt")
    live_pairs(world, fast, after=timedelta(hours=2))
    ran = world.run(MUCH_LATER, tonight, "run")
    assert (ran.exit_code, ran.document.fault and ran.document.fault.kind) == (3, "doubtful")
    world.sql('DELETE FROM "LiteLLM_SpendLogs" WHERE request_id LIKE %s', ("in doubt%",))
    assert world.run(MUCH_LATER, tonight, "run").document.fault is None
    assert world.billed()["late", TEAM] == 1


def test_late_rows_of_a_run_that_could_not_be_taken_down_are_named_by_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A late row whose event bills nobody: a run that ends in a fault has told nobody."""
    world.subscribe("team-b")
    world.write(row("first", NOON, team_id="team-b"))
    assert world.nightly(NEXT_NIGHT).exit_code == 0
    late = row("late", NOON)  # of a team without a subscription
    world.write(late)
    world.live(NOON, live_event(late, "live"))
    real = Ledger.finish_run

    def finish_run(*_: Any, **__: Any) -> None:
        raise DatabaseFault("the connection is gone")

    monkeypatch.setattr(Ledger, "finish_run", finish_run)
    assert world.nightly(MUCH_LATER).exit_code == 3
    monkeypatch.setattr(Ledger, "finish_run", real)
    assert late_in(world.nightly(MUCH_LATER).document)["unbilled"] == 1


def test_a_late_row_of_a_call_that_began_before_the_first_window_and_ended_in_it(world: World) -> None:
    world.subscribe()
    ended = DAY + HOUR / 6
    world.write(row("a", NOON), call("earlier", 0.5, DAY - HOUR / 4), call("long", 0.5, ended))
    assert world.run(DAY, NEXT_NIGHT, "run").exit_code == 0
    world.write(call("late", 0.5, ended), call("nobody's", 0.5, DAY - HOUR / 5))
    assert world.run(NEXT_NIGHT, NEXT_NIGHT + NIGHT, "run").exit_code == 0
    assert world.billed() == {("a", TEAM): 1, ("long", TEAM): 1, ("late", TEAM): 1}


@pytest.mark.parametrize("minutes", [20, 40], ids=["before the edge", "behind it"])
def test_late_rows_of_the_hour_in_which_one_window_ends_and_the_next_begins(world: World, minutes: int) -> None:
    """Neither run reads that hour as a whole."""
    world.subscribe()
    half_past = DAY + 30 * timedelta(minutes=1)
    edge = half_past + NIGHT
    world.write(row("a", DAY + 6 * HOUR), row("b", edge + 6 * HOUR), row("c", edge + timedelta(minutes=5)))
    assert world.run(half_past, edge, "run").exit_code == 0
    assert world.run(edge, edge + NIGHT, "run").exit_code == 0
    world.write(row("late", DAY + NIGHT + timedelta(minutes=minutes)))
    for night in (1, 2):
        assert world.run(edge + night * NIGHT, edge + (night + 1) * NIGHT, "run").exit_code == 0
    assert world.billed()["late", TEAM] == 1

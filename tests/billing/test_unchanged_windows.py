"""A window that agreed and has not changed costs a count; what has changed is read again, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from reconcile.domain.event import timestamp
from reconcile.domain.vocabulary import Scope
from reconcile.domain.window import Window
from reconcile.run.read import Read, Reader

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
    figures,
    live_event,
    own_id,
    row,
    rows_in,
    rows_of,
)

MINUTE = timedelta(minutes=1)
# Slices whose rows began in the hour or two before them.
FINE = {"RECONCILE_SLICE": "1h", "RECONCILE_MAX_CALL": "1h"}


class Spy:
    """Which slices were read for their own sake, and what was asked of Lago, since it was last asked."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = world
        self.windows: list[Window] = []
        real = Reader.read

        def read(reader: Reader, awaited_ms: int | None) -> Read:
            found = real(reader, awaited_ms)
            if found.part is not None and found.part.scope is Scope.WINDOW:
                self.windows.append(found.part.window)
            return found

        monkeypatch.setattr(Reader, "read", read)

    def nothing_was_read(self) -> bool:
        seen = self.world.requests()
        return not self.windows and not seen["list"] and not seen["send"] and bool(seen["count"])

    def read(self) -> set[int]:
        """The hours of `DAY` that were read."""
        found = {
            hour
            for hour in range(24)
            for window in self.windows
            if window.start <= DAY + hour * HOUR and DAY + (hour + 1) * HOUR <= window.end
        }
        self.windows.clear()
        self.world.requests()
        return found


@pytest.fixture
def spy(world: World, monkeypatch: pytest.MonkeyPatch) -> Spy:
    world.settings = FINE
    return Spy(world, monkeypatch)


def a_busy_day(world: World) -> list[dict[str, Any]]:
    """Half an hour past every hour: live events, lost ones, failures."""
    world.subscribe()
    rows = []
    for hour in range(24):
        at = DAY + hour * HOUR + 30 * MINUTE
        rows.append(row(f"lost-{hour}", at, spend=0.5 + hour))
        rows.append(row(f"live-{hour}", at + 1 * MINUTE, spend=100.0 + hour))
        rows.append(row(f"failed-{hour}", at + 2 * MINUTE, status="failure"))
        world.live(at + 1 * MINUTE + 20 * MS, live_event(rows[-2], f"live-{hour}"))
    world.write(*rows)
    return rows


def agreed(world: World) -> list[dict[str, Any]]:
    rows = a_busy_day(world)
    assert world.day().exit_code == 0
    return rows


def test_nothing_is_read_again(world: World, spy: Spy) -> None:
    agreed(world)
    first = world.day(command="report")
    spy.read()
    ran = world.day(skip_unchanged=True)
    assert spy.nothing_was_read()
    assert (ran.exit_code, ran.document.verified) == (0, None)
    assert rows_in(ran.document) == {"matched": 24, "matched_live": 24, "excluded": 24}
    # To the last digit what a reading says, by charge ID, model and day.
    assert figures(ran.document) == figures(first.document)


def test_a_slice_with_a_row_of_nobody_is_read_every_time(world: World, spy: Spy) -> None:
    """LiteLLM's operator may give the row a team in place: its count does not show that."""
    agreed(world)
    world.write(row("nobody", NOON + 40 * MINUTE, team_id=""))
    for _ in range(2):
        spy.read()
        world.day(skip_unchanged=True)
    assert spy.read() == {12}
    world.sql("""UPDATE "LiteLLM_SpendLogs" SET team_id = %s WHERE request_id = 'nobody'""", (TEAM,))
    assert rows_in(world.day(skip_unchanged=True).document)["delivered"] == 1


def test_a_backfill_reads_every_slice_unless_it_is_told_not_to(world: World, spy: Spy) -> None:
    agreed(world)
    spy.read()
    world.day()
    assert spy.read() == set(range(24))


def test_runs_over_other_windows_meet_the_same_slices(world: World, spy: Spy) -> None:
    agreed(world)
    spy.read()
    world.run(DAY + 2 * HOUR, DAY + 20 * HOUR, "backfill", skip_unchanged=True)
    assert spy.nothing_was_read()
    ran = world.run(DAY - HOUR, DAY + NIGHT + HOUR, "backfill", skip_unchanged=True)
    assert spy.read() == set()
    assert ran.document.rows["matched"].count == 24


@pytest.mark.parametrize("command", ["report", "dry run"])
def test_reports_and_dry_runs_read_afresh(world: World, spy: Spy, command: str) -> None:
    agreed(world)
    spy.read()
    if command == "report":
        world.day(command="report")
    else:
        world.day(dry_run=True)
    assert world.requests()["list"] > 0
    assert spy.read() == set(range(24))


def a_new_event(world: World, rows: list[dict[str, Any]]) -> None:
    world.live(NOON + 40 * MINUTE, live_event(rows[0], "stray"))


def an_event_gone(world: World, rows: list[dict[str, Any]]) -> None:
    world.delete_event(own_id(next(one for one in rows if one["request_id"] == "lost-12")))


def a_new_row(world: World, rows: list[dict[str, Any]]) -> None:
    world.write(row("new", NOON + 40 * MINUTE))


def a_row_gone(world: World, rows: list[dict[str, Any]]) -> None:
    world.sql("""DELETE FROM "LiteLLM_SpendLogs" WHERE request_id = 'failed-12'""")


@pytest.mark.parametrize(
    ("change", "hours"),
    [
        (a_new_event, {12}),
        (an_event_gone, {12}),
        # A row of this hour may belong to the slices whose calls may have begun in it.
        (a_new_row, {11, 12, 13, 14}),
        (a_row_gone, {11, 12, 13, 14}),
    ],
)
def test_what_has_changed_is_read_again(
    world: World, spy: Spy, change: Callable[[World, list[dict[str, Any]]], None], hours: set[int]
) -> None:
    rows = agreed(world)
    change(world, rows)
    spy.read()
    ran = world.day(skip_unchanged=True)
    read = spy.read()
    assert 12 in read
    assert read <= hours
    assert figures(world.day(command="report").document)["rows"]["total"] == ran.document.as_json()["rows"]["total"]


def test_an_event_that_is_gone_is_sent_again(world: World, spy: Spy) -> None:
    rows = agreed(world)
    an_event_gone(world, rows)
    ran = world.day(skip_unchanged=True)
    assert (ran.exit_code, ran.document.rows["delivered"].count, ran.document.rows["matched"].count) == (0, 1, 23)
    assert set(world.billed().values()) <= {1, 24}
    spy.read()
    world.day(skip_unchanged=True)
    assert spy.nothing_was_read()


def test_a_slice_that_disagrees_is_read_every_time(world: World, spy: Spy) -> None:
    rows = a_busy_day(world)
    a_new_event(world, rows)
    for _ in range(2):
        spy.read()
        ran = world.day(skip_unchanged=True)
        assert (ran.exit_code, events_in(ran.document)["orphan"]) == (1, 1)
    assert spy.read() == {12}


@pytest.mark.parametrize(
    "setting",
    [
        {"RECONCILE_MATCH_AFTER": "60s"},
        {"RECONCILE_MATCH_BEFORE": "10s"},
        {"RECONCILE_MAX_CALL": "2h"},
        {"RECONCILE_EXCLUDE": "cache_hit"},
        {"RECONCILE_ID_KIND": "external_customer_id"},
        {"RECONCILE_PUSH_DOUBTFUL": "mismatched"},
        {"RECONCILE_PROPERTIES": "model,response_cost,request_id"},
        {"RECONCILE_TIMEZONE": "Asia/Kolkata"},
        {"RECONCILE_EVENTS_STORE": "clickhouse"},
        {"RECONCILE_OWN_IDS": "team-z"},
        {"RECONCILE_NOT_COUNTED": "push"},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_another_setting_reads_everything(world: World, spy: Spy, setting: dict[str, Any]) -> None:
    agreed(world)
    spy.read()
    world.day(skip_unchanged=True, **setting)
    assert spy.read() == set(range(24))


@pytest.mark.parametrize("setting", [{"RECONCILE_FAIL_ON": "missing"}, {"RECONCILE_LATE": "push"}])
def test_settings_that_decide_no_class_read_nothing(world: World, spy: Spy, setting: dict[str, Any]) -> None:
    agreed(world)
    spy.read()
    world.day(skip_unchanged=True, **setting)
    assert spy.nothing_was_read()


def test_a_month_costs_a_tenth(world: World) -> None:
    """With a late row and a stray event: only what changed is read."""
    world.settings = {"RECONCILE_SLICE": "1h", "RECONCILE_PAGE_SIZE": "50"}
    world.subscribe()
    days = 8
    for day in range(days):
        rows = rows_of(DAY + day * NIGHT, 800, f"d{day}")
        world.write(*rows)
        events = [
            (one["endTime"] + 15 * MS, live_event(one, f"live-{day}-{number}"))
            for number, one in enumerate(rows)
            if number % 25
        ]
        world.lago.organization.seed_events(events)
    end = DAY + days * NIGHT
    world.requests()
    first = world.run(DAY, end, "backfill", skip_unchanged=True)
    assert first.exit_code == 0
    spent = world.requests()
    again = world.run(DAY, end, "backfill", skip_unchanged=True)
    seen = world.requests()
    assert (seen["list"], seen["send"]) == (0, 0)
    assert seen["count"] <= days + 1
    assert sum(seen.values()) * 10 < sum(spent.values()), (seen, spent)
    assert again.document.method.requests == sum(seen.values())
    assert again.document.rows["total"] == first.document.rows["total"]


def test_usage_time_and_not_start_decides_the_slice(world: World, spy: Spy) -> None:
    """A slice with calls across its edge is taken over as it was."""
    world.subscribe()
    long = row("long", NOON + 10 * MINUTE, seconds=45 * 60)
    world.write(long, row("short", NOON + 20 * MINUTE))
    assert rows_in(world.day(skip_unchanged=True).document) == {"delivered": 2}
    spy.read()
    ran = world.run(NOON, NOON + HOUR, "backfill", skip_unchanged=True)
    assert spy.nothing_was_read()
    assert rows_in(ran.document) == {"matched": 2}
    sent = {one["properties"]["request_id"]: one["timestamp"] for one in world.lago.organization.stored_events(CODE)}
    assert f"{sent['long'].replace(tzinfo=NOON.tzinfo).timestamp():.4f}" == timestamp(
        round(long["endTime"].timestamp() * 1000)
    )

"""Cron lines: weekdays as cron counts them, and clock changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest

from reconcile.unattended.schedule.trigger import CronLine, firings


def after(line: str, zone: str, start: str, count: int) -> list[str]:
    found = islice(firings(CronLine(line, ZoneInfo(zone)), datetime.fromisoformat(start)), count)
    return [f"{moment:%a %m-%d %H:%M%z}" for moment in found]


@pytest.mark.parametrize(
    ("line", "days"),
    [
        ("0 6 * * 0", "Sun"),
        ("0 6 * * 7", "Sun"),
        ("0 6 * * 1", "Mon"),
        ("0 6 * * 1-5", "Mon Tue Wed Thu Fri"),
        ("0 6 * * 5-7", "Fri Sat Sun"),
        ("0 6 * * 0-2", "Sun Mon Tue"),
        ("0 6 * * fri-sun", "Fri Sat Sun"),
        ("0 6 * * SAT,2", "Tue Sat"),
        ("0 6 * * */3", "Sun Wed Sat"),
        ("0 6 * * 1-7/2", "Mon Wed Fri Sun"),
        ("0 6 * * *", "Mon Tue Wed Thu Fri Sat Sun"),
    ],
)
def test_weekdays_count_from_sunday(line: str, days: str) -> None:
    week = {found.split()[0] for found in after(line, "UTC", "2026-11-20T12:00Z", 14)}
    assert week == set(days.split())


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Europe/London", "America/New_York", "Australia/Lord_Howe"])
def test_each_day_of_a_year_has_one_firing(zone: str) -> None:
    """In a zone, APScheduler's own trigger misses midnight of the day after a change."""
    for line in ("30 1 * * *", "30 2 * * *", "0 0 * * *"):
        found = list(islice(firings(CronLine(line, ZoneInfo(zone)), datetime(2026, 1, 1, tzinfo=UTC)), 365))
        days = [moment.date() for moment in found]
        assert days == [days[0] + timedelta(days=n) for n in range(365)]


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca"])
def test_every_hour_is_every_real_hour_of_a_year(zone: str) -> None:
    """Each reading of the wall clock at half past, in real time."""
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    found = list(islice(firings(CronLine("30 * * * *", ZoneInfo(zone)), begin), 8000))
    minutes = [begin + timedelta(minutes=n) for n in range((found[-1] - begin) // timedelta(minutes=1) + 1)]
    expected = [minute for minute in minutes if minute.astimezone(ZoneInfo(zone)).minute == 30 and minute > begin]
    assert [moment.astimezone(UTC) for moment in found] == expected


def test_a_skipped_time_fires_once_later_and_a_repeated_one_once_the_first_time() -> None:
    assert after("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00Z", 2) == [
        "Sun 03-29 03:30+0200",
        "Mon 03-30 02:30+0200",
    ]
    assert after("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00Z", 2) == [
        "Sun 10-25 02:30+0200",
        "Mon 10-26 02:30+0100",
    ]


def test_a_line_for_every_hour_counts_real_hours() -> None:
    assert after("30 * * * *", "Europe/Berlin", "2026-10-24T23:40Z", 3) == [
        "Sun 10-25 02:30+0200",
        "Sun 10-25 02:30+0100",
        "Sun 10-25 03:30+0100",
    ]
    assert after("30 */1 * * *", "Europe/Berlin", "2026-03-29T00:20Z", 2) == [
        "Sun 03-29 01:30+0100",
        "Sun 03-29 03:30+0200",
    ]


def test_lines_that_meet_a_skipped_hour_in_any_order() -> None:
    """02:30 moves to 03:30, where the line fires anyway; 03:00 is before it."""
    assert after("0,30 2,3 * * *", "Europe/Berlin", "2026-03-28T12:00Z", 3) == [
        "Sun 03-29 03:00+0200",
        "Sun 03-29 03:30+0200",
        "Mon 03-30 02:00+0200",
    ]
    assert after("0 */6 * * *", "America/New_York", "2026-03-08T05:30Z", 2) == [
        "Sun 03-08 06:00-0400",
        "Sun 03-08 12:00-0400",
    ]


def test_a_firing_is_after_the_given_instant() -> None:
    assert after("0 6 * * *", "UTC", "2026-11-20T06:00Z", 1) == ["Sat 11-21 06:00+0000"]
    assert after("0 6 * * *", "UTC", "2026-11-20T05:59:59.999999Z", 1) == ["Fri 11-20 06:00+0000"]

"""Each row in the right window, once: long calls, clocks that run backwards, days of 23, 24 and 25 hours."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from integration.spend_rows import DAY, row

from .harness import Ran, World

MOMENT = timedelta(milliseconds=1)


def days(world: World, zone: str, *names: str) -> dict[str, int]:
    """Backfills one day after the other; rows delivered by each."""
    delivered = {}
    for name in names:
        ran = world.backfill("--from", name, "--to", name, RECONCILE_TIMEZONE=zone)
        assert ran.code == 0, ran.err
        assert ran.count("rows", "total") == ran.count("rows", "delivered")
        delivered[name] = ran.count("rows", "total")
    return delivered


def window(ran: Ran) -> tuple[str, str]:
    return ran.document["window"]["from"], ran.document["window"]["to"]


def test_long_calls_and_clocks_that_run_backwards(world: World) -> None:
    world.subscribe()
    world.add_rows(
        [
            row("nine-hours", DAY + timedelta(hours=3), seconds=9 * 3600),
            row("twenty-three-hours", DAY + timedelta(minutes=1), seconds=23 * 3600),
            row("into-the-next-day", DAY + timedelta(days=1, hours=1), seconds=9 * 3600),
            row("backwards", DAY + timedelta(days=1) - MOMENT, seconds=-290),
            row("last-moment", DAY - MOMENT, seconds=23 * 3600),
        ]
    )
    assert days(world, "UTC", "2025-11-19", "2025-11-20", "2025-11-21") == {
        "2025-11-19": 1,
        "2025-11-20": 3,
        "2025-11-21": 1,
    }
    assert set(world.billed().values()) == {1}
    assert len(world.billed()) == 5


@pytest.mark.parametrize(
    ("zone", "day", "begins", "ends"),
    [
        # The clocks skip midnight: the day has 23 hours and begins at 01:00.
        ("America/Santiago", "2025-09-07", "2025-09-07T04:00:00Z", "2025-09-08T03:00:00Z"),
        ("Europe/Berlin", "2025-03-30", "2025-03-29T23:00:00Z", "2025-03-30T22:00:00Z"),
        ("Europe/Berlin", "2025-10-26", "2025-10-25T22:00:00Z", "2025-10-26T23:00:00Z"),
    ],
)
def test_days_on_which_the_clocks_change(world: World, zone: str, day: str, begins: str, ends: str) -> None:
    world.subscribe()
    first, after = datetime.fromisoformat(begins), datetime.fromisoformat(ends)
    hours = int((after - first) / timedelta(hours=1))
    edges = [first - MOMENT, *(first + timedelta(hours=hour) for hour in range(hours)), after - MOMENT, after]
    world.add_rows([row(f"r-{number}", moment) for number, moment in enumerate(edges)])
    ran = world.backfill("--from", day, "--to", day, RECONCILE_TIMEZONE=zone)
    assert window(ran) == (begins, ends)
    assert ran.count("rows", "total") == hours + 1
    assert f"window [{begins}, {ends}) UTC" in ran.err
    before, following = ((datetime.fromisoformat(day) + timedelta(days=step)).date().isoformat() for step in (-1, 1))
    assert days(world, zone, before, following) == {before: 1, following: 1}
    assert world.billed() == {f"r-{number}": 1 for number in range(len(edges))}
    assert world.backfill("--from", before, "--to", following, RECONCILE_TIMEZONE=zone).count("rows", "matched") == len(
        edges
    )


def test_exact_instants_are_half_open_and_may_be_mixed_with_days(world: World) -> None:
    world.subscribe()
    world.add_rows([row("at-ten", DAY + timedelta(hours=10)), row("at-eleven", DAY + timedelta(hours=11))])
    ran = world.backfill("--from", "2025-11-20T10:00:00Z", "--to", "2025-11-20T11:00:00Z", "--dry-run")
    assert ran.count("rows", "total") == 1
    ran = world.backfill("--from", "2025-11-20T12:00+01:00", "--to", "2025-11-20", "--dry-run")
    assert window(ran) == ("2025-11-20T11:00:00Z", "2025-11-21T00:00:00Z")
    assert ran.count("rows", "total") == 1


@pytest.mark.parametrize(
    ("zone", "time", "readings"),
    [
        ("Europe/Berlin", "2025-10-26T02:30:00", ("2025-10-26T00:30:00Z", "2025-10-26T01:30:00Z")),
        ("Europe/Berlin", "2025-03-30T02:30:00", ("2025-03-30T01:30:00Z", "2025-03-30T00:30:00Z")),
        ("America/Santiago", "2025-09-07T00:00:00", ("2025-09-07T04:00:00Z", "2025-09-07T03:00:00Z")),
    ],
)
def test_a_time_that_a_clock_change_skips_or_repeats(
    world: World, zone: str, time: str, readings: tuple[str, str]
) -> None:
    ran = world.backfill("--from", time, "--to", "2025-12-01", RECONCILE_TIMEZONE=zone)
    assert (ran.code, ran.out) == (2, "")
    (line,) = ran.err.splitlines()
    for reading in readings:
        assert reading in line


def test_the_nightly_window(world: World) -> None:
    """`run` covers the lookback up to the lag ago, and waits for nothing that is younger."""
    world.subscribe()
    now = datetime.now(UTC)
    ages = {"young": timedelta(minutes=110), "recent": timedelta(minutes=130), "old": timedelta(hours=71)}
    world.add_rows(
        [row(name, (now - age).replace(microsecond=0), seconds=1) for name, age in ages.items()]
        + [row("too-old", now.replace(microsecond=0) - timedelta(hours=80))]
    )
    ran = world.run("run", "--json")
    assert ran.code == 0, ran.err
    start, end = (datetime.fromisoformat(text) for text in window(ran))
    assert end - start == timedelta(hours=72)
    assert abs(now - timedelta(hours=2) - end) < timedelta(minutes=1)
    assert {"recent", "old"} <= world.billed().keys()
    assert "young" not in world.billed()
    assert set(world.billed().values()) == {1}

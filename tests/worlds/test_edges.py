"""Where one window ends and the next begins: a pair counts on each side by its own time, and nothing is sent twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from reconcile.domain.window import Window
from reconcile.sandbox.traffic import LiveEvent

from .conftest import Ground
from .outcome import counts
from .world import Row, live_event, row

FIRST = Window(datetime(2024, 2, 28, tzinfo=UTC), datetime(2024, 2, 29, tzinfo=UTC))
SECOND = Window(datetime(2024, 2, 29, tzinfo=UTC), datetime(2024, 3, 1, tzinfo=UTC))
BOTH = Window(FIRST.start, SECOND.end)
MIDNIGHT = FIRST.end

WINDOWINGS = {
    "day by day": [FIRST, SECOND],
    "the second day first": [SECOND, FIRST],
    "both at once": [BOTH],
    "both, then day by day": [BOTH, FIRST, SECOND],
}
MINUTES = [
    Window(MIDNIGHT + timedelta(minutes=minute), MIDNIGHT + timedelta(minutes=minute + 1)) for minute in range(-2, 2)
]


@pytest.fixture
def team(ground: Ground) -> Ground:
    ground.subscribe("team-a")
    return ground


def at(seconds: float) -> datetime:
    """So many seconds after midnight."""
    return MIDNIGHT + timedelta(seconds=seconds)


def after(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)


def work(ground: Ground, windows: Sequence[Window]) -> tuple[Counter[str], Counter[str]]:
    """Runs a backfill over each window; how many rows and events were found of each class in all of them."""
    rows, events = Counter[str](), Counter[str]()
    for window in windows:
        document = ground.backfill(window)
        rows += counts(document.rows)
        events += counts(document.events)
    return rows, events


def test_an_event_stamped_after_midnight_counts_in_the_second_day_and_its_row_in_the_first(team: Ground) -> None:
    made = row("r", "team-a", at(-1))
    team.add_rows([made])
    team.add_events([live_event(made, "e", after(5))])
    first, second = team.backfill(FIRST), team.backfill(SECOND)
    assert (counts(first.rows), counts(first.events)) == ({"matched_live": 1}, {})
    assert (counts(second.rows), counts(second.events)) == ({}, {"matched_live": 1})
    both = team.backfill(BOTH)
    assert (counts(both.rows), counts(both.events)) == ({"matched_live": 1}, {"matched_live": 1})
    assert team.own_events() == []


def test_an_event_stamped_before_midnight_belongs_to_a_row_that_ended_after_it(team: Ground) -> None:
    """Clocks differ: Lago's may be behind LiteLLM's."""
    made = row("r", "team-a", at(1))
    team.add_rows([made])
    team.add_events([live_event(made, "e", after(-20))])
    assert counts(team.backfill(FIRST).events) == {"matched_live": 1}
    assert counts(team.backfill(SECOND).rows) == {"matched_live": 1}
    assert team.own_events() == []


def test_a_wrong_pair_across_midnight_is_listed_on_both_sides(team: Ground) -> None:
    made = row("r", "team-a", at(-1))
    team.add_rows([made])
    team.add_events([live_event(made, "e", after(5), changes={"response_cost": 1.0})])
    first, second = team.backfill(FIRST), team.backfill(SECOND)
    assert (counts(first.rows), counts(first.events)) == ({"mismatched": 1}, {})
    assert (counts(second.rows), counts(second.events)) == ({}, {"mismatched": 1})
    for document in (first, second):
        (entry,) = document.discrepancies.to_dict("records")
        assert (entry["request_id"], entry["transaction_id"], entry["reason"]) == ("r", "e", "cost")
        assert (entry["row_spend"], entry["event_spend"]) == (made["spend"], 1.0)
    assert team.own_events() == []


@pytest.mark.parametrize("lost", [False, True])
def test_a_stream_that_began_hours_before_the_window_is_in_it(lost: bool, team: Ground) -> None:
    made = row("r", "team-a", at(3_600), seconds=9 * 3_600)
    team.add_rows([made])
    team.add_events([live_event(made, "e", after(0.01))] * (not lost))
    assert counts(team.backfill(FIRST).rows) == {}
    assert counts(team.backfill(SECOND).rows) == {"delivered" if lost else "matched_live": 1}
    assert team.sent_requests() == ["r"] * lost


@pytest.mark.parametrize("windows", WINDOWINGS.values(), ids=WINDOWINGS)
def test_days_next_to_each_other_send_what_both_at_once_send(windows: list[Window], team: Ground) -> None:
    """Rows with distinct tokens every 3 seconds around midnight; every seventh event was lost, latency up to 20 s."""
    rows = [row(f"r{n:03}", "team-a", at(3 * n), tokens=(100 + n, 5)) for n in range(-60, 60)]
    kept = [(n, made) for n, made in enumerate(rows) if n % 7]
    team.add_rows(rows)
    team.add_events([live_event(made, f"e{n}", after(n % 21)) for n, made in kept])
    found_rows, found_events = work(team, windows)
    lost = sorted(made["request_id"] for n, made in enumerate(rows) if not n % 7)
    assert team.sent_requests() == lost
    assert found_rows["delivered"] == len(lost)
    assert {"missing", "mismatched", "misdirected"}.isdisjoint(found_rows)
    assert found_events.keys() <= {"matched_live", "matched"}


# How late the bot's events are: at once, mostly at once, and so late that they always come after the next request.
LATENCIES: dict[str, Callable[[int], int]] = {
    "at once": lambda n: 2 + n % 29,
    "up to 20 s": lambda n: 2 + (n * 7_919) % 19_998,
    "5 to 20 s": lambda n: 5_000 + (n * 7_919) % 15_000,
}
LOST = (0, 88, 89, 90, 91, 150, 179)


def bot(team: str) -> list[Row]:
    """The same request every 10 seconds from 15 minutes before midnight to 15 minutes after it."""
    return [row(f"{team} {n:+04}", team, at(10 * n)) for n in range(-90, 90)]


def bot_events(rows: Sequence[Row], latency: str, without: int | None = None) -> list[LiveEvent]:
    milliseconds = LATENCIES[latency]
    return [
        live_event(made, f"{made['request_id']} event", timedelta(milliseconds=milliseconds(n)))
        for n, made in enumerate(rows)
        if n != without
    ]


@pytest.mark.parametrize(
    ("latency", "windows"),
    [
        *[pytest.param("at once", windows, id=f"at once, {name}") for name, windows in WINDOWINGS.items()],
        *[pytest.param("up to 20 s", windows, id=f"up to 20 s, {name}") for name, windows in WINDOWINGS.items()],
        pytest.param("up to 20 s", MINUTES, id="up to 20 s, minute by minute"),
        pytest.param("5 to 20 s", WINDOWINGS["day by day"], id="5 to 20 s, day by day"),
        pytest.param("5 to 20 s", WINDOWINGS["both at once"], id="5 to 20 s, both at once"),
    ],
)
def test_a_bot_across_midnight_with_every_event_there_is_sent_nothing(
    latency: str, windows: list[Window], team: Ground
) -> None:
    rows = bot("team-a")
    team.add_rows(rows)
    team.add_events(bot_events(rows, latency))
    found_rows, found_events = work(team, windows)
    assert team.sent_requests() == []
    assert found_rows.keys() == {"matched_live"}
    assert found_events.keys() == {"matched_live"}


@pytest.mark.parametrize(
    ("latency", "windows"),
    [
        pytest.param("at once", WINDOWINGS["day by day"], id="at once, day by day"),
        pytest.param("at once", WINDOWINGS["the second day first"], id="at once, the second day first"),
        pytest.param("up to 20 s", WINDOWINGS["day by day"], id="up to 20 s, day by day"),
        pytest.param("5 to 20 s", WINDOWINGS["day by day"], id="5 to 20 s, day by day"),
        pytest.param("5 to 20 s", WINDOWINGS["both at once"], id="5 to 20 s, both at once"),
        pytest.param("up to 20 s", WINDOWINGS["both, then day by day"], id="up to 20 s, both, then day by day"),
    ],
)
def test_a_bot_with_one_event_lost_is_billed_once_for_each_call(
    latency: str, windows: list[Window], ground: Ground
) -> None:
    """Which of the equal calls is the one without an event cannot be known: just one of them must be sent.

    Each team's bot lost another event.
    """
    for lost in LOST:
        team = f"lost {lost}"
        ground.subscribe(team)
        rows = bot(team)
        ground.add_rows(rows)
        ground.add_events(bot_events(rows, latency, without=lost))
    work(ground, windows)
    sent = Counter(event["external_subscription_id"] for event in ground.own_events())
    assert sent == {f"lost {lost}": 1 for lost in LOST}

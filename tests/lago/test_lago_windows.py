"""How wide a listing asks: by what was seen, and by what Lago can take."""

from __future__ import annotations

import random
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from reconcile.lago.windows import Span, Widths, aim

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR


def walk(
    widths: Widths, end: int, counted: list[int], limit: int = 10**15, page_size: int = 1_000
) -> tuple[list[Span], int]:
    """A listing of [0, end) one window after the other: those that were answered, and how many were not.

    `counted[i]` events lie in minute i; windows wider than `limit` are not answered.
    """
    answered: list[Span] = []
    refused = 0
    todo: list[Span] = []
    at = 0
    while todo or at < end:
        if not todo:
            todo = [Span(at, min(at + widths.next(page_size), end))]
            at = todo[0].end
        todo = [part for span in todo for part in widths.fitting(span)]
        span = todo.pop(0)
        if span.width > limit:
            refused += 1
            todo = [*widths.slow(span), *todo]
            continue
        events = sum(
            counted[minute] * (min(span.end, (minute + 1) * MINUTE) - max(span.start, minute * MINUTE)) // MINUTE
            for minute in range(span.start // MINUTE, -(-span.end // MINUTE))
        )
        widths.saw(span, events)
        answered.append(span)
    assert answered[0].start == 0
    assert answered[-1].end == end
    assert all(one.end == other.start for one, other in pairwise(answered))
    return answered, refused


def test_a_window_aims_at_a_page() -> None:
    assert aim(1_000) == 900
    assert aim(100) == 500  # five pages
    assert aim(17) == 153  # never more than nine
    assert aim(10_000) == 9_000


def test_steady_traffic_is_read_in_windows_of_a_page() -> None:
    answered, refused = walk(Widths(), DAY, [700] * 24 * 60)
    assert refused == 0
    sizes = [span.width * 700 / MINUTE for span in answered]
    assert all(850 < size <= 1_000 for size in sizes[3:-1])
    assert len(answered) < 700 * 24 * 60 / 880


def test_the_next_listing_knows_what_the_last_one_saw() -> None:
    widths = Widths()
    walk(widths, HOUR, [700] * 60)
    answered, _ = walk(widths, HOUR, [700] * 60)
    assert all(span.width * 700 / MINUTE <= 1_000 for span in answered)


def test_an_empty_month_costs_a_few_requests() -> None:
    assert len(walk(Widths(), 31 * DAY, [0] * 31 * 24 * 60)[0]) <= 6


def test_what_is_expected_saves_the_search() -> None:
    widths = Widths()
    widths.expect(42_000, Span(0, HOUR))
    assert len(walk(widths, HOUR, [700] * 60)[0]) <= 48


def test_windows_follow_the_traffic() -> None:
    draw = random.Random(5)
    counted = [draw.randrange(20) if minute % 1_440 < 480 else 600 + draw.randrange(400) for minute in range(3 * 1_440)]
    answered, _ = walk(Widths(), 3 * DAY, counted)
    deep = 0
    for span in answered:
        events = sum(counted[span.start // MINUTE : -(-span.end // MINUTE)])
        deep += events > 10_000
    assert deep <= 3  # the mornings
    assert len(answered) < 1.25 * sum(counted) / 900


def test_half_an_hour_is_the_most_that_lago_answers() -> None:
    """An organization so large that GET /events answers 504 to wider ranges; here with little traffic of the code."""
    widths = Widths()
    answered, refused = walk(widths, 7 * DAY, [1] * 7 * 24 * 60, limit=30 * MINUTE)
    assert refused <= 3
    assert max(span.width for span in answered) <= 30 * MINUTE
    assert len(answered) < 7 * 24 * 4
    assert widths.widest is not None
    assert 10 * MINUTE <= widths.widest <= 30 * MINUTE
    _, refused = walk(widths, 7 * DAY, [1] * 7 * 24 * 60, limit=30 * MINUTE)
    assert refused == 0
    _, refused = walk(Widths(widest=widths.widest), 7 * DAY, [1] * 7 * 24 * 60, limit=30 * MINUTE)
    assert refused == 0


def test_a_lago_that_is_down_teaches_no_width() -> None:
    widths = Widths()
    spans = [Span(0, DAY)]
    while not widths.patient:
        spans = [*widths.slow(spans[0]), *spans[1:]]
    assert widths.slow(spans[0]) == [spans[0]]  # no further cutting: it is asked for again
    widths.saw(spans[0], 5)
    assert widths.widest is None
    assert widths.suspect is None


def test_a_gateway_that_fails_now_and_then_does_not_make_windows_narrow_for_good() -> None:
    """One answer in five was a 504, whatever was asked for: half a second is left of what it answers, and goes on being
    for a while. A night of such windows would never end."""
    chance = random.Random(3)
    widths, asked, at = Widths(widest=500), 0, 0
    todo: list[Span] = []
    while at < 3 * DAY or todo:
        if not todo:
            todo = [Span(at, min(at + widths.next(1_000), 3 * DAY))]
            at = todo[0].end
        todo = [part for span in todo for part in widths.fitting(span)]
        span = todo.pop(0)
        asked += 1
        if asked < 300 and chance.random() < 0.2:
            todo = [*widths.slow(span), *todo]
        else:
            widths.saw(span, 0)
    assert widths.widest is not None
    assert widths.widest > 2 * MINUTE
    assert asked < 3_000


def test_a_day_is_not_cut_into_seconds_beforehand() -> None:
    assert Widths(widest=500).fitting(Span(0, DAY)) == [Span(0, 500), Span(500, DAY)]


def test_a_second_is_never_cut_for_being_slow() -> None:
    assert Widths().slow(Span(0, 1_000)) == [Span(0, 1_000)]


@settings(deadline=None)
@given(st.integers(1, 10**7), st.integers(1, 200), st.integers(0, 10**9))
def test_parts_tile_their_span(width: int, count: int, start: int) -> None:
    parts = Span(start, start + width).parts(count)
    assert len(parts) == min(count, width)
    assert (parts[0].start, parts[-1].end) == (start, start + width)
    assert all(one.end == other.start for one, other in pairwise(parts))
    assert max(part.width for part in parts) - min(part.width for part in parts) <= 1

"""Equal rows and events by their times alone: as many pairs as there can be, and none out of reach."""

from __future__ import annotations

from random import Random

import pytest

from reconcile.classify import Reach
from reconcile.classify.augment import augment
from reconcile.classify.pairing import choose

from . import oracle

REACH = Reach(before=2, after=5)


def check(rows: list[int], events: list[int], reach: Reach) -> list[tuple[int, int]]:
    """The chosen pairs (positions): each row and event once, in order of time, within reach, as many as possible."""
    left, right = choose(rows, events, reach)
    pairs = [*zip(left, right, strict=True)]
    assert left == sorted(set(left))
    assert right == sorted(set(right))
    edges = [[str(e) for e, at in enumerate(events) if -reach.before <= at - time <= reach.after] for time in rows]
    assert all(str(event) in edges[row] for row, event in pairs)
    assert len(pairs) == oracle.most_pairs(edges)
    return pairs


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("reach", [REACH, Reach(0, 5), Reach(5, 0), Reach(7, 3)])
def test_no_choice_has_more_pairs(seed: int, reach: Reach) -> None:
    """A row that is left over although an event could be its own is sent, and billed twice."""
    chance = Random(seed)
    for _ in range(20):
        rows, events = (sorted(chance.randint(0, 40) for _ in range(chance.randint(1, 16))) for _ in range(2))
        check(rows, events, reach)


def test_the_latest_row_gives_way_where_one_more_pair_is_to_be_had() -> None:
    """The first event could be of either row, the second of the later one alone."""
    assert check([5, 7], [10, 11], REACH) == [(0, 0), (1, 1)]


def test_where_all_have_a_partner_an_event_goes_to_the_latest_row_before_it() -> None:
    assert check([0, 3, 6], [4], REACH) == [(1, 0)]
    assert check([0, 3, 6], [7], REACH) == [(2, 0)]
    assert check([10], [9], REACH) == [(0, 0)]


@pytest.mark.parametrize(
    ("near", "paired"),
    [
        ({1: [10, 11], 2: [10, 12]}, {1: 11, 2: 10}),
        ({1: [10], 2: [10, 12]}, {1: 10, 2: 12}),
        ({1: [10], 2: [10]}, {2: 10}),
    ],
)
def test_an_event_gives_up_its_row_only_where_the_other_one_finds_none_that_is_free(
    near: dict[int, list[int]], paired: dict[int, int]
) -> None:
    """The pairs that are there are the most telling ones."""
    row_of, event_of = {2: 10}, {10: 2}
    augment([1], near.__getitem__, row_of, event_of)
    assert row_of == paired
    assert event_of == {row: event for event, row in paired.items()}

"""What must not change the result: the order of the input, the slicing, the time of day, strangers far away."""

from __future__ import annotations

import math
import random
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconcile.classify import Reach, Rules, Settled
from reconcile.domain.vocabulary import EVENT_REASONS, ROW_REASONS, EventClass, RowClass

from .worlds import (
    APART,
    BASE,
    CODE,
    REACH,
    RULES,
    Record,
    World,
    any_world,
    any_worlds,
    live,
    live_world,
    live_worlds,
    modest,
    row,
    settle,
    settle_in_slices,
    told_events,
    told_rows,
)

RULE_BOOKS = {
    "postgres": RULES,
    "clickhouse": Rules(CODE, REACH, clickhouse=True),
    "exclude": Rules(CODE, REACH, exclude=("cache_hit", "zero_cost"), own_ids=frozenset({"house"})),
    "sum of costs": Rules(CODE, REACH, aggregation="sum_agg", own_number="spend"),
    "sum of tokens": Rules(CODE, REACH, clickhouse=True, aggregation="sum_agg", own_number="total_tokens"),
    "unique": Rules(CODE, REACH, aggregation="unique_count_agg"),
    "doubt": Rules(CODE, REACH, doubt=Reach(before=9, after=2_500)),
}
NUMBERS = {"spend": "response_cost", "total_tokens": "total_tokens"}


def metered(events: list[Record], rules: Rules) -> list[Record]:
    """The events as the metric of these rules takes them: a ClickHouse store counts what a Postgres store drops."""
    name = NUMBERS.get(rules.own_number or "")
    if name is None:
        return [event | {"counted": event["transaction_id"][-1] not in "048", "added": 1.0} for event in events]
    made = []
    for event in events:
        there = not math.isnan(event[name])
        made.append(event | {"counted": there or rules.clickhouse, "added": event[name] if there else 0.0})
    return made


def told(*settled: Settled) -> dict[str, Any]:
    """All that came out, but one thing: a further event of one ID names its row only where that is still at hand."""
    events = told_events(*settled)
    for name, event in events.items():
        if event["reason"] == "same_id":
            events[name] = event | dict.fromkeys(("row_request_id", "row_spend", "row_start_ms", "row_scope"))
    return {"rows": told_rows(*settled), "events": events}


def cuts() -> st.SearchStrategy[list[int]]:
    """Horizons: anywhere in the small worlds and between them, also twice the same and before everything."""
    times = st.integers(-10, 40) | st.integers(-10, 3 * APART)
    return st.lists(times.map(lambda at: BASE + at), max_size=4).map(sorted)


@modest
@given(any_worlds(), st.randoms(use_true_random=False), st.sampled_from(sorted(RULE_BOOKS)))
def test_the_order_of_the_input(world: World, chance: random.Random, book: str) -> None:
    check_order(world, chance, RULE_BOOKS[book])


@pytest.mark.parametrize("book", RULE_BOOKS)
def test_the_order_of_the_input_of_very_many_worlds(book: str) -> None:
    chance = random.Random(3)
    check_order(any_world(chance, 20, 20), chance, RULE_BOOKS[book])


@modest
@given(any_worlds(), cuts(), st.sampled_from(sorted(RULE_BOOKS)))
def test_slicing(world: World, horizons: list[int], book: str) -> None:
    check_slicing(world, horizons, RULE_BOOKS[book])


@pytest.mark.parametrize("book", RULE_BOOKS)
def test_slicing_very_many_worlds(book: str) -> None:
    """Every small world is cut twice: somewhere within it, and a moment later."""
    chance = random.Random(4)
    first = [BASE + slot * APART + chance.randint(-2, 18) for slot in range(16)]
    horizons = sorted(first + [horizon + chance.randint(1, 9) for horizon in first])
    check_slicing(any_world(chance, 16, 60), horizons, RULE_BOOKS[book])


@pytest.mark.parametrize("step", [1, 3])
def test_the_finest_slicing(step: int) -> None:
    """A call every few milliseconds: less than the reach."""
    check_slicing(live_world(random.Random(5), 1, 300), list(range(BASE - 3, BASE + 28, step)), RULES)


def check_order(world: World, chance: random.Random, rules: Rules) -> None:
    rows, events = list(world.rows), metered(world.events, rules)
    expected = told(settle(rows, events, rules))
    chance.shuffle(rows)
    chance.shuffle(events)
    same(told(settle(rows, events, rules)), expected)


def check_slicing(world: World, horizons: list[int], rules: Rules) -> None:
    events = metered(world.events, rules)
    same(told(*settle_in_slices(world.rows, events, horizons, rules)), told(settle(world.rows, events, rules)))


def same(got: dict[str, Any], expected: dict[str, Any]) -> None:
    """Says just what differs: the whole would fill the screen."""
    for side in ("rows", "events"):
        assert got[side].keys() == expected[side].keys()
        assert not [(got[side][name], e) for name, e in expected[side].items() if got[side][name] != e]


@modest
@given(any_worlds())
def test_strangers_far_away_change_nothing_else(world: World) -> None:
    far = APART * 20
    strangers = [row("stranger", at=far, spend=0.0), row("other", at=-far, spend=1.0)]
    guests = [live("guest", at=far + 100, response_cost=0.0), live("guest-2", at=-far + 100, response_cost=1.0)]
    expected = told(settle(world.rows, world.events))
    got = told(settle([*world.rows, *strangers], [*world.events, *guests]))
    for side, names in (("rows", {"stranger", "other"}), ("events", {"guest", "guest-2"})):
        for name in [name for name in got[side] if name.split(" ")[0] in names]:
            del got[side][name]
    same(got, expected)


@modest
@given(live_worlds(), st.integers(-1_000_000_000_000, 1_000_000_000_000))
def test_the_time_of_day(world: World, shift: int) -> None:
    def moved(record: Record, *names: str) -> Record:
        return record | {name: record[name] + shift for name in names}

    rows = [moved(r, "start_ms", "usage_ms") for r in world.rows]
    events = [moved(e, "time_ms") for e in world.events]
    expected = told(settle(world.rows, world.events))
    got = told(settle(rows, events))
    for side, time in (("rows", "usage_ms"), ("events", "time_ms")):
        assert [_without_times(r) for r in got[side].values()] == [
            _without_times(r) for r in expected[side].values()
        ], time


def _without_times(record: Record) -> Record:
    return {name: value for name, value in record.items() if not name.endswith("_ms")}


@pytest.mark.parametrize("copies", ["none", "billed", "one"])
@modest
@given(world=any_worlds(), horizons=cuts())
def test_the_books(copies: str, world: World, horizons: list[int]) -> None:
    """Every row and every event comes out exactly once, in a class that this stage gives, with a reason of it."""
    rules = Rules(CODE, REACH) if copies == "none" else Rules(CODE, REACH, clickhouse=True, copies=copies)
    events = world.events if copies == "none" else [*world.events, *world.events]
    parts = settle_in_slices(world.rows, events, horizons, rules)
    rows = told_rows(*parts)  # fails where one comes out twice
    assert rows.keys() == {r["request_id"] for r in world.rows}
    came_out = pd.concat([part.events for part in parts])
    names = zip(came_out["transaction_id"], came_out["subscription_id"], came_out["time_ms"], strict=True)
    expected = [(e["transaction_id"], e["subscription_id"], e["time_ms"]) for e in world.events]
    assert sorted(names) == sorted(expected * (2 if copies == "billed" else 1))
    for record in rows.values():
        reasons = ROW_REASONS[RowClass(record["class"])]
        assert record["reason"] in (reasons or ("",))
        assert (record["event_id"] == "") == (record["event_ms"] == 0)
    for name, reason in zip(came_out["class"], came_out["reason"], strict=True):
        assert reason in (EVENT_REASONS[EventClass(name)] or ("",))


@pytest.mark.parametrize("book", RULE_BOOKS)
def test_both_sides_tell_the_same(book: str) -> None:
    """Every row with an event is in its event's class, once; and agreement is equal money on both sides."""
    rules = RULE_BOOKS[book]
    world = any_world(random.Random(6), 12, 30)
    settled = settle(world.rows, metered(world.events, rules), rules)
    paired = settled.rows[settled.rows["event_id"] != ""]
    keys = ["transaction_id", "time_ms"]
    events = settled.events[~settled.events["class"].isin(["duplicate", "orphan", "own"])]
    events = events[~((events["class"] == "unbilled") & ~events["transaction_id"].isin(paired["event_id"]))]
    both = paired.merge(events, left_on=["event_id", "event_ms"], right_on=keys, suffixes=("", "_event"))
    assert len(both) == len(paired) == len(events)
    assert (both["class"].astype("str") == both["class_event"].astype("str")).all()
    assert (both["reason"].astype("str") == both["reason_event"].astype("str")).all()
    assert (both["request_id"] == both["row_request_id"]).all()
    assert (both["start_ms"] == both["row_start_ms"]).all()
    assert (both["scope"].astype("str") == both["row_scope"].astype("str")).all()
    agreed = both[both["class"].isin(["matched", "matched_live"]) & both["cost"].notna()]
    assert len(agreed)
    assert (agreed["event_cost"] == agreed["cost"]).all()
    assert ((agreed["spend"] - agreed["cost"]).abs() <= 1e-9 * agreed["spend"].abs()).all()

"""Rows and live events of equal content: every pair is right, and there are as many as there can be."""

from __future__ import annotations

from collections import defaultdict
from random import Random

from hypothesis import given

from . import oracle
from .worlds import (
    APART,
    CHAINED_COSTS,
    REACH,
    Record,
    World,
    live_world,
    live_worlds,
    modest,
    settle,
    told_events,
    told_rows,
)


@modest
@given(live_worlds(CHAINED_COSTS))
def test_the_pairs_of_equal_content(world: World) -> None:
    check_pairs(world)


def test_the_pairs_of_equal_content_in_very_many_worlds() -> None:
    check_pairs(live_world(Random(1), 60, 40, CHAINED_COSTS))


@modest
@given(live_worlds())
def test_the_leftovers(world: World) -> None:
    check_leftovers(world)


def test_the_leftovers_of_very_many_worlds() -> None:
    check_leftovers(live_world(Random(2), 40, 20))


def check_pairs(world: World) -> None:
    """Every pair is of equal content and in reach, and a plain matcher finds no more of them."""
    told = told_rows(settle(world.rows, world.events))
    events = {e["transaction_id"]: e for e in world.events}
    paired = {name: r["event_id"] for name, r in told.items() if r["class"] == "matched_live"}

    assert len(set(paired.values())) == len(paired)
    edges: list[list[str]] = []
    near = by_slot(world.events, "time_ms")
    for row in world.rows:
        edges.append([e["transaction_id"] for e in near[slot(row["usage_ms"])] if could_pair(row, e)])
        if row["request_id"] in paired:
            assert could_pair(row, events[paired[row["request_id"]]])
    assert len(paired) == oracle.most_pairs(edges)


def check_leftovers(world: World) -> None:
    """Pairs of the later stages are one value off, or elsewhere; and none that could be one are left apart."""
    settled = settle(world.rows, world.events)
    told = told_rows(settled)
    told_event = {e["transaction_id"]: e for e in told_events(settled).values()}
    rows = {r["request_id"]: r for r in world.rows}
    near, near_rows = by_slot(world.events, "time_ms"), by_slot(world.rows, "usage_ms")

    for name, row in rows.items():
        if told[name]["class"] == "missing":
            assert (told[name]["event_id"], told[name]["event_cost"]) == ("", None)
        for event in near[slot(row["usage_ms"])]:
            if told[name]["event_id"] == event["transaction_id"]:
                check_story(row, event, told[name], told_event[event["transaction_id"]])

    for event in world.events:
        record = told_event[event["transaction_id"]]
        if record["class"] not in ("duplicate", "orphan"):
            assert told[str(record["row_request_id"])]["event_id"] == event["transaction_id"]
            continue
        reachable = [r for r in near_rows[slot(event["time_ms"])] if oracle.in_reach(r, event, REACH)]
        repeated = [r for r in reachable if told[r["request_id"]]["class"] == "matched_live" and oracle.equal(r, event)]
        assert (record["class"] == "duplicate") == bool(repeated)
        if repeated:
            times = [abs(event["time_ms"] - r["usage_ms"]) for r in repeated]
            named = rows[str(record["row_request_id"])]
            assert named in repeated
            assert abs(event["time_ms"] - named["usage_ms"]) == min(times)
            continue  # a repeat stands for no other row
        for row in reachable:
            if told[row["request_id"]]["class"] == "missing":
                assert not is_story(row, event)


def check_story(row: Record, event: Record, of_row: Record, of_event: Record) -> None:
    """Both sides of a pair tell the same, and it is true."""
    assert of_row["class"] == of_event["class"]
    assert of_row["reason"] == of_event["reason"]
    assert of_event["row_request_id"] == row["request_id"]
    assert of_event["row_spend"] == row["spend"]
    sent = event["response_cost"]
    assert of_row["event_cost"] == of_event["cost"] == (None if sent != sent else sent)
    assert of_row["event_ms"] == event["time_ms"]
    assert of_event["row_start_ms"] == row["start_ms"]
    assert of_event["row_scope"] == row["scope"]
    assert of_event["live"]
    assert oracle.in_reach(row, event, REACH)
    expected = {"matched_live": [], "mismatched": [of_row["reason"]], "misdirected": ["subscription"]}
    assert off(row, event) == expected[of_row["class"]]
    assert of_row["class"] == "matched_live" or is_story(row, event)


def off(row: Record, event: Record) -> list[str]:
    """What of subscription, model, cost and tokens differs."""
    return [
        name
        for name, same in {
            "subscription": oracle.same_subscription,
            "model": oracle.same_model,
            "cost": oracle.same_cost,
            "tokens": oracle.same_tokens,
        }.items()
        if not same(row, event)
    ]


def is_story(row: Record, event: Record) -> bool:
    """Whether just one value is off, and what is equal says enough."""
    differs = off(row, event)
    same = oracle.compared(row, event) - {*differs}
    if len(differs) != 1:
        return False
    if differs == ["subscription"]:
        return len(same) > 1 or (same == {"cost"} and row["spend"] != 0)
    return bool(same)


def could_pair(row: Record, event: Record) -> bool:
    return oracle.in_reach(row, event, REACH) and oracle.equal(row, event)


def slot(time: int) -> int:
    return (time + APART // 2) // APART


def by_slot(records: list[Record], time: str) -> dict[int, list[Record]]:
    found: dict[int, list[Record]] = defaultdict(list)
    for record in records:
        found[slot(record[time])].append(record)
    return found

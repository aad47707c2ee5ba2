"""Rows and live events of equal content: every pair is right, and there are as many as there can be."""

from __future__ import annotations

import math

from hypothesis import given

from . import oracle
from .worlds import CHAINED_COSTS, REACH, World, live_worlds, modest, settle, told_events, told_rows


@modest
@given(live_worlds(CHAINED_COSTS))
def test_the_pairs_of_equal_content_are_right_and_as_many_as_can_be(world: World) -> None:
    settled = settle(world.rows, world.events)
    told = told_rows(settled)
    rows = {r["request_id"]: r for r in world.rows}
    events = {e["transaction_id"]: e for e in world.events}
    paired = {name: r["event_id"] for name, r in told.items() if r["class"] == "matched_live"}

    assert len(set(paired.values())) == len(paired)
    for name, event_name in paired.items():
        row, event = rows[name], events[event_name]
        assert oracle.equal(row, event)
        assert oracle.in_reach(row, event, REACH)

    edges = [
        [
            place
            for place, event in enumerate(world.events)
            if oracle.equal(row, event) and oracle.in_reach(row, event, REACH)
        ]
        for row in world.rows
    ]
    assert len(paired) == oracle.most_pairs(edges)


@modest
@given(live_worlds())
def test_both_sides_of_a_pair_tell_the_same_story(world: World) -> None:
    settled = settle(world.rows, world.events)
    events = {e["transaction_id"]: e for e in told_events(settled).values()}
    for name, row in told_rows(settled).items():
        if row["event_id"]:
            event = events[row["event_id"]]
            assert event["class"] == row["class"]
            assert event["reason"] == row["reason"]
            assert event["row_request_id"] == name
            assert event["row_spend"] == row["spend"]
            assert event["cost"] == row["event_cost"]
    with_row = [e for e in events.values() if e["class"] in ("matched_live", "mismatched", "misdirected")]
    assert len(with_row) == sum(1 for r in told_rows(settled).values() if r["event_id"])


@modest
@given(live_worlds())
def test_what_is_left_over_is_explained_by_nothing(world: World) -> None:
    """Every leftover pair is one value off, or elsewhere; and no row and event that could be one are left apart."""
    settled = settle(world.rows, world.events)
    rows = {r["request_id"]: r for r in world.rows}
    events = {e["transaction_id"]: e for e in world.events}
    told = told_rows(settled)
    told_event = {e["transaction_id"]: e for e in told_events(settled).values()}

    for name, record in told.items():
        if record["class"] in ("mismatched", "misdirected"):
            row, event = rows[name], events[record["event_id"]]
            assert oracle.in_reach(row, event, REACH)
            assert off(row, event) == [{"other_subscription": "subscription"}.get(record["reason"], record["reason"])]

    repeats = {name for name, event in told_event.items() if event["class"] == "duplicate"}
    having = [name for name, record in told.items() if record["class"] == "matched_live"]
    for name, event in events.items():
        near = [r for r in rows if oracle.in_reach(rows[r], event, REACH)]
        if told_event[name]["class"] in ("duplicate", "orphan"):
            twins = [r for r in near if r in having and oracle.equal(rows[r], event)]
            assert (name in repeats) == bool(twins)
            if twins:
                assert told_event[name]["row_request_id"] in twins
            for other in near:
                if told[other]["class"] == "missing":
                    allowed = {"cost", "subscription"} if twins else {"cost", "tokens", "model", "subscription"}
                    assert len(off(rows[other], event)) != 1 or off(rows[other], event)[0] not in allowed
    assert all(math.isnan(r["event_cost"] or math.nan) for r in told.values() if r["class"] == "missing")


def off(row: dict[str, object], event: dict[str, object]) -> list[str]:
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

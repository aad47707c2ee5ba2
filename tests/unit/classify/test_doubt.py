"""Missing rows that may be there already: held one by one, and all together a reason to stop."""

from __future__ import annotations

import time
from random import Random
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconcile.classify import Reach
from reconcile.classify.doubt import Doubt, doubt, late_events

from . import oracle
from .worlds import (
    BASE,
    NO_COST,
    NO_TOKENS,
    Record,
    live,
    modest,
    row,
    settle,
)

REACH = Reach(before=3_600_000, after=21_600_000)
NAN = float("nan")


def leftovers(rows: list[Record], events: list[Record]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The missing rows and the orphans, as the classification hands them over."""
    settled = settle(rows, events)
    missing = settled.rows[settled.rows["class"] == "missing"]
    return missing, settled.events[settled.events["class"] == "orphan"]


def held(rows: list[Record], events: list[Record], reach: Reach = REACH) -> dict[str, str]:
    """Which missing row is held by which event, by their names."""
    missing, orphans = leftovers(rows, events)
    assert len(missing) == len(rows)
    assert len(orphans) == len(events)
    found = late_events(missing, orphans, reach)
    names = orphans["transaction_id"].tolist()
    return {name: names[place] for name, place in zip(missing["request_id"], found.tolist(), strict=True) if place >= 0}


class TestLateEvents:
    def test_an_equal_event_that_lies_far_away(self) -> None:
        assert held([row("r1"), row("r2", spend=0.3)], [live(at=150_000)]) == {"r1": "e1"}

    @pytest.mark.parametrize(
        ("at", "label"),
        [(-3_600_001, {}), (-3_600_000, {"r1": "e1"}), (21_600_000, {"r1": "e1"}), (21_600_001, {})],
    )
    def test_its_reach(self, at: int, label: dict[str, str]) -> None:
        assert held([row()], [live(at=at)]) == label

    @pytest.mark.parametrize(
        "changes",
        [{"subscription_id": "b"}, {"response_cost": 0.3}, {"model": "other"}, {"total_tokens": 15.0}],
    )
    def test_other_content_holds_nothing(self, changes: Record) -> None:
        assert held([row()], [live(at=1_000, **changes)]) == {}

    @pytest.mark.parametrize("changes", [NO_COST, NO_TOKENS, {"model": ""}, {"model": "", **NO_TOKENS}])
    def test_what_it_does_not_carry_says_nothing(self, changes: Record) -> None:
        assert held([row()], [live(at=1_000, **changes)]) == {"r1": "e1"}

    def test_without_a_subscription_it_is_no_evidence(self) -> None:
        assert held([row()], [live(subscription_id="", charge_id="", at=10)]) == {}
        assert held([row(subscription_id="")], [live(subscription_id="", charge_id="", at=10)]) == {}

    def test_one_event_holds_one_row_and_the_nearest_first(self) -> None:
        rows = [row("r1", at=0), row("r2", at=1_000), row("r3", at=2_000)]
        assert held(rows, [live(at=1_100)]) == {"r2": "e1"}
        assert held(rows, [live("e1", at=1_100), live("e2", at=1_200)]) == {"r2": "e1", "r3": "e2"}
        assert held(rows, [live("e1", at=-900), live("e2", at=90_000)]) == {"r1": "e1", "r3": "e2"}

    def test_where_the_nearest_is_out_of_reach_a_farther_one_is_taken(self) -> None:
        reach = Reach(before=10, after=1_000)
        assert held([row("r1", at=0), row("r2", at=500)], [live(at=480)], reach) == {"r1": "e1"}

    def test_what_tells_more_comes_first(self) -> None:
        rows = [row("r1"), row("r2", prompt_tokens=9)]
        assert held(rows, [live("e1", at=500, **NO_TOKENS), live("e2", at=900)]) == {"r1": "e2", "r2": "e1"}
        near = [row("r1", at=100), row("r2", prompt_tokens=9)]
        assert held(near, [live("e1", at=900), live("e2", at=500, **NO_TOKENS)]) == {"r1": "e1", "r2": "e2"}

    def test_a_clock_that_is_off_holds_every_row(self) -> None:
        rows = [row(f"r{i}", at=86_400 * i, spend=0.25 + i % 7) for i in range(1_000)]
        for offset in (150_000, -45_000):
            events = [live(f"e{i}", at=86_400 * i + offset, response_cost=0.25 + i % 7) for i in range(1_000)]
            assert held(rows, events) == {f"r{i}": f"e{i}" for i in range(1_000)}

    def test_nothing(self) -> None:
        missing, orphans = leftovers([row()], [live(at=900)])
        assert late_events(missing, orphans[:0], REACH).tolist() == [-1]
        assert late_events(missing[:0], orphans, REACH).tolist() == []


def plainly(missing: list[Record], orphans: list[Record], reach: Reach) -> dict[str, str]:
    """The nearest first, of one content, one pair at a time."""
    pairs = sorted(
        (abs(e["time_ms"] - r["usage_ms"]), r["usage_ms"], e["time_ms"], r["request_id"], e["transaction_id"])
        for r in missing
        for e in orphans
        if oracle.equal(r, e) and oracle.in_reach(r, e, reach)
    )
    found: dict[str, str] = {}
    for *_, name, event in pairs:
        if name not in found and event not in found.values():
            found[name] = event
    return found


NEAR = Reach(before=30, after=90)


def lonely(chance: Random) -> tuple[list[Record], list[Record]]:
    """Rows and events of two contents at different times, far enough that nothing is paired by the classification."""
    times = chance.sample(range(0, 4_000, 17), 40)
    costs = (0.25, 0.5)
    rows = [row(f"r{i}", at=at, spend=chance.choice(costs)) for i, at in enumerate(times[:20])]
    events = [live(f"e{i}", at=at + 8, response_cost=chance.choice(costs)) for i, at in enumerate(times[20:])]
    return rows, events


@modest
@given(st.randoms(use_true_random=False))
def test_the_nearest_first_in_any_order(chance: Random) -> None:
    check_nearest(chance)


@pytest.mark.parametrize("seed", range(8))
def test_the_nearest_first_of_ordinary_input(seed: int) -> None:
    assert check_nearest(Random(seed)) > 1


def check_nearest(chance: Random) -> int:
    rows, events = lonely(chance)
    missing, orphans = leftovers(rows, events)
    found = late_events(missing, orphans, NEAR)
    told = told_by_name(missing, orphans, found)
    distances = {e["transaction_id"]: e["time_ms"] for e in events}
    expected = plainly(rows, events, NEAR)

    def apart(pairs: dict[str, str]) -> list[int]:
        usage = {r["request_id"]: r["usage_ms"] for r in rows}
        return sorted(abs(distances[event] - usage[name]) for name, event in pairs.items())

    assert apart(told) == apart(expected)
    mixed_rows, mixed_events = (
        frame.sample(frac=1, random_state=chance.randint(0, 99)) for frame in (missing, orphans)
    )
    assert told_by_name(mixed_rows, mixed_events, late_events(mixed_rows, mixed_events, NEAR)) == told
    return len(told)


def told_by_name(missing: pd.DataFrame, orphans: pd.DataFrame, found: Any) -> dict[str, str]:
    events = orphans["transaction_id"].tolist()
    return {name: events[at] for name, at in zip(missing["request_id"], found.tolist(), strict=True) if at >= 0}


def asked(rows: list[Record], events: list[Record]) -> Doubt | None:
    return doubt(*leftovers(rows, events), REACH)


def lost(count: int, step: int = 40_000, **changes: Any) -> list[Record]:
    return [row(f"r{i}", at=step * i, spend=0.25 + i, total_tokens=14 + i, **changes) for i in range(count)]


def of(rows: list[Record], offset: int = 0, **changes: Any) -> list[Record]:
    return [
        live(
            f"e{i}",
            at=r["usage_ms"] - BASE + offset,
            subscription_id=r["subscription_id"],
            response_cost=r["spend"],
            total_tokens=float(r["total_tokens"]),
        )
        | changes
        for i, r in enumerate(rows)
    ]


class TestDoubt:
    @pytest.mark.parametrize("offset", [150_000, -45_000])
    def test_a_clock(self, offset: int) -> None:
        rows = lost(1_000, step=86_400)
        found = asked(rows, of(rows, offset))
        assert found is not None
        assert (found.rows, found.events, found.offset_ms) == (1_000, 1_000, offset)
        assert found.differing == (("time", 1_000),)
        assert "clock" in found.text()
        assert f"{abs(offset) // 1_000} s {'later' if offset > 0 else 'earlier'}" in found.text()

    def test_another_charge_by_with_two_values_off(self) -> None:
        rows = lost(600)
        found = asked(rows, of(rows, 3, subscription_id="user-1", charge_id="user-1", model="alias"))
        assert found is not None
        assert (found.rows, found.events, found.offset_ms) == (600, 600, 3)
        assert found.differing == (("model", 600), ("subscription", 600))
        assert "LAGO_API_CHARGE_BY" in found.text()

    def test_a_currency(self) -> None:
        rows = lost(100)
        events = [e | {"response_cost": e["response_cost"] * 0.92} for e in of(rows, 3, model="alias")]
        found = asked(rows, events)
        assert found is not None
        assert found.cost_ratio == pytest.approx(0.92)
        assert "0.92 times" in found.text()

    def test_costs_that_differ_by_chance_are_no_currency(self) -> None:
        rows = lost(100)
        events = [e | {"response_cost": e["response_cost"] + 1} for e in of(rows, 3, model="alias")]
        found = asked(rows, events)
        assert found is not None
        assert found.cost_ratio is None
        assert "another program" in found.text()

    @pytest.mark.parametrize("changes", [{"response_cost": 9.9, "model": "x", "subscription_id": "b"}])
    def test_three_values_off_are_no_doubt(self, changes: Record) -> None:
        rows = lost(100)
        assert asked(rows, of(rows, 3, **changes)) is None

    def test_unrelated_events_beside_lost_rows_of_other_teams_and_models(self) -> None:
        chance = Random(1)
        rows = [
            row(
                f"r{i}",
                at=3_000_000 * i,
                model=f"openai/model-{i % 5}",
                model_group="",
                spend=chance.random(),
                prompt_tokens=100 + i,
                **dict.fromkeys(("charge_id", "subscription_id"), f"team-{i}"),
            )
            for i in range(25)
        ]
        events = [live(f"e{i}", at=150_000 * i + 9, response_cost=chance.random()) for i in range(500)]
        assert asked(rows, events) is None
        bare = [event | NO_TOKENS for event in events]
        assert asked(rows, bare) is None
        free = [event | NO_TOKENS | {"model": "", "response_cost": 0.0} for event in events]
        assert asked([r | {"spend": 0.0} for r in rows], free) is None

    @pytest.mark.parametrize(("count", "some"), [(19, False), (20, True)])
    def test_few_rows_are_no_doubt(self, count: int, some: bool) -> None:
        rows = lost(count)
        assert (asked(rows, of(rows, 150_000)) is not None) == some

    @pytest.mark.parametrize(("there", "some"), [(19, False), (20, True)])
    def test_at_least_half_of_them(self, there: int, some: bool) -> None:
        rows = lost(40)
        assert (asked(rows, of(rows, 150_000)[:there]) is not None) == some

    def test_one_event_counts_for_one_row(self) -> None:
        rows = [row(f"r{i}", at=10 * i) for i in range(40)]
        assert asked(rows, [live(f"e{i}", at=500 + i) for i in range(19)]) is None

    def test_out_of_reach(self) -> None:
        rows = lost(40, step=1)
        assert asked(rows, of(rows, REACH.after + 100)) is None

    def test_events_without_a_subscription_are_no_evidence(self) -> None:
        rows = lost(40)
        assert asked(rows, of(rows, 0, subscription_id="", charge_id="")) is None

    @pytest.mark.parametrize("seed", range(3))
    def test_in_any_order(self, seed: int) -> None:
        chance = Random(seed)
        rows = lost(60)
        changes: list[Record] = [
            {},
            {"model": "x"},
            {"response_cost": 9.9},
            {"total_tokens": 1.0, "model": "x"},
            NO_TOKENS,
        ]
        events = [event | chance.choice(changes) for event in of(rows, 150_000)]
        missing, orphans = leftovers(rows, events)
        expected = doubt(missing, orphans, REACH)
        assert expected is not None
        assert (
            doubt(missing.sample(frac=1, random_state=seed), orphans.sample(frac=1, random_state=seed), REACH)
            == expected
        )

    @pytest.mark.parametrize(("others", "ratio"), [(10, 0.92), (11, None)])
    def test_a_currency_that_one_in_ten_costs_does_not_follow(self, others: int, ratio: float | None) -> None:
        rows = lost(100)
        events = [
            event | {"response_cost": event["response_cost"] * (0.92 if i >= others else 3.0)}
            for i, event in enumerate(of(rows, 3, model="alias"))
        ]
        found = asked(rows, events)
        assert found is not None
        assert found.cost_ratio == (None if ratio is None else pytest.approx(ratio))

    def test_a_currency_beside_calls_whose_cost_is_no_other(self) -> None:
        """Calls of which Lago knows no cost, or the row's, say nothing about the others."""
        rows = lost(100)
        events = of(rows, 150_000, model="alias")
        for i, event in enumerate(events):
            event["response_cost"] = (event["response_cost"] * 0.92, event["response_cost"], NAN)[i % 3]
        found = asked(rows, events)
        assert found is not None
        assert found.cost_ratio == pytest.approx(0.92)
        assert dict(found.differing) == {"model": 100, "cost": 34}

    @pytest.mark.parametrize(
        ("offset", "differing", "ratio", "begins", "cause"),
        [
            (0, {"time": 300, "model": 300}, None, "0 s later; different: model in 300).", "a clock is off"),
            (-1_500, {"time": 600}, None, "1.5 s earlier; no value differs but the time).", "a clock is off"),
            (
                7_200_000,
                {"subscription": 1_200, "time": 1},
                None,
                "7,200 s later; different: subscription in 1,200).",
                "LAGO_API_CHARGE_BY",
            ),
            (10, {"time": 299, "subscription": 301}, None, "0.01 s later; ", "LAGO_API_CHARGE_BY"),
            (10, {"subscription": 300, "cost": 300}, 0.92, "0.01 s later; ", "LAGO_API_CHARGE_BY"),
            (10, {"subscription": 299, "cost": 300}, 0.92, "0.01 s later; ", "Every cost in Lago is 0.92 times"),
            (10, {"subscription": 299, "cost": 299}, 0.92, "0.01 s later; ", "Another proxy, or another program"),
            (10, {"subscription": 299, "cost": 300}, None, "0.01 s later; ", "Another proxy, or another program"),
        ],
    )
    def test_its_words(
        self, offset: int, differing: dict[str, int], ratio: float | None, begins: str, cause: str
    ) -> None:
        """A cause is named where half of the events or more have it, the first of them."""
        text = Doubt(1_000, 600, offset, tuple(differing.items()), ratio).text()
        assert text.startswith(
            "1,000 rows are missing, and for 600 of them Lago holds an event that no row explains and that could be "
            f"theirs (median {begins}"
        )
        assert cause in text
        assert sum(one in text for one in ("a clock is off", "CHARGE_BY", "times the row's", "Another proxy, or")) == 1


class TestDoubtOfASlice:
    """100 rows lost all their events; in the next slice 30 rows lie under another charge ID, at another cost."""

    HOUR = 3_600_000

    def frames(self, evening: int = 30) -> tuple[pd.DataFrame, pd.DataFrame]:
        morning = [row(f"m{i}", at=i * 1_000, spend=5.0 + i, subscription_id="b", charge_id="b") for i in range(100)]
        rows = [row(f"r{i}", at=20 * self.HOUR + i * 1_000, spend=0.25 + i) for i in range(evening)]
        return leftovers([*morning, *rows], of(rows, subscription_id="c", response_cost=99.0))

    def test_one_slice_is_reason_enough(self) -> None:
        missing, orphans = self.frames()
        assert doubt(missing, orphans, REACH) is None
        found = doubt(missing, orphans, REACH, self.HOUR)
        assert found is not None
        assert (found.rows, found.events) == (30, 30)
        assert dict(found.differing) == {"subscription": 30, "cost": 30}

    def test_what_differs_in_other_slices_is_not_told(self) -> None:
        morning = [row(f"m{i}", at=i * 1_000, spend=5.0 + i, subscription_id="b", charge_id="b") for i in range(100)]
        rows = [row(f"r{i}", at=20 * self.HOUR + i * 1_000, spend=0.25 + i) for i in range(30)]
        other_cost = of(morning[:1], 150_000, response_cost=999.0, model="alias")
        events = [event | {"transaction_id": f"o{i}"} for i, event in enumerate(other_cost)]
        missing, orphans = leftovers([*morning, *rows], [*events, *of(rows, 150_000, model="alias")])
        found = doubt(missing, orphans, REACH, self.HOUR)
        assert found is not None
        assert (found.rows, found.events, found.differing) == (30, 30, (("model", 30),))
        assert found.cost_ratio is None

    def test_of_twenty_rows_or_more(self) -> None:
        assert doubt(*self.frames(19), REACH, self.HOUR) is None
        assert doubt(*self.frames(20), REACH, self.HOUR) is not None

    def test_of_which_half_have_an_event(self) -> None:
        missing, orphans = self.frames(40)
        assert doubt(missing, orphans.iloc[:19], REACH, self.HOUR) is None
        assert doubt(missing, orphans.iloc[:20], REACH, self.HOUR) is not None


@pytest.mark.parametrize("contents", [1, 50, 100_000])
def test_a_hundred_thousand(contents: int) -> None:
    """Processor time, not the clock on the wall; generous, for it must only not be quadratic."""
    count = 100_000
    missing, orphans = leftovers([row()], [live(at=9_000)])
    times = np.sort(np.random.default_rng(0).integers(0, 86_400_000, count))
    spend = 1.0 + np.arange(count) % contents
    repeated = np.zeros(count, np.int64)
    rows = missing.iloc[repeated].assign(
        request_id=[f"r{i}" for i in range(count)], usage_ms=BASE + times, start_ms=BASE + times, spend=spend
    )
    events = orphans.iloc[repeated].assign(
        transaction_id=[f"e{i}" for i in range(count)], time_ms=BASE + times + 150_000, cost=spend
    )
    started = time.process_time()
    found = late_events(rows, events, REACH)
    assert (found >= 0).mean() > 0.9
    assert doubt(rows, events, REACH) is not None
    assert time.process_time() - started < 30

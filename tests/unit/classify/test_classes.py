"""Repeats, rows without an event, the house's own, and what is ambiguous: by cases small enough to check by hand."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pytest

from reconcile.classify import Rules

from .worlds import (
    BASE,
    CODE,
    NAN,
    NO_COST,
    NO_TOKENS,
    REACH,
    Record,
    classes,
    live,
    one,
    own,
    row,
    settle,
    settle_in_slices,
    told_events,
    told_rows,
)


class TestDuplicates:
    def test_a_second_live_event(self) -> None:
        settled = settle([row()], [live("e1"), live("e2", at=1)])
        assert classes(settled) == (
            {"r1": "matched_live"},
            {"e1": "matched_live", "e2": "duplicate: same_content"},
        )
        assert told_events(settled)[f"e2 a {BASE + 1}"]["row_request_id"] == "r1"
        assert told_events(settled)[f"e2 a {BASE + 1}"]["row_spend"] == 0.25

    @pytest.mark.parametrize("changes", [{}, {"response_cost": 0.3}, {"subscription_id": "b"}])
    def test_a_live_event_beside_the_rows_own_one(self, changes: Record) -> None:
        """Also where the own one has other values or another subscription: the row has its event."""
        r = row()
        assert one([r], [own(r, **changes), live()])[1][1] == "duplicate: same_content"

    def test_a_live_event_beside_one_for_another_charge_id(self) -> None:
        r = row()
        assert one([r], [own(r, "old"), live()])[1] == ["misdirected: other_charge_id", "duplicate: same_content"]

    def test_without_token_counts(self) -> None:
        r = row()
        assert one([r], [own(r), live(**NO_TOKENS)])[1][1] == "duplicate: same_content"

    def test_out_of_reach_it_is_an_orphan(self) -> None:
        r = row()
        assert one([r], [own(r), live(at=6)])[1][1] == "orphan: no_row"

    @pytest.mark.parametrize(
        "changes",
        [
            {"response_cost": 0.3},
            {"prompt_tokens": 11.0},
            {"completion_tokens": 5.0},
            {"total_tokens": 15.0},
            {"model": "other"},
            {"subscription_id": "b"},
        ],
    )
    def test_with_another_value_it_is_an_orphan(self, changes: Record) -> None:
        r = row()
        assert one([r], [own(r), live(**changes)])[1][1] == "orphan: no_row"

    def test_an_event_that_is_taken_for_a_row_names_that_row_and_not_an_excluded_one_that_it_equals(self) -> None:
        settled = settle([row("r1", spend=0.3), row("r2", status="failure")], [live()])
        assert classes(settled) == (
            {"r1": "mismatched: cost", "r2": "excluded: failure_with_spend"},
            {"e1": "mismatched: cost"},
        )
        assert told_events(settled)[f"e1 a {BASE}"]["row_request_id"] == "r1"

    def test_it_names_the_nearest_row(self) -> None:
        rows = [row("r1", at=0), row("r2", at=4)]
        events = [*map(own, rows), live("e", at=3)]
        assert told_events(settle(rows, events))[f"e a {BASE + 3}"]["row_request_id"] == "r2"
        sliced = told_events(*settle_in_slices(rows, events, [BASE + 4]))
        assert sliced[f"e a {BASE + 3}"]["row_request_id"] == "r2"

    def test_each_of_many_names_its_own_row(self) -> None:
        rows = [row(f"r{i}", spend=1.0 + i) for i in range(3)]
        repeats = [live(f"e{i}", at=1, response_cost=1.0 + i) for i in range(3)]
        told = told_events(settle(rows, [*map(own, rows), *repeats]))
        assert [told[f"e{i} a {BASE + 1}"]["row_request_id"] for i in range(3)] == ["r0", "r1", "r2"]

    @pytest.mark.parametrize(("at", "later"), [(1, 3), (2, 4)])
    def test_a_later_row_is_named_only_where_it_is_nearer(self, at: int, later: int) -> None:
        rows = [row("r1", at=0), row("r2", at=later)]
        told = told_events(settle(rows, [*map(own, rows), live("e", at=at)]))
        assert told[f"e a {BASE + at}"]["row_request_id"] == "r1"

    def test_of_two_rows_at_one_time_it_names_the_first_by_name(self) -> None:
        rows = [row("r2"), row("r1")]
        told = told_events(settle(rows, [*map(own, rows), live("e", at=3)]))
        assert told[f"e a {BASE + 3}"]["row_request_id"] == "r1"

    @pytest.mark.parametrize(
        "changes",
        [{"total_tokens": 15}, {"model": "openai/other", "model_group": ""}, {"spend": 0.3}, {"subscription_id": "b"}],
    )
    @pytest.mark.parametrize("by_id", [True, False])
    def test_a_repeat_is_not_another_rows_event(self, changes: Record, by_id: bool) -> None:
        """The callback fires twice for some calls: a call that lost both events is sent."""
        r = row("r1")
        of_rows, of_events = one([r, row("r2", **changes)], [own(r) if by_id else live("e1"), live("e2")])
        assert of_rows == ["matched" if by_id else "matched_live", "missing: not_sent"]
        assert sorted(of_events) == sorted(["duplicate: same_content", of_rows[0]])

    @pytest.mark.parametrize("horizon", range(-2, 14))
    def test_nor_does_it_keep_such_a_row_waiting(self, horizon: int) -> None:
        parts = settle_in_slices([row("r1"), row("r2", spend=0.3)], [live("e1"), live("e2")], [BASE + horizon])
        assert {name: r["class"] for name, r in told_rows(*parts).items()} == {"r1": "matched_live", "r2": "missing"}
        assert len(parts[0].rows) == (2 if horizon > 7 else 0)


class TestRowsWithoutAnEvent:
    @pytest.mark.parametrize(
        ("changes", "label"),
        [
            ({}, "missing: not_sent"),
            ({"spend": 0.0}, "missing: not_sent"),
            ({"status": ""}, "missing: not_sent"),
            ({"status": "success", "cache_hit": "True"}, "missing: not_sent"),
            ({"status": "failure", "spend": 0.0}, "excluded: failure"),
            ({"status": "failure", "spend": 0.1}, "excluded: failure_with_spend"),
            ({"status": "failure", "charge_id": "", "subscription_id": ""}, "excluded: failure_with_spend"),
            ({"charge_id": "", "subscription_id": ""}, "unattributed: no_charge_id"),
            ({"spend": NAN}, "rejected: invalid_spend"),
            ({"spend": math.inf}, "rejected: invalid_spend"),
            ({"spend": -math.inf}, "rejected: invalid_spend"),
            ({"spend": -1e-9}, "rejected: invalid_spend"),
            ({"spend": NAN, "charge_id": "", "subscription_id": ""}, "unattributed: no_charge_id"),
            ({"request_id": "é" * 1_000}, "missing: not_sent"),
            ({"request_id": "é" * 1_000 + "x"}, "rejected: id_too_long"),
        ],
    )
    def test_class(self, changes: Record, label: str) -> None:
        assert one([row(**changes)], []) == ([label], [])

    @pytest.mark.parametrize(
        ("exclude", "changes", "label"),
        [
            ("cache_hit", {"cache_hit": "True"}, "excluded: cache_hit"),
            ("cache_hit", {"cache_hit": "true"}, "excluded: cache_hit"),
            ("cache_hit", {"cache_hit": "False"}, "missing: not_sent"),
            ("cache_hit", {"cache_hit": "None"}, "missing: not_sent"),
            ("cache_hit", {"cache_hit": ""}, "missing: not_sent"),
            ("zero_cost", {"spend": 0.0}, "excluded: zero_cost"),
            ("zero_cost", {"spend": -0.0}, "excluded: zero_cost"),
            ("zero_cost", {"spend": 1e-12}, "missing: not_sent"),
            ("zero_cost", {"spend": NAN}, "rejected: invalid_spend"),
            ("zero_cost", {"cache_hit": "True"}, "missing: not_sent"),
            ("zero_cost", {"spend": 0.0, "status": "failure"}, "excluded: failure"),
        ],
    )
    def test_excluded_by_a_setting(self, exclude: str, changes: Record, label: str) -> None:
        assert one([row(**changes)], [], Rules(CODE, REACH, exclude=(exclude,))) == ([label], [])

    @pytest.mark.parametrize("changes", [{"status": "failure"}, {"charge_id": "", "subscription_id": ""}])
    def test_such_a_row_takes_no_live_event(self, changes: Record) -> None:
        assert one([row("r1", **changes), row("r2")], [live()])[0][1] == "matched_live"

    def test_an_event_for_an_excluded_row_is_an_orphan_that_names_it(self) -> None:
        settled = settle([row(status="failure")], [live()])
        assert classes(settled)[1] == {"e1": "orphan: excluded_row"}
        assert told_events(settled)[f"e1 a {BASE}"]["row_request_id"] == "r1"

    def test_a_row_that_has_its_event_explains_it_better(self) -> None:
        settled = settle([row("r1", status="failure"), row("r2", at=1)], [live("e1"), live("e2")])
        assert sorted(classes(settled)[1].values()) == ["duplicate: same_content", "matched_live"]

    @pytest.mark.parametrize("spend", [NAN, math.inf, -math.inf, -1.0])
    @pytest.mark.parametrize("cost", [0.25, -1.0, 0.0, NAN])
    def test_an_invalid_spend_with_an_event_is_a_mismatch(self, spend: float, cost: float) -> None:
        r = row(spend=spend)
        label = "mismatched: invalid_spend"
        assert one([r], [own(r, response_cost=cost)]) == ([label], [label])
        assert one([r], [live(response_cost=cost)]) == ([label], [label])

    def test_rows_that_take_something_off_the_bill(self) -> None:
        """Equal doubles are equal content: each row has its own event."""
        rows = [row("r1", spend=-0.847665, total_tokens=1), row("r2", spend=-1.47693, total_tokens=1)]
        events = [
            live("e1", response_cost=-1.47693, total_tokens=1.0),
            live("e2", response_cost=-0.847665, total_tokens=1.0),
        ]
        settled = settle(rows, events)
        assert {r["event_id"] for r in told_rows(settled).values()} == {"e1", "e2"}
        assert told_rows(settled)["r1"]["event_id"] == "e2"
        assert set(classes(settled)[0].values()) == {"mismatched: invalid_spend"}

    @pytest.mark.parametrize("call_type", ["aget_responses", "afile_retrieve", "acreate_batch"])
    def test_a_look_that_cost_nothing(self, call_type: str) -> None:
        r = row(call_type=call_type, spend=0.0)
        assert one([r], []) == (["excluded: retrieval"], [])
        assert one([r | {"spend": -0.0}], []) == (["excluded: retrieval"], [])
        assert one([r | {"spend": 1e-9}], []) == (["missing: not_sent"], [])
        assert one([r], [live(response_cost=0.0, model="", **NO_TOKENS)])[0] == ["matched_live"]
        assert one([r], [live(response_cost=0.1)])[0] == ["mismatched: cost"]
        assert one([r], [live(response_cost=0.0, subscription_id="b")])[0] == ["misdirected: other_subscription"]
        assert one([r | {"earlier_id": "llm_" + "0" * 32, "earlier_sure": True}], [])[0] == [
            "misdirected: other_charge_id"
        ]

    @pytest.mark.parametrize("call_type", ["aretrieve_batch", "acompletion", ""])
    def test_other_calls_that_cost_nothing_are_sent(self, call_type: str) -> None:
        assert one([row(call_type=call_type, spend=0.0)], [])[0] == ["missing: not_sent"]

    def test_the_scope_is_carried_through(self) -> None:
        rows = [row("r1", scope="late"), row("r2", at=100, scope="context")]
        told = told_rows(settle(rows, [live("e1", at=1), live("e2", at=1)]))
        assert {name: r["scope"] for name, r in told.items()} == {"r1": "late", "r2": "context"}
        told = told_events(settle(rows, [live("e1", at=1), live("e2", at=1), live("e3", at=50)]))
        assert [told[f"{name} a {BASE + at}"]["row_scope"] for name, at in (("e1", 1), ("e2", 1), ("e3", 50))] == [
            "late",
            "late",
            "",
        ]


class TestOwn:
    """Charge IDs of the house itself."""

    HOUSE = Rules(CODE, REACH, own_ids=frozenset({"house", "health"}))
    IDS: ClassVar[Record] = {"charge_id": "house", "subscription_id": "house"}

    @pytest.mark.parametrize(
        "changes",
        [{}, {"status": "failure"}, {"spend": NAN}, {"spend": 0.0, "cache_hit": "True"}, {"earlier_sure": True}],
    )
    def test_their_rows_and_events(self, changes: Record) -> None:
        assert one([row(**self.IDS, **changes)], [live(**self.IDS)], self.HOUSE) == (["excluded: own"], ["own"])

    def test_without_such_ids_they_are_like_others(self) -> None:
        assert one([row(**self.IDS)], [live(**self.IDS)]) == (["matched_live"], ["matched_live"])

    def test_an_event_that_says_nothing_is_theirs_all_the_same(self) -> None:
        assert one([], [live(model="", **self.IDS, **NO_COST, **NO_TOKENS)], self.HOUSE)[1] == ["own"]

    def test_a_customer_of_the_house(self) -> None:
        event = live(subscription_id="sub-1", charge_id="house")
        assert one([row(charge_id="house", subscription_id="sub-1")], [event], self.HOUSE) == (
            ["excluded: own"],
            ["own"],
        )

    @pytest.mark.parametrize("changes", [{}, {"response_cost": 0.3}])
    def test_their_events_are_no_evidence(self, changes: Record) -> None:
        assert one([row()], [live(**self.IDS, **changes)], self.HOUSE) == (["missing: not_sent"], ["own"])

    def test_an_event_of_ours_for_them(self) -> None:
        r = row(**self.IDS)
        assert one([r], [own(r)], self.HOUSE) == (["excluded: own"], ["own"])

    def test_one_that_no_row_explains_is_no_evidence_either(self) -> None:
        stray = live("llm_" + "5" * 32, **self.IDS)
        assert one([row()], [stray], self.HOUSE) == (["missing: not_sent"], ["own"])

    def test_a_request_that_was_the_houses_is_never_sent_again(self) -> None:
        label = "misdirected: other_charge_id"
        assert one([row()], [own(row(), "house")], self.HOUSE) == ([label], [label])

    def test_without_a_subscription_it_is_an_orphan(self) -> None:
        event = live(subscription_id="", charge_id="house")
        assert one([], [event], self.HOUSE)[1] == ["orphan: no_subscription_id"]


class TestAmbiguous:
    def names(self, rows: list[Record], events: list[Record]) -> list[str]:
        return [name for name, r in told_rows(settle(rows, events)).items() if r["ambiguous"]]

    def test_twins_of_which_one_has_no_event_are_both_counted(self) -> None:
        assert self.names([row("r1"), row("r2", at=1)], [live()]) == ["r1", "r2"]

    def test_twins_that_both_have_one_are_not(self) -> None:
        assert self.names([row("r1"), row("r2", at=1)], [live("e1"), live("e2")]) == []

    def test_twins_that_both_have_none_are_not(self) -> None:
        assert self.names([row("r1"), row("r2", at=1)], []) == []

    def test_within_before_and_after_of_one_another(self) -> None:
        assert self.names([row("r1"), row("r2", at=7)], [live()]) == ["r1", "r2"]
        assert self.names([row("r1"), row("r2", at=8)], [live()]) == []

    @pytest.mark.parametrize("horizon", range(9))
    def test_in_any_slicing(self, horizon: int) -> None:
        parts = settle_in_slices([row("r1"), row("r2", at=7)], [live()], [BASE + horizon])
        assert [r["ambiguous"] for r in told_rows(*parts).values()] == [True, True]

    def test_the_name_decides_between_rows_of_one_time(self) -> None:
        """Not the order of the input."""
        one_way, other_way = (told_rows(settle([row(name) for name in names], [live()])) for names in ("ab", "ba"))
        assert one_way == other_way
        assert sorted(r["class"] for r in one_way.values()) == ["matched_live", "missing"]

    def test_all_rows_of_a_chain_are_counted(self) -> None:
        rows = [row(f"r{i}", at=7 * i) for i in range(4)]
        assert self.names(rows, [live()]) == ["r0", "r1", "r2", "r3"]

    @pytest.mark.parametrize(
        "changes", [{"spend": 0.3}, {"total_tokens": 15}, {"subscription_id": "b"}, {"model": "openai/other"}]
    )
    def test_rows_of_other_content_are_told_apart(self, changes: dict[str, Any]) -> None:
        other = row("r2", model_group="", **changes)
        assert self.names([row("r1", model_group=""), other], [live()]) == []

    def test_rows_that_are_matched_by_id_are_told_apart(self) -> None:
        r = row("r1")
        assert self.names([r, row("r2")], [own(r)]) == []


def test_nothing_at_all() -> None:
    settled = settle([], [])
    assert (len(settled.rows), len(settled.events)) == (0, 0)


@pytest.mark.parametrize("event", [live(), live(**NO_TOKENS), own(row()), live(subscription_id="")])
def test_events_without_any_row(event: Record) -> None:
    of_events = classes(settle([], [event]))[1]
    assert next(iter(of_events.values())).startswith("orphan")


def test_an_event_per_row_leaves_nothing_missing() -> None:
    rows = [row(f"r{i}", at=i // 3, total_tokens=14 + i % 2) for i in range(300)]
    events = [
        live(f"e{i}", at=i // 3 + (i * 7) % 6, total_tokens=NAN if i % 5 == 0 else float(14 + i % 2))
        for i in range(300)
    ]
    of_rows, of_events = classes(settle(rows, events))
    assert set(of_rows.values()) == {"matched_live"}
    assert set(of_events.values()) == {"matched_live"}

"""Every class of rows and events, each by a case small enough to check by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from reconcile.classify import Reach, Rules

from .worlds import (
    BASE,
    CODE,
    NO_TOKENS,
    NULL_COST,
    REACH,
    RULES,
    Record,
    classes,
    live,
    own,
    row,
    settle,
    settle_in_slices,
    told_events,
    told_rows,
)

CLICKHOUSE = Rules(CODE, REACH, clickhouse=True)
NAN = math.nan


def one(rows: list[Record], events: list[Record], rules: Rules = RULES) -> tuple[list[str], list[str]]:
    """Classes of the rows and of the events, in the order given."""
    of_rows, of_events = classes(settle(rows, events, rules))
    return [of_rows[r["request_id"]] for r in rows], [of_events[e["transaction_id"]] for e in events]


class TestById:
    def test_matched(self) -> None:
        r = row()
        assert one([r], [own(r)]) == (["matched"], ["matched"])

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"response_cost": 0.26}, "cost"),
            ({"response_cost": 0.25 * (1 + 2e-9)}, "cost"),
            ({"response_cost": NAN, "malformed": True}, "cost"),
            (NULL_COST, "cost"),
            ({"prompt_tokens": 11.0}, "tokens"),
            ({"completion_tokens": 5.0}, "tokens"),
            ({"total_tokens": 15.0}, "tokens"),
            ({"total_tokens": NAN, "malformed": True}, "tokens"),
            ({"model": "gpt-4o-mini"}, "model"),
            ({"time_ms": BASE - 2}, "timestamp"),
            ({"time_ms": BASE + 2}, "timestamp"),
        ],
    )
    def test_mismatched(self, changes: Record, reason: str) -> None:
        r = row()
        assert one([r], [own(r, **changes)]) == ([f"mismatched: {reason}"], [f"mismatched: {reason}"])

    @pytest.mark.parametrize(
        "changes",
        [
            {"response_cost": 0.25 * (1 + 5e-10)},
            NO_TOKENS,
            {"total_tokens": NAN},
            {"model": ""},
            {"model": "chat"},  # the row's model_group
            {"response_cost": NAN, "model": "", **NO_TOKENS},
            {"request_id": ""},
            {"time_ms": BASE - 1},  # Lago before 1.48 kept floats
        ],
    )
    def test_only_what_the_event_carries_is_compared(self, changes: Record) -> None:
        r = row()
        assert one([r], [own(r, **changes)]) == (["matched"], ["matched"])

    def test_a_null_cost_is_zero(self) -> None:
        r = row(spend=0.0)
        assert one([r], [own(r, **NULL_COST)]) == (["matched"], ["matched"])

    def test_misdirected_under_its_own_id(self) -> None:
        r = row()
        label = "misdirected: other_subscription"
        assert one([r], [own(r, subscription_id="b")]) == ([label], [label])

    def test_a_customers_subscription_that_is_not_known_is_not_another_one(self) -> None:
        r = row(subscription_id="")
        assert one([r], [own(r, subscription_id="b")]) == (["matched"], ["matched"])

    def test_the_same_id_on_two_subscriptions(self) -> None:
        r = row()
        settled = settle([r], [own(r, subscription_id="b"), own(r)])
        assert told_rows(settled)["r1"]["class"] == "matched"
        told = {e["subscription_id"]: (e["class"], e["reason"]) for e in told_events(settled).values()}
        assert told == {"a": ("matched", ""), "b": ("duplicate", "same_id")}

    def test_earlier_under_another_charge_id_as_the_event_tells(self) -> None:
        r = row()
        label = "misdirected: other_charge_id"
        assert one([r], [own(r, "old")]) == ([label], [label])

    def test_earlier_for_another_customer_as_the_event_tells(self) -> None:
        r = row(charge_id="customer", subscription_id="sub")
        label = "misdirected: other_charge_id"
        assert one([r], [own(r, "old-customer", subscription_id="old-sub")]) == ([label], [label])

    def test_earlier_under_another_charge_id_as_the_ledger_tells(self) -> None:
        before = own(row(), "old", request_id="", **NO_TOKENS)
        r = row(earlier_id=before["transaction_id"], earlier_sure=True)
        label = "misdirected: other_charge_id"
        assert one([r], [before]) == ([label], [label])

    def test_the_ledgers_word_counts_where_lago_shows_nothing(self) -> None:
        r = row(earlier_id="llm_" + "0" * 32, earlier_sure=True)
        assert one([r], []) == (["misdirected: other_charge_id"], [])

    def test_a_delivery_that_nobody_saw_arrive_is_no_evidence(self) -> None:
        r = row(earlier_id="llm_" + "0" * 32, earlier_sure=False)
        assert one([r], []) == (["missing: not_sent"], [])

    def test_both_under_its_own_and_under_another_charge_id(self) -> None:
        r = row()
        assert one([r], [own(r, "old"), own(r)]) == (["matched"], ["duplicate: same_content", "matched"])

    def test_under_two_other_charge_ids(self) -> None:
        r = row()
        expected = ["misdirected: other_charge_id", "duplicate: same_content"]
        events = sorted((own(r, "old"), own(r, "older")), key=lambda event: event["transaction_id"])
        assert one([r], events) == (expected[:1], expected)

    def test_an_id_comes_before_content(self) -> None:
        r, other = row(), row("r2")
        rows, events = one([r, other], [own(r), live()])
        assert (rows, events) == (["matched", "matched_live"], ["matched", "matched_live"])

    def test_another_rows_own_event_is_no_evidence(self) -> None:
        r, gone = row(), row("gone")
        assert one([r], [own(gone)]) == (["missing: not_sent"], ["orphan: no_row"])

    def test_another_codes_id_is_not_this_codes(self) -> None:
        r = row()
        assert one([r], [own(r)], Rules("other_code", REACH)) == (["missing: not_sent"], ["orphan: no_row"])

    def test_another_start_is_another_request(self) -> None:
        r = row()
        assert one([r | {"start_ms": r["start_ms"] + 1}], [own(r)])[0] == ["missing: not_sent"]

    def test_an_own_event_far_too_late_is_nobodys(self) -> None:
        r = row()
        late = own(r, time_ms=BASE + REACH.after + 1)
        assert one([r], [late]) == (["missing: not_sent"], ["orphan: no_row"])


class TestOnClickHouse:
    def test_the_same_id_at_another_millisecond_is_a_duplicate(self) -> None:
        r = row()
        settled = settle([r], [own(r, time_ms=BASE - 500), own(r), own(r, time_ms=BASE + 86_400_000)], CLICKHOUSE)
        told = {e["time_ms"] - BASE: (e["class"], e["reason"]) for e in told_events(settled).values()}
        assert told == {
            -500: ("duplicate", "same_id"),
            0: ("matched", ""),
            86_400_000: ("duplicate", "same_id"),
        }
        assert told_rows(settled)["r1"]["class"] == "matched"

    def test_exact_copies_are_one_event(self) -> None:
        r = row()
        settled = settle([r], [own(r), own(r), own(r)], CLICKHOUSE)
        assert len(settled.events) == 1
        assert classes(settled)[0] == {"r1": "matched"}

    def test_copies_of_a_live_event_are_one_event(self) -> None:
        settled = settle([row(), row("r2")], [live(), live()], CLICKHOUSE)
        assert len(settled.events) == 1
        assert sorted(classes(settled)[0].values()) == ["matched_live", "missing: not_sent"]

    def test_the_first_listed_copy_is_the_latest_and_counts(self) -> None:
        r = row()
        assert classes(settle([r], [own(r), own(r, response_cost=9.0)], CLICKHOUSE))[0] == {"r1": "matched"}


class TestLive:
    def test_matched(self) -> None:
        assert one([row()], [live()]) == (["matched_live"], ["matched_live"])

    @pytest.mark.parametrize(
        ("of_row", "of_event"),
        [
            ({"spend": 0.0}, NULL_COST),
            ({}, NO_TOKENS),
            ({}, {"completion_tokens": NAN}),
            ({}, {"model": "chat"}),
            ({"model": "gpt-4o", "provider": ""}, {}),
            ({"provider": ""}, {}),  # the prefix may be a provider's where the row names none
            (
                {"model": "hosted_vllm/meta-llama/Llama-3-8b", "provider": "hosted_vllm"},
                {"model": "meta-llama/Llama-3-8b"},
            ),
            ({"spend": 0.25 * (1 + 9e-10)}, {}),
            ({"status": ""}, {}),  # releases before 1.70 wrote none
            ({"cache_hit": "True", "spend": 0.0}, {"response_cost": 0.0}),
            ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, NO_TOKENS),  # an image
        ],
    )
    def test_equal_content(self, of_row: Record, of_event: Record) -> None:
        assert one([row(**of_row)], [live(**of_event)]) == (["matched_live"], ["matched_live"])

    def test_a_cost_between_two_others_makes_them_no_more_equal(self) -> None:
        between = live("e2", at=100_000, response_cost=1.0 + 6e-10)
        assert one([row(spend=1.0)], [live(response_cost=1.0 + 1.2e-9), between])[0] == ["mismatched: cost"]
        assert one([row(spend=1.0)], [live(response_cost=1.0 + 6e-10), between])[0] == ["matched_live"]

    @pytest.mark.parametrize(
        ("at", "label"),
        [(-3, "missing: not_sent"), (-2, "matched_live"), (5, "matched_live"), (6, "missing: not_sent")],
    )
    def test_reach(self, at: int, label: str) -> None:
        assert one([row()], [live(at=at)])[0] == [label]

    def test_just_out_of_reach_both_sides_are_left(self) -> None:
        assert one([row()], [live(at=6)]) == (["missing: not_sent"], ["orphan: no_row"])

    def test_the_reach_of_the_default_rules(self) -> None:
        rules = Rules(CODE)
        assert rules.reach == Reach(before=30_000, after=120_000)
        assert one([row()], [live(at=120_000)], rules)[0] == ["matched_live"]
        assert one([row()], [live(at=-30_001)], rules)[0] == ["missing: not_sent"]

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"response_cost": 0.3}, "cost"),  # a guardrail's cost is in the row alone
            ({"response_cost": 0.25 * (1 + 2e-9)}, "cost"),
            (NULL_COST, "cost"),
            ({"response_cost": NAN, "malformed": True}, "cost"),
            ({"prompt_tokens": 11.0}, "tokens"),
            ({"prompt_tokens": 11.0, "completion_tokens": 1.0, "total_tokens": 12.0}, "tokens"),
            ({"total_tokens": NAN, "malformed": True}, "tokens"),
            ({"model": "other"}, "model"),
            ({"model": "openai/gpt-4o"}, "model"),
        ],
    )
    def test_mismatched_in_just_one_value(self, changes: Record, reason: str) -> None:
        label = f"mismatched: {reason}"
        assert one([row()], [live(**changes)]) == ([label], [label])

    @pytest.mark.parametrize(
        "changes",
        [
            {"response_cost": 0.3, "model": "other"},
            {"response_cost": 0.3, "total_tokens": 15.0},
            {"model": "other", "total_tokens": 15.0},
            {"response_cost": 0.3, "subscription_id": "b"},
            {"total_tokens": 15.0, "subscription_id": "b"},
            {"model": "other", "subscription_id": "b"},
        ],
    )
    def test_two_values_off_are_missing_and_orphan(self, changes: Record) -> None:
        assert one([row()], [live(**changes)]) == (["missing: not_sent"], ["orphan: no_row"])

    @pytest.mark.parametrize("changes", [{"response_cost": 0.3}, {"subscription_id": "b"}, {"model": "other"}])
    def test_near_in_time_is_within_reach(self, changes: Record) -> None:
        assert one([row()], [live(at=5, **changes)])[0] != ["missing: not_sent"]
        assert one([row()], [live(at=6, **changes)]) == (["missing: not_sent"], ["orphan: no_row"])
        assert one([row()], [live(at=-3, **changes)]) == (["missing: not_sent"], ["orphan: no_row"])

    def test_what_is_no_amount_on_either_side_is_not_equal(self) -> None:
        rows, events = one([row(spend=NAN)], [live(response_cost=NAN, malformed=True)])
        assert (rows, events) == (["mismatched: cost"], ["mismatched: cost"])

    def test_misdirected(self) -> None:
        label = "misdirected: other_subscription"
        assert one([row()], [live(subscription_id="b")]) == ([label], [label])

    @pytest.mark.parametrize("changes", [{}, {"response_cost": 0.3}, {"model": "other"}])
    def test_an_event_without_a_subscription_is_never_evidence(self, changes: Record) -> None:
        stray = live(subscription_id="", charge_id="", **changes)
        assert one([row()], [stray]) == (["missing: not_sent"], ["orphan: no_subscription_id"])

    def test_an_own_event_without_a_subscription_is_no_evidence_either(self) -> None:
        r = row()
        assert one([r], [own(r, subscription_id="")]) == (["missing: not_sent"], ["orphan: no_subscription_id"])

    @pytest.mark.parametrize("changes", [{"model": ""}, {"response_cost": NAN}])
    def test_an_event_that_tells_no_model_or_no_cost_is_an_orphan(self, changes: Record) -> None:
        assert one([row()], [live(**changes)]) == (["missing: not_sent"], ["orphan: no_row"])

    def test_events_that_tell_more_are_paired_first(self) -> None:
        rows = [row("r1"), row("r2", prompt_tokens=99, total_tokens=103)]
        bare, full = live("bare", **NO_TOKENS), live("full")
        told = told_rows(settle(rows, [bare, full]))
        assert {name: r["event_id"] for name, r in told.items()} == {"r1": "full", "r2": "bare"}

    def test_a_choice_that_would_strand_another_row_is_turned_over(self) -> None:
        # e1 equals both rows, e2 only r1 by its time: nearest first would leave r2 and e2 alone.
        rows = [row("r1", at=0), row("r2", at=4)]
        told = told_rows(settle(rows, [live("e1", at=5, **NO_TOKENS), live("e2", at=-2, **NO_TOKENS)]))
        assert {name: r["event_id"] for name, r in told.items()} == {"r1": "e2", "r2": "e1"}

    def test_an_alternating_path_through_rows_of_other_content(self) -> None:
        # By its counts `full` equals r1 alone; `bare` must give r1 up and take r2 of other counts.
        rows = [row("r1", at=0), row("r2", at=0, prompt_tokens=1, total_tokens=5)]
        events = [live("bare", at=0, **NO_TOKENS), live("part", at=1, completion_tokens=NAN, total_tokens=NAN)]
        told = told_rows(settle(rows, events))
        assert {name: r["event_id"] for name, r in told.items()} == {"r1": "part", "r2": "bare"}

    def test_the_row_whose_event_is_lost_is_the_one_left_over(self) -> None:
        rows = [row(f"r{i}", at=4 * i) for i in range(5)]
        events = [live(f"e{i}", at=4 * i) for i in range(5) if i != 2]
        told = classes(settle(rows, events))[0]
        assert [name for name, label in told.items() if label != "matched_live"] == ["r2"]


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

    def test_with_another_cost_it_is_an_orphan(self) -> None:
        r = row()
        assert one([r], [own(r), live(response_cost=0.3)])[1][1] == "orphan: no_row"

    def test_it_names_the_nearest_row(self) -> None:
        rows = [row("r1", at=0), row("r2", at=4)]
        events = [*map(own, rows), live("e", at=3)]
        assert told_events(settle(rows, events))[f"e a {BASE + 3}"]["row_request_id"] == "r2"
        sliced = told_events(*settle_in_slices(rows, events, [BASE + 4]))
        assert sliced[f"e a {BASE + 3}"]["row_request_id"] == "r2"

    def test_of_two_rows_at_one_time_it_names_the_first_by_name(self) -> None:
        rows = [row("r2"), row("r1")]
        told = told_events(settle(rows, [*map(own, rows), live("e", at=3)]))
        assert told[f"e a {BASE + 3}"]["row_request_id"] == "r1"

    def test_a_duplicate_is_not_another_rows_event_with_other_tokens_or_model(self) -> None:
        rows = [row("r1"), row("r2", total_tokens=15), row("r3", model="openai/other", model_group="")]
        of_rows, of_events = one(rows, [live("e1"), live("e2")])
        assert of_rows == ["matched_live", "missing: not_sent", "missing: not_sent"]
        assert sorted(of_events) == ["duplicate: same_content", "matched_live"]

    def test_but_it_is_the_event_of_a_row_whose_cost_alone_differs(self) -> None:
        """A guardrail's cost stands in the row alone: two equal calls, one of them guarded."""
        of_rows, of_events = one([row("r1"), row("r2", spend=0.3)], [live("e1"), live("e2")])
        assert of_rows == ["matched_live", "mismatched: cost"]
        assert sorted(of_events) == ["matched_live", "mismatched: cost"]


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

    @pytest.mark.parametrize("spend", [NAN, math.inf, -1.0])
    def test_an_invalid_spend_with_an_event_is_a_mismatch(self, spend: float) -> None:
        r = row(spend=spend)
        assert one([r], [own(r, response_cost=0.25)])[0] == ["mismatched: cost"]
        assert one([r], [live()])[0] == ["mismatched: cost"]


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

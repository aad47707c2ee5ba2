"""Every class of rows and events, each by a case small enough to check by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from reconcile.classify import Reach, Rules, Settled, without_copies

from .worlds import (
    BASE,
    CODE,
    NO_COST,
    NO_TOKENS,
    NOT_COUNTED,
    NULL_COST,
    REACH,
    RULES,
    Record,
    classes,
    events_frame,
    live,
    own,
    row,
    settle,
    settle_in_slices,
    told_events,
    told_rows,
)

CLICKHOUSE = Rules(CODE, REACH, clickhouse=True)
ONE_COPY = Rules(CODE, REACH, clickhouse=True, copies="one")
NAN = math.nan


def classes_of(settled: Settled) -> list[str]:
    """Classes of the events in the order in which they came out."""
    told = zip(settled.events["class"], settled.events["reason"], strict=True)
    return [f"{name}: {reason}" if reason else name for name, reason in told]


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

    def test_another_rows_own_event_is_that_rows(self) -> None:
        r, other = row(), row("other", at=1)
        assert one([r, other], [own(other)]) == (["missing: not_sent", "matched"], ["matched"])

    def test_another_codes_id_is_not_this_codes(self) -> None:
        r = row()
        assert one([r], [own(r)], Rules("other_code", REACH)) == (["matched_live"], ["matched_live"])

    def test_another_start_is_another_request(self) -> None:
        r = row()
        assert one([r | {"start_ms": r["start_ms"] + 1}], [own(r)])[0] == ["matched_live"]

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

    def test_an_event_a_millisecond_early_is_the_one_that_was_sent(self) -> None:
        r = row()
        settled = settle([r], [own(r, time_ms=BASE - 1), own(r, time_ms=BASE + 9)], CLICKHOUSE)
        told = {e["time_ms"] - BASE: (e["class"], e["reason"]) for e in told_events(settled).values()}
        assert told == {-1: ("matched", ""), 9: ("duplicate", "same_id")}

    @pytest.mark.parametrize("made", [live, lambda: own(row())])
    def test_every_further_copy_is_a_duplicate_of_its_row(self, made: Callable[[], Record]) -> None:
        settled = settle([row()], [made(), made(), made()], CLICKHOUSE)
        first = classes_of(settled)
        assert sorted(first) == ["duplicate: copy", "duplicate: copy", first[0]]
        assert first[0] in ("matched", "matched_live")
        assert set(settled.events["row_request_id"]) == {"r1"}
        assert set(settled.events["row_start_ms"]) == {BASE - 1_000}
        assert set(settled.events["row_spend"]) == {0.25}
        assert set(settled.events["row_scope"]) == {"window"}
        assert set(settled.events["live"]) == {made is live}

    def test_a_copy_is_no_evidence_for_another_row(self) -> None:
        settled = settle([row(), row("r2")], [live(), live()], CLICKHOUSE)
        assert sorted(r["class"] for r in told_rows(settled).values()) == ["matched_live", "missing"]

    def test_a_copy_of_a_repeat_names_the_row_too(self) -> None:
        r = row()
        settled = settle([r], [own(r), live(), live()], CLICKHOUSE)
        assert classes_of(settled) == ["matched", "duplicate: same_content", "duplicate: copy"]
        assert set(settled.events["row_request_id"]) == {"r1"}

    @pytest.mark.parametrize("horizon", [-20, 3, 7, 8, 30])
    def test_a_copy_is_settled_with_the_event_that_it_copies(self, horizon: int) -> None:
        parts = settle_in_slices([row()], [live(at=2), live(at=2)], [BASE + horizon], CLICKHOUSE)
        assert sorted(label for part in parts for label in classes_of(part)) == ["duplicate: copy", "matched_live"]
        assert [len(part.events) for part in parts] in ([2, 0], [0, 2])

    def test_a_copy_of_an_orphan_is_a_duplicate_of_no_row(self) -> None:
        settled = settle([], [live(), live()], CLICKHOUSE)
        assert classes_of(settled) == ["orphan: no_row", "duplicate: copy"]
        assert set(settled.events["row_request_id"]) == {""}

    @pytest.mark.parametrize(
        ("changes", "label"),
        [
            ({"subscription_id": "", "charge_id": ""}, "orphan: no_subscription_id"),
            ({"subscription_id": "house", "charge_id": "house"}, "own"),
        ],
    )
    def test_copies_that_bill_nobody_are_as_their_first(self, changes: Record, label: str) -> None:
        rules = Rules(CODE, REACH, clickhouse=True, own_ids=frozenset({"house"}))
        assert classes_of(settle([], [live(**changes), live(**changes)], rules)) == [label, label]

    def test_one_id_at_two_times_or_on_two_subscriptions_is_no_copy(self) -> None:
        events = [live("e"), live("e", at=100), live("e", subscription_id="b")]
        assert sorted(classes_of(settle([], events, CLICKHOUSE))) == ["orphan: no_row"] * 3

    def test_where_copies_are_one_event(self) -> None:
        r = row()
        settled = settle([r], [own(r), own(r), own(r)], ONE_COPY)
        assert classes_of(settled) == ["matched"]
        settled = settle([row(), row("r2")], [live(), live()], ONE_COPY)
        assert classes_of(settled) == ["matched_live"]
        assert sorted(classes(settled)[0].values()) == ["matched_live", "missing: not_sent"]

    def test_what_was_left_out_can_be_counted(self) -> None:
        events = events_frame([live("e"), live("f"), live("e"), live("e", at=1), live("e", subscription_id="b")])
        assert len(without_copies(events)) == 4
        assert without_copies(events)["transaction_id"].tolist() == ["e", "f", "e", "e"]

    @pytest.mark.parametrize("rules", [CLICKHOUSE, ONE_COPY])
    def test_the_first_listed_copy_is_the_latest_and_counts(self, rules: Rules) -> None:
        r = row()
        settled = settle([r], [own(r), own(r, response_cost=9.0)], rules)
        assert told_rows(settled)["r1"]["class"] == "matched"
        assert settled.events["cost"].tolist()[:1] == [0.25]

    def test_on_the_postgres_store_nothing_is_a_copy(self) -> None:
        assert sorted(classes_of(settle([row(), row("r2")], [live(), live()]))) == ["matched_live", "matched_live"]


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
        assert (rows, events) == (["mismatched: invalid_spend"], ["mismatched: invalid_spend"])

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

    @pytest.mark.parametrize(
        ("of_row", "of_event"),
        [
            ({}, {"model": ""}),
            ({}, NO_COST),
            ({}, {"model": "", **NO_TOKENS}),  # a look at a batch
            ({}, {"model": "", **NO_COST}),
            ({}, NO_COST | NO_TOKENS),
            ({"model": ""}, {}),
            ({"model": "", "model_group": ""}, {"model": "anything"}),
            ({"model": ""}, {"model": "", **NO_TOKENS}),
            ({"spend": NAN}, NO_COST | {"model": ""}),
        ],
    )
    def test_what_is_missing_says_nothing(self, of_row: Record, of_event: Record) -> None:
        label = "mismatched: invalid_spend" if "spend" in of_row else "matched_live"
        assert one([row(**of_row)], [live(**of_event)]) == ([label], [label])

    @pytest.mark.parametrize(
        ("of_row", "of_event"),
        [
            ({}, {"model": "", **NO_COST, **NO_TOKENS}),
            ({"model": ""}, NO_COST | NO_TOKENS),
            ({}, {"model": "", "response_cost": 0.3, **NO_TOKENS}),  # one value off, and no other to be equal
            ({"model": ""}, {"response_cost": 0.3, **NO_TOKENS}),
        ],
    )
    def test_what_says_nothing_in_common_is_no_evidence(self, of_row: Record, of_event: Record) -> None:
        assert one([row(**of_row)], [live(**of_event)]) == (["missing: not_sent"], ["orphan: no_row"])

    @pytest.mark.parametrize(
        ("of_row", "of_event", "label"),
        [
            ({}, {"model": "", **NO_TOKENS}, "misdirected: other_subscription"),
            ({}, {"model": ""}, "misdirected: other_subscription"),
            ({}, NO_COST, "misdirected: other_subscription"),
            ({"model": ""}, {}, "misdirected: other_subscription"),
            ({"spend": 0.0}, {"model": "", "response_cost": 0.0, **NO_TOKENS}, "missing: not_sent"),
            ({}, NO_COST | NO_TOKENS, "missing: not_sent"),
            ({}, NO_COST | {"model": ""}, "missing: not_sent"),
        ],
    )
    def test_on_another_subscription_it_must_say_more(self, of_row: Record, of_event: Record, label: str) -> None:
        """Two values, or a cost that is not 0: there are many events of a model, or of no cost."""
        assert one([row(**of_row)], [live(subscription_id="b", **of_event)])[0] == [label]

    @pytest.mark.parametrize(
        ("model", "provider", "sent"),
        [
            ("openai/responses/gpt-4o", "openai", "gpt-4o"),
            ("azure/responses/gpt-4o", "azure", "gpt-4o"),
            ("openai/responses/gpt-4o", "openai", "responses/gpt-4o"),  # as 0.1 sent it
            ("openai/responses/gpt-4o", "", "gpt-4o"),
        ],
    )
    def test_a_deployment_that_is_bridged_to_the_responses_api(self, model: str, provider: str, sent: str) -> None:
        r = row(model=model, provider=provider)
        assert one([r], [live(model=sent)]) == (["matched_live"], ["matched_live"])
        assert one([r], [own(r, model=sent)]) == (["matched"], ["matched"])

    def test_an_event_without_a_model_goes_to_the_look_that_it_is_of(self) -> None:
        rows = [row("r1", spend=0.0), row("r2", spend=0.0, call_type="aget_responses")]
        bare = live(model="", response_cost=0.0, **NO_TOKENS)
        assert one(rows, [bare]) == (["missing: not_sent", "matched_live"], ["matched_live"])

    def test_rows_without_their_model(self) -> None:
        rows = [row(f"r{i}", at=i, model="", total_tokens=14 + i) for i in range(12)]
        events = [live(f"e{i}", at=i, total_tokens=14.0 + i) for i in range(12)]
        assert set(one(rows, events)[0]) == {"matched_live"}

    def test_an_event_without_cost_takes_no_row_from_one_that_needs_it(self) -> None:
        rows = [row("r1", spend=1.0), row("r2", spend=2.0)]
        told = told_rows(settle(rows, [live("any", at=0, **NO_COST), live("one", at=5, response_cost=1.0)]))
        assert {name: r["event_id"] for name, r in told.items()} == {"r1": "one", "r2": "any"}

    def test_an_alternating_path_through_rows_of_other_costs(self) -> None:
        # `any` (all counts, no cost) comes first and takes the later row; `less` (a count less) can have that alone.
        rows = [row("r1", at=0, spend=1.0), row("r2", at=4, spend=2.0)]
        events = [live("any", at=5, **NO_COST), live("less", at=6, completion_tokens=NAN, **NO_COST)]
        told = told_rows(settle(rows, events))
        assert {name: r["event_id"] for name, r in told.items()} == {"r1": "any", "r2": "less"}

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

    def test_a_request_that_was_the_houses_is_never_sent_again(self) -> None:
        label = "misdirected: other_charge_id"
        assert one([row()], [own(row(), "house")], self.HOUSE) == ([label], [label])

    def test_without_a_subscription_it_is_an_orphan(self) -> None:
        event = live(subscription_id="", charge_id="house")
        assert one([], [event], self.HOUSE)[1] == ["orphan: no_subscription_id"]


class TestOurIdsWithoutARow:
    """The live callback may stamp an ID that the written row does not have: it is paired as a live event is."""

    def stray(self, at: int = 0, **changes: Any) -> Record:
        return live("llm_" + "5" * 32, at, request_id="elsewhere", **changes)

    def told(self, rows: list[Record], events: list[Record]) -> tuple[list[str], list[str], list[bool]]:
        settled = settle(rows, events)
        of_events = {e["transaction_id"]: e for e in told_events(settled).values()}
        return (*one(rows, events), [of_events[e["transaction_id"]]["live"] for e in events])

    def test_equal_content(self) -> None:
        assert self.told([row()], [self.stray()]) == (["matched_live"], ["matched_live"], [True])

    def test_one_value_off(self) -> None:
        label = "mismatched: tokens"
        assert self.told([row()], [self.stray(total_tokens=15.0)]) == ([label], [label], [True])

    def test_a_repeat(self) -> None:
        expected = (["matched_live"], ["matched_live", "duplicate: same_content"], [True, True])
        assert self.told([row()], [live("a"), self.stray(3)]) == expected

    def test_nothing_like_it(self) -> None:
        assert self.told([row(spend=9.0)], [self.stray(subscription_id="b")]) == (
            ["missing: not_sent"],
            ["orphan: no_row"],
            [False],
        )

    def test_by_id(self) -> None:
        r = row()
        assert self.told([r], [own(r)]) == (["matched"], ["matched"], [False])

    def test_out_of_reach(self) -> None:
        assert self.told([row()], [self.stray(6)])[0] == ["missing: not_sent"]

    @pytest.mark.parametrize("horizon", [-9, 0, 1, 9, 50])
    def test_the_event_of_an_excluded_row_is_no_evidence(self, horizon: int) -> None:
        """It was sent before `RECONCILE_EXCLUDE` was set."""
        rules = Rules(CODE, REACH, exclude=("cache_hit",))
        hit = row("hit", cache_hit="True")
        parts = settle_in_slices([row("r1"), hit], [own(hit)], [BASE + horizon], rules)
        assert {name: r["class"] for name, r in told_rows(*parts).items()} == {"r1": "missing", "hit": "excluded"}
        (event,) = told_events(*parts).values()
        assert (event["class"], event["reason"], event["row_request_id"]) == ("orphan", "excluded_row", "hit")
        assert not event["live"]

    @pytest.mark.parametrize("horizon", [3, 9, 50, 200])
    def test_its_own_row_may_come_much_later(self, horizon: int) -> None:
        """A row that was mended got another end: its event is found by its ID, and is no other row's."""
        late = row("late", at=100)
        event = own(late, time_ms=BASE, request_id="late")
        parts = settle_in_slices([row("r1"), late], [event], [BASE + horizon])
        assert {name: r["class"] for name, r in told_rows(*parts).items()} == {"r1": "missing", "late": "mismatched"}

    @pytest.mark.parametrize("horizon", [1, 9, 50])
    def test_one_of_a_known_id_is_no_evidence(self, horizon: int) -> None:
        r = row("r1")
        again = own(r, time_ms=BASE + 40)
        parts = settle_in_slices([r, row("r2", at=39)], [own(r), again], [BASE + horizon], CLICKHOUSE)
        assert {name: r["class"] for name, r in told_rows(*parts).items()} == {"r1": "matched", "r2": "missing"}
        assert [e["reason"] for e in told_events(*parts).values()] == ["", "same_id"]


class TestNotCounted:
    """What the metric makes of an event: `counted` and `added` say it."""

    COST = Rules(CODE, REACH, aggregation="sum_agg", own_number="spend")
    TOTAL = Rules(CODE, REACH, aggregation="sum_agg", own_number="total_tokens")
    UNKNOWN = Rules(CODE, REACH, aggregation="sum_agg")
    UNIQUE = Rules(CODE, REACH, aggregation="unique_count_agg")
    LABEL = "unbilled: not_counted"

    def both(self, of_row: Record, of_event: Record, rules: Rules) -> str:
        """The one class of a row and its event, the same by content and by ID."""
        r = row(**of_row)
        by_content, by_id = one([r], [live(**of_event)], rules), one([r], [own(r) | of_event], rules)
        assert by_content[0] == by_content[1]
        assert by_id[0] == by_id[1]
        assert by_content[0][0].replace("matched_live", "matched") == by_id[0][0]
        return by_id[0][0]

    @pytest.mark.parametrize(
        ("rules", "of_row", "of_event", "label"),
        [
            (COST, {}, {}, "matched"),
            (COST, {}, NOT_COUNTED, LABEL),
            (COST, {}, {"added": 0.0}, LABEL),  # a text that is no number by ClickHouse's rules
            (COST, {}, NO_COST | NOT_COUNTED, LABEL),
            (COST, {}, NO_COST | {"added": 0.0}, LABEL),
            (COST, {"spend": 0.0}, {"response_cost": 0.0, "added": 0.0}, "matched"),
            (COST, {"spend": 0.0}, {"response_cost": 0.0, **NOT_COUNTED}, "matched"),
            (COST, {}, {"response_cost": 0.0, "added": 0.0}, LABEL),
            (COST, {}, {"response_cost": 0.0, **NOT_COUNTED}, LABEL),
            (COST, {}, {"response_cost": NAN, "malformed": True, **NOT_COUNTED}, LABEL),
            (COST, {}, {"response_cost": 0.3, "added": 0.3}, "mismatched: cost"),
            (COST, {}, {"response_cost": 0.3, **NOT_COUNTED}, LABEL),
            (COST, {}, {"total_tokens": 0.0}, "mismatched: tokens"),
            (COST, {}, {"total_tokens": 0.0, "added": 0.0}, "mismatched: tokens"),
            (TOTAL, {}, NO_TOKENS | NOT_COUNTED, LABEL),
            (TOTAL, {}, {"total_tokens": NAN, "added": 0.0}, LABEL),
            (TOTAL, {}, {"total_tokens": 0.0, "added": 0.0}, LABEL),
            (TOTAL, {}, {"total_tokens": NAN, "malformed": True, **NOT_COUNTED}, LABEL),
            (TOTAL, {}, {"total_tokens": 0.0, "prompt_tokens": 0.0, "added": 0.0}, "mismatched: tokens"),
            (TOTAL, {}, {"response_cost": 0.0, "added": 14.0}, "mismatched: cost"),
            (TOTAL, {"total_tokens": 0}, {"total_tokens": NAN, **NOT_COUNTED}, "matched"),
            (UNKNOWN, {}, NOT_COUNTED, LABEL),
            (UNKNOWN, {}, {"added": 0.0}, "matched"),
            (UNKNOWN, {}, {"response_cost": 0.0, "added": 0.0}, "mismatched: cost"),
            (UNIQUE, {}, NOT_COUNTED, LABEL),
            (UNIQUE, {}, {"added": 0.0}, "matched"),
            (UNIQUE, {"spend": 0.0}, {"response_cost": 0.0, **NOT_COUNTED}, LABEL),
            (RULES, {}, NOT_COUNTED, LABEL),
            (COST, {"spend": -1.0}, {"response_cost": -1.0, **NOT_COUNTED}, "mismatched: invalid_spend"),
        ],
    )
    def test_a_pair(self, rules: Rules, of_row: Record, of_event: Record, label: str) -> None:
        assert self.both(of_row, of_event, rules) == label

    def test_an_own_number_of_one(self) -> None:
        rules = Rules(CODE, REACH, aggregation="sum_agg", own_number="one")
        assert self.both({"spend": 0.0}, {"response_cost": 0.0, "added": 0.0}, rules) == self.LABEL

    def test_responses_whose_events_have_no_cost(self) -> None:
        rows = [row(f"r{i}", at=i, call_type="responses", spend=0.05 + i / 30, total_tokens=14 + i) for i in range(12)]
        events = [live(f"e{i}", at=i, response_cost=0.0, added=0.0, total_tokens=14.0 + i) for i in range(12)]
        of_rows, of_events = one(rows, events, self.COST)
        assert set(of_rows) == set(of_events) == {self.LABEL}

    @pytest.mark.parametrize(
        ("rules", "changes"),
        [
            (COST, {"response_cost": 0.0, "added": 0.0}),
            (COST, {"response_cost": 0.0, **NOT_COUNTED}),
            (COST, NOT_COUNTED),
            (COST, NO_COST | NOT_COUNTED),
            (TOTAL, NO_TOKENS | NOT_COUNTED),
            (TOTAL, {"total_tokens": 0.0, "added": 0.0}),
            (UNIQUE, NOT_COUNTED),
            (UNKNOWN, NOT_COUNTED),
        ],
    )
    @pytest.mark.parametrize("horizon", [-9, 0, 1, 9, 30])
    def test_beside_the_rows_own_event_it_is_no_discrepancy(self, rules: Rules, changes: Record, horizon: int) -> None:
        r = row("r1")
        other = row("r2", spend=7.0, prompt_tokens=3)
        parts = settle_in_slices([r, other], [own(r), live(at=1, **changes)], [BASE + horizon], rules)
        assert {name: r["class"] for name, r in told_rows(*parts).items()} == {"r1": "matched", "r2": "missing"}
        told = told_events(*parts)[f"e1 a {BASE + 1}"]
        assert (told["class"], told["reason"], told["row_request_id"]) == ("unbilled", "not_counted", "r1")

    def test_beside_a_live_event_it_is_a_duplicate(self) -> None:
        events = [live("e1"), live("e2", completion_tokens=NAN, total_tokens=NAN, **NOT_COUNTED)]
        assert one([row()], events, self.TOTAL)[1] == ["matched_live", "duplicate: same_content"]

    def test_one_that_counts_beside_the_rows_own_event_is_a_duplicate(self) -> None:
        r = row()
        assert one([r], [own(r), live()], self.COST)[1] == ["matched", "duplicate: same_content"]

    def test_nothing_beside_nothing_is_a_duplicate(self) -> None:
        r = row(spend=0.0)
        events = [own(r, added=0.0), live(response_cost=0.0, added=0.0)]
        assert one([r], events, self.COST)[1] == ["matched", "duplicate: same_content"]


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

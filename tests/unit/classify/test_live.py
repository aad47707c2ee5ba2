"""Rows and events that share no ID: what is equal, what is off, and what is no evidence."""

from __future__ import annotations

from typing import Any

import pytest

from reconcile.classify import Reach, Rules

from .worlds import (
    BASE,
    CLICKHOUSE,
    CODE,
    NAN,
    NO_COST,
    NO_TOKENS,
    NULL_COST,
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
            ({"spend": 1e9}, {"response_cost": 1e9 - 1}),  # just within
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

    @pytest.mark.parametrize("what", [{"response_cost": 1.0, **NO_TOKENS}, {"subscription_id": "b"}, {"model": "mini"}])
    def test_an_event_that_equals_a_missing_row_out_of_reach_is_not_taken_for_a_neighbour(self, what: Record) -> None:
        """Else the row that it is late for would be sent: it is not looked at for another row."""
        changes = {"response_cost": "spend", "subscription_id": "subscription_id", "model": "model"}
        own_values = {changes[name]: value for name, value in what.items() if name in changes}
        late, neighbour = row("late", **own_values), row("neighbour", at=20)
        event = live(at=22, **what)
        both = [late, neighbour]
        apart = Rules(CODE, REACH, doubt=Reach(before=3, after=21))
        assert one(both, [event], apart)[1] in (
            ["mismatched: cost"],
            ["misdirected: other_subscription"],
            ["mismatched: model"],
        )
        reached = Rules(CODE, REACH, doubt=Reach(before=3, after=22))
        missing = ["missing: not_sent", "missing: not_sent"]
        assert one(both, [event], reached) == (missing, ["orphan: no_row"])
        for cut in range(-1, 40, 4):  # the late row may have been handed over long before
            told = settle_in_slices(both, [event], [BASE + cut, BASE + cut + 9], reached)
            assert told_events(*told)[f"e1 {event['subscription_id']} {event['time_ms']}"]["reason"] == "no_row"

    def test_a_row_that_has_an_event_or_cannot_be_sent_keeps_no_other_event_from_a_neighbour(self) -> None:
        rules = Rules(CODE, REACH, doubt=Reach(before=3, after=30))
        event = live(at=22, response_cost=1.0, **NO_TOKENS)
        neighbour = row("neighbour", at=20)
        for other in (row("other", spend=1.0, status="failure"), row("other", spend=1.0, earlier_sure=True)):
            assert one([other, neighbour], [event], rules)[1] == ["mismatched: cost"]
        other = row("other", spend=1.0)
        assert one([other, neighbour], [own(other), event], rules)[1] == ["matched", "mismatched: cost"]

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
        rows = [row("r1", spend=0.0, call_type="aget_responses"), row("r2", at=1, spend=0.0)]
        bare = live(at=2, model="", response_cost=0.0, **NO_TOKENS)
        assert one(rows, [bare]) == (["matched_live", "missing: not_sent"], ["matched_live"])

    def test_rows_without_their_model(self) -> None:
        rows = [row(f"r{i}", at=i, model="", total_tokens=14 + i) for i in range(12)]
        events = [live(f"e{i}", at=i, total_tokens=14.0 + i) for i in range(12)]
        assert set(one(rows, events)[0]) == {"matched_live"}

    def test_an_event_without_cost_takes_no_row_from_one_that_needs_it(self) -> None:
        rows = [row("r1", spend=1.0), row("r2", spend=2.0)]
        told = told_rows(settle(rows, [live("any", at=0, **NO_COST), live("one", at=5, response_cost=1.0)]))
        assert {name: r["event_id"] for name, r in told.items()} == {"r1": "one", "r2": "any"}

    @pytest.mark.parametrize(
        ("of_any", "of_less"),
        [
            ({}, {"completion_tokens": NAN}),
            ({"model": ""}, {"model": "", "completion_tokens": NAN}),
            ({}, NO_TOKENS),  # the model alone
        ],
    )
    def test_an_alternating_path_through_rows_of_other_costs(self, of_any: Record, of_less: Record) -> None:
        # `any` (all counts, no cost) comes first and takes the later row; `less` (it tells less) can have that alone.
        rows = [row("r1", at=0, spend=1.0), row("r2", at=4, spend=2.0)]
        events = [live("any", at=5, **NO_COST, **of_any), live("less", at=6, **NO_COST, **of_less)]
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

    @pytest.mark.parametrize("most", [2**31 - 1, 2**52])
    def test_counts_of_any_size_are_told_apart(self, most: int) -> None:
        """Their combinations are more than a 64-bit code holds; whoever posts an event chooses its counts."""
        huge: Record = dict.fromkeys(NO_TOKENS, most)
        assert one([row(**huge)], [live(**huge)]) == (["matched_live"], ["matched_live"])
        assert one([row(**huge)], [live(**huge | {"total_tokens": most - 1.0})])[0] == ["mismatched: tokens"]
        assert one([row()], [live(), live("e2", **huge)]) == (["matched_live"], ["matched_live", "orphan: no_row"])

    def test_counts_below_zero_are_compared_as_they_are(self) -> None:
        assert one([row(prompt_tokens=-1)], [live(prompt_tokens=-1.0)])[0] == ["matched_live"]
        assert one([row(prompt_tokens=-1)], [live(prompt_tokens=-2.0)])[0] == ["mismatched: tokens"]
        assert one([row(prompt_tokens=-1)], [live(prompt_tokens=NAN, malformed=True)])[0] == ["mismatched: tokens"]

    @pytest.mark.parametrize("count", [10.5, 2.0**53, float("inf")])
    def test_a_count_that_is_no_whole_number_equals_none(self, count: float) -> None:
        assert one([row()], [live(prompt_tokens=count)])[0] == ["mismatched: tokens"]

    def test_the_row_whose_event_is_lost_is_the_one_left_over(self) -> None:
        rows = [row(f"r{i}", at=4 * i) for i in range(5)]
        events = [live(f"e{i}", at=4 * i) for i in range(5) if i != 2]
        told = classes(settle(rows, events))[0]
        assert [name for name, label in told.items() if label != "matched_live"] == ["r2"]


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

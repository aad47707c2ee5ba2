"""Events that are there, and that the metric makes nothing of."""

from __future__ import annotations

import pytest

from reconcile.classify import Rules

from .worlds import (
    BASE,
    CODE,
    NAN,
    NO_COST,
    NO_TOKENS,
    NOT_COUNTED,
    REACH,
    RULES,
    Record,
    live,
    one,
    own,
    row,
    settle,
    settle_in_slices,
    told_events,
    told_rows,
)


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
            (COST, {"spend": 0.0}, {"response_cost": 0.3, "added": 0.0}, "mismatched: cost"),  # nothing was due
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

    @pytest.mark.parametrize("rules", [COST, TOTAL])
    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"response_cost": 0.0, "total_tokens": 0.0}, "cost"),
            ({"response_cost": 0.0, "model": "other"}, "cost"),
            ({"total_tokens": 0.0, "model": "other"}, "tokens"),
        ],
    )
    def test_where_more_than_the_number_differs_it_is_a_mismatch(
        self, rules: Rules, changes: Record, reason: str
    ) -> None:
        """That it adds nothing would hide the other difference."""
        r = row()
        label = f"mismatched: {reason}"
        assert one([r], [own(r, added=0.0, **changes)], rules) == ([label], [label])

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

    def test_it_is_no_repeat_of_a_nearer_row_that_has_a_live_event(self) -> None:
        r = row("r1")
        events = [own(r), live("e1", at=3), live("e2", at=3, **NOT_COUNTED)]
        told = told_events(settle([r, row("r2", at=3)], events, self.COST))[f"e2 a {BASE + 3}"]
        assert (told["class"], told["reason"], told["row_request_id"]) == ("unbilled", "not_counted", "r1")

    def test_beside_a_live_event_it_is_a_duplicate(self) -> None:
        events = [live("e1"), live("e2", completion_tokens=NAN, total_tokens=NAN, **NOT_COUNTED)]
        assert one([row()], events, self.TOTAL)[1] == ["matched_live", "duplicate: same_content"]

    def test_one_that_counts_beside_the_rows_own_event_is_a_duplicate(self) -> None:
        r = row()
        assert one([r], [own(r), live()], self.COST)[1] == ["matched", "duplicate: same_content"]

    @pytest.mark.parametrize("rules", [UNIQUE, UNKNOWN, Rules(CODE, REACH, aggregation="max_agg", own_number="spend")])
    def test_where_the_metric_adds_nothing_up_a_counted_event_of_zero_is_a_duplicate(self, rules: Rules) -> None:
        """It counts as much as any: the customer is credited for it."""
        r = row()
        assert one([r], [own(r), live(added=0.0)], rules)[1] == ["matched", "duplicate: same_content"]

    def test_nothing_beside_nothing_is_a_duplicate(self) -> None:
        r = row(spend=0.0)
        events = [own(r, added=0.0), live(response_cost=0.0, added=0.0)]
        assert one([r], events, self.COST)[1] == ["matched", "duplicate: same_content"]

"""Rows and the events that carry their ID: of this store or that, for this charge ID or another."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from reconcile.classify import Classification, Rules, without_copies

from .worlds import (
    BASE,
    CLICKHOUSE,
    CODE,
    NAN,
    NO_TOKENS,
    NULL_COST,
    REACH,
    RULES,
    Record,
    classes,
    classes_of,
    events_frame,
    live,
    one,
    own,
    row,
    rows_frame,
    settle,
    settle_in_slices,
    told_events,
    told_rows,
)

ONE_COPY = Rules(CODE, REACH, clickhouse=True, copies="one")


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

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"time_ms": BASE - 500}, "other_charge_id"),  # the row was mended since
            ({"request_id": ""}, "other_charge_id"),
            ({"request_id": "", "time_ms": BASE - 1}, "other_charge_id"),  # as some stores list it
            ({"request_id": "", "time_ms": BASE - 2}, "other_subscription"),  # by its content alone
            ({"time_ms": BASE + 1}, "other_subscription"),  # it was made for no such row
        ],
    )
    def test_an_event_for_another_charge_id_leads_to_its_row_by_request_or_time(
        self, changes: Record, reason: str
    ) -> None:
        r = row()
        label = f"misdirected: {reason}"
        assert one([r, row("r2", at=300, spend=9.0)], [own(r, "old", **changes)])[0] == [label, "missing: not_sent"]

    @pytest.mark.parametrize("names", [("old", "older"), ("older", "old")])
    def test_of_two_for_other_charge_ids_the_earliest_is_the_rows(self, names: tuple[str, str]) -> None:
        r = row()
        events = [own(r, names[0]), own(r, names[1], time_ms=BASE - 500)]
        assert one([r], events)[1] == ["duplicate: same_content", "misdirected: other_charge_id"]

    @pytest.mark.parametrize("subscriptions", ["bc", "cb"])
    def test_of_one_such_id_on_two_subscriptions_the_name_decides(self, subscriptions: str) -> None:
        r = row()
        settled = settle([r], [own(r, "old", subscription_id=name) for name in subscriptions])
        told = {e["subscription_id"]: e["class"] for e in told_events(settled).values()}
        assert told == {"b": "misdirected", "c": "duplicate"}

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

    def test_an_own_event_at_the_end_of_the_reach_is_its_rows(self) -> None:
        r = row()
        label = "mismatched: timestamp"
        assert one([r], [own(r, time_ms=BASE + REACH.after)]) == ([label], [label])

    @pytest.mark.parametrize("also", [False, True])
    @pytest.mark.parametrize(
        ("told", "delay", "label"),
        [
            ("", 3, "mismatched: timestamp"),
            ("", 0, "matched"),
            ("what an earlier setting sent", 0, "matched"),
            ("what an earlier setting sent", -1, "matched"),
        ],
    )
    def test_its_row_is_found_among_many_where_it_does_not_tell_its_request(
        self, told: str, delay: int, label: str, also: bool
    ) -> None:
        rows = [row(f"r{i}", at=100 * i, spend=0.25 + i) for i in range(6)]
        events = [own(rows[2], request_id=told, time_ms=rows[2]["usage_ms"] + delay)]
        events += [own(rows[0])] if also else []
        of_rows = one(rows, events)[0]
        assert of_rows[2] == label
        assert of_rows[0] == ("matched" if also else "missing: not_sent")

    @pytest.mark.parametrize("subscriptions", ["bc", "cb"])
    def test_of_one_id_on_two_other_subscriptions_the_name_decides(self, subscriptions: str) -> None:
        """Not the order in which Lago lists them."""
        r = row()
        settled = settle([r], [own(r, subscription_id=name) for name in subscriptions])
        told = {e["subscription_id"]: (e["class"], e["reason"]) for e in told_events(settled).values()}
        assert told == {"b": ("misdirected", "other_subscription"), "c": ("duplicate", "same_id")}

    def test_an_own_event_far_too_late_is_nobodys(self) -> None:
        r = row()
        late = own(r, time_ms=BASE + REACH.after + 1)
        assert one([r], [late]) == (["missing: not_sent"], ["orphan: no_row"])


class TestDelivered:
    """Events that the ledger says an earlier run delivered: each is of its own row, which LiteLLM may have deleted."""

    def told(self, rows: list[Record], events: list[Record], *delivered: str) -> tuple[list[str], list[str]]:
        of_rows, of_events = classes(
            Classification(RULES).settle(rows_frame(rows), events_frame(events), None, delivered)
        )
        return [of_rows[r["request_id"]] for r in rows], [of_events[e["transaction_id"]] for e in events]

    def test_one_of_equal_content_does_not_stand_for_a_row_that_was_lost(self) -> None:
        event = own(row("deleted"))
        assert self.told([row()], [event]) == (["matched_live"], ["matched_live"])
        assert self.told([row()], [event], event["transaction_id"]) == (["missing: not_sent"], ["orphan: no_row"])

    def test_it_is_still_its_own_rows(self) -> None:
        event = own(row())
        assert self.told([row()], [event], event["transaction_id"]) == (["matched"], ["matched"])

    def test_what_another_run_delivered_says_nothing_about_other_events(self) -> None:
        delivered = own(row("deleted", at=1))
        rows, events = self.told([row()], [own(row("elsewhere")), delivered], delivered["transaction_id"])
        assert (rows, events) == (["matched_live"], ["matched_live", "orphan: no_row"])


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

    def test_where_none_was_sent_at_the_rows_time_the_earliest_is_its_event(self) -> None:
        """That choice stays the same when later ones are still to come."""
        r = row()
        settled = settle([r], [own(r, time_ms=BASE + 1), own(r, time_ms=BASE - 40)], CLICKHOUSE)
        told = {e["time_ms"] - BASE: (e["class"], e["reason"]) for e in told_events(settled).values()}
        assert told == {-40: ("mismatched", "timestamp"), 1: ("duplicate", "same_id")}

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

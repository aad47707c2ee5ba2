"""The tally: exact sums in money, totals that are the sum of their lines, and a proof that nothing is missing."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconcile.domain.document import EventTotals, Group, RowTotals
from reconcile.domain.sums import KEY, Groups
from reconcile.domain.tally import Tally, billable_spend
from reconcile.domain.vocabulary import EVENT_CLASSES, ROW_CLASSES
from reconcile.errors import BooksFault

from .frames import NOON, event_verdicts, events, row_verdicts, rows

DAY_MS = 86_400_000
SLICE_MS = 3_600_000


def new() -> Tally:
    return Tally(lambda times: times // DAY_MS, SLICE_MS)


def closed(*found: dict[str, Any]) -> Tally:
    tally = new()
    tally.read(rows(*found), events())
    tally.add_rows(row_verdicts(*found))
    return tally


def test_every_class_is_there() -> None:
    tally = new()
    tally.check()
    assert tally.row_classes() == dict.fromkeys(("total", *ROW_CLASSES), RowTotals())
    assert tally.event_classes() == dict.fromkeys(("total", *EVENT_CLASSES), EventTotals())
    assert tally.by_charge_id() == tally.by_day() == tally.by_model() == ()


def test_money_is_added_up_exactly() -> None:
    """Doubles would give 0.30000000000000004 and lose the smallest price beside the largest."""
    tally = closed({"spend": 0.1}, {"spend": 0.2}, {"spend": 1e15}, {"spend": 5.1e-06})
    tally.check()
    assert tally.row_classes()["matched"].spend == Decimal("1000000000000000.3000051")


@pytest.mark.parametrize("spend", [float("nan"), float("inf"), float("-inf"), -0.5])
def test_a_spend_that_cannot_be_billed_counts_as_nothing(spend: float) -> None:
    assert billable_spend(np.array([spend, 0.25])).tolist() == [0.0, 0.25]
    tally = closed({"spend": spend, "class": "rejected", "reason": "invalid_spend"})
    tally.check()
    assert tally.row_classes()["rejected"] == RowTotals(1, Decimal(0), 20, 10)


@pytest.mark.parametrize(
    "booked",
    [
        (),
        ({"spend": 0.1},),
        ({"spend": 0.1}, {"spend": 0.2}, {"spend": 0.0}),
        ({"spend": 0.1}, {"spend": 0.2000001}),
    ],
)
def test_rows_that_do_not_balance(booked: tuple[dict[str, Any], ...]) -> None:
    tally = new()
    tally.read(rows({"spend": 0.1}, {"spend": 0.2}), events())
    tally.add_rows(row_verdicts(*booked))
    with pytest.raises(BooksFault, match="the rows do not add up"):
        tally.check()


def test_events_have_totals_of_their_own() -> None:
    tally = new()
    tally.read(rows(), events({"response_cost": 0.1}, {"response_cost": 0.2}, {"response_cost": 0.4}))
    tally.add_events(event_verdicts({"cost": 0.1}, {"cost": 0.2, "class": "orphan", "reason": "no_row"}))
    with pytest.raises(BooksFault, match="the events do not add up"):
        tally.check()
    tally.set_aside(np.array([0.4]))
    tally.check()
    assert tally.event_classes()["orphan"] == EventTotals(1, Decimal("0.2"))


@pytest.mark.parametrize("name", ["matched", "matched_live"])
def test_agreeing_pairs_hold_the_same_money_or_the_books_fail(name: str) -> None:
    """A row of -0.85 USD beside an event of -0.85: Lago would take it off the bill, and nothing agrees."""
    new().add_rows(row_verdicts({"class": name, "spend": 0.1, "event_cost": 0.1 * (1 + 5e-10)}))
    new().add_rows(row_verdicts({"class": name, "spend": 0.1}))  # an event without its cost says nothing
    with pytest.raises(BooksFault, match=r"0\.1 and 0\.2"):
        new().add_rows(row_verdicts({"class": name, "spend": 0.1, "event_cost": 0.2}))
    new().add_rows(row_verdicts({"class": "mismatched", "reason": "cost", "spend": 0.1, "event_cost": 0.2}))


def test_context_counts_nowhere_and_late_rows_apart() -> None:
    tally = closed({"scope": "context"}, {"scope": "late", "class": "delivered"}, {"scope": "held"}, {"spend": 0.5})
    tally.check()
    assert tally.row_classes()["total"] == RowTotals(1, Decimal("0.5"), 20, 10)
    outside = tally.outside()
    assert (outside["total"].count, outside["delivered"].count, outside["matched"].count) == (2, 1, 1)
    assert sum(group.rows["total"].count for group in tally.by_charge_id()) == 1


def test_groups() -> None:
    tally = closed(
        {"charge_id": "team-b", "model": "gpt"},
        {"charge_id": "", "class": "unattributed", "reason": "no_charge_id", "model": ""},
        {"usage_ms": NOON + DAY_MS, "class": "delivered", "reason": "accepted", "model": "llama"},
    )
    line = RowTotals(1, Decimal("0.1"), 20, 10)
    none = {"total": EventTotals()}
    assert tally.by_charge_id() == (
        Group({"total": line, "unattributed": line}, none, charge_id=None),
        Group({"total": line, "delivered": line}, none, charge_id="team-a"),
        Group({"total": line, "matched": line}, none, charge_id="team-b"),
    )
    assert [(group.model, sorted(group.rows)) for group in tally.by_model()] == [
        (None, ["total", "unattributed"]),
        ("gpt", ["matched", "total"]),
        ("llama", ["delivered", "total"]),
    ]
    assert [(group.day, group.rows["total"].count) for group in tally.by_day()] == [
        (date(2025, 11, 20), 2),
        (date(2025, 11, 21), 1),
    ]
    assert [(group.charge_id, group.day) for group in tally.by_charge_id_and_day()] == [
        (None, date(2025, 11, 20)),
        ("team-a", date(2025, 11, 21)),
        ("team-b", date(2025, 11, 20)),
    ]
    assert tally.reasons()["unattributed", "no_charge_id"] == (1, Decimal("0.1"))


def test_a_slice_of_few_groups_can_be_packed() -> None:
    """Two teams' deliveries beside one group of events: numpy then lays the arrays out column by column."""
    tally, number = new(), NOON // SLICE_MS
    found = [
        {"class": "delivered", "reason": "accepted", "spend": 0.25, "charge_id": name} for name in ("team-a", "team-b")
    ]
    tally.read(rows(*found), events({"response_cost": 0.1}))
    tally.add_rows(row_verdicts(*found))
    tally.add_events(event_verdicts({"cost": 0.1}))
    taken_over = new()
    taken_over.absorb(number, tally.pack(number, []))
    assert taken_over.event_classes()["matched"] == EventTotals(3, Decimal("0.6"))


def test_a_packed_slice_stands_for_it() -> None:
    """What was delivered then is matched now, on both sides."""
    tally = new()
    found = (
        {"class": "delivered", "reason": "accepted", "spend": 0.25},
        {"class": "excluded", "reason": "failure", "spend": 0.0, "charge_id": "team-b"},
    )
    tally.read(rows(*found), events({"response_cost": 0.1}))
    tally.add_rows(row_verdicts(*found))
    tally.add_events(event_verdicts({"cost": 0.1}))
    number = NOON // SLICE_MS
    assert tally.agreed_slices([number, number + 1], {"delivered", "excluded"}, {"matched"}) == [number, number + 1]
    assert tally.delivered_in(number) == 1
    packed = tally.pack(number, [["further"]])
    assert tally.groups_of(packed) == {("team-a", "gpt"): 1, ("team-b", "gpt"): 1}
    taken_over = new()
    assert taken_over.absorb(number, packed) == [["further"]]
    taken_over.check()
    classes = taken_over.row_classes()
    assert (classes["delivered"].count, classes["matched"]) == (0, RowTotals(1, Decimal("0.25"), 20, 10))
    assert taken_over.event_classes()["matched"] == EventTotals(2, Decimal("0.35"))
    assert taken_over.reasons()["excluded", "failure"] == (1, Decimal(0))
    assert [group.charge_id for group in taken_over.by_charge_id()] == ["team-a", "team-b"]


@pytest.mark.parametrize(
    "spoilt",
    [
        {"class": "missing", "reason": "not_sent"},  # a class that does not agree
        None,  # a row that was read and is not decided about
    ],
)
def test_a_slice_is_agreed_once_all_of_it_agrees(spoilt: dict[str, Any] | None) -> None:
    tally = new()
    tally.read(rows({}, {}), events())
    tally.add_rows(row_verdicts({}, *([] if spoilt is None else [spoilt])))
    assert tally.agreed_slices([NOON // SLICE_MS], {"matched"}, {"matched"}) == []


RECORDS = st.lists(
    st.fixed_dictionaries(
        {
            "class": st.sampled_from([name.value for name in ROW_CLASSES]),
            "reason": st.sampled_from(["", "a", "b"]),
            "charge_id": st.sampled_from(["", "team-a", "team-b"]),
            "model": st.sampled_from(["", "gpt", "llama"]),
            "usage_ms": st.integers(NOON, NOON + 3 * DAY_MS),
            "spend": st.floats(0, 1e6) | st.sampled_from([float("nan"), float("inf"), -1.0]),
            "prompt_tokens": st.integers(0, 10**9),
        }
    ),
    max_size=20,
)


@given(RECORDS, st.integers(1, 19))
def test_totals_are_the_sum_of_their_lines_however_they_come(found: list[dict[str, Any]], cut: int) -> None:
    """In one piece, in two, and where the slices are not kept apart."""
    whole, parts, merged = closed(*found), new(), Tally(lambda times: times // DAY_MS, SLICE_MS, keeps_slices=False)
    for part in (found[:cut], found[cut:]):
        for tally in (parts, merged):
            tally.read(rows(*part), events())
            tally.add_rows(row_verdicts(*part))
    for tally in (whole, parts, merged):
        tally.check()
        classes = tally.row_classes()
        total = classes.pop("total")
        assert total == sum(classes.values(), RowTotals())
        for groups in (tally.by_charge_id(), tally.by_model(), tally.by_day(), tally.by_charge_id_and_day()):
            assert total == sum((group.rows["total"] for group in groups), RowTotals())
    for tally in (parts, merged):
        assert whole.row_classes() == tally.row_classes()
        assert whole.by_charge_id_and_day() == tally.by_charge_id_and_day()
        assert whole.reasons() == tally.reasons()


def test_many_groups_are_compacted_without_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reconcile.domain.sums._COMPACT_AT", 3)
    tally = new()
    for number in range(20):
        record = {"charge_id": f"team-{number % 7}", "spend": 0.1}
        tally.read(rows(record), events())
        tally.add_rows(row_verdicts(record))
    tally.check()
    assert tally.row_classes()["total"].spend == Decimal("2.0")
    assert len(tally.by_charge_id()) == 7


def test_groups_that_stay_apart_are_not_compacted_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A month by the hour has more groups than any threshold: each further part would sort all of them again."""
    monkeypatch.setattr("reconcile.domain.sums._COMPACT_AT", 3)
    compacted = []
    summed = Groups.summed

    def counting(self: Groups, *arguments: Any, **named: Any) -> Any:
        compacted.append(1)
        return summed(self, *arguments, **named)

    monkeypatch.setattr(Groups, "summed", counting)
    tally = new()
    for number in range(200):
        tally.add_rows(row_verdicts({"charge_id": f"team-{number}"}))
    assert len(compacted) <= 7  # at 4, 9, 19, … groups


def test_slices_that_nobody_asks_for_are_not_kept_apart() -> None:
    tally = Tally(lambda times: times // DAY_MS, DAY_MS // 24, keeps_slices=False)
    for hour in range(12):
        tally.add_rows(row_verdicts({"usage_ms": NOON + hour * SLICE_MS}))
    assert len(tally._rows.summed(range(len(KEY)))[0]) == 1


@pytest.mark.parametrize("delivered", [0, 1, 2])
@pytest.mark.parametrize("matched", [0, 1, 2])
def test_a_slice_of_any_size_can_be_packed(matched: int, delivered: int) -> None:
    """Sums of one group, of none and of several do not lie in memory in the same way."""
    found = [{"request_id": f"m-{number}", "charge_id": f"team-{number}"} for number in range(matched)]
    sent = [
        {"request_id": f"d-{number}", "charge_id": f"team-{number}", "class": "delivered"}
        for number in range(delivered)
    ]
    tally = closed(*found, *sent)
    if matched:
        listed = [{"transaction_id": f"t-{number}", "charge_id": f"team-{number}"} for number in range(matched)]
        tally.add_events(event_verdicts(*listed))
    number = NOON // SLICE_MS
    packed = tally.pack(number, [])
    assert sum(tally.groups_of(packed).values()) == matched + delivered

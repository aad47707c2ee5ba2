"""The figures that every output shows: they regroup the document's classes and lose nothing."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconcile.domain.document import Document, EventTotals, RowTotals
from reconcile.domain.money import add
from reconcile.domain.vocabulary import EVENT_CLASSES, ROW_CLASSES
from reconcile.errors import BooksFault
from reconcile.report import figures
from report import factory
from report.factory import Event, Row

MONEY = st.decimals(0, 10**9, allow_nan=False, allow_infinity=False, places=9)


def test_every_row_class_has_one_outcome() -> None:
    assert sorted(name for names in figures.OUTCOMES.values() for name in names) == sorted(ROW_CLASSES)


def test_the_waterfall_names_each_reason_with_its_sign() -> None:
    document = factory.document(
        [
            Row("matched", "10"),
            Row("delivered", "5"),
            Row("excluded", "0.5", reason="failure_with_spend"),
            Row("missing", "2"),
            Row("held", "1"),
            Row("unbilled", "6"),
            Row("mismatched", "3", event_spend="4"),
            Row("misdirected", "7"),
        ],
        [Event("duplicate", "0.25"), Event("orphan", "0.125"), Event("own", "0.0625")],
    )
    steps = figures.waterfall(document)
    assert [(step.name, str(step.change)) for step in steps] == [
        ("litellm", "34.5"),
        ("excluded", "-0.5"),
        ("unbilled", "-6"),
        ("missing", "-2"),
        ("held", "-1"),
        ("mismatched", "1"),
        ("duplicate", "0.25"),
        ("orphan", "0.125"),
        ("lago", "26.3750"),
    ]
    assert figures.lago_bills(document) == EventTotals(6, Decimal("26.375"))
    # What lies in Lago and is on no bill: the unbilled event, and the house's own.
    assert figures.lago_now(document) == EventTotals(8, Decimal("32.4375"))
    for earlier, later in pairwise(steps[:-1]):
        assert later.before == earlier.after


@given(
    st.fixed_dictionaries({name: st.tuples(st.integers(0, 5), MONEY) for name in ROW_CLASSES}),
    st.fixed_dictionaries({name: st.tuples(st.integers(0, 5), MONEY) for name in EVENT_CLASSES}),
)
def test_the_waterfall_always_ends_at_what_lago_bills(
    rows: dict[str, tuple[int, Decimal]], events: dict[str, tuple[int, Decimal]]
) -> None:
    row_totals = {name: RowTotals(count, spend if count else Decimal(0)) for name, (count, spend) in rows.items()}
    event_totals = {name: EventTotals(count, spend if count else Decimal(0)) for name, (count, spend) in events.items()}
    row_totals["total"] = RowTotals(0, add(totals.spend for totals in row_totals.values()))
    event_totals["total"] = EventTotals(0, add(totals.spend for totals in event_totals.values()))
    document = replace(factory.document(), rows=row_totals, events=event_totals)
    last = figures.waterfall(document)[-1]
    on_no_bill = [event_totals[name].spend.copy_negate() for name in ("unbilled", "own")]
    assert last.after == add((event_totals["total"].spend, row_totals["delivered"].spend, *on_no_bill))


def test_open_money_is_what_is_unbilled_billed_otherwise_or_without_cause() -> None:
    document = factory.document(
        [
            *(Row("matched", "100"), Row("unattributed", "1"), Row("rejected", "2"), Row("misdirected", "4")),
            *(Row("unbilled", "16", reason="no_subscription"), Row("excluded", "32", reason="own")),
        ],
        [Event("orphan", "8"), Event("own", "32")],
    )
    assert figures.sides(document).open == 31
    assert figures.sides(document).open_count == 5
    assert figures.sides(document).outcome("unbilled") == 19


def test_several_lines_as_one_keep_every_class() -> None:
    document = factory.typical()
    whole = figures.combined(document.by_charge_id)
    assert {name: totals for name, totals in document.rows.items() if totals.count} == dict(whole.rows)


def broken(document: Document) -> list[Document]:
    extra = {**document.rows, "total": document.rows["total"] + RowTotals(0, Decimal("0.000001"))}
    events = {**document.events, "orphan": EventTotals(1, Decimal(0))}
    return [
        replace(document, rows=extra),
        replace(document, events=events),
        replace(document, by_charge_id=document.by_charge_id[1:]),
        replace(document, by_model=document.by_model[1:]),
        replace(document, by_day=document.by_day[:-1]),
    ]


@pytest.mark.parametrize("number", range(5))
def test_lines_that_do_not_add_up_are_never_reported(number: int) -> None:
    document = factory.typical()
    figures.check(document)
    with pytest.raises(BooksFault, match="add up"):
        figures.check(broken(document)[number])

"""Sums over the document's own classes that every output shows alike. Exact decimals; nothing is rounded here.

The document balances: its classes add up to what was read. So each figure here is a regrouping of its classes. Lines
that do not add up to their total raise `BooksFault` instead of standing in a report that somebody signs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, TypeVar

from reconcile.domain.document import Document, EventTotals, Group, RowTotals
from reconcile.domain.money import add
from reconcile.domain.parts import DISAGREEING_EVENTS, disagreeing
from reconcile.domain.vocabulary import EVENT_CLASSES, ROW_CLASSES
from reconcile.errors import BooksFault

# What became of a row's money, from best to worst. Every row class is in exactly one outcome.
OUTCOMES: Final[Mapping[str, tuple[str, ...]]] = {
    "agrees": ("matched", "matched_live"),
    "sent": ("delivered",),
    "excluded": ("excluded",),
    "unbilled": ("unbilled", "unattributed", "missing", "held", "rejected"),
    "otherwise": ("mismatched", "misdirected"),
}
SURPLUS: Final = tuple(map(str, DISAGREEING_EVENTS))
# Events that Lago holds and puts on no bill: nobody's, and the house's own.
ON_NO_BILL: Final = ("unbilled", "own")

NO_ROWS: Final = RowTotals()
NO_EVENTS: Final = EventTotals()

Totals = TypeVar("Totals", RowTotals, EventTotals)


@dataclass(frozen=True, slots=True)
class Sides:
    """One line's two sides: the classes of a group, or of the whole document."""

    rows: Mapping[str, RowTotals]
    events: Mapping[str, EventTotals]

    def row(self, name: str) -> RowTotals:
        return self.rows.get(name, NO_ROWS)

    def event(self, name: str) -> EventTotals:
        return self.events.get(name, NO_EVENTS)

    def outcome(self, name: str) -> Decimal:
        """LiteLLM's spend that had the outcome `name`."""
        return add(self.row(member).spend for member in OUTCOMES[name])

    def outcome_count(self, name: str) -> int:
        return sum(self.row(member).count for member in OUTCOMES[name])

    @property
    def surplus_count(self) -> int:
        return sum(self.event(name).count for name in SURPLUS)

    @property
    def surplus(self) -> Decimal:
        """Money of the events that nothing explains: duplicates and orphans."""
        return add(self.event(name).spend for name in SURPLUS)

    @property
    def open(self) -> Decimal:
        """Money that does not agree: rows unbilled or billed otherwise, and events without cause."""
        return disagreeing(self.rows, self.events)

    @property
    def open_count(self) -> int:
        return self.outcome_count("unbilled") + self.outcome_count("otherwise") + self.surplus_count


def sides(of: Document | Group) -> Sides:
    return Sides(of.rows, of.events)


def lago_now(document: Document) -> EventTotals:
    """What Lago holds after the run: what it held when it was listed, and what the run delivered."""
    sent = document.rows["delivered"]
    return document.events["total"] + EventTotals(sent.count, sent.spend)


def lago_bills(document: Document) -> EventTotals:
    """What of it Lago will put on a bill."""
    now = lago_now(document)
    unbilled = [document.events[name] for name in ON_NO_BILL]
    spend = add([now.spend, *(of.spend.copy_negate() for of in unbilled)])
    return EventTotals(now.count - sum(of.count for of in unbilled), spend)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the waterfall. `before` and `after` are the levels around it; a level's own step starts at 0."""

    name: str  # "litellm", a class, "edge", or "lago"
    change: Decimal
    count: int | None  # rows or events of the step; None where it is a difference of values
    before: Decimal
    after: Decimal


def waterfall(document: Document) -> tuple[Step, ...]:
    """The steps from LiteLLM's spend to what Lago bills after the run; steps without members are left out.

    `mismatched` and `misdirected` are differences between the two sides' money; `edge` is the difference that pairs
    across the edge of the window leave, since each half counts in its own window.
    """
    rows, events = document.rows, document.events

    def difference(*names: str) -> Decimal:
        return add([events[name].spend for name in names] + [rows[name].spend.copy_negate() for name in names])

    changes: list[tuple[str, Decimal, int | None]] = [
        (name, add((Decimal(0), rows[name].spend.copy_negate())), rows[name].count)  # 0, not -0
        for name in ("excluded", *OUTCOMES["unbilled"])
        if rows[name].count
    ]
    changes += [
        (name, amount, None)
        for name, amount in (
            ("mismatched", difference("mismatched")),
            ("misdirected", difference("misdirected")),
            ("edge", difference("matched", "matched_live")),
        )
        if amount
    ]
    changes += [(name, events[name].spend, events[name].count) for name in SURPLUS if events[name].count]

    start = rows["total"]
    steps = [Step("litellm", start.spend, start.count, Decimal(0), start.spend)]
    level = start.spend
    for name, change, count in changes:
        before, level = level, add((level, change))
        steps.append(Step(name, change, count, before, level))
    end = lago_bills(document)
    if level != end.spend:
        raise BooksFault(f"LiteLLM's spend leads to {level}, not to the {end.spend} that Lago bills.")
    steps.append(Step("lago", end.spend, end.count, Decimal(0), end.spend))
    return tuple(steps)


def check(document: Document) -> None:
    """Raises `BooksFault` where classes do not add up to their total, or lines to the document's classes."""
    _same("the row classes", [document.rows[name] for name in ROW_CLASSES], document.rows["total"], NO_ROWS)
    _same("the event classes", [document.events[n] for n in EVENT_CLASSES], document.events["total"], NO_EVENTS)
    tables = {
        "by charge ID": document.by_charge_id,
        "by model": document.by_model,
        "by day": document.by_day,
    }
    for title, groups in tables.items():
        lines = [sides(group) for group in groups]
        for name in ("total", *ROW_CLASSES):
            _same(f"{name} rows {title}", [line.row(name) for line in lines], document.rows[name], NO_ROWS)
        for name in ("total", *EVENT_CLASSES):
            _same(
                f"{name} events {title}",
                [line.event(name) for line in lines],
                document.events[name],
                NO_EVENTS,
            )


def combined(groups: Iterable[Group]) -> Sides:
    """Several lines as one: the sum of each class."""
    rows: dict[str, RowTotals] = {}
    events: dict[str, EventTotals] = {}
    for group in groups:
        for name, row_totals in group.rows.items():
            rows[name] = rows.get(name, NO_ROWS) + row_totals
        for name, event_totals in group.events.items():
            events[name] = events.get(name, NO_EVENTS) + event_totals
    return Sides(rows, events)


def _same(what: str, lines: Iterable[Totals], total: Totals, nothing: Totals) -> None:
    found = nothing
    for line in lines:
        found = found + line
    if found != total:
        raise BooksFault(f"The lines of {what} add up to {found}, not to {total}.")

"""What the result document is made of: totals, groups, second opinions, findings, and how the figures were made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final, TypeVar

from reconcile.domain.dates import instant
from reconcile.domain.money import add
from reconcile.domain.money import plain as money
from reconcile.domain.vocabulary import DISCREPANCY_CLASSES, EventClass, RowClass

# Where a row's money does not agree: billed to nobody, or billed otherwise. And an event's, where no row explains it.
DISAGREEING_ROWS: Final = tuple(name for name in RowClass if name in DISCREPANCY_CLASSES)
DISAGREEING_EVENTS: Final = (EventClass.DUPLICATE, EventClass.ORPHAN)


@dataclass(frozen=True, slots=True)
class RowTotals:
    count: int = 0
    spend: Decimal = Decimal(0)
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: RowTotals) -> RowTotals:
        return RowTotals(
            self.count + other.count,
            add((self.spend, other.spend)),
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "spend": money(self.spend),
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
        }


@dataclass(frozen=True, slots=True)
class EventTotals:
    count: int = 0
    spend: Decimal = Decimal(0)

    def __add__(self, other: EventTotals) -> EventTotals:
        return EventTotals(self.count + other.count, add((self.spend, other.spend)))

    def as_json(self) -> dict[str, Any]:
        return {"count": self.count, "spend": money(self.spend)}


Totals = TypeVar("Totals", RowTotals, EventTotals)


@dataclass(frozen=True, slots=True)
class Group:
    """Totals of one charge ID, model, day, or charge ID on a day. Classes of zero are left out.

    `rows["total"]` and `events["total"]` are always present. The fields that the group is not about are None; a group
    by charge ID whose `charge_id` is None holds the unattributed rows and the events without a subscription.
    `day` is a calendar day in the report's time zone.
    """

    rows: Mapping[str, RowTotals]
    events: Mapping[str, EventTotals]
    charge_id: str | None = None
    model: str | None = None
    day: date | None = None

    @property
    def open(self) -> Decimal:
        """Money that does not agree. What an event of a pair carries is its row's money, and counts there."""
        return disagreeing(self.rows, self.events)

    def sides_json(self) -> dict[str, Any]:
        return {"rows": classes_json(self.rows), "events": classes_json(self.events)}


def disagreeing(rows: Mapping[str, RowTotals], events: Mapping[str, EventTotals]) -> Decimal:
    """Money of the rows that are not billed, or otherwise, and of the events that no row explains."""
    return add(
        [
            *(rows[name].spend for name in DISAGREEING_ROWS if name in rows),
            *(events[name].spend for name in DISAGREEING_EVENTS if name in events),
        ]
    )


@dataclass(frozen=True, slots=True)
class SpendLogsGap:
    """LiteLLM's own daily totals beside the rows of one UTC day and charge ID (a hint, never a reason to send)."""

    day: date
    charge_id: str
    table: str
    rows_requests: int
    daily_requests: int
    rows_tokens: int
    daily_tokens: int
    rows_spend: Decimal
    daily_spend: Decimal

    def as_json(self) -> dict[str, Any]:
        return {
            "day": self.day.isoformat(),
            "charge_id": self.charge_id,
            "table": self.table,
            "rows": {"requests": self.rows_requests, "tokens": self.rows_tokens, "spend": money(self.rows_spend)},
            "daily": {"requests": self.daily_requests, "tokens": self.daily_tokens, "spend": money(self.daily_spend)},
        }


@dataclass(frozen=True, slots=True)
class LagoUsage:
    """What Lago bills for one charge ID in one of its billing periods, beside what the listed events say.

    Units are those of the property that the metric adds up, whatever it is.
    """

    charge_id: str
    period: str  # "current" or "past"
    period_from: datetime
    period_to: datetime
    events_units: Decimal | None  # what the events of the whole period add up to; None where it was not read
    events_count: int | None
    lago_units: Decimal
    lago_events_count: int
    amount_cents: int
    currency: str

    def as_json(self) -> dict[str, Any]:
        return {
            "charge_id": self.charge_id,
            "period": self.period,
            "from": instant(self.period_from),
            "to": instant(self.period_to),
            "events_units": None if self.events_units is None else money(self.events_units),
            "events_count": self.events_count,
            "lago_units": money(self.lago_units),
            "lago_events_count": self.lago_events_count,
            "amount_cents": self.amount_cents,
            "currency": self.currency,
        }


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that finance or operations should know and that changes no class: retention, lost request IDs."""

    kind: str  # a FindingKind; of an older document also another
    text: str
    count: int = 0
    spend: Decimal = Decimal(0)

    def as_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "text": self.text, "count": self.count, "spend": money(self.spend)}


@dataclass(frozen=True, slots=True)
class Previous:
    """The last finished run over the same period and stream, for comparison."""

    run_id: str
    finished_at: datetime
    rows: Mapping[str, RowTotals]
    events: Mapping[str, EventTotals]

    def as_json(self) -> dict[str, Any]:
        return {
            "run_id": self.run_id,
            "finished_at": instant(self.finished_at),
            "rows": classes_json(self.rows),
            "events": classes_json(self.events),
        }


@dataclass(frozen=True, slots=True)
class Method:
    """How the figures were made. `settings` holds no secret."""

    started_at: datetime
    finished_at: datetime
    time_zone: str
    versions: Mapping[str, str]
    settings: Mapping[str, str]
    lago_store: str  # "postgres" or "clickhouse"
    slices: int
    requests: int  # to Lago
    retries: int
    stage_seconds: Mapping[str, float] = field(default_factory=dict)  # read, list, classify, deliver, verify
    # Requests in flight that the run settled on, by kind (list, deliver), on average over the time that it asked.
    in_flight: Mapping[str, float] = field(default_factory=dict)
    # The most that it let be in flight when it ended, by kind: what Lago was found to gain from.
    in_flight_limit: Mapping[str, int] = field(default_factory=dict)
    workers: int = 1  # that decoded what Lago listed

    def as_json(self) -> dict[str, Any]:
        return {
            "started_at": instant(self.started_at),
            "finished_at": instant(self.finished_at),
            "time_zone": self.time_zone,
            "versions": dict(self.versions),
            "settings": dict(self.settings),
            "lago_store": self.lago_store,
            "slices": self.slices,
            "requests": self.requests,
            "retries": self.retries,
            "stage_seconds": dict(self.stage_seconds),
            "in_flight": dict(self.in_flight),
            "in_flight_limit": dict(self.in_flight_limit),
            "workers": self.workers,
        }


@dataclass(frozen=True, slots=True)
class Fault:
    kind: str
    message: str


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def row_classes(found: Mapping[str, Any]) -> dict[str, RowTotals]:
    return {
        name: RowTotals(totals["count"], Decimal(totals["spend"]), totals["prompt_tokens"], totals["completion_tokens"])
        for name, totals in found.items()
    }


def event_classes(found: Mapping[str, Any]) -> dict[str, EventTotals]:
    return {name: EventTotals(totals["count"], Decimal(totals["spend"])) for name, totals in found.items()}


def classes_json(classes: Mapping[str, RowTotals] | Mapping[str, EventTotals]) -> dict[str, Any]:
    return {str(name): totals.as_json() for name, totals in classes.items()}


def every(classes: Mapping[str, Totals], names: Iterable[str], nothing: Totals) -> dict[str, Totals]:
    """The total and every class in order; zeros where it is empty."""
    return {str(name): classes.get(name, nothing) for name in ("total", *names)}


def method_of(found: Mapping[str, Any]) -> Method:
    times = {name: moment(found[name]) for name in ("started_at", "finished_at")}
    return Method(**{**found, **times})


def finding_of(found: Mapping[str, Any]) -> Finding:
    return Finding(found["kind"], found["text"], found["count"], Decimal(found["spend"]))


def previous_run(found: Mapping[str, Any] | None) -> Previous | None:
    """What a document keeps of an earlier one: run_id, finished_at, rows and events."""
    if found is None:
        return None
    return Previous(
        found["run_id"], moment(found["finished_at"]), row_classes(found["rows"]), event_classes(found["events"])
    )

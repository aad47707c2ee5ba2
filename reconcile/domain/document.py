"""The result document: one typed value that every output is rendered from.

Money is a `Decimal` in the unit of LiteLLM's `spend` (USD); times are aware datetimes in UTC. Renderers format these
figures and compute none of their own. `Document.as_json` gives the JSON form, `from_json` reads it back: also one that
an older version wrote, whose classes were fewer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final, TypeVar

import pandas as pd

from reconcile.domain.dates import instant as instant
from reconcile.domain.money import add, decimal_of
from reconcile.domain.money import plain as money
from reconcile.domain.vocabulary import DISCREPANCY_CLASSES as DISCREPANCY_CLASSES
from reconcile.domain.vocabulary import EVENT_CLASSES as EVENT_CLASSES
from reconcile.domain.vocabulary import ROW_CLASSES as ROW_CLASSES
from reconcile.domain.vocabulary import EventClass, Reason, RowClass

SCHEMA_VERSION = 1

DISCREPANCIES_LISTED = 1_000
CHARGE_IDS_LISTED = 1_000

# Where a row's money does not agree: billed to nobody, or billed otherwise. And an event's, where no row explains it.
DISAGREEING_ROWS: Final = tuple(name for name in RowClass if name in DISCREPANCY_CLASSES)
DISAGREEING_EVENTS: Final = (EventClass.DUPLICATE, EventClass.ORPHAN)

# Reasons that stand in every document, as 0 where there is no such row.
_REASONS: Final[Mapping[str, tuple[Reason, ...]]] = {
    "excluded": (Reason.FAILURE,),
    "held": (),
    "rejected": (),
    "unbilled": (),
}

DISCREPANCY_COLUMNS = (
    "class",  # str, one of DISCREPANCY_CLASSES
    "charge_id",  # str or None
    "model",  # str or None
    "request_id",  # str or None (an event without a row)
    "transaction_id",  # str or None
    "usage_time",  # datetime64[ms, UTC]: the row's usage time, or the event's timestamp where there is no row
    "row_spend",  # float64, NaN where there is no row
    "event_spend",  # float64, NaN where there is no event
    "reason",  # str: a code of reconcile's own, such as no_subscription
    "detail",  # str or None: what differs, what Lago answered
)


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


_Totals = TypeVar("_Totals", RowTotals, EventTotals)
_Number = TypeVar("_Number", int, str)


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
    workers: int = 1


@dataclass(frozen=True, slots=True)
class Fault:
    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class Document:
    run_id: str
    command: str
    dry_run: bool
    status: str  # agreed, discrepancies, incomplete
    verified: bool | None
    window_from: datetime
    window_to: datetime
    lago: str
    event_code: str
    charge_by: str
    rows: Mapping[str, RowTotals]  # every class and "total"
    events: Mapping[str, EventTotals]
    reasons: Mapping[str, Mapping[str, int]]  # class -> reason -> rows
    reason_spend: Mapping[str, Mapping[str, Decimal]]
    ambiguous: int
    by_charge_id: tuple[Group, ...]
    by_model: tuple[Group, ...]
    by_day: tuple[Group, ...]
    by_charge_id_and_day: tuple[Group, ...]
    discrepancies: pd.DataFrame  # DISCREPANCY_COLUMNS, largest money first; all of them
    method: Method
    fault: Fault | None = None
    spend_logs_gap: tuple[SpendLogsGap, ...] = ()
    lago_usage: tuple[LagoUsage, ...] = ()
    findings: tuple[Finding, ...] = ()
    previous: Previous | None = None
    # Rows outside the window that this run settled: late ones, and ones that were held back before. Every class that
    # has a member, and "total"; empty where there was none.
    late: Mapping[str, RowTotals] = field(default_factory=dict)
    window_asked_to: datetime | None = None  # the end that was asked for, where it lay after now - lag
    window_extended_from: datetime | None = None  # the start that was asked for, where the run began earlier

    def as_json(self, *, whole: bool = False) -> dict[str, Any]:
        """The JSON form: the largest discrepancies and charge IDs, or the `whole` of both, as in report files."""
        shown = self.discrepancies if whole else self.discrepancies.head(DISCREPANCIES_LISTED)
        return {
            "schema_version": SCHEMA_VERSION,
            "run_id": self.run_id,
            "command": self.command,
            "dry_run": self.dry_run,
            "status": self.status,
            "verified": self.verified,
            "window": self._window(),
            "stream": {"lago": self.lago, "event_code": self.event_code, "charge_by": self.charge_by},
            "rows": _classes_json(_every(self.rows, ROW_CLASSES, RowTotals())),
            "events": _classes_json(_every(self.events, EVENT_CLASSES, EventTotals())),
            "reasons": _reasons(self.reasons, 0),
            "reason_spend": _reasons(
                {
                    name: {reason: money(spend) for reason, spend in spends.items()}
                    for name, spends in self.reason_spend.items()
                },
                "0",
            ),
            "ambiguous": self.ambiguous,
            "by_charge_id": [
                {"charge_id": g.charge_id, **_sides(g)} for g in (self.by_charge_id if whole else self._charge_ids())
            ],
            "by_charge_id_total": len(self.by_charge_id),
            "by_model": [{"model": g.model, **_sides(g)} for g in self.by_model],
            "by_day": [{"day": g.day.isoformat() if g.day else None, **_sides(g)} for g in self.by_day],
            "discrepancies": [discrepancy_json(row) for row in shown.to_dict("records")],
            "discrepancies_total": len(self.discrepancies),
            "spend_logs_gap": [
                {
                    "day": gap.day.isoformat(),
                    "charge_id": gap.charge_id,
                    "table": gap.table,
                    "rows": {
                        "requests": gap.rows_requests,
                        "tokens": gap.rows_tokens,
                        "spend": money(gap.rows_spend),
                    },
                    "daily": {
                        "requests": gap.daily_requests,
                        "tokens": gap.daily_tokens,
                        "spend": money(gap.daily_spend),
                    },
                }
                for gap in self.spend_logs_gap
            ],
            "lago_usage": [
                {
                    "charge_id": usage.charge_id,
                    "period": usage.period,
                    "from": instant(usage.period_from),
                    "to": instant(usage.period_to),
                    "events_units": None if usage.events_units is None else money(usage.events_units),
                    "events_count": usage.events_count,
                    "lago_units": money(usage.lago_units),
                    "lago_events_count": usage.lago_events_count,
                    "amount_cents": usage.amount_cents,
                    "currency": usage.currency,
                }
                for usage in self.lago_usage
            ],
            "late": _classes_json(self.late),
            "findings": [finding.as_json() for finding in self.findings],
            "method": {
                "started_at": instant(self.method.started_at),
                "finished_at": instant(self.method.finished_at),
                "time_zone": self.method.time_zone,
                "versions": dict(self.method.versions),
                "settings": dict(self.method.settings),
                "lago_store": self.method.lago_store,
                "slices": self.method.slices,
                "requests": self.method.requests,
                "retries": self.method.retries,
                "stage_seconds": dict(self.method.stage_seconds),
                "in_flight": dict(self.method.in_flight),
                "workers": self.method.workers,
            },
            "previous": None
            if self.previous is None
            else {
                "run_id": self.previous.run_id,
                "finished_at": instant(self.previous.finished_at),
                "rows": _classes_json(self.previous.rows),
                "events": _classes_json(self.previous.events),
            },
            "fault": None if self.fault is None else {"kind": self.fault.kind, "message": self.fault.message},
        }

    def _window(self) -> dict[str, str]:
        moments = {
            "from": self.window_from,
            "to": self.window_to,
            "asked_to": self.window_asked_to,
            "extended_from": self.window_extended_from,
        }
        return {name: instant(moment) for name, moment in moments.items() if moment is not None}

    def _charge_ids(self) -> list[Group]:
        """Those where most money does not agree first, then those with most money."""
        return sorted(
            self.by_charge_id,
            key=lambda group: (
                group.open.copy_negate(),
                group.rows["total"].spend.copy_negate(),
                group.events["total"].spend.copy_negate(),
                group.charge_id is None,
                group.charge_id or "",
            ),
        )[:CHARGE_IDS_LISTED]


def from_json(found: Mapping[str, Any]) -> Document:
    """A document as a run left it in the ledger, also one of an older version: what it did not know is none.

    It has the discrepancies and charge IDs that were listed, and no totals per ID and day.
    """
    method, window = found["method"], found["window"]
    return Document(
        run_id=found["run_id"],
        command=found["command"],
        dry_run=found["dry_run"],
        status=found["status"],
        verified=found["verified"],
        window_from=_moment(window["from"]),
        window_to=_moment(window["to"]),
        window_asked_to=_moment(window["asked_to"]) if "asked_to" in window else None,
        window_extended_from=_moment(window["extended_from"]) if "extended_from" in window else None,
        **found["stream"],
        rows=_every(_row_classes(found["rows"]), ROW_CLASSES, RowTotals()),
        events=_every(_event_classes(found["events"]), EVENT_CLASSES, EventTotals()),
        reasons=found["reasons"],
        reason_spend={
            kind: {reason: Decimal(spend) for reason, spend in spends.items()}
            for kind, spends in found["reason_spend"].items()
        },
        ambiguous=found["ambiguous"],
        by_charge_id=tuple(_group(group, charge_id=group["charge_id"]) for group in found["by_charge_id"]),
        by_model=tuple(_group(group, model=group["model"]) for group in found["by_model"]),
        by_day=tuple(_group(group, day=date.fromisoformat(group["day"])) for group in found["by_day"]),
        by_charge_id_and_day=(),
        discrepancies=_discrepancies(found["discrepancies"]),
        method=Method(
            started_at=_moment(method["started_at"]),
            finished_at=_moment(method["finished_at"]),
            **{name: value for name, value in method.items() if name not in ("started_at", "finished_at")},
        ),
        fault=None if found["fault"] is None else Fault(**found["fault"]),
        findings=tuple(
            Finding(finding["kind"], finding["text"], finding["count"], Decimal(finding["spend"]))
            for finding in found["findings"]
        ),
        previous=previous_run(found["previous"]),
        late=_row_classes(found.get("late", {})),
    )


def previous_run(found: Mapping[str, Any] | None) -> Previous | None:
    """What a document keeps of an earlier one: run_id, finished_at, rows and events."""
    if found is None:
        return None
    return Previous(
        found["run_id"], _moment(found["finished_at"]), _row_classes(found["rows"]), _event_classes(found["events"])
    )


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _row_classes(found: Mapping[str, Any]) -> dict[str, RowTotals]:
    return {
        name: RowTotals(totals["count"], Decimal(totals["spend"]), totals["prompt_tokens"], totals["completion_tokens"])
        for name, totals in found.items()
    }


def _event_classes(found: Mapping[str, Any]) -> dict[str, EventTotals]:
    return {name: EventTotals(totals["count"], Decimal(totals["spend"])) for name, totals in found.items()}


def _group(found: Mapping[str, Any], **names: Any) -> Group:
    return Group(_row_classes(found["rows"]), _event_classes(found["events"]), **names)


def _discrepancies(found: list[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(found, columns=list(DISCREPANCY_COLUMNS))
    frame["usage_time"] = pd.to_datetime(frame["usage_time"], utc=True).dt.as_unit("ms")
    for name in ("row_spend", "event_spend"):
        frame[name] = frame[name].astype("float64")
    return frame


def discrepancy_json(row: Mapping[Any, Any]) -> dict[str, Any]:
    """One row of the discrepancies frame as the document shows it."""
    usage_time: pd.Timestamp = row["usage_time"]

    def amount(value: float) -> str | None:
        return None if pd.isna(value) else money(decimal_of(value))

    def text(value: Any) -> str | None:
        return None if pd.isna(value) else str(value)

    return {
        "class": row["class"],
        "charge_id": text(row["charge_id"]),
        "model": text(row["model"]),
        "request_id": text(row["request_id"]),
        "transaction_id": text(row["transaction_id"]),
        "usage_time": usage_time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "row_spend": amount(row["row_spend"]),
        "event_spend": amount(row["event_spend"]),
        "reason": text(row["reason"]),
        "detail": text(row["detail"]),
    }


def _sides(group: Group) -> dict[str, Any]:
    return {"rows": _classes_json(group.rows), "events": _classes_json(group.events)}


def _classes_json(classes: Mapping[str, RowTotals] | Mapping[str, EventTotals]) -> dict[str, Any]:
    return {str(name): totals.as_json() for name, totals in classes.items()}


def _every(classes: Mapping[str, _Totals], names: Iterable[str], nothing: _Totals) -> dict[str, _Totals]:
    """The total and every class in order; zeros where it is empty."""
    return {str(name): classes.get(name, nothing) for name in ("total", *names)}


def _reasons(found: Mapping[str, Mapping[str, _Number]], nothing: _Number) -> dict[str, dict[str, _Number]]:
    return {
        str(name): {str(reason): nothing for reason in _REASONS.get(name, ())}
        | {str(reason): number for reason, number in found.get(name, {}).items()}
        for name in dict.fromkeys((*_REASONS, *found))
    }

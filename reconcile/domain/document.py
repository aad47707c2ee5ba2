"""The result document: one typed value that every output is rendered from.

Money is a `Decimal` in the unit of LiteLLM's `spend` (USD); times are aware datetimes in UTC. Renderers format these
figures and compute none of their own. `Document.as_json` gives the JSON form that CONTRACT holds still.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pandas as pd

from reconcile.domain.money import add, decimal_of
from reconcile.domain.money import plain as money

SCHEMA_VERSION = 1

ROW_CLASSES = (
    "excluded",
    "unattributed",
    "matched",
    "matched_live",
    "mismatched",
    "misdirected",
    "delivered",
    "missing",
    "held",
    "rejected",
)
EVENT_CLASSES = ("matched", "matched_live", "mismatched", "misdirected", "duplicate", "orphan")
DISCREPANCY_CLASSES = (
    "mismatched",
    "misdirected",
    "duplicate",
    "orphan",
    "held",
    "rejected",
    "unattributed",
    "missing",
)
DISCREPANCIES_LISTED = 1_000

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
    """What Lago bills for one charge ID in one of its billing periods, beside what the listed events say."""

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

    kind: str
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

    def as_json(self, listed: int | None = DISCREPANCIES_LISTED) -> dict[str, Any]:
        """The JSON form; `listed` bounds the discrepancies (None: all of them, as in report files)."""
        shown = self.discrepancies if listed is None else self.discrepancies.head(listed)
        return {
            "schema_version": SCHEMA_VERSION,
            "run_id": self.run_id,
            "command": self.command,
            "dry_run": self.dry_run,
            "status": self.status,
            "verified": self.verified,
            "window": {"from": instant(self.window_from), "to": instant(self.window_to)},
            "stream": {"lago": self.lago, "event_code": self.event_code, "charge_by": self.charge_by},
            "rows": {name: totals.as_json() for name, totals in self.rows.items()},
            "events": {name: totals.as_json() for name, totals in self.events.items()},
            "reasons": {name: dict(counts) for name, counts in self.reasons.items()},
            "reason_spend": {
                name: {reason: money(spend) for reason, spend in spends.items()}
                for name, spends in self.reason_spend.items()
            },
            "ambiguous": self.ambiguous,
            "by_charge_id": [{"charge_id": g.charge_id, **_sides(g)} for g in self.by_charge_id],
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
            "late": {name: totals.as_json() for name, totals in self.late.items()},
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
            },
            "previous": None
            if self.previous is None
            else {
                "run_id": self.previous.run_id,
                "finished_at": instant(self.previous.finished_at),
                "rows": {name: totals.as_json() for name, totals in self.previous.rows.items()},
                "events": {name: totals.as_json() for name, totals in self.previous.events.items()},
            },
            "fault": None if self.fault is None else {"kind": self.fault.kind, "message": self.fault.message},
        }


def from_json(found: Mapping[str, Any]) -> Document:
    """A document as a run left it in the ledger: with its listed discrepancies, without the totals per ID and day."""
    method = found["method"]
    return Document(
        run_id=found["run_id"],
        command=found["command"],
        dry_run=found["dry_run"],
        status=found["status"],
        verified=found["verified"],
        window_from=_moment(found["window"]["from"]),
        window_to=_moment(found["window"]["to"]),
        **found["stream"],
        rows=_row_classes(found["rows"]),
        events=_event_classes(found["events"]),
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
        late=_row_classes(found["late"]),
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


def instant(moment: datetime) -> str:
    """ISO 8601 in UTC with `Z`; milliseconds where they are not zero."""
    moment = moment.astimezone(UTC)
    timespec = "milliseconds" if moment.microsecond else "seconds"
    return moment.isoformat(timespec=timespec).replace("+00:00", "Z")


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
    return {
        "rows": {name: totals.as_json() for name, totals in group.rows.items()},
        "events": {name: totals.as_json() for name, totals in group.events.items()},
    }

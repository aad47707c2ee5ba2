"""The result document: one typed value that every output is rendered from.

Money is a `Decimal` in the unit of LiteLLM's `spend` (USD); times are aware datetimes in UTC. Renderers format these
figures and compute none of their own. `Document.as_json` gives the JSON form, `from_json` reads it back: also one that
an older version wrote, whose classes were fewer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final, TypeVar

import pandas as pd

from reconcile.domain.dates import instant
from reconcile.domain.money import decimal_of
from reconcile.domain.money import plain as money
from reconcile.domain.parts import (
    EventTotals,
    Fault,
    Finding,
    Group,
    LagoUsage,
    Method,
    Previous,
    RowTotals,
    SpendLogsGap,
    classes_json,
    disagreeing,
    event_classes,
    every,
    finding_of,
    method_of,
    moment,
    previous_run,
    row_classes,
)
from reconcile.domain.vocabulary import DISCREPANCY_CLASSES, EVENT_CLASSES, ROW_CLASSES, FindingKind, Reason, RowClass

__all__ = [
    "DISCREPANCIES_LISTED",
    "DISCREPANCY_CLASSES",
    "DISCREPANCY_COLUMNS",
    "EVENT_CLASSES",
    "ROW_CLASSES",
    "SCHEMA_VERSION",
    "Document",
    "EventTotals",
    "Fault",
    "Finding",
    "Group",
    "LagoUsage",
    "Method",
    "Previous",
    "RowTotals",
    "SpendLogsGap",
    "disagreeing",
    "discrepancy_json",
    "from_json",
    "instant",
    "previous_run",
]

SCHEMA_VERSION = 1

DISCREPANCIES_LISTED = 1_000
CHARGE_IDS_LISTED = 1_000

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


_Number = TypeVar("_Number", int, str)


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

    def outside(self, name: str) -> RowTotals:
        """Rows of a class outside the window: late ones, and of `held` those that stay held back, without tokens."""
        found = self.late.get(name, RowTotals())
        stay = [
            finding for finding in self.findings if finding.kind == FindingKind.STILL_HELD and name == RowClass.HELD
        ]
        return sum((RowTotals(finding.count, finding.spend) for finding in stay), found)

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
            "rows": classes_json(every(self.rows, ROW_CLASSES, RowTotals())),
            "events": classes_json(every(self.events, EVENT_CLASSES, EventTotals())),
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
                {"charge_id": g.charge_id, **g.sides_json()}
                for g in (self.by_charge_id if whole else self._charge_ids())
            ],
            "by_charge_id_total": len(self.by_charge_id),
            "by_model": [{"model": g.model, **g.sides_json()} for g in self.by_model],
            "by_day": [{"day": g.day.isoformat() if g.day else None, **g.sides_json()} for g in self.by_day],
            "discrepancies": [discrepancy_json(row) for row in shown.to_dict("records")],
            "discrepancies_total": len(self.discrepancies),
            "spend_logs_gap": [gap.as_json() for gap in self.spend_logs_gap],
            "lago_usage": [usage.as_json() for usage in self.lago_usage],
            "late": classes_json(self.late),
            "findings": [finding.as_json() for finding in self.findings],
            "method": self.method.as_json(),
            "previous": None if self.previous is None else self.previous.as_json(),
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
    window = found["window"]
    return Document(
        run_id=found["run_id"],
        command=found["command"],
        dry_run=found["dry_run"],
        status=found["status"],
        verified=found["verified"],
        window_from=moment(window["from"]),
        window_to=moment(window["to"]),
        window_asked_to=moment(window["asked_to"]) if "asked_to" in window else None,
        window_extended_from=moment(window["extended_from"]) if "extended_from" in window else None,
        **found["stream"],
        rows=every(row_classes(found["rows"]), ROW_CLASSES, RowTotals()),
        events=every(event_classes(found["events"]), EVENT_CLASSES, EventTotals()),
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
        method=method_of(found["method"]),
        fault=None if found["fault"] is None else Fault(**found["fault"]),
        findings=tuple(map(finding_of, found["findings"])),
        previous=previous_run(found["previous"]),
        late=row_classes(found.get("late", {})),
    )


def _group(found: Mapping[str, Any], **names: Any) -> Group:
    return Group(row_classes(found["rows"]), event_classes(found["events"]), **names)


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


def _reasons(found: Mapping[str, Mapping[str, _Number]], nothing: _Number) -> dict[str, dict[str, _Number]]:
    return {
        str(name): {str(reason): nothing for reason in _REASONS.get(name, ())}
        | {str(reason): number for reason, number in found.get(name, {}).items()}
        for name in dict.fromkeys((*_REASONS, *found))
    }

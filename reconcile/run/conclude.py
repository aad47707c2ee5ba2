"""From what a run has gathered to the result document. Reads nothing more."""

from __future__ import annotations

import platform
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from importlib.metadata import version

import numpy as np

from reconcile import __version__
from reconcile.domain.document import (
    Document,
    EventTotals,
    Fault,
    Finding,
    LagoUsage,
    Method,
    Previous,
    RowTotals,
    SpendLogsGap,
)
from reconcile.domain.exact import total
from reconcile.domain.money import add
from reconcile.domain.tally import Tally, billable_spend
from reconcile.domain.vocabulary import DISCREPANCY_CLASSES, FindingKind, RowClass
from reconcile.errors import ReconcileError
from reconcile.litellm.day_totals import lost_rows
from reconcile.run.books import Books
from reconcile.run.order import Order, Timing
from reconcile.run.plan import Plan
from reconcile.settings import Settings

_REASONED = ("excluded", "held", "rejected", "unbilled")
_LATE_FINDINGS = {
    RowClass.DELIVERED: FindingKind.LATE_DELIVERED,
    RowClass.MISSING: FindingKind.LATE_MISSING,
    RowClass.HELD: FindingKind.LATE_HELD,
    RowClass.REJECTED: FindingKind.LATE_REJECTED,
    RowClass.UNBILLED: FindingKind.LATE_UNBILLED,
    RowClass.MISMATCHED: FindingKind.LATE_MISMATCHED,
    RowClass.MISDIRECTED: FindingKind.LATE_MISDIRECTED,
}


@dataclass(frozen=True, slots=True)
class Seen:
    """What a run came to, beside its books."""

    verified: bool | None = None
    fault: ReconcileError | None = None
    plan: Plan | None = None
    findings: tuple[Finding, ...] = ()
    gaps: tuple[SpendLogsGap, ...] = ()
    usage: tuple[LagoUsage, ...] = ()
    previous: Previous | None = None
    store: str = ""
    requests: int = 0
    retries: int = 0
    in_flight: Mapping[str, float] = field(default_factory=dict)
    in_flight_limit: Mapping[str, int] = field(default_factory=dict)
    workers: int = 1


def document(settings: Settings, order: Order, run_id: str, timing: Timing, books: Books, seen: Seen) -> Document:
    """The document of a run, whatever it came to."""
    tally, plan = books.tally, seen.plan
    late = {name: found for name, found in tally.outside().items() if found.count}
    reasons, spend = _reasons(tally)
    window = plan.window if plan is not None else order.window
    return Document(
        run_id=run_id,
        command=order.command,
        dry_run=order.dry_run,
        status=_status(tally, late, settings.fail_on, seen.fault),
        verified=seen.verified,
        window_from=window.start,
        window_to=window.end,
        window_asked_to=order.asked_to,
        window_extended_from=order.extended_from,
        lago=settings.lago_api_base,
        event_code=settings.event_code,
        charge_by=settings.charge_by,
        rows=tally.row_classes(),
        events=tally.event_classes(),
        reasons=reasons,
        reason_spend=spend,
        ambiguous=tally.ambiguous,
        by_charge_id=tally.by_charge_id(),
        by_model=tally.by_model(),
        by_day=tally.by_day(),
        by_charge_id_and_day=tally.by_charge_id_and_day(),
        discrepancies=books.discrepancies(),
        method=_method(settings, timing, seen),
        fault=None if seen.fault is None else Fault(seen.fault.kind, str(seen.fault)),
        findings=(*_findings(settings, books, seen, late), *seen.findings),
        previous=seen.previous,
        late=late,
        spend_logs_gap=seen.gaps,
        lago_usage=seen.usage,
    )


def _status(tally: Tally, late: Mapping[str, RowTotals], fail_on: Collection[str], fault: ReconcileError | None) -> str:
    """Late rows count as the window's own. Rows that stay held do not: they already failed an earlier run."""
    if fault is not None:
        return "incomplete"
    rows, events = tally.row_classes(), tally.event_classes()
    late = {name: found for name, found in late.items() if name != RowClass.HELD.value}
    failing = [
        name
        for name in {*fail_on, RowClass.MISSING.value}
        if _count(rows, name) or _events_that_fail(rows, events, name) or _count(late, name)
    ]
    return "discrepancies" if failing else "agreed"


def _events_that_fail(rows: Mapping[str, RowTotals], events: Mapping[str, EventTotals], name: str) -> int:
    """A live event that is not counted beside the row's own event is `unbilled`, and no discrepancy."""
    return 0 if name == RowClass.UNBILLED.value else _count(events, name)


def _count(classes: Mapping[str, RowTotals] | Mapping[str, EventTotals], name: str) -> int:
    return classes[name].count if name in classes else 0


def _reasons(tally: Tally) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, Decimal]]]:
    """Count and money by class and reason, of the classes that are discrepancies and those that always show reasons."""
    counts: dict[str, dict[str, int]] = {name: {} for name in _REASONED}
    spend: dict[str, dict[str, Decimal]] = {name: {} for name in _REASONED}
    for (name, reason), (count, money) in sorted(tally.reasons().items()):
        if reason and (name in _REASONED or name in DISCREPANCY_CLASSES):
            counts.setdefault(name, {})[reason] = count
            spend.setdefault(name, {})[reason] = money
    return counts, spend


def _findings(settings: Settings, books: Books, seen: Seen, late: Mapping[str, RowTotals]) -> Iterator[Finding]:
    if books.doubt is not None and seen.fault is None:
        yield Finding(FindingKind.DOUBTFUL, books.doubt.text(), books.doubt.rows)
    count, money = books.pushed
    if count:
        names = ", ".join(
            part
            for part in (
                f"RECONCILE_PUSH_DOUBTFUL={','.join(sorted(settings.push_doubtful))}" if settings.push_doubtful else "",
                "RECONCILE_NOT_COUNTED=push" if settings.not_counted == "push" else "",
            )
            if part
        )
        text = f"rows that have an event in Lago were sent all the same, because {names}"
        yield Finding(FindingKind.PUSHED_DOUBTFUL, text, count, money)
    for name, kind in _LATE_FINDINGS.items():
        if name in late:
            text = f"rows from before the window, found late or held back before, that are {name} now"
            yield Finding(kind, text, late[name].count, late[name].spend)
    yield from _still_held(books, seen)
    yield from _slow_events(settings, books)
    if books.free_of_charge:
        models = ", ".join(
            f"{model or 'no model'} ({number})"
            for model, number in sorted(books.free_of_charge.items(), key=lambda one: (-one[1], one[0]))[:10]
        )
        text = f"rows with tokens and a spend of 0: LiteLLM knows no price for {models}"
        yield Finding(FindingKind.FREE_OF_CHARGE, text, sum(books.free_of_charge.values()))
    if seen.plan is not None and seen.plan.recount.cut:
        cut = seen.plan.recount.cut
        count, money = books.set_aside
        yield Finding(
            FindingKind.RETENTION,
            f"LiteLLM has deleted {sum(cut.values())} rows of {len(cut)} hours since they were reconciled; {count} "
            "events of the window belong to them and are not counted here",
            sum(cut.values()),
            money,
        )
    if seen.gaps:
        yield _gap(seen.gaps)
    if books.days.losing_ids:
        yield Finding(
            FindingKind.LOST_REQUEST_IDS,
            "rows whose request ID is 'None' or a short number: LiteLLM keeps the first row of an ID alone, and drops "
            "those that come with it again",
            books.days.losing_ids,
        )


def _still_held(books: Books, seen: Seen) -> Iterator[Finding]:
    """The rows outside the window that stay held back: this run could not send them either."""
    held = [row for row in seen.plan.held if row.key not in books.decided] if seen.plan is not None else []
    if held:
        spend = np.array([float(row.row["spend"]) for row in held], np.float64)
        reasons: dict[str, int] = {}
        for row in held:
            reasons[row.reason] = reasons.get(row.reason, 0) + 1
        told = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
        text = f"rows from outside the window stay held back ({told})"
        yield Finding(FindingKind.STILL_HELD, text, len(held), total(billable_spend(spend)))


def _slow_events(settings: Settings, books: Books) -> Iterator[Finding]:
    late, early = books.offset_at(0.99), books.offset_at(0.01)
    if late is None or early is None:
        return
    before, after = books.reach_ms
    if late > after / 2 or -early > before / 2:
        text = (
            f"1 % of the live events are stamped {max(late, 0) / 1000:.1f} s or more after their rows, or "
            f"{max(-early, 0) / 1000:.1f} s before them; beyond RECONCILE_MATCH_AFTER ({after / 1000:.0f} s) and "
            f"RECONCILE_MATCH_BEFORE ({before / 1000:.0f} s) they are not found: LiteLLM's queue is slow, or a "
            "clock is off"
        )
        yield Finding(FindingKind.SLOW_EVENTS, text, int(books.offsets.sum()))


def _gap(gaps: Sequence[SpendLogsGap]) -> Finding:
    lost = [gap for gap in gaps if lost_rows(gap)]
    money = add(gap.daily_spend for gap in gaps) - add(gap.rows_spend for gap in gaps)
    text = (
        f"LiteLLM's own daily totals ({gaps[0].table}) differ from the spend log on {len(gaps)} days and charge IDs; "
        f"on {len(lost)} of them they say more: there the spend log has lost rows that nobody can bill"
    )
    missing = sum(max(0, gap.daily_requests - gap.rows_requests) for gap in lost)
    return Finding(FindingKind.SPEND_LOGS_GAP, text, missing, money)


def _method(settings: Settings, timing: Timing, seen: Seen) -> Method:
    return Method(
        started_at=timing.started_at,
        finished_at=datetime.now(UTC),
        time_zone=settings.time_zone.key,
        versions={
            "reconcile": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("pandas", "pyarrow", "sqlalchemy", "httpx")},
        },
        settings=settings.public(),
        lago_store=seen.store,
        slices=0 if seen.plan is None else seen.plan.parts,
        requests=seen.requests,
        retries=seen.retries,
        stage_seconds={name: round(seconds, 3) for name, seconds in timing.seconds.items()},
        in_flight=dict(seen.in_flight),
        in_flight_limit=dict(seen.in_flight_limit),
        workers=seen.workers,
    )

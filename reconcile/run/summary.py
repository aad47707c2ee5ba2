"""From the closed books to the result document and the exit code. Reads nothing but what the run has gathered."""

from __future__ import annotations

import platform
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from importlib.metadata import version

import numpy as np

from reconcile import __version__
from reconcile.domain.document import (
    DISCREPANCY_CLASSES,
    Document,
    EventTotals,
    Fault,
    Finding,
    LagoUsage,
    Method,
    Previous,
    RowTotals,
    SpendLogsGap,
    previous_run,
)
from reconcile.domain.money import total
from reconcile.errors import BooksFault, ReconcileError
from reconcile.run import totals
from reconcile.run.books import Books
from reconcile.run.context import Order, Timing
from reconcile.run.work import Work
from reconcile.settings import Settings

EXIT_CODES = {"agreed": 0, "discrepancies": 1, "incomplete": 3}
# Reasons that always stand in the document, as 0 where there is no such row.
_REASONS = {"excluded": ("failure",), "held": (), "rejected": ()}


def document(order: Order, work: Work, fault: ReconcileError | None) -> Document:
    """The document of a run. Books that do not balance make it incomplete."""
    context, settings = work.context, work.context.settings
    sides = context.sides
    try:
        work.books.check()
    except BooksFault as error:
        fault = fault or error
    previous = None
    if fault is None:
        run = sides.ledger.previous(sides.stream, (order.window.start, order.window.end), context.run_id)
        if run is not None:
            previous = previous_run({**run["document"], "finished_at": run["document"]["method"]["finished_at"]})
    late = {name: found for name, found in work.late_books.row_classes().items() if found.count}
    return _assembled(
        settings,
        order,
        context.run_id,
        work.books,
        verified=context.verified,
        method=_method(
            settings,
            context.timing,
            store="clickhouse" if sides.clickhouse else "postgres",
            slices=context.slices,
            requests=sides.lago.requests,
            retries=sides.lago.retries,
        ),
        fault=fault,
        findings=(*_findings(work, late), *totals.findings(work.gaps, work.day_totals)),
        previous=previous,
        late=late,
        late_books=work.late_books,
        spend_logs_gap=work.gaps,
        usage=work.usage,
    )


def _findings(work: Work, late: Mapping[str, RowTotals]) -> Iterator[Finding]:
    context, settings = work.context, work.context.settings
    for warning in context.sides.warnings:
        yield Finding("lago_counts", warning)
    if context.timing.started_at - settings.lag < work.window_end:
        yield Finding(
            "not_over",
            "the window reaches past what LiteLLM had surely written when this run began: run it again when it is over",
        )
    if context.pushed_doubtful:
        yield Finding(
            "pushed_doubtful",
            "rows whose event may be in Lago already were sent all the same, because RECONCILE_PUSH_DOUBTFUL="
            + ",".join(sorted(settings.push_doubtful)),
            context.pushed_doubtful,
            context.pushed_spend,
        )
    for name in ("delivered", "missing", "held", "rejected", "mismatched", "misdirected"):
        if name in late:
            yield Finding(
                f"late_{name}",
                f"rows from before the window, found late or held back before, that are {name} now",
                late[name].count,
                late[name].spend,
            )
    if work.still_held.count:
        yield Finding(
            "still_held",
            "rows from outside the window stay held back: no subscription covers them, or their period is closed",
            work.still_held.count,
            work.still_held.spend,
        )
    if work.recount is not None and work.recount.cut_rows:
        costs = np.concatenate([*context.set_aside, np.empty(0)])
        yield Finding(
            "retention",
            f"LiteLLM has deleted {work.recount.cut_rows} rows of {work.recount.cut_hours} hours since they were "
            f"reconciled; {len(costs)} events of the window belong to them and are not counted here",
            work.recount.cut_rows,
            total(costs),
        )


def of_nothing(settings: Settings, order: Order, run_id: str, timing: Timing, fault: ReconcileError) -> Document:
    """The document of a run that a fault stopped before it could read anything."""
    method = _method(settings, timing, store="", slices=0, requests=0, retries=0)
    books = Books(lambda times: times)
    return _assembled(settings, order, run_id, books, verified=None, method=method, fault=fault)


def _status(books: Books, late: Mapping[str, RowTotals], fail_on: Collection[str], fault: ReconcileError | None) -> str:
    """Late rows count as the window's own, but for those that stay held back: they had their say when they were new."""
    if fault is not None:
        return "incomplete"
    rows, events = books.row_classes(), books.event_classes()
    late = {name: found for name, found in late.items() if name != "held"}
    failing = [
        name for name in {*fail_on, "missing"} if _count(rows, name) or _count(events, name) or _count(late, name)
    ]
    return "discrepancies" if failing else "agreed"


def _count(classes: Mapping[str, RowTotals] | Mapping[str, EventTotals], name: str) -> int:
    return classes[name].count if name in classes else 0


def _assembled(
    settings: Settings,
    order: Order,
    run_id: str,
    books: Books,
    *,
    verified: bool | None,
    method: Method,
    fault: ReconcileError | None,
    findings: tuple[Finding, ...] = (),
    previous: Previous | None = None,
    late: Mapping[str, RowTotals] | None = None,
    late_books: Books | None = None,
    spend_logs_gap: tuple[SpendLogsGap, ...] = (),
    usage: tuple[LagoUsage, ...] = (),
) -> Document:
    reasons: dict[str, dict[str, int]] = {name: dict.fromkeys(always, 0) for name, always in _REASONS.items()}
    spend: dict[str, dict[str, Decimal]] = {
        name: dict.fromkeys(always, Decimal(0)) for name, always in _REASONS.items()
    }
    for (kind, reason), (count, money) in sorted(books.reasons.items()):
        if kind in reasons or kind in DISCREPANCY_CLASSES:
            reasons.setdefault(kind, {})[reason] = count
            spend.setdefault(kind, {})[reason] = money
    return Document(
        run_id=run_id,
        command=order.command,
        dry_run=order.dry_run,
        status=_status(books, late or {}, settings.fail_on, fault),
        verified=verified,
        window_from=order.window.start,
        window_to=order.window.end,
        lago=settings.lago_api_base,
        event_code=settings.event_code,
        charge_by=settings.charge_by,
        rows=books.row_classes(),
        events=books.event_classes(),
        reasons=reasons,
        reason_spend=spend,
        ambiguous=books.ambiguous,
        by_charge_id=books.by_charge_id(),
        by_model=books.by_model(),
        by_day=books.by_day(),
        by_charge_id_and_day=books.by_charge_id_and_day(),
        discrepancies=books.discrepancies(late_books),
        method=method,
        fault=None if fault is None else Fault(fault.kind, str(fault)),
        findings=findings,
        previous=previous,
        late=late or {},
        spend_logs_gap=spend_logs_gap,
        lago_usage=usage,
    )


def _method(settings: Settings, timing: Timing, *, store: str, slices: int, requests: int, retries: int) -> Method:
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
        lago_store=store,
        slices=slices,
        requests=requests,
        retries=retries,
        stage_seconds={name: round(seconds, 3) for name, seconds in timing.seconds.items()},
    )

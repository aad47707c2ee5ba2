"""What must be right before anything is sent, for the job and for `reconcile check`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from reconcile.errors import PreflightError, ReconcileError
from reconcile.lago import Lago, Metric, Organization
from reconcile.ledger import Ledger, Stream
from reconcile.litellm.spend_logs import SpendLogs
from reconcile.settings import Settings

# Aggregations that read a property of the event (Lago 1.51); count_agg counts events, custom_agg has its own code.
_READS_A_PROPERTY = ("sum_agg", "max_agg", "unique_count_agg", "weighted_sum_agg", "latest_agg")
_NUMERIC = ("sum_agg", "max_agg", "weighted_sum_agg", "latest_agg")


@dataclass(frozen=True, slots=True)
class Sides:
    """Both sides and the ledger, connected and found in order."""

    spend_logs: SpendLogs
    lago: Lago
    ledger: Ledger
    organization: Organization
    metric: Metric
    stream: Stream
    clickhouse: bool
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `reconcile check`."""

    name: str
    ok: bool
    text: str

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "ok": self.ok, "text": self.text}


def open_lago(settings: Settings, stop: threading.Event) -> Lago:
    return Lago(
        settings.lago_api_base,
        settings.lago_api_key.get_secret_value(),
        concurrency=settings.concurrency,
        timeout=settings.timeout.total_seconds(),
        stop=stop,
        page_size=settings.page_size,
    )


def open_spend_logs(settings: Settings) -> SpendLogs:
    database = settings.database
    return SpendLogs(database.libpq, database.schema, settings.charge_column, database.display)


def open_ledger(settings: Settings) -> Ledger:
    return Ledger(settings.state.sqlalchemy, settings.state.display)


@contextmanager
def connected(settings: Settings, stop: threading.Event, *, locks: bool) -> Iterator[Sides]:
    """Connects to everything and checks it. Raises `PreflightError` (exit 2) on a wrong answer, faults on none.

    With `locks` a second run of the same settings is told so (`LockedError`) before Lago is asked anything: it may be
    slow, or down.
    """
    with ExitStack() as stack:
        spend_logs = stack.enter_context(open_spend_logs(settings))
        spend_logs.preflight()
        ledger = stack.enter_context(open_ledger(settings))
        ledger.migrate()
        if locks:
            base = settings.lago_api_base
            own = Stream(base, base, settings.event_code, settings.charge_by)
            stack.enter_context(ledger.lock(own, key=settings.lago_api_key.get_secret_value()))
        lago = stack.enter_context(open_lago(settings, stop))
        organization = lago.preflight.organization()
        metric = find_metric(lago, settings.event_code)
        warnings = tuple(metric_problems(lago, metric, settings))
        yield Sides(
            spend_logs=spend_logs,
            lago=lago,
            ledger=ledger,
            organization=organization,
            metric=metric,
            stream=Stream(
                lago=settings.lago_api_base,
                organization=organization.lago_id or settings.lago_api_base,
                event_code=settings.event_code,
                charge_by=settings.charge_by,
            ),
            clickhouse=events_store(settings, organization) == "clickhouse",
            warnings=warnings,
        )


def events_store(settings: Settings, organization: Organization) -> str:
    """`postgres` or `clickhouse`: as set, else as Lago says (1.47 and later), else Postgres."""
    if settings.events_store != "auto":
        return settings.events_store
    return organization.events_store or "postgres"


def find_metric(lago: Lago, code: str) -> Metric:
    """Raises `PreflightError` where Lago has no metric of this code: it would store the events and bill nobody."""
    metric = lago.preflight.metric(code)
    if metric is None:
        raise PreflightError(
            f"LAGO_API_EVENT_CODE: Lago has no billable metric with the code {code!r}; create it in Lago "
            "(a sum over response_cost, say) or name the code of one that it has"
        )
    return metric


def metric_problems(lago: Lago, metric: Metric, settings: Settings) -> list[str]:
    """What Lago would not count in the events that we send. Raises `PreflightError` where it would count none."""
    sent = set(settings.properties.values())
    numbers = {name for inside, name in settings.properties.items() if inside not in ("model", "request_id")}
    if metric.expression:
        return [f"metric {metric.code}: Lago computes its value by the expression {metric.expression!r}"]
    if metric.aggregation_type in _READS_A_PROPERTY and metric.field_name not in sent:
        raise PreflightError(
            f"LAGO_API_EVENT_CODE: the metric {metric.code!r} aggregates the property {metric.field_name!r}, which the "
            f"events do not carry; they carry {', '.join(sorted(sent))}: change the metric's field, or send it under "
            "that name by RECONCILE_PROPERTIES"
        )
    if metric.aggregation_type in _NUMERIC and metric.field_name not in numbers:
        raise PreflightError(
            f"LAGO_API_EVENT_CODE: the metric {metric.code!r} adds up the property {metric.field_name!r}, which is no "
            f"number; numbers are {', '.join(sorted(numbers))}"
        )
    problems = []
    for one in metric.filters:
        if one.key not in sent:
            problems.append(
                f"metric {metric.code}: the filter on {one.key!r} never matches, since the events do not carry it"
            )
    charges = lago.preflight.charges(metric.code)
    for charge in charges:
        for key in charge.group_keys:
            if key not in sent:
                problems.append(f"plan {charge.plan_code}: usage is grouped by {key!r}, which the events do not carry")
        if charge.charge_model == "dynamic" and settings.precise_amount is None:
            problems.append(
                f"plan {charge.plan_code}: a dynamic charge bills precise_total_amount_cents; set "
                "RECONCILE_PRECISE_AMOUNT, for example RECONCILE_PRECISE_AMOUNT=1"
            )
    return problems


def checks(settings: Settings) -> list[Check]:
    """Every check of the preflight, each with its result and, where it failed, the way out. Sends nothing."""
    results: list[Check] = []

    def check(name: str, work: Callable[[], str]) -> bool:
        try:
            results.append(Check(name, True, work()))
        except ReconcileError as error:
            results.append(Check(name, False, str(error)))
        return results[-1].ok

    def spend_log() -> str:
        with open_spend_logs(settings) as spend_logs:
            tables = spend_logs.preflight().row_tables
        return f"{settings.database.display}: {', '.join(tables)} can be read, charged by {settings.charge_column}"

    def state() -> str:
        with open_ledger(settings) as ledger:
            if ledger.is_current():
                return f"{settings.state.display}: schema reconcile is up to date"
            return (
                f"{settings.state.display}: schema reconcile is not there yet, or older; `reconcile migrate` or the "
                "next run sees to it"
            )

    if check("LiteLLM's spend log", spend_log) or settings.state_url is not None:
        check("the job's own state", state)
    with open_lago(settings, threading.Event()) as lago:

        def organization() -> str:
            found = lago.preflight.organization()
            name = found.name or "the key's organization"
            return f"{settings.lago_api_base}: {name}, events in {events_store(settings, found)}"

        def metric() -> str:
            found = find_metric(lago, settings.event_code)
            problems = metric_problems(lago, found, settings)
            field = f" of {found.field_name}" if found.field_name else ""
            return "; ".join([f"{found.code}: {found.aggregation_type or 'unknown aggregation'}{field}", *problems])

        def subscriptions() -> str:
            found = lago.preflight.subscriptions()
            if found.empty:
                raise PreflightError(
                    "Lago has no subscription: every row would be held; create subscriptions whose external ID is the "
                    "charge ID"
                )
            return f"{len(found)} in Lago, {int(found['status'].eq('active').sum())} of them active"

        # One wrong answer is one line: what comes after it would only say it again.
        _ = (
            check("Lago", organization)
            and check("the billable metric", metric)
            and check("subscriptions", subscriptions)
        )
    return results

"""The checks of `reconcile check`, each with its result and what to do. Sends nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from reconcile.domain.instants import milliseconds
from reconcile.errors import PreflightError, ReconcileError, WorkerFault
from reconcile.lago import Lago, Metric
from reconcile.lago.directory import Directory
from reconcile.lago.pricing import live_events_lack, remarks
from reconcile.litellm.spend_logs import SpendLogs
from reconcile.run.preflight import (
    check_lago_clock,
    check_postgres_clock,
    events_store,
    find_metric,
    open_lago,
    open_ledger,
    open_spend_logs,
)
from reconcile.run.workers import open_workers
from reconcile.settings import Settings

# More events than rows by this factor, over the last day, tell of another proxy on the same code.
_MORE = 1.2


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `reconcile check`."""

    name: str
    ok: bool
    text: str

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "ok": self.ok, "text": self.text}


class Forgetful:
    """No memory: a check asks afresh, and keeps nothing."""

    def load(self, keys: Any) -> dict[str, Any]:
        return {}

    def store(self, entries: Any) -> None:
        return


@dataclass(slots=True)
class _Found:
    """What earlier checks found that later ones need."""

    rows_of_a_day: int | None = None
    metric: Metric | None = None
    models: tuple[str, ...] = field(default_factory=tuple)


def checks(settings: Settings) -> list[Check]:
    """Every check of the preflight. One wrong answer is one line: what comes after it would only say it again."""
    results: list[Check] = []
    found = _Found()

    def check(name: str, work: Callable[[], str]) -> bool:
        try:
            results.append(Check(name, True, work()))
        except ReconcileError as error:
            results.append(Check(name, False, str(error)))
        return results[-1].ok

    if check("LiteLLM's spend log", lambda: _spend_log(settings, found)) or settings.state_url is not None:
        check("the job's own state", lambda: _state(settings))
    if settings.dask is not None:
        check("the Dask cluster", lambda: _cluster(settings))
    with open_lago(settings, threading.Event()) as lago:
        _ = (
            check("Lago", lambda: _lago(settings, lago))
            and check("the billable metric", lambda: _metric(settings, lago, found))
            and check("subscriptions", lambda: _subscriptions(settings, lago, found))
            and check("traffic", lambda: _traffic(settings, lago, found))
        )
    return results


def _spend_log(settings: Settings, found: _Found) -> str:
    with open_spend_logs(settings) as spend_logs:
        tables = spend_logs.preflight().row_tables
        check_postgres_clock(spend_logs)
        found.rows_of_a_day = _rows_of_a_day(settings, spend_logs)
    return f"{settings.database.display}: {', '.join(tables)} can be read, charged by {settings.charge_column}"


def _day(settings: Settings) -> tuple[datetime, datetime]:
    """The last whole hours of a day that are old enough."""
    end = (datetime.now(UTC) - settings.lag).replace(minute=0, second=0, microsecond=0)
    return end - timedelta(days=1), end


def _rows_of_a_day(settings: Settings, spend_logs: SpendLogs) -> int:
    from reconcile.domain.window import Window

    return int(spend_logs.hours(Window(*_day(settings))).sum())


def _state(settings: Settings) -> str:
    with open_ledger(settings) as ledger:
        if ledger.is_current():
            return f"{settings.state.display}: schema reconcile is up to date"
        return (
            f"{settings.state.display}: schema reconcile is not there yet, or older; `reconcile migrate` or the "
            "next run sees to it"
        )


def _cluster(settings: Settings) -> str:
    with open_workers(settings, threading.Event()) as workers:
        if not workers.count:
            raise WorkerFault(f"RECONCILE_DASK: the scheduler at {settings.dask} has no worker; start some")
        return f"{settings.dask}: {workers.count} workers"


def _lago(settings: Settings, lago: Lago) -> str:
    organization = lago.preflight.organization()
    ahead = check_lago_clock(lago)
    name = organization.name or "the key's organization"
    clock = "" if ahead is None else f", its clock {ahead:+.0f} s off this host's"
    return f"{settings.lago_api_base}: {name}, events in {events_store(settings, organization)}{clock}"


def _metric(settings: Settings, lago: Lago, found: _Found) -> str:
    metric = found.metric = find_metric(lago, settings)
    of_field = f" of {metric.field_name}" if metric.field_name else ""
    lacking = live_events_lack(metric, settings.properties)
    return "; ".join([f"{metric.code}: {metric.aggregation_type or 'unknown aggregation'}{of_field}", *lacking])


def _subscriptions(settings: Settings, lago: Lago, found: _Found) -> str:
    directory = Directory(
        lago.preflight,
        Forgetful(),
        code=settings.event_code,
        by_customer=settings.id_kind == "external_customer_id",
        now_ms=milliseconds(datetime.now(UTC)),
    )
    active, others, plans = directory.survey()
    if not active and not others:
        raise PreflightError(
            "Lago has no subscription: every row would be held; create subscriptions whose external ID is the charge "
            "ID (`reconcile setup` writes the calls)"
        )
    assert found.metric is not None
    told = [f"{active + others} in Lago, {active} of them active"]
    told += [
        remark.text
        for remark in remarks(
            found.metric, plans, settings.properties, precise_amount=settings.precise_amount is not None
        )
    ]
    return "; ".join(told)


def _traffic(settings: Settings, lago: Lago, found: _Found) -> str:
    """Two proxies that post under one code hide each other's lost events: their events look like orphans here."""
    start, end = _day(settings)
    events = lago.preflight.count_events(settings.event_code, start, end)
    if found.rows_of_a_day is None:
        return f"{events} events in Lago within a day"
    told = f"{found.rows_of_a_day} rows here and {events} events in Lago within a day"
    if events > 20 and events > _MORE * found.rows_of_a_day:
        told += (
            f": more is in Lago under {settings.event_code} than this database explains; if another proxy posts under "
            "the same code, give each its own, since one's events can hide the other's losses"
        )
    return told

"""What must be right before anything is sent: both sides and the ledger, connected and found in order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog

from reconcile.domain.instants import milliseconds
from reconcile.errors import PreflightError
from reconcile.lago import Lago, Metric, Organization
from reconcile.lago.pricing import refusal
from reconcile.ledger import Ledger, Stream
from reconcile.litellm.spend_logs import SpendLogs
from reconcile.run.clocks import APART, too_far_apart
from reconcile.run.workers import Workers, open_workers
from reconcile.settings import Settings

log = structlog.get_logger()

# How long a run goes by what an earlier one learned of Lago's patience: a Lago may be given more of it.
_WIDEST_KEPT = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Sides:
    """Both sides and the ledger. `litellm` names the database that the rows come from, without a password; `workers`
    is how many decode Lago's pages."""

    spend_logs: SpendLogs
    lago: Lago
    ledger: Ledger
    organization: Organization
    metric: Metric
    stream: Stream
    clickhouse: bool
    litellm: str
    workers: int = 1


def open_lago(
    settings: Settings,
    stop: threading.Event,
    workers: Workers | None = None,
    on_limit: Callable[[str, int, int], None] | None = None,
) -> Lago:
    return Lago(
        settings.lago_api_base,
        settings.lago_api_key.get_secret_value(),
        concurrency=settings.concurrency,
        timeout=settings.timeout.total_seconds(),
        stop=stop,
        page_size=settings.page_size,
        decode=(workers or Workers()).decode,
        on_limit=on_limit,
    )


def _log_limit(kind: str, before: int, limit: int) -> None:
    log.debug("requests to Lago in flight", kind=kind, limit=limit, before=before)


def open_spend_logs(settings: Settings) -> SpendLogs:
    database = settings.database
    return SpendLogs(database.libpq, database.schema, settings.charge_column, database.display)


def open_ledger(settings: Settings) -> Ledger:
    named = "RECONCILE_STATE_URL" if settings.state_url else "DATABASE_URL"
    return Ledger(settings.state.sqlalchemy, settings.state.display, named)


@contextmanager
def connected(settings: Settings, stop: threading.Event, *, locks: bool) -> Iterator[Sides]:
    """Connects to everything and checks it. Raises `PreflightError` (exit 2) on a wrong answer, faults on none.

    With `locks` a second run of the same settings is told so (`LockedError`) before Lago is asked anything: it may be
    slow, or down.
    """
    with ExitStack() as stack:
        spend_logs = stack.enter_context(open_spend_logs(settings))
        spend_logs.preflight()
        check_postgres_clock(spend_logs)
        ledger = stack.enter_context(open_ledger(settings))
        ledger.migrate()
        if locks:
            base = settings.lago_api_base
            own = Stream(base, base, settings.event_code, settings.charge_by)
            stack.enter_context(ledger.lock(own, key=settings.lago_api_key.get_secret_value()))
        workers = stack.enter_context(open_workers(settings, stop))
        lago = stack.enter_context(open_lago(settings, stop, workers, _log_limit))
        organization = lago.preflight.organization()
        check_lago_clock(lago)
        metric = find_metric(lago, settings)
        stream = Stream(
            lago=settings.lago_api_base,
            organization=organization.lago_id or settings.lago_api_base,
            event_code=settings.event_code,
            charge_by=settings.charge_by,
        )
        lago.learn_widest(ledger.widest(stream, milliseconds(datetime.now(UTC) - _WIDEST_KEPT)))
        yield Sides(
            spend_logs=spend_logs,
            lago=lago,
            ledger=ledger,
            organization=organization,
            metric=metric,
            stream=stream,
            clickhouse=events_store(settings, organization) == "clickhouse",
            litellm=f"{settings.database.display}/{settings.database.schema}",
            workers=workers.count,
        )


def check_postgres_clock(spend_logs: SpendLogs) -> datetime:
    """What Postgres' clock says. Raises `PreflightError` where it is more than a minute off this host's."""
    told, here = spend_logs.clock(), datetime.now(UTC)
    if too_far_apart(told, here):
        raise PreflightError(
            f"this host's clock says {here:%Y-%m-%d %H:%M:%S} UTC, and Postgres' {told:%Y-%m-%d %H:%M:%S}: one of them "
            "is wrong, and windows and events would be, too; set the clocks right (NTP)"
        )
    return told


def check_lago_clock(lago: Lago) -> float | None:
    """By how many seconds Lago's clock is ahead, where a proxy in front of it says (Lago sends no `Date` of its own).

    Raises `PreflightError` where it is surely more than a minute off this host's.
    """
    offset = lago.clock_offset
    if offset is None:
        return None
    if abs(offset.seconds) - offset.within > APART.total_seconds():
        raise PreflightError(
            f"this host's clock and Lago's are {abs(offset.seconds):.0f} s apart (header Date): live events "
            "would not be found beside their rows; set the clocks right (NTP)"
        )
    return offset.seconds


def events_store(settings: Settings, organization: Organization) -> str:
    """`postgres` or `clickhouse`: as set, else as Lago says (1.47 and later), else Postgres."""
    if settings.events_store != "auto":
        return settings.events_store
    return organization.events_store or "postgres"


def find_metric(lago: Lago, settings: Settings) -> Metric:
    """The billable metric of the event code.

    Raises `PreflightError` where Lago has none, or one that would count none of our events: Lago would store them and
    bill nobody.
    """
    code = settings.event_code
    metric = lago.preflight.metric(code)
    if metric is None:
        raise PreflightError(
            f"LAGO_API_EVENT_CODE: Lago has no billable metric with the code {code!r}; create it in Lago "
            "(`reconcile setup` writes the calls) or name the code of one that it has"
        )
    refused = refusal(metric, settings.properties)
    if refused is not None:
        raise PreflightError(refused)
    return metric

"""The stand-in itself: its database, its clock, its keys, and the application that it serves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import psycopg
from starlette.types import ASGIApp

from reconcile.sandbox.lago.app import application
from reconcile.sandbox.lago.call import Account
from reconcile.sandbox.lago.faults import FaultInjector, Faults
from reconcile.sandbox.lago.organization import Organization
from reconcile.sandbox.lago.posted import Metric
from reconcile.sandbox.lago.slow import Slow
from reconcile.sandbox.lago.store import Store
from reconcile.sandbox.lago.tables import TABLES
from reconcile.sandbox.lago.timestamps import naive
from reconcile.sandbox.lago.versions import NEWEST, Version

ACCOUNTS = """SELECT value, organization_id::text, events_store = 'clickhouse', deduplicates,
    reads_events OR NOT restricts_keys, writes_events OR NOT restricts_keys
FROM lago.api_keys JOIN lago.organizations ON organizations.id = organization_id"""

METRICS = """SELECT metric.organization_id::text, metric.code, aggregation_type, field_name, expression, EXISTS (
    SELECT FROM lago.plans AS plan, jsonb_array_elements(plan.charges) AS charge
    WHERE plan.organization_id = metric.organization_id AND (charge->>'pay_in_advance')::boolean
        AND charge->>'metric_id' = metric.id::text)
FROM lago.billable_metrics AS metric"""


class RequestSeen(NamedTuple):
    """A request as it arrived, faults included. `path` is not decoded."""

    method: str
    path: str
    query: str


def utc_now() -> datetime:
    return datetime.now(UTC)


class LagoStandIn:
    """Lago with its state in schema `lago` of a database; the tables are made if need be.

    `now` is the time that Lago believes in: it stamps what is made and events that come without a timestamp, and says
    which billing period is under way. It may be replaced at any time. `faults` holds the knobs. `requests` lists
    what arrived. Keys and metrics are kept in memory: one process is the master of a database. `slow`: answers take
    as long as a real Lago's.
    """

    def __init__(
        self,
        database_url: str,
        now: Callable[[], datetime] = utc_now,
        *,
        version: Version = NEWEST,
        slow: Slow | None = None,
    ) -> None:
        self.now = now
        self.version = version
        self.slow = slow
        self.faults = Faults()
        self.requests: list[RequestSeen] = []
        self.database_url = database_url
        self._connection = psycopg.connect(database_url, autocommit=True)
        self._accounts: dict[str, Account] = {}
        self._metrics: dict[str, dict[str, Metric]] = {}
        self.execute(TABLES)
        self.reload()

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> LagoStandIn:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def app(self) -> ASGIApp:
        """The ASGI application. Each one has its own connections, for the one event loop that serves it."""

        def seen(method: str, path: str, query: str) -> None:
            self.requests.append(RequestSeen(method, path, query))

        inner = application(self, Store(self.database_url), self.slow)
        return FaultInjector(inner, self.faults, seen, self.clock)

    def add_organization(
        self,
        key: str,
        *,
        name: str = "Acme",
        events_store: Literal["postgres", "clickhouse"] = "postgres",
        deduplicates: bool = False,
        restricts_keys: bool = True,
    ) -> Organization:
        """An organization with an API key that may do everything.

        `deduplicates`: a ClickHouse organization bills events of equal identity once; otherwise copies are billed
        until they are merged (`Organization.merge_events`). Over HTTP nothing tells which it is.
        `restricts_keys`: it has the premium integration that makes restrictions of keys count.
        """
        ((lago_id,),) = self.execute(
            """INSERT INTO lago.organizations (name, events_store, deduplicates, restricts_keys, created_at)
                VALUES (%s, %s, %s, %s, %s) RETURNING id::text""",
            (name, events_store, deduplicates, restricts_keys, naive(self.clock())),
        )
        organization = Organization(self, lago_id, events_store == "clickhouse", deduplicates)
        organization.add_key(key)
        return organization

    def account(self, key: str) -> Account | None:
        return self._accounts.get(key)

    def metrics(self, organization: str) -> Mapping[str, Metric]:
        """What the receipt of events needs to know of an organization's metrics, by code."""
        return self._metrics.get(organization, {})

    def clock(self) -> datetime:
        """What Lago takes for the time."""
        return self.now() + self.faults.clock_skew

    def execute(self, statement: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        """Runs a statement on the stand-in's own connection; its rows, if it has any. From any thread."""
        cursor = self._connection.execute(statement.encode(), parameters)
        return cursor.fetchall() if cursor.description else []

    def reload(self) -> None:
        """Reads keys and metrics again: after changing their tables by hand."""
        self._accounts = {key: Account(*account) for key, *account in self.execute(ACCOUNTS)}
        metrics: dict[str, dict[str, Metric]] = {}
        for organization, code, *metric in self.execute(METRICS):
            metrics.setdefault(organization, {})[code] = Metric(*metric)
        self._metrics = metrics

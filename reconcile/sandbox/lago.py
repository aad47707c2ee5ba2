"""A Lago to push to: its REST API over HTTP, its state in Postgres, and what its front end does.

The stand-in follows Lago 1.51.0 (self-hosted), for both of its event stores. Everything that Lago's own
front end or clock would do (organizations, subscriptions, metrics, invoices) is done through the classes of
this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import islice
from typing import Any, Literal, NamedTuple

import psycopg
from psycopg.types.json import Jsonb
from starlette.types import ASGIApp

from reconcile.sandbox.lago_app import application
from reconcile.sandbox.lago_events import Event, Expression, read_event
from reconcile.sandbox.lago_faults import FaultInjector, Faults
from reconcile.sandbox.lago_http import microseconds, naive
from reconcile.sandbox.lago_schema import INSERT_EVENTS, INSERT_RAW_EVENTS, TABLES
from reconcile.sandbox.lago_store import Account, Store, insert_parameters, units_parameters
from reconcile.sandbox.lago_usage import UNITS, Metric, charge_usage, units_statement

SEED_LENGTH = 2_000


class RequestSeen(NamedTuple):
    """A request as it arrived, faults included. `path` is not decoded."""

    method: str
    path: str
    query: str


def utc_now() -> datetime:
    return datetime.now(UTC)


class LagoStandIn:
    """Lago with its state in schema `lago` of a database; the tables are made if need be.

    `now` is the time that Lago believes in: it stamps events that come without a timestamp, and says which
    billing period is under way. It may be replaced at any time. `faults` holds the knobs. `requests` lists
    what arrived. Keys and expressions are kept in memory: one process is the master of a database.
    """

    def __init__(self, database_url: str, now: Callable[[], datetime] = utc_now) -> None:
        self.now = now
        self.faults = Faults()
        self.requests: list[RequestSeen] = []
        self.database_url = database_url
        self._connection = psycopg.connect(database_url, autocommit=True)
        self._accounts: dict[str, Account] = {}
        self._expressions: dict[str, dict[str, Expression]] = {}
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

        return FaultInjector(application(self, Store(self.database_url)), self.faults, seen)

    def add_organization(
        self,
        key: str,
        *,
        name: str = "Acme",
        events_store: Literal["postgres", "clickhouse"] = "postgres",
        deduplicates: bool = True,
        restricts_keys: bool = True,
    ) -> Organization:
        """An organization with an API key that may do everything.

        `deduplicates`: a ClickHouse organization bills events of equal identity once (false for older ones).
        `restricts_keys`: it has the premium integration that makes restrictions of keys count.
        """
        row = self.execute(
            """INSERT INTO lago.organizations (name, events_store, deduplicates, restricts_keys, created_at)
                VALUES (%s, %s, %s, %s, %s) RETURNING id::text""",
            (name, events_store, deduplicates, restricts_keys, naive(self.now())),
        )[0]
        organization = Organization(self, row[0], events_store == "clickhouse", deduplicates)
        organization.add_key(key)
        return organization

    def account(self, key: str) -> Account | None:
        return self._accounts.get(key)

    def expressions(self, organization: str) -> Mapping[str, Expression]:
        return self._expressions.get(organization, {})

    def execute(self, statement: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        """Runs a statement on the stand-in's own connection; its rows, if it has any."""
        cursor = self._connection.execute(statement.encode(), parameters)
        return cursor.fetchall() if cursor.description else []

    def reload(self) -> None:
        """Reads keys and expressions again: after changing their tables by hand."""
        self._accounts = {
            key: Account(organization, clickhouse, deduplicates, reads, writes)
            for key, organization, clickhouse, deduplicates, reads, writes in self.execute(
                """SELECT value, organization_id::text, events_store = 'clickhouse', deduplicates,
                        reads_events OR NOT restricts_keys, writes_events OR NOT restricts_keys
                    FROM lago.api_keys JOIN lago.organizations ON organizations.id = organization_id"""
            )
        }
        expressions: dict[str, dict[str, Expression]] = {}
        for organization, code, field_name, source in self.execute(
            """SELECT organization_id::text, code, field_name, expression FROM lago.billable_metrics
                WHERE expression <> ''"""
        ):
            expressions.setdefault(organization, {})[code] = Expression(field_name, source)
        self._expressions = expressions


@dataclass(frozen=True, slots=True)
class Organization:
    """One organization of the stand-in, and what its members would do in Lago's front end."""

    stand_in: LagoStandIn
    id: str
    clickhouse: bool
    deduplicates: bool

    def add_key(self, key: str, *, reads_events: bool = True, writes_events: bool = True) -> None:
        """A further API key; it may be kept from reading or from writing events."""
        self.stand_in.execute(
            "INSERT INTO lago.api_keys VALUES (%s, %s, %s, %s)", (key, self.id, reads_events, writes_events)
        )
        self.stand_in.reload()

    def revoke_key(self, key: str) -> None:
        self.stand_in.execute("DELETE FROM lago.api_keys WHERE value = %s", (key,))
        self.stand_in.reload()

    def add_customer(self, external_id: str, *, name: str | None = None, currency: str = "USD") -> None:
        """A customer. One that is there already is left as it is."""
        self.stand_in.execute(
            """INSERT INTO lago.customers (organization_id, external_id, name, currency, created_at)
                VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING""",
            (self.id, external_id, name, currency, naive(self.stand_in.now())),
        )

    def add_subscription(
        self,
        external_id: str,
        *,
        external_customer_id: str | None = None,
        started_at: datetime | None = None,
        terminated_at: datetime | None = None,
        ending_at: datetime | None = None,
        status: str | None = None,
        plan_code: str = "llm",
        period: tuple[datetime, datetime] | None = None,
    ) -> str:
        """A subscription, and its customer if there is none; its Lago ID.

        `external_customer_id` is by default the same as `external_id`. `started_at` is by default the
        beginning of the current month, and none for a pending one. `status` follows from `terminated_at`.
        `period` is the open billing period, both ends included; by default the calendar month (UTC) that
        the stand-in's clock is in.
        """
        customer = external_customer_id or external_id
        self.add_customer(customer)
        now = self.stand_in.now()
        if started_at is None and status not in ("pending", "incomplete"):
            started_at = now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        rows = self.stand_in.execute(
            """INSERT INTO lago.subscriptions (organization_id, customer_id, external_id, plan_code, status,
                    subscription_at, started_at, ending_at, terminated_at, period_from, period_to, created_at)
                SELECT organization_id, id, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s FROM lago.customers
                WHERE organization_id = %s AND external_id = %s RETURNING id::text""",
            (
                external_id,
                plan_code,
                status or ("active" if terminated_at is None else "terminated"),
                naive(started_at or now),
                _naive(started_at),
                _naive(ending_at),
                _naive(terminated_at),
                _naive(period[0] if period else None),
                _naive(period[1] if period else None),
                naive(now),
                self.id,
                customer,
            ),
        )
        return str(rows[0][0])

    def terminate_subscription(self, external_id: str, at: datetime) -> None:
        """Ends the active subscription of this external ID."""
        self.stand_in.execute(
            """UPDATE lago.subscriptions SET status = 'terminated', terminated_at = %s
                WHERE organization_id = %s AND external_id = %s AND status = 'active'""",
            (naive(at), self.id, external_id),
        )

    def add_billable_metric(
        self,
        code: str,
        *,
        aggregation_type: str = "sum_agg",
        field_name: str | None = "response_cost",
        expression: str | None = None,
        recurring: bool = False,
        filters: Iterable[Mapping[str, Any]] = (),
        unit_amount: Decimal | None = Decimal(1),
    ) -> None:
        """A billable metric, and on every plan a standard charge of `unit_amount` per unit (None: no charge).

        Aggregations that the stand-in cannot bill (see `lago_usage.UNITS`) carry no charge. `filters` are
        objects with `key` and `values`.
        """
        if aggregation_type not in UNITS:
            unit_amount = None
        self.stand_in.execute(
            """INSERT INTO lago.billable_metrics (organization_id, name, code, aggregation_type, field_name,
                    expression, recurring, filters, unit_amount, created_at)
                VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)""",
            (
                self.id,
                code,
                code,
                aggregation_type,
                field_name,
                expression,
                recurring,
                Jsonb([dict(entry) for entry in filters]),
                unit_amount,
                naive(self.stand_in.now()),
            ),
        )
        self.stand_in.reload()

    def add_invoice(
        self,
        external_subscription_id: str,
        period: tuple[datetime, datetime],
        *,
        status: Literal["draft", "finalized"] = "draft",
        number: str = "ACM-0001-001",
        issuing_date: date | None = None,
    ) -> str:
        """An invoice over one billing period (both ends included) of one subscription; its Lago ID.

        A finalized one bills what is stored now, whatever comes later; a draft is computed anew when it is
        read.
        """
        rows = self.stand_in.execute(
            """INSERT INTO lago.invoices (organization_id, subscription_id, number, status, issuing_date,
                    period_from, period_to, created_at)
                SELECT organization_id, id, %s, 'draft', %s, %s, %s, %s FROM lago.subscriptions
                WHERE organization_id = %s AND external_id = %s ORDER BY started_at DESC LIMIT 1
                RETURNING id::text""",
            (
                number,
                issuing_date or period[1].date(),
                naive(period[0]),
                naive(period[1]),
                naive(self.stand_in.now()),
                self.id,
                external_subscription_id,
            ),
        )
        if not rows:
            raise ValueError(f"no subscription {external_subscription_id!r}")
        if status == "finalized":
            self.finalize_invoice(rows[0][0])
        return str(rows[0][0])

    def finalize_invoice(self, lago_id: str) -> None:
        """Closes a draft: its charges are what the events stored by now make."""
        subscription, currency, start, end = self.stand_in.execute(
            """SELECT subscription.external_id, customer.currency, invoice.period_from, invoice.period_to
                FROM lago.invoices AS invoice
                JOIN lago.subscriptions AS subscription ON subscription.id = invoice.subscription_id
                JOIN lago.customers AS customer ON customer.id = subscription.customer_id
                WHERE invoice.id = %s""",
            (lago_id,),
        )[0]
        charges = []
        for row in self.stand_in.execute(
            """SELECT id::text, name, code, aggregation_type, field_name, unit_amount
                FROM lago.billable_metrics
                WHERE organization_id = %s AND unit_amount IS NOT NULL ORDER BY code""",
            (self.id,),
        ):
            metric = Metric(*row)
            ((units, count),) = self.stand_in.execute(
                units_statement(metric, clickhouse=self.clickhouse, deduplicates=self.deduplicates),
                units_parameters(self.id, metric, subscription, start, end, lag=0),
            )
            charges.append(charge_usage(metric, units, count, currency))
        self.stand_in.execute(
            "UPDATE lago.invoices SET status = 'finalized', usage = %s WHERE id = %s",
            (Jsonb(charges), lago_id),
        )

    def seed_events(self, events: Iterable[tuple[datetime, Mapping[str, Any]]]) -> None:
        """Stores events as if each had been posted at its own time, such as LiteLLM's live events.

        Each item is the moment at which Lago got it (aware) and the posted object. Raises ValueError where
        Lago would have refused one.
        """
        expressions = self.stand_in.expressions(self.id)
        statement = INSERT_RAW_EVENTS if self.clickhouse else INSERT_EVENTS
        remaining = iter(events)
        while chunk := list(islice(remaining, SEED_LENGTH)):
            received = [microseconds(moment) for moment, _ in chunk]
            parsed: list[Event] = []
            for (_, posted), moment in zip(chunk, received, strict=True):
                event = read_event(posted, moment, expressions)
                if not isinstance(event, Event) or (event.errors and not self.clickhouse):
                    raise ValueError(f"Lago refuses {posted}")
                parsed.append(event)
            stored = self.stand_in.execute(statement, insert_parameters(self.id, parsed, received))
            if len(stored) != len(parsed):
                raise ValueError(f"{len(parsed) - len(stored)} of these events are in Lago already")

    def soft_delete_events(self, code: str) -> None:
        """What Lago does to the events of a deleted metric: they are hidden, and their IDs stay taken."""
        self.stand_in.execute(
            "UPDATE lago.events SET deleted_at = %s WHERE organization_id = %s AND code = %s",
            (naive(self.stand_in.now()), self.id, code),
        )

    def stored_events(self, code: str | None = None) -> list[dict[str, Any]]:
        """The outside count: every stored event, oldest first, without paging, visible or not.

        Keys: transaction_id, code, external_subscription_id, timestamp (datetime without a zone, UTC),
        properties.
        """
        table = "events_raw" if self.clickhouse else "events"
        rows = self.stand_in.execute(
            f"""SELECT transaction_id, code, external_subscription_id, "timestamp", properties
                FROM lago.{table} WHERE organization_id = %(id)s AND code = coalesce(%(code)s, code)
                ORDER BY "timestamp", transaction_id""",  # noqa: S608 - one of two names above
            {"id": self.id, "code": code},
        )
        names = ("transaction_id", "code", "external_subscription_id", "timestamp", "properties")
        return [dict(zip(names, row, strict=True)) for row in rows]


def _naive(moment: datetime | None) -> datetime | None:
    return None if moment is None else naive(moment)

"""The stand-in's state behind HTTP: a few connections, and the statements of its endpoints."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import orjson
import psycopg
from psycopg import AsyncConnection

from reconcile.sandbox.lago_events import Event
from reconcile.sandbox.lago_schema import (
    COVERING_SUBSCRIPTION,
    EVENT_JSON,
    INSERT_EVENTS,
    INSERT_RAW_EVENTS,
    RAW_EVENT_JSON,
)
from reconcile.sandbox.lago_usage import Metric, units_statement

CONNECTIONS = 8
DUPLICATE = {"transaction_id": ["value_already_exist"]}


@dataclass(frozen=True, slots=True)
class Account:
    """An organization as its API key opens it."""

    organization: str
    clickhouse: bool
    deduplicates: bool
    reads_events: bool
    writes_events: bool


@dataclass(frozen=True, slots=True)
class Listing:
    """What one of Lago's collections selects from: the JSON text of a row, FROM and WHERE, and the order."""

    row: str
    source: str
    order: str
    parameters: Mapping[str, Any]


class Store:
    """The asynchronous side. Everything may raise psycopg.Error, which Lago would answer with 500."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._idle: asyncio.LifoQueue[AsyncConnection | None] = asyncio.LifoQueue()
        for _ in range(CONNECTIONS):
            self._idle.put_nowait(None)

    async def close(self) -> None:
        while not self._idle.empty():
            connection = self._idle.get_nowait()
            if connection is not None:
                await connection.close()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection]:
        connection = await self._idle.get()
        try:
            if connection is None or connection.closed:
                connection = await AsyncConnection.connect(self._url, autocommit=True, prepare_threshold=1)
            yield connection
        finally:
            self._idle.put_nowait(connection)

    async def rows(self, statement: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        async with self._connection() as connection:
            cursor = await connection.execute(statement.encode(), parameters)
            return await cursor.fetchall()

    async def page(self, listing: Listing, page: int, per_page: int) -> tuple[list[str], int]:
        """The JSON texts of one page, and how many rows there are in all (counted anew, as Lago does)."""
        counted = await self.rows(f"SELECT count(*) {listing.source}", listing.parameters)
        selected = await self.rows(
            f"""SELECT {listing.row} {listing.source} ORDER BY {listing.order}
                LIMIT %(limit)s OFFSET %(offset)s""",
            {**listing.parameters, "limit": per_page, "offset": (page - 1) * per_page},
        )
        return [row[0] for row in selected], counted[0][0]

    async def insert_raw(self, account: Account, events: Sequence[Event], now: int) -> list[str]:
        """Takes events into a ClickHouse store, whatever they are; their JSON texts."""
        rows = await self.rows(INSERT_RAW_EVENTS, insert_parameters(account.organization, events, [now]))
        return [row[0] for row in rows]

    async def insert(
        self, account: Account, events: Sequence[Event], now: int, *, keep_partial: bool
    ) -> tuple[list[str], list[int]]:
        """Stores all events or none; their JSON texts in order, or the indexes that Lago calls duplicates.

        As in Lago's batch service, what the database returned is looked up by transaction ID alone: of two
        events with one ID the second is a duplicate, even under another subscription.
        `keep_partial`: the good ones stay although others are refused, as before Lago 1.39.
        """
        duplicates: list[int] = []
        texts: list[str] = []
        async with self._connection() as connection, connection.transaction() as transaction:
            cursor = await connection.execute(
                INSERT_EVENTS.encode(), insert_parameters(account.organization, events, [now])
            )
            inserted = dict(await cursor.fetchall())
            for index, event in enumerate(events):
                text = inserted.pop(event.transaction_id, None)
                if text is None:
                    duplicates.append(index)
                else:
                    texts.append(text)
            if duplicates and not keep_partial:
                raise psycopg.Rollback(transaction)
        return texts, duplicates

    async def find_event(self, account: Account, transaction_id: str, lag: float) -> str | None:
        """The JSON text of one event of this transaction ID, an arbitrary one if there are several."""
        parameters = {"organization": account.organization, "transaction_id": transaction_id, "lag": lag}
        statement = FIND_RAW_EVENT if account.clickhouse else FIND_EVENT
        rows = await self.rows(statement, parameters)
        return rows[0][0] if rows else None

    async def newest_start(self, account: Account, external_subscription_id: str) -> datetime | None:
        """When the newest subscription of this external ID began (UTC, without a zone)."""
        rows = await self.rows(
            """SELECT started_at FROM lago.subscriptions WHERE organization_id = %(organization)s
                AND external_id = %(external_id)s ORDER BY started_at DESC NULLS LAST LIMIT 1""",
            {"organization": account.organization, "external_id": external_subscription_id},
        )
        return rows[0][0] if rows else None

    async def metrics(self, account: Account, code: str | None) -> list[Metric]:
        """The metrics that carry a charge: all of them, or the one of this code."""
        rows = await self.rows(
            """SELECT id::text, name, code, aggregation_type, field_name, unit_amount
                FROM lago.billable_metrics
                WHERE organization_id = %(organization)s AND unit_amount IS NOT NULL
                    AND code = coalesce(%(code)s, code) ORDER BY code""",
            {"organization": account.organization, "code": code},
        )
        return [Metric(*row) for row in rows]

    async def units(
        self, account: Account, metric: Metric, subscription: str, start: datetime, end: datetime, lag: float
    ) -> tuple[Decimal, int]:
        """Units and number of events of a metric in [start, end] (UTC, without a zone)."""
        rows = await self.rows(
            units_statement(metric, clickhouse=account.clickhouse, deduplicates=account.deduplicates),
            units_parameters(account.organization, metric, subscription, start, end, lag),
        )
        return rows[0][0], rows[0][1]


FIND_EVENT = f"""SELECT {EVENT_JSON} FROM lago.events
    WHERE organization_id = %(organization)s AND transaction_id = %(transaction_id)s AND deleted_at IS NULL
    LIMIT 1"""  # noqa: S608 - constants

VISIBLE = "event.written_at <= clock_timestamp() - %(lag)s * interval '1 second'"

FIND_RAW_EVENT = f"""SELECT {RAW_EVENT_JSON} FROM lago.events_raw AS event {COVERING_SUBSCRIPTION}
    WHERE event.organization_id = %(organization)s AND transaction_id = %(transaction_id)s AND {VISIBLE}
    LIMIT 1"""  # noqa: S608 - constants


def event_listing(account: Account, filters: Mapping[str, Any], lag: float, *, unstable_ties: bool) -> Listing:
    """GET /events, filtered by code, external_subscription_id, timestamp_from, timestamp_to, where given."""
    conditions = ["event.organization_id = %(organization)s"]
    for name in ("code", "external_subscription_id"):
        if name in filters:
            conditions.append(f"event.{name} = %({name})s")
    if "timestamp_from" in filters:
        conditions.append('event."timestamp" >= %(timestamp_from)s')
    if "timestamp_to" in filters:
        conditions.append('event."timestamp" <= %(timestamp_to)s')
    parameters = {**filters, "organization": account.organization, "lag": lag}
    if account.clickhouse:
        where = " AND ".join([*conditions, VISIBLE])
        source = f"FROM lago.events_raw AS event {COVERING_SUBSCRIPTION} WHERE {where}"
        return Listing(RAW_EVENT_JSON, source, "event.ingested_at DESC, event.transaction_id ASC", parameters)
    where = " AND ".join([*conditions, "event.deleted_at IS NULL"])
    ties = "random()" if unstable_ties else "transaction_id ASC"
    return Listing(EVENT_JSON, f"FROM lago.events AS event WHERE {where}", f'"timestamp" DESC, {ties}', parameters)


def insert_parameters(organization: str, events: Sequence[Event], received: Sequence[int]) -> dict[str, Any]:
    """The parameters of INSERT_EVENTS and INSERT_RAW_EVENTS: one JSON text, whatever the number of events.

    `received`: microseconds since the epoch, one for each event, or one for all.
    """
    records = [
        {
            "i": index,
            "t": event.transaction_id,
            "c": event.code,
            "s": event.external_subscription_id,
            "u": event.microseconds,
            "a": event.precise_total_amount_cents,
            "p": event.properties,
            "n": received[index if len(received) > 1 else 0],
        }
        for index, event in enumerate(events)
    ]
    return {"organization": organization, "events": orjson.dumps(records).decode()}


def units_parameters(
    organization: str, metric: Metric, subscription: str, start: datetime, end: datetime, lag: float
) -> dict[str, Any]:
    return {
        "organization": organization,
        "code": metric.code,
        "field": metric.field_name,
        "subscription": subscription,
        "from": start.replace(microsecond=start.microsecond // 1000 * 1000),  # Lago floors it to milliseconds
        "to": end,
        "lag": lag,
    }

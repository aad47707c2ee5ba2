"""Events in a Postgres store: unique by subscription and transaction ID, listed newest first.

The unique index, what it refuses and what an index page cannot hold are Postgres' own doing, as in Lago.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import psycopg

from reconcile.sandbox.lago.call import Account, Lago
from reconcile.sandbox.lago.events import Duplicates
from reconcile.sandbox.lago.http import Refused, broken, dumped
from reconcile.sandbox.lago.posted import Event
from reconcile.sandbox.lago.store import Listing, Store
from reconcile.sandbox.lago.tables import decimal, milliseconds, seconds
from reconcile.sandbox.lago.timestamps import instant_text

NUL = b"\\u0000"

# Properties of more bytes than this may not fit into a page of an index.
LARGE = 2_000

# Lago fills neither customer nor subscription here.
EVENT_JSON = f"""json_build_object(
    'lago_id', id,
    'transaction_id', transaction_id,
    'lago_customer_id', NULL,
    'code', code,
    'timestamp', {milliseconds('"timestamp"')},
    'precise_total_amount_cents', {decimal("precise_total_amount_cents")},
    'properties', properties,
    'lago_subscription_id', NULL,
    'external_subscription_id', external_subscription_id,
    'created_at', {seconds("created_at")}
)::text"""

# One order for everybody: two batches with the same events wait for one another, and never deadlock.
INSERT_EVENTS = """
INSERT INTO lago.events (organization_id, transaction_id, code, external_subscription_id, "timestamp",
    precise_total_amount_cents, properties, created_at, large)
SELECT %(organization)s::uuid, t, c, s, timestamp 'epoch' + u * interval '1 microsecond', a, p,
    timestamp 'epoch' + n * interval '1 microsecond', l
FROM jsonb_to_recordset(%(events)s::jsonb)
    AS event (i int, t text, c text, s text, u bigint, a numeric, p jsonb, n bigint, l boolean)
ORDER BY s, t, i
ON CONFLICT (organization_id, external_subscription_id, transaction_id) DO NOTHING
RETURNING external_subscription_id, transaction_id, id::text
"""

FIND_EVENT = f"""SELECT {EVENT_JSON} FROM lago.events
    WHERE organization_id = %(organization)s AND transaction_id = %(transaction_id)s AND deleted_at IS NULL
    LIMIT 1"""  # noqa: S608 - constants

NEWEST_START = """SELECT started_at FROM lago.subscriptions WHERE organization_id = %(organization)s
    AND external_id = %(external_id)s ORDER BY started_at DESC NULLS LAST LIMIT 1"""


class PostgresEvents:
    def __init__(self, lago: Lago, store: Store) -> None:
        self._lago = lago
        self._store = store

    async def insert(self, account: Account, events: Sequence[Event], now: int) -> list[dict[str, Any]]:
        """Stores all events or none; what is answered. Raises Duplicates, Refused.

        As in Lago's batch service, what the database returned is looked up by transaction ID alone: of two
        events with one ID the second is a duplicate, even under another subscription. Before 1.39 each event was
        stored by itself, and the good ones stayed.
        """
        if not self._lago.version.atomic_batches:
            return await self._insert_one_by_one(account, events, now)
        duplicates: list[int] = []
        ids: list[str] = []
        async with self._store.connection() as connection, connection.transaction() as transaction:
            cursor = await connection.execute(
                INSERT_EVENTS.encode(), insert_parameters(account.organization, events, [now])
            )
            inserted = {transaction_id: lago_id for _, transaction_id, lago_id in await cursor.fetchall()}
            for index, event in enumerate(events):
                lago_id = inserted.pop(event.transaction_id, None)
                if lago_id is None:
                    duplicates.append(index)
                else:
                    ids.append(lago_id)
            if duplicates and not self._lago.faults.before_1_39:
                raise psycopg.Rollback(transaction)
        if duplicates:
            raise Duplicates(duplicates)
        created_at = created_text(now)
        return [answered(event, lago_id, created_at) for event, lago_id in zip(events, ids, strict=True)]

    async def _insert_one_by_one(self, account: Account, events: Sequence[Event], now: int) -> list[dict[str, Any]]:
        broken_at = next((i for i, event in enumerate(events) if NUL in dumped(event.properties)), None)
        rows = await self._store.rows(INSERT_EVENTS, insert_parameters(account.organization, events[:broken_at], [now]))
        if broken_at is not None:
            raise Refused(broken())
        inserted: dict[tuple[str | None, str | None], list[str]] = defaultdict(list)
        for subscription, transaction_id, lago_id in rows:
            inserted[subscription, transaction_id].append(lago_id)
        stored, duplicates, created_at = [], [], created_text(now)
        for index, event in enumerate(events):
            found = inserted[event.external_subscription_id, event.transaction_id]
            if found:
                stored.append(answered(event, found.pop(), created_at))
            else:
                duplicates.append(index)
        if duplicates:
            raise Duplicates(duplicates)
        return stored

    async def find(self, account: Account, transaction_id: str) -> str | None:
        """The JSON text of one event of this transaction ID, an arbitrary one if there are several."""
        parameters = {"organization": account.organization, "transaction_id": transaction_id}
        rows = await self._store.rows(FIND_EVENT, parameters)
        return rows[0][0] if rows else None

    async def newest_start(self, account: Account, external_subscription_id: str) -> Any:
        """When the newest subscription of this external ID began (UTC, without a zone)."""
        parameters = {"organization": account.organization, "external_id": external_subscription_id}
        rows = await self._store.rows(NEWEST_START, parameters)
        return rows[0][0] if rows else None

    async def page(self, listing: Listing, page: int, per_page: int) -> tuple[list[str], int]:
        return await self._store.page(listing, page, per_page)

    def listing(self, account: Account, filters: dict[str, Any], page: int, *, enriched: bool = False) -> Listing:
        """GET /events. Where ties have no order, each page has one of its own: events are missed or seen twice."""
        where = " AND ".join([*conditions(filters), "event.deleted_at IS NULL"])
        ordered = self._lago.version.ordered_ties and not self._lago.faults.unstable_ties
        ties = "transaction_id ASC" if ordered else "md5(transaction_id || %(page)s)"
        return Listing(
            EVENT_JSON,
            f"FROM lago.events AS event WHERE {where}",
            f'"timestamp" DESC, {ties}',
            {**filters, "organization": account.organization, "page": str(page)},
        )


def conditions(filters: dict[str, Any]) -> list[str]:
    """SQL conditions on `event` by code, external_subscription_id, timestamp_from, timestamp_to, where given."""
    found = ["event.organization_id = %(organization)s"]
    found += [f"event.{name} = %({name})s" for name in ("code", "external_subscription_id") if name in filters]
    if "timestamp_from" in filters:
        found.append('event."timestamp" >= %(timestamp_from)s')
    if "timestamp_to" in filters:
        found.append('event."timestamp" <= %(timestamp_to)s')
    return found


def created_text(received: int) -> str:
    """The time of receipt (microseconds) as `created_at` shows it."""
    return f"{instant_text(received // 1000)[:-5]}Z"


def answered(event: Event, lago_id: str | None, created_at: str | None) -> dict[str, Any]:
    """An event just accepted, as a POST answers it: the properties as they were posted."""
    return {
        "lago_id": lago_id,
        "transaction_id": event.transaction_id,
        "lago_customer_id": None,
        "code": event.code,
        "timestamp": instant_text(event.nanoseconds // 1_000_000),
        "precise_total_amount_cents": event.precise_total_amount_cents,
        "properties": event.properties,
        "lago_subscription_id": None,
        "external_subscription_id": event.external_subscription_id,
        "created_at": created_at,
    }


def insert_parameters(organization: str, events: Sequence[Event], received: Sequence[int]) -> dict[str, Any]:
    """The parameters of INSERT_EVENTS: one JSON text, whatever the number of events.

    `received`: microseconds since the epoch, one for each event, or one for all.
    """
    records = [
        {
            "i": index,
            "t": event.transaction_id,
            "c": event.code,
            "s": event.external_subscription_id,
            "u": event.nanoseconds // 1000,
            "a": event.precise_total_amount_cents,
            "p": event.properties,
            "n": received[index if len(received) > 1 else 0],
            "l": len(dumped(event.properties)) > LARGE,
        }
        for index, event in enumerate(events)
    ]
    return {"organization": organization, "events": dumped(records).decode()}

"""Events in a ClickHouse store: nothing is refused, every copy is listed, all properties are text.

One table stands for two of ClickHouse's: each row is listed (`events_raw`), the enriched ones are billed
(`events_enriched`). Copies within one request are folded there on insert; copies of a later request are billed
until ClickHouse merges its parts, or never where the organization has deduplication on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reconcile.sandbox.lago.call import Account, Lago
from reconcile.sandbox.lago.clickhouse_text import decimal_value, go_text, text_map
from reconcile.sandbox.lago.events_postgres import NEWEST_START, answered, conditions
from reconcile.sandbox.lago.http import dumped
from reconcile.sandbox.lago.posted import Event, Metric
from reconcile.sandbox.lago.store import Listing, Store
from reconcile.sandbox.lago.tables import decimal, milliseconds, seconds
from reconcile.sandbox.lago.timestamps import clickhouse_milliseconds

# A row of `events_raw` as `event`, whose strings are never null. The subscription is the one that covers its time.
RAW_EVENT_JSON = f"""json_build_object(
    'lago_id', concat_ws('-', event.organization_id, event.external_subscription_id, event.transaction_id,
        floor(extract(epoch FROM event.ingested_at))::bigint),
    'transaction_id', event.transaction_id,
    'lago_customer_id', subscription.customer_id,
    'code', event.code,
    'timestamp', {milliseconds('event."timestamp"')},
    'precise_total_amount_cents', {decimal("event.precise_total_amount_cents")},
    'properties', event.properties,
    'lago_subscription_id', subscription.id,
    'external_subscription_id', event.external_subscription_id,
    'created_at', {seconds("event.ingested_at")}
)::text"""

ENRICHED_EVENT_JSON = f"""json_build_object(
    'transaction_id', event.transaction_id,
    'external_subscription_id', event.external_subscription_id,
    'code', event.code,
    'timestamp', {milliseconds('event."timestamp"')},
    'enriched_at', {milliseconds("event.ingested_at")},
    'value', event.value,
    'decimal_value', {decimal("event.decimal_value")},
    'precise_total_amount_cents', {decimal("event.precise_total_amount_cents")},
    'properties', event.properties
)::text"""

COVERING_SUBSCRIPTION = """LEFT JOIN LATERAL (
    SELECT id, customer_id FROM lago.subscriptions
    WHERE organization_id = event.organization_id AND external_id = event.external_subscription_id
        AND date_trunc('millisecond', started_at) <= event."timestamp"
        AND (terminated_at IS NULL OR date_trunc('millisecond', terminated_at) >= event."timestamp")
    ORDER BY terminated_at DESC NULLS FIRST, started_at DESC LIMIT 1
) AS subscription ON true"""

INSERT_RAW_EVENTS = """
INSERT INTO lago.events_raw (organization_id, transaction_id, code, external_subscription_id, "timestamp",
    precise_total_amount_cents, properties, enriched, value, decimal_value, ingested_at)
SELECT %(organization)s::uuid, t, c, s, timestamp 'epoch' + m * interval '1 millisecond', a, p, e, v, d,
    timestamp 'epoch' + n * interval '1 microsecond'
FROM jsonb_to_recordset(%(events)s::jsonb) AS event (i int, t text, c text, s text, m bigint, a numeric, p jsonb,
    e boolean, v text, d numeric, n bigint)
ORDER BY i
RETURNING true
"""

# Postgres has no place for a NUL character, which ClickHouse keeps: a look-alike is stored for it.
NUL, LOOK_ALIKE = "\\u0000", "\\u2400"

# `lag` is how long an event takes until it is seen.
VISIBLE = "event.written_at <= clock_timestamp() - %(lag)s * interval '1 second'"

FIND_RAW_EVENT = f"""SELECT {RAW_EVENT_JSON} FROM lago.events_raw AS event {COVERING_SUBSCRIPTION}
    WHERE event.organization_id = %(organization)s AND transaction_id = %(transaction_id)s AND {VISIBLE}
    ORDER BY event."timestamp", event.sequence LIMIT 1"""  # noqa: S608 - constants

# ClickHouse's merge of parts, at once: the last of what shares code, subscription, ID and millisecond stays.
MERGE = """
UPDATE lago.events_raw AS event SET enriched = false
WHERE organization_id = %(organization)s AND enriched AND EXISTS (
    SELECT FROM lago.events_raw AS later
    WHERE later.organization_id = event.organization_id AND later.code = event.code AND later.enriched
        AND later.external_subscription_id = event.external_subscription_id
        AND later.transaction_id = event.transaction_id AND later."timestamp" = event."timestamp"
        AND later.sequence > event.sequence
)"""


class ClickHouseEvents:
    def __init__(self, lago: Lago, store: Store) -> None:
        self._lago = lago
        self._store = store

    async def insert(self, account: Account, events: Sequence[Event], now: int) -> list[dict[str, Any]]:
        """Takes all of them, whatever they are; what is answered. Raises OutOfRange."""
        metrics = self._lago.metrics(account.organization)
        await self._store.rows(INSERT_RAW_EVENTS, raw_parameters(account.organization, events, [now], metrics))
        return [answered(event, None, None) for event in events]

    async def find(self, account: Account, transaction_id: str) -> str | None:
        """The JSON text of one event of this transaction ID."""
        lag = self._lago.faults.visibility_lag
        parameters = {"organization": account.organization, "transaction_id": transaction_id, "lag": lag}
        rows = await self._store.rows(FIND_RAW_EVENT, parameters)
        return rows[0][0] if rows else None

    async def newest_start(self, account: Account, external_subscription_id: str) -> Any:
        """When the newest subscription of this external ID began (UTC, without a zone)."""
        parameters = {"organization": account.organization, "external_id": external_subscription_id}
        rows = await self._store.rows(NEWEST_START, parameters)
        return rows[0][0] if rows else None

    async def page(self, listing: Listing, page: int, per_page: int) -> tuple[list[str], int]:
        return await self._store.page(listing, page, per_page)

    def listing(self, account: Account, filters: dict[str, Any], page: int, *, enriched: bool = False) -> Listing:
        """GET /events and GET /events_enriched: by time of receipt, newest first."""
        found = [*conditions(filters), VISIBLE, *(["event.enriched"] if enriched else [])]
        join = "" if enriched else COVERING_SUBSCRIPTION
        return Listing(
            ENRICHED_EVENT_JSON if enriched else RAW_EVENT_JSON,
            f"FROM lago.events_raw AS event {join} WHERE {' AND '.join(found)}",
            "event.ingested_at DESC, event.transaction_id ASC",
            {**filters, "organization": account.organization, "lag": self._lago.faults.visibility_lag},
        )


def raw_parameters(
    organization: str, events: Sequence[Event], received: Sequence[int], metrics: Mapping[str, Metric]
) -> dict[str, Any]:
    """The parameters of INSERT_RAW_EVENTS. `received` as for the Postgres store. Raises OutOfRange."""
    times = [
        event.nanoseconds // 1_000_000 if event.received else clickhouse_milliseconds(event.nanoseconds)
        for event in events
    ]
    last = {_identity(event, time): index for index, (event, time) in enumerate(zip(events, times, strict=True))}
    records = []
    for index, (event, time) in enumerate(zip(events, times, strict=True)):
        metric = metrics.get(event.code or "")
        value = None if metric is None else enriched_value(metric, event.properties)
        records.append(
            {
                "i": index,
                "t": event.transaction_id or "",
                "c": event.code or "",
                "s": event.external_subscription_id or "",
                "m": time,
                "a": event.precise_total_amount_cents or "0",
                "p": text_map(event.properties),
                "e": value is not None and last[_identity(event, time)] == index,
                "v": value,
                "d": None if value is None else str(decimal_value(value)),
                "n": received[index if len(received) > 1 else 0],
            }
        )
    text = dumped(records).decode()
    return {"organization": organization, "events": text.replace(NUL, LOOK_ALIKE) if NUL in text else text}


def enriched_value(metric: Metric, properties: Mapping[str, Any]) -> str:
    """What the events processor writes beside an event: the metric's property, or 1 where events are counted."""
    if metric.aggregation_type == "count_agg":
        return "1"
    return go_text(properties.get(metric.field_name or ""))


def _identity(event: Event, time: int) -> tuple[Any, ...]:
    return event.transaction_id, event.code, event.external_subscription_id, time

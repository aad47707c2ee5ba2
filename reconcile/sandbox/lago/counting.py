"""What Lago counts: the units of a charge for a subscription in a period, by filter and group.

On a Postgres store numeric aggregations count only events whose property, read as text, is a plain decimal number:
an event with the string `5.1e-06` is stored and bills nobody. On a ClickHouse store every event counts, with the
number that ClickHouse makes of the text, or with 0. The window is closed on both ends, by the event's own time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from reconcile.sandbox.lago.call import Account, Lago
from reconcile.sandbox.lago.periods import Period
from reconcile.sandbox.lago.plans import Charge
from reconcile.sandbox.lago.pricing import rounded

PLAIN_NUMBER = r"^-?\d+(\.\d+)?$"
NUMERIC = ("sum_agg", "max_agg", "latest_agg", "weighted_sum_agg")
WITH_HISTORY = ("sum_agg", "unique_count_agg")  # when recurring: all events up to the period's end
BEGINNING = datetime(1, 1, 1)  # noqa: DTZ001 - times in the database have no zone

UNITS = {
    "sum_agg": "coalesce(sum(number), 0)",
    "max_agg": "coalesce(max(number), 0)",
    "latest_agg": """greatest((array_agg(number ORDER BY "timestamp" DESC, received_at DESC))[1], 0)""",
    "weighted_sum_agg": """coalesce(sum(number * extract(epoch FROM %(to)s - "timestamp"))
        / extract(epoch FROM %(to)s::timestamp - %(from)s::timestamp), 0)""",
    "unique_count_agg": "count(*) FILTER (WHERE operation IS DISTINCT FROM 'remove')",
}

STORED = """
SELECT properties, "timestamp", created_at AS received_at, precise_total_amount_cents AS cents,
    properties->>%(field)s AS value,
    CASE WHEN properties->>%(field)s ~ %(plain)s THEN (properties->>%(field)s)::numeric END AS number
FROM lago.events AS event
WHERE organization_id = %(organization)s AND code = %(code)s AND deleted_at IS NULL
    AND external_subscription_id = %(subscription)s AND "timestamp" BETWEEN %(from)s AND %(to)s
"""

STORED_ENRICHED = """
SELECT {distinct} properties, "timestamp", ingested_at AS received_at, precise_total_amount_cents AS cents,
    value, decimal_value AS number
FROM lago.events_raw AS event
WHERE organization_id = %(organization)s AND code = %(code)s AND enriched
    AND external_subscription_id = %(subscription)s AND "timestamp" BETWEEN %(from)s AND %(to)s
    AND written_at <= clock_timestamp() - %(lag)s * interval '1 second'
"""
DEDUPLICATED = 'DISTINCT ON (transaction_id, "timestamp")', 'ORDER BY transaction_id, "timestamp", sequence DESC'

METRIC = """SELECT id::text, name, code, aggregation_type, field_name, recurring, rounding_function, rounding_precision
    FROM lago.billable_metrics WHERE id = %s"""


@dataclass(frozen=True, slots=True)
class CountedMetric:
    lago_id: str
    name: str
    code: str
    aggregation_type: str
    field_name: str | None
    recurring: bool
    rounding_function: str | None
    rounding_precision: int | None


@dataclass(frozen=True, slots=True)
class Bucket:
    """What a charge bills together: one filter (None: what no filter holds), one value of each group key."""

    filter: int | None
    group: dict[str, str | None]
    units: Decimal
    events_count: int
    cents: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class Window:
    """Whose events are counted and when. `properties`: only those with one of the values of each key."""

    account: Account
    subscription: str
    period: Period
    properties: Mapping[str, Sequence[str]] = field(default_factory=dict)


def metric_of(lago: Lago, charge: Charge) -> CountedMetric:
    return CountedMetric(*lago.execute(METRIC, (charge.metric_id,))[0])


def count(lago: Lago, charge: Charge, metric: CountedMetric, window: Window) -> list[Bucket]:
    """The buckets of a charge, in order: filters first, groups by value. One of each filter, also if it is empty."""
    keys = group_keys(charge)
    parameters: dict[str, Any] = {
        "organization": window.account.organization,
        "code": metric.code,
        "field": metric.field_name,
        "subscription": window.subscription,
        "from": _floored(window.period[0]),
        "to": window.period[1],
        "plain": PLAIN_NUMBER,
        "lag": lago.faults.visibility_lag,
    }
    if metric.recurring and metric.aggregation_type in WITH_HISTORY:
        parameters["from"] = BEGINNING
    statement = _statement(metric, charge.filters, keys, window, parameters)
    found = []
    for bucket, *group, units, events_count, cents in lago.execute(statement, parameters):
        units = rounded(Decimal(units), metric.rounding_function, metric.rounding_precision)
        values = dict(zip(keys, group, strict=True))
        found.append(Bucket(None if bucket < 0 else bucket, values, units, events_count, Decimal(cents)))
    return list(_with_empty_ones(found, len(charge.filters), keys))


def group_keys(charge: Charge) -> list[str]:
    return list(charge.properties.get("pricing_group_keys") or charge.properties.get("grouped_by") or ())


def _statement(
    metric: CountedMetric,
    filters: Sequence[Mapping[str, Any]],
    keys: Sequence[str],
    window: Window,
    parameters: dict[str, Any],
) -> str:
    """SQL: bucket (-1: none), a column for each group key, units, number of events, cents. Fills the parameters."""
    events, end = STORED, ""
    if window.account.clickhouse:
        distinct, end = DEDUPLICATED if window.account.deduplicates else ("", "")
        events = STORED_ENRICHED.format(distinct=distinct)
    for number, (key, values) in enumerate(window.properties.items()):
        parameters |= {f"only_{number}": key, f"among_{number}": list(values)}
        events += f" AND properties->>%(only_{number})s = ANY(%(among_{number})s)"
    columns = [f"{_bucket(filters, parameters)} AS bucket"]
    for number, key in enumerate(keys):
        parameters[f"key_{number}"] = key
        columns.append(f"nullif(properties->>%(key_{number})s, '') AS group_{number}")
    names = ", ".join(["bucket", *(f"group_{number}" for number in range(len(keys)))])
    kind = metric.aggregation_type
    numeric = "WHERE number IS NOT NULL" if kind in NUMERIC and not window.account.clickhouse else ""
    counted = f"""SELECT {", ".join(columns)}, value, number, cents, "timestamp", received_at,
        properties->>'operation_type' AS operation FROM ({events} {end}) AS event {numeric}"""  # noqa: S608
    units, events_count = UNITS.get(kind, "count(*)"), "count(*)"
    if kind == "unique_count_agg":  # the last event of a value tells whether it is there
        counted = f"""SELECT DISTINCT ON ({names}, value) * FROM ({counted}) AS event
            ORDER BY {names}, value, "timestamp" DESC, received_at DESC"""  # noqa: S608
        events_count = units
    return f"""SELECT {names}, {units}, {events_count}, coalesce(sum(cents), 0) FROM ({counted}) AS event
        GROUP BY {names}"""  # noqa: S608


def _bucket(filters: Sequence[Mapping[str, Any]], parameters: dict[str, Any]) -> str:
    """SQL: the number of the filter that an event belongs to, that with the most keys; -1 where there is none."""
    cases = []
    for number, one in sorted(enumerate(filters), key=lambda item: -len(item[1]["values"])):
        conditions = []
        for position, (key, values) in enumerate(one["values"].items()):
            name = f"filter_{number}_{position}"
            parameters |= {f"{name}_key": key, f"{name}_values": list(values)}
            conditions.append(f"properties->>%({name}_key)s = ANY(%({name}_values)s)")
        cases.append(f"WHEN {' AND '.join(conditions) or 'true'} THEN {number}")
    return f"CASE {' '.join(cases)} ELSE -1 END" if cases else "-1"


def _with_empty_ones(found: Sequence[Bucket], filters: int, keys: Sequence[str]) -> Iterator[Bucket]:
    nothing = dict.fromkeys(keys)
    for number in [*range(filters), None]:
        of_filter = [bucket for bucket in found if bucket.filter == number]
        of_filter.sort(key=lambda bucket: [value or "" for value in bucket.group.values()])
        yield from of_filter or [Bucket(number, nothing, Decimal(0), 0)]


def _floored(moment: datetime) -> datetime:
    """Cut to milliseconds, as Lago does with the beginning of a period."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)

"""What Lago bills: units of a metric for a subscription in a period, by Lago 1.51.0's counting rules.

Numeric aggregations count only events whose property, read as text, is a plain decimal number: an event
with the string `5.1e-06` is stored and bills nobody. The window is closed on both ends, by the event's own
timestamp. Units and amounts below zero count as zero. Taxes, filters and grouping are not modelled.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from reconcile.sandbox.lago_expression import ruby_decimal

# The aggregations that the stand-in bills. Lago knows more of them; metrics of those carry no charge here.
UNITS = {
    "count_agg": "count(*)::numeric",
    "sum_agg": "coalesce(sum((properties->>%(field)s)::numeric), 0)",
    "max_agg": "coalesce(max((properties->>%(field)s)::numeric), 0)",
    "latest_agg": """coalesce((array_agg((properties->>%(field)s)::numeric
        ORDER BY "timestamp" DESC, received_at DESC))[1], 0)""",
}

STORED = """
SELECT properties, "timestamp", created_at AS received_at FROM lago.events
WHERE organization_id = %(organization)s AND code = %(code)s AND deleted_at IS NULL
    AND external_subscription_id = %(subscription)s AND "timestamp" BETWEEN %(from)s AND %(to)s
"""

# A ClickHouse store with deduplication keeps the last of what shares code, subscription, ID and millisecond.
STORED_RAW = """
SELECT {distinct} properties, "timestamp", ingested_at AS received_at FROM lago.events_raw
WHERE organization_id = %(organization)s AND code = %(code)s
    AND external_subscription_id = %(subscription)s AND "timestamp" BETWEEN %(from)s AND %(to)s
    AND written_at <= clock_timestamp() - %(lag)s * interval '1 second'
{order}
"""


@dataclass(frozen=True, slots=True)
class Metric:
    """A billable metric with a standard charge of `unit_amount` (in the customer's currency) per unit."""

    id: str
    name: str
    code: str
    aggregation_type: str
    field_name: str | None
    unit_amount: Decimal


def units_statement(metric: Metric, *, clickhouse: bool, deduplicates: bool) -> str:
    """SQL for the units and the number of events, as one row.

    Parameters: organization, code, field, subscription, from, to (times without a zone), lag (seconds).
    """
    events = STORED
    if clickhouse:
        events = STORED_RAW.format(
            distinct='DISTINCT ON (transaction_id, "timestamp")' if deduplicates else "",
            order='ORDER BY transaction_id, "timestamp", sequence DESC' if deduplicates else "",
        )
    numeric = "" if metric.aggregation_type == "count_agg" else r"WHERE properties->>%(field)s ~ '^-?\d+(\.\d+)?$'"
    return f"SELECT {UNITS[metric.aggregation_type]}, count(*) FROM ({events}) AS event {numeric}"  # noqa: S608


def charge_usage(metric: Metric, units: Decimal, events_count: int, currency: str) -> dict[str, Any]:
    """One entry of `charges_usage`."""
    billed = max(units, Decimal(0))
    return {
        "units": ruby_decimal(billed),
        "total_aggregated_units": ruby_decimal(billed),
        "events_count": events_count,
        "amount_cents": int((billed * metric.unit_amount * 100).to_integral_value(ROUND_HALF_UP)),
        "amount_currency": currency,
        "charge": {"lago_id": metric.id, "charge_model": "standard", "invoice_display_name": None},
        "billable_metric": {
            "lago_id": metric.id,
            "name": metric.name,
            "code": metric.code,
            "aggregation_type": metric.aggregation_type,
        },
        "filters": [],
        "grouped_usage": [],
    }


def usage(
    charges: list[dict[str, Any]],
    *,
    from_datetime: str,
    to_datetime: str,
    issuing_date: str,
    currency: str,
    invoice_id: str | None,
) -> dict[str, Any]:
    """A `customer_usage`, or one of the `usage_periods` where `invoice_id` is given."""
    amount = sum(charge["amount_cents"] for charge in charges)
    return {
        "from_datetime": from_datetime,
        "to_datetime": to_datetime,
        "issuing_date": issuing_date,
        "lago_invoice_id": invoice_id,
        "currency": currency,
        "amount_cents": amount,
        "taxes_amount_cents": 0,
        "total_amount_cents": amount,
        "charges_usage": charges,
    }

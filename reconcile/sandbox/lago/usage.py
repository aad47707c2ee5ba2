"""GET /customers/{external_id}/current_usage and /past_usage: units and amounts of a period, charge by charge."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from starlette.datastructures import QueryParams
from starlette.responses import Response

from reconcile.sandbox.lago import pricing
from reconcile.sandbox.lago.call import Call, Lago, now
from reconcile.sandbox.lago.counting import Bucket, CountedMetric, Window, count, metric_of
from reconcile.sandbox.lago.expression import ruby_decimal
from reconcile.sandbox.lago.http import answer, broken, failure, invalid, meta, not_found, paging
from reconcile.sandbox.lago.listing import of, page_of
from reconcile.sandbox.lago.periods import Period
from reconcile.sandbox.lago.plans import Charge, Plan, by_id
from reconcile.sandbox.lago.subscription import newest
from reconcile.sandbox.lago.timestamps import seconds_text

PAST = """
SELECT invoice.id::text, invoice.period_from, invoice.period_to, invoice.issuing_date, customer.currency, invoice.usage
FROM lago.invoices AS invoice
JOIN lago.subscriptions AS subscription ON subscription.id = invoice.subscription_id
JOIN lago.customers AS customer ON customer.id = subscription.customer_id
WHERE invoice.organization_id = %(organization)s AND invoice.invoicing_reason <> 'in_advance_charge'
    AND customer.external_id = %(customer)s AND subscription.external_id = %(subscription)s
ORDER BY invoice.period_from DESC, invoice.sequence DESC LIMIT %(count)s"""


@dataclass(frozen=True, slots=True)
class Billed:
    """A bucket with its price: units and amount are 0 where either is below zero."""

    bucket: Bucket
    units: Decimal
    amount: Decimal


@dataclass(frozen=True, slots=True)
class ChargeUsage:
    charge: Charge
    metric: CountedMetric
    billed: list[Billed]

    @property
    def is_empty(self) -> bool:
        return not any(one.units or one.amount or one.bucket.events_count for one in self.billed)


def current(lago: Lago, call: Call) -> Response:
    customers = lago.execute(
        "SELECT currency FROM lago.customers WHERE organization_id = %(organization)s AND external_id = %(customer)s",
        of(call, customer=call.path["external_id"]),
    )
    if not customers:
        return not_found("resource")
    external_id = call.query.get("external_subscription_id")
    subscription = newest(lago, call.organization, external_id or "", "active")
    if subscription is None or subscription.external_customer_id != call.path["external_id"]:
        return failure(405, "Method Not Allowed", code="no_active_subscription")
    if external_id in lago.faults.broken_usage:
        return broken()
    plan = by_id(lago, subscription.plan_id)
    charges = _chosen(lago, plan, call.query)
    if not charges and plan.charges:
        return not_found("charge")
    if not charges and lago.version.filters_widely and "billable_metric_code" in call.query:
        return not_found("charge")
    period = subscription.period(now(lago))
    assert period is not None  # an active subscription has begun
    properties = _groups(call.query) if lago.version.filters_widely else {}
    window = Window(call.account, subscription.external_id, period, properties)
    try:
        counted = sorted((charge_usage(lago, charge, window) for charge in charges), key=_by_name)
    except pricing.NoRange:
        return broken()
    call.work.counted = sum(one.bucket.events_count for usage in counted for one in usage.billed)
    currency = customers[0][0] or plan.amount_currency
    shown = [usage_json(lago, usage, currency) for usage in counted]
    return answer({"customer_usage": _usage(shown, period, period[1], currency, None)})


def past(lago: Lago, call: Call) -> Response:
    query = call.query
    if not query.get("external_subscription_id"):
        return invalid({"external_subscription_id": ["value_is_mandatory"]})
    code = query.get("billable_metric_code")
    if code and not lago.execute(
        "SELECT 1 FROM lago.billable_metrics WHERE organization_id = %(organization)s AND code = %(code)s",
        of(call, code=code),
    ):
        return not_found("billable_metric")
    count = query.get("periods_count", "")
    rows = lago.execute(
        PAST,
        of(
            call,
            customer=call.path["external_id"],
            subscription=query["external_subscription_id"],
            count=int(count) if count.isascii() and count.isdigit() else None,
        ),
    )
    page, per_page = paging(query, lago.faults.max_per_page)
    shown = []
    for invoice, start, end, issued, currency, charges in rows[(page - 1) * per_page : page * per_page]:
        chosen = [charge for charge in charges if code in (None, "", charge["billable_metric"]["code"])]
        shown.append(_usage(chosen, (start, end), issued, currency, invoice))
    if not rows and not lago.version.counts_past_the_end:  # where an older Lago says so all the same
        return answer({"usage_periods": [], "meta": meta(page, per_page, 0) | {"current_page": page}})
    return page_of(lago, "usage_periods", shown, page, per_page, len(rows))


def charge_usage(lago: Lago, charge: Charge, window: Window) -> ChargeUsage:
    """What a charge bills in a window. Raises pricing.NoRange."""
    metric = metric_of(lago, charge)
    return ChargeUsage(charge, metric, [_priced(charge, bucket) for bucket in count(lago, charge, metric, window)])


def _by_name(usage: ChargeUsage) -> tuple[str, str]:
    return usage.metric.name.lower(), usage.charge.code


def _priced(charge: Charge, bucket: Bucket) -> Billed:
    properties = charge.properties if bucket.filter is None else charge.filters[bucket.filter]["properties"]
    amount = pricing.price(charge.charge_model, properties, bucket.units, bucket.events_count, bucket.cents)
    if bucket.units < 0 or amount < 0:
        return Billed(bucket, Decimal(0), Decimal(0))
    return Billed(bucket, bucket.units, amount)


def usage_json(lago: Lago, usage: ChargeUsage, currency: str) -> dict[str, Any]:
    """One entry of `charges_usage`."""
    charge, metric, billed = usage.charge, usage.metric, usage.billed
    grouped = any(one.bucket.group for one in billed)
    return lago.version.shape(
        "usage",
        {
            **_sums(billed),
            "amount_currency": currency,
            "pricing_unit_details": None,
            "charge": lago.version.shape(
                "usage_charge",
                {
                    "lago_id": charge.lago_id,
                    "code": charge.code,
                    "charge_model": charge.charge_model,
                    "invoice_display_name": charge.invoice_display_name,
                },
            ),
            "billable_metric": {
                "lago_id": metric.lago_id,
                "name": metric.name,
                "code": metric.code,
                "aggregation_type": metric.aggregation_type,
            },
            "filters": [] if grouped else _filters(lago, charge, billed),
            "grouped_usage": _grouped(lago, charge, billed) if grouped else [],
            "presentation_breakdowns": [],
        },
    )


def _filters(lago: Lago, charge: Charge, billed: Sequence[Billed]) -> list[dict[str, Any]]:
    if not charge.filters:
        return []
    found = []
    for number in [*range(len(charge.filters)), None]:
        of_filter = [one for one in billed if one.bucket.filter == number]
        if not of_filter:
            continue
        named = {"invoice_display_name": None, "values": None} if number is None else charge.filters[number]
        entry = {
            **_sums(of_filter),
            "pricing_unit_details": None,
            "invoice_display_name": named["invoice_display_name"],
            "values": named["values"],
            "presentation_breakdowns": [],
        }
        found.append(lago.version.shape("usage", entry))
    return found


def _grouped(lago: Lago, charge: Charge, billed: Sequence[Billed]) -> list[dict[str, Any]]:
    groups: dict[tuple[tuple[str, str | None], ...], list[Billed]] = {}
    for one in billed:
        groups.setdefault(tuple(one.bucket.group.items()), []).append(one)
    return [
        lago.version.shape(
            "usage",
            {
                **_sums(members),
                "pricing_unit_details": None,
                "grouped_by": dict(group),
                "filters": _filters(lago, charge, members),
                "presentation_breakdowns": [],
            },
        )
        for group, members in groups.items()
    ]


def _sums(billed: Iterable[Billed]) -> dict[str, Any]:
    billed = list(billed)
    units = ruby_decimal(pricing.total(one.units for one in billed))
    return {
        "units": units,
        "total_aggregated_units": units,
        "events_count": sum(one.bucket.events_count for one in billed),
        "amount_cents": sum(pricing.cents(one.amount) for one in billed),
    }


def _usage(
    charges: list[dict[str, Any]], period: Period, issued: datetime, currency: str | None, invoice: str | None
) -> dict[str, Any]:
    """A `customer_usage`, or one of the `usage_periods` where there is an invoice."""
    amount = sum(charge["amount_cents"] for charge in charges)
    return {
        "from_datetime": seconds_text(period[0]),
        "to_datetime": seconds_text(period[1]),
        "issuing_date": f"{issued:%Y-%m-%d}",
        "currency": currency,
        "amount_cents": amount,
        "total_amount_cents": amount,
        "taxes_amount_cents": 0,
        "lago_invoice_id": invoice,
        "charges_usage": charges,
    }


def _chosen(lago: Lago, plan: Plan, query: QueryParams) -> list[Charge]:
    if not lago.version.filters_widely:
        return plan.charges
    wanted: Mapping[str, str | None] = {
        "metric_code": query.get("billable_metric_code"),
        "code": query.get("charge_code"),
        "lago_id": query.get("charge_id"),
    }
    return [
        charge
        for charge in plan.charges
        if all(value is None or getattr(charge, name) == value for name, value in wanted.items())
    ]


def _groups(query: QueryParams) -> dict[str, list[str]]:
    """`group[KEY]=V` and `group[KEY][]=V`: only events with this property, whatever the charge groups by."""
    found: dict[str, list[str]] = {}
    for name, value in query.multi_items():
        if name.startswith("group[") and name.endswith("]"):
            found.setdefault(name.removeprefix("group[").removesuffix("[]").removesuffix("]"), []).append(value)
    return found

"""GET /fees, and what a fee is: of a plan, or of one bucket of a charge."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from decimal import Decimal, localcontext
from typing import Any

from psycopg.types.json import Jsonb
from starlette.responses import Response

from reconcile.sandbox.lago import pricing
from reconcile.sandbox.lago.call import Account, Call, Lago, now
from reconcile.sandbox.lago.expression import ruby_decimal
from reconcile.sandbox.lago.listing import listed, of
from reconcile.sandbox.lago.periods import Period
from reconcile.sandbox.lago.plans import Plan
from reconcile.sandbox.lago.subscription import Subscription
from reconcile.sandbox.lago.timestamps import offset_text, seconds_text
from reconcile.sandbox.lago.usage import ChargeUsage

SOURCE = """FROM lago.fees AS fee JOIN lago.subscriptions AS subscription ON subscription.id = fee.subscription_id
    JOIN lago.customers AS customer ON customer.id = subscription.customer_id
    WHERE fee.organization_id = %(organization)s"""
FILTERS = {
    "external_subscription_id": "subscription.external_id",
    "external_customer_id": "customer.external_id",
    "billable_metric_code": "fee.metric_code",
    "fee_type": "fee.fee_type",
    "event_transaction_id": "fee.event_transaction_id",
}

INSERT = """
INSERT INTO lago.fees (id, organization_id, invoice_id, subscription_id, fee_type, metric_code, event_transaction_id,
    content, created_at)
VALUES (%(id)s, %(organization)s, %(invoice)s, %(subscription)s, %(type)s, %(metric)s, %(event)s, %(content)s, %(now)s)
"""


def list_all(lago: Lago, call: Call) -> Response:
    parameters, where = of(call), ""
    for name, column in FILTERS.items():
        if name in call.query:
            parameters[name] = call.query[name]
            where += f" AND {column} = %({name})s"

    def render(row: tuple[Any, ...]) -> dict[str, Any]:
        return lago.version.shape("fee", {**row[0], "applied_taxes": []})

    select = ("fee.content", SOURCE + where, "fee.created_at, fee.sequence")
    return listed(lago, call, "fees", select, parameters, render)


def subscription_fee(found: Subscription, plan: Plan, period: Period, *, named: bool) -> dict[str, Any]:
    """The fee of the plan itself. `named`: it carries the plan's name a second time."""
    amount = Decimal(plan.amount_cents) / 100
    item = {
        "type": "subscription",
        "code": plan.code,
        "name": plan.name,
        "invoice_display_name": plan.name if named else None,
        "lago_item_id": found.lago_id,
        "item_type": "Subscription",
    }
    fee = _fee(found, item, amount, Decimal(1), None, period)
    return fee | {
        "total_aggregated_units": None,
        "amount_details": {"plan_amount_cents": plan.amount_cents},
        "precise_unit_amount": ruby_decimal(amount),
    }


def charge_fees(found: Subscription, usage: ChargeUsage, period: Period) -> list[dict[str, Any]]:
    """The fees of a charge, one for each bucket that is not empty."""
    fees = []
    for one in usage.billed:
        if not (one.units or one.amount or one.bucket.events_count):
            continue
        filters = None if one.bucket.filter is None else usage.charge.filters[one.bucket.filter]
        item = {
            "type": "charge",
            "code": usage.metric.code,
            "name": usage.metric.name,
            "invoice_display_name": usage.charge.invoice_display_name or usage.metric.name,
            "filters": None if filters is None else filters["values"],
            "filter_invoice_display_name": None if filters is None else filters["invoice_display_name"],
            "lago_item_id": usage.metric.lago_id,
            "item_type": "BillableMetric",
            "grouped_by": one.bucket.group,
        }
        fees.append(
            _fee(found, item, one.amount, one.units, one.bucket.events_count, period)
            | {
                "lago_charge_id": usage.charge.lago_id,
                "lago_charge_filter_id": None if filters is None else filters["lago_id"],
                "pay_in_advance": usage.charge.pay_in_advance,
                "invoiceable": usage.charge.invoiceable,
            }
        )
    return fees


def store(
    lago: Lago, account: Account, found: Subscription, invoice: str, fees: Sequence[dict[str, Any]], event: str | None
) -> None:
    """Stores an invoice's fees."""
    moment = now(lago)
    for fee in fees:
        lago_id = str(uuid.uuid4())
        content = fee | {"lago_id": lago_id, "lago_invoice_id": invoice, "created_at": seconds_text(moment)}
        if event is not None:
            content["event_transaction_id"] = event
        of_charge = fee["item"]["type"] == "charge"
        lago.execute(
            INSERT,
            {
                "id": lago_id,
                "organization": account.organization,
                "invoice": invoice,
                "subscription": found.lago_id,
                "type": fee["item"]["type"],
                "metric": fee["item"]["code"] if of_charge else None,
                "event": event,
                "content": Jsonb(content),
                "now": moment,
            },
        )


def _fee(
    found: Subscription, item: dict[str, Any], amount: Decimal, units: Decimal, events_count: int | None, period: Period
) -> dict[str, Any]:
    cents = pricing.cents(amount)
    with localcontext(prec=pricing.DIGITS):
        precise_cents = amount * 100
    with localcontext(prec=15):
        unit_amount = pricing.unit_price(amount, units)
    precise = ruby_decimal(amount)
    return {
        "lago_id": None,
        "lago_charge_id": None,
        "lago_charge_filter_id": None,
        "lago_fixed_charge_id": None,
        "lago_invoice_id": None,
        "lago_true_up_fee_id": None,
        "lago_true_up_parent_fee_id": None,
        "lago_original_fee_id": None,
        "lago_subscription_id": found.lago_id,
        "external_subscription_id": found.external_id,
        "lago_customer_id": found.customer_id,
        "external_customer_id": found.external_customer_id,
        "item": {
            "description": None,
            "filters": None,
            "filter_invoice_display_name": None,
            "grouped_by": {},
            **item,
        },
        "pay_in_advance": False,
        "invoiceable": True,
        "amount_cents": cents,
        "amount_currency": found.amount_currency,
        "precise_amount": precise,
        "precise_total_amount": precise,
        "taxes_amount_cents": 0,
        "taxes_precise_amount": "0.0",
        "taxes_rate": 0.0,
        "total_aggregated_units": ruby_decimal(units),
        "total_amount_cents": cents,
        "total_amount_currency": found.amount_currency,
        "units": ruby_decimal(units),
        "description": None,
        "precise_unit_amount": ruby_decimal(unit_amount),
        "precise_coupons_amount_cents": "0.0",
        "sub_total_excluding_taxes_amount_cents": cents,
        "sub_total_excluding_taxes_precise_amount_cents": ruby_decimal(precise_cents),
        "events_count": events_count,
        "payment_status": "pending",
        "created_at": None,
        "succeeded_at": None,
        "failed_at": None,
        "refunded_at": None,
        "amount_details": {},
        "self_billed": False,
        "pricing_unit_details": None,
        "presentation_breakdowns": [],
        "from_date": offset_text(period[0]),
        "to_date": offset_text(period[1]),
    }

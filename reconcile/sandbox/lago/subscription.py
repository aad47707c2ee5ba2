"""A subscription as the database holds it, and as Lago's JSON shows it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from reconcile.sandbox.lago import plans
from reconcile.sandbox.lago.call import Lago, now
from reconcile.sandbox.lago.periods import Period, current_period
from reconcile.sandbox.lago.timestamps import milliseconds_text, seconds_text

COLUMNS = """subscription.id::text, subscription.external_id, customer.id::text, customer.external_id,
    subscription.name, plan.id::text, plan.code, plan.amount_cents, plan.amount_currency, plan."interval",
    subscription.status, subscription_at, started_at, ending_at, terminated_at, canceled_at,
    subscription.created_at, period_from, period_to"""
SOURCE = """FROM lago.subscriptions AS subscription
    JOIN lago.customers AS customer ON customer.id = subscription.customer_id
    JOIN lago.plans AS plan ON plan.id = subscription.plan_id
    WHERE subscription.organization_id = %(organization)s"""
ORDER = "started_at DESC NULLS FIRST, subscription.created_at DESC, subscription.sequence DESC"


@dataclass(frozen=True, slots=True)
class Subscription:
    """A row, with what belongs to it of its customer and its plan. Times are UTC without a zone."""

    lago_id: str
    external_id: str
    customer_id: str
    external_customer_id: str
    name: str
    plan_id: str
    plan_code: str
    amount_cents: int
    amount_currency: str
    interval: str
    status: str
    subscription_at: datetime
    started_at: datetime | None
    ending_at: datetime | None
    terminated_at: datetime | None
    canceled_at: datetime | None
    created_at: datetime
    period_from: datetime | None
    period_to: datetime | None

    def period(self, moment: datetime) -> Period | None:
        """The billing period under way at this moment, or the last one of an ended subscription."""
        given = (self.period_from, self.period_to)
        return current_period(self.interval, moment, self.started_at, self.terminated_at, given)


def newest(lago: Lago, organization: str, external_id: str, status: str) -> Subscription | None:
    """The newest subscription of this external ID and status."""
    rows = lago.execute(
        f"""SELECT {COLUMNS} {SOURCE} AND subscription.external_id = %(external_id)s
            AND subscription.status = %(status)s ORDER BY {ORDER} LIMIT 1""",
        {"organization": organization, "external_id": external_id, "status": status},
    )
    return Subscription(*rows[0]) if rows else None


def by_id(lago: Lago, organization: str, lago_id: str) -> Subscription:
    (row,) = lago.execute(
        f"SELECT {COLUMNS} {SOURCE} AND subscription.id = %(id)s", {"organization": organization, "id": lago_id}
    )
    return Subscription(*row)


def whole(lago: Lago, found: Subscription) -> dict[str, Any]:
    """A subscription alone, with its plan."""
    plan = plans.plan_json(lago, plans.by_id(lago, found.plan_id))
    for name in ("entitlements", "fixed_charges"):
        del plan[name]
    more = {
        "entitlements": [],
        "applicable_usage_thresholds": [],
        "applied_invoice_custom_sections": [],
        "plan": plan,
    }
    return lago.version.shape("subscription", {**subscription_json(found, now(lago)), **more})


def subscription_json(found: Subscription, moment: datetime) -> dict[str, Any]:
    period = found.period(moment)
    return {
        "lago_id": found.lago_id,
        "external_id": found.external_id,
        "lago_customer_id": found.customer_id,
        "external_customer_id": found.external_customer_id,
        "name": found.name,
        "plan_code": found.plan_code,
        "plan_amount_cents": found.amount_cents,
        "plan_amount_currency": found.amount_currency,
        "status": found.status,
        "billing_time": "calendar",
        "subscription_at": seconds_text(found.subscription_at),
        "started_at": milliseconds_text(found.started_at),
        "trial_ended_at": None,
        "ending_at": seconds_text(found.ending_at),
        "terminated_at": seconds_text(found.terminated_at),
        "canceled_at": seconds_text(found.canceled_at),
        "created_at": seconds_text(found.created_at),
        "previous_plan_code": None,
        "next_plan_code": None,
        "downgrade_plan_date": None,
        "current_billing_period_started_at": seconds_text(period[0]) if period else None,
        "current_billing_period_ending_at": seconds_text(period[1]) if period else None,
        "on_termination_credit_note": None,
        "on_termination_invoice": "generate",
        "progressive_billing_disabled": False,
        "consolidate_invoice": True,
        "purchase_order_number": None,
        "cancellation_reason": None,
        "activated_at": seconds_text(found.started_at),
        "payment_method": {"payment_method_id": None, "payment_method_type": "provider"},
        "activation_rules": [],
    }

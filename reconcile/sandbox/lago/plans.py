"""POST and GET /plans, GET /plans/{code}: plans with their charges, and how a subscription overrides its own."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from psycopg.types.json import Jsonb
from starlette.responses import Response

from reconcile.sandbox.lago.call import Call, Lago, now
from reconcile.sandbox.lago.expression import plain_decimal
from reconcile.sandbox.lago.http import Refused, answer, invalid, not_found
from reconcile.sandbox.lago.listing import listed, missing, of, posted
from reconcile.sandbox.lago.timestamps import seconds_text

COLUMNS = """id::text, organization_id::text, parent_id::text, code, name, "interval", amount_cents, amount_currency,
    pay_in_advance, charges, by_hand, created_at"""

INSERT = f"""
INSERT INTO lago.plans (organization_id, parent_id, code, name, "interval", amount_cents, amount_currency,
    pay_in_advance, charges, by_hand, created_at)
VALUES (%(organization)s, %(parent)s, %(code)s, %(name)s, %(interval)s, %(amount_cents)s, %(amount_currency)s,
    %(pay_in_advance)s, %(charges)s, %(by_hand)s, %(now)s)
ON CONFLICT DO NOTHING RETURNING {COLUMNS}"""  # noqa: S608 - constants

# A metric made by hand with a price carries a charge on every plan made by hand.
BY_HAND = """SELECT id::text, code, unit_amount FROM lago.billable_metrics
    WHERE organization_id = %(organization)s AND unit_amount IS NOT NULL ORDER BY code"""


@dataclass(frozen=True, slots=True)
class Charge:
    """What a plan charges for a metric. `filters` have `lago_id`, `invoice_display_name`, `properties`, `values`."""

    lago_id: str
    metric_id: str
    metric_code: str
    code: str
    charge_model: str
    properties: dict[str, Any]
    filters: list[dict[str, Any]]
    pay_in_advance: bool = False
    invoiceable: bool = True
    prorated: bool = False
    min_amount_cents: int = 0
    invoice_display_name: str | None = None
    parent_id: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    lago_id: str
    organization: str
    parent_id: str | None
    code: str
    name: str
    interval: str
    amount_cents: int
    amount_currency: str
    pay_in_advance: bool
    charges: list[Charge]
    created_at: datetime


def create(lago: Lago, call: Call) -> Response:
    given = posted(call, "plan")
    if errors := missing(given, "name", "code", "interval", "amount_currency"):
        return invalid(errors)
    charges = [_posted_charge(lago, call, one) for one in given.get("charges") or ()]
    plan = insert(lago, call.organization, given, charges)
    return invalid({"code": ["value_already_exist"]}) if plan is None else answer({"plan": plan_json(lago, plan)})


def list_all(lago: Lago, call: Call) -> Response:
    def render(row: tuple[Any, ...]) -> dict[str, Any]:
        shown = plan_json(lago, read(lago, row))
        del shown["fixed_charges"]
        return shown

    source = "FROM lago.plans WHERE organization_id = %(organization)s AND parent_id IS NULL"
    return listed(lago, call, "plans", (COLUMNS, source, "created_at DESC, sequence DESC"), of(call), render)


def find(lago: Lago, call: Call) -> Response:
    plan = parent(lago, call.organization, call.path["code"])
    return not_found("plan") if plan is None else answer({"plan": plan_json(lago, plan)})


def parent(lago: Lago, organization: str, code: str) -> Plan | None:
    """The plan of this code that is not one subscription's own."""
    rows = lago.execute(
        f"SELECT {COLUMNS} FROM lago.plans WHERE organization_id = %s AND code = %s AND parent_id IS NULL",  # noqa: S608
        (organization, code),
    )
    return read(lago, rows[0]) if rows else None


def by_id(lago: Lago, lago_id: str) -> Plan:
    (row,) = lago.execute(f"SELECT {COLUMNS} FROM lago.plans WHERE id = %s", (lago_id,))  # noqa: S608
    return read(lago, row)


def override(lago: Lago, plan: Plan, overrides: Mapping[str, Any]) -> Plan:
    """A plan of one subscription alone: the parent's, with what is given in its place, under the same code.

    A charge is named by its `id` or by the metric's `billable_metric_id`.
    """
    changes = list(overrides.get("charges") or ())
    charges = []
    for charge in plan.charges:
        change: Mapping[str, Any] = next(
            (
                one
                for one in changes
                if charge.lago_id == one.get("id") or charge.metric_id == one.get("billable_metric_id")
            ),
            {},
        )
        charges.append(
            charge_record(charge)
            | {
                name: change[name]
                for name in ("properties", "min_amount_cents", "invoice_display_name")
                if name in change
            }
            | ({"filters": _posted_filters(change["filters"])} if "filters" in change else {})
            | {"lago_id": str(uuid.uuid4()), "parent_id": charge.lago_id}
        )
    given = {
        "code": plan.code,
        "name": plan.name,
        "interval": plan.interval,
        "amount_cents": plan.amount_cents,
        "amount_currency": plan.amount_currency,
        "pay_in_advance": plan.pay_in_advance,
        **{name: overrides[name] for name in ("name", "amount_cents", "amount_currency") if name in overrides},
    }
    child = insert(lago, plan.organization, given, charges, parent_id=plan.lago_id)
    assert child is not None
    return child


def insert(
    lago: Lago,
    organization: str,
    given: Mapping[str, Any],
    charges: list[dict[str, Any]],
    *,
    parent_id: str | None = None,
    by_hand: bool = False,
) -> Plan | None:
    """Stores a plan; None where its code is taken."""
    rows = lago.execute(
        INSERT,
        {
            "organization": organization,
            "parent": parent_id,
            "code": given["code"],
            "name": given["name"],
            "interval": given["interval"],
            "amount_cents": given.get("amount_cents") or 0,
            "amount_currency": given["amount_currency"],
            "pay_in_advance": bool(given.get("pay_in_advance")),
            "charges": Jsonb(charges),
            "by_hand": by_hand,
            "now": now(lago),
        },
    )
    if any(charge["pay_in_advance"] for charge in charges):
        lago.reload()
    return read(lago, rows[0]) if rows else None


def read(lago: Lago, row: tuple[Any, ...]) -> Plan:
    *head, records, by_hand, created_at = row
    charges = [Charge(**record) for record in records]
    if by_hand:
        charges += [
            Charge(metric, metric, code, code, "standard", {"amount": plain_decimal(Decimal(amount))}, [])
            for metric, code, amount in lago.execute(BY_HAND, {"organization": row[1]})
        ]
    lago_id, organization, parent_id, code, name, interval, amount_cents, currency, pay_in_advance = head
    return Plan(
        lago_id,
        organization,
        parent_id,
        code,
        name,
        interval,
        amount_cents,
        currency,
        pay_in_advance,
        charges,
        created_at,
    )


def charge_record(charge: Charge) -> dict[str, Any]:
    """The charge as it is stored."""
    return {name: getattr(charge, name) for name in Charge.__slots__}


def plan_json(lago: Lago, plan: Plan) -> dict[str, Any]:
    return lago.version.shape(
        "plan",
        {
            "lago_id": plan.lago_id,
            "name": plan.name,
            "invoice_display_name": None,
            "created_at": seconds_text(plan.created_at),
            "code": plan.code,
            "interval": plan.interval,
            "description": None,
            "amount_cents": plan.amount_cents,
            "amount_currency": plan.amount_currency,
            "trial_period": None,
            "pay_in_advance": plan.pay_in_advance,
            "bill_charges_monthly": None,
            "bill_fixed_charges_monthly": None,
            "customers_count": 0,
            "active_subscriptions_count": 0,
            "draft_invoices_count": 0,
            "parent_id": plan.parent_id,
            "pending_deletion": False,
            "charges": [charge_json(lago, plan, charge) for charge in plan.charges],
            "fixed_charges": [],
            "entitlements": [],
            "usage_thresholds": [],
            "applicable_usage_thresholds": [],
            "taxes": [],
        },
    )


def charge_json(lago: Lago, plan: Plan, charge: Charge) -> dict[str, Any]:
    grouping = charge.properties.get("pricing_group_keys")
    filters = [
        lago.version.shape("charge_filter", {"lago_id": one["lago_id"], "charge_code": charge.code, **one})
        for one in charge.filters
    ]
    return lago.version.shape(
        "charge",
        {
            "lago_id": charge.lago_id,
            "lago_billable_metric_id": charge.metric_id,
            "code": charge.code,
            "invoice_display_name": charge.invoice_display_name,
            "billable_metric_code": charge.metric_code,
            "created_at": seconds_text(plan.created_at),
            "charge_model": charge.charge_model,
            "invoiceable": charge.invoiceable,
            "regroup_paid_fees": None,
            "pay_in_advance": charge.pay_in_advance,
            "prorated": charge.prorated,
            "min_amount_cents": charge.min_amount_cents,
            "accepts_target_wallet": False,
            "properties": charge.properties | ({"grouped_by": grouping} if grouping else {}),
            "applied_pricing_unit": None,
            "lago_parent_id": charge.parent_id,
            "filters": filters,
            "taxes": [],
        },
    )


def _posted_charge(lago: Lago, call: Call, given: Mapping[str, Any]) -> dict[str, Any]:
    rows = lago.execute(
        "SELECT id::text, code FROM lago.billable_metrics WHERE organization_id = %s AND id::text = %s",
        (call.organization, str(given.get("billable_metric_id"))),
    )
    if not rows:
        raise Refused(not_found("billable_metrics"))
    ((metric_id, metric_code),) = rows
    return charge_record(
        Charge(
            lago_id=str(uuid.uuid4()),
            metric_id=metric_id,
            metric_code=metric_code,
            code=given.get("code") or metric_code,
            charge_model=given["charge_model"],
            properties=dict(given.get("properties") or {}),
            filters=_posted_filters(given.get("filters") or ()),
            pay_in_advance=bool(given.get("pay_in_advance")),
            invoiceable=given.get("invoiceable", True) is not False,
            prorated=bool(given.get("prorated")),
            min_amount_cents=given.get("min_amount_cents") or 0,
            invoice_display_name=given.get("invoice_display_name"),
        )
    )


def _posted_filters(given: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "lago_id": str(uuid.uuid4()),
            "invoice_display_name": one.get("invoice_display_name"),
            "properties": dict(one.get("properties") or {}),
            "values": dict(one.get("values") or {}),
        }
        for one in given
    ]

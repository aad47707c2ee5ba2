"""GET /invoices and /invoices/{lago_id}, PUT /invoices/{lago_id}/refresh and /finalize, POST /invoices/{lago_id}/void.

A draft shows what was stored when it was made or last refreshed. Credit notes and previews need a licence, which the
stand-in does not have; one-off invoices are not modelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from psycopg.types.json import Jsonb
from starlette.responses import Response

from reconcile.sandbox.lago import customers, fees, plans
from reconcile.sandbox.lago.call import Account, Call, Lago, now
from reconcile.sandbox.lago.counting import Window
from reconcile.sandbox.lago.http import answer, failure, invalid, not_found
from reconcile.sandbox.lago.listing import listed, of, posted
from reconcile.sandbox.lago.periods import Period
from reconcile.sandbox.lago.subscription import Subscription, by_id, subscription_json
from reconcile.sandbox.lago.timestamps import seconds_text
from reconcile.sandbox.lago.usage import charge_usage, usage_json

STATUSES = ("draft", "finalized", "voided", "failed", "pending")
WRONG_STATUS = f"must be one of: {', '.join(STATUSES)} or must be an array"

COLUMNS = """invoice.id::text, invoice.sequence, invoice.number, invoice.status, invoicing_reason, issuing_date,
    invoice.period_from, invoice.period_to, invoice.created_at, invoice.updated_at, invoice.voided_at,
    invoice.subscription_id::text, customer.id::text, customer.external_id, customer.currency,
    (SELECT coalesce(sum((fee.content->>'amount_cents')::bigint), 0)::bigint FROM lago.fees AS fee
        WHERE fee.invoice_id = invoice.id)"""
SOURCE = """FROM lago.invoices AS invoice
    JOIN lago.subscriptions AS subscription ON subscription.id = invoice.subscription_id
    JOIN lago.customers AS customer ON customer.id = subscription.customer_id
    WHERE invoice.organization_id = %(organization)s"""

INSERT = """
INSERT INTO lago.invoices (organization_id, subscription_id, number, status, invoicing_reason, issuing_date,
    period_from, period_to, usage, created_at, updated_at)
SELECT %(organization)s, %(subscription)s,
    coalesce(%(number)s, %(prefix)s || '-' || lpad((count(*) + 1)::text, 3, '0')), %(status)s, %(reason)s, %(issued)s,
    %(from)s, %(to)s, '[]', %(now)s, %(now)s
FROM lago.invoices WHERE organization_id = %(organization)s
RETURNING id::text"""

# What an invoice shows of things that the stand-in does not have.
NOTHING: dict[str, Any] = {
    "taxes_amount_cents": 0,
    "progressive_billing_credit_amount_cents": 0,
    "coupons_amount_cents": 0,
    "credit_notes_amount_cents": 0,
    "total_paid_amount_cents": 0,
    "total_offsetted_credit_note_amount_cents": 0,
    "prepaid_credit_amount_cents": 0,
    "prepaid_granted_credit_amount_cents": None,
    "prepaid_purchased_credit_amount_cents": None,
    "purchase_order_number": None,
    "payment_dispute_lost_at": None,
    "payment_overdue": False,
    "file_url": None,
    "xml_url": None,
    "version_number": 4,
    "self_billed": False,
    "metadata": [],
    "applied_taxes": [],
}


@dataclass(frozen=True, slots=True)
class Invoice:
    lago_id: str
    sequence: int
    number: str
    status: str
    reason: str
    issued: date
    period_from: datetime
    period_to: datetime
    created_at: datetime
    updated_at: datetime
    voided_at: datetime | None
    subscription_id: str
    customer_id: str
    external_customer_id: str
    currency: str | None
    cents: int


def list_all(lago: Lago, call: Call) -> Response:
    query = call.query
    statuses = query.getlist("statuses[]") or query.getlist("status[]") or query.getlist("status")
    if not set(statuses) <= set(STATUSES):
        return invalid({"status": [WRONG_STATUS]})
    parameters, where = of(call), ""
    if statuses:
        parameters["statuses"] = statuses
        where += " AND invoice.status = ANY(%(statuses)s)"
    if "external_customer_id" in query:
        parameters["customer"] = query["external_customer_id"]
        where += " AND customer.external_id = %(customer)s"

    def render(row: tuple[Any, ...]) -> dict[str, Any]:
        return _summary(lago, call.organization, Invoice(*row))

    order = "issuing_date DESC, invoice.created_at DESC, invoice.sequence DESC"
    return listed(lago, call, "invoices", (COLUMNS, SOURCE + where, order), parameters, render)


def find(lago: Lago, call: Call) -> Response:
    found = _find(lago, call.organization, call.path["lago_id"])
    return not_found("invoice") if found is None else answer({"invoice": _whole(lago, call.organization, found)})


def refresh(lago: Lago, call: Call) -> Response:
    found = _find(lago, call.organization, call.path["lago_id"])
    if found is None:
        return not_found("invoice")
    if found.status == "draft":
        fill(lago, call.account, found.lago_id)
    return find(lago, call)


def finalize(lago: Lago, call: Call) -> Response:
    found = _find(lago, call.organization, call.path["lago_id"])
    if found is None or found.status != "draft":
        return not_found("invoice")
    close(lago, call.account, found.lago_id)
    return find(lago, call)


def void(lago: Lago, call: Call) -> Response:
    found = _find(lago, call.organization, call.path["lago_id"])
    if found is None:
        return not_found("invoice")
    if found.status != "finalized":
        return failure(405, "Method Not Allowed", code="not_voidable")
    lago.execute(
        "UPDATE lago.invoices SET status = 'voided', voided_at = %(now)s, updated_at = %(now)s WHERE id = %(id)s",
        {"id": found.lago_id, "now": now(lago)},
    )
    return find(lago, call)


def preview(_: Lago, __: Call) -> Response:
    return failure(403, "Forbidden", code="feature_unavailable")


def create_credit_note(lago: Lago, call: Call) -> Response:
    found = _find(lago, call.organization, str(posted(call, "credit_note").get("invoice_id")))
    return not_found("invoice") if found is None else failure(403, "Forbidden", code="feature_unavailable")


def terminate(lago: Lago, account: Account, found: Subscription, moment: datetime, *, bill: bool = True) -> None:
    """Ends a subscription. Its usage up to then is billed at once, by a final invoice."""
    lago.execute(
        "UPDATE lago.subscriptions SET status = 'terminated', terminated_at = %s WHERE id = %s",
        (moment, found.lago_id),
    )
    ended = by_id(lago, account.organization, found.lago_id)
    period = ended.period(moment)
    if bill and period is not None:
        invoice = insert(lago, account, ended, period, reason="subscription_terminating")
        close(lago, account, invoice)


def insert(
    lago: Lago,
    account: Account,
    found: Subscription,
    period: Period,
    *,
    reason: str,
    number: str | None = None,
    status: str = "draft",
    issued: date | None = None,
) -> str:
    """An invoice without fees over a period of a subscription; its Lago ID."""
    moment = now(lago)
    ((entity,),) = lago.execute("SELECT name FROM lago.organizations WHERE id = %s", (account.organization,))
    ((lago_id,),) = lago.execute(
        INSERT,
        {
            "organization": account.organization,
            "subscription": found.lago_id,
            "number": number,
            "prefix": f"{customers.slug(entity)}-001",
            "status": status,
            "reason": reason,
            "issued": issued or moment.date(),
            "from": period[0],
            "to": period[1],
            "now": moment,
        },
    )
    return str(lago_id)


def fill(lago: Lago, account: Account, lago_id: str) -> None:
    """Computes an invoice of a period anew, from the events stored by now. Its fees get new IDs."""
    invoice = _find(lago, account.organization, lago_id)
    assert invoice is not None
    found = by_id(lago, account.organization, invoice.subscription_id)
    plan = plans.by_id(lago, found.plan_id)
    period = invoice.period_from, invoice.period_to
    window = Window(account, found.external_id, period)
    usages = [charge_usage(lago, charge, window) for charge in plan.charges if not charge.pay_in_advance]
    usages = [usage for usage in usages if not usage.is_empty]
    currency = invoice.currency or plan.amount_currency
    lago.execute(
        "UPDATE lago.invoices SET usage = %s, updated_at = %s WHERE id = %s",
        (Jsonb([usage_json(lago, usage, currency) for usage in usages]), now(lago), lago_id),
    )
    lago.execute("DELETE FROM lago.fees WHERE invoice_id = %s", (lago_id,))
    made = [fees.subscription_fee(found, plan, period, named=lago.version.counts_past_the_end)]
    made += [fee for usage in usages for fee in fees.charge_fees(found, usage, period)]
    fees.store(lago, account, found, lago_id, made, None)


def close(lago: Lago, account: Account, lago_id: str) -> None:
    """Computes a draft for the last time and makes it final."""
    fill(lago, account, lago_id)
    lago.execute("UPDATE lago.invoices SET status = 'finalized' WHERE id = %s", (lago_id,))


def bill_fees(
    lago: Lago,
    account: Account,
    found: Subscription,
    period: Period,
    made: Sequence[dict[str, Any]],
    event: str | None,
) -> None:
    """A final invoice of the fees that one event made."""
    invoice = insert(lago, account, found, period, reason="in_advance_charge", status="finalized")
    fees.store(lago, account, found, invoice, made, event)


def _find(lago: Lago, organization: str, lago_id: str) -> Invoice | None:
    rows = lago.execute(
        f"SELECT {COLUMNS} {SOURCE} AND invoice.id::text = %(id)s", {"organization": organization, "id": lago_id}
    )
    return Invoice(*rows[0]) if rows else None


def _summary(lago: Lago, organization: str, invoice: Invoice) -> dict[str, Any]:
    """An invoice as lists show it: without its fees and periods."""
    entity = customers.of_invoice(lago, organization, invoice.external_customer_id)
    code = entity["billing_entity_code"]
    return lago.version.shape(
        "invoice",
        {
            **NOTHING,
            "lago_id": invoice.lago_id,
            "billing_entity_code": code,
            "sequential_id": invoice.sequence,
            "number": invoice.number,
            "issuing_date": f"{invoice.issued:%Y-%m-%d}",
            "payment_due_date": f"{invoice.issued:%Y-%m-%d}",
            "net_payment_term": 0,
            "invoice_type": "subscription",
            "status": invoice.status,
            "payment_status": "pending",
            "currency": invoice.currency,
            **dict.fromkeys(
                (
                    "fees_amount_cents",
                    "sub_total_excluding_taxes_amount_cents",
                    "sub_total_including_taxes_amount_cents",
                    "total_amount_cents",
                    "total_due_amount_cents",
                ),
                invoice.cents,
            ),
            "created_at": seconds_text(invoice.created_at),
            "updated_at": seconds_text(invoice.updated_at),
            "voided_at": seconds_text(invoice.voided_at),
            "customer": entity,
        },
    )


def _whole(lago: Lago, organization: str, invoice: Invoice) -> dict[str, Any]:
    found = by_id(lago, organization, invoice.subscription_id)
    shown = lago.version.shape("subscription", subscription_json(found, now(lago)))
    content = lago.execute("SELECT content FROM lago.fees WHERE invoice_id = %s ORDER BY sequence", (invoice.lago_id,))
    ends = (seconds_text(invoice.period_from), seconds_text(invoice.period_to))
    fixed = ends if lago.version.counts_past_the_end else (None, None)
    return _summary(lago, organization, invoice) | {
        "subscriptions": [shown],
        "billing_periods": [
            {
                "lago_subscription_id": found.lago_id,
                "external_subscription_id": found.external_id,
                "lago_plan_id": found.plan_id,
                "subscription_from_datetime": ends[0],
                "subscription_to_datetime": ends[1],
                "charges_from_datetime": ends[0],
                "charges_to_datetime": ends[1],
                "fixed_charges_from_datetime": fixed[0],
                "fixed_charges_to_datetime": fixed[1],
                "invoicing_reason": invoice.reason,
            }
        ],
        "fees": [lago.version.shape("fee", one) for (one,) in content],
        "credits": [],
        "error_details": [],
        "applied_invoice_custom_sections": [],
    }

"""POST and GET /customers, GET /customers/{external_id}."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from reconcile.sandbox.lago.call import Call, Lago, now
from reconcile.sandbox.lago.http import answer, invalid, not_found
from reconcile.sandbox.lago.listing import listed, missing, of, posted
from reconcile.sandbox.lago.timestamps import seconds_text

COLUMNS = "customer.id::text, customer.sequence, external_id, customer.name, currency, created_at, updated_at, entity"
SOURCE = """FROM (
    SELECT customer.*, lower(replace(organization.name, ' ', '-')) AS entity FROM lago.customers AS customer
    JOIN lago.organizations AS organization ON organization.id = customer.organization_id
    WHERE organization_id = %(organization)s
) AS customer"""

UPSERT = """
INSERT INTO lago.customers (organization_id, external_id, name, currency, created_at, updated_at)
VALUES (%(organization)s, %(external_id)s, %(name)s, %(currency)s, %(now)s, %(now)s)
ON CONFLICT (organization_id, external_id) DO UPDATE SET
    name = coalesce(excluded.name, customers.name), currency = coalesce(excluded.currency, customers.currency),
    updated_at = excluded.updated_at"""

# Without a licence Lago takes no time zone and no grace period: it answers 200 and ignores them.
ADDRESS = ("address_line1", "address_line2", "city", "zipcode", "state", "country")
UNUSED = (
    "firstname",
    "lastname",
    "customer_type",
    *ADDRESS,
    "email",
    "url",
    "phone",
    "logo_url",
    "legal_name",
    "legal_number",
    "tax_identification_number",
    "timezone",
    "net_payment_term",
    "external_salesforce_id",
)
BILLING = (
    "invoice_grace_period",
    "payment_provider",
    "payment_provider_code",
    "document_locale",
    "subscription_invoice_issuing_date_anchor",
    "subscription_invoice_issuing_date_adjustment",
)


def create(lago: Lago, call: Call) -> Response:
    """Makes the customer, or changes it."""
    given = posted(call, "customer")
    if errors := missing(given, "external_id"):
        return invalid(errors)
    parameters = of(
        call,
        external_id=given["external_id"],
        name=given.get("name"),
        currency=given.get("currency"),
        now=now(lago),
    )
    lago.execute(UPSERT, parameters)
    return answer({"customer": _whole(lago, _find(lago, call.organization, given["external_id"])[0])})


def list_all(lago: Lago, call: Call) -> Response:
    select = (COLUMNS, SOURCE, "created_at DESC, sequence DESC")
    return listed(lago, call, "customers", select, of(call), lambda row: customer_json(row) | {"taxes": []})


def find(lago: Lago, call: Call) -> Response:
    rows = _find(lago, call.organization, call.path["external_id"])
    return answer({"customer": _whole(lago, rows[0])}) if rows else not_found("customer")


def of_invoice(lago: Lago, organization: str, external_id: str) -> dict[str, Any]:
    """A customer as its invoices show it."""
    return customer_json(_find(lago, organization, external_id)[0])


def _find(lago: Lago, organization: str, external_id: str) -> list[tuple[Any, ...]]:
    return lago.execute(
        f"SELECT {COLUMNS} {SOURCE} WHERE external_id = %(external_id)s",
        {"organization": organization, "external_id": external_id},
    )


def _whole(lago: Lago, row: tuple[Any, ...]) -> dict[str, Any]:
    more: dict[str, Any] = {"taxes": [], "applicable_invoice_custom_sections": [], "error_details": []}
    return lago.version.shape("customer", customer_json(row) | more)


def customer_json(row: tuple[Any, ...]) -> dict[str, Any]:
    lago_id, number, external_id, name, currency, created_at, updated_at, entity = row
    return dict.fromkeys(UNUSED) | {
        "lago_id": lago_id,
        "billing_entity_code": entity,
        "external_id": external_id,
        "account_type": "customer",
        "name": name,
        "sequential_id": number,
        "slug": f"{slug(entity)}-{number:03d}",
        "created_at": seconds_text(created_at),
        "updated_at": seconds_text(updated_at),
        "currency": currency,
        "applicable_timezone": "UTC",
        "finalize_zero_amount_invoice": "inherit",
        "billing_configuration": dict.fromkeys(BILLING),
        "shipping_address": dict.fromkeys(ADDRESS),
        "skip_invoice_custom_sections": False,
        "metadata": [],
        "integration_customers": [],
    }


def slug(entity: str) -> str:
    """The prefix of numbers that Lago gives: three letters and four digits."""
    return f"{entity[:3].upper():X<3}-0001"

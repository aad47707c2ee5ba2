"""GET /organizations."""

from __future__ import annotations

from starlette.responses import Response

from reconcile.sandbox.lago.call import Call, Lago
from reconcile.sandbox.lago.customers import ADDRESS, slug
from reconcile.sandbox.lago.http import answer
from reconcile.sandbox.lago.listing import of
from reconcile.sandbox.lago.timestamps import seconds_text


def find(lago: Lago, call: Call) -> Response:
    ((lago_id, name, store, created_at),) = lago.execute(
        "SELECT id::text, name, events_store, created_at FROM lago.organizations WHERE id = %(organization)s", of(call)
    )
    entity = name.lower().replace(" ", "-")
    content = dict.fromkeys((*ADDRESS, "email", "legal_name", "legal_number", "tax_identification_number")) | {
        "lago_id": lago_id,
        "name": name,
        "slug": entity,
        "default_currency": "USD",
        "created_at": seconds_text(created_at),
        "webhook_url": "",
        "webhook_urls": [],
        "timezone": "UTC",
        "net_payment_term": 0,
        "email_settings": [],
        "document_numbering": "per_customer",
        "document_number_prefix": slug(entity),
        "finalize_zero_amount_invoice": True,
        "billing_configuration": {"invoice_footer": None, "invoice_grace_period": 0, "document_locale": "en"},
        "events_store": store,
    }
    return answer({"organization": lago.version.shape("organization", content)})

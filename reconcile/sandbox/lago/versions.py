"""The versions of Lago that the stand-in can be, and what the older one does otherwise.

Both were recorded (see tests/data/lago): a build of main one month after 1.51.0, and 1.38.0 of December 2025.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Version:
    """What a version of Lago does where the versions differ.

    `atomic_batches`: a refused batch stores nothing; before 1.39 its good events stay.
    `exact_times`: a timestamp is read as a decimal; before 1.48 as a float, so that nearly every second is stored
    one millisecond early.
    `ordered_ties`: listed events of equal time come by transaction ID; before 1.48 in any order.
    `filters_widely`: GET /subscriptions filters by external ID, current usage by metric and by group.
    `counts_past_the_end`: a page past the last one still tells the total; `per_page=0` is a 500.
    `tells_store`: GET /organizations names the event store.
    `lists_charges`: /subscriptions/{id}/charges is there.
    `leaves_out`: keys that its answers lack, by kind of object.
    """

    name: str
    atomic_batches: bool = True
    exact_times: bool = True
    ordered_ties: bool = True
    filters_widely: bool = True
    counts_past_the_end: bool = True
    tells_store: bool = True
    lists_charges: bool = True
    leaves_out: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def shape(self, kind: str, content: dict[str, Any]) -> dict[str, Any]:
        """The object as this version writes it."""
        missing = self.leaves_out.get(kind)
        return {name: value for name, value in content.items() if name not in missing} if missing else content


NEWEST = Version("1.51.0")

V1_38 = Version(
    "1.38.0",
    atomic_batches=False,
    exact_times=False,
    ordered_ties=False,
    filters_widely=False,
    counts_past_the_end=False,
    tells_store=False,
    lists_charges=False,
    leaves_out={
        "organization": frozenset({"slug", "events_store"}),
        "customer": frozenset({"error_details"}),
        "plan": frozenset({"applicable_usage_thresholds"}),
        "charge": frozenset({"code", "accepts_target_wallet", "lago_parent_id"}),
        "charge_filter": frozenset({"lago_id", "charge_code"}),
        "subscription": frozenset(
            {
                "activated_at",
                "activation_rules",
                "applicable_usage_thresholds",
                "applied_invoice_custom_sections",
                "cancellation_reason",
                "consolidate_invoice",
                "payment_method",
                "plan_amount_cents",
                "plan_amount_currency",
                "progressive_billing_disabled",
                "purchase_order_number",
            }
        ),
        "usage": frozenset({"presentation_breakdowns"}),
        "usage_charge": frozenset({"code"}),
        "fee": frozenset(
            {
                "lago_fixed_charge_id",
                "lago_original_fee_id",
                "presentation_breakdowns",
                "sub_total_excluding_taxes_amount_cents",
                "sub_total_excluding_taxes_precise_amount_cents",
            }
        ),
        "invoice": frozenset(
            {
                "purchase_order_number",
                "total_paid_amount_cents",
                "total_offsetted_credit_note_amount_cents",
                "prepaid_granted_credit_amount_cents",
                "prepaid_purchased_credit_amount_cents",
                "web_url",
            }
        ),
    },
)

VERSIONS = {"1.51": NEWEST, "1.38": V1_38}

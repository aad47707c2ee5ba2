"""Draft invoices: the periods that are over and still take events."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from typing import Any

from reconcile.lago.coverage import Period
from reconcile.lago.http import Http, Unserved, as_dict, as_list, as_text, segment
from reconcile.lago.items import milliseconds

_ABSENT = frozenset({404})
# Up to so many customers are asked for one by one; beyond, the list of all drafts is shorter.
_CUSTOMERS_ONE_BY_ONE = 50


class Invoices:
    http: Http

    def draft_periods(self, external_customer_ids: Collection[str]) -> list[Period]:
        """What draft invoices of these customers bill. Empty on a server without invoices.

        The list of invoices carries no periods (invoice_index.rb), so each draft of theirs is fetched.
        """
        wanted = sorted({name for name in external_customer_ids if name})
        listed: dict[str, dict[str, Any]] = {}
        if len(wanted) <= _CUSTOMERS_ONE_BY_ONE:
            for name in wanted:
                listed |= self._drafts([("external_customer_id", name)])
        else:
            listed = self._drafts([])
        periods = []
        for lago_id, invoice in listed.items():
            customer = as_dict(invoice.get("customer")).get("external_id")
            if customer is None or customer in wanted:
                self.http.check_stop()
                periods += self._periods(lago_id, invoice)
        return periods

    def _drafts(self, params: list[tuple[str, str | int]]) -> dict[str, dict[str, Any]]:
        listed: dict[str, dict[str, Any]] = {}
        with suppress(Unserved):
            for page in self.http.pages("/invoices", "invoices", [("status", "draft"), *params], answers=_ABSENT):
                listed |= {str(item["lago_id"]): item for item in page if item.get("lago_id")}
        return listed

    def _periods(self, lago_id: str, invoice: dict[str, Any]) -> list[Period]:
        if "billing_periods" not in invoice:
            answer = self.http.get(f"/invoices/{segment(lago_id)}", answers=_ABSENT)
            invoice = as_dict((answer.body or {}).get("invoice")) if answer.ok else {}
        # It may have changed since it was listed, and some servers ignore the filter.
        if invoice.get("status") != "draft":
            return []
        found = []
        for period in map(as_dict, as_list(invoice.get("billing_periods"))):
            first, last = milliseconds(_boundary(period, "from")), milliseconds(_boundary(period, "to"))
            if first is not None and last is not None:
                found.append(Period(as_text(period.get("external_subscription_id")) or "", first, last, lago_id))
        return found


def _boundary(period: dict[str, Any], end: str) -> object:
    """Events count by the charges' boundaries, which an older Lago does not tell apart from the subscription's."""
    return period.get(f"charges_{end}_datetime") or period.get(f"subscription_{end}_datetime")

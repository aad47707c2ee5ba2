"""What Lago knows besides events: the organization, the metric, plans, subscriptions. One request, one method.

Which of them a run makes is decided in `directory.py`. Field names and paths are those of Lago v1.51.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reconcile.errors import LagoFault
from reconcile.lago.gate import Gate
from reconcile.lago.http import Answer, Unserved, as_dict, as_int, as_list, as_text, following, segment
from reconcile.lago.invoices import Invoices
from reconcile.lago.items import (
    Metric,
    Organization,
    Plan,
    Subscription,
    read_metric,
    read_organization,
    read_plan,
    read_subscription,
)
from reconcile.lago.usage import Usages

_ABSENT = frozenset({404})
_CUSTOMERS_ASKED = 50
_BAD_FILTER = frozenset({400, 422})


@dataclass(frozen=True, slots=True)
class SubscriptionPage:
    """`total` is Lago's own count of what the request asks for, None where it does not say."""

    subscriptions: tuple[Subscription, ...]
    total: int | None
    next_page: int | None


class Catalog(Usages, Invoices):
    """Reads of the catalog. Every method raises `LagoFault`, or `PreflightError` in a preflight view."""

    # What requests for subscriptions' plans pass: a run may make some hundred of them.
    plan_requests: Gate

    def organization(self) -> Organization:
        """The key's organization. All fields are None on a Lago that does not serve `GET /organizations`."""
        answer = self.http.get("/organizations", answers=_ABSENT)
        return read_organization(as_dict((answer.body or {}).get("organization")) if answer.ok else {})

    def metric(self, code: str) -> Metric | None:
        """The billable metric of this code, None where Lago has none."""
        if not code:
            return None  # the path without a code is the list
        path = f"/billable_metrics/{segment(code)}"
        answer = self.http.get(path, answers=_ABSENT)
        if not answer.ok and "code" not in (answer.body or {}):
            answer = self.http.get(path)  # a proxy's 404 says nothing about the metric: hold on, or raise
        found = as_dict((answer.body or {}).get("billable_metric"))
        if found.get("code") == code:
            return read_metric(found)
        if _lago_says(answer, "billable_metric_not_found"):
            return None
        for page in self.http.pages("/billable_metrics", "billable_metrics"):
            for item in page:
                if item.get("code") == code:
                    return read_metric(item)
        return None

    def plan(self, code: str, metric_code: str) -> Plan | None:
        """The plan with its charges on the metric; None where Lago has none of this code, or does not serve plans.

        A plan that was overridden for one subscription has the code of the plan that it was made from, and is not
        shown here (plans_query.rb): see `plan_of`.
        """
        if not code:
            return None
        answer = self.http.get(f"/plans/{segment(code)}", answers=_ABSENT)
        found = as_dict((answer.body or {}).get("plan"))
        return read_plan(found, metric_code) if answer.ok and found.get("code") == code else None

    def plan_of(self, subscription: Subscription, metric_code: str) -> Plan | None:
        """The subscription's own plan, overridden or not, with its charges on the metric.

        None where Lago shows another subscription of this external ID (of several that have ended it shows the newest
        alone), or none. Raises `Unserved` on a server that shows no single subscription.
        """
        if not subscription.external_id:
            return None  # the path without an ID is the list
        # Without the status Lago shows active subscriptions only.
        params = [] if subscription.status == "active" else [("status", subscription.status)]
        path = f"/subscriptions/{segment(subscription.external_id)}"
        answer = self.http.get(path, params, answers=_ABSENT, gate=self.plan_requests, items=_one)
        if not answer.ok:
            if _lago_says(answer, "subscription_not_found"):
                return None
            raise Unserved(answer.status)
        found = as_dict((answer.body or {}).get("subscription"))
        if read_subscription(found).lago_id != subscription.lago_id:
            return None
        return read_plan(as_dict(found.get("plan")), metric_code)

    def plans(self, metric_code: str) -> list[Plan]:
        """Every plan, with its charges on the metric. Lago takes 25 ms for one."""
        found = (read_plan(item, metric_code) for page in self.http.pages("/plans", "plans") for item in page)
        return [plan for plan in found if plan is not None]

    def unknown_customers(self, external_ids: Sequence[str]) -> set[str]:
        """Those of the IDs that no customer has: asked for one by one while they are few, else by the whole list."""
        if len(external_ids) > _CUSTOMERS_ASKED:
            known = {
                as_text(item.get("external_id")) for page in self.http.pages("/customers", "customers") for item in page
            }
            return {name for name in external_ids if name not in known}
        unknown = set()
        for name in external_ids:
            answer = self.http.get(f"/customers/{segment(name)}", answers=_ABSENT)
            if not answer.ok:
                unknown.add(name)
        return unknown

    def subscription_page(self, statuses: Sequence[str], page: int, per_page: int, **filters: str) -> SubscriptionPage:
        """A page of the list of subscriptions. Raises `Unserved` where Lago refuses the statuses.

        Filters are Lago's (`external_id`, `external_customer_id`, `overriden`). A Lago that does not know one of them
        ignores it: judge by what comes back.
        """
        params: list[tuple[str, str | int]] = [*filters.items(), *(("status[]", status) for status in statuses)]
        answer = self.http.get("/subscriptions", [*params, ("page", page), ("per_page", per_page)], answers=_BAD_FILTER)
        if not answer.ok:
            raise Unserved(answer.status)
        body = answer.body or {}
        items = (item for item in as_list(body.get("subscriptions")) if isinstance(item, dict))
        return SubscriptionPage(
            subscriptions=tuple(map(read_subscription, items)),
            total=as_int(as_dict(body.get("meta")).get("total_count")),
            next_page=following(body, page),
        )

    def find_event(self, transaction_id: str) -> dict[str, Any] | None:
        """The event of this transaction ID as Lago shows it, None where there is none.

        One of them where several subscriptions share the ID: Lago cannot be asked for one subscription's.
        """
        if not transaction_id:
            return None  # the path without an ID is the list
        path = f"/events/{segment(transaction_id)}"
        answer = self.http.get(path, answers=_ABSENT)
        if answer.ok:
            return as_dict((answer.body or {}).get("event"))
        if "code" not in (answer.body or {}):  # a proxy's 404 says nothing about the event
            raise LagoFault(f"GET {path} answered 404, and not Lago's: {answer.excerpt}")
        return None


def _one(content: bytes) -> float:
    """What a subscription is to Lago: the same work, however long the answer."""
    return 1.0


def _lago_says(answer: Answer, code: str) -> bool:
    return as_text((answer.body or {}).get("code")) == code

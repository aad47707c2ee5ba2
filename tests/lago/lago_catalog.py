"""Lago's catalog as canned answers: the shapes, filters and errors of lago-api's main (August 2026) and of v1.38.

It is a script for `lago_double`: what a test puts into `subscriptions`, `plans` and `invoices` is what it answers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from .lago_double import Reply, Request

CODE = "llm_cost"


def not_found(what: str) -> Reply:
    return Reply(404, {"status": 404, "error": "Not Found", "code": f"{what}_not_found"})


def charge(code: str = CODE, **changes: Any) -> dict[str, Any]:
    return {
        "lago_id": "c",
        "lago_billable_metric_id": "m",
        "code": "cost",
        "billable_metric_code": code,
        "charge_model": "standard",
        "pay_in_advance": False,
        "prorated": False,
        "min_amount_cents": 0,
        "properties": {"amount": "1"},
        "lago_parent_id": None,
        "filters": [],
        "taxes": [],
        **changes,
    }


def plan(code: str, *charges: dict[str, Any], **changes: Any) -> dict[str, Any]:
    found = {"lago_id": f"plan-{code}", "code": code, "interval": "monthly", "parent_id": None}
    return {**found, "charges": list(charges), **changes}


@dataclass
class CannedCatalog:
    """With `old` it answers as v1.38.0: `external_id=` and `overriden=` are ignored.

    `own_plans`: the overridden plan of a subscription, by its lago_id; GET /plans does not show it.
    """

    old: bool = False
    shows: bool = True
    page_cap: int = 100_000
    subscriptions: list[dict[str, Any]] = field(default_factory=list)
    plans: dict[str, dict[str, Any]] = field(default_factory=dict)
    own_plans: dict[str, dict[str, Any]] = field(default_factory=dict)
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    invoices: list[dict[str, Any]] = field(default_factory=list)

    def add(self, external_id: str, customer: str = "acme", plan_code: str = "pro", **changes: Any) -> str:
        """A subscription, active since 2026-11-01 where nothing else is said. Returns its lago_id."""
        lago_id = f"sub-{len(self.subscriptions)}"
        found = {
            "lago_id": lago_id,
            "external_id": external_id,
            "external_customer_id": customer,
            "plan_code": plan_code,
            "status": "active",
            "started_at": "2026-11-01T00:00:00.000Z",
            "terminated_at": None,
            "previous_plan_code": None,
            "next_plan_code": None,
            "current_billing_period_started_at": "2026-11-01T00:00:00Z",
            "current_billing_period_ending_at": "2026-11-30T23:59:59Z",
        }
        self.subscriptions.append({**found, **changes})
        return lago_id

    def __call__(self, request: Request) -> Reply | None:
        parts = request.path.removeprefix("/api/v1/").split("/")
        name = unquote("/".join(parts[1:]))
        if parts[0] == "subscriptions":
            return self.show(name, request) if name else self.list_subscriptions(request)
        if parts[0] == "plans" and name:
            return Reply(200, {"plan": self.plans[name]}) if name in self.plans else not_found("plan")
        if parts[0] == "billable_metrics" and name:
            found = self.metrics.get(name)
            return Reply(200, {"billable_metric": found}) if found else not_found("billable_metric")
        if parts[0] == "invoices":
            return self.show_invoice(name) if name else self.list_invoices(request)
        return None

    def list_subscriptions(self, request: Request) -> Reply:
        query = request.query
        statuses = query.get("status[]", ["active"])
        found = [one for one in reversed(self.subscriptions) if one["status"] in statuses]
        if "external_customer_id" in query:
            found = [one for one in found if [one["external_customer_id"]] == query["external_customer_id"]]
        if not self.old:
            if "external_id" in query:
                found = [one for one in found if [one["external_id"]] == query["external_id"]]
            if "overriden" in query:
                own = query["overriden"] == ["true"]
                found = [one for one in found if (one["lago_id"] in self.own_plans) == own]
        return self.page("subscriptions", found, request)

    def page(self, key: str, found: list[dict[str, Any]], request: Request, total: int | None = None) -> Reply:
        size = min(int(request.query.get("per_page", ["100"])[0]), self.page_cap)
        pages = -(-len(found) // size)
        meta = {
            "current_page": request.page,
            "next_page": request.page + 1 if request.page < pages else None,
            "prev_page": None,
            "total_pages": pages,
            "total_count": len(found) if total is None else total,
        }
        return Reply(200, {key: found[(request.page - 1) * size : request.page * size], "meta": meta})

    def show(self, external_id: str, request: Request) -> Reply:
        if not self.shows:
            return not_found("resource")
        (status,) = request.query.get("status", ["active"])
        for one in reversed(self.subscriptions):
            if (one["external_id"], one["status"]) == (external_id, status):
                used = self.own_plans.get(one["lago_id"]) or self.plans.get(one["plan_code"])
                return Reply(200, {"subscription": one | {"plan": used}})
        return not_found("subscription")

    def list_invoices(self, request: Request) -> Reply:
        wanted = request.query.get("external_customer_id")
        found = [
            {name: value for name, value in one.items() if name != "billing_periods"}
            for one in self.invoices
            if [one["status"]] == request.query["status"] and wanted in (None, [one["customer"]["external_id"]])
        ]
        return self.page("invoices", found, request, total=1)  # Lago's count comes from a cache

    def show_invoice(self, lago_id: str) -> Reply:
        for one in self.invoices:
            if one["lago_id"] == lago_id:
                return Reply(200, {"invoice": one})
        return not_found("invoice")

"""POST, GET and DELETE of /subscriptions, GET /subscriptions/{external_id} and its /charges."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from starlette.responses import Response

from reconcile.sandbox.lago import plans
from reconcile.sandbox.lago.call import Call, Lago, now
from reconcile.sandbox.lago.http import answer, invalid, not_found, paging
from reconcile.sandbox.lago.invoices import terminate
from reconcile.sandbox.lago.listing import listed, missing, of, page_of, posted
from reconcile.sandbox.lago.subscription import (
    COLUMNS,
    ORDER,
    SOURCE,
    Subscription,
    by_id,
    newest,
    subscription_json,
    whole,
)
from reconcile.sandbox.lago.timestamps import naive

STATUSES = ("pending", "active", "terminated", "canceled", "incomplete")

FILTERS = {
    "external_customer_id": "customer.external_id",
    "plan_code": "plan.code",
    "external_id": "subscription.external_id",
}

# As Rails reads a flag. The name is Lago's own spelling.
NO = frozenset({"false", "f", "0", "off", "FALSE", "F", "OFF"})

INSERT = """
INSERT INTO lago.subscriptions (organization_id, customer_id, plan_id, external_id, name, status, subscription_at,
    started_at, ending_at, created_at)
SELECT organization_id, id, %(plan)s, %(external_id)s, %(name)s, %(status)s, %(subscription_at)s, %(started_at)s,
    %(ending_at)s, %(now)s
FROM lago.customers WHERE organization_id = %(organization)s AND external_id = %(customer)s
RETURNING id"""

UPSERT_CUSTOMER = """
INSERT INTO lago.customers (organization_id, external_id, currency, created_at, updated_at)
VALUES (%(organization)s, %(customer)s, %(currency)s, %(now)s, %(now)s)
ON CONFLICT (organization_id, external_id) DO UPDATE SET currency = coalesce(customers.currency, excluded.currency)"""


def create(lago: Lago, call: Call) -> Response:
    """Makes a subscription. The same again is the same; another plan ends it and begins anew."""
    given = posted(call, "subscription")
    if errors := missing(given, "external_customer_id", "plan_code"):
        return invalid(errors)
    plan = plans.parent(lago, call.organization, given["plan_code"])
    if plan is None:
        return not_found("plan")
    moment = now(lago)
    customer = str(given["external_customer_id"]).strip()
    external_id = str(given.get("external_id") or customer).strip()
    existing = newest(lago, call.organization, external_id, "active")
    if existing is not None and existing.external_customer_id != customer:
        return invalid({"external_id": ["value_already_exist"]})
    if existing is not None and existing.plan_code == plan.code:
        return answer({"subscription": whole(lago, existing)})
    dates = {name: _date(given.get(name)) for name in ("subscription_at", "ending_at")}
    for name, date in dates.items():
        if date is None and given.get(name):
            return invalid({name: ["invalid_date"]})
    if existing is not None:
        terminate(lago, call.account, existing, moment)
    begins = dates["subscription_at"] or moment
    pending = begins > moment
    if given.get("plan_overrides"):
        plan = plans.override(lago, plan, given["plan_overrides"])
    parameters = of(call, customer=customer, currency=plan.amount_currency, now=moment)
    lago.execute(UPSERT_CUSTOMER, parameters)
    ((lago_id,),) = lago.execute(
        INSERT,
        parameters
        | {
            "plan": plan.lago_id,
            "external_id": external_id,
            "name": given.get("name") or "",
            "status": "pending" if pending else "active",
            "subscription_at": begins,
            "started_at": None if pending else begins,
            "ending_at": dates["ending_at"],
        },
    )
    return answer({"subscription": whole(lago, by_id(lago, call.organization, lago_id))})


def list_all(lago: Lago, call: Call) -> Response:
    query = call.query
    asked = query.getlist("status[]") or ["active"]
    parameters = of(call, status=asked if set(asked) <= set(STATUSES) else list(STATUSES))
    where = " AND subscription.status = ANY(%(status)s)"
    for name, column in FILTERS.items():
        if name in query and (lago.version.filters_widely or name != "external_id"):
            parameters[name] = query[name]
            where += f" AND {column} = %({name})s"
    if "overriden" in query and lago.version.filters_widely:
        where += f" AND plan.parent_id IS {'' if query['overriden'] in NO else 'NOT '}NULL"
    moment = now(lago)

    def render(row: tuple[Any, ...]) -> dict[str, Any]:
        return lago.version.shape("subscription", subscription_json(Subscription(*row), moment))

    return listed(lago, call, "subscriptions", (COLUMNS, SOURCE + where, ORDER), parameters, render)


def find(lago: Lago, call: Call) -> Response:
    found = newest(lago, call.organization, call.path["external_id"], call.query.get("status") or "active")
    return not_found("subscription") if found is None else answer({"subscription": whole(lago, found)})


def list_charges(lago: Lago, call: Call) -> Response:
    if not lago.version.lists_charges:
        return not_found("resource")
    found = newest(lago, call.organization, call.path["external_id"], "active")
    if found is None:
        return not_found("subscription")
    plan = plans.by_id(lago, found.plan_id)
    page, per_page = paging(call.query, lago.faults.max_per_page)
    newest_first = [plans.charge_json(lago, plan, charge) for charge in reversed(plan.charges)]
    shown = newest_first[(page - 1) * per_page : page * per_page]
    return page_of(lago, "charges", shown, page, per_page, len(newest_first))


def delete(lago: Lago, call: Call) -> Response:
    """Ends an active subscription, with its invoice, or cancels a pending one."""
    status = call.query.get("status") or "active"
    found = newest(lago, call.organization, call.path["external_id"], status)
    if found is None or status not in ("active", "pending"):
        return not_found("subscription")
    moment = now(lago)
    if status == "pending":
        lago.execute(
            "UPDATE lago.subscriptions SET status = 'canceled', canceled_at = %s WHERE id = %s", (moment, found.lago_id)
        )
    else:
        terminate(lago, call.account, found, moment, bill=call.query.get("on_termination_invoice") != "skip")
    shown = whole(lago, by_id(lago, call.organization, found.lago_id))
    for name in ("entitlements", "applicable_usage_thresholds"):
        shown.pop(name, None)
    return answer({"subscription": shown})


def _date(text: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return naive(moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment)

"""Lago's REST API as the stand-in answers it: a Starlette application, by Lago 1.51.0.

Status codes, errors, orders and page metadata are Lago's own, so that a client cannot tell the difference.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, Protocol
from urllib.parse import unquote

import psycopg
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from reconcile.sandbox.lago_events import Event, Expression, OutOfRange, read_event, read_time
from reconcile.sandbox.lago_faults import Faults
from reconcile.sandbox.lago_http import (
    Refused,
    answer,
    body,
    failure,
    invalid,
    meta,
    microseconds,
    naive,
    not_found,
    positive,
    rendered,
    rendered_page,
)
from reconcile.sandbox.lago_schema import (
    CURRENT_PERIOD,
    CUSTOMER_JSON,
    INVOICE_JSON,
    METRIC_JSON,
    ORGANIZATION_JSON,
    SUBSCRIPTION_JSON,
)
from reconcile.sandbox.lago_store import DUPLICATE, Account, Listing, Store, event_listing
from reconcile.sandbox.lago_usage import charge_usage, usage

BATCH_LENGTH = 100
PAGE_LENGTH = 100

Handler = Callable[[Request, Account], Awaitable[Response]]


class State(Protocol):
    """What the endpoints ask of the stand-in."""

    faults: Faults

    def account(self, key: str) -> Account | None: ...
    def expressions(self, organization: str) -> Mapping[str, Expression]: ...
    def now(self) -> datetime: ...


def application(state: State, store: Store) -> Starlette:
    """The application. `store` is closed with it."""
    endpoints = Endpoints(state, store)
    table: Sequence[tuple[str, str, Handler]] = (
        ("POST", "/events", endpoints.create_event),
        ("POST", "/events/batch", endpoints.create_batch),
        ("GET", "/events", endpoints.list_events),
        ("GET", "/events/{transaction_id}", endpoints.find_event),
        ("GET", "/subscriptions", endpoints.list_subscriptions),
        ("GET", "/customers", endpoints.list_customers),
        ("GET", "/customers/{external_id}", endpoints.find_customer),
        ("GET", "/customers/{external_id}/current_usage", endpoints.current_usage),
        ("GET", "/customers/{external_id}/past_usage", endpoints.past_usage),
        ("GET", "/billable_metrics", endpoints.list_metrics),
        ("GET", "/billable_metrics/{code}", endpoints.find_metric),
        ("GET", "/organizations", endpoints.find_organization),
        ("GET", "/invoices", endpoints.list_invoices),
        ("GET", "/invoices/{lago_id}", endpoints.find_invoice),
    )
    routes = [
        Route(f"/api/v1{path}", endpoints.with_account(handler), methods=[method]) for method, path, handler in table
    ]
    routes.append(Route("/health", health))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await store.close()

    return Starlette(routes=routes, exception_handlers={404: no_route, 405: no_route}, lifespan=lifespan)


async def health(_: Request) -> Response:
    return answer({"version": "1.51.0", "message": "Success"})


async def no_route(_: Request, __: Exception) -> Response:
    return not_found("resource")


class Endpoints:
    def __init__(self, state: State, store: Store) -> None:
        self._state = state
        self._store = store

    def with_account(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """The handler behind the API key's check, with everything that it raises turned into an answer."""

        async def endpoint(request: Request) -> Response:
            _, _, key = request.headers.get("authorization", "").partition(" ")
            account = self._state.account(key.strip())
            if account is None:
                response = failure(401, "Unauthorized")
            else:
                try:
                    response = await handler(request, account)
                except Refused as refused:
                    response = refused.response
                except (psycopg.Error, OutOfRange):
                    response = failure(500, "Internal Server Error")
            return response

        return endpoint

    async def create_event(self, request: Request, account: Account) -> Response:
        if not account.writes_events:
            return failure(403, "Forbidden", code="write_action_not_allowed_for_event")
        params = await body(request)
        if not params.get("event"):
            message = "param is missing or the value is empty or invalid: event"
            return failure(400, f"BadRequest: {message}")
        if not isinstance(params["event"], dict):
            return failure(500, "Internal Server Error")
        now = microseconds(self._state.now())
        event = read_event(params["event"], now, self._state.expressions(account.organization))
        if not isinstance(event, Event):
            return invalid(event)
        if account.clickhouse:
            stored = await self._store.insert_raw(account, [event], now)
            return rendered("event", stored[0])
        if event.errors:
            return invalid(event.errors)
        stored, duplicates = await self._store.insert(account, [event], now, keep_partial=False)
        return invalid(DUPLICATE) if duplicates else rendered("event", stored[0])

    async def create_batch(self, request: Request, account: Account) -> Response:
        if not account.writes_events:
            return failure(403, "Forbidden", code="write_action_not_allowed_for_event")
        params = await body(request)
        items = params.get("events")
        posted = [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
        if not posted:
            return invalid({"events": ["no_events"]})
        if len(posted) > BATCH_LENGTH:
            return invalid({"events": ["too_many_events"]})
        now = microseconds(self._state.now())
        expressions = self._state.expressions(account.organization)
        events: list[Event] = []
        details: dict[str, Any] = {}
        for index, item in enumerate(posted):
            event = read_event(item, now, expressions)
            if not isinstance(event, Event):
                details[str(index)] = event
            elif event.errors:
                details[str(index)] = event.errors
            else:
                events.append(event)
        if details:
            return invalid(details)
        if account.clickhouse:
            return rendered("events", f"[{','.join(await self._store.insert_raw(account, events, now))}]")
        stored, duplicates = await self._store.insert(account, events, now, keep_partial=self._state.faults.before_1_39)
        if duplicates:
            return invalid({str(index): DUPLICATE for index in duplicates})
        return rendered("events", f"[{','.join(stored)}]")

    async def list_events(self, request: Request, account: Account) -> Response:
        if not account.reads_events:
            return failure(403, "Forbidden", code="read_action_not_allowed_for_event")
        faults = self._state.faults
        if faults.before_list is not None:
            await run_in_threadpool(faults.before_list)
        query = request.query_params
        filters: dict[str, Any] = {name: query[name] for name in ("code", "external_subscription_id") if name in query}
        for name in ("timestamp_from", "timestamp_to"):
            if name in query:
                moment = read_time(query[name])
                if moment is None:
                    return invalid({name: ["invalid_date"]})
                filters[name] = moment.replace(tzinfo=None)
        if query.get("timestamp_from_started_at") == "true" and "external_subscription_id" in query:
            started = await self._store.newest_start(account, query["external_subscription_id"])
            if started is not None:
                filters["timestamp_from"] = started
        listing = event_listing(account, filters, faults.visibility_lag, unstable_ties=faults.unstable_ties)
        return await self._page(request, "events", listing)

    async def find_event(self, request: Request, account: Account) -> Response:
        if not account.reads_events:
            return failure(403, "Forbidden", code="read_action_not_allowed_for_event")
        transaction_id = unquote(request.path_params["transaction_id"])
        text = await self._store.find_event(account, transaction_id, self._state.faults.visibility_lag)
        return not_found("event") if text is None else rendered("event", text)

    async def list_subscriptions(self, request: Request, account: Account) -> Response:
        query = request.query_params
        parameters: dict[str, Any] = {
            "organization": account.organization,
            "now": naive(self._state.now()),
            "status": query.getlist("status[]") or ["active"],
        }
        where = "subscription.organization_id = %(organization)s AND subscription.status = ANY(%(status)s)"
        columns = {
            "external_customer_id": "customer.external_id",
            "external_id": "subscription.external_id",
            "plan_code": "subscription.plan_code",
        }
        for name, column in columns.items():
            if name in query:
                parameters[name] = query[name]
                where += f" AND {column} = %({name})s"
        source = f"""FROM lago.subscriptions AS subscription
            JOIN lago.customers AS customer ON customer.id = subscription.customer_id
            {CURRENT_PERIOD} WHERE {where}"""
        order = "subscription.started_at ASC NULLS FIRST, subscription.created_at ASC, subscription.id ASC"
        return await self._page(request, "subscriptions", Listing(SUBSCRIPTION_JSON, source, order, parameters))

    async def list_customers(self, request: Request, account: Account) -> Response:
        source = "FROM lago.customers AS customer WHERE organization_id = %(organization)s"
        listing = Listing(f"{CUSTOMER_JSON}::text", source, "created_at DESC, id", _of(account))
        return await self._page(request, "customers", listing)

    async def find_customer(self, request: Request, account: Account) -> Response:
        source = """FROM lago.customers AS customer WHERE organization_id = %(organization)s
            AND external_id = %(name)s"""
        name = unquote(request.path_params["external_id"])
        return await self._one("customer", f"{CUSTOMER_JSON}::text", source, {**_of(account), "name": name})

    async def list_metrics(self, request: Request, account: Account) -> Response:
        source = "FROM lago.billable_metrics WHERE organization_id = %(organization)s"
        listing = Listing(METRIC_JSON, source, "created_at DESC, id", _of(account))
        return await self._page(request, "billable_metrics", listing)

    async def find_metric(self, request: Request, account: Account) -> Response:
        source = "FROM lago.billable_metrics WHERE organization_id = %(organization)s AND code = %(name)s"
        name = unquote(request.path_params["code"])
        return await self._one("billable_metric", METRIC_JSON, source, {**_of(account), "name": name})

    async def find_organization(self, _: Request, account: Account) -> Response:
        source = "FROM lago.organizations WHERE id = %(organization)s"
        return await self._one("organization", ORGANIZATION_JSON, source, _of(account))

    async def list_invoices(self, request: Request, account: Account) -> Response:
        query = request.query_params
        parameters = dict(_of(account))
        source = f"{INVOICES} WHERE invoice.organization_id = %(organization)s"
        for name, column in (("status", "invoice.status"), ("external_customer_id", "customer.external_id")):
            if name in query:
                parameters[name] = query[name]
                source += f" AND {column} = %({name})s"
        order = "invoice.issuing_date DESC, invoice.created_at DESC, invoice.id"
        return await self._page(request, "invoices", Listing(INVOICE_JSON, source, order, parameters))

    async def find_invoice(self, request: Request, account: Account) -> Response:
        source = f"""{INVOICES} WHERE invoice.organization_id = %(organization)s
            AND invoice.id::text = %(name)s"""
        name = unquote(request.path_params["lago_id"])
        return await self._one("invoice", INVOICE_JSON, source, {**_of(account), "name": name})

    async def current_usage(self, request: Request, account: Account) -> Response:
        query = request.query_params
        parameters = {
            **_of(account),
            "customer": unquote(request.path_params["external_id"]),
            "subscription": query.get("external_subscription_id"),
            "now": naive(self._state.now()),
        }
        customers = await self._store.rows(
            """SELECT currency FROM lago.customers WHERE organization_id = %(organization)s
                AND external_id = %(customer)s""",
            parameters,
        )
        if not customers:
            return not_found("customer")
        periods = await self._store.rows(OPEN_PERIOD, parameters)
        if not periods:
            return failure(405, "Method Not Allowed", code="no_active_subscription")
        (currency,), (start, end) = customers[0], periods[0]
        code = query.get("billable_metric_code")
        subscription = str(parameters["subscription"])
        charges = await self._charges(account, subscription, start, end, currency, code)
        return answer({"customer_usage": _usage(charges, start, end, currency, None)})

    async def past_usage(self, request: Request, account: Account) -> Response:
        query = request.query_params
        if not query.get("external_subscription_id"):
            return invalid({"external_subscription_id": ["value_is_mandatory"]})
        code = query.get("billable_metric_code")
        if code and not await self._store.rows(
            "SELECT FROM lago.billable_metrics WHERE organization_id = %(organization)s AND code = %(code)s",
            {**_of(account), "code": code},
        ):
            return not_found("billable_metric")
        subscription = query["external_subscription_id"]
        periods = await self._store.rows(
            PAST_PERIODS,
            {
                **_of(account),
                "customer": unquote(request.path_params["external_id"]),
                "subscription": subscription,
                "count": positive(query.get("periods_count"), 0) or None,
            },
        )
        page, per_page = self._paging(request)
        shown = []
        for invoice, start, end, currency, charges in periods[(page - 1) * per_page : page * per_page]:
            if charges is None:  # a draft is computed anew
                charges = await self._charges(account, subscription, start, end, currency, None)
            chosen = [charge for charge in charges if code in (None, "", charge["billable_metric"]["code"])]
            shown.append(_usage(chosen, start, end, currency, invoice))
        return answer({"usage_periods": shown, "meta": meta(page, per_page, len(periods))})

    async def _charges(
        self,
        account: Account,
        subscription: str,
        start: datetime,
        end: datetime,
        currency: str,
        code: str | None,
    ) -> list[dict[str, Any]]:
        charges = []
        for metric in await self._store.metrics(account, code):
            units, count = await self._store.units(
                account, metric, subscription, start, end, self._state.faults.visibility_lag
            )
            charges.append(charge_usage(metric, units, count, currency))
        return charges

    def _paging(self, request: Request) -> tuple[int, int]:
        per_page = positive(request.query_params.get("per_page"), PAGE_LENGTH)
        if self._state.faults.max_per_page is not None:
            per_page = min(per_page, self._state.faults.max_per_page)
        return positive(request.query_params.get("page"), 1), per_page

    async def _page(self, request: Request, collection: str, listing: Listing) -> Response:
        page, per_page = self._paging(request)
        rows, total = await self._store.page(listing, page, per_page)
        return rendered_page(collection, rows, meta(page, per_page, total))

    async def _one(self, resource: str, row: str, source: str, parameters: Mapping[str, Any]) -> Response:
        rows = await self._store.rows(f"SELECT {row} {source}", parameters)
        return rendered(resource, rows[0][0]) if rows else not_found(resource)


OPEN_PERIOD = f"""SELECT period.charges_from, period.charges_to FROM lago.subscriptions AS subscription
    JOIN lago.customers AS customer ON customer.id = subscription.customer_id {CURRENT_PERIOD}
    WHERE subscription.organization_id = %(organization)s AND subscription.status = 'active'
        AND customer.external_id = %(customer)s AND subscription.external_id = %(subscription)s"""  # noqa: S608 - constants

INVOICES = """FROM lago.invoices AS invoice
    JOIN lago.subscriptions AS subscription ON subscription.id = invoice.subscription_id
    JOIN lago.customers AS customer ON customer.id = subscription.customer_id"""

PAST_PERIODS = f"""
    SELECT invoice.id::text, invoice.period_from, invoice.period_to, customer.currency, invoice.usage
    {INVOICES}
    WHERE invoice.organization_id = %(organization)s
        AND customer.external_id = %(customer)s AND subscription.external_id = %(subscription)s
    ORDER BY invoice.period_from DESC LIMIT %(count)s"""


def _of(account: Account) -> dict[str, Any]:
    return {"organization": account.organization}


def _usage(
    charges: list[dict[str, Any]], start: datetime, end: datetime, currency: str, invoice: str | None
) -> dict[str, Any]:
    return usage(
        charges,
        from_datetime=f"{start:%Y-%m-%dT%H:%M:%S}Z",
        to_datetime=f"{end:%Y-%m-%dT%H:%M:%S}Z",
        issuing_date=f"{end.date() + timedelta(days=1):%Y-%m-%d}",
        currency=currency,
        invoice_id=invoice,
    )

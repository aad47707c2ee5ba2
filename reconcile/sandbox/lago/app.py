"""Lago's REST API as the stand-in answers it: which path is answered where, and what every answer has in common."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from urllib.parse import unquote

import psycopg
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from reconcile.sandbox.lago import (
    customers,
    fees,
    invoices,
    metrics,
    organizations,
    pay_in_advance,
    plans,
    subscriptions,
    usage,
)
from reconcile.sandbox.lago.call import Call, Lago
from reconcile.sandbox.lago.events import Events
from reconcile.sandbox.lago.events_clickhouse import ClickHouseEvents
from reconcile.sandbox.lago.events_postgres import PostgresEvents
from reconcile.sandbox.lago.http import Refused, answer, body, broken, failure, not_found
from reconcile.sandbox.lago.slow import Slow
from reconcile.sandbox.lago.store import Store
from reconcile.sandbox.lago.timestamps import OutOfRange

Handler = Callable[[Call], Awaitable[Response]]
Blocking = Callable[[Lago, Call], Response]


def application(lago: Lago, store: Store, slow: Slow | None) -> Starlette:
    """The application. `store` is closed with it; with `slow` it takes its time."""
    events = Events(lago, PostgresEvents(lago, store), ClickHouseEvents(lago, store))
    asynchronous: Sequence[tuple[str, str, Handler]] = (
        ("POST", "/events", events.create),
        ("POST", "/events/batch", events.create_batch),
        ("GET", "/events", events.list),
        ("GET", "/events_enriched", events.list_enriched),
        ("GET", "/events/{transaction_id}", events.find),
    )
    blocking: Sequence[tuple[str, str, Blocking]] = (
        ("POST", "/events/estimate_fees", pay_in_advance.estimate),
        ("POST", "/billable_metrics", metrics.create),
        ("GET", "/billable_metrics", metrics.list_all),
        ("GET", "/billable_metrics/{code}", metrics.find),
        ("POST", "/plans", plans.create),
        ("GET", "/plans", plans.list_all),
        ("GET", "/plans/{code}", plans.find),
        ("POST", "/customers", customers.create),
        ("GET", "/customers", customers.list_all),
        ("GET", "/customers/{external_id}", customers.find),
        ("GET", "/customers/{external_id}/current_usage", usage.current),
        ("GET", "/customers/{external_id}/past_usage", usage.past),
        ("POST", "/subscriptions", subscriptions.create),
        ("GET", "/subscriptions", subscriptions.list_all),
        ("GET", "/subscriptions/{external_id}", subscriptions.find),
        ("DELETE", "/subscriptions/{external_id}", subscriptions.delete),
        ("GET", "/subscriptions/{external_id}/charges", subscriptions.list_charges),
        ("GET", "/organizations", organizations.find),
        ("GET", "/fees", fees.list_all),
        ("GET", "/invoices", invoices.list_all),
        ("POST", "/invoices/preview", invoices.preview),
        ("GET", "/invoices/{lago_id}", invoices.find),
        ("PUT", "/invoices/{lago_id}/refresh", invoices.refresh),
        ("PUT", "/invoices/{lago_id}/finalize", invoices.finalize),
        ("POST", "/invoices/{lago_id}/void", invoices.void),
        ("POST", "/credit_notes", invoices.create_credit_note),
    )
    table = [*asynchronous, *((method, path, _threaded(lago, handler)) for method, path, handler in blocking)]
    routes = [
        Route(f"/api/v1{path}", _endpoint(lago, slow, method, path, handler), methods=[method])
        for method, path, handler in table
    ]

    async def health(_: Request) -> Response:
        return answer({"version": lago.version.name, "message": "Success"})

    routes.append(Route("/health", health))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await store.close()

    return Starlette(routes=routes, exception_handlers={404: _no_route, 405: _no_route}, lifespan=lifespan)


async def _no_route(_: Request, __: Exception) -> Response:
    return not_found("resource")


def _threaded(lago: Lago, handler: Blocking) -> Handler:
    async def threaded(call: Call) -> Response:
        return await run_in_threadpool(handler, lago, call)

    return threaded


def _endpoint(
    lago: Lago, slow: Slow | None, method: str, route: str, handler: Handler
) -> Callable[[Request], Awaitable[Response]]:
    """The handler behind the API key's check, with everything that it raises turned into an answer."""

    async def endpoint(request: Request) -> Response:
        _, _, key = request.headers.get("authorization", "").partition(" ")
        account = lago.account(key.strip())
        if account is None:
            return failure(401, "Unauthorized")
        try:
            path = {name: unquote(text) for name, text in request.path_params.items()}
            params = {} if method == "GET" else await body(request)
            call = Call(account, path, request.query_params, params)
            if slow is None:
                return await handler(call)
            async with slow.worker(method, route, call.work):
                return await handler(call)
        except Refused as refused:
            return refused.response
        except (psycopg.Error, OutOfRange):
            return broken()

    return endpoint

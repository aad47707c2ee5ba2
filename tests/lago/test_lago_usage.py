"""What Lago says that it bills: an extra figure, which a report can do without."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from reconcile.lago import ChargeUsage, Lago, Usage, UsageUnavailable

from .lago_double import Double, Drop, Reply, Request, times


def charge(code: str, **changes: Any) -> dict[str, Any]:
    found = {"units": "12.3000000001", "events_count": 7, "amount_cents": 1230, "billable_metric": {"code": code}}
    return {**found, "filters": [], **changes}


USAGE: dict[str, Any] = {
    "from_datetime": "2026-11-01T00:00:00Z",
    "to_datetime": "2026-11-30T23:59:59Z",
    "currency": "USD",
    "amount_cents": 1230,
    "lago_invoice_id": None,
    "charges_usage": [charge("llm")],
}
PARSED = Usage(
    from_datetime=datetime(2026, 11, 1, tzinfo=UTC),
    to_datetime=datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC),
    currency="USD",
    amount_cents=1230,
    lago_invoice_id=None,
    charges=(ChargeUsage("llm", Decimal("12.3000000001"), 7, 1230),),
)
BROKEN = Reply(500, {"status": 500, "error": "Internal Server Error"})


def test_current_usage_of_an_odd_customer(double: Double, client: Lago) -> None:
    double.scripts.append(lambda _: Reply(200, {"customer_usage": USAGE}))
    assert client.current_usage("a/b?c", "team a", "llm") == PARSED
    assert double.paths() == ["GET /customers/a%2Fb%3Fc/current_usage"]
    assert double.requests[0].query == {
        "external_subscription_id": ["team a"],
        "billable_metric_code": ["llm"],
        "apply_taxes": ["false"],
    }


def test_a_lago_that_ignores_the_metrics_code(double: Double, client: Lago) -> None:
    every = USAGE | {"charges_usage": [charge("other"), charge("llm"), charge("llm", units="1.0")]}
    double.scripts.append(lambda _: Reply(200, {"customer_usage": every}))
    found = client.current_usage("acme", "team-a", "llm")
    assert isinstance(found, Usage)
    assert [one.units for one in found.charges] == [Decimal("12.3000000001"), Decimal("1.0")]
    assert client.current_usage("acme", "team-a", "unpriced") == Usage(
        PARSED.from_datetime, PARSED.to_datetime, "USD", 1230, None, ()
    )


@pytest.mark.parametrize(
    ("status", "code"),
    [(404, "resource_not_found"), (404, "charge_not_found"), (405, "no_active_subscription")],
)
def test_no_usage(double: Double, client: Lago, status: int, code: str) -> None:
    double.scripts.append(lambda _: Reply(status, {"status": status, "code": code}))
    assert client.current_usage("acme", "team-a", "llm") is None
    assert client.past_usage("acme", "team-a", "llm") == ()
    assert len(double.requests) == 2


def test_past_usage(double: Double, client: Lago) -> None:
    older = USAGE | {"lago_invoice_id": "i1", "charges_usage": None}
    pages = [[USAGE], [older], []]

    def page(request: Request) -> Reply:
        # The count comes from a cache: pages are read until an empty one.
        return Reply(200, {"usage_periods": pages[request.page - 1], "meta": {"next_page": request.page + 1}})

    double.scripts.append(page)
    found = client.past_usage("acme", "team-a", "llm")
    assert isinstance(found, tuple)
    newest, oldest = found
    assert newest == PARSED
    assert (oldest.lago_invoice_id, oldest.charges) == ("i1", ())
    assert [request.page for request in double.requests] == [1, 2, 3]
    assert double.requests[0].query["billable_metric_code"] == ["llm"]


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_usage_that_stays_broken_is_left_out_within_seconds(double: Double, client: Lago, status: int) -> None:
    double.scripts.append(lambda _: Reply(status, "<html>no</html>"))
    began = time.monotonic()
    for found in (client.current_usage("acme", "team-a", "llm"), client.past_usage("acme", "team-a", "llm")):
        assert isinstance(found, UsageUnavailable)
        assert str(status) in found.text
        assert not found.silent
    assert len(double.requests) == 6
    assert time.monotonic() - began < 5


def test_usage_that_was_broken_for_a_moment(double: Double, client: Lago) -> None:
    double.scripts += [times(2, BROKEN), lambda _: Reply(200, {"customer_usage": USAGE})]
    assert client.current_usage("acme", "team-a", "llm") == PARSED


def test_a_lago_that_does_not_answer_about_usage_ends_no_report(double: Double, client: Lago) -> None:
    def drop(_: Request) -> Reply:
        raise Drop

    double.scripts.append(drop)
    found = client.current_usage("acme", "team-a", "llm")
    assert isinstance(found, UsageUnavailable)
    assert found.silent


@pytest.mark.parametrize("broken", [{"from_datetime": None}, {"to_datetime": "x"}, {"charges_usage": [{"units": "?"}]}])
def test_usage_of_another_shape_cannot_be_shown(double: Double, client: Lago, broken: dict[str, Any]) -> None:
    double.scripts.append(lambda _: Reply(200, {"customer_usage": USAGE | broken}))
    found = client.current_usage("acme", "team-a", "llm")
    assert isinstance(found, UsageUnavailable)
    assert "unknown shape" in found.text

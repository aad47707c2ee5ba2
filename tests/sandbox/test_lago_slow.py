"""A sandbox that takes its time: the times of a real Lago, and workers that are shared."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from reconcile.sandbox.lago import LagoStandIn, Slow
from reconcile.sandbox.lago.call import Work
from reconcile.sandbox.lago.slow import cost
from reconcile.sandbox.postgres import create_database, drop_database
from reconcile.sandbox.servers import lago_server

MILLION = 1_000_000


@pytest.mark.parametrize(
    ("method", "route", "work", "measured"),
    [
        ("GET", "/events", Work(shown=1_000, counted=41_000), 84),
        ("GET", "/events", Work(shown=5_000, counted=5_000), 315),
        ("GET", "/events", Work(shown=1_000, counted=MILLION), 238),
        ("GET", "/events", Work(shown=1_000, counted=MILLION, skipped=500_000), 487),
        ("GET", "/events", Work(shown=1_000, counted=MILLION, skipped=990_000), 710),
        ("GET", "/events", Work(shown=1, counted=MILLION), 153),
        ("GET", "/events/{transaction_id}", Work(), 21),
        ("POST", "/events/batch", Work(shown=100), 300),
        ("POST", "/events", Work(), 27),
        ("GET", "/subscriptions", Work(shown=1_000), 1_700),
        ("GET", "/plans", Work(shown=500), 12_000),
    ],
)
def test_requests_take_what_was_measured(method: str, route: str, work: Work, measured: float) -> None:
    assert cost(method, route, work) == pytest.approx(measured, rel=0.15)


@pytest.fixture
def slow(postgres_url: str, request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    """A client of a slow Lago with as many workers as the test says."""
    url = create_database(postgres_url)
    with LagoStandIn(url, slow=Slow(request.param)) as stand_in:
        stand_in.add_organization("key")
        with (
            lago_server(stand_in) as base,
            httpx.Client(base_url=f"{base}/api/v1", headers={"authorization": "Bearer key"}, trust_env=False) as client,
        ):
            yield client
    drop_database(postgres_url, url.rsplit("/", 1)[1])


@pytest.mark.parametrize("slow", [1], indirect=True)
def test_requests_wait_for_one_another(slow: httpx.Client) -> None:
    begin = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda name: slow.get(f"/events/{name}").status_code, range(8)))
    assert answers == [404] * 8
    assert time.monotonic() - begin >= 8 * 0.021

"""A sandbox that takes its time: the times of a real Lago, and workers that are shared."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, TypeVar

import httpx
import pytest

from reconcile.sandbox.lago import LagoStandIn, Slow
from reconcile.sandbox.lago.call import Work
from reconcile.sandbox.lago.slow import cost
from reconcile.sandbox.postgres import create_database, drop_database
from reconcile.sandbox.servers import lago_server

MILLION = 1_000_000
T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs it in a thread of its own: Playwright, in the tests of pages, leaves a loop running in this one."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(asyncio.run, work).result()


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


def test_a_request_keeps_its_worker_for_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def request(slow: Slow, took: float) -> None:
        clock.append(100.0)
        async with slow.worker("GET", "/events/{transaction_id}", Work()):
            clock.append(100.0 + took)

    clock: list[float] = []
    monkeypatch.setattr("reconcile.sandbox.lago.slow.asyncio.sleep", sleep)
    monkeypatch.setattr("reconcile.sandbox.lago.slow.time", SimpleNamespace(monotonic=lambda: clock[-1]))
    for took in (0.0, 0.02, 5.0):
        run(request(Slow(), took))
    assert slept == pytest.approx([0.021, 0.001, 0.0])


@pytest.mark.parametrize("workers", [1, 2])
def test_requests_wait_for_a_free_worker(workers: int) -> None:
    async def at_work_together() -> int:
        slow, done, at_work = Slow(workers), asyncio.Event(), []

        async def request(number: int) -> None:
            async with slow.worker("GET", "/events/{transaction_id}", Work()):
                at_work.append(number)
                await done.wait()

        requests = [asyncio.create_task(request(number)) for number in range(3)]
        while len(at_work) < workers:
            await asyncio.sleep(0)
        for _ in range(10):  # turns in which another could begin
            await asyncio.sleep(0)
        together = len(at_work)
        done.set()
        await asyncio.gather(*requests)
        return together

    assert run(at_work_together()) == workers


class Recorder(Slow):
    """Notes what each request cost, and takes no time."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, str, Work]] = []

    @asynccontextmanager
    async def worker(self, method: str, route: str, work: Work) -> AsyncIterator[None]:
        yield
        self.seen.append((method, route, work))


def test_every_request_tells_its_cost(postgres_url: str) -> None:
    url = create_database(postgres_url)
    slow = Recorder()
    with LagoStandIn(url, slow=slow) as stand_in:
        organization = stand_in.add_organization("key")
        organization.add_subscription("sub-1")
        with lago_server(stand_in) as base, httpx.Client(base_url=f"{base}/api/v1", trust_env=False) as client:
            client.headers["authorization"] = "Bearer key"
            events = [{"transaction_id": f"t-{number}", "code": "c"} for number in range(7)]
            client.post("/events/batch", json={"events": events})
            client.get("/events", params={"per_page": 2, "page": 3})
            client.get("/events/t-1")
            client.get("/subscriptions")
    assert slow.seen == [
        ("POST", "/events/batch", Work(shown=7)),
        ("GET", "/events", Work(shown=2, counted=7, skipped=4)),
        ("GET", "/events/{transaction_id}", Work()),
        ("GET", "/subscriptions", Work(shown=1, counted=1)),
    ]
    drop_database(postgres_url, url.rsplit("/", 1)[1])

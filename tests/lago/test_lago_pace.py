"""How many requests are in flight, against servers of one, two and sixteen workers, in virtual time."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from reconcile.lago.pace import Pace, Seen


@dataclass
class Server:
    """Workers that take requests in order. `service` gives the seconds of one request, `delay` is the network's."""

    pace: Pace
    workers: int
    service: Callable[[], float]
    delay: float = 0.0
    status: Callable[[int, float], int | None] = lambda in_flight, now: 200
    now: float = 0.0
    in_flight: int = 0
    area: float = 0.0
    requests: int = 0
    limits: list[int] = field(default_factory=list)
    free: list[float] = field(default_factory=list)
    running: list[tuple[float, int, float, int]] = field(default_factory=list)

    def begin(self) -> None:
        self.in_flight += 1
        self.requests += 1
        while len(self.free) < self.workers:
            self.free.append(self.now)
        worker = heapq.heappop(self.free)
        done = max(worker, self.now + self.delay / 2) + self.service()
        heapq.heappush(self.free, done)
        heapq.heappush(self.running, (done + self.delay / 2, self.requests, self.now, self.in_flight))

    def end(self) -> None:
        finished, _, started, in_flight = heapq.heappop(self.running)
        self.area += self.in_flight * (finished - self.now)
        self.now = finished
        status = self.status(self.in_flight, self.now)
        self.in_flight -= 1
        self.pace.saw(Seen(started, finished, in_flight, 100, status))
        self.limits.append(self.pace.limit)

    def answer(self, count: int, demand: int = 10**9) -> float:
        """Serve `count` requests of a caller that always wants `demand` in flight; the mean in flight."""
        began, area = self.now, self.area
        for _ in range(count):
            while self.in_flight < min(self.pace.limit, demand):
                self.begin()
            self.end()
        return (self.area - area) / (self.now - began)


def steady(seconds: float) -> Callable[[], float]:
    return lambda: seconds


def uneven(seconds: float, seed: int = 1) -> Callable[[], float]:
    """Between a half and one and a half times as long."""
    draw = random.Random(seed)
    return lambda: seconds * (0.5 + draw.random())


def test_begins_with_one() -> None:
    assert Pace(8).limit == 1


def test_a_server_that_scales_is_used_within_a_few_dozen_requests() -> None:
    server = Server(Pace(8), workers=16, service=steady(0.02))
    server.answer(100)
    assert server.limits.index(8) < 36
    assert server.now < 100 * 0.02 / 4.5


@pytest.mark.parametrize("seed", range(20))
def test_a_server_that_scales_unevenly(seed: int) -> None:
    server = Server(Pace(8), workers=16, service=uneven(0.062, seed))
    server.answer(200)
    assert server.answer(1_000) > 5


@pytest.mark.parametrize("delay", [0.0, 0.002], ids=["local", "two ms away"])
@pytest.mark.parametrize("seed", range(20))
def test_one_worker_settles_at_one(delay: float, seed: int) -> None:
    server = Server(Pace(8), workers=1, service=uneven(0.062, seed), delay=delay)
    assert server.answer(1_000) < 1.3
    assert sum(limit > 2 for limit in server.limits) < 50


def test_one_steady_worker_never_sees_three() -> None:
    server = Server(Pace(8), workers=1, service=steady(0.062))
    assert server.answer(1_000) < 1.1
    assert max(server.limits) == 2


def test_one_worker_far_away_is_kept_busy() -> None:
    server = Server(Pace(8), workers=1, service=steady(0.01), delay=0.05)
    server.answer(200)
    assert 4 <= server.answer(500) <= 8


@pytest.mark.parametrize(("workers", "least", "most"), [(2, 1.8, 2.6), (4, 3.6, 5), (6, 5, 7)])
def test_as_many_as_there_are_workers(workers: int, least: float, most: float) -> None:
    server = Server(Pace(16), workers=workers, service=steady(0.062))
    server.answer(300)
    assert least < server.answer(1_000) < most


def test_a_server_that_loses_its_workers_is_relieved() -> None:
    server = Server(Pace(8), workers=16, service=steady(0.062))
    server.answer(300)
    assert server.pace.limit >= 7
    server.workers, server.free = 1, [max(server.free)]
    server.answer(600)
    assert server.answer(300) < 3


def test_a_server_that_gains_workers_is_used() -> None:
    server = Server(Pace(8), workers=1, service=steady(0.062))
    server.answer(100)
    server.workers = 16
    server.answer(600)
    assert server.answer(300) > 5


@pytest.mark.parametrize("status", [429, 500, 503, 504, None])
def test_a_refusal_halves_once(status: int | None) -> None:
    server = Server(Pace(8), workers=16, service=steady(0.02))
    server.answer(100)
    assert server.pace.limit == 8
    failing = iter([status] * 8)  # all that are on their way
    server.status = lambda in_flight, now: next(failing, 200)
    server.answer(8)
    assert server.pace.limit == 4
    server.status = lambda in_flight, now: 200
    server.answer(20)
    assert server.pace.limit == 4  # it is not tried again at once
    server.answer(400)
    assert server.pace.limit >= 6


def test_refusals_on_end_lead_to_one() -> None:
    server = Server(Pace(8), workers=16, service=steady(0.02))
    server.answer(100)
    server.status = lambda in_flight, now: 503
    server.answer(60)
    assert server.pace.limit == 1


def test_a_server_that_takes_three_is_not_asked_for_eight() -> None:
    """429 above three in flight, as a small rate limit answers."""
    server = Server(Pace(8), workers=16, service=steady(0.02), status=lambda n, now: 429 if n > 3 else 200)
    server.answer(200)
    assert 1 <= server.answer(600) <= 3.2


def test_a_caller_that_wants_one_at_a_time_proves_nothing() -> None:
    server = Server(Pace(8), workers=1, service=steady(0.062))
    server.answer(200, demand=1)
    assert server.pace.limit <= 2


def test_never_above_the_most() -> None:
    for most in (1, 3, 8):
        server = Server(Pace(most), workers=64, service=uneven(0.02))
        server.answer(600)
        assert max(server.limits) == most


def test_refused_answers_are_other_than_late_ones() -> None:
    assert not Seen(0, 1, 1, 1, 422).refused
    assert not Seen(0, 1, 1, 1, 404).refused

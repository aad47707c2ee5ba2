"""Requests of several threads wait for their turn."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from reconcile.errors import Interrupted
from reconcile.lago.gate import Gate


def test_one_at_a_time_at_first() -> None:
    gate = Gate(8)
    stop = threading.Event()
    inside = threading.Semaphore(1)

    def pass_it() -> bool:
        entered = gate.enter(stop)
        alone = inside.acquire(blocking=False)
        inside.release()
        gate.leave(entered, 1, None)  # no answer: the limit stays where it is
        return alone

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda _: pass_it(), range(200)))
    assert gate.report.limit == 1
    assert gate.report.most == 8
    assert gate.report.mean == pytest.approx(1)


def test_nothing_was_in_flight() -> None:
    assert Gate(3).report.mean == 0


def test_stop_ends_the_wait() -> None:
    gate = Gate(8)
    stop = threading.Event()
    entered = gate.enter(stop)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(gate.enter, stop)
        stop.set()
        with pytest.raises(Interrupted):
            waiting.result(10)
    gate.leave(entered, 1, 200)


def test_who_leaves_lets_the_next_one_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reconcile.lago.gate._LOOK", 60.0)
    gate = Gate(1)
    stop = threading.Event()
    entered = gate.enter(stop)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(gate.enter, stop)
        assert not waiting.done()
        gate.leave(entered, 1, 200)
        assert waiting.result(10)[1] == 1

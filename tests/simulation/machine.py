"""The world's one clock, and the computer that the job runs on: it can be stopped, cut off and killed.

Times are whole milliseconds since 1970 UTC, the true ones; every clock in the world is ahead of them by its skew, which
may change at once. Nothing sleeps: whoever waits moves the clock, and what was due meanwhile happens.
"""

from __future__ import annotations

import heapq
import itertools
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import time_machine

from reconcile.errors import DatabaseFault

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000


class Killed(BaseException):
    """SIGKILL: no handler of the job sees it, and whatever it still tries to do fails with it again."""


def moment(time_ms: int) -> datetime:
    return EPOCH + timedelta(milliseconds=time_ms)


@dataclass
class Skew:
    """How far a clock is ahead of the true time, in ms, and how far it is when it is left alone."""

    usual: int
    ms: int = field(init=False)

    def __post_init__(self) -> None:
        self.ms = self.usual


def shown(time_ms: int) -> str:
    return f"{moment(time_ms):%d %b %H:%M:%S}.{time_ms % 1000:03d}"


class Clock:
    """The true time. Due happenings run, in order, whenever it moves."""

    def __init__(self, now: int) -> None:
        self.now = now
        self._due: list[tuple[int, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._moved: list[Callable[[], None]] = []

    def at(self, time_ms: int, happening: Callable[[], None]) -> None:
        heapq.heappush(self._due, (time_ms, next(self._numbers), happening))

    def watch(self, moved: Callable[[], None]) -> None:
        """Tells when the time has moved."""
        self._moved.append(moved)

    def unwatch(self, moved: Callable[[], None]) -> None:
        self._moved.remove(moved)

    def advance(self, milliseconds: int) -> None:
        self.go_to(self.now + max(0, milliseconds))

    def go_to(self, time_ms: int) -> None:
        while self._due and self._due[0][0] <= time_ms:
            due, _, happening = heapq.heappop(self._due)
            self.now = max(self.now, due)
            happening()
        self.now = max(self.now, time_ms)
        for moved in self._moved:
            moved()


@dataclass
class Jump:
    """A clock that is set anew, `to` so far ahead of the true time, at a run's I/O number `at`."""

    at: int
    name: str
    clock: Skew
    to: int


@dataclass
class Trouble:
    """What befalls one run. Numbers count the job's own reads and writes from 1; 0 means never.

    `kill_at`, `stop_at` (SIGTERM) and `cut_at` (Postgres loses its connections, `cut_for` times in a row) are such
    numbers; `kill_at_send` counts the requests that carry events. `lago` is the chance that a request to Lago goes
    wrong, while the true time lies before `lago_until`; with `sends_alone` only one that carries events.
    `jump` is a clock that jumps meanwhile.
    """

    kill_at: int = 0
    kill_at_send: int = 0
    stop_at: int = 0
    cut_at: int = 0
    cut_for: int = 1
    lago: float = 0.0
    lago_until: int = 0
    sends_alone: bool = False
    kinds: tuple[str, ...] = ()
    jump: Jump | None = None

    def __str__(self) -> str:
        said = []
        if self.kill_at:
            said.append(f"killed at I/O {self.kill_at}")
        if self.kill_at_send:
            said.append(f"killed as request {self.kill_at_send} with events is on its way")
        if self.stop_at:
            said.append(f"told to stop at I/O {self.stop_at}")
        if self.cut_at:
            said.append(f"Postgres cut off at I/O {self.cut_at}")
        if self.lago:
            what = "of sends" if self.sends_alone else "of requests"
            said.append(f"Lago fails {self.lago:.0%} {what} ({', '.join(self.kinds)}) until {shown(self.lago_until)}")
        if self.jump:
            said.append(f"at I/O {self.jump.at} the clock of {self.jump.name} jumps to {self.jump.to:+} ms")
        return "; ".join(said) or "calm"


@dataclass
class Machine:
    """One run's computer. `boundary` stands before and after everything that leaves the process."""

    clock: Clock
    trouble: Trouble
    chance: random.Random
    host: Skew = field(default_factory=lambda: Skew(0))
    stop: VirtualStop = field(init=False)
    dead: bool = False
    count: int = 0

    def __post_init__(self) -> None:
        self.stop = VirtualStop(self)

    def monotonic(self) -> float:
        return self.clock.now / 1000

    def alive(self) -> None:
        if self.dead:
            raise Killed

    def kill(self) -> None:
        self.dead = True
        raise Killed

    def boundary(self) -> None:
        self.alive()
        self.count += 1
        if self.count == self.trouble.kill_at:
            self.kill()
        if self.count == self.trouble.stop_at:
            self.stop.set()
        jump = self.trouble.jump
        if jump is not None and self.count == jump.at:
            jump.clock.ms = jump.to
            self.clock.advance(0)

    def database(self) -> None:
        """As `boundary`, where Postgres may be gone."""
        self.boundary()
        first = self.trouble.cut_at
        if first and first <= self.count < first + self.trouble.cut_for:
            raise DatabaseFault("the simulated Postgres does not answer: terminating connection")

    @contextmanager
    def on(self) -> Iterator[Self]:
        """This process's clocks are the host's."""
        with time_machine.travel(moment(self.clock.now + self.host.ms), tick=False) as traveller:

            def moved() -> None:
                traveller.move_to(moment(self.clock.now + self.host.ms))

            self.clock.watch(moved)
            try:
                yield self
            finally:
                self.clock.unwatch(moved)


class VirtualStop(threading.Event):
    """The job's stop signal, and its only way to wait."""

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self._machine = machine

    def wait(self, timeout: float | None = None) -> bool:
        self._machine.alive()
        if not self.is_set():
            assert timeout is not None, "the job would wait for ever"
            self._machine.clock.advance(int(timeout * 1000) + 1)
            self._machine.alive()
        return self.is_set()


class LazyFuture(Future[Any]):
    """Work that is done when somebody wants its result."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__()
        self._work = work

    def result(self, timeout: float | None = None) -> Any:
        if not self.done():
            try:
                self.set_result(self._work())
            except BaseException as error:
                self.set_exception(error)
        return super().result(timeout)


class InlineExecutor:
    """What a thread would do is done at once: the same requests in one fixed order."""

    def __init__(self, *_: Any, **__: Any) -> None:
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(work(*arguments, **named))
        except BaseException as error:
            future.set_exception(error)
        return future

    def shutdown(self, *_: Any, **__: Any) -> None:
        return


class LazyExecutor(InlineExecutor):
    """What a thread would do is done when it is waited for: its caller may hold a lock as it hands it over."""

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        return LazyFuture(lambda: work(*arguments, **named))

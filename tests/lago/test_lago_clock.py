"""The distance of two clocks, from headers in whole seconds."""

from __future__ import annotations

from email.utils import formatdate

import pytest

from reconcile.lago.clock import ServerClock

NOW = 1795500000.0


def answered(clock: ServerClock, ahead: float, sent: float, seconds: float = 0.01) -> None:
    """A server whose clock is `ahead` answers in the middle of a request."""
    clock.saw(formatdate(int(sent + seconds / 2 + ahead), usegmt=True), sent, sent + seconds)


def test_nothing_seen_is_unknown() -> None:
    clock = ServerClock()
    assert clock.offset is None
    clock.saw("yesterday", NOW, NOW)
    assert clock.offset is None


@pytest.mark.parametrize("ahead", [0.0, 0.4, -1_200.3, 61.9, 3_600.0])
def test_one_answer_tells_to_a_second(ahead: float) -> None:
    clock = ServerClock()
    answered(clock, ahead, NOW)
    assert clock.offset is not None
    assert abs(clock.offset.seconds - ahead) <= clock.offset.within < 0.52


@pytest.mark.parametrize("ahead", [0.0, 0.4, -1_200.3, 61.9])
def test_many_answers_tell_more_closely(ahead: float) -> None:
    clock = ServerClock()
    for number in range(500):
        answered(clock, ahead, NOW + number * 0.137)
    assert clock.offset is not None
    assert abs(clock.offset.seconds - ahead) <= clock.offset.within < 0.1


def test_a_clock_that_was_set_is_believed_anew() -> None:
    clock = ServerClock()
    answered(clock, 0.0, NOW)
    answered(clock, 300.0, NOW + 10)
    assert clock.offset is not None
    assert abs(clock.offset.seconds - 300) <= clock.offset.within < 0.52


def test_slow_answers_are_less_sure() -> None:
    clock = ServerClock()
    answered(clock, 5.0, NOW, seconds=8.0)
    assert clock.offset is not None
    assert abs(clock.offset.seconds - 5) <= clock.offset.within
    assert clock.offset.within > 4

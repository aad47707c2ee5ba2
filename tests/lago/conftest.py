from __future__ import annotations

from collections.abc import Iterator

import pytest

from reconcile.lago import Lago

from .lago_double import KEY, QUICK, Double, running


@pytest.fixture
def double() -> Iterator[Double]:
    """A small Lago on loopback, empty."""
    with running() as served:
        yield served


@pytest.fixture
def client(double: Double) -> Iterator[Lago]:
    """A client for the double that repeats quickly."""
    with Lago(double.url, KEY, concurrency=4, timeout=5, retry=QUICK) as lago:
        yield lago

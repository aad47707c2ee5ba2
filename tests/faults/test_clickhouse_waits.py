"""A ClickHouse store refuses nothing: what was sent shortly before a kill must have become visible before it counts as
missing."""

from __future__ import annotations

from collections.abc import Callable

from .launcher import until
from .world import COMMAND, World


def test_a_delivery_that_took_longer_than_events_take_to_appear(worlds: Callable[..., World]) -> None:
    """The kill comes long after the rows were written down, and moments after the last batch left."""
    world = worlds("clickhouse")
    world.fill(520, hours=(0,))  # five batches, written down together
    world.faults.latency["/api/v1/events/batch"] = 0.9
    world.faults.visibility_lag = 2.5
    process = world.start(*COMMAND, RECONCILE_CONCURRENCY="1", RECONCILE_TIMEOUT="5s")
    until(lambda: len(world.billed()) > 450, process)
    process.kill()
    process.wait()
    world.faults.latency.clear()
    world.release()
    ran = world.heals()
    assert ran.count("delivered") < 100

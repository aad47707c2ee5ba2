"""What the stages of one run share: frozen, so that no stage can tell another anything but by what it returns."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from reconcile.classify import Reach, Rules
from reconcile.domain.event import Shape
from reconcile.domain.instants import as_ms
from reconcile.errors import Interrupted
from reconcile.lago import EventShape
from reconcile.ledger import Lock
from reconcile.run.metric import event_shape, own_number
from reconcile.run.order import Order, Progress, Timing
from reconcile.run.preflight import Sides
from reconcile.settings import PROPERTIES, Settings


@dataclass(frozen=True)
class Run:
    """One run: its settings, both sides, the rules that follow from them, and the ways to stop and to tell."""

    settings: Settings
    order: Order
    sides: Sides
    run_id: str
    timing: Timing
    stop: threading.Event
    progress: Progress
    lock: Lock | None
    rules: Rules
    shape: Shape
    event_shape: EventShape
    halo: timedelta

    def figures(self) -> dict[str, Any]:
        """What Lago was asked: for the document's method."""
        lago = self.sides.lago
        found = lago.in_flight
        kinds = {"list": found.lists, "deliver": found.batches, "plan": found.plans}
        return {
            "store": "clickhouse" if self.sides.clickhouse else "postgres",
            "requests": lago.requests,
            "retries": lago.retries,
            "workers": self.sides.workers,
            "in_flight": {kind: one.mean for kind, one in kinds.items()},
            "in_flight_limit": {kind: one.limit for kind, one in kinds.items()},
        }

    def go_on(self) -> None:
        """Raises `Interrupted` where the run is to stop."""
        if self.stop.is_set():
            raise Interrupted("interrupted; running it again is safe and carries on")


def begin(
    settings: Settings,
    order: Order,
    sides: Sides,
    run_id: str,
    timing: Timing,
    stop: threading.Event,
    progress: Progress,
    lock: Lock | None,
) -> Run:
    """The run that these settings and sides make."""
    named = tuple((name, settings.properties[name]) for name in PROPERTIES if name in settings.properties)
    return Run(
        settings=settings,
        order=order,
        sides=sides,
        run_id=run_id,
        timing=timing,
        stop=stop,
        progress=progress,
        lock=lock,
        rules=Rules(
            code=settings.event_code,
            reach=Reach(as_ms(settings.match_before), as_ms(settings.match_after)),
            doubt=Reach(as_ms(settings.doubt_before), as_ms(settings.doubt_after)),
            exclude=settings.exclude,
            clickhouse=sides.clickhouse,
            own_ids=settings.own_ids,
            copies=settings.copies,
            aggregation=sides.metric.aggregation_type,
            own_number=own_number(sides.metric, settings.properties),
        ),
        shape=Shape(settings.event_code, named, settings.precise_amount),
        event_shape=event_shape(sides.metric, settings.properties, clickhouse=sides.clickhouse),
        # Chains of pairs have ended this far around what was asked for.
        halo=2 * (settings.match_before + settings.match_after),
    )

"""What a run is asked to do, and how it tells how far it is."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

from reconcile.domain.document import Document
from reconcile.domain.window import Window
from reconcile.run.tracing import Spans


class Progress(Protocol):
    """What a terminal may show while the job runs: steps of a total, and what it waits for."""

    def total(self, steps: int) -> None: ...

    def step(self, text: str) -> None: ...

    def note(self, text: str) -> None: ...


class Silent:
    """No progress, as in a pipe."""

    def total(self, steps: int) -> None:
        return

    def step(self, text: str) -> None:
        return

    def note(self, text: str) -> None:
        return


@dataclass(slots=True)
class Timing:
    """When a run began, and how long each stage took."""

    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    seconds: dict[str, float] = field(default_factory=dict)
    spans: Spans = field(default_factory=Spans)
    _began: float = field(default_factory=lambda: time.monotonic())

    def now(self) -> datetime:
        """The time by this host's clock as it was when the run began: setting it meanwhile shortens no wait."""
        return self.started_at + timedelta(seconds=time.monotonic() - self._began)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            with self.spans.stage(name):
                yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began


@dataclass(frozen=True, slots=True)
class Order:
    """What to do. `command` is run, backfill or report; a report and a dry run send nothing and take no lock.

    `asked_to` is the end that was asked for, where the window was cut to what is old enough; `extended_from` the start
    that was asked for, where the run begins earlier to close a gap. `skip_unchanged` leaves slices unread that agreed
    before and whose counts are the same.
    """

    command: str
    window: Window
    dry_run: bool = False
    skip_unchanged: bool = False
    asked_to: datetime | None = None
    extended_from: datetime | None = None

    @property
    def sends(self) -> bool:
        return self.command != "report" and not self.dry_run

    @property
    def skips_unchanged(self) -> bool:
        return self.sends and (self.command == "run" or self.skip_unchanged)


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended."""

    document: Document
    exit_code: int

"""What the parts of one run share: both sides, the rules, what was looked up once, and the way to stop."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from reconcile.classify import Reach, Rules
from reconcile.domain.dates import local_days
from reconcile.domain.event import Shape
from reconcile.domain.window import Window
from reconcile.errors import Interrupted
from reconcile.lago.coverage import Coverage
from reconcile.ledger import Lock
from reconcile.run.books import Books
from reconcile.run.preflight import Sides
from reconcile.settings import PROPERTIES, Settings

_EPOCH = datetime.fromtimestamp(0, UTC)
_READ = ("model", "response_cost", "prompt_tokens", "completion_tokens", "total_tokens", "request_id")


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

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began


@dataclass(frozen=True, slots=True)
class Order:
    """What to do. `command` is run, backfill or report; a report and a dry run send nothing and take no lock.

    `asked_to` is the end that was asked for, where the window was cut to what may be looked at.
    """

    command: str
    window: Window
    dry_run: bool = False
    skip_unchanged: bool = False
    asked_to: datetime | None = None

    @property
    def sends(self) -> bool:
        return self.command != "report" and not self.dry_run


@dataclass
class Context:
    """One run. `sends` becomes False when a fault ends the sending; `verified` is None until something was sent."""

    settings: Settings
    sides: Sides
    run_id: str
    sends: bool
    timing: Timing
    stop: threading.Event
    progress: Progress
    lock: Lock | None
    verified: bool | None = None
    slices: int = 0
    batches: int = 0
    pushed_doubtful: int = 0
    pushed_spend: Decimal = Decimal(0)
    # Events before this time may belong to rows that LiteLLM's retention has deleted since they were reconciled.
    retention_until_ms: int = 0
    set_aside: list[npt.NDArray[np.float64]] = field(default_factory=list)
    _final_invoices: dict[str, pd.DataFrame] = field(default_factory=dict)

    @cached_property
    def rules(self) -> Rules:
        return Rules(
            code=self.settings.event_code,
            reach=Reach(as_ms(self.settings.match_before), as_ms(self.settings.match_after)),
            exclude=self.settings.exclude,
            clickhouse=self.sides.clickhouse,
        )

    @cached_property
    def shape(self) -> Shape:
        named = tuple((name, self.settings.properties[name]) for name in PROPERTIES if name in self.settings.properties)
        return Shape(self.settings.event_code, named, self.settings.precise_amount)

    @cached_property
    def coverage(self) -> Coverage:
        """The organization's subscriptions, read once."""
        by_customer = self.settings.id_kind == "external_customer_id"
        return Coverage(self.sides.lago.subscriptions(), by_customer=by_customer)

    @cached_property
    def drafts(self) -> pd.DataFrame:
        """The billing periods of draft invoices, read once and only where a row needs them."""
        return self.sides.lago.invoice_periods("draft")

    def final_invoices(self, external_customer_id: str) -> pd.DataFrame:
        """The billing periods of a customer's final invoices, read once per customer."""
        if external_customer_id not in self._final_invoices:
            found = self.sides.lago.invoice_periods("finalized", external_customer_id)
            self._final_invoices[external_customer_id] = found
        return self._final_invoices[external_customer_id]

    def new_books(self) -> Books:
        zone = self.settings.time_zone
        return Books(lambda times: np.asarray(local_days(as_times(times), zone).date, object))

    def go_on(self) -> None:
        """Raises `Interrupted` where the run is to stop."""
        if self.stop.is_set():
            raise Interrupted("interrupted; running it again is safe and carries on")

    def list_events(self, start: datetime, end: datetime, subscription_id: str | None = None) -> pd.DataFrame:
        """The events of the stream's code in the half-open interval, as EVENTS."""
        properties = self.settings.properties
        listed = self.sides.lago.list_events(
            self.settings.event_code,
            start,
            end,
            names={name: tuple(dict.fromkeys((properties.get(name, name), name))) for name in _READ},
            store="clickhouse" if self.sides.clickhouse else "postgres",
            external_subscription_id=subscription_id,
        )
        subscriptions = listed["external_subscription_id"].fillna("")
        charge_ids = self.coverage.charge_ids_of(subscriptions.tolist())
        return pd.DataFrame(
            {
                "transaction_id": listed["transaction_id"].fillna("").array,
                "subscription_id": subscriptions.array,
                "charge_id": pd.array(charge_ids, dtype="str"),
                "model": listed["model"].fillna("").array,
                "request_id": listed["request_id"].fillna("").array,
                "time_ms": listed["timestamp"].to_numpy("datetime64[ms]").astype(np.int64),
                **{
                    name: listed[name].to_numpy(np.float64)
                    for name in ("response_cost", "prompt_tokens", "completion_tokens", "total_tokens")
                },
                "cost_null": listed["cost_null"].to_numpy(bool),
                "malformed": listed["malformed"].to_numpy(bool),
            }
        )


def as_ms(length: timedelta) -> int:
    return length // timedelta(milliseconds=1)


def moment(milliseconds: int) -> datetime:
    """The UTC instant of milliseconds since 1970."""
    return _EPOCH + timedelta(milliseconds=milliseconds)


def as_times(milliseconds: npt.NDArray[np.int64]) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(pd.to_datetime(milliseconds, unit="ms", utc=True))

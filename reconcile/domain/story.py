"""One row's story: what LiteLLM logged, what Lago holds near it, its class and why, and what was done about it. Pure.

Money is a decimal string in the unit of `spend` (USD), as in the result document; times are aware datetimes in UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from reconcile.domain.dates import instant
from reconcile.domain.money import plain

SCHEMA_VERSION = 1
EVENTS_LISTED = 20


@dataclass(frozen=True, slots=True)
class LoggedRow:
    """A row as LiteLLM logged it. `charge_ids` holds what each charge-by would charge ('' for none).

    `spend` is a decimal string, or `NaN` and the like as Postgres has it.
    """

    started_at: datetime
    usage_time: datetime
    call_type: str
    model: str
    model_group: str
    provider: str
    status: str
    cache_hit: str
    spend: str
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    charge_ids: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class NearEvent:
    """An event in Lago near the row. `differs` names which of subscription, cost, model and tokens are not the row's.

    `event_class` and `reason` are what the job makes of the event (None where another run's window decides that);
    `row_request_id` is the row that it is paired with or repeats.
    """

    transaction_id: str
    own: bool  # sent by reconcile, not by LiteLLM's callback
    of_this_row: bool
    subscription_id: str
    time: datetime
    offset_seconds: Decimal  # event minus row
    model: str
    cost: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    total_tokens: int | None
    counted: bool  # the metric counts it
    differs: tuple[str, ...]
    event_class: str | None
    reason: str | None
    row_request_id: str | None


@dataclass(frozen=True, slots=True)
class JournalLine:
    """What happened to a delivery, or to the batch that it was in."""

    at: datetime
    what: str  # sent, accepted, exists, refused, unknown, read_back
    http_status: int | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Delivered:
    """One entry of the ledger: the row was handed to Lago."""

    run_id: str
    batch: int
    charge_by: str
    charge_id: str
    subscription_id: str
    transaction_id: str
    spend: str
    sent_at: datetime
    journal: tuple[JournalLine, ...]


@dataclass(frozen=True, slots=True)
class HeldBack:
    """The ledger's note that a run held the row back."""

    run_id: str
    reason: str
    since: datetime


@dataclass(frozen=True, slots=True)
class Subscribed:
    """A subscription of the charge ID. `covers` says that it is the one that covers the usage time.

    `charges` are the models of its plan's charges on the metric; None where Lago does not show the plan.
    """

    external_id: str
    external_customer_id: str
    status: str
    plan_code: str
    started_at: datetime | None
    ended_at: datetime | None
    period_from: datetime | None
    covers: bool
    charges: tuple[str, ...] | None
    pay_in_advance: bool | None


@dataclass(frozen=True, slots=True)
class RunOver:
    """A run whose window holds the usage time."""

    run_id: str
    command: str
    dry_run: bool
    status: str | None
    exit_code: int | None
    started_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class Story:
    """One row's story. `row` is None where LiteLLM has deleted it and the ledger still knows of it.

    `row_class` is None where no run over its time reads the row: it began minutes after its end. `is_long` says that
    only the re-check of old hours finds it: it began more than RECONCILE_MAX_CALL before its end. `event` is what is
    sent for it, None where nothing ever is. `nobody` says why Lago would bill nobody for it now. `young_until` is when
    runs begin to look at it, where they do not yet.
    """

    request_id: str
    row: LoggedRow | None
    charge_id: str
    row_class: str | None
    reason: str | None
    ambiguous: bool
    is_long: bool
    event: Mapping[str, Any] | None
    event_id: str | None  # of its event in Lago
    nobody: str | None
    young_until: datetime | None
    looked_from: datetime | None
    looked_to: datetime | None
    events: tuple[NearEvent, ...]
    events_total: int
    deliveries: tuple[Delivered, ...]
    held: HeldBack | None
    subscriptions: tuple[Subscribed, ...]
    runs: tuple[RunOver, ...]


@dataclass(frozen=True, slots=True)
class Explained:
    """The stories of every row of a request ID. `unplaced` counts rows whose times cannot be: no window holds them."""

    request_id: str
    lago: str
    event_code: str
    charge_by: str
    time_zone: str
    stories: tuple[Story, ...]
    unplaced: int
    lago_requests: int

    def as_json(self) -> dict[str, Any]:
        """The form that `--json` prints."""
        found: dict[str, Any] = _plain(self)
        stream = {name: found.pop(name) for name in ("lago", "event_code", "charge_by")}
        return {"schema_version": SCHEMA_VERSION, "request_id": found.pop("request_id"), "stream": stream, **found}


_RENAMED = {"row_class": "class", "event_class": "class"}


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {_RENAMED.get(one.name, one.name): _plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, datetime):
        return instant(value)
    if isinstance(value, Decimal):
        return plain(value)
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    return value

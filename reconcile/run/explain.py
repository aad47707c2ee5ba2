"""`reconcile explain`: what a run makes of one row, and everything that a person needs to see why.

The class comes from the job itself (`job.reconcile`), run as a dry run over the one millisecond of the row. Pairs reach
minutes, so that takes a few requests to Lago. Only where no event nearby is the row's, the job looks as far as
RECONCILE_DOUBT_BEFORE and RECONCILE_DOUBT_AFTER, since an event out there may hold the row back.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd

from reconcile.classify.differences import differences
from reconcile.domain.event import OWN_ID, transaction_id
from reconcile.domain.frames import joined
from reconcile.domain.instants import moment
from reconcile.domain.money import decimal_of, plain
from reconcile.domain.story import (
    EVENTS_LISTED,
    Explained,
    LoggedRow,
    NearEvent,
    Story,
    Subscribed,
)
from reconcile.domain.vocabulary import EventClass, Reason, RowClass, Scope
from reconcile.domain.window import Window
from reconcile.errors import UsageError
from reconcile.lago import Subscription
from reconcile.lago.directory import Directory
from reconcile.run import job
from reconcile.run.books import Books
from reconcile.run.deliver import events_of, own_ids
from reconcile.run.keep import new_books
from reconcile.run.look_up import directory_of
from reconcile.run.order import Order, Silent, Timing
from reconcile.run.preflight import Sides, connected
from reconcile.run.read import Read
from reconcile.run.shared import Run, begin
from reconcile.run.written_down import Known, amount, deleted, runs_over
from reconcile.settings import Settings

# Rows that no event is ever sent for.
_NEVER_SENT = (RowClass.EXCLUDED, RowClass.UNATTRIBUTED, RowClass.REJECTED)
_UNEXPLAINED = (Reason.NO_ROW, Reason.LATE_EVENT)


def explain(settings: Settings, request_id: str, *, stop: threading.Event | None = None) -> Explained:
    """The stories of the rows of a request ID. Reads both sides and the ledger, sends nothing and records nothing.

    The transaction ID of an event that names its request, as ours do, stands for that. Raises `UsageError` where
    neither LiteLLM nor the ledger knows the ID, `PreflightError` and the faults of a run.
    """
    with connected(settings, stop or threading.Event(), locks=False) as sides:
        found = _explained(settings, sides, request_id, stop)
        if found is None and (named := _named_by_event(settings, sides, request_id)):
            found = _explained(settings, sides, named, stop)
        if found is None:
            raise UsageError(
                f"REQUEST_ID: {settings.database.display} has no row with the request_id {request_id!r}, and none was "
                "sent or held; take the ID from the report, or the `id` of LiteLLM's answer"
            )
        return found


def _explained(settings: Settings, sides: Sides, request_id: str, stop: threading.Event | None) -> Explained | None:
    """None where neither LiteLLM nor the ledger knows the ID."""
    rows, charge_ids, unplaced = sides.spend_logs.of_request(request_id)
    known = Known.of(sides, request_id)
    starts = {int(start): place for place, start in enumerate(rows["start_ms"].tolist())}
    gone = sorted(known.starts - {*starts})
    if not starts and not gone and not unplaced:
        return None
    stories = [
        _Teller(settings, sides, rows.iloc[[place]].reset_index(drop=True), charge_ids[place], stop).story(known)
        for _, place in sorted(starts.items())
    ]
    return Explained(
        request_id=request_id,
        lago=settings.lago_api_base,
        event_code=settings.event_code,
        charge_by=settings.charge_by,
        time_zone=settings.time_zone.key,
        stories=(*stories, *(deleted(sides, request_id, start_ms, known) for start_ms in gone)),
        unplaced=unplaced,
        lago_requests=sides.lago.requests,
    )


def _named_by_event(settings: Settings, sides: Sides, transaction_id: str) -> str:
    """The request ID that Lago's event of this transaction ID carries; '' where there is no such event.

    Raises `UsageError` where the event names no request: nothing but its content leads to a row.
    """
    event = sides.lago.find_event(transaction_id)
    if event is None:
        return ""
    named = (event.get("properties") or {}).get(settings.properties.get("request_id", ""))
    if not named:
        raise UsageError(
            f"REQUEST_ID: {transaction_id!r} is an event in Lago that names no request, such as LiteLLM's callback "
            "sends; take the request ID that stands beside it in the report, where it has one"
        )
    return str(named)


@dataclass
class _Witness(Books):
    """Books that also keep what the job read, and what it made of it."""

    all_rows: list[pd.DataFrame] = field(default_factory=list)  # ROWS
    all_events: list[pd.DataFrame] = field(default_factory=list)  # EVENTS
    row_verdicts: list[pd.DataFrame] = field(default_factory=list)
    event_verdicts: list[pd.DataFrame] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)

    def read(self, part: Read) -> None:
        Books.read(self, part)
        self.all_rows.append(part.rows)
        self.all_events.append(part.events)
        if part.part is not None:
            self.windows.append(part.part.window)

    def add_rows(self, rows: pd.DataFrame, details: Mapping[str, str] | None = None) -> None:
        Books.add_rows(self, rows, details)
        self.row_verdicts.append(rows)

    def add_events(self, events: pd.DataFrame, counted: Window | None) -> None:
        Books.add_events(self, events, counted)
        self.event_verdicts.append(events)

    def row(self, request_id: str, start_ms: int) -> pd.DataFrame | None:
        """The verdict on a row (one of ROW_VERDICTS), None where it is not of the window: no run counts it there."""
        found = _row_of(self.row_verdicts, request_id, start_ms)
        return None if found is None or found["scope"].iloc[0] == Scope.CONTEXT else found

    def logged(self, request_id: str, start_ms: int) -> pd.DataFrame | None:
        """The row as the job read it (one of ROWS)."""
        return _row_of(self.all_rows, request_id, start_ms)


class _Teller:
    """Tells the story of one row (`row`: one of ROWS)."""

    def __init__(
        self,
        settings: Settings,
        sides: Sides,
        row: pd.DataFrame,
        charge_ids: Mapping[str, str],
        stop: threading.Event | None,
    ) -> None:
        self._sides, self._row, self._charge_ids, self._stop = sides, row, charge_ids, stop or threading.Event()
        self._request_id, self._start_ms = str(row["request_id"].iloc[0]), int(row["start_ms"].iloc[0])
        self._usage_ms, self._charge_id = int(row["usage_ms"].iloc[0]), str(row["charge_id"].iloc[0])
        # A longer call is found by the re-check of old hours alone; what it makes of the row is the same.
        lasted = moment(self._usage_ms) - moment(self._start_ms)
        self._asked = settings
        self._settings = settings.model_copy(update={"max_call": max(settings.max_call, lasted)})

    def story(self, known: Known) -> Story:
        near = self._settings.model_copy(
            update={"doubt_before": self._settings.match_before, "doubt_after": self._settings.match_after}
        )
        run, seen = self._seen(near)
        verdict = seen.row(self._request_id, self._start_ms)
        if verdict is not None and verdict["class"].iloc[0] == RowClass.MISSING:
            run, seen = self._seen(self._settings)
            verdict = seen.row(self._request_id, self._start_ms)
        directory = directory_of(run)
        subscriptions, nobody = self._subscriptions(directory)
        deliveries = known.deliveries.get(self._start_ms, ())
        events, total = self._events(run, seen, verdict, {one.transaction_id for one in deliveries})
        young = moment(self._usage_ms) + self._settings.lag
        told = None if verdict is None else verdict.iloc[0]
        return Story(
            request_id=self._request_id,
            row=_logged(self._row, self._charge_ids),
            charge_id=self._charge_id,
            row_class=None if told is None else str(told["class"]),
            reason=None if told is None else str(told["reason"]) or None,
            ambiguous=told is not None and bool(told["ambiguous"]),
            is_long=self._settings.max_call > self._asked.max_call,
            event=None if verdict is None else _event(run, verdict),
            event_id=None if told is None else str(told["event_id"]) or None,
            nobody=nobody,
            young_until=young if young > datetime.now(UTC) else None,
            looked_from=min((one.start for one in seen.windows), default=None),
            looked_to=max((one.end for one in seen.windows), default=None),
            events=events,
            events_total=total,
            deliveries=deliveries,
            held=known.held_back(self._start_ms),
            subscriptions=subscriptions,
            runs=runs_over(self._sides, self._usage_ms),
        )

    def _seen(self, settings: Settings) -> tuple[Run, _Witness]:
        """What the job makes of the row's millisecond under these settings. Raises the fault that ended it."""
        window = Window(moment(self._usage_ms), moment(self._usage_ms + 1))
        order = Order("backfill", window, dry_run=True)
        run = begin(settings, order, self._sides, "explain", Timing(), self._stop, Silent(), None)
        plain_books = new_books(settings, self._sides.metric)
        witness = _Witness(
            plain_books.code, plain_books.tally, plain_books.reach_ms, aggregation=plain_books.aggregation
        )
        seen = job.reconcile(run, witness)
        if seen.fault is not None:
            raise seen.fault
        return run, witness

    def _subscriptions(self, directory: Directory) -> tuple[tuple[Subscribed, ...], str | None]:
        """The subscriptions of the charge ID, and why Lago would bill nobody for the row now."""
        if not self._charge_id:
            return (), None
        directory.learn([self._charge_id], since_ms=self._usage_ms)
        resolved = directory.hold([self._charge_id], np.array([self._usage_ms], np.int64))
        covering = directory.coverage.at(int(resolved.covering[0]))
        told = tuple(
            _subscribed(directory, one, covers=covering is not None and one.lago_id == covering.lago_id)
            for one in directory.subscriptions_of(self._charge_id)
        )
        return told, str(resolved.reason[0]) or None

    def _events(
        self, run: Run, seen: _Witness, verdict: pd.DataFrame | None, delivered: set[str]
    ) -> tuple[tuple[NearEvent, ...], int]:
        """The events that have to do with the row, the nearest first, and how many there are.

        Those of its subscription within reach, its own one wherever that was found, and those without a row that are
        like it but for one value, as far as the job has looked.
        """
        parts = [part for part in seen.all_events if len(part)]
        row = seen.logged(self._request_id, self._start_ms)
        if not parts or row is None or verdict is None:
            return (), 0
        events = joined(parts).drop_duplicates(["transaction_id", "subscription_id", "time_ms"])
        verdicts = _verdicts(seen.event_verdicts)
        event_id = str(verdict["event_id"].iloc[0])
        named = {event_id, transaction_id(run.settings.event_code, self._charge_id, *self._key)} | delivered
        offset = events["time_ms"].to_numpy(np.int64) - self._usage_ms
        reach = run.rules.reach
        same = (events["subscription_id"].astype("str") == str(verdict["subscription_id"].iloc[0])).to_numpy(bool)
        wanted = same & (offset >= -reach.before) & (offset <= reach.after)
        wanted |= events["transaction_id"].isin(named - {""}).to_numpy(bool)
        free = np.array([_is_unexplained(verdicts.get(key)) for key in _keys(events)], bool) & ~wanted
        like = np.flatnonzero(free)
        off = differences(row, events.iloc[like], run.rules)
        wanted[like[[len(values) <= 1 for values in off]]] = True
        order = np.flatnonzero(wanted)
        order = order[np.argsort(np.abs(offset[order]), kind="stable")]
        chosen = events.iloc[order[:EVENTS_LISTED]]
        differing = differences(row, chosen, run.rules)
        told = tuple(
            _near(event, self._usage_ms, verdicts.get(key), values, (self._request_id, self._start_ms))
            for event, key, values in zip(chosen.to_dict("records"), _keys(chosen), differing, strict=True)
        )
        return told, len(order)

    @property
    def _key(self) -> tuple[str, int]:
        return self._request_id, self._start_ms


def _row_of(frames: Iterable[pd.DataFrame], request_id: str, start_ms: int) -> pd.DataFrame | None:
    for frame in frames:
        found = frame[(frame["request_id"] == request_id) & (frame["start_ms"] == start_ms)]
        if len(found):
            return found.reset_index(drop=True)
    return None


_EventKey = tuple[str, str, int]  # transaction ID, subscription, time


def _keys(events: pd.DataFrame) -> list[_EventKey]:
    names = events["subscription_id"].astype("str").tolist()
    return list(zip(events["transaction_id"].tolist(), names, events["time_ms"].tolist(), strict=True))


def _verdicts(frames: Sequence[pd.DataFrame]) -> dict[_EventKey, Mapping[str, Any]]:
    found: dict[_EventKey, Mapping[str, Any]] = {}
    for frame in frames:
        for key, verdict in zip(_keys(frame), frame.to_dict("records"), strict=True):
            found.setdefault(key, {str(name): value for name, value in verdict.items()})
    return found


def _is_unexplained(verdict: Mapping[str, Any] | None) -> bool:
    return verdict is not None and verdict["class"] == EventClass.ORPHAN and verdict["reason"] in _UNEXPLAINED


def _near(
    event: Mapping[Any, Any],
    usage_ms: int,
    verdict: Mapping[str, Any] | None,
    differs: tuple[str, ...],
    key: tuple[str, int],
) -> NearEvent:
    def whole(name: str) -> int | None:
        return int(event[name]) if math.isfinite(event[name]) else None

    paired = verdict is not None and (verdict["row_request_id"], verdict["row_start_ms"]) == key
    return NearEvent(
        transaction_id=event["transaction_id"],
        own=OWN_ID.fullmatch(event["transaction_id"]) is not None,
        of_this_row=paired,
        subscription_id=str(event["subscription_id"]),
        time=moment(event["time_ms"]),
        offset_seconds=Decimal(event["time_ms"] - usage_ms).scaleb(-3),
        model=str(event["model"]),
        cost=plain(decimal_of(event["response_cost"])) if math.isfinite(event["response_cost"]) else None,
        prompt_tokens=whole("prompt_tokens"),
        completion_tokens=whole("completion_tokens"),
        total_tokens=whole("total_tokens"),
        counted=bool(event["counted"]),
        differs=differs,
        event_class=None if verdict is None else str(verdict["class"]),
        reason=None if verdict is None else str(verdict["reason"]) or None,
        row_request_id=None if verdict is None else str(verdict["row_request_id"]) or None,
    )


def _logged(row: pd.DataFrame, charge_ids: Mapping[str, str]) -> LoggedRow:
    (one,) = row.to_dict("records")
    return LoggedRow(
        started_at=moment(one["start_ms"]),
        usage_time=moment(one["usage_ms"]),
        call_type=str(one["call_type"]),
        model=str(one["model"]),
        model_group=str(one["model_group"]),
        provider=str(one["provider"]),
        status=str(one["status"]),
        cache_hit=str(one["cache_hit"]),
        spend=amount(one["spend"]),
        prompt_tokens=int(one["prompt_tokens"]),
        completion_tokens=int(one["completion_tokens"]),
        total_tokens=int(one["total_tokens"]),
        charge_ids=dict(charge_ids),
    )


def _event(run: Run, verdict: pd.DataFrame) -> Mapping[str, Any] | None:
    """The event that is sent for a row (one of ROW_VERDICTS), None for one that is never sent."""
    one = verdict.iloc[0]
    if one["class"] in _NEVER_SENT or not one["subscription_id"] or not (0 <= one["spend"] < math.inf):
        return None
    (made,) = events_of(run, verdict, own_ids(run.settings.event_code, verdict))
    return made


def _subscribed(directory: Directory, one: Subscription, *, covers: bool) -> Subscribed:
    plan = directory.plan_of(one)
    return Subscribed(
        external_id=one.external_id,
        external_customer_id=one.external_customer_id,
        status=one.status,
        plan_code=one.plan_code,
        started_at=_instant(one.started_ms),
        ended_at=_instant(one.ended_ms),
        period_from=_instant(one.period_ms),
        covers=covers,
        charges=None if plan is None else tuple(charge.charge_model or "" for charge in plan.charges if plan.billed),
        pay_in_advance=None if plan is None else plan.pay_in_advance,
    )


def _instant(ms: int | None) -> datetime | None:
    return None if ms is None else moment(ms)


__all__ = ["explain"]

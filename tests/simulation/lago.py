"""A Lago in memory: both event stores by the recorded answers of the real one, told the truth about every event.

It answers the requests that the job makes, and knows beside each event which row it is of: that is never sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from .machine import Clock, Skew, moment

Key = tuple[str, int]  # request_id, start_ms

_PLAIN = re.compile(r"-?\d+(\.\d+)?")
_ANY = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_EXISTS = {"transaction_id": ["value_already_exist"]}
_FORCED = frozenset({"pending", "canceled"})


@dataclass
class Plan:
    """`priced` and `in_advance` may change while the world goes on; `charges` is how often it prices the metric."""

    code: str
    priced: bool = True
    in_advance: bool = False
    charges: int = 1


@dataclass
class Subscription:
    """`created_at` is when Lago learns of it; `started_at` may lie before. Times in ms by Lago's own clock."""

    lago_id: str
    external_id: str
    plan: Plan
    created_at: int
    started_at: int
    ended_at: int | None = None  # when it ends, or ended

    def covers(self, time_ms: int, now: int) -> bool:
        if now < self.created_at or self.started_at > now:
            return False
        end = self.ended_at
        return self.started_at <= time_ms and (end is None or end > now or time_ms <= end)

    def ended(self, now: int) -> bool:
        return self.ended_at is not None and self.ended_at <= now

    def period(self, now: int) -> int:
        """The begin of the billing period under way, or of the last one."""
        at = moment(min(now, self.ended_at) if self.ended_at is not None else now)
        month = at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        return max(self.started_at // 1000 * 1000, round(month.timestamp()) * 1000)


@dataclass
class Event:
    """One event as it is stored. `of` is the row that it is for (None: of nobody's row here), `by` who sent it."""

    transaction_id: str
    subscription_id: str
    code: str
    time_ms: int
    properties: dict[str, Any]
    received: int  # Lago's clock
    visible_at: int  # true time
    of: Key | None
    by: str
    number: int
    run: int = 0  # the job's run that sent it
    folded: bool = False  # a copy that ClickHouse folds: listed, and not billed
    billed_at_receipt: bool = False

    @property
    def identity(self) -> tuple[str, str, int]:
        return self.subscription_id, self.transaction_id, self.time_ms


@dataclass
class Reply:
    status: int
    content: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class Lago:
    """`store` is postgres or clickhouse; `deduplicates` is the organization's switch; `atomic` is false before 1.39;
    `exact` says that times are kept to the millisecond; `backlog_ms` gives how long an event stays out of sight."""

    def __init__(
        self,
        clock: Clock,
        *,
        store: str = "postgres",
        deduplicates: bool = False,
        atomic: bool = True,
        exact: bool = True,
        aggregation: str = "sum_agg",
        field_name: str | None = "response_cost",
        code: str = "llm_usage",
        organization: str = "org",
        skew: Skew | None = None,
        backlog_ms: Callable[[], int] = lambda: 0,
    ) -> None:
        self.clock = clock
        self.clickhouse = store == "clickhouse"
        self.deduplicates = deduplicates
        self.atomic = atomic
        self.exact = exact and not self.clickhouse
        self.aggregation, self.field_name = aggregation, field_name
        self.code, self.organization = code, organization
        self.skew = skew or Skew(0)
        self.backlog_ms = backlog_ms
        self.events: list[Event] = []
        self.subscriptions: list[Subscription] = []
        self.plans: dict[str, Plan] = {}
        self.stored: Callable[[Event], None] = lambda event: None
        self._known: set[tuple[str, str]] = set()

    @property
    def now(self) -> int:
        return self.clock.now + self.skew.ms

    # --- the truth

    def covering(self, subscription_id: str, time_ms: int) -> Subscription | None:
        """Lago's own choice: the one that has not ended, then the later one."""
        found = [
            one for one in self.subscriptions if one.external_id == subscription_id and one.covers(time_ms, self.now)
        ]
        return max(found, key=lambda one: (not one.ended(self.now), one.ended_at or 0, one.started_at), default=None)

    def number(self, event: Event) -> Decimal | None:
        """What the metric reads of the event: None where it does not count it."""
        if self.aggregation == "count_agg":
            return Decimal(1)
        value = event.properties.get(self.field_name or "")
        if self.aggregation == "unique_count_agg":
            return None if value is None or value == "" else Decimal(1)
        text = "" if value is None or isinstance(value, bool) else _plain(value)
        if self.clickhouse:
            return Decimal(text) if _ANY.fullmatch(text) else Decimal(0)
        return Decimal(text) if _PLAIN.fullmatch(text) else None

    def open_for(self, subscription_id: str, time_ms: int) -> str:
        """Why an event of this subscription and time, received now, is on nobody's invoice; '' where it is on one."""
        covering = self.covering(subscription_id, time_ms)
        if covering is None:
            return "no_subscription"
        if not covering.plan.priced:
            return "not_priced"
        if not covering.plan.in_advance and (covering.ended(self.now) or time_ms < covering.period(self.now)):
            return "period_closed"
        return ""

    # --- receipt

    def receive(self, posted: Mapping[str, Any], *, of: Key | None, by: str, run: int = 0) -> str:
        """Takes one event; '' or why it is refused."""
        given = posted.get("timestamp")
        time_ms = self.now if given is None else self._kept(str(given))
        transaction_id = str(posted.get("transaction_id") or "")
        subscription_id = str(posted.get("external_subscription_id") or "")
        if not self.clickhouse:
            if (subscription_id, transaction_id) in self._known:
                return "exists"
            self._known.add((subscription_id, transaction_id))
        event = Event(
            transaction_id,
            subscription_id,
            str(posted["code"]),
            time_ms,
            dict(posted.get("properties") or {}),
            self.now,
            self.clock.now + (self.backlog_ms() if self.clickhouse else 0),
            of,
            by,
            len(self.events),
            run,
        )
        if self.clickhouse and self.deduplicates:
            event.folded = any(one.identity == event.identity for one in self.events)
        event.billed_at_receipt = self.open_for(subscription_id, time_ms) == ""
        self.events.append(event)
        self.stored(event)
        return ""

    def take_batch(
        self, posted: list[Mapping[str, Any]], label: Callable[[Mapping[str, Any]], Key | None], run: int
    ) -> dict[str, Any]:
        """A request of the job; the error details by index. All or nothing since 1.39."""
        if not self.clickhouse and self.atomic:
            seen: set[str] = set()
            wrong = {}
            for index, one in enumerate(posted):
                key = (str(one["external_subscription_id"]), str(one["transaction_id"]))
                if key in self._known or key[1] in seen:
                    wrong[str(index)] = _EXISTS
                seen.add(key[1])
            if wrong:
                return wrong
        details = {}
        within: set[tuple[Any, ...]] = set()
        for index, one in enumerate(posted):
            name = (one["external_subscription_id"], one["transaction_id"], one.get("timestamp"))
            if self.clickhouse and name in within:
                continue
            within.add(name)
            if self.receive(one, of=label(one), by="job", run=run):
                details[str(index)] = _EXISTS
        return details

    def _kept(self, text: str) -> int:
        """The millisecond under which a time is kept: cut, and one too early for some where a double is on the way."""
        exact = Decimal(text)
        if self.exact:
            return int(exact * 1000)
        whole, _, fraction = repr(float(exact)).partition(".")
        return int(whole) * 1000 + int(f"{fraction}000"[:3])

    # --- answers

    def answer(
        self, method: str, target: str, body: Any, label: Callable[[Mapping[str, Any]], Key | None], run: int
    ) -> Reply:
        parts = urlsplit(target)
        path = unquote(parts.path).removeprefix("/api/v1")
        query = parse_qs(parts.query, keep_blank_values=True)
        if method == "POST":
            return self._post(path, body, label, run)
        if path == "/events":
            return self._list(query)
        kind, _, name = path.removeprefix("/").partition("/")
        if kind == "events":
            found = next((one for one in self.visible() if one.transaction_id == name), None)
            return _absent("event") if found is None else _ok({"event": self._shown(found)})
        if kind == "organizations":
            store = "clickhouse" if self.clickhouse else "postgres"
            return _ok({"organization": {"lago_id": self.organization, "name": "sim", "events_store": store}})
        if kind == "billable_metrics":
            return _ok({"billable_metric": self._metric()}) if name == self.code else _absent("billable_metric")
        if kind == "plans":
            plan = self.plans.get(name)
            return _absent("plan") if plan is None else _ok({"plan": self._plan(plan)})
        if kind == "subscriptions":
            return self._subscription(name, query) if name else self._subscriptions(query)
        if kind == "invoices":
            return _page("invoices", [], query)
        if kind == "customers":
            return _absent("resource")
        raise AssertionError(f"the model knows no {method} {path}")

    def visible(self) -> list[Event]:
        return [one for one in self.events if one.visible_at <= self.clock.now]

    def _post(self, path: str, body: Any, label: Callable[[Mapping[str, Any]], Key | None], run: int) -> Reply:
        single = path == "/events"
        posted = [body["event"]] if single else body["events"]
        details = self.take_batch(posted, label, run)
        if details:
            shown = details["0"] if single else details
            return _reply(
                422,
                {"status": 422, "error": "Unprocessable Entity", "code": "validation_errors", "error_details": shown},
            )
        stored = [
            {**one, "lago_id": None, "created_at": None if self.clickhouse else _seconds(self.now)} for one in posted
        ]
        return _ok({"event": stored[0]} if single else {"events": stored})

    def _list(self, query: Mapping[str, list[str]]) -> Reply:
        low, high = (_microseconds(query[name][0]) for name in ("timestamp_from", "timestamp_to"))
        subscription = query.get("external_subscription_id")
        found = [
            one
            for one in self.visible()
            if low <= one.time_ms * 1000 <= high
            and [one.code] == query["code"]
            and subscription in (None, [one.subscription_id])
        ]
        if self.clickhouse:
            found.sort(key=lambda one: (-one.received, one.transaction_id))
        else:
            found.sort(key=lambda one: (-one.time_ms, one.transaction_id))
        return _page("events", found, query, self._shown)

    def _shown(self, event: Event) -> dict[str, Any]:
        properties = event.properties
        if self.clickhouse:
            properties = {name: _clickhouse_text(value) for name, value in properties.items()}
        return {
            "lago_id": f"{event.number}" if not self.clickhouse else f"{event.transaction_id}-{event.received // 1000}",
            "transaction_id": event.transaction_id,
            "external_subscription_id": event.subscription_id,
            "code": event.code,
            "timestamp": _iso(event.time_ms),
            "properties": properties,
            "created_at": _seconds(event.received),
        }

    def _metric(self) -> dict[str, Any]:
        return {
            "lago_id": "metric",
            "name": "sim",
            "code": self.code,
            "aggregation_type": self.aggregation,
            "field_name": self.field_name,
            "expression": None,
            "recurring": False,
            "filters": [],
        }

    def _plan(self, plan: Plan) -> dict[str, Any]:
        charge = {
            "billable_metric_code": self.code,
            "charge_model": "standard",
            "pay_in_advance": plan.in_advance,
            "properties": {"amount": "1"},
            "filters": [],
        }
        other = {**charge, "billable_metric_code": "something_else"}
        charges = [charge] * plan.charges if plan.priced else [other]
        return {"lago_id": plan.code, "code": plan.code, "interval": "monthly", "charges": charges}

    def _status(self, one: Subscription) -> str:
        if one.ended(self.now):
            return "terminated"
        return "pending" if one.started_at > self.now else "active"

    def _subscriptions(self, query: Mapping[str, list[str]]) -> Reply:
        wanted = query.get("status[]", ["active"])
        found = [one for one in self.subscriptions if one.created_at <= self.now and self._status(one) in wanted]
        for name, attribute in (("external_id", "external_id"), ("external_customer_id", "external_id")):
            if name in query:
                found = [one for one in found if getattr(one, attribute) == query[name][0]]
        if "overriden" in query:
            found = found if query["overriden"] == ["false"] else []
        found.sort(key=lambda one: -one.started_at)
        return _page("subscriptions", found, query, self._subscription_json)

    def _subscription(self, name: str, query: Mapping[str, list[str]]) -> Reply:
        status = query.get("status", ["active"])[0]
        found = [
            one
            for one in self.subscriptions
            if one.external_id == name and one.created_at <= self.now and self._status(one) == status
        ]
        if not found:
            return _absent("subscription")
        newest = max(found, key=lambda one: one.started_at)
        return _ok({"subscription": {**self._subscription_json(newest), "plan": self._plan(newest.plan)}})

    def _subscription_json(self, one: Subscription) -> dict[str, Any]:
        status = self._status(one)
        return {
            "lago_id": one.lago_id,
            "external_id": one.external_id,
            "external_customer_id": f"customer-{one.external_id}",
            "status": status,
            "plan_code": one.plan.code,
            "started_at": None if status in _FORCED else _iso(one.started_at),
            "terminated_at": _seconds(one.ended_at) if one.ended_at is not None and one.ended(self.now) else None,
            "current_billing_period_started_at": None if status in _FORCED else _seconds(one.period(self.now)),
        }


def _plain(value: Any) -> str:
    """A JSON number or a text as Postgres' jsonb shows it."""
    return format(Decimal(repr(value)), "f") if isinstance(value, float) else str(value)


def _clickhouse_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        text = format(Decimal(repr(value)), "f")
        return (text.rstrip("0").rstrip(".") if "." in text else text) or "0"
    return str(value)


def _page(
    name: str, found: list[Any], query: Mapping[str, list[str]], show: Callable[[Any], Any] = lambda one: one
) -> Reply:
    page, size = int(query.get("page", ["1"])[0]), int(query.get("per_page", ["100"])[0])
    pages = -(-len(found) // size)
    meta = {
        "current_page": page if found else 0,
        "next_page": page + 1 if page < pages else None,
        "prev_page": page - 1 if found and page > 1 else None,
        "total_pages": pages,
        "total_count": len(found),
    }
    return _ok({name: [show(one) for one in found[(page - 1) * size : page * size]], "meta": meta})


def _reply(status: int, body: Any) -> Reply:
    return Reply(status, json.dumps(body, separators=(",", ":")).encode())


def _ok(body: Any) -> Reply:
    return _reply(200, body)


def _absent(name: str) -> Reply:
    return _reply(404, {"status": 404, "error": "Not Found", "code": f"{name}_not_found"})


def _iso(time_ms: int) -> str:
    return f"{moment(time_ms):%Y-%m-%dT%H:%M:%S}.{time_ms % 1000:03d}Z"


def _seconds(time_ms: int) -> str:
    return f"{moment(time_ms):%Y-%m-%dT%H:%M:%S}Z"


def _microseconds(text: str) -> int:
    from datetime import datetime, timedelta

    return (datetime.fromisoformat(text) - moment(0)) // timedelta(microseconds=1)

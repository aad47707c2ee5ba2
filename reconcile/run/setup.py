"""`reconcile setup`: reads both sides and finds what Lago needs before usage can be billed. Makes nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np

from reconcile.domain.instants import milliseconds, moment
from reconcile.domain.money import add
from reconcile.domain.set_up import MetricNeeded, Need, PlanNeeded, SetUp, Standing, Usage
from reconcile.domain.vocabulary import Reason
from reconcile.domain.window import Window, lookback_window
from reconcile.errors import PreflightError, UsageError
from reconcile.lago import Lago, Metric, Plan, Subscription
from reconcile.lago.directory import Directory
from reconcile.lago.pricing import refusal
from reconcile.run.check import Forgetful
from reconcile.run.preflight import check_postgres_clock, open_lago, open_spend_logs
from reconcile.settings import Settings

LOOKED_BACK = timedelta(days=35)
_COST = "response_cost"
# Of a subscription that is over. Any other one of the same external ID would be ended by making a new one.
_OVER = ("terminated", "canceled")


def set_up(
    settings: Settings, now: datetime, *, plan_code: str | None = None, stop: threading.Event | None = None
) -> SetUp:
    """What is needed to bill the charge IDs of the last 35 days (from RECONCILE_START on, where that is later).

    `plan_code` names the plan that new subscriptions get; without it Lago's only plan with a price on the metric, or a
    new one. Raises `UsageError` where a plan has to be named, `PreflightError` for a metric that counts nothing of
    ours, and the faults of either side.
    """
    until = now.replace(microsecond=now.microsecond // 1000 * 1000)
    since = until - LOOKED_BACK
    if settings.start is not None:
        since = min(max(since, settings.start), until - timedelta(milliseconds=1))
    month = until.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    with open_spend_logs(settings) as spend_logs:
        spend_logs.preflight()
        check_postgres_clock(spend_logs)
        used = _usage(spend_logs.charge_ids(Window(since, until), month))
    nobody = used.pop("", None)
    billable = [one for one in used.values() if one.charge_id not in settings.own_ids]
    billable.sort(key=lambda one: (-one.spend, -one.rows, one.charge_id))
    by_customer = settings.id_kind == "external_customer_id"
    with open_lago(settings, stop or threading.Event()) as lago:
        view = lago.preflight
        view.organization()
        found = view.metric(settings.event_code)
        if found is not None and (refused := refusal(found, settings.properties)) is not None:
            raise PreflightError(refused)
        directory = Directory(
            view, Forgetful(), code=settings.event_code, by_customer=by_customer, now_ms=milliseconds(now)
        )
        needs = _needs(view, directory, billable)
        plan = _plan(settings.event_code, view.plans(settings.event_code), plan_code, needs)
    return SetUp(
        lago=settings.lago_api_base,
        charge_by=settings.charge_by,
        by_customer=by_customer,
        since=since,
        until=until,
        month=month,
        metric=_metric(settings, found),
        plan=plan,
        needs=tuple(needs),
        nobody=nobody,
        older=_older(settings, until, billable),
    )


def _older(settings: Settings, until: datetime, used: Sequence[Usage]) -> tuple[date, date] | None:
    """The first and last day of usage that a first `run` would begin too late for."""
    begins = lookback_window(until, settings.lag, settings.lookback).start
    first = min((one.first for one in used), default=until)
    if first >= begins:
        return None
    last = begins - timedelta.resolution
    return first.astimezone(settings.time_zone).date(), last.astimezone(settings.time_zone).date()


def _usage(rows: Iterable[Mapping[str, Any]]) -> dict[str, Usage]:
    """By charge ID. One may have rows in LiteLLM's legacy table too."""
    found: dict[str, Usage] = {}
    for row in rows:
        one = Usage(
            charge_id=row["charge_id"],
            rows=row["rows"],
            spend=Decimal(row["spend"]),
            earlier_rows=row["earlier_rows"],
            earlier_spend=Decimal(row["earlier_spend"]),
            first=row["first_usage"],
            last=row["last_usage"],
        )
        if (other := found.get(one.charge_id)) is not None:
            one = Usage(
                charge_id=one.charge_id,
                rows=one.rows + other.rows,
                spend=add((one.spend, other.spend)),
                earlier_rows=one.earlier_rows + other.earlier_rows,
                earlier_spend=add((one.earlier_spend, other.earlier_spend)),
                first=min(one.first, other.first),
                last=max(one.last, other.last),
            )
        found[one.charge_id] = one
    return found


def _metric(settings: Settings, found: Metric | None) -> MetricNeeded:
    cost = settings.properties.get(_COST, _COST)
    if found is None:
        return MetricNeeded(settings.event_code, None, "sum_agg", cost, adds_up_cost=True)
    adds_up_cost = found.aggregation_type == "sum_agg" and found.field_name == cost and not found.expression
    return MetricNeeded(
        found.code, found.lago_id, found.aggregation_type or "", found.field_name, adds_up_cost=adds_up_cost
    )


def _plan(event_code: str, plans: Sequence[Plan], asked: str | None, needs: Sequence[Need]) -> PlanNeeded:
    """The plan for the subscriptions that are missing. Which of several has the right price only a person knows."""
    priced = [plan.code for plan in plans if plan.priced]
    lacking = sum(need.standing is Standing.MISSING for need in needs)
    if asked is None and len(priced) > 1 and lacking:
        raise UsageError(
            f"--plan: Lago has {len(priced)} plans with a charge on {event_code} ({', '.join(priced[:10])}), and "
            f"{lacking} charge IDs have no subscription; name the plan for them, for example --plan {priced[0]}"
        )
    code = asked or next(iter(priced), f"{event_code}_at_cost")
    if code not in priced and any(plan.code == code for plan in plans):
        raise UsageError(
            f"--plan: Lago's plan {code!r} has no charge on {event_code}, and its API changes a plan's charges all at "
            "once; add a standard charge to it on Lago's page, or name another plan"
        )
    return PlanNeeded(code, code in priced, tuple(one for one in priced if one != code))


def _needs(lago: Lago, directory: Directory, used: Sequence[Usage]) -> list[Need]:
    """How each charge ID stands, in the same order."""
    if not used:
        return []
    names = [one.charge_id for one in used]
    directory.learn(
        names,
        since_ms=milliseconds(min(one.first for one in used)),
        money={one.charge_id: float(one.spend) for one in used},
    )
    coverage = directory.coverage
    begins = coverage.hold(names, np.array([milliseconds(one.first) for one in used], np.int64))
    ends = coverage.hold(names, np.array([milliseconds(one.last) for one in used], np.int64))
    needs = [
        _need(one, str(first), str(last), coverage.at(int(place)), directory.subscriptions_of(one.charge_id))
        for one, first, last, place in zip(used, begins.reason, ends.reason, ends.covering, strict=True)
    ]
    unknown = lago.unknown_customers([need.usage.charge_id for need in needs if need.standing is Standing.MISSING])
    return [
        Need(need.usage, need.standing, need.begins_at, makes_customer=True)
        if need.standing is Standing.MISSING and need.usage.charge_id in unknown
        else need
        for need in needs
    ]


def _need(usage: Usage, first: str, last: str, covering: Subscription | None, known: Sequence[Subscription]) -> Need:
    """How a charge ID stands. `first` and `last` say why Lago would bill nobody for its first and its last usage, ''
    where it would bill; `covering` is the subscription of the last one, `known` are all of the ID."""
    plan_code = None if covering is None else covering.plan_code
    if usage.charge_id != usage.charge_id.strip():
        return Need(usage, Standing.IMPOSSIBLE)
    if Reason.SEVERAL_SUBSCRIPTIONS in (first, last):
        return Need(usage, Standing.SEVERAL)
    if last == Reason.NOT_PRICED:
        return Need(usage, Standing.NOT_PRICED, plan_code=plan_code)
    if last != Reason.NO_SUBSCRIPTION:
        if first != Reason.NO_SUBSCRIPTION:
            return Need(usage, Standing.THERE, plan_code=plan_code)
        begins_at = None if covering is None else moment(covering.started_ms or 0)
        return Need(usage, Standing.BEGINS_LATE, begins_at, plan_code=plan_code)
    for one in known:
        if one.status not in _OVER:
            begins_at = None if one.started_ms is None else moment(one.started_ms)
            standing = Standing.PENDING if begins_at is None else Standing.BEGINS_LATE
            return Need(usage, standing, begins_at, plan_code=one.plan_code)
    # From the day's beginning: rows may come late. Never over one that has ended: Lago would bill that time twice.
    begins_at = usage.first.replace(hour=0, minute=0, second=0, microsecond=0)
    over = [moment(one.ended_ms) + timedelta(seconds=1) for one in known if one.ended_ms is not None]
    return Need(usage, Standing.MISSING, max([begins_at, *over]))

"""POST /events/estimate_fees, and the fees that charges paid in advance make of single events."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from starlette.responses import Response

from reconcile.sandbox.lago import plans, pricing
from reconcile.sandbox.lago.call import Account, Call, Lago, now
from reconcile.sandbox.lago.clickhouse_text import decimal_value, go_text
from reconcile.sandbox.lago.counting import PLAIN_NUMBER, Bucket, CountedMetric, metric_of
from reconcile.sandbox.lago.fees import charge_fees
from reconcile.sandbox.lago.http import answer, invalid, not_found
from reconcile.sandbox.lago.invoices import bill_fees
from reconcile.sandbox.lago.listing import posted
from reconcile.sandbox.lago.periods import Period, charged_period
from reconcile.sandbox.lago.plans import Charge
from reconcile.sandbox.lago.posted import Event
from reconcile.sandbox.lago.subscription import COLUMNS, SOURCE, Subscription, newest
from reconcile.sandbox.lago.timestamps import EPOCH, naive
from reconcile.sandbox.lago.usage import Billed, ChargeUsage

# The subscription that an event belongs to: the one whose life holds its time.
COVERING = f"""SELECT {COLUMNS} {SOURCE} AND subscription.external_id = %(external_id)s AND started_at <= %(at)s
    AND (terminated_at IS NULL OR terminated_at >= %(at)s)
    ORDER BY terminated_at DESC NULLS FIRST, started_at DESC LIMIT 1"""


def estimate(lago: Lago, call: Call) -> Response:
    """The fees that an event would make at once; nothing is stored."""
    given = posted(call, "event")
    found = newest(lago, call.organization, str(given.get("external_subscription_id") or ""), "active")
    if found is None:
        return not_found("subscription")
    plan = plans.by_id(lago, found.plan_id)
    charges = [one for one in plan.charges if one.pay_in_advance and one.metric_code == given.get("code")]
    if not charges:
        return invalid({"code": ["does_not_match_an_instant_charge"]})
    period = found.period(now(lago))
    assert period is not None  # it is active
    more: dict[str, Any] = {"lago_id": None, "created_at": None, "applied_taxes": []}
    fees = [
        fee | more | {"event_transaction_id": str(uuid.uuid4())}
        for charge in charges
        for fee in charge_fees(
            found, _usage_of(lago, call.account, charge, dict(given.get("properties") or {}), Decimal(0)), period
        )
    ]
    return answer({"fees": [lago.version.shape("fee", fee) for fee in fees]})


def bill_in_advance(lago: Lago, account: Account, events: Sequence[Event]) -> None:
    """A fee and an invoice for each event on a charge that is paid in advance, also in a period that is over.

    As in Lago, an event whose transaction ID has such a fee already makes none, whatever its subscription, and
    neither does one outside its subscription's life or without the property.
    """
    for event in events:
        moment = _moment(event)
        rows = lago.execute(
            COVERING,
            {"organization": account.organization, "external_id": event.external_subscription_id, "at": moment},
        )
        if moment is None or not rows:
            continue
        found = Subscription(*rows[0])
        for charge in plans.by_id(lago, found.plan_id).charges:
            if not charge.pay_in_advance or charge.metric_code != event.code:
                continue
            if _has_fee(lago, account, event, charge) or not _has_property(metric_of(lago, charge), event):
                continue
            cents = Decimal(event.precise_total_amount_cents or 0)
            usage = _usage_of(lago, account, charge, event.properties, cents)
            period = _period(found, moment)
            bill_fees(lago, account, found, period, charge_fees(found, usage, period), event.transaction_id)


def _period(found: Subscription, moment: datetime) -> Period:
    assert found.started_at is not None  # its life holds the moment
    given = (found.period_from, found.period_to)
    if given[0] and given[1] and not given[0] <= moment <= given[1]:
        given = (None, None)
    return charged_period(found.interval, moment, found.started_at, found.terminated_at, given)


def _usage_of(lago: Lago, account: Account, charge: Charge, properties: dict[str, Any], cents: Decimal) -> ChargeUsage:
    """What one event alone comes to. Its filter and group are not looked at."""
    metric = metric_of(lago, charge)
    units = _units(metric, properties, clickhouse=account.clickhouse)
    amount = pricing.price(charge.charge_model, charge.properties, units, 1, cents)
    billed = Billed(Bucket(None, {}, units, 1, cents), max(units, Decimal(0)), max(amount, Decimal(0)))
    return ChargeUsage(charge, metric, [billed])


def _units(metric: CountedMetric, properties: dict[str, Any], *, clickhouse: bool) -> Decimal:
    if metric.aggregation_type in ("count_agg", "unique_count_agg"):
        return Decimal(1)
    value = properties.get(metric.field_name or "")
    if clickhouse or not isinstance(value, str):
        return decimal_value(go_text(value))
    return Decimal(value) if re.fullmatch(PLAIN_NUMBER, value) else Decimal(0)


def _has_property(metric: CountedMetric, event: Event) -> bool:
    value = event.properties.get(metric.field_name or "")
    return metric.aggregation_type == "count_agg" or (value is not None and str(value).strip() != "")


def _has_fee(lago: Lago, account: Account, event: Event, charge: Charge) -> bool:
    return bool(
        lago.execute(
            """SELECT 1 FROM lago.fees WHERE organization_id = %s AND event_transaction_id = %s
                AND content->>'lago_charge_id' = %s""",
            (account.organization, event.transaction_id, charge.lago_id),
        )
    )


def _moment(event: Event) -> datetime | None:
    """The event's time, UTC without a zone; None for one that a datetime does not reach."""
    try:
        return naive(EPOCH + timedelta(microseconds=event.nanoseconds // 1000))
    except OverflowError:
        return None

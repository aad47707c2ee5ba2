"""LiteLLM's and Lago's own totals, set beside ours: hints for people, never a reason to send anything.

LiteLLM feeds its daily tables by another queue than the spend log, so a gap between them tells of rows that the spend
log lost. Lago's usage tells what it will put on the invoice.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from reconcile.domain.document import Finding, LagoUsage, SpendLogsGap
from reconcile.domain.money import add, decimal_of
from reconcile.domain.window import Window
from reconcile.lago import Usage
from reconcile.litellm.day_totals import DAY_MS, DayTotals
from reconcile.litellm.spend_logs import milliseconds
from reconcile.run.books import Books
from reconcile.run.context import Context, moment

# Money sums of doubles in another order differ in the last digits.
_MONEY_TOLERANCE = Decimal("0.000001")
# Lago's usage is asked for so many charge IDs, those with most money first: two requests each.
_ASKED = 200


def spend_logs_gap(context: Context, window: Window, found: DayTotals, *, reads_on: bool) -> tuple[SpendLogsGap, ...]:
    """Where LiteLLM's daily tables say more or less than the rows, for the UTC days that lie in the window whole.

    Rows that began on such a day may have ended after the window: with `reads_on` those are read here; without it the
    days whose last calls can end there are left to a later run.
    """
    first = -(-milliseconds(window.start) // DAY_MS)
    end = window.end if reads_on else window.end - context.settings.max_call
    last = milliseconds(end) // DAY_MS - 1
    if last < first:
        return ()
    days = Window(moment(first * DAY_MS), moment((last + 1) * DAY_MS))
    spend_logs = context.sides.spend_logs
    told = spend_logs.daily_totals(_day(first).isoformat(), _day(last).isoformat())
    if told is None:
        return ()
    table, daily = told
    since = max(days.start, window.end - context.settings.max_call)
    if reads_on and since < days.end:
        found.add(spend_logs.rows(Window(since, days.end), Window(window.end, window.end + timedelta(days=3_660))))
    gaps = []
    for day, charge_id, requests, tokens, spend in daily[
        ["day", "charge_id", "requests", "tokens", "spend"]
    ].itertuples(index=False):
        key = ((date.fromisoformat(day) - date(1970, 1, 1)).days, str(charge_id))
        gap = SpendLogsGap(
            day=date.fromisoformat(day),
            charge_id=str(charge_id),
            table=table,
            rows_requests=found.requests.get(key, 0),
            daily_requests=int(requests),
            rows_tokens=found.tokens.get(key, 0),
            daily_tokens=int(tokens),
            rows_spend=found.spend.get(key, Decimal(0)),
            daily_spend=decimal_of(spend),
        )
        money = abs(gap.rows_spend - gap.daily_spend) > _MONEY_TOLERANCE
        if money or gap.rows_requests != gap.daily_requests or gap.rows_tokens != gap.daily_tokens:
            gaps.append(gap)
    return tuple(sorted(gaps, key=lambda gap: (gap.day, gap.charge_id)))


def findings(gaps: tuple[SpendLogsGap, ...], found: DayTotals) -> Iterator[Finding]:
    """The gaps and the request IDs that lose rows, each as one finding."""
    if gaps:
        lost = add(gap.daily_spend for gap in gaps) - add(gap.rows_spend for gap in gaps)
        yield Finding(
            "spend_logs_gap",
            f"LiteLLM's own daily totals ({gaps[0].table}) differ from the spend log on {len(gaps)} days and charge "
            "IDs; where they say more, the spend log has lost rows that nobody can bill",
            sum(gap.daily_requests - gap.rows_requests for gap in gaps),
            lost,
        )
    if found.losing_ids:
        yield Finding(
            "lost_request_ids",
            "rows whose request ID is 'None' or a short number: LiteLLM keeps the first row of an ID alone, and drops "
            "those that come with it again",
            found.losing_ids,
        )


def lago_usage(context: Context, window: Window, books: Books) -> tuple[LagoUsage, ...]:
    """What Lago bills per charge ID in the periods that the window touches, beside what the events say.

    The events can be added up where a period lies in the window whole (an open one: up to the window's end) and the
    metric adds up `response_cost` or counts events. Charge IDs with most money come first, at most 200 of them.
    """
    names = sorted(
        (group for group in books.by_charge_id() if group.charge_id),
        key=lambda group: -group.rows["total"].spend,
    )[:_ASKED]
    lines = []
    for group in names:
        charge_id = str(group.charge_id)
        for customer, subscription in context.coverage.subscriptions_of(charge_id):
            lago, code = context.sides.lago, context.settings.event_code
            current = lago.current_usage(customer, subscription)
            periods = [("current", current)] if current is not None else []
            periods += [("past", usage) for usage in lago.past_usage(customer, subscription, code)]
            for kind, usage in periods:
                if usage.to_datetime > window.start and usage.from_datetime < window.end:
                    lines.append(_line(context, window, books, charge_id, kind, usage))
    return tuple(lines)


def _line(context: Context, window: Window, books: Books, charge_id: str, kind: str, usage: Usage) -> LagoUsage:
    charges = [charge for charge in usage.charges if charge.metric_code == context.settings.event_code]
    whole = _whole(window, usage, kind) and _alone(context, charge_id)
    count, spend = _events_after_run(books, charge_id)
    metric = context.sides.metric
    adds_up_cost = metric.aggregation_type == "sum_agg" and metric.field_name == "response_cost"
    units = spend if adds_up_cost else Decimal(count) if metric.aggregation_type == "count_agg" else None
    return LagoUsage(
        charge_id=charge_id,
        period=kind,
        period_from=usage.from_datetime.astimezone(UTC),
        period_to=usage.to_datetime.astimezone(UTC),
        events_units=units if whole else None,
        events_count=count if whole else None,
        lago_units=add(charge.units for charge in charges),
        lago_events_count=sum(charge.events_count for charge in charges),
        amount_cents=sum(charge.amount_cents for charge in charges),
        currency=usage.currency or "",
    )


def _whole(window: Window, usage: Usage, kind: str) -> bool:
    """Whether all events of the charge ID that the run has listed lie in the period, and all of the period's in them.

    Lago cuts a period's ends to whole seconds. An open period may end after the window: nothing has happened there yet.
    """
    second = timedelta(seconds=1)
    starts_together = abs(usage.from_datetime - window.start) < second
    ends_together = abs(usage.to_datetime - window.end) <= second
    still_open = kind == "current" and usage.to_datetime > window.end >= datetime.now(UTC) - timedelta(days=1)
    return starts_together and (ends_together or still_open)


def _alone(context: Context, charge_id: str) -> bool:
    return len(context.coverage.subscriptions_of(charge_id)) == 1


def _events_after_run(books: Books, charge_id: str) -> tuple[int, Decimal]:
    """Events of the charge ID in Lago after this run's deliveries, in count and money."""
    events = [found for key, found in books.events.items() if key[1] == charge_id]
    delivered = [found for key, found in books.rows.items() if key[1] == charge_id and key[0] == "delivered"]
    return (
        sum(found.count for found in events) + sum(found.count for found in delivered),
        add([*(found.spend for found in events), *(found.spend for found in delivered)]),
    )


def _day(number: int) -> date:
    return date(1970, 1, 1) + timedelta(days=number)

"""LiteLLM's and Lago's own totals, set beside ours: hints for people, never a reason to send anything."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from reconcile.domain.document import Finding, LagoUsage, Previous, SpendLogsGap, previous_run
from reconcile.domain.instants import DAY_MS, milliseconds, moment
from reconcile.domain.money import add, decimal_of
from reconcile.domain.vocabulary import FindingKind
from reconcile.domain.window import Window
from reconcile.lago.directory import Directory
from reconcile.lago.pricing import plans_not_shown, remarks
from reconcile.lago.usage import Usage, UsageUnavailable
from reconcile.litellm.day_totals import gaps
from reconcile.run.books import Books
from reconcile.run.plan import Plan
from reconcile.run.shared import Run

# Lago's usage is asked for so many charge IDs, those with most money first: two requests each.
_ASKED = 200


def spend_logs_gaps(run: Run, plan: Plan, books: Books) -> tuple[SpendLogsGap, ...]:
    """Where LiteLLM's daily tables say more or less than the rows, for the UTC days that lie in the window whole.

    Calls that began on such a day may have ended after the window. A nightly run leaves those days to a later one; a
    backfill and a report read the late finishers now.
    """
    window, reads_on = plan.window, run.order.command != "run" and bool(plan.stretches)
    first = -(-milliseconds(window.start) // DAY_MS)
    end = window.end if reads_on else window.end - run.settings.max_call
    last = milliseconds(end) // DAY_MS - 1
    if last < first:
        return ()
    spend_logs = run.sides.spend_logs
    told = spend_logs.daily_totals(_day(first).isoformat(), _day(last).isoformat())
    if told is None:
        return ()
    days = Window(moment(first * DAY_MS), moment((last + 1) * DAY_MS))
    since = max(days.start, window.end - run.settings.max_call)
    if reads_on and since < days.end:
        later = Window(window.end, window.end + timedelta(days=3_660))
        books.days.add(spend_logs.rows(Window(since, days.end), later))
    return gaps(books.days, *told)


def lago_usage(
    run: Run, plan: Plan, books: Books, directory: Directory
) -> tuple[tuple[LagoUsage, ...], tuple[Finding, ...]]:
    """What Lago bills per charge ID in the periods that the window touches, beside what the events add up to.

    The events can be added up where a period lies in the window whole (an open one: up to the window's end). Charge IDs
    with most money come first, at most 200 of them.
    """
    names = sorted(
        (group for group in books.tally.by_charge_id() if group.charge_id),
        key=lambda group: -group.rows["total"].spend,
    )[:_ASKED]
    lines: list[LagoUsage] = []
    unavailable: list[str] = []
    for group in names:
        charge_id = str(group.charge_id)
        subscriptions = directory.coverage.subscriptions_of(charge_id)
        for customer, subscription in subscriptions:
            found = _periods(run, customer, subscription)
            if isinstance(found, UsageUnavailable):
                unavailable.append(found.text)
                if found.silent:
                    break
                continue
            lines += [
                _line(run, plan, books, charge_id, kind, usage, alone=len(subscriptions) == 1)
                for kind, usage in found
                if usage.to_datetime > plan.window.start and usage.from_datetime < plan.window.end
            ]
    if not unavailable:
        return tuple(lines), ()
    text = (
        f"Lago could not say what it bills for {len(unavailable)} subscriptions; their figures are left out of the "
        f"comparison ({unavailable[0]})"
    )
    return tuple(lines), (Finding(FindingKind.USAGE_UNAVAILABLE, text, len(unavailable)),)


def remarks_on_plans(run: Run, books: Books, directory: Directory) -> tuple[Finding, ...]:
    """What the metric and the plans in use do to the bill that nobody expects."""
    settings = run.settings
    models = [str(group.model) for group in books.tally.by_model() if group.model]
    found = remarks(
        run.sides.metric,
        directory.plans_in_use(),
        settings.properties,
        models=models,
        precise_amount=settings.precise_amount is not None,
    )
    found += plans_not_shown(directory.unknown_plans, directory.guessed_plans)
    return tuple(Finding(remark.kind, remark.text, remark.count) for remark in found)


def unplaced_rows(run: Run, plan: Plan) -> tuple[Finding, ...]:
    """Rows that no window will ever hold, since their times cannot be: nobody would hear of them otherwise."""
    starts = Window(plan.window.start - run.settings.max_call, plan.window.end)
    found = run.sides.spend_logs.unplaced(starts)
    if not found.count:
        return ()
    text = (
        "rows begin or end at a time that cannot be (before 2020, in the far future, infinite): no window holds them, "
        "and nobody is billed for them"
    )
    return (Finding(FindingKind.UNPLACED_ROWS, text, found.count, decimal_of(found.spend)),)


def previous_run_of(run: Run, plan: Plan) -> Previous | None:
    """The last finished run over the same window and stream."""
    sides = run.sides
    found = sides.ledger.previous(sides.stream, (plan.window.start, plan.window.end), run.run_id)
    if found is None:
        return None
    return previous_run({**found["document"], "finished_at": found["document"]["method"]["finished_at"]})


def _periods(run: Run, customer: str, subscription: str) -> list[tuple[str, Usage]] | UsageUnavailable:
    lago, code = run.sides.lago, run.settings.event_code
    current = lago.current_usage(customer, subscription, code)
    if isinstance(current, UsageUnavailable):
        return current
    past = lago.past_usage(customer, subscription, code)
    if isinstance(past, UsageUnavailable):
        return past
    return [*([("current", current)] if current is not None else []), *(("past", usage) for usage in past)]


def _line(run: Run, plan: Plan, books: Books, charge_id: str, kind: str, usage: Usage, *, alone: bool) -> LagoUsage:
    count, units = books.in_lago(charge_id)
    whole = alone and _whole(plan.window, usage, kind)
    return LagoUsage(
        charge_id=charge_id,
        period=kind,
        period_from=usage.from_datetime.astimezone(UTC),
        period_to=usage.to_datetime.astimezone(UTC),
        events_units=units if whole else None,
        events_count=count if whole else None,
        lago_units=add(charge.units for charge in usage.charges),
        lago_events_count=sum(charge.events_count for charge in usage.charges),
        amount_cents=sum(charge.amount_cents for charge in usage.charges),
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


def _day(number: int) -> date:
    return date(1970, 1, 1) + timedelta(days=number)

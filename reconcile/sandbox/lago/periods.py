"""Billing periods: months, weeks, quarters and years of the calendar, in UTC. Pure.

Customers' time zones are not looked at, as in a Lago without a licence, and neither is anniversary billing.
Times are UTC without a zone; both ends of a period are inside.
"""

from __future__ import annotations

from datetime import datetime, timedelta

Period = tuple[datetime, datetime]

MONTHS = {"monthly": 1, "quarterly": 3, "semiannual": 6, "yearly": 12}
MICROSECOND = timedelta(microseconds=1)


def calendar_period(interval: str, moment: datetime) -> Period:
    """The period of a plan's interval that holds this moment."""
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    if interval == "weekly":
        start = midnight - timedelta(days=midnight.weekday())
        return start, start + timedelta(days=7) - MICROSECOND
    months = MONTHS.get(interval, 1)
    start = midnight.replace(day=1, month=(midnight.month - 1) // months * months + 1)
    after = start.month + months
    end = start.replace(year=start.year + 1, month=after - 12) if after > 12 else start.replace(month=after)
    return start, end - MICROSECOND


def charged_period(
    interval: str,
    moment: datetime,
    started_at: datetime,
    terminated_at: datetime | None,
    given: tuple[datetime | None, datetime | None] = (None, None),
) -> Period:
    """The period that holds this moment, within the subscription's life. `given` replaces the calendar's ends."""
    start, end = calendar_period(interval, moment)
    start, end = given[0] or start, given[1] or end
    return max(start, started_at), end if terminated_at is None else min(end, terminated_at)


def current_period(
    interval: str,
    now: datetime,
    started_at: datetime | None,
    terminated_at: datetime | None,
    given: tuple[datetime | None, datetime | None],
) -> Period | None:
    """The billing period that Lago shows: the one under way, or of an ended subscription its last one."""
    if started_at is None:
        return None
    return charged_period(interval, now if terminated_at is None else terminated_at, started_at, terminated_at, given)

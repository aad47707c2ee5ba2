"""Dates, times of day and zones: what a written date means, and which day an instant belongs to. Pure.

A day in a zone lasts from its first existing instant to the next day's. So each instant is in exactly one
day, also where a clock change skips midnight (America/Santiago), repeats it (America/Havana), goes back over
it (America/St_Johns until 2011) or skips a whole day (Pacific/Apia, 30 December 2011).
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

DAY = timedelta(days=1)
YEARS = range(1970, 2200)

_DATE = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})")
_DATE_TIME = re.compile(
    rf"(?P<date>{_DATE.pattern})[T ]"
    r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2})(:(?P<second>[0-9]{2})([.,](?P<fraction>[0-9]+))?)?"
    r"(?P<offset>Z|(?P<sign>[+-])(?P<hours>[0-9]{2})(:?(?P<minutes>[0-9]{2}))?)?",
    re.IGNORECASE,
)
_FORMS = "write a date such as 2026-11-20 or a date-time such as 2026-11-20T14:30:00Z"


def instant(moment: datetime) -> str:
    """ISO 8601 in UTC with `Z`; milliseconds where they are not zero."""
    moment = moment.astimezone(UTC)
    timespec = "milliseconds" if moment.microsecond else "seconds"
    return moment.isoformat(timespec=timespec).replace("+00:00", "Z")


def parse(text: str, zone: tzinfo, *, next_day: bool = False) -> datetime:
    """The instant that a date or date-time means, in UTC.

    A plain date means its first instant in `zone`, or with `next_day` the next day's; a date-time (ISO 8601, to the
    millisecond, in `zone` where it has no offset) is exact. Raises ValueError for anything else, for a local time that
    a clock change skips or repeats, and for a day that it skips.
    """
    text = text.strip()
    if _DATE.fullmatch(text):
        day = _date(text, text)
        if day_start(day, zone) == day_start(day + DAY, zone):
            raise ValueError(f"{text}: there was no such day in {zone}, its clocks skipped it")
        return day_start(day + DAY if next_day else day, zone)
    if found := _DATE_TIME.fullmatch(text):
        return _instant(text, found, zone)
    raise ValueError(f"{text[:60]!r} is neither a date nor a date-time; {_FORMS}")


def day_start(day: date, zone: tzinfo) -> datetime:
    """The first existing instant of `day` in `zone`, or of the next day where a clock change skips `day`."""
    midnight = datetime.combine(day, time())
    existing = _instants(midnight, zone)
    return existing[0] if existing else _gap_end(midnight, zone)


def local_day(instant: datetime, zone: tzinfo) -> date:
    """The day in `zone` whose window holds the (aware) instant.

    It is the date on the wall clock, but for the minutes before a midnight that a clock change brings back.
    """
    assert instant.tzinfo, f"{instant} has no time zone"
    day = instant.astimezone(zone).date()
    return day + DAY if day_start(day + DAY, zone) <= instant else day


def local_days(times: pd.Series | pd.DatetimeIndex, zone: tzinfo) -> pd.DatetimeIndex:
    """`local_day` of many instants (aware, no NaT), in their order: naive midnights as `datetime64[s]`."""
    import numpy as np
    import pandas as pd

    instants = pd.DatetimeIndex(times)
    if instants.empty:
        return pd.DatetimeIndex([], dtype="datetime64[s]")
    first, last = (
        local_day(instants.min().to_pydatetime(), zone),
        local_day(instants.max().to_pydatetime(), zone),
    )
    days = [first + i * DAY for i in range((last - first).days + 1)]
    # A skipped day starts where its successor does: searching from the right never finds it.
    starts = np.array([day_start(day, zone).replace(tzinfo=None) for day in days], dtype="datetime64[ms]")
    found = np.searchsorted(starts, instants.tz_convert(None).to_numpy(), side="right") - 1
    return pd.DatetimeIndex(np.array(days, dtype="datetime64[s]")[found])


def _instants(local: datetime, zone: tzinfo) -> list[datetime]:
    """The instants that a naive local time names: one, two where it is repeated, none where it is skipped."""
    readings = {local.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1)}
    return sorted(i for i in readings if i.astimezone(zone).replace(tzinfo=None, fold=0) == local)


def _gap_end(local: datetime, zone: tzinfo) -> datetime:
    """The first instant after the clock change that skips the naive local time."""
    # The two readings of a skipped time lie on either side of the change; changes fall on whole seconds.
    before = local.replace(tzinfo=zone, fold=1).astimezone(UTC)
    after = local.replace(tzinfo=zone, fold=0).astimezone(UTC)
    while after - before > timedelta(seconds=1):
        middle = before + (after - before) // timedelta(seconds=2) * timedelta(seconds=1)
        if middle.astimezone(zone).replace(tzinfo=None) < local:
            before = middle
        else:
            after = middle
    return after


def _date(text: str, digits: str) -> date:
    try:
        day = date.fromisoformat(digits)
    except ValueError:
        raise ValueError(f"{text}: there is no such date; {_FORMS}") from None
    if day.year not in YEARS:
        raise ValueError(f"{text}: the year lies outside {YEARS[0]} to {YEARS[-1]}")
    return day


def _instant(text: str, found: re.Match[str], zone: tzinfo) -> datetime:
    day = _date(text, found["date"])
    hour, minute, second = (int(found[name] or 0) for name in ("hour", "minute", "second"))
    if hour == 24:
        raise ValueError(f"{text}: hours go from 00 to 23; for midnight write 00:00 of the next day")
    fraction = (found["fraction"] or "").rstrip("0")
    if len(fraction) > 3:
        raise ValueError(f"{text}: usage times have milliseconds; write at most three decimals")
    try:
        local = datetime.combine(day, time(hour, minute, second, int(fraction.ljust(3, "0")) * 1000))
        offset = _offset(found)
    except ValueError:
        raise ValueError(f"{text}: there is no such time; {_FORMS}") from None
    if offset is not None:
        return local.replace(tzinfo=offset).astimezone(UTC)
    instants = _instants(local, zone)
    if len(instants) == 1:
        return instants[0]
    happens = "occurs twice" if instants else "does not exist"
    readings = [local.replace(tzinfo=zone, fold=fold) for fold in (0, 1)]
    offered = " or ".join(f"{reading.isoformat()} ({instant(reading)})" for reading in readings)
    raise ValueError(f"{text} {happens} in {zone}, where the clocks change; write {offered}")


def _offset(found: re.Match[str]) -> tzinfo | None:
    if found["offset"] is None:
        return None
    if found["sign"] is None:
        return UTC
    hours, minutes = int(found["hours"]), int(found["minutes"] or 0)
    if minutes > 59:
        raise ValueError("minutes of an offset go to 59")
    offset = timedelta(hours=hours, minutes=minutes)
    return timezone(-offset if found["sign"] == "-" else offset)

"""Dates, zones, windows and slices. Pure: `now` comes in as a value, and nothing here reads a clock.

Every instant is UTC with millisecond precision, like LiteLLM's `timestamp(3)` columns and Lago's timestamps.

A day in a zone lasts from its first existing instant to the next day's. So each instant is in exactly one
day, also where a clock change skips midnight (America/Santiago), repeats it (America/Havana), goes back over
it (America/St_Johns until 2011) or skips a whole day (Pacific/Apia, 30 December 2011).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from itertools import pairwise
from typing import Literal

import numpy as np
import pandas as pd

from reconcile.domain.document import instant as utc_text
from reconcile.errors import UsageError

RelativeName = Literal["yesterday", "last-week", "last-month", "this-month"]

_DAY = timedelta(days=1)
_HOUR = timedelta(hours=1)
_MILLISECOND = timedelta(milliseconds=1)
_YEARS = range(1970, 2200)

_DATE = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})")
_DATE_TIME = re.compile(
    rf"(?P<date>{_DATE.pattern})[T ]"
    r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2})(:(?P<second>[0-9]{2})([.,](?P<fraction>[0-9]+))?)?"
    r"(?P<offset>Z|(?P<sign>[+-])(?P<hours>[0-9]{2})(:?(?P<minutes>[0-9]{2}))?)?",
    re.IGNORECASE,
)
_FORMS = "write a date such as 2026-11-20 or a date-time such as 2026-11-20T14:30:00Z"


@dataclass(frozen=True, slots=True)
class Window:
    """The half-open interval `[start, end)` of UTC instants in whole milliseconds.

    Raises UsageError where it would be empty.
    """

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            moment: datetime = getattr(self, name)
            assert moment.tzinfo, f"{moment} has no time zone"
            assert moment.microsecond % 1000 == 0, f"{moment} is finer than a millisecond"
            object.__setattr__(self, name, moment.astimezone(UTC))
        if not self.start < self.end:
            raise UsageError(f"the range is empty: {utc_text(self.start)} does not lie before {utc_text(self.end)}")

    @property
    def length(self) -> timedelta:
        return self.end - self.start

    def __str__(self) -> str:
        return f"[{utc_text(self.start)}, {utc_text(self.end)})"


def parse_range(from_text: str, to_text: str, zone: tzinfo) -> Window:
    """The window that `--from` and `--to` mean.

    A plain date means that whole day in `zone`, at either end; a date-time (ISO 8601, to the millisecond, in
    `zone` where it has no offset) is an exact instant. Raises UsageError for anything else, for a local time
    that a clock change skips or repeats, for a day that it skips, and for an empty range.
    """
    start, end = (
        _parse("--from", from_text, zone, next_day=False),
        _parse("--to", to_text, zone, next_day=True),
    )
    if not start < end:
        raise UsageError(
            f"the range is empty: --from {from_text} begins at {utc_text(start)}, "
            f"and --to {to_text} ends at {utc_text(end)}"
        )
    return Window(start, end)


def lookback_window(now: datetime, lag: timedelta, lookback: timedelta) -> Window:
    """`[now - lag - lookback, now - lag)`, down to the whole millisecond. `now` is aware."""
    end = _floor(now - lag, _MILLISECOND)
    return Window(end - lookback, end)


def relative_window(name: RelativeName, now: datetime, zone: tzinfo) -> Window:
    """The whole days in `zone` that `name` means on the day of `now`. `now` is aware.

    `last-week` is the week before this one, Monday to Sunday; `this-month` ends with yesterday. Raises
    UsageError where no day is meant: `this-month` on the first.
    """
    today = local_day(now, zone)
    this_month = today.replace(day=1)
    monday = today - today.weekday() * _DAY
    first, after = {
        "yesterday": (today - _DAY, today),
        "last-week": (monday - 7 * _DAY, monday),
        "last-month": ((this_month - _DAY).replace(day=1), this_month),
        "this-month": (this_month, today),
    }[name]
    start, end = day_start(first, zone), day_start(after, zone)
    if not start < end:
        raise UsageError(f"{name} holds no day on {today} in {zone}")
    return Window(start, end)


def slices(window: Window, length: timedelta) -> list[Window]:
    """Cut the window from its start into windows of `length`; the last one may be shorter."""
    assert length > timedelta(), f"a slice of {length} has no length"
    count = -(-window.length // length)
    edges = [window.start + i * length for i in range(count)] + [window.end]
    return [Window(start, end) for start, end in pairwise(edges)]


def widen(window: Window, before: timedelta, after: timedelta) -> Window:
    """The window with a halo: `before` earlier at its start, `after` later at its end."""
    return Window(window.start - before, window.end + after)


def hours(window: Window) -> list[datetime]:
    """The hours of UTC that the window touches, each by its first instant."""
    first = _floor(window.start, _HOUR)
    return [first + i * _HOUR for i in range(-(-(window.end - first) // _HOUR))]


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
    return day + _DAY if day_start(day + _DAY, zone) <= instant else day


def local_days(times: pd.Series | pd.DatetimeIndex, zone: tzinfo) -> pd.DatetimeIndex:
    """`local_day` of many instants (aware, no NaT), in their order: naive midnights as `datetime64[s]`."""
    instants = pd.DatetimeIndex(times)
    if instants.empty:
        return pd.DatetimeIndex([], dtype="datetime64[s]")
    first, last = (
        local_day(instants.min().to_pydatetime(), zone),
        local_day(instants.max().to_pydatetime(), zone),
    )
    days = [first + i * _DAY for i in range((last - first).days + 1)]
    # A skipped day starts where its successor does: searching from the right never finds it.
    starts = np.array([day_start(day, zone).replace(tzinfo=None) for day in days], dtype="datetime64[ms]")
    found = np.searchsorted(starts, instants.tz_convert(None).to_numpy(), side="right") - 1
    return pd.DatetimeIndex(np.array(days, dtype="datetime64[s]")[found])


def _floor(moment: datetime, unit: timedelta) -> datetime:
    return moment - (moment - datetime(1970, 1, 1, tzinfo=UTC)) % unit


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


def _parse(option: str, text: str, zone: tzinfo, *, next_day: bool) -> datetime:
    """The instant that the option's text means; for a date, the day's start or the next day's."""
    text = text.strip()
    if _DATE.fullmatch(text):
        day = _date(option, text, text)
        if day_start(day, zone) == day_start(day + _DAY, zone):
            raise UsageError(f"{option} {text}: there was no such day in {zone}, its clocks skipped it")
        return day_start(day + _DAY if next_day else day, zone)
    if found := _DATE_TIME.fullmatch(text):
        return _instant(option, text, found, zone)
    raise UsageError(f"{option} {text[:60]!r} is neither a date nor a date-time; {_FORMS}")


def _date(option: str, text: str, digits: str) -> date:
    try:
        day = date.fromisoformat(digits)
    except ValueError:
        raise UsageError(f"{option} {text}: there is no such date; {_FORMS}") from None
    if day.year not in _YEARS:
        raise UsageError(f"{option} {text}: the year lies outside {_YEARS[0]} to {_YEARS[-1]}")
    return day


def _instant(option: str, text: str, found: re.Match[str], zone: tzinfo) -> datetime:
    day = _date(option, text, found["date"])
    hour, minute, second = (int(found[name] or 0) for name in ("hour", "minute", "second"))
    if hour == 24:
        raise UsageError(f"{option} {text}: hours go from 00 to 23; for midnight write 00:00 of the next day")
    fraction = (found["fraction"] or "").rstrip("0")
    if len(fraction) > 3:
        raise UsageError(f"{option} {text}: usage times have milliseconds; write at most three decimals")
    try:
        local = datetime.combine(day, time(hour, minute, second, int(fraction.ljust(3, "0")) * 1000))
        offset = _offset(found)
    except ValueError:
        raise UsageError(f"{option} {text}: there is no such time; {_FORMS}") from None
    if offset is not None:
        return local.replace(tzinfo=offset).astimezone(UTC)
    instants = _instants(local, zone)
    if len(instants) == 1:
        return instants[0]
    happens = "occurs twice" if instants else "does not exist"
    readings = [local.replace(tzinfo=zone, fold=fold) for fold in (0, 1)]
    offered = " or ".join(f"{reading.isoformat()} ({utc_text(reading)})" for reading in readings)
    raise UsageError(f"{option} {text} {happens} in {zone}, where the clocks change; write {offered}")


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

"""Windows. Pure: `now` comes in as a value, and nothing here reads a clock.

Every instant is UTC with millisecond precision, like LiteLLM's `timestamp(3)` columns and Lago's timestamps.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Literal

from reconcile.domain import dates
from reconcile.domain.dates import DAY, day_start, instant, local_day
from reconcile.errors import UsageError

RelativeName = Literal["yesterday", "last-week", "last-month", "this-month"]

_MONTH = re.compile(r"([0-9]{4})-([0-9]{2})")
_MILLISECOND = timedelta(milliseconds=1)


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
            raise UsageError(f"the range is empty: {instant(self.start)} does not lie before {instant(self.end)}")

    @property
    def length(self) -> timedelta:
        return self.end - self.start

    def __str__(self) -> str:
        return f"[{instant(self.start)}, {instant(self.end)})"


def parse_range(from_text: str, to_text: str, zone: tzinfo) -> Window:
    """The window that `--from` and `--to` mean.

    Each is a date or a date-time as `dates.parse` reads it; a plain date means that whole day, at either end. Raises
    UsageError for anything else, and for an empty range.
    """
    start = _edge("--from", from_text, zone, next_day=False)
    end = _edge("--to", to_text, zone, next_day=True)
    if not start < end:
        raise UsageError(
            f"the range is empty: --from {from_text} begins at {instant(start)}, "
            f"and --to {to_text} ends at {instant(end)}"
        )
    return Window(start, end)


def month_window(text: str, zone: tzinfo) -> Window:
    """The whole month of `--month` in `zone`, as in `2026-10`. Raises UsageError for anything else."""
    found = _MONTH.fullmatch(text.strip())
    try:
        first = date(int(found[1]), int(found[2]), 1) if found else None
    except ValueError:
        first = None
    if first is None or first.year not in dates.YEARS:
        raise UsageError(f"--month {text[:60]!r} is no month; write one such as 2026-10")
    following = (first + 31 * DAY).replace(day=1)
    return Window(day_start(first, zone), day_start(following, zone))


def _edge(option: str, text: str, zone: tzinfo, *, next_day: bool) -> datetime:
    try:
        return dates.parse(text, zone, next_day=next_day)
    except ValueError as error:
        raise UsageError(f"{option} {error}") from None


def cut(window: Window, now: datetime, lag: timedelta) -> tuple[Window, datetime | None]:
    """The part of the window that lies before `now - lag`, and the end that was asked for where that is later.

    Rows younger than the lag may still be on their way, and so may their events. Raises UsageError where nothing of the
    window is older. `now` is aware.
    """
    end = _whole_millisecond(now - lag)
    if window.end <= end:
        return window, None
    if window.start >= end:
        raise UsageError(
            f"the range begins at {instant(window.start)}, and nothing after {instant(end)} is looked at yet: "
            "RECONCILE_LAG; ask again later"
        )
    return Window(window.start, end), window.end


def lookback_window(now: datetime, lag: timedelta, lookback: timedelta) -> Window:
    """`[now - lag - lookback, now - lag)`, down to the whole millisecond. `now` is aware."""
    end = _whole_millisecond(now - lag)
    return Window(end - lookback, end)


def relative_window(name: RelativeName, now: datetime, zone: tzinfo) -> Window:
    """The whole days in `zone` that `name` means on the day of `now`. `now` is aware.

    `last-week` is the week before this one, Monday to Sunday; `this-month` ends with yesterday. Raises
    UsageError where no day is meant: `this-month` on the first.
    """
    today = local_day(now, zone)
    this_month = today.replace(day=1)
    monday = today - today.weekday() * DAY
    first, after = {
        "yesterday": (today - DAY, today),
        "last-week": (monday - 7 * DAY, monday),
        "last-month": ((this_month - DAY).replace(day=1), this_month),
        "this-month": (this_month, today),
    }[name]
    start, end = day_start(first, zone), day_start(after, zone)
    if not start < end:
        raise UsageError(f"{name} holds no day on {today} in {zone}")
    return Window(start, end)


def _whole_millisecond(moment: datetime) -> datetime:
    return moment - (moment - datetime(1970, 1, 1, tzinfo=UTC)) % _MILLISECOND

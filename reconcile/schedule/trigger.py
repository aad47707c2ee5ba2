"""When a cron line fires: APScheduler's cron trigger with cron's own meaning of weekdays and of clock changes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from apscheduler.triggers.cron import CronTrigger

_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_DAY = re.compile(r"(?:(\*)|([a-z0-9]+)(?:-([a-z0-9]+))?)(?:/([0-9]{1,2}))?")
_INSTANT = timedelta(microseconds=1)


class CronLine(CronTrigger):  # type: ignore[misc]  # APScheduler 3.11 ships no types
    """A line of five fields (minute, hour, day, month, weekday) in a time zone, read as cron reads it.

    Weekdays are numbered from Sunday = 0 (APScheduler: Monday = 0). A line with a day and a weekday is refused: cron
    means "either", APScheduler "both". A time that a clock change skips fires once, as much later as the clocks jump;
    one that it repeats fires once, the first time, unless the line's hour is `*`: then every real hour counts.

    Raises ValueError where the line cannot be read or never fires.
    """

    def __init__(self, line: str, zone: ZoneInfo) -> None:
        fields = line.split()
        if len(fields) != 5:
            raise ValueError(f"has {len(fields)} fields; a cron line has five: minute hour day month weekday")
        minute, hour, day, month, weekday = fields
        if day != "*" and weekday != "*":
            raise ValueError("names a day and a weekday; write two jobs, one for each")
        super().__init__(minute=minute, hour=hour, day=day, month=month, day_of_week=_weekdays(weekday), timezone=zone)
        self._every_hour = hour.startswith("*")
        if super().get_next_fire_time(None, datetime(2024, 1, 1, tzinfo=UTC)) is None:
            raise ValueError("never fires")

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        """The next firing after the previous one, or at or after `now` where there is none; in the line's zone."""
        # In UTC throughout: wall-clock arithmetic forgets which of two equal readings a time is.
        start = now.astimezone(UTC)
        if previous_fire_time is not None:
            start = min(start, previous_fire_time.astimezone(UTC) + _INSTANT)
        found = self._at_or_after(start)
        while found is not None and not self._every_hour and _is_repeated(found):
            found = self._at_or_after(found.astimezone(UTC) + _INSTANT)
        return found

    def _at_or_after(self, start: datetime) -> datetime | None:
        found: datetime | None = super().get_next_fire_time(None, start)
        return None if found is None else found.astimezone(UTC).astimezone(self.timezone)


def _is_repeated(moment: datetime) -> bool:
    """Whether the clock on the wall has shown this time before."""
    return moment.fold == 1


def _weekdays(field: str) -> str:
    """Cron's weekdays by name, one by one: APScheduler counts them from Monday, and so do its ranges."""
    if field == "*":
        return field
    return ",".join(name for part in field.lower().split(",") for name in _weekday_names(part))


def _weekday_names(part: str) -> list[str]:
    found = _DAY.fullmatch(part)
    if not found:
        raise ValueError(f"has a weekday that cannot be read: {part!r}; write 0 to 7 or mon to sun")
    every, first, last, step = found.groups()
    start = 0 if every else _weekday(first)
    end = 6 if every else _weekday(last) if last else start if not step else 6
    if last == "7" or (last == "sun" and start > 0):
        end = 7
    if start > end or step == "0":
        raise ValueError(f"has a weekday range that is empty: {part!r}")
    return [_DAYS[number % 7] for number in range(start, end + 1, int(step or 1))]


def _weekday(text: str) -> int:
    if text in _DAYS:
        return _DAYS.index(text)
    if text.isdigit() and int(text) <= 7:
        return int(text) % 7
    raise ValueError(f"has a weekday that cannot be read: {text!r}; write 0 to 7 or mon to sun")


def firings(line: CronLine, after: datetime) -> Iterator[datetime]:
    """The firings of a line after an instant, in order, in its zone."""
    moment = line.get_next_fire_time(None, after.astimezone(UTC) + _INSTANT)
    while moment is not None:
        yield moment
        moment = line.get_next_fire_time(None, moment.astimezone(UTC) + _INSTANT)

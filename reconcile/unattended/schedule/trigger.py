"""When a cron line fires: APScheduler's cron fields with cron's own meaning of weekdays and of clock changes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.cron import CronTrigger

_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_DAY = re.compile(r"(?:(\*)|([a-z0-9]+)(?:-([a-z0-9]+))?)(?:/([0-9]{1,2}))?")
_INSTANT = timedelta(microseconds=1)
_LONGEST_CHANGE = timedelta(hours=3)


class CronLine(BaseTrigger):  # type: ignore[misc]  # APScheduler 3.11 ships no types
    """A line of five fields (minute, hour, day, month, weekday) in a time zone, read as cron reads it.

    Weekdays are numbered from Sunday = 0 (APScheduler: Monday = 0). A line with a day and a weekday is refused: cron
    means "either", APScheduler "both". A time that a clock change skips fires once, as much later as the clocks jump;
    one that it repeats fires once, the first time. Where the hour is `*`, every real hour counts.

    Raises ValueError where the line cannot be read or never fires.
    """

    def __init__(self, line: str, zone: ZoneInfo) -> None:
        fields = line.split()
        if len(fields) != 5:
            raise ValueError(f"has {len(fields)} fields; a cron line has five: minute hour day month weekday")
        minute, hour, day, month, weekday = fields
        if day != "*" and weekday != "*":
            raise ValueError("names a day and a weekday; write two jobs, one for each")
        # On a clock that never changes: in a zone, APScheduler 3.11 misses a firing on some days after a change.
        self._wall = CronTrigger(
            minute=minute, hour=hour, day=day, month=month, day_of_week=_weekdays(weekday), timezone=UTC
        )
        self._zone, self._every_hour = zone, hour == "*"
        if self._next_on_wall(datetime(2024, 1, 1, tzinfo=UTC)) is None:
            raise ValueError("never fires")

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        """The next firing after the previous one, or at or after `now` where there is none; in the line's zone."""
        # In UTC throughout: wall-clock arithmetic forgets which of two equal readings a time is.
        start = now.astimezone(UTC)
        if previous_fire_time is not None:
            start = min(start, previous_fire_time.astimezone(UTC) + _INSTANT)
        found = self._by_real_hours(start) if self._every_hour else self._by_the_wall(start)
        return None if found is None else found.astimezone(self._zone)

    def _next_on_wall(self, wall: datetime) -> datetime | None:
        """The next firing at or after a reading of the wall clock; both are written as if in UTC."""
        found: datetime | None = self._wall.get_next_fire_time(None, wall)
        return found

    def _by_the_wall(self, start: datetime) -> datetime | None:
        """The earliest instant of all readings; one that was skipped may come after a later one."""
        best: datetime | None = None
        wall = self._next_on_wall(start.astimezone(self._zone).replace(tzinfo=UTC) - _LONGEST_CHANGE)
        while wall is not None:
            if best is not None and wall - _LONGEST_CHANGE > best.astimezone(self._zone).replace(tzinfo=UTC):
                break
            instant = wall.replace(tzinfo=self._zone, fold=0).astimezone(UTC)
            if instant >= start and (best is None or instant < best):
                best = instant
            wall = self._next_on_wall(wall + _INSTANT)
        return best

    def _by_real_hours(self, start: datetime) -> datetime | None:
        """The next reading, from one clock change to the next."""
        while True:
            offset = self._offset(start)
            wall = self._next_on_wall(start + offset)
            if wall is None or self._offset(wall - offset) == offset:
                return None if wall is None else wall - offset
            before, start = start, wall - offset
            while start - before > _INSTANT:
                middle = before + (start - before) // 2
                before, start = (middle, start) if self._offset(middle) == offset else (before, middle)

    def _offset(self, instant: datetime) -> timedelta:
        offset = instant.astimezone(self._zone).utcoffset()
        assert offset is not None
        return offset


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

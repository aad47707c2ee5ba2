"""What a job has to do now, by what it did: missed firings become one order over all of their time. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from reconcile.domain.dates import DAY
from reconcile.domain.window import Window, cut, lookback_window, relative_window
from reconcile.errors import UsageError
from reconcile.run.job import Order
from reconcile.unattended.schedule.cron_file import CronJob
from reconcile.unattended.schedule.memory import Remembered
from reconcile.unattended.schedule.trigger import CronLine, firings


@dataclass(frozen=True, slots=True)
class Due:
    """`order` settles `missed` + 1 firings, up to `fired_to`. It is None where no day is meant by any of them."""

    order: Order | None
    fired_to: datetime
    missed: int


def due(
    job: CronJob, known: Remembered, now: datetime, *, zone: ZoneInfo, lag: timedelta, lookback: timedelta
) -> Due | None:
    """What is due; None where no firing since the last settled one has come.

    `run` covers its lookback, and all since the last finished run ended where that is longer ago. The others cover the
    whole days of every firing, from the first day of the earliest to the last day of the latest. Raises UsageError
    where all of that is younger than `lag`.
    """
    known = _believed(known, now)
    fired = []
    for moment in firings(CronLine(job.cron, zone), known.fired_to):
        if moment > now:
            break
        fired.append(moment)
    if not fired:
        return None
    asked = _lookback(known, fired[0], now, lag, lookback) if job.window is None else _days(job, fired, zone)
    if asked is None:
        return Due(None, fired[-1], len(fired) - 1)
    window, asked_to = cut(asked, now, lag)
    return Due(Order(job.command, window, job.dry_run, asked_to=asked_to), fired[-1], len(fired) - 1)


def _believed(known: Remembered, now: datetime) -> Remembered:
    """What is remembered, but no time that has not come: it was written by a clock gone wrong.

    A day's firings are then done again: once too often is harmless, and silence until that time comes is not.
    """
    fired_to = known.fired_to if known.fired_to <= now else now - DAY
    window_to = known.window_to if known.window_to is not None and known.window_to <= now else None
    return Remembered(fired_to, window_to)


def _lookback(known: Remembered, first: datetime, now: datetime, lag: timedelta, lookback: timedelta) -> Window:
    """From where the last finished run ended, or else from where the first firing would have begun."""
    window = lookback_window(now, lag, lookback)
    return Window(min(window.start, known.window_to or lookback_window(first, lag, lookback).start), window.end)


def _days(job: CronJob, fired: list[datetime], zone: ZoneInfo) -> Window | None:
    assert job.window is not None
    windows = []
    for moment in fired:
        try:
            windows.append(relative_window(job.window, moment, zone))
        except UsageError:  # this-month, on the first of a month
            continue
    if not windows:
        return None
    return Window(min(window.start for window in windows), max(window.end for window in windows))

"""What is due: nothing, one firing, or several as one order."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from reconcile.domain.dates import instant
from reconcile.unattended.schedule.cron_file import CronJob
from reconcile.unattended.schedule.due import Due, due
from reconcile.unattended.schedule.memory import Remembered


def ask(now: str, fired_to: str, window_to: str | None = None, zone: str = "UTC", **job: Any) -> Due | None:
    known = Remembered(
        datetime.fromisoformat(fired_to), None if window_to is None else datetime.fromisoformat(window_to)
    )
    return due(
        CronJob.model_validate({"cron": "0 2 * * *", "command": "run", **job}),
        known,
        datetime.fromisoformat(now),
        zone=ZoneInfo(zone),
        lag=timedelta(minutes=15),
        lookback=timedelta(hours=72),
    )


def window(found: Due | None) -> tuple[str, str]:
    assert found is not None
    assert found.order is not None
    return instant(found.order.window.start), instant(found.order.window.end)


def test_nothing_before_the_firing_and_after_it_is_settled() -> None:
    assert ask("2026-11-20T01:59:59Z", "2026-11-19T02:00Z") is None
    assert ask("2026-11-20T23:00Z", "2026-11-20T02:00Z") is None


def test_one_firing_is_the_plain_run() -> None:
    found = ask("2026-11-20T02:00Z", "2026-11-19T02:00Z", "2026-11-19T01:45Z")
    assert window(found) == ("2026-11-17T01:45:00Z", "2026-11-20T01:45:00Z")
    assert found is not None
    assert found.order is not None
    assert (found.order.command, found.order.dry_run, found.missed) == ("run", False, 0)
    assert found.fired_to == datetime.fromisoformat("2026-11-20T02:00Z")


@pytest.mark.parametrize(
    ("window_to", "start"),
    [
        ("2026-11-10T01:45Z", "2026-11-10T01:45:00Z"),  # a gap longer than the lookback
        ("2026-11-19T01:45Z", "2026-11-17T08:45:00Z"),  # a shorter one
        (None, "2026-11-08T01:45:00Z"),  # never: as the first of the missed runs would have
    ],
)
def test_a_late_run_begins_where_the_last_one_ended_and_never_later_than_its_lookback(
    window_to: str | None, start: str
) -> None:
    found = ask("2026-11-20T09:00Z", "2026-11-10T02:00Z", window_to)
    assert window(found) == (start, "2026-11-20T08:45:00Z")
    assert found is not None
    assert found.missed == 9


def test_missed_days_are_one_window() -> None:
    found = ask("2026-11-20T09:00Z", "2026-11-17T02:00Z", command="backfill", window="yesterday", zone="Asia/Shanghai")
    # Firings at 02:00 in Shanghai on the 18th, 19th and 20th.
    assert window(found) == ("2026-11-16T16:00:00Z", "2026-11-19T16:00:00Z")
    assert found is not None
    assert found.missed == 2


def test_missed_months_are_one_window() -> None:
    found = ask("2026-11-20T09:00Z", "2026-09-02T00:00Z", cron="0 4 1 * *", command="report", window="last-month")
    assert window(found) == ("2026-09-01T00:00:00Z", "2026-11-01T00:00:00Z")


def test_a_firing_that_means_no_day_is_settled_without_a_run() -> None:
    job = {"command": "report", "window": "this-month"}
    found = ask("2026-11-01T09:00Z", "2026-10-31T02:00Z", **job)
    assert found == Due(None, datetime.fromisoformat("2026-11-01T02:00Z"), 0)
    assert window(ask("2026-11-01T09:00Z", "2026-10-29T02:00Z", **job)) == (
        "2026-10-01T00:00:00Z",
        "2026-10-31T00:00:00Z",
    )


def test_a_dry_run_stays_one() -> None:
    found = ask("2026-11-20T02:00Z", "2026-11-19T02:00Z", **{"dry-run": True})
    assert found is not None
    assert found.order is not None
    assert not found.order.sends


@pytest.mark.parametrize("command", [{}, {"command": "backfill", "window": "yesterday"}])
def test_a_remembered_time_that_has_not_come_is_not_believed(command: dict[str, str]) -> None:
    """The clock was in 2027 once. The job goes on, with what the last day missed."""
    found = ask("2026-11-20T09:00Z", "2027-11-20T02:00Z", "2027-11-20T01:45Z", **command)
    assert found is not None
    assert found.fired_to == datetime.fromisoformat("2026-11-20T02:00Z")
    assert window(found)[0] == ("2026-11-17T01:45:00Z" if not command else "2026-11-19T00:00:00Z")
    assert window(found)[1] == ("2026-11-20T08:45:00Z" if not command else "2026-11-20T00:00:00Z")
    assert found.missed == 0


def test_no_job_looks_at_what_is_too_young() -> None:
    job = {"command": "backfill", "window": "yesterday", "cron": "5 0 * * *"}
    found = ask("2026-11-20T00:05Z", "2026-11-19T00:05Z", **job)
    assert window(found) == ("2026-11-19T00:00:00Z", "2026-11-19T23:50:00Z")
    assert found is not None
    assert found.order is not None
    assert found.order.asked_to == datetime.fromisoformat("2026-11-20T00:00Z")
    later = ask("2026-11-20T00:15Z", "2026-11-19T00:05Z", **job)
    assert window(later) == ("2026-11-19T00:00:00Z", "2026-11-20T00:00:00Z")
    assert later is not None
    assert later.order is not None
    assert later.order.asked_to is None

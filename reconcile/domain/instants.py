"""Instants as whole milliseconds since 1970 UTC, and back. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

EPOCH = datetime.fromtimestamp(0, UTC)
HOUR = timedelta(hours=1)
HOUR_MS = 3_600_000
DAY_MS = 86_400_000


def milliseconds(moment: datetime) -> int:
    """Whole milliseconds since 1970 UTC, cut."""
    return (moment - EPOCH) // timedelta(milliseconds=1)


def as_ms(length: timedelta) -> int:
    """A length of time in whole milliseconds, cut."""
    return length // timedelta(milliseconds=1)


def moment(ms: int) -> datetime:
    """The UTC instant of milliseconds since 1970."""
    return EPOCH + timedelta(milliseconds=ms)

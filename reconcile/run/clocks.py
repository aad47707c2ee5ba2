"""Whether two clocks tell the same time, near enough for billing. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

APART = timedelta(seconds=60)


def too_far_apart(one: datetime, other: datetime) -> bool:
    """Whether two readings, taken at the same time, differ by more than a minute."""
    return abs(one - other) > APART

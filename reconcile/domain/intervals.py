"""Half-open intervals of time: joined, cut and taken away from one another. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from reconcile.domain.instants import EPOCH
from reconcile.domain.window import Window


def merged(windows: Iterable[Window]) -> list[Window]:
    """The same time in as few intervals as possible, in order: those that meet or overlap become one."""
    joined: list[Window] = []
    for window in sorted(windows, key=lambda one: (one.start, one.end)):
        if joined and window.start <= joined[-1].end:
            joined[-1] = Window(joined[-1].start, max(joined[-1].end, window.end))
        else:
            joined.append(window)
    return joined


def without(window: Window, taken: Sequence[Window]) -> list[Window]:
    """What is left of a window when other intervals are taken out of it, in order."""
    left, start = [], window.start
    for other in merged(taken):
        if other.end <= start or other.start >= window.end:
            continue
        if other.start > start:
            left.append(Window(start, other.start))
        start = other.end
    if start < window.end:
        left.append(Window(start, window.end))
    return left


def on_grid(window: Window, length: timedelta) -> list[Window]:
    """The window cut at multiples of `length` since 1970, so that later windows meet the same slices."""
    edge = EPOCH + ((window.start - EPOCH) // length + 1) * length
    slices, start = [], window.start
    while edge < window.end:
        slices.append(Window(start, edge))
        start, edge = edge, edge + length
    return [*slices, Window(start, window.end)]


def covers(windows: Sequence[Window], instant: datetime) -> bool:
    """Whether one of the intervals holds the instant."""
    return any(window.start <= instant < window.end for window in windows)

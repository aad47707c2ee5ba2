"""Makes a pairing the largest possible where an event may equal rows of different content. Pure.

Events without token counts, or under a row's other model name, can be equal to rows that are not equal to each other.
There, taking the most telling pairs first may strand one that another choice would have saved. Alternating paths from
each event without a row find every such case (Berge: a pairing without one is the largest).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence


def augment(
    events: Sequence[int],
    neighbours: Callable[[int], Sequence[int]],
    row_of: dict[int, int],
    event_of: dict[int, int],
) -> None:
    """Lengthens the pairing `row_of` (event → row) and its inverse `event_of` in place.

    `events` are those without a row, in the order in which they may claim one; `neighbours(event)` are the rows that
    it equals and reaches.
    """
    visited: set[int] = set()  # rows of searches that failed: no later search can succeed through them
    for event in events:
        came_from: dict[int, int] = {}  # row -> event from which it was reached
        queue = deque([event])
        free: int | None = None
        while queue and free is None:
            current = queue.popleft()
            for row in neighbours(current):
                if row in visited or row in came_from:
                    continue
                came_from[row] = current
                if row not in event_of:
                    free = row
                    break
                queue.append(event_of[row])
        if free is None:
            visited.update(came_from)
            continue
        _turn_over(free, came_from, row_of, event_of)


def _turn_over(row: int | None, came_from: dict[int, int], row_of: dict[int, int], event_of: dict[int, int]) -> None:
    """Pairs every row of the path with the event from which it was reached, back to the event without a row."""
    while row is not None:
        event = came_from[row]
        given_up = row_of.get(event)
        row_of[event], event_of[row] = row, event
        row = given_up

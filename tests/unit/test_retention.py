"""Events of deleted rows: set aside at most as many as rows were deleted, near them, and only of such content."""

from __future__ import annotations

from typing import Any

from reconcile.domain.instants import HOUR_MS
from reconcile.run.retention import Deleted

from .frames import NOON, event_verdicts

SLICE = NOON // HOUR_MS


def orphan(minutes: int = 0, **changes: Any) -> dict[str, Any]:
    return {"class": "orphan", "reason": "no_row", "time_ms": NOON + minutes * 60_000, **changes}


def explained(deleted: Deleted, *orphans: dict[str, Any], there: int = 0) -> list[bool]:
    """`there` rows of the usual content are left of every slice."""
    return deleted.explain(event_verdicts(*orphans), lambda _: {("team-a", "gpt"): there}).tolist()


def test_as_many_as_rows_were_deleted_and_no_more() -> None:
    deleted = Deleted({NOON: 2}, {}, HOUR_MS)
    assert explained(deleted, orphan(1), orphan(2), orphan(3)) == [True, True, False]
    assert explained(deleted, orphan(4)) == [False]  # whatever comes with the next part


def test_only_near_the_hours_that_shrank() -> None:
    assert explained(Deleted({NOON: 9}, {}, HOUR_MS), orphan(-1), orphan(59), orphan(119), orphan(120)) == [
        False,
        True,
        True,
        False,
    ]


def test_only_content_that_the_slice_held() -> None:
    known = {SLICE: {("team-a", "gpt"): 1}}
    found = explained(
        Deleted({NOON: 9}, known, HOUR_MS),
        orphan(1, charge_id="team-b"),
        orphan(2, model="llama"),
        orphan(3),
        orphan(4),
    )
    assert found == [False, False, True, False]


def test_nothing_deleted_explains_nothing() -> None:
    assert explained(Deleted({}, {}, HOUR_MS), orphan()) == [False]


def test_a_known_slice_tells_that_a_long_call_is_gone() -> None:
    """It began ten hours before its event: too far away to be near, but the slice holds one row less than it did."""
    known = {SLICE: {("team-a", "gpt"): 3}}
    began = NOON - 10 * HOUR_MS

    def deleted() -> Deleted:
        return Deleted({began: 5}, known, HOUR_MS, max_call_ms=24 * HOUR_MS)

    assert explained(deleted(), orphan(1), orphan(2), there=2) == [True, False]
    assert explained(deleted(), orphan(1), there=3) == [False]
    assert explained(Deleted({began: 5}, {}, HOUR_MS, max_call_ms=24 * HOUR_MS), orphan(1)) == [False]

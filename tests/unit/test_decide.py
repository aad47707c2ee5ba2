"""What becomes of missing rows: not due yet, in doubt, held, or to be sent."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from reconcile.classify import Reach
from reconcile.run.decide import Pending, decide, release, release_events

from .frames import NOON, event_verdicts, row_verdicts

HOUR = 3_600_000
REACH = Reach(before=HOUR, after=6 * HOUR)


def missing(*times: int, **values: Any) -> pd.DataFrame:
    """Missing rows of these usage times (ms after noon)."""
    return row_verdicts(
        *({"request_id": f"r{n}", "usage_ms": NOON + at, "class": "missing", **values} for n, at in enumerate(times))
    )


def orphans(*times: int, **values: Any) -> pd.DataFrame:
    return event_verdicts(
        *(
            {"transaction_id": f"e{n}", "time_ms": NOON + at, "class": "orphan", "reason": "no_row", **values}
            for n, at in enumerate(times)
        )
    )


@pytest.mark.parametrize(("until", "due"), [(6 * HOUR - 1, []), (6 * HOUR, ["r0"]), (7 * HOUR, ["r0", "r1"])])
def test_a_row_is_due_once_all_events_that_could_be_its_own_were_read(until: int, due: list[str]) -> None:
    pending = Pending(missing(0, HOUR))
    found = release(pending, NOON + until, REACH, is_beyond=False)
    assert found.rows["request_id"].tolist() == due
    assert len(found.pending.rows) == 2 - len(due)


def test_near_the_end_of_a_stretch_rows_are_due_together() -> None:
    """Hour by hour too few would be missing to be doubted."""
    pending = Pending(missing(*(n * HOUR // 4 for n in range(24))))
    assert release(pending, NOON + 9 * HOUR, REACH, is_beyond=True).rows.empty
    assert len(release(pending, NOON + 12 * HOUR, REACH, is_beyond=False).rows) == 24


def test_few_rows_in_each_of_many_hours_are_doubted_together() -> None:
    times = [n * HOUR // 10 for n in range(40)]
    found = decide(missing(*times), [""] * 40, Pending(events=orphans(*times, cost=0.2)), REACH)
    assert found.doubt is not None
    assert found.doubt.events == 40


def test_what_is_held_for_another_reason_claims_no_event_and_is_in_no_doubt() -> None:
    times = [n * 1_000 for n in range(20)]
    reasons = ["no_subscription"] * 10 + [""] * 10
    found = decide(missing(*times), reasons, Pending(events=orphans(*times)), REACH)
    assert found.doubt is None
    assert found.rows["reason"].tolist() == ["no_subscription"] * 10 + ["late_event"] * 10
    assert found.rows["class"].eq("held").all()
    explained, left = release_events(found.pending, NOON, REACH)
    assert explained["reason"].eq("late_event").all()
    assert (len(explained), len(left.events)) == (10, 10)


def test_an_event_waits_while_a_row_may_still_claim_it() -> None:
    pending = Pending(missing(HOUR), orphans(0, -1))
    explained, left = release_events(pending, NOON + 2 * HOUR, REACH)
    assert explained["transaction_id"].tolist() == ["e1"]
    assert left.events["transaction_id"].tolist() == ["e0"]

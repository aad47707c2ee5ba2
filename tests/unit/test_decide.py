"""What becomes of missing rows: not due yet, in doubt, held, or to be sent."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest

from reconcile.classify import Reach
from reconcile.domain.frames import joined
from reconcile.run.decide import Pending, Policy, decide, release, release_events, take

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


def second(*times: int, **values: Any) -> pd.DataFrame:
    """Second events of calls that have their own, at these times (ms after noon)."""
    told = {"transaction_id": "again", "row_request_id": "other", "row_scope": "window", "row_spend": 1.0}
    return orphans(*times, **{**told, "class": "duplicate", "reason": "same_content", **values})


def decided_with(events: pd.DataFrame) -> tuple[list[str], pd.DataFrame]:
    """The reasons of two missing rows, of noon and an hour later, and the events that wait beside them."""
    taken = take(Pending(), missing(0, HOUR, reason="not_sent"), events, frozenset(), Policy(1000.0))
    found = decide(taken.pending.rows, ["", ""], taken.pending, REACH)
    return found.rows["reason"].tolist(), found.pending.events


def test_a_second_event_holds_a_row_before_it_back_and_is_an_orphan_then() -> None:
    reasons, events = decided_with(second(HOUR // 2))
    assert reasons == ["late_event", "not_sent"]
    (event,) = events.to_dict("records")
    assert (event["class"], event["reason"]) == ("orphan", "late_event")
    assert (event["row_request_id"], event["row_start_ms"], event["row_scope"]) == ("", 0, "")
    assert pd.isna(event["row_spend"])


def test_a_second_event_that_holds_no_row_back_stays_what_it_is() -> None:
    for before_both in (second(-1), second(7 * HOUR + 1)):
        assert decided_with(before_both)[0] == ["not_sent", "not_sent"]
        assert decided_with(before_both)[1].equals(before_both)


def test_an_unexplained_event_holds_a_row_back_before_a_second_one_does() -> None:
    reasons, events = decided_with(joined([orphans(-HOUR), second(1)]))
    assert reasons == ["late_event", "not_sent"]
    assert events["class"].tolist() == ["orphan", "duplicate"]


def test_second_events_make_no_doubt_and_those_of_ours_hold_nothing_back() -> None:
    times = [n * 1_000 for n in range(20)]
    found = decide(missing(*times), [""] * 20, Pending(events=second(*times)), REACH)
    assert found.doubt is None
    assert found.rows["class"].eq("held").all()
    assert decided_with(second(HOUR // 2, transaction_id=f"llm_{7:032x}"))[0] == ["not_sent", "not_sent"]


def test_a_second_event_that_tells_the_model_alone_holds_nothing_back() -> None:
    nothing: dict[str, Any] = dict.fromkeys(("cost", "prompt_tokens", "completion_tokens", "total_tokens"), math.nan)
    assert decided_with(second(HOUR // 2, **nothing))[0] == ["not_sent", "not_sent"]
    assert decided_with(second(HOUR // 2, **nothing | {"cost": 0.0}))[0] == ["not_sent", "not_sent"]
    assert decided_with(second(HOUR // 2, **nothing | {"cost": 0.1}))[0] == ["late_event", "not_sent"]

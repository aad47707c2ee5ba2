"""50,000 rows beside LiteLLM's own callback: what it lost is sent, every class is right, however the work is cut."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qs

import pytest

from reconcile.domain.document import Document, EventTotals
from reconcile.sandbox.traffic import LiveEvent

from .conftest import LargeWorld
from .outcome import USED_AND_BILLED, Outcome, counts, differences, outcome
from .world import CODE, NIGHT, TEAMS

# What may differ between two runs that found the same: their names, times, settings and numbers of requests.
INCIDENTAL = ("run_id", "method", "previous")

# Where the documented rules find something else than what happened, group by group. No group is billed more often than
# it was used, and what is billed less often stands in the document.
EXPLAINED = {
    # One of the twins was lost, and the event of another came twice: that makes one event for each.
    "rows delivered -1, matched_live +1; events duplicate -1, matched_live +1": 1,
    # The bot's request with a guardrail's cost: its event equals the bot's other requests, and fills the gap of one
    # that was lost nearby. So three rows with a guardrail's cost are sent, instead of three without.
    "rows matched_live +3, mismatched -3; events matched_live +3, mismatched -3": 1,
    # An image without a price carries nothing but the model: an event that no row explains equals one that has its own.
    "rows as they are; events duplicate +1, orphan -1": 1,
}


@dataclass(frozen=True, slots=True)
class FirstRun:
    """A run with every setting at its default: what it says, what it sent, and what Lago then bills otherwise than it
    was used: group of twins or row -> times used, times billed."""

    document: Document
    sent: list[dict[str, Any]]
    found: Outcome
    unequal: dict[str, tuple[int, int]]

    def as_json(self) -> dict[str, Any]:
        return comparable(self.document.as_json())


def comparable(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in INCIDENTAL}


@pytest.fixture(scope="module")
def first_run(built_world: LargeWorld) -> FirstRun:
    ground = built_world.ground
    document = ground.backfill(NIGHT)
    found = outcome(built_world.world, NIGHT, document, ground)
    unequal = ground.lago.stand_in.execute(USED_AND_BILLED, {"from": NIGHT.start, "to": NIGHT.end})
    sent = ground.own_events()
    ground.undo()
    return FirstRun(document, sent, found, {name: (used, billed) for name, used, billed in unequal})


def test_every_class_is_right_to_the_row_and_twins_to_the_count(built_world: LargeWorld, first_run: FirstRun) -> None:
    found = differences(built_world.world, first_run.found)
    assert Counter(map(str, found.values())) == EXPLAINED
    assert sum(one.sent_beyond() for one in found.values()) == -1


def test_the_world_holds_what_it_should(built_world: LargeWorld, first_run: FirstRun) -> None:
    rows, events = counts(first_run.document.rows), counts(first_run.document.events)
    assert len(built_world.world.rows) == 50_000
    assert rows.keys() == {
        *("matched_live", "delivered", "excluded", "unattributed", "mismatched", "misdirected", "unbilled", "rejected"),
    }
    assert events.keys() == {"matched_live", "mismatched", "misdirected", "unbilled", "duplicate", "orphan"}
    assert rows["delivered"] > 800
    reasons = first_run.document.reasons
    assert reasons["mismatched"].keys() == {"cost", "tokens", "model"}
    assert reasons["unbilled"].keys() == {"not_counted"}
    assert reasons["excluded"].keys() == {"failure", "failure_with_spend"}
    assert {"no_row", "no_subscription_id"} <= set(first_run.document.discrepancies["reason"])
    assert first_run.document.ambiguous > 500


def test_the_outside_count_finds_no_row_billed_twice_and_none_lost(
    built_world: LargeWorld, first_run: FirstRun
) -> None:
    """SQL over Lago's own events and the truth. What was doubled before the run is doubled after it, and named."""
    truth, usage = built_world.world.truth, built_world.world.usage_times()

    def group(name: str) -> str:
        return f"twins {truth.twins[name]}" if name in truth.twins else name

    doubled = Counter(
        group(of)
        for event, of in truth.row_of.items()
        if of is not None and truth.events[event] == "duplicate" and NIGHT.start <= usage[of] < NIGHT.end
    )
    explained = differences(built_world.world, first_run.found)
    for name, one in explained.items():
        doubled[f"twins {name}" if name.isdigit() else name] += one.sent_beyond()
    assert {name: billed - used for name, (used, billed) in first_run.unequal.items()} == {
        name: by for name, by in doubled.items() if by
    }
    too_few = {name for name, (used, billed) in first_run.unequal.items() if billed < used}
    assert not too_few


def test_money_is_right_to_the_last_digit(first_run: FirstRun) -> None:
    document = first_run.document
    for side in (document.rows, document.events):
        assert sum(totals.spend for name, totals in side.items() if name != "total") == side["total"].spend
    sent = {event["properties"]["request_id"]: event["properties"]["response_cost"] for event in first_run.sent}
    assert len(sent) == len(first_run.sent) == document.rows["delivered"].count


@pytest.mark.parametrize(
    ("settings", "max_per_page"),
    [({"RECONCILE_SLICE": "5m"}, 100), ({"RECONCILE_SLICE": "1d"}, None), ({"RECONCILE_PAGE_SIZE": "17"}, None)],
    ids=["slices of 5 minutes, a server that grants pages of 100", "one slice", "pages of 17"],
)
def test_no_cut_of_the_work_changes_the_document(
    settings: dict[str, str], max_per_page: int | None, large_world: LargeWorld, first_run: FirstRun
) -> None:
    large_world.ground.lago.faults.max_per_page = max_per_page
    document = large_world.ground.backfill(NIGHT, **settings)
    assert comparable(document.as_json()) == first_run.as_json()
    assert large_world.ground.own_events() == first_run.sent


def test_the_command_does_the_same_and_a_second_run_sends_nothing(large_world: LargeWorld, first_run: FirstRun) -> None:
    document = large_world.ground.backfill_by_command(NIGHT)
    assert comparable(document) == first_run.as_json()
    assert large_world.ground.own_events() == first_run.sent

    again = large_world.ground.backfill(NIGHT)
    assert large_world.ground.own_events() == first_run.sent
    once, twice = counts(first_run.document.rows), counts(again.rows)
    assert twice == once + Counter(matched=once["delivered"]) - Counter(delivered=once["delivered"])
    assert again.events["matched"] == EventTotals(once["delivered"], first_run.document.rows["delivered"].spend)


def test_events_that_arrive_between_the_pages_push_none_out_of_sight(
    large_world: LargeWorld, first_run: FirstRun
) -> None:
    """Before each page an event arrives at the newest end of what is being listed, and pushes all others back.

    The arrivals are of a team without rows: whether one is seen depends on the moment, and all that are seen are
    orphans of that team. Everything else stands as if nothing had arrived.
    """
    ground, lock, arrived = large_world.ground, threading.Lock(), Counter[str]()

    def arrive() -> None:
        with lock:
            listed = next(
                seen.query for seen in reversed(ground.lago.stand_in.requests) if "timestamp_to" in seen.query
            )
            newest = datetime.fromisoformat(parse_qs(listed)["timestamp_to"][0]) - timedelta(milliseconds=1)
            if listed in arrived or not NIGHT.start <= newest < NIGHT.end:
                return
            arrived[listed] += 1
            name = f"late-{len(arrived)}"
            properties = {"model": "gpt-4o", "response_cost": 1.0}
            event = {"transaction_id": name, "external_subscription_id": "late", "code": CODE, "properties": properties}
            ground.add_events([LiveEvent(newest, event)])

    ground.lago.faults.before_list = arrive
    try:
        document = ground.backfill(NIGHT, RECONCILE_PAGE_SIZE="100")
    finally:
        ground.lago.faults.before_list = None
        ground.lago.stand_in.execute("DELETE FROM lago.events WHERE transaction_id LIKE 'late-%'")
    assert len(arrived) > 400
    assert ground.own_events() == first_run.sent

    assert document.rows == first_run.document.rows
    late = document.discrepancies["charge_id"].eq("late")
    assert set(document.discrepancies["class"][late]) == {"orphan"}
    assert 0 < late.sum() <= len(arrived)
    others = document.discrepancies[~late].reset_index(drop=True)
    assert others.equals(first_run.document.discrepancies)
    groups = [group for group in document.by_charge_id if group.charge_id in TEAMS]
    assert groups == [group for group in first_run.document.by_charge_id if group.charge_id in TEAMS]

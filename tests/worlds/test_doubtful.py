"""Rows whose event may be in Lago already: kept back, unless the operator decides otherwise, and then by name."""

from __future__ import annotations

from datetime import timedelta

import pytest

from .conftest import Ground
from .outcome import counts
from .world import NIGHT, live_event, row


@pytest.fixture
def doubtful(ground: Ground) -> Ground:
    """A row whose event has another cost, one whose event is under another team, and one that is right."""
    ground.subscribe("team-a", "team-b")
    end = NIGHT.start + timedelta(hours=1)
    cost, elsewhere, right = (
        row(name, "team-a", end + timedelta(minutes=10 * n), tokens=(100 + n, 7))
        for n, name in enumerate(("cost", "elsewhere", "right"))
    )
    ground.add_rows([cost, elsewhere, right])
    misdirected = live_event(elsewhere, "e2", timedelta(seconds=1))
    misdirected.event["external_subscription_id"] = "team-b"
    ground.add_events(
        [
            live_event(cost, "e1", timedelta(seconds=1), changes={"response_cost": cost["spend"] - 1e-6}),
            misdirected,
            live_event(right, "e3", timedelta(seconds=1)),
        ]
    )
    return ground


def test_by_default_none_is_sent_and_both_stand_in_the_document(doubtful: Ground) -> None:
    document = doubtful.backfill(NIGHT)
    assert counts(document.rows) == {"mismatched": 1, "misdirected": 1, "matched_live": 1}
    assert doubtful.own_events() == []
    listed = {entry["request_id"]: entry for entry in document.as_json()["discrepancies"]}
    assert {name: (entry["class"], entry["reason"]) for name, entry in listed.items()} == {
        "cost": ("mismatched", "cost"),
        "elsewhere": ("misdirected", "other_subscription"),
    }
    assert document.findings == ()


@pytest.mark.parametrize(
    ("setting", "sent"),
    [
        ("mismatched", ["cost"]),
        ("misdirected", ["elsewhere"]),
        ("mismatched,misdirected", ["cost", "elsewhere"]),
    ],
)
def test_the_operators_decision_is_carried_out_and_named(setting: str, sent: list[str], doubtful: Ground) -> None:
    document = doubtful.backfill(NIGHT, RECONCILE_PUSH_DOUBTFUL=setting)
    assert doubtful.sent_requests() == sent
    assert document.rows["delivered"].count == len(sent)
    (finding,) = document.findings
    assert (finding.kind, finding.count) == ("pushed_doubtful", len(sent))
    assert f"RECONCILE_PUSH_DOUBTFUL={','.join(sorted(setting.split(',')))}" in finding.text
    assert document.as_json()["method"]["settings"]["RECONCILE_PUSH_DOUBTFUL"]

    again = doubtful.backfill(NIGHT, RECONCILE_PUSH_DOUBTFUL=setting)
    assert doubtful.sent_requests() == sent
    assert again.rows["matched"].count == len(sent)


def test_what_lago_would_bill_to_nobody_or_cannot_count_is_not_sent_all_the_same(doubtful: Ground) -> None:
    """A row that no subscription covers, and one whose spend is no amount: the decision is about doubt alone."""
    end = NIGHT.start + timedelta(hours=2)
    uncovered = row("uncovered", "team-nobody", end, tokens=(300, 7))
    below_zero = row("below zero", "team-a", end, tokens=(400, 7))
    events = [
        live_event(uncovered, "e4", timedelta(seconds=1), changes={"response_cost": uncovered["spend"] - 1e-6}),
        live_event(below_zero, "e5", timedelta(seconds=1)),
    ]
    below_zero["spend"] = -0.25
    doubtful.add_rows([uncovered, below_zero])
    doubtful.add_events(events)
    document = doubtful.backfill(NIGHT, RECONCILE_PUSH_DOUBTFUL="mismatched")
    assert doubtful.sent_requests() == ["cost"]
    assert counts(document.rows) == {"mismatched": 2, "misdirected": 1, "matched_live": 1, "delivered": 1}

"""The main job: each billable row is in Lago exactly once, whatever was there before, and the document says so."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal

import pytest
from integration.spend_rows import DAY, TEAMS, a_day, billable, row

from .harness import World

LAST = DAY + timedelta(hours=10)


def test_a_missing_day_is_sent_once_and_then_agrees(world: World) -> None:
    rows = a_day(2_000)
    world.add_rows(rows)
    world.subscribe()
    first = world.backfill()
    assert first.code == 0, first.err
    assert world.billed() == dict.fromkeys(billable(rows), 1)
    document = first.document
    assert (document["status"], document["verified"], document["fault"]) == ("agreed", True, None)
    assert first.count("rows", "delivered") == len(billable(rows))
    assert first.count("rows", "excluded") == sum(one["status"] == "failure" for one in rows)
    assert first.count("rows", "unattributed") == sum(one["request_id"].startswith("nobody") for one in rows)
    assert first.count("rows", "total") == len(rows)
    spend = sum((Decimal(repr(one["spend"])) for one in rows), Decimal(0))
    assert Decimal(document["rows"]["total"]["spend"]) == spend
    assert first.count("events", "total") == 0

    stored, batches = world.stored(), world.batches()
    second = world.backfill()
    assert second.code == 0, second.err
    assert (second.document["status"], second.document["verified"]) == ("agreed", None)
    assert second.count("rows", "matched") == second.count("events", "matched") == len(billable(rows))
    assert second.count("rows", "delivered") == 0
    assert world.batches() == batches
    assert world.stored() == stored


def test_only_what_is_missing_is_sent(world: World) -> None:
    world.subscribe()
    world.add_rows([row(f"early-{number}", DAY + timedelta(minutes=number)) for number in range(150)])
    assert world.backfill().code == 0
    world.add_rows([row(f"late-{number}", DAY + timedelta(minutes=7 * number, seconds=1)) for number in range(3)])
    ran = world.backfill()
    assert ran.code == 0, ran.err
    assert (ran.count("rows", "matched"), ran.count("rows", "delivered")) == (150, 3)
    assert set(world.billed().values()) == {1}
    assert len(world.billed()) == 153


@pytest.mark.parametrize(
    ("charge_by", "column"),
    [
        ("end_user_id", "end_user"),
        ("user_id", "user"),
        ("team_id", "team_id"),
        ("organization_id", "organization_id"),
    ],
)
def test_charge_by(world: World, charge_by: str, column: str) -> None:
    """The right column, to the right subscription; '' and NULL are nobody."""
    world.add_rows([row("charged", LAST), row("empty", LAST, **{column: ""}), row("absent", LAST, **{column: None})])
    chosen = str(row("any", LAST)[column])
    world.subscribe("customer-1", "user-1", "team-a", "org-1")
    ran = world.backfill("--charge-by", charge_by)
    assert ran.code == 0, ran.err
    assert (ran.count("rows", "delivered"), ran.count("rows", "unattributed")) == (1, 2)
    assert ran.document["stream"]["charge_by"] == charge_by
    assert [entry["charge_id"] for entry in ran.document["by_charge_id"]] == [None, chosen]
    assert world.events("external_subscription_id, properties->>'request_id'") == [(chosen, "charged")]


def test_another_charge_by_bills_nothing_twice(world: World) -> None:
    world.add_rows([row("once", LAST)])
    world.subscribe("team-a", "user-1")
    assert world.backfill().code == 0
    ran = world.backfill("--charge-by", "user_id")
    assert ran.code == 1
    assert ran.count("rows", "misdirected") == 1
    assert world.billed() == {"once": 1}


def test_the_event_is_what_the_contract_says(world: World) -> None:
    world.add_rows([row("r-1", LAST + timedelta(milliseconds=344), spend=5.1e-06)])
    world.subscribe()
    assert world.backfill().code == 0
    found = world.events('transaction_id, external_subscription_id, code, "timestamp"::text, properties')
    ((transaction_id, subscription, code, timestamp, properties),) = found
    # Golden: the identity never changes between releases.
    assert transaction_id == "llm_7c377fa9a5f511c298b764a0032c09ec"
    assert (subscription, code, timestamp) == ("team-a", "llm_usage", "2025-11-20 10:00:00.3442")
    assert properties == {
        "model": "gpt-4o-mini",
        "response_cost": "0.0000051",
        "prompt_tokens": "20",
        "completion_tokens": "10",
        "total_tokens": "30",
        "input_tokens": "20",
        "output_tokens": "10",
        "request_id": "r-1",
    }


def test_a_spend_that_cannot_be_billed_is_rejected(world: World) -> None:
    spends = {"nan": float("nan"), "infinite": float("inf"), "negative": -0.5, "good": 0.5}
    world.add_rows([row(name, LAST, spend=spend) for name, spend in spends.items()])
    world.subscribe()
    ran = world.backfill()
    assert ran.code == 1
    assert ran.document["reasons"]["rejected"] == {"invalid_spend": 3}
    assert ran.document["rows"]["rejected"]["spend"] == "0"
    assert world.billed() == {"good": 1}


def test_failures_are_excluded_and_their_money_is_shown(world: World) -> None:
    world.add_rows(
        [row("failed", LAST, status="failure", spend=0.0), row("costly", LAST, status="failure", spend=0.25)]
    )
    world.subscribe()
    ran = world.backfill()
    assert ran.code == 0
    assert ran.document["reasons"]["excluded"] == {"failure": 1, "failure_with_spend": 1}
    assert ran.document["rows"]["excluded"]["spend"] == "0.25"
    assert world.billed() == {}


def test_a_row_without_subscription_is_held_and_goes_out_when_there_is_one(world: World) -> None:
    world.add_rows([row("r-1", LAST)])
    ran = world.backfill()
    assert ran.code == 1
    assert ran.document["reasons"]["held"] == {"no_subscription": 1}
    assert world.billed() == {}
    world.subscribe()
    assert world.backfill().code == 0
    assert world.billed() == {"r-1": 1}


def test_a_clickhouse_store(clickhouse_world: World) -> None:
    world = clickhouse_world
    world.lago.faults.visibility_lag = 0.5
    rows = a_day(500, seed=2)
    world.add_rows(rows)
    world.subscribe()
    first = world.backfill(RECONCILE_VISIBLE_WITHIN="20s")
    assert first.code == 0, first.err
    assert first.document["verified"] is True
    second = world.backfill(RECONCILE_VISIBLE_WITHIN="20s")
    assert second.count("rows", "matched") == len(billable(rows))
    assert world.billed() == dict.fromkeys(billable(rows), 1)
    assert len(world.stored()) == len(billable(rows))


def test_events_that_never_become_visible_are_a_fault(clickhouse_world: World) -> None:
    world = clickhouse_world
    world.lago.faults.visibility_lag = 3_600
    world.add_rows([row("r-1", LAST)])
    world.subscribe()
    ran = world.backfill(RECONCILE_VISIBLE_WITHIN="1s")
    assert ran.code == 3
    assert (ran.document["status"], ran.document["verified"]) == ("incomplete", False)
    assert ran.document["fault"]["kind"] == "not_visible"
    assert "llm_" in ran.document["fault"]["message"]


def test_whole_teams(world: World) -> None:
    rows = a_day(300, seed=3)
    world.add_rows(rows)
    world.subscribe()
    document = world.backfill().document
    by_team = {entry["charge_id"]: entry["rows"]["total"]["count"] for entry in document["by_charge_id"]}
    assert by_team == {
        **{team: sum(one["team_id"] == team for one in rows) for team in TEAMS},
        None: sum(not one["team_id"] for one in rows),
    }
    assert sum(by_team.values()) == document["rows"]["total"]["count"] == 300


def test_through_a_transaction_pooling_pgbouncer(world: World, pgbouncer: Callable[[str], str]) -> None:
    rows = a_day(300, seed=6)
    world.add_rows(rows)
    world.subscribe()
    world.secrets.add("secret-of-nobody")
    settings = {"DATABASE_URL": pgbouncer(world.database_url) + "?pgbouncer=true&connection_limit=1"}
    assert world.run("check", **settings).code == 0
    for delivered in (len(billable(rows)), 0):
        ran = world.backfill(**settings)
        assert ran.code == 0, ran.err
        assert ran.count("rows", "delivered") == delivered
    assert world.billed() == dict.fromkeys(billable(rows), 1)

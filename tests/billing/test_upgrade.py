"""A ledger that 0.1.0 wrote, with real deliveries, held rows and agreed slices: upgraded, nothing is sent twice.

`tests/data/ledger-0.1.0.json` holds every row of schema `reconcile` after two nightly runs of release 0.1.0 over the
world below, and the events that they had delivered.
"""

from __future__ import annotations

import base64
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import alembic.command
import psycopg
import pytest
from alembic.config import Config
from psycopg import sql
from psycopg.types.json import Jsonb
from sqlalchemy import create_engine, text

from reconcile.settings.database import database

from .world import CODE, DAY, NIGHT, TEAM, World, live_event, row

FOUND = json.loads((Path(__file__).parents[1] / "data" / "ledger-0.1.0.json").read_text(encoding="utf-8"))
TABLES = ("runs", "deliveries", "journal", "held", "hours", "long_calls", "slices", "schedule")
MIGRATIONS = Path(__file__).parents[2] / "reconcile" / "ledger" / "migrations"
MORNING = timedelta(hours=6)


def value(found: Any, organization: str) -> Any:
    if isinstance(found, dict):
        return base64.b64decode(found["bytes"]) if set(found) == {"bytes"} else Jsonb(found)
    return organization if found == FOUND["runs"][0]["organization"] else found


@pytest.fixture
def old(world: World) -> World:
    """The world as 0.1.0 left it: fifty rows, 37 of them billed live, nine delivered, four held."""
    rows = [
        row(
            f"r-{number}",
            DAY + timedelta(minutes=25 * number),
            spend=round(0.001 * (number + 1), 6),
            team_id="team-x" if number % 13 == 5 else TEAM,
        )
        for number in range(50)
    ]
    world.subscribe()
    world.write(*rows)
    for number, one in enumerate(rows):
        if number % 5 and number % 13 != 5:
            world.live(one["endTime"] + timedelta(milliseconds=8), live_event(one, f"live-{one['request_id']}"))
    for event in FOUND["events"]:
        made = {name: event[name] for name in ("transaction_id", "external_subscription_id", "properties")}
        world.live(datetime.fromisoformat(event["timestamp"]), {**made, "code": CODE})
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with create_engine(database(world.database_url).sqlalchemy).begin() as connection:
        connection.execute(text("DROP SCHEMA IF EXISTS reconcile CASCADE"))
        connection.execute(text("CREATE SCHEMA reconcile"))
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, "0002")
    with psycopg.connect(world.database_url) as connection:
        for table in TABLES:
            for entry in FOUND[table]:
                statement = sql.SQL("INSERT INTO reconcile.{} ({}) VALUES ({})").format(
                    sql.Identifier(table),
                    sql.SQL(", ").join(map(sql.Identifier, entry)),
                    sql.SQL(", ").join(sql.Placeholder() * len(entry)),
                )
                connection.execute(statement, [value(found, world.lago.organization.id) for found in entry.values()])
        connection.execute("SELECT setval('reconcile.journal_entry_seq', (SELECT max(entry) FROM reconcile.journal))")
    return world


def test_nothing_is_sent_twice_and_held_rows_are_tried(old: World) -> None:
    before = old.billed()
    first = old.nightly(DAY + 2 * NIGHT + MORNING)
    rows = {name: totals.count for name, totals in first.document.rows.items() if totals.count}
    assert rows == {"total": 50, "matched": 9, "matched_live": 37, "held": 4}
    assert old.billed() == before
    assert set(old.held().values()) == {"no_subscription"}

    old.subscribe("team-x")
    second = old.nightly(DAY + 20 * NIGHT)
    assert {name: totals.count for name, totals in second.document.late.items()} == {"total": 4, "delivered": 4}
    assert old.held() == {}
    assert set(old.billed().values()) == {1}
    assert sum(old.billed().values()) == sum(before.values()) + 4
    assert old.nightly(DAY + 20 * NIGHT).exit_code == 0


def test_no_run_delivery_or_line_of_the_journal_is_lost(old: World) -> None:
    old.nightly(DAY + 2 * NIGHT + MORNING)
    assert len(old.ledger("run_id", "runs")) == len(FOUND["runs"]) + 1
    assert len(old.ledger("request_id", "deliveries")) == len(FOUND["deliveries"])
    assert old.sql(
        "SELECT count(*) FROM reconcile.journal WHERE run_id = ANY(%s)", ([FOUND["runs"][0]["run_id"]],)
    ) == [(len([line for line in FOUND["journal"] if line["run_id"] == FOUND["runs"][0]["run_id"]]),)]

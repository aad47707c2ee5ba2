"""One large world for the whole session, and small ones: rows in LiteLLM's Postgres, events in Lago, one job call."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from conftest import LAGO_KEY, Lago

from reconcile.domain.document import Document
from reconcile.domain.window import Window
from reconcile.run.job import Order, run
from reconcile.sandbox.lago import LagoStandIn
from reconcile.sandbox.litellm_schema import insert_rows
from reconcile.sandbox.postgres import create_database, drop_database
from reconcile.sandbox.servers import lago_server
from reconcile.sandbox.traffic import LiveEvent
from reconcile.settings import load

from .world import CODE, Row, World, make_world

OWN = "transaction_id LIKE 'llm\\_%'"


@dataclass(frozen=True, slots=True)
class Ground:
    """LiteLLM's database and a Lago, and the job between them."""

    database_url: str
    lago: Lago

    def environment(self, **settings: str) -> dict[str, str]:
        return {
            "DATABASE_URL": self.database_url,
            "LAGO_API_BASE": self.lago.url,
            "LAGO_API_KEY": self.lago.key,
            "LAGO_API_EVENT_CODE": CODE,
            "LAGO_API_CHARGE_BY": "team_id",
            **settings,
        }

    def backfill(self, window: Window, **settings: str) -> Document:
        """One `backfill` in this process. It must end without a fault."""
        result = run(load(self.environment(**settings), None), Order("backfill", window))
        assert result.document.fault is None, result.document.fault
        assert result.exit_code in (0, 1)
        assert result.document.verified in (True, None)
        return result.document

    def backfill_by_command(self, window: Window, **settings: str) -> dict[str, Any]:
        """The same by the command line, in a process of its own; the document that it prints."""
        command = [sys.executable, "-c", "from reconcile.cli import main; main()", "backfill", "--json"]
        command += ["--from", f"{window.start:%Y-%m-%dT%H:%M:%SZ}", "--to", f"{window.end:%Y-%m-%dT%H:%M:%SZ}"]
        inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        done = subprocess.run(command, env=inherited | self.environment(**settings), capture_output=True, check=False)
        assert done.returncode in (0, 1), done.stderr.decode()
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def add_rows(self, rows: Sequence[Row]) -> None:
        insert_rows(self.database_url, rows)

    def add_events(self, events: Sequence[LiveEvent]) -> None:
        self.lago.organization.seed_events((live.received_at, live.event) for live in events)

    def subscribe(self, *charge_ids: str) -> None:
        """Subscriptions whose one billing period has been open for years and stays so."""
        begin, end = datetime(2020, 1, 1, tzinfo=UTC), datetime(2099, 12, 31, tzinfo=UTC)
        for charge_id in charge_ids:
            self.lago.organization.add_subscription(charge_id, started_at=begin, period=(begin, end))

    def own_events(self) -> list[dict[str, Any]]:
        """What reconcile has sent, as Lago stores it."""
        return [e for e in self.lago.organization.stored_events() if e["transaction_id"].startswith("llm_")]

    def sent_requests(self) -> list[str]:
        return sorted(event["properties"]["request_id"] for event in self.own_events())

    def forget_runs(self) -> None:
        """Loses the ledger, as when the state database is lost."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            connection.execute("DROP SCHEMA IF EXISTS reconcile CASCADE")

    def undo(self) -> None:
        """Takes back every run: what it sent, and what it remembers."""
        self.lago.stand_in.execute(f"DELETE FROM lago.events WHERE {OWN}")
        self.forget_runs()


@pytest.fixture
def ground(database_url: str, lago: Lago) -> Ground:
    """Both sides without a row, an event or a subscription."""
    return Ground(database_url, lago)


@dataclass(frozen=True, slots=True)
class LargeWorld:
    ground: Ground
    world: World


@pytest.fixture(scope="session")
def built_world(postgres_url: str, litellm_template: str) -> Iterator[LargeWorld]:
    """50,000 rows and their live events, without a run. It takes seconds to make: leave it as it was."""
    world = make_world(50_000, seed=20240229)
    database_url = create_database(postgres_url, template=litellm_template)
    lago_database_url = create_database(postgres_url)
    with LagoStandIn(lago_database_url) as stand_in:
        organization = stand_in.add_organization(LAGO_KEY)
        organization.add_billable_metric(CODE)
        with lago_server(stand_in) as url:
            ground = Ground(database_url, Lago(url, LAGO_KEY, stand_in, organization))
            ground.subscribe("team-research", "team-support", "team-platform")
            ground.add_rows(world.rows)
            ground.add_events(world.events)
            with psycopg.connect(database_url, autocommit=True) as connection:
                connection.execute('VACUUM ANALYZE "LiteLLM_SpendLogs"')
            stand_in.execute("ANALYZE lago.events")
            write_truth(stand_in, world)
            yield LargeWorld(ground, world)
    for url in (database_url, lago_database_url):
        drop_database(postgres_url, url.rsplit("/", 1)[1])


@pytest.fixture
def large_world(built_world: LargeWorld) -> Iterator[LargeWorld]:
    """The same; what the test does to it is taken back."""
    yield built_world
    built_world.ground.undo()
    built_world.ground.lago.faults.before_list = None
    built_world.ground.lago.faults.max_per_page = None


def write_truth(stand_in: LagoStandIn, world: World) -> None:
    """Puts the truth beside Lago's events, for the count from outside: one line per row and per live event."""
    billable = [name for name, kind in world.truth.rows.items() if kind not in ("excluded", "unattributed", "rejected")]
    times = world.usage_times()
    stand_in.execute("CREATE SCHEMA truth")
    stand_in.execute("CREATE TABLE truth.rows (request_id text PRIMARY KEY, usage timestamptz, billed_as text)")
    stand_in.execute("CREATE TABLE truth.events (transaction_id text PRIMARY KEY, request_id text)")
    with psycopg.connect(stand_in.database_url) as connection, connection.cursor() as cursor:
        with cursor.copy("COPY truth.rows FROM STDIN") as copy:
            for name in billable:
                # Twins are billed as one: which of them an event belongs to, nobody can tell.
                group = f"twins {world.truth.twins[name]}" if name in world.truth.twins else name
                copy.write_row((name, times[name], group))
        with cursor.copy("COPY truth.events FROM STDIN") as copy:
            for item in world.truth.row_of.items():
                copy.write_row(item)

"""The program as its users run it, between real servers, and what can be counted from the outside.

Whatever a test does, every run is held to three rules: no traceback, no secret, and with `--json` a document alone on
stdout or nothing.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from integration.spend_rows import TEAMS

from reconcile import cli
from reconcile.sandbox.lago import LagoStandIn, Organization
from reconcile.sandbox.lago.faults import Faults
from reconcile.sandbox.litellm_schema import insert_rows

PROGRAM = Path(sys.executable).parent / "reconcile"
CODE = "llm_usage"
BEGIN, END = datetime(2025, 1, 1, tzinfo=UTC), datetime(2035, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Ran:
    """One run of the program, ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found

    def count(self, side: str, kind: str) -> int:
        return int(self.document[side][kind]["count"])


@dataclass(frozen=True, slots=True)
class Lago:
    """One organization of a running Lago."""

    url: str
    key: str
    stand_in: LagoStandIn
    organization: Organization

    @property
    def faults(self) -> Faults:
        return self.stand_in.faults


@dataclass
class World:
    """LiteLLM's database, a Lago, and the settings that lead to both."""

    database_url: str
    lago: Lago
    folder: Path
    monkeypatch: pytest.MonkeyPatch
    capture: pytest.CaptureFixture[str]
    environment: dict[str, str] = field(default_factory=dict)
    secrets: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.environment = {
            "DATABASE_URL": self.database_url,
            "LAGO_API_BASE": self.lago.url,
            "LAGO_API_KEY": self.lago.key,
            "LAGO_API_EVENT_CODE": CODE,
            "LAGO_API_CHARGE_BY": "team_id",
        }
        self.secrets = {self.lago.key, str(urlsplit(self.database_url).password)}

    # --- both sides

    def add_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        insert_rows(self.database_url, rows)

    def subscribe(self, *external_ids: str) -> None:
        """Subscriptions whose open billing period holds every row of these tests."""
        for external_id in external_ids or TEAMS:
            self.lago.organization.add_subscription(external_id, started_at=BEGIN, period=(BEGIN, END))

    def query(self, statement: str, parameters: Sequence[Any] = (), *, url: str = "") -> list[tuple[Any, ...]]:
        """Asks LiteLLM's database, or another."""
        with psycopg.connect(url or self.database_url) as connection:
            cursor = connection.execute(statement.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def billed(self) -> Counter[str]:
        """How often Lago will bill each request ID, by the identity that its event store goes by."""
        if self.lago.organization.clickhouse:
            counted = 'count(DISTINCT (external_subscription_id, transaction_id, "timestamp"))'
            table = "lago.events_raw"
        else:
            counted, table = "count(*)", "lago.events"
        found = self.events(f"properties->>'request_id', {counted}", table, "GROUP BY 1")
        return Counter({str(request_id): int(count) for request_id, count in found})

    def stored(self) -> list[tuple[Any, ...]]:
        """Everything that Lago stores, to the last byte."""
        table = "lago.events_raw" if self.lago.organization.clickhouse else "lago.events"
        return self.events("*", table, "ORDER BY transaction_id")

    def events(self, columns: str, table: str = "lago.events", clause: str = "") -> list[tuple[Any, ...]]:
        """Asks for the organization's events, at Lago's own tables."""
        statement = f"SELECT {columns} FROM {table} WHERE organization_id = %s AND code = %s {clause}"
        return self.query(statement, (self.lago.organization.id, CODE), url=self.lago.stand_in.database_url)

    def batches(self) -> int:
        """Requests to store events that have arrived at Lago: batches, and single events."""
        return sum(one.method == "POST" for one in list(self.lago.stand_in.requests))

    # --- the program

    def run(self, *arguments: str, **settings: str) -> Ran:
        """Runs a command to its end, in this process. A setting of '' is not set."""
        with self.monkeypatch.context() as patch:
            for name in [name for name in os.environ if name.startswith(("LAGO_", "RECONCILE_", "DATABASE_"))]:
                patch.delenv(name)
            for name, value in {**self.environment, **settings}.items():
                patch.setenv(name, value)
            patch.chdir(self.folder)
            patch.setattr(sys, "argv", ["reconcile", *arguments])
            self.capture.readouterr()
            with pytest.raises(SystemExit) as exit_:
                cli.main()
        out, err = self.capture.readouterr()
        return self._judged(Ran(_code(exit_.value.code), out, err), arguments)

    def backfill(self, *arguments: str, **settings: str) -> Ran:
        """`backfill --json` over the day of `spend_rows`, unless told otherwise."""
        days = () if "--from" in arguments else ("--from", "2025-11-20", "--to", "2025-11-20")
        return self.run("backfill", "--json", *days, *arguments, **settings)

    def start(self, *arguments: str, **settings: str) -> subprocess.Popen[str]:
        """Starts a command as a process of its own, to be killed. `ended` waits for it."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("LAGO_", "RECONCILE_"))}
        return subprocess.Popen(
            [PROGRAM, *arguments],
            env={**clean, **self.environment, **settings},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ended(self, process: subprocess.Popen[str]) -> Ran:
        out, err = process.communicate(timeout=120)
        arguments = process.args if isinstance(process.args, list) else []
        ran = Ran(process.returncode, out, err)
        return ran if ran.code == -signal.SIGKILL else self._judged(ran, [str(one) for one in arguments])

    def _judged(self, ran: Ran, arguments: Sequence[str]) -> Ran:
        assert "Traceback" not in ran.out + ran.err, ran.err
        self.no_secret_in(ran.out + ran.err)
        if "--json" in arguments:
            assert bool(ran.out) == (ran.code in (0, 1, 3)), (ran.code, ran.out[:500])
            if ran.out:
                for classes in (ran.document[side] for side in ("rows", "events") if side in ran.document):
                    counts = {name: found["count"] for name, found in classes.items()}
                    assert sum(counts.values()) == 2 * counts["total"], counts
        return ran

    def no_secret_in(self, text: str) -> None:
        for secret in self.secrets:
            assert secret not in text

    def no_secret_is_kept(self) -> None:
        """Neither in the ledger nor in a file that was written."""
        tables = self.query("SELECT table_name FROM information_schema.tables WHERE table_schema = 'reconcile'")
        for (table,) in tables:
            for (line,) in self.query(f'SELECT entry::text FROM reconcile."{table}" AS entry'):
                self.no_secret_in(line)
        for file in self.folder.rglob("*"):
            if file.is_file():
                self.no_secret_in(file.read_bytes().decode("utf-8", "replace"))


def until(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 60.0) -> None:
    """Waits for a condition while the process lives."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.002)


def _code(value: object) -> int:
    assert isinstance(value, int)
    return value

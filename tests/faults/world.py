"""An installation of `reconcile` with a proxy on either side of it, and the truth about what it has to bill."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

import psycopg
from integration.spend_rows import DAY, TEAMS, row

from reconcile.sandbox.lago import LagoStandIn, Organization
from reconcile.sandbox.lago.faults import Faults
from reconcile.sandbox.litellm_schema import insert_rows

from .launcher import Launcher, Process, until
from .proxy import Proxy, Trap

Mode = Literal["postgres", "clickhouse", "1.38"]

CODE = "llm_usage"
BEGIN, END = datetime(2025, 1, 1, tzinfo=UTC), datetime(2035, 1, 1, tzinfo=UTC)
WINDOW = ("--from", "2025-11-20T00:00:00Z", "--to", "2025-11-20T12:00:00Z")
COMMAND = ("backfill", "--json", *WINDOW)


@dataclass(frozen=True, slots=True)
class Ran:
    """A process that has ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found

    def count(self, kind: str) -> int:
        return int(self.document["rows"][kind]["count"])


@dataclass
class World:
    """LiteLLM's database with its ledger, an organization of a running Lago, and a proxy to each.

    `billable` are the rows that have to be in Lago under an event of their own, `live` those that LiteLLM's callback
    has sent.
    """

    mode: Mode
    database_url: str
    lago_url: str
    key: str
    stand_in: LagoStandIn
    organization: Organization
    folder: Path
    launcher: Launcher
    to_postgres: Proxy
    to_lago: Proxy
    billable: set[str] = field(default_factory=set)
    live: set[str] = field(default_factory=set)
    processes: list[Process] = field(default_factory=list)
    started: int = 0

    def __post_init__(self) -> None:
        (self.folder / "tmp").mkdir()

    @property
    def faults(self) -> Faults:
        return self.stand_in.faults

    @property
    def environment(self) -> dict[str, str]:
        """The job's settings. It waits moments where it would wait minutes."""
        return {
            "PATH": os.environ["PATH"],
            "TMPDIR": str(self.folder / "tmp"),
            "DATABASE_URL": through(self.database_url, self.to_postgres),
            "LAGO_API_BASE": f"http://127.0.0.1:{self.to_lago.port}",
            "LAGO_API_KEY": self.key,
            "LAGO_API_EVENT_CODE": CODE,
            "LAGO_API_CHARGE_BY": "team_id",
            "RECONCILE_EVENTS_STORE": "clickhouse" if self.mode == "clickhouse" else "postgres",
            "RECONCILE_VISIBLE_WITHIN": "3s",
            "RECONCILE_TIMEOUT": "1s",
        }

    # --- both sides

    def fill(self, count: int = 260, hours: Sequence[int] = (0, 9)) -> None:
        """Rows of these hours, half of them in each: one of ten has its live event, a few are not billable. The hours
        are so far apart that they leave one after the other."""
        for team in TEAMS:
            self.organization.add_subscription(team, started_at=BEGIN, period=(BEGIN, END))
        rows = []
        for number in range(count):
            at = DAY + timedelta(hours=hours[number * len(hours) // count], seconds=5 + 20 * (number % (count // 2)))
            kind = "live" if number % 10 == 3 else "failure" if number % 50 == 7 else "lost"
            made = row(
                f"{kind}-{number}", at, team_id=TEAMS[number % 3], spend=0.001 * (number + 1), total_tokens=30 + number
            )
            rows.append({**made, "status": "failure", "spend": 0.0} if kind == "failure" else made)
        self.add(rows)

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows whose IDs say what they are: `live-…`, `lost-…`, `failure-…`. Lago has had the live events for long."""
        self.call(rows)
        if self.organization.clickhouse:
            self.stand_in.execute("UPDATE lago.events_raw SET written_at = written_at - interval '1 hour'")
        self.write(rows)

    def call(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """What LiteLLM's callback sends at the end of these calls."""
        self.organization.seed_events(
            (one["endTime"] + timedelta(milliseconds=5), live_event(one, f"callback-{one['request_id']}"))
            for one in rows
            if one["request_id"].startswith("live")
        )

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The rows of these calls, as LiteLLM writes them later."""
        insert_rows(self.database_url, rows)
        self.live |= {one["request_id"] for one in rows if one["request_id"].startswith("live")}
        self.billable |= {one["request_id"] for one in rows if one["request_id"].startswith("lost")}

    def query(self, statement: str, parameters: Sequence[Any] = (), *, url: str = "") -> list[tuple[Any, ...]]:
        with psycopg.connect(url or self.database_url) as connection:
            cursor = connection.execute(statement.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def billed(self) -> Counter[str]:
        """How many events Lago stores of each request; every copy counts, as ClickHouse bills it."""
        table = "lago.events_raw" if self.organization.clickhouse else "lago.events"
        found = self.query(
            f"""SELECT coalesce(properties->>'request_id', transaction_id), count(*) FROM {table}
                WHERE organization_id = %s AND code = %s GROUP BY 1""",
            (self.organization.id, CODE),
            url=self.stand_in.database_url,
        )
        return Counter({str(name): int(count) for name, count in found})

    @property
    def truth(self) -> Counter[str]:
        return Counter([*self.billable, *(f"callback-{name}" for name in self.live)])

    def never_twice(self) -> None:
        doubled = {name: count for name, count in self.billed().items() if count > 1}
        assert not doubled, doubled

    def is_exact(self) -> None:
        billed = self.billed()
        assert billed == self.truth, (self.truth - billed, billed - self.truth)

    def posts(self) -> int:
        return sum(one.method == "POST" for one in list(self.stand_in.requests))

    # --- the program

    def start(self, *arguments: str, fresh: bool = False, **settings: str) -> Process:
        self.started += 1
        process = self.launcher.start(
            arguments or COMMAND,
            {**self.environment, **settings},
            self.folder,
            self.folder / f"out-{self.started}",
            self.folder / f"err-{self.started}",
            fresh=fresh,
        )
        self.processes.append(process)
        return process

    def ended(self, process: Process, *, exact: bool = True) -> Ran:
        """What became of a process; whatever happened to it, it says so without a traceback and without a secret.

        A run that says 0 has made Lago's content `exact`, unless rows keep coming."""
        code = process.wait()
        assert code is not None, "it does not end"
        ran = Ran(code, process.out.read_text(), process.err.read_text())
        assert "Traceback" not in ran.out + ran.err, ran.err
        for secret in (self.key, str(urlsplit(self.database_url).password)):
            assert secret not in ran.out + ran.err
        if exact and code == 0 and process.arguments[0] in ("run", "backfill"):
            self.is_exact()
        return ran

    def run(self, *arguments: str, **settings: str) -> Ran:
        return self.ended(self.start(*arguments, **settings))

    def killed_at(self, trap: Trap, *arguments: str, number: signal.Signals = signal.SIGKILL, **settings: str) -> None:
        """Starts a run and kills it at the moment that the trap waits for."""
        process = self.start(*arguments, **settings)
        until(trap.sprung.is_set, process)
        process.kill(number)
        assert process.wait() == -number
        self.release()
        self.nothing_left()

    def release(self) -> None:
        """Both proxies as they were, and nothing planned at Lago."""
        for proxy in (self.to_postgres, self.to_lago):
            proxy.release()
            proxy.latency, proxy.drip, proxy.refusing = 0.0, None, False
        self.faults.planned.clear()

    def heals(self, *arguments: str, pooled: bool = False, **settings: str) -> Ran:
        """The same command again: Lago's content is exact, and the run says so."""
        ran = self.run(*arguments, **settings)
        assert ran.code == 0, (ran.err, ran.document["rows"], ran.document["events"], self.billed() - self.truth)
        self.is_exact()
        self.nothing_left(pooled=pooled)
        return ran

    # --- what is left

    def connections(self) -> int:
        """Connections to the database, of whoever: the ones that ask are on another one."""
        name = urlsplit(self.database_url).path[1:]
        server = urlunsplit(urlsplit(self.database_url)._replace(path="/postgres"))
        ((count,),) = self.query("SELECT count(*) FROM pg_stat_activity WHERE datname = %s", (name,), url=server)
        return int(count)

    def nothing_left(self, *, pooled: bool = False) -> None:
        """No process, connection, lock or temporary file. A pooler keeps its own connections."""
        assert all(process.poll() is not None for process in self.processes)
        if not pooled:
            until(lambda: self.connections() == 0)  # Postgres notices a client's end a moment later
        assert self.query("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]
        until(lambda: self.to_lago.connections == self.to_postgres.connections == 0)
        assert [path.name for path in (self.folder / "tmp").iterdir()] == []
        assert not list(self.folder.rglob("*.part"))


def live_event(of: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What LiteLLM's `lago` callback posts for a row, under a transaction ID of its own."""
    return {
        "transaction_id": name,
        "external_subscription_id": of["team_id"],
        "code": CODE,
        "properties": {
            "model": of["model"].removeprefix("openai/"),
            "response_cost": of["spend"],
            "prompt_tokens": of["prompt_tokens"],
            "completion_tokens": of["completion_tokens"],
            "total_tokens": of["total_tokens"],
        },
    }


def through(url: str, proxy: Proxy) -> str:
    """The same database, by way of a proxy."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{proxy.port}"))

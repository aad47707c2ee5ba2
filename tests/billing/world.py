"""LiteLLM's database, a Lago, and runs of the job between them whose `now` stands still."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import psycopg
from conftest import Lago

from reconcile.domain.document import Document, EventTotals, RowTotals
from reconcile.domain.event import transaction_id
from reconcile.domain.window import Window
from reconcile.run.job import Order, Result, run
from reconcile.sandbox.lago.faults import Faults
from reconcile.sandbox.litellm_schema import insert_rows
from reconcile.settings import Settings, load

CODE = "llm_usage"
TEAM = "team-a"
# Long past: nothing waits for events that may still arrive, whatever day it is.
DAY = datetime(2025, 11, 20, tzinfo=UTC)
NOON = DAY + timedelta(hours=12)
# An open billing period that holds every row of these tests.
BEGIN, END = datetime(2025, 1, 1, tzinfo=UTC), datetime(2035, 1, 1, tzinfo=UTC)
MS = timedelta(milliseconds=1)
HOUR = timedelta(hours=1)
NIGHT = timedelta(days=1)
LOOKBACK = timedelta(hours=72)
PROGRAM = Path(sys.executable).parent / "reconcile"


def row(request_id: str, ended: datetime, *, seconds: float = 2.0, **changes: Any) -> dict[str, Any]:
    """A row as LiteLLM writes it for a successful request of `team-a`. `changes` are columns."""
    return {
        "request_id": request_id,
        "call_type": "acompletion",
        "api_key": "88dc28d0f030c55ed4ab77ed8faf098196cb1c05df778539800c9f1243fe6b4b",
        "spend": 0.0125,
        "prompt_tokens": 20,
        "completion_tokens": 10,
        "total_tokens": 30,
        "startTime": ended - timedelta(seconds=seconds),
        "endTime": ended,
        "model": "openai/gpt-4o-mini",
        "model_group": "chat-fast",
        "custom_llm_provider": "openai",
        "team_id": TEAM,
        "status": "success",
        **changes,
    }


def rows_of(day: datetime, count: int, name: str = "r", **changes: Any) -> list[dict[str, Any]]:
    """`count` rows spread over a day, each with a cost of its own."""
    step = NIGHT / (count + 1)
    return [
        row(f"{name}-of-{number}", _whole(day + step * (number + 1)), spend=round(0.001 * (number + 1), 6), **changes)
        for number in range(count)
    ]


def live_event(of: Mapping[str, Any], name: str, **changes: Any) -> dict[str, Any]:
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
            **changes,
        },
    }


def live_pairs(
    world: World, rows: Iterable[Mapping[str, Any]], after: timedelta = timedelta(milliseconds=5), **changes: Any
) -> None:
    """Writes rows, and posts the live event of each so long after its usage time."""
    rows = list(rows)
    world.write(*rows)
    world.lago.organization.seed_events(
        (one["endTime"] + after, live_event(one, f"live-{one['request_id']}", **changes)) for one in rows
    )


def own_id(of: Mapping[str, Any], charge_id: str | None = None) -> str:
    """The transaction ID under which a row is sent."""
    start = of["startTime"]
    return transaction_id(CODE, charge_id or of["team_id"], of["request_id"], round(start.timestamp() * 1000))


@dataclass
class World:
    database_url: str
    lago: Lago
    # Long slices: the same work in fewer steps.
    settings: dict[str, str] = field(default_factory=lambda: {"RECONCILE_SLICE": "6h"})

    @property
    def environment(self) -> dict[str, str]:
        return {
            "DATABASE_URL": self.database_url,
            "LAGO_API_BASE": self.lago.url,
            "LAGO_API_KEY": self.lago.key,
            "LAGO_API_EVENT_CODE": CODE,
            "LAGO_API_CHARGE_BY": "team_id",
            **self.settings,
        }

    @property
    def faults(self) -> Faults:
        return self.lago.faults

    def configured(self, **settings: str) -> Settings:
        return load({**self.environment, **settings}, None)

    # --- LiteLLM's side

    def write(self, *rows: Mapping[str, Any]) -> None:
        insert_rows(self.database_url, rows)

    def sql(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Asks LiteLLM's database, or changes it."""
        with psycopg.connect(self.database_url) as connection:
            cursor = connection.execute(statement.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def delete_started(self, start: datetime, end: datetime) -> None:
        """LiteLLM's retention: rows go by their start."""
        self.sql(
            'DELETE FROM "LiteLLM_SpendLogs" WHERE "startTime" >= %s AND "startTime" < %s',
            (start.replace(tzinfo=None), end.replace(tzinfo=None)),
        )

    def ledger(self, columns: str, table: str, condition: str = "true") -> list[tuple[Any, ...]]:
        """What the job remembers of this world's stream."""
        statement = f"SELECT {columns} FROM reconcile.{table} WHERE organization = %s AND {condition} ORDER BY 1"
        return self.sql(statement, (self.lago.organization.id,))

    def held(self) -> dict[str, str]:
        """Request IDs of the held rows, and why."""
        return {str(request): str(reason) for request, reason in self.ledger("request_id, reason", "held")}

    # --- Lago's side

    def subscribe(self, *names: str, started_at: datetime = BEGIN, **options: Any) -> None:
        """Subscriptions whose open billing period holds every row of these tests, unless told otherwise."""
        options = {"period": (BEGIN, END), **options}
        for name in names or (TEAM,):
            self.lago.organization.add_subscription(name, started_at=started_at, **options)

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Asks Lago to make something; its answer."""
        headers = {"authorization": f"Bearer {self.lago.key}"}
        made = httpx.post(f"{self.lago.url}/api/v1/{path}", json=body, headers=headers, trust_env=False)
        assert made.status_code == 200, made.text
        return dict(made.json())

    def get(self, path: str, **parameters: str) -> dict[str, Any]:
        """What Lago answers to a question."""
        headers = {"authorization": f"Bearer {self.lago.key}"}
        found = httpx.get(f"{self.lago.url}/api/v1/{path}", params=parameters, headers=headers, trust_env=False)
        assert found.status_code == 200, found.text
        return dict(found.json())

    def plan(self, code: str, *charges: Mapping[str, Any]) -> dict[str, Any]:
        """A plan with these charges on the metric; each has at least a `charge_model` and `properties`."""
        metric = self.get(f"billable_metrics/{CODE}")["billable_metric"]["lago_id"]
        given = {"name": code, "code": code, "interval": "monthly", "amount_cents": 0, "amount_currency": "USD"}
        priced = [{**charge, "billable_metric_id": metric} for charge in charges]
        return dict(self.post("plans", {"plan": {**given, "charges": priced}})["plan"])

    def live(self, at: datetime, event: Mapping[str, Any]) -> None:
        self.lago.organization.seed_events([(at, event)])

    def billed(self) -> Counter[tuple[str, str]]:
        """How often Lago will bill each request, and to which subscription, by the rule of its event store."""
        clickhouse = self.lago.organization.clickhouse
        events = self.lago.organization.stored_events(CODE)
        name = "properties", "request_id"
        if clickhouse:
            identity = ("external_subscription_id", "transaction_id", "timestamp")
            events = list({tuple(one[part] for part in identity): one for one in events}.values())
        return Counter((one[name[0]].get(name[1], ""), one["external_subscription_id"]) for one in events)

    def delete_event(self, transaction: str) -> None:
        self.lago.stand_in.execute(
            "DELETE FROM lago.events WHERE organization_id = %s AND transaction_id = %s",
            (self.lago.organization.id, transaction),
        )

    def delete_raw(self, transaction: str) -> None:
        """The same on a ClickHouse store."""
        with psycopg.connect(self.lago.stand_in.database_url) as connection:  # also from the server's threads
            connection.execute(
                "DELETE FROM lago.events_raw WHERE organization_id = %s AND transaction_id = %s",
                (self.lago.organization.id, transaction),
            )

    def requests(self) -> Counter[str]:
        """Requests since they were last asked for: `count`, `list`, `send`, or the path of another."""
        seen = list(self.lago.stand_in.requests)
        self.lago.stand_in.requests.clear()
        return Counter(_kind(one.method, one.path, one.query) for one in seen)

    # --- the job

    def run(
        self,
        start: datetime,
        end: datetime,
        command: str = "run",
        *,
        dry_run: bool = False,
        skip_unchanged: bool = False,
        **settings: str,
    ) -> Result:
        """One run over [start, end). Whatever a test is about, the books balance."""
        order = Order(command, Window(start, end), dry_run, skip_unchanged=skip_unchanged)
        result = run(self.configured(**settings), order)
        balanced(result.document)
        assert self.lago.key not in json.dumps(result.document.as_json())
        return result

    def day(self, day: datetime = DAY, command: str = "backfill", **settings: Any) -> Result:
        return self.run(day, day + NIGHT, command, **settings)

    def nightly(self, now: datetime, **settings: Any) -> Result:
        """`reconcile run`, as it is at `now`."""
        return self.run(now - LOOKBACK, now, "run", **settings)

    def start(self, *arguments: str, **settings: str) -> subprocess.Popen[bytes]:
        """The program as a process of its own, to be killed."""
        clean = {name: text for name, text in os.environ.items() if not name.startswith(("LAGO_", "RECONCILE_"))}
        return subprocess.Popen(
            [PROGRAM, *arguments],
            env={**clean, **self.environment, **settings},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


def balanced(document: Document) -> None:
    """The classes add up to the totals, in count and in money, on every page of the document."""
    sides: Iterable[tuple[Any, Any]] = ((document.rows, RowTotals()), (document.events, EventTotals()))
    for classes, nothing in sides:
        named = [totals for name, totals in classes.items() if name != "total"]
        assert sum(named, nothing) == classes["total"]
    for groups in (document.by_charge_id, document.by_day, document.by_model):
        assert (
            sum((group.rows["total"] for group in groups if "total" in group.rows), RowTotals())
            == document.rows["total"]
        )
        assert sum((group.events["total"] for group in groups), EventTotals()) == document.events["total"]
    for kind in ("held", "rejected"):
        assert sum(document.reasons[kind].values()) == document.rows[kind].count
        assert sum(document.reason_spend[kind].values(), Decimal(0)) == document.rows[kind].spend


def rows_in(document: Document) -> dict[str, int]:
    """The row classes that have members."""
    return {name: found.count for name, found in document.rows.items() if found.count and name != "total"}


def events_in(document: Document) -> dict[str, int]:
    return {name: found.count for name, found in document.events.items() if found.count and name != "total"}


def late_in(document: Document) -> dict[str, int]:
    return {name: found.count for name, found in document.late.items() if name != "total"}


def findings(document: Document) -> dict[str, int]:
    return {finding.kind: finding.count for finding in document.findings}


def figures(document: Document) -> dict[str, Any]:
    """Everything in a document that is about the window, and not about the run."""
    about = document.as_json(whole=True)
    names = (
        "rows",
        "events",
        "reasons",
        "reason_spend",
        "ambiguous",
        "by_charge_id",
        "by_model",
        "by_day",
        "discrepancies",
    )
    return {name: about[name] for name in names}


def _kind(method: str, path: str, query: str) -> str:
    if method == "POST":
        return "send"
    if path == "/api/v1/events":
        return "count" if "per_page=1&" in f"{query}&" else "list"
    return path.removeprefix("/api/v1/")


def _whole(moment: datetime) -> datetime:
    """Cut to whole milliseconds, as LiteLLM's columns are."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)

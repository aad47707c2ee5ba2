"""LiteLLM's real proxy, a Lago and the proxy's table side by side, and what each of them holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg

from reconcile.domain.event import bare_model, transaction_id
from reconcile.sandbox.lago import LagoStandIn, Organization
from reconcile.sandbox.postgres import create_database
from reconcile.sandbox.servers import lago_server

from .litellm_proxy import insert

KEY = "lago-test-key-91ab"
COLUMNS = {"team_id": "team_id", "user_id": "user", "end_user_id": "end_user"}
CODES = tuple(COLUMNS)  # of the three callbacks in one proxy, each by its charge-by
BEGIN, END = datetime(2025, 1, 1, tzinfo=UTC), datetime(2035, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class World:
    """A Lago with the metrics CODES, whose events bill `response_cost`, and LiteLLM's empty table."""

    url: str
    stand_in: LagoStandIn
    organization: Organization
    database_url: str

    def settings(self, **more: str) -> dict[str, str]:
        """What the proxy is told."""
        return {
            "LAGO_API_BASE": self.url,
            "LAGO_API_KEY": KEY,
            "LAGO_API_EVENT_CODE": "team_id",
            "LAGO_API_CHARGE_BY": "team_id",
            **more,
        }

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Put the rows where the proxy's writer would have put them."""
        insert(self.database_url, rows)

    def rows(self, charge_by: str) -> dict[str, dict[str, Any]]:
        """The written rows by the transaction ID that the job gives them; `billable` where it would send them."""
        statement = f"""
            SELECT request_id, "{COLUMNS[charge_by]}", model, custom_llm_provider, spend, prompt_tokens,
              completion_tokens, total_tokens, status, cache_hit,
              extract(epoch FROM "startTime") * 1000, extract(epoch FROM "endTime") * 1000
            FROM "LiteLLM_SpendLogs"
        """
        with psycopg.connect(self.database_url) as connection:
            found = connection.execute(statement.encode()).fetchall()
        rows = {}
        for request_id, charge_id, model, provider, spend, prompt, completion, total, status, hit, start, end in found:
            rows[transaction_id(charge_by, charge_id or "", request_id, int(start))] = {
                "request_id": request_id,
                "subscription": charge_id,
                "content": (bare_model(model, provider), spend, prompt, completion, total),
                "usage_ms": int(end),
                "cached": hit == "True",
                "billable": status != "failure" and charge_id not in (None, "", "litellm-dashboard", "default_user_id"),
            }
        return rows

    def events(self, code: str) -> list[dict[str, Any]]:
        """What Lago holds of one code."""
        return list(self.organization.stored_events(code))


def content(event: dict[str, Any]) -> tuple[str, float, int, int, int]:
    """What an event says, in the words of its row."""
    said = event["properties"]
    tokens = (int(said[name]) for name in ("prompt_tokens", "completion_tokens", "total_tokens"))
    prompt, completion, total = tokens
    return (said["model"], float(said["response_cost"]), prompt, completion, total)


def times(events: list[dict[str, Any]]) -> Counter[str]:
    return Counter(event["transaction_id"] for event in events)


@contextmanager
def world(postgres_url: str, litellm_template: str, store: Any = "postgres") -> Iterator[World]:
    database_url = create_database(postgres_url, template=litellm_template)
    with LagoStandIn(create_database(postgres_url)) as stand_in, lago_server(stand_in) as url:
        organization = stand_in.add_organization(KEY, events_store=store)
        for code in CODES:
            organization.add_billable_metric(code)
        for charge_id in ("team-a", "user-1", "customer-body", "customer-header", "customer-metadata"):
            organization.add_subscription(charge_id, started_at=BEGIN, period=(BEGIN, END))
        yield World(url, stand_in, organization, database_url)

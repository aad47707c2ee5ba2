"""The two servers together, as `reconcile sandbox` and `reconcile demo` start them."""

from __future__ import annotations

import socket
from datetime import UTC, date, datetime

import httpx
import psycopg
import pytest

from reconcile.errors import LagoFault
from reconcile.sandbox.servers import SandboxServers, lago_server, sandbox
from reconcile.sandbox.traffic import load_traffic

from .conftest import EVENT, Api


def client(servers: SandboxServers) -> httpx.Client:
    environment = servers.environment
    return httpx.Client(
        base_url=f"{environment['LAGO_API_BASE']}/api/v1",
        headers={"authorization": f"Bearer {environment['LAGO_API_KEY']}"},
        trust_env=False,
    )


def test_sandbox_with_traffic() -> None:
    traffic = load_traffic(date(2026, 11, 20))
    with sandbox(traffic) as servers, client(servers) as lago:
        with psycopg.connect(servers.environment["DATABASE_URL"]) as connection:
            count = connection.execute('SELECT count(*) FROM "LiteLLM_SpendLogs"').fetchone()
        assert count == (len(traffic.rows),)
        stored = servers.organization.stored_events(servers.environment["LAGO_API_EVENT_CODE"])
        assert len(stored) == len(traffic.events)
        moments = {event["transaction_id"]: event["timestamp"].replace(tzinfo=UTC) for event in stored}
        assert all(moments[live.event["transaction_id"]] == live.received_at for live in traffic.events)
        subscriptions = lago.get("/subscriptions", params={"per_page": 1_000}).json()["subscriptions"]
        assert sorted(entry["external_id"] for entry in subscriptions) == traffic.charge_ids
        begin = min(row["endTime"] for row in traffic.rows).replace(tzinfo=UTC)
        end = max(row["endTime"] for row in traffic.rows).replace(tzinfo=UTC)
        for entry in subscriptions:
            period = [entry[f"current_billing_period_{edge}"] for edge in ("started_at", "ending_at")]
            assert datetime.fromisoformat(period[0]) <= begin <= end <= datetime.fromisoformat(period[1])
        assert lago.get("/billable_metrics/llm_usage").json()["billable_metric"]["field_name"] == "response_cost"


def test_sandbox_without_live_events() -> None:
    with sandbox(load_traffic(date(2026, 11, 20), "user_id"), charge_by="user_id", live_events=False) as servers:
        assert servers.organization.stored_events() == []
        assert servers.environment["LAGO_API_CHARGE_BY"] == "user_id"


def test_a_taken_port_is_named(api: Api) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LagoFault, match=f"port {port}"), lago_server(api.stand_in, port):
            pass


def test_seeding_refuses_what_lago_would_refuse(api: Api) -> None:
    moment = datetime(2026, 11, 20, tzinfo=UTC)
    with pytest.raises(ValueError, match="Lago refuses"):
        api.organization.seed_events([(moment, {**EVENT, "code": ""})])
    api.organization.seed_events([(moment, EVENT)])
    with pytest.raises(ValueError, match="1 of these events are in Lago already"):
        api.organization.seed_events([(moment, EVENT)])

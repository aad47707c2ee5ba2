"""The sandbox's two servers, for the demo, `reconcile sandbox` and the tests."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, timedelta
from typing import Literal

import uvicorn

from reconcile.errors import LagoFault
from reconcile.sandbox.lago import VERSIONS, LagoStandIn, Organization, Slow
from reconcile.sandbox.litellm_schema import insert_rows, migrate
from reconcile.sandbox.postgres import create_database, postgres
from reconcile.sandbox.traffic import EVENT_CODE, Traffic

START_SECONDS = 30.0
API_KEY = "sandbox-lago-key"  # opens nothing but the sandbox


@dataclass(frozen=True, slots=True)
class SandboxServers:
    """Running servers. `environment` is what `reconcile` needs to know of them, by its settings' names."""

    database_url: str
    lago_url: str
    stand_in: LagoStandIn
    organization: Organization
    environment: dict[str, str]


@contextlib.contextmanager
def lago_server(stand_in: LagoStandIn, port: int = 0) -> Iterator[str]:
    """Serves the stand-in on 127.0.0.1 from a thread and yields its base URL; `port` 0 takes a free one.

    Raises LagoFault where the port is taken.
    """
    # With the protocol named, asyncio switches Nagle's algorithm off; without, each answer takes 40 ms longer.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        listener.close()
        raise LagoFault(f"the sandbox's Lago cannot listen on port {port}: {error.strerror}") from error
    config = uvicorn.Config(
        stand_in.app(),
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        date_header=False,  # a Lago without a proxy in front sends none; Faults.date_header adds it
        proxy_headers=False,
        loop="asyncio",
        timeout_graceful_shutdown=0,  # requests that hang by order are not waited for
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), name="lago-stand-in", daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + START_SECONDS
        while not server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise LagoFault("the sandbox's Lago does not start")
            time.sleep(0.005)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@contextlib.contextmanager
def sandbox(
    traffic: Traffic | None = None,
    *,
    charge_by: str = "team_id",
    event_code: str = EVENT_CODE,
    live_events: bool = True,
    lago_port: int = 0,
    store: Literal["postgres", "clickhouse"] = "postgres",
    version: str = "1.51",
    slow_workers: int | None = None,
) -> Iterator[SandboxServers]:
    """Postgres with LiteLLM's schema, and Lago with a metric and the subscriptions of the traffic.

    Without `traffic` both are empty. `live_events`: what LiteLLM's own callback delivered is in Lago already.
    `store` and `version` (`1.51`, `1.38`) say which Lago it is; with `slow_workers` it is as slow as a real one that
    has so many processes.
    """
    with contextlib.ExitStack() as stack:
        server_url = stack.enter_context(postgres())
        database_url = create_database(server_url, "litellm")
        migrate(database_url)
        slow = None if slow_workers is None else Slow(slow_workers)
        lago = LagoStandIn(create_database(server_url, "lago"), version=VERSIONS[version], slow=slow)
        stand_in = stack.enter_context(lago)
        organization = stand_in.add_organization(API_KEY, name="Sandbox", events_store=store)
        organization.add_billable_metric(event_code)
        if traffic is not None:
            insert_rows(database_url, traffic.rows)
            subscribe(organization, traffic)
            if live_events:
                organization.seed_events((live.received_at, live.event) for live in traffic.events)
        lago_url = stack.enter_context(lago_server(stand_in, lago_port))
        environment = {
            "DATABASE_URL": database_url,
            "LAGO_API_BASE": lago_url,
            "LAGO_API_KEY": API_KEY,
            "LAGO_API_EVENT_CODE": event_code,
            "LAGO_API_CHARGE_BY": charge_by,
        }
        yield SandboxServers(database_url, lago_url, stand_in, organization, environment)


def subscribe(organization: Organization, traffic: Traffic) -> None:
    """A subscription for each charge ID of the traffic, with one open billing period over all of it."""
    begin = min(row["startTime"] for row in traffic.rows).replace(tzinfo=UTC) - timedelta(days=1)
    end = max(row["endTime"] for row in traffic.rows).replace(tzinfo=UTC) + timedelta(days=31)
    for charge_id in traffic.charge_ids:
        organization.add_subscription(charge_id, started_at=begin, period=(begin, end))

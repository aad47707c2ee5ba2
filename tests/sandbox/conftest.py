"""One Lago for a whole module of tests, with an organization of its own for each test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import httpx
import pytest

from reconcile.sandbox.lago import LagoStandIn, Organization
from reconcile.sandbox.lago.faults import Faults
from reconcile.sandbox.postgres import create_database, drop_database
from reconcile.sandbox.servers import lago_server

NOW = datetime(2026, 11, 20, 12, 0, 0, 344_999, tzinfo=UTC)
EVENT = {
    "transaction_id": "t-1",
    "external_subscription_id": "sub-1",
    "code": "llm_usage",
    "timestamp": 1_795_000_000,
    "precise_total_amount_cents": "123.45",
    "properties": {"response_cost": "0.5"},
}


@dataclass(frozen=True, slots=True)
class Api:
    """An organization and a client with its key."""

    stand_in: LagoStandIn
    organization: Organization
    client: httpx.Client
    key: str

    def get(self, path: str, **params: Any) -> httpx.Response:
        return self.client.get(path, params=params)

    def post(self, path: str, body: Any) -> httpx.Response:
        return self.client.post(path, json=body)

    def create(self, **changes: Any) -> httpx.Response:
        """Posts EVENT with changes; a change to `...` leaves the field out."""
        event = {name: value for name, value in {**EVENT, **changes}.items() if value is not ...}
        return self.post("/events", {"event": event})

    def create_batch(self, *changes: dict[str, Any]) -> httpx.Response:
        return self.post("/events/batch", {"events": [{**EVENT, **change} for change in changes]})

    def count(self) -> int:
        return len(self.organization.stored_events())


@dataclass(frozen=True, slots=True)
class Lagos:
    """The running stand-in, and a maker of organizations on it."""

    stand_in: LagoStandIn
    url: str
    numbers: Iterator[int]

    def organization(self, events_store: Literal["postgres", "clickhouse"], **options: Any) -> Api:
        key = f"key-{next(self.numbers)}"
        organization = self.stand_in.add_organization(key, events_store=events_store, **options)
        client = httpx.Client(
            base_url=f"{self.url}/api/v1", headers={"authorization": f"Bearer {key}"}, trust_env=False
        )
        return Api(self.stand_in, organization, client, key)


@pytest.fixture(scope="module")
def running(postgres_url: str) -> Iterator[Lagos]:
    url = create_database(postgres_url)
    with LagoStandIn(url) as stand_in, lago_server(stand_in) as base:
        yield Lagos(stand_in, base, itertools.count())
    drop_database(postgres_url, url.rsplit("/", 1)[1])


@pytest.fixture
def lagos(running: Lagos) -> Iterator[Lagos]:
    """The stand-in at NOW, with every knob off."""
    running.stand_in.now = lambda: NOW
    running.stand_in.requests.clear()
    yield running
    running.stand_in.faults.__init__()  # type: ignore[misc]  # the application keeps this very object


@pytest.fixture
def api(lagos: Lagos) -> Iterator[Api]:
    """A fresh organization on a Postgres store."""
    api = lagos.organization("postgres")
    with api.client:
        yield api


@pytest.fixture
def clickhouse(lagos: Lagos) -> Iterator[Api]:
    """A fresh organization on a ClickHouse store."""
    api = lagos.organization("clickhouse")
    with api.client:
        yield api


@pytest.fixture
def faults(lagos: Lagos) -> Faults:
    return lagos.stand_in.faults

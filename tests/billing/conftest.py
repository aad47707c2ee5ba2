"""Worlds on shared servers: every test has a Lago organization, and with it a ledger, of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Literal

import psycopg
import pytest
from conftest import Lago

from reconcile.sandbox.lago import LagoStandIn
from reconcile.sandbox.lago.faults import Faults
from reconcile.sandbox.postgres import create_database
from reconcile.sandbox.servers import lago_server

from .world import CODE, World

Store = Literal["postgres", "clickhouse"]


@pytest.fixture(scope="session")
def organizations(postgres_url: str) -> Iterator[Callable[[Store], Lago]]:
    """A maker of organizations without a metric, on one running Lago."""
    numbers = itertools.count()
    with LagoStandIn(create_database(postgres_url)) as stand_in, lago_server(stand_in) as url:

        def make(store: Store) -> Lago:
            Faults.__init__(stand_in.faults)  # the application keeps this very object
            stand_in.requests.clear()
            key = f"lago-secret-key-{next(numbers)}-5b2d"
            return Lago(url, key, stand_in, stand_in.add_organization(key, events_store=store))

        yield make


@pytest.fixture(scope="session")
def spend_database(postgres_url: str, litellm_template: str) -> str:
    """LiteLLM's database, shared by the worlds; the ledger is in it too."""
    return create_database(postgres_url, template=litellm_template)


@pytest.fixture
def bare_world(spend_database: str, organizations: Callable[[Store], Lago]) -> World:
    """An empty spend log and a Lago on a Postgres store that holds nothing, not even a metric."""
    return _emptied(World(spend_database, organizations("postgres")))


@pytest.fixture
def world(bare_world: World) -> World:
    """The same with the metric `llm_usage`, the sum of `response_cost`."""
    bare_world.lago.organization.add_billable_metric(CODE)
    return bare_world


@pytest.fixture
def clickhouse_world(spend_database: str, organizations: Callable[[Store], Lago]) -> World:
    """A world whose Lago keeps its events in ClickHouse."""
    lago = organizations("clickhouse")
    lago.organization.add_billable_metric(CODE)
    return _emptied(World(spend_database, lago))


@pytest.fixture(params=["postgres", "clickhouse"])
def any_bare_world(
    request: pytest.FixtureRequest, spend_database: str, organizations: Callable[[Store], Lago]
) -> World:
    """Each store in turn, without a metric."""
    return _emptied(World(spend_database, organizations(request.param)))


@pytest.fixture
def any_world(any_bare_world: World) -> World:
    """Each store in turn, with the metric `llm_usage`, the sum of `response_cost`."""
    any_bare_world.lago.organization.add_billable_metric(CODE)
    return any_bare_world


def _emptied(world: World) -> World:
    with psycopg.connect(world.database_url) as connection:
        connection.execute('TRUNCATE "LiteLLM_SpendLogs"')
    return world

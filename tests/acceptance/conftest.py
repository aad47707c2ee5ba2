"""Worlds to run the program in. The servers are shared, and each test has an organization and a ledger of its own."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import psycopg
import pytest
import structlog
from integration.conftest import pgbouncer  # noqa: F401 - a fixture

from reconcile.sandbox.lago import LagoStandIn
from reconcile.sandbox.lago.faults import Faults
from reconcile.sandbox.postgres import create_database
from reconcile.sandbox.servers import lago_server

from .harness import CODE, Lago, World

Store = Literal["postgres", "clickhouse"]


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """The program sets up logging for its whole process, which here is that of all tests."""
    before = {name: logging.getLogger(name).level for name in ("httpx", "httpcore", "alembic")}
    yield
    structlog.reset_defaults()
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture(scope="session")
def lagos(postgres_url: str) -> Iterator[Callable[[Store], Lago]]:
    """A maker of organizations with the metric `llm_usage` and nothing else, on one running Lago."""
    numbers = itertools.count()
    with LagoStandIn(create_database(postgres_url)) as stand_in, lago_server(stand_in) as url:

        def make(store: Store) -> Lago:
            Faults.__init__(stand_in.faults)  # the application keeps this very object
            stand_in.requests.clear()
            key = f"lago-secret-key-{next(numbers)}-7d1e"
            organization = stand_in.add_organization(key, events_store=store)
            organization.add_billable_metric(CODE)
            return Lago(url, key, stand_in, organization)

        yield make


@pytest.fixture(scope="session")
def spend_database(postgres_url: str, litellm_template: str) -> str:
    """LiteLLM's database, shared by the worlds."""
    return create_database(postgres_url, template=litellm_template)


@pytest.fixture
def worlds(
    spend_database: str,
    lagos: Callable[[Store], Lago],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Iterator[Callable[[Store], World]]:
    """A maker of worlds: an empty spend log, no ledger, and a Lago of its own."""
    made: list[World] = []

    def make(store: Store) -> World:
        with psycopg.connect(spend_database) as connection:
            connection.execute('TRUNCATE "LiteLLM_SpendLogs"')
            connection.execute("DROP SCHEMA IF EXISTS reconcile CASCADE")
        made.append(World(spend_database, lagos(store), tmp_path, monkeypatch, capfd))
        return made[-1]

    yield make
    for world in made:
        world.no_secret_is_kept()


@pytest.fixture
def world(worlds: Callable[[Store], World]) -> World:
    """A world whose Lago keeps its events in Postgres."""
    return worlds("postgres")


@pytest.fixture
def clickhouse_world(worlds: Callable[[Store], World]) -> World:
    """A world whose Lago keeps its events in ClickHouse."""
    return worlds("clickhouse")

"""Real parts for every test: a Postgres server, a fresh database with LiteLLM's schema, a Lago over HTTP."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg
import pytest
from hypothesis import settings
from psycopg import sql

from reconcile.lago import Lago as Client
from reconcile.lago import Retry, http
from reconcile.run import preflight
from reconcile.sandbox.lago import LagoStandIn, Organization
from reconcile.sandbox.lago.faults import Faults
from reconcile.sandbox.litellm_schema import migrate
from reconcile.sandbox.postgres import create_database, drop_database, postgres
from reconcile.sandbox.servers import lago_server

TEMPLATE = "litellm_template"
LAGO_KEY = "lago-test-key-3f9c"
SOON_GIVEN_UP = Retry(attempts=3, wait_initial=0.01, wait_max=0.02, rate_limit_seconds=2.0)

# How long an example takes says more about the machine than about the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    """Where every program is said to be there, a skipped test is a failure."""
    report = yield
    if report.skipped and os.environ.get("NO_SKIPS") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, where nothing may be: {report.longrepr}"
    return report


@dataclass(frozen=True, slots=True)
class Lago:
    """A running Lago of one organization. `url` is what LAGO_API_BASE takes; `key` opens the organization."""

    url: str
    key: str
    stand_in: LagoStandIn
    organization: Organization

    @property
    def faults(self) -> Faults:
        return self.stand_in.faults


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The superuser's URL of a server that this test session has for itself."""
    with postgres() as url:
        yield url


@pytest.fixture(scope="session")
def litellm_template(postgres_url: str) -> str:
    """The name of a database that holds LiteLLM's newest schema and nothing else: a template to copy."""
    migrate(create_database(postgres_url, TEMPLATE))
    return TEMPLATE


@pytest.fixture
def database_url(postgres_url: str, litellm_template: str) -> Iterator[str]:
    """A fresh database with LiteLLM's newest schema."""
    url = create_database(postgres_url, template=litellm_template)
    yield url
    drop_database(postgres_url, url.rsplit("/", 1)[1])


@pytest.fixture
def empty_database_url(postgres_url: str) -> Iterator[str]:
    """A fresh database without any table."""
    url = create_database(postgres_url)
    yield url
    drop_database(postgres_url, url.rsplit("/", 1)[1])


@pytest.fixture(scope="session")
def kept_lago_database_url(postgres_url: str) -> str:
    """The database of one test's Lago after the other's: emptying it takes a quarter of the time of making another."""
    return create_database(postgres_url)


@pytest.fixture
def lago_database_url(kept_lago_database_url: str) -> str:
    """A database in which no Lago has anything."""
    with psycopg.connect(kept_lago_database_url) as connection:
        found = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'lago'").fetchall()
        connection.execute("SET session_replication_role = replica")  # in any order, whatever refers to what
        for (table,) in found:
            connection.execute(sql.SQL("DELETE FROM lago.{}").format(sql.Identifier(table)))
    return kept_lago_database_url


@pytest.fixture
def lago(lago_database_url: str) -> Iterator[Lago]:
    """A Lago on a Postgres store with the metric `llm_usage` (sum of `response_cost`), otherwise empty."""
    with LagoStandIn(lago_database_url) as stand_in:
        organization = stand_in.add_organization(LAGO_KEY)
        organization.add_billable_metric("llm_usage")
        with lago_server(stand_in) as url:
            yield Lago(url, LAGO_KEY, stand_in, organization)


@pytest.fixture
def clickhouse_lago(lago_database_url: str) -> Iterator[Lago]:
    """The same on a ClickHouse store."""
    with LagoStandIn(lago_database_url) as stand_in:
        organization = stand_in.add_organization(LAGO_KEY, events_store="clickhouse")
        organization.add_billable_metric("llm_usage")
        with lago_server(stand_in) as url:
            yield Lago(url, LAGO_KEY, stand_in, organization)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lago is given up on after moments, where a run in this process would try for a minute and a half."""
    monkeypatch.setattr(preflight, "Lago", partial(Client, retry=SOON_GIVEN_UP))
    monkeypatch.setattr(http, "PREFLIGHT", SOON_GIVEN_UP)

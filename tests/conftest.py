"""Real parts for every test: a Postgres server, a fresh database with LiteLLM's schema."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from reconcile.sandbox.litellm_schema import migrate
from reconcile.sandbox.postgres import create_database, drop_database, postgres

TEMPLATE = "litellm_template"


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

"""Worlds to break. The servers are shared; each test has a database, a ledger and an organization of its own."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from integration.conftest import pgbouncer  # noqa: F401 - a fixture

from reconcile.ledger import Ledger
from reconcile.sandbox.lago import V1_38, LagoStandIn
from reconcile.sandbox.lago.faults import Faults
from reconcile.sandbox.postgres import create_database, drop_database
from reconcile.sandbox.servers import lago_server
from reconcile.settings.database import database

from .launcher import Launcher, launching
from .proxy import Proxy
from .world import CODE, Mode, World

WHOLE = bool(os.environ.get("FAULT_MATRIX"))
"""Whether the whole matrix runs; a part that stands for it otherwise."""


@pytest.fixture(scope="session")
def launcher() -> Iterator[Launcher]:
    with launching() as found:
        yield found


@pytest.fixture(scope="session")
def ledger_template(postgres_url: str, litellm_template: str) -> str:
    """The name of a database with LiteLLM's tables and an empty ledger."""
    url = create_database(postgres_url, template=litellm_template)
    found = database(url)
    with Ledger(found.sqlalchemy, found.display) as ledger:
        ledger.migrate()
    return url.rsplit("/", 1)[1]


@pytest.fixture(scope="session")
def lagos(postgres_url: str) -> Iterator[Callable[[Mode], tuple[str, LagoStandIn]]]:
    """A Lago of today and one before 1.39, as they are asked for."""
    running: dict[bool, tuple[Any, Any, str, LagoStandIn]] = {}

    def make(mode: Mode) -> tuple[str, LagoStandIn]:
        old = mode == "1.38"
        if old not in running:
            options: dict[str, Any] = {"version": V1_38} if old else {}
            stand_in = LagoStandIn(create_database(postgres_url), **options)
            server = lago_server(stand_in)
            running[old] = (stand_in, server, server.__enter__(), stand_in)
        _, _, url, stand_in = running[old]
        Faults.__init__(stand_in.faults)  # the application keeps this very object
        stand_in.faults.before_1_39 = old
        stand_in.requests.clear()
        return url, stand_in

    yield make
    for stand_in, server, _, _ in running.values():
        server.__exit__(None, None, None)
        stand_in.close()


@pytest.fixture
def worlds(
    postgres_url: str,
    litellm_template: str,
    ledger_template: str,
    lagos: Callable[[Mode], tuple[str, LagoStandIn]],
    launcher: Launcher,
    tmp_path: Path,
) -> Iterator[Callable[..., World]]:
    """A maker of worlds. `fresh`: nothing has ever run there, so the ledger is not made yet."""
    made: list[World] = []
    numbers = itertools.count()

    def make(mode: Mode = "postgres", *, fresh: bool = False) -> World:
        url, stand_in = lagos(mode)
        key = f"lago-secret-key-{os.urandom(6).hex()}"
        organization = stand_in.add_organization(key, events_store="clickhouse" if mode == "clickhouse" else "postgres")
        organization.add_billable_metric(CODE)
        if mode == "clickhouse":
            stand_in.faults.visibility_lag = 1.0
        database_url = create_database(postgres_url, template=litellm_template if fresh else ledger_template)
        folder = tmp_path / f"world-{next(numbers)}"
        folder.mkdir()
        server, lago = urlsplit(database_url), urlsplit(url)
        to_postgres = Proxy(str(server.hostname), int(server.port or 0))
        to_lago = Proxy("127.0.0.1", int(lago.port or 0))
        world = World(mode, database_url, url, key, stand_in, organization, folder, launcher, to_postgres, to_lago)
        made.append(world)
        return world

    yield make
    for world in made:
        for process in world.processes:
            process.kill()
            process.wait()
        world.to_postgres.close()
        world.to_lago.close()
        drop_database(postgres_url, urlsplit(world.database_url).path[1:])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves out what only the whole matrix holds."""
    if WHOLE:
        return
    left_out = [item for item in items if item.get_closest_marker("whole_matrix")]
    for item in left_out:
        items.remove(item)

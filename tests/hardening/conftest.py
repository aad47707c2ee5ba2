"""Sieges: LiteLLM's real Postgres, and a Lago in hostile hands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from acceptance.conftest import _logging_as_it_was, spend_database  # noqa: F401 - fixtures
from acceptance.harness import World

from .hostile_lago import HostileLago, serving

Besiege = Callable[[str], "Siege"]


class Siege(World):
    """A world whose Lago is hostile. Every run is held to the rules of all worlds: no traceback, no secret."""

    @property
    def hostile(self) -> HostileLago:
        lago = self.lago
        assert isinstance(lago, HostileLago)
        return lago


@pytest.fixture
def besiege(
    spend_database: str,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Iterator[Besiege]:
    """A maker of sieges, by the store of their Lago."""
    made: list[Siege] = []
    with ExitStack() as stack:

        def make(store: str) -> Siege:
            with psycopg.connect(spend_database) as connection:
                connection.execute('TRUNCATE "LiteLLM_SpendLogs"')
                connection.execute("DROP SCHEMA IF EXISTS reconcile CASCADE")
            lago = stack.enter_context(serving(HostileLago(store)))
            lago.subscribe("team-a", "team-b", "team-c")
            made.append(Siege(spend_database, lago, tmp_path, monkeypatch, capfd))  # type: ignore[arg-type]
            return made[-1]

        yield make
        for siege in made:
            siege.no_secret_is_kept()


@pytest.fixture
def siege(besiege: Besiege) -> Siege:
    """One against a Lago that keeps its events in Postgres."""
    return besiege("postgres")

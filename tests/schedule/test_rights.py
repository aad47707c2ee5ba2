"""The least-rights SQL of docs/operations.md: it is enough for the job, and the database refuses everything else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from reconcile.domain.window import Window
from reconcile.errors import PreflightError
from reconcile.run import job
from reconcile.run.check import checks
from reconcile.run.job import Order
from reconcile.run.preflight import open_ledger
from reconcile.settings import load

from .conftest import World
from .test_process import utc

RUNBOOK = Path(__file__).parents[2] / "docs/operations.md"


@pytest.fixture
def users(world: World, postgres_url: str) -> Iterator[dict[str, str]]:
    """URLs of the two users that the runbook creates."""
    (statements,) = re.findall(r"```sql\n(.*?)```", RUNBOOK.read_text(encoding="utf-8"), re.DOTALL)
    world.execute(statements)
    place = urlsplit(world.database_url)
    at = f"{place.hostname}:{place.port}{place.path}"
    yield {
        "DATABASE_URL": f"postgresql://reconcile_reader:change-me-1@{at}",
        "RECONCILE_STATE_URL": f"postgresql://reconcile_state:change-me-2@{at}",
    }
    for role in ("reconcile_reader", "reconcile_state"):
        world.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


def test_the_job_needs_no_more(world: World, users: dict[str, str]) -> None:
    world.add_rows("2026-11-02T12:00Z", "2026-11-02T13:00Z")
    settings = load({**world.environment, **users}, None)
    assert [check.text for check in checks(settings) if not check.ok] == []
    window = Window(utc("2026-11-02T00:00Z"), utc("2026-11-03T00:00Z"))
    for command, code in (("report", 1), ("run", 0), ("backfill", 0), ("report", 0)):
        result = job.run(settings, Order(command, window))
        assert result.exit_code == code, result.document.fault
    assert sum(world.billed().values()) == 2
    assert result.document.verified is None
    assert len(world.runs()) == 4


@pytest.mark.parametrize(
    "statement",
    [
        'DELETE FROM "LiteLLM_SpendLogs"',
        'UPDATE "LiteLLM_SpendLogs" SET spend = 0',
        'INSERT INTO "LiteLLM_SpendLogs" SELECT * FROM "LiteLLM_SpendLogs"',
        'TRUNCATE "LiteLLM_SpendLogs"',
        'DROP TABLE "LiteLLM_SpendLogs"',
        'SELECT 1 FROM "LiteLLM_VerificationToken"',
        "CREATE TABLE public.mine (id int)",
        "CREATE SCHEMA mine",
    ],
)
def test_the_database_refuses_the_rest(world: World, users: dict[str, str], statement: str) -> None:
    for url in users.values():
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("SET default_transaction_read_only = off")  # no right hangs on it
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)  # type: ignore[arg-type]  # a plain string, from the list above


def test_the_reader_is_read_only_by_default(users: dict[str, str]) -> None:
    with psycopg.connect(users["DATABASE_URL"]) as connection:
        assert connection.execute("SHOW default_transaction_read_only").fetchone() == ("on",)


def test_the_state_user_cannot_read_litellm(users: dict[str, str]) -> None:
    with (
        psycopg.connect(users["RECONCILE_STATE_URL"]) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute('SELECT 1 FROM "LiteLLM_SpendLogs"')


def test_a_schema_of_a_newer_version_is_refused(world: World) -> None:
    settings = load(world.environment, None)
    with open_ledger(settings) as ledger:
        ledger.migrate()
        world.execute("UPDATE reconcile.alembic_version SET version_num = '9999'")
        with pytest.raises(PreflightError, match="holds the schema of a newer reconcile"):
            ledger.migrate()

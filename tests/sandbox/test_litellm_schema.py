"""LiteLLM's schema at every age, from its own migrations."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import psycopg
import pytest

from reconcile.sandbox.litellm_schema import insert_rows, migrate, migrations, partition

OLDEST, WITH_STATUS, WITH_ORGANIZATION = "20250326162113", "20250508072103", "20251122125322"
ROW = {
    "request_id": "r-1",
    "call_type": "acompletion",
    "spend": 0.25,
    "startTime": datetime(2026, 11, 20, 10, tzinfo=UTC),
    "endTime": datetime(2026, 11, 20, 10, 0, 1, 344_000, tzinfo=UTC),
    "metadata": {"a": 1},
    "request_tags": "[]",
}


def query(url: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(statement.encode()).fetchall()


def columns(url: str) -> set[str]:
    statement = "SELECT column_name FROM information_schema.columns WHERE table_name = 'LiteLLM_SpendLogs'"
    return {name for (name,) in query(url, statement)}


def test_every_migration_is_there() -> None:
    assert len(migrations()) == 220
    assert any(" " in file.parent.name for file in migrations())


def test_newest(database_url: str) -> None:
    tables = query(database_url, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
    assert tables == [(101,)]
    assert {"status", "organization_id", "litellm_call_id", "billing_agent_id"} <= columns(database_url)
    indexes = {name for (name,) in query(database_url, "SELECT indexname FROM pg_indexes")}
    assert "LiteLLM_SpendLogs_startTime_request_id_idx" in indexes


@pytest.mark.parametrize(
    ("age", "has", "lacks"),
    [
        (OLDEST, {"end_user", "team_id"}, {"status", "organization_id", "session_id"}),
        (WITH_STATUS, {"status", "session_id"}, {"organization_id"}),
        (WITH_ORGANIZATION, {"status", "organization_id"}, {"created_at", "litellm_call_id"}),
    ],
)
def test_ages(empty_database_url: str, age: str, has: set[str], lacks: set[str]) -> None:
    migrate(empty_database_url, age)
    assert has <= columns(empty_database_url)
    assert not lacks & columns(empty_database_url)
    insert_rows(empty_database_url, [ROW])
    assert query(empty_database_url, 'SELECT count(*) FROM "LiteLLM_SpendLogs"') == [(1,)]


def test_an_unknown_age(empty_database_url: str) -> None:
    with pytest.raises(ValueError, match="no migration '2031'"):
        migrate(empty_database_url, "2031")


def test_rows_are_stored_as_utc(database_url: str) -> None:
    insert_rows(database_url, [])
    elsewhere = datetime(2026, 11, 20, 12, 0, 1, 344_000, tzinfo=timezone(timedelta(hours=2)))
    other = {**ROW, "request_id": "r-2", "spend": float("nan"), "metadata": None, "endTime": elsewhere}
    insert_rows(database_url, [ROW, other])
    rows = query(
        database_url,
        """SELECT request_id, spend::text, "endTime", metadata, request_tags FROM "LiteLLM_SpendLogs" ORDER BY 1""",
    )
    end = datetime(2026, 11, 20, 10, 0, 1, 344_000)  # noqa: DTZ001 - the column has no zone
    assert rows == [("r-1", "0.25", end, {"a": 1}, []), ("r-2", "NaN", end, None, [])]


def test_partitioned(database_url: str) -> None:
    insert_rows(database_url, [ROW])
    partition(database_url, date(2026, 10, 15), date(2026, 11, 30))
    later = {**ROW, "startTime": datetime(2027, 1, 1, tzinfo=UTC)}
    insert_rows(database_url, [later, {**ROW, "startTime": datetime(2026, 10, 31, 23, 59, tzinfo=UTC)}])
    statement = """SELECT tableoid::regclass::text FROM "LiteLLM_SpendLogs" ORDER BY "startTime" """
    assert [name for (name,) in query(database_url, statement)] == [
        '"LiteLLM_SpendLogs_p202610"',
        '"LiteLLM_SpendLogs_p202611"',
        '"LiteLLM_SpendLogs_default"',
    ]
    with pytest.raises(psycopg.errors.UniqueViolation):
        insert_rows(database_url, [ROW])
    with psycopg.connect(database_url) as connection:
        connection.execute("SET enable_seqscan = off")
        plan = connection.execute(
            """EXPLAIN SELECT * FROM "LiteLLM_SpendLogs" WHERE "startTime" = '2026-11-20 10:00'"""
        )
        assert "Index Scan" in str(plan.fetchall())

"""How Postgres answers the statements of `sql/` on a table of LiteLLM's, at a size where it matters."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from reconcile import statements
from reconcile.sandbox.postgres import create_database, drop_database

TABLE = "LiteLLM_SpendLogs"
ROWS = 200_000  # over ten days, of a kilobyte each: LiteLLM's own have 1 to 9
BEGIN = datetime(2025, 11, 1, tzinfo=UTC)

FILL = f"""
INSERT INTO "{TABLE}" (request_id, call_type, spend, "startTime", "endTime", model, team_id, status, metadata)
SELECT 'r-' || number, 'acompletion', 0.01, moment, moment + interval '2 seconds', 'gpt-4o-mini', 'team-a', 'success',
    to_jsonb(repeat('m', 900))
FROM generate_series(1, {ROWS}) AS number,
    LATERAL (SELECT timestamp '2025-11-01' + number * interval '10 days' / {ROWS} AS moment) AS its
"""


@pytest.fixture(scope="module")
def large_table(postgres_url: str, litellm_template: str) -> Iterator[psycopg.Connection]:
    url = create_database(postgres_url, template=litellm_template)
    with psycopg.connect(url, autocommit=True) as connection:
        # VACUUM takes only rows for visible to all whose commit has been flushed.
        connection.execute("SET synchronous_commit = on")
        connection.execute(FILL.encode())
        connection.execute(f'VACUUM (ANALYZE) "{TABLE}"'.encode())
        yield connection
    drop_database(postgres_url, url.rsplit("/", 1)[1])


def plan(connection: psycopg.Connection, name: str, **values: Any) -> list[dict[str, Any]]:
    """Every node of the plan that reads a table."""
    statement = statements.render(name, schema="public", table=TABLE, **values)
    found = connection.execute(f"EXPLAIN (FORMAT JSON) {statement}".encode()).fetchone()
    assert found is not None
    top = found[0] if isinstance(found[0], list) else json.loads(found[0])
    return [node for node in nodes(top[0]["Plan"]) if "Relation Name" in node or "Index Name" in node]


def nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for part in node.get("Plans", []):
        yield from nodes(part)


@pytest.mark.parametrize(
    ("length", "back"),
    [(timedelta(hours=1, minutes=5), timedelta(0)), (timedelta(hours=25), timedelta(hours=24))],
    ids=["a slice", "the first slice, with the longest call"],
)
def test_rows_are_found_by_the_index_on_their_start(
    large_table: psycopg.Connection, length: timedelta, back: timedelta
) -> None:
    start = BEGIN + timedelta(days=5)
    found = plan(
        large_table,
        "spend_logs_rows",
        charge_column="team_id",
        start_from=start - back,
        start_to=start - back + length,
        end_from=start,
        end_to=start + timedelta(days=1),
    )
    assert {node["Node Type"] for node in found} <= {"Index Scan", "Bitmap Index Scan", "Bitmap Heap Scan"}
    (by_index,) = [node for node in found if "Index Name" in node]
    assert "startTime" in by_index["Index Name"]
    assert by_index["Index Cond"].count('"startTime"') == 2


def test_hours_are_counted_from_an_index_alone(large_table: psycopg.Connection) -> None:
    found = plan(
        large_table, "spend_logs_hours", start_from=BEGIN + timedelta(days=1), start_to=BEGIN + timedelta(days=8)
    )
    assert [node["Node Type"] for node in found] == ["Index Only Scan"]
    assert "startTime" in found[0]["Index Name"]


def test_all_of_a_long_month_is_counted_from_an_index_alone(large_table: psycopg.Connection) -> None:
    found = plan(large_table, "spend_logs_hours", start_from=BEGIN, start_to=BEGIN + timedelta(days=35))
    assert [node["Node Type"] for node in found] == ["Index Only Scan"]

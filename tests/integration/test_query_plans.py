"""How Postgres answers the statements of `sql/` on a table of LiteLLM's, at a size where it matters."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from reconcile import statements
from reconcile.litellm.tables import array_literal
from reconcile.sandbox.postgres import create_database, drop_database

TABLE = "LiteLLM_SpendLogs"
ROWS = 200_000  # over ten days, of a kilobyte each: LiteLLM's own have 1 to 9
BEGIN = datetime(2025, 11, 1, tzinfo=UTC)

FILL = f"""
INSERT INTO "{TABLE}" (request_id, call_type, spend, "startTime", "endTime", model, team_id, status, metadata,
    api_key, session_id)
SELECT 'r-' || number, 'acompletion', 0.01, moment, moment + interval '2 seconds', 'gpt-4o-mini', 'team-a', 'success',
    to_jsonb(repeat('m', 900)), 'key-' || number % 50, 's-' || number
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


def looks(count: int) -> dict[str, Any]:
    """What names `count` rows of the fifth day, evenly spread over it."""
    numbers = [*range(ROWS // 2, ROWS // 2 + ROWS // 10, ROWS // 10 // count)][:count]
    starts = [BEGIN + number * timedelta(days=10) / ROWS for number in numbers]
    return {
        "charge_column": "team_id",
        "request_ids": array_literal(f"r-{number}" for number in numbers),
        "sessions": array_literal(f"s-{number}" for number in numbers),
        "starts": array_literal(start.strftime("%Y-%m-%d %H:%M:%S.%f") for start in starts),
        "charge_ids": array_literal(["team-a"] * count),
        "api_keys": array_literal(f"key-{number % 50}" for number in numbers),
        "spends": array_literal([0.01] * count),
        "prompt_tokens": array_literal(["0"] * count),
        "completion_tokens": array_literal(["0"] * count),
        "start_from": starts[0] - timedelta(seconds=10),
        "start_to": starts[-1] + timedelta(seconds=10),
    }


@pytest.mark.parametrize("count", [1, 100, 2_000])
@pytest.mark.parametrize("name", ["spend_logs_details", "spend_logs_same_call"])
def test_named_rows_are_found_by_an_index(large_table: psycopg.Connection, name: str, count: int) -> None:
    found = plan(large_table, name, **looks(count))
    assert {node["Node Type"] for node in found} <= {"Index Scan", "Bitmap Index Scan", "Bitmap Heap Scan"}
    (by_index,) = [node for node in found if "Index Name" in node]
    assert "startTime" in by_index["Index Cond"] + by_index.get("Filter", "")


@pytest.mark.parametrize("count", [1, 100])
def test_earlier_rows_of_jobs_are_looked_for_within_their_days(large_table: psycopg.Connection, count: int) -> None:
    values = looks(count)
    values["start_from"] -= timedelta(days=1)
    found = plan(large_table, "spend_logs_earlier_of_jobs", **values)
    assert {node["Node Type"] for node in found} <= {"Index Scan", "Bitmap Index Scan", "Bitmap Heap Scan"}
    (by_index,) = [node for node in found if "Index Name" in node]
    assert by_index["Index Cond"].count('"startTime"') >= 2


def test_rows_that_no_window_holds_are_counted_within_the_range(large_table: psycopg.Connection) -> None:
    start = BEGIN + timedelta(days=5)
    found = plan(
        large_table,
        "spend_logs_unplaced",
        start_from=start,
        start_to=start + timedelta(days=1),
        future=start + timedelta(days=366),
    )
    assert {node["Node Type"] for node in found} == {"Bitmap Index Scan", "Bitmap Heap Scan"}
    assert all("startTime" in node["Index Name"] for node in found if "Index Name" in node)

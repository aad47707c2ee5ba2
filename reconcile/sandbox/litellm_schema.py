"""LiteLLM's own tables: the migrations of litellm-proxy-extras (0.4.110: 220 of them), up to any age.

LiteLLM applies them with Prisma. They are plain SQL, one folder each, in name order, and run as they are.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from reconcile.errors import DatabaseFault

SPEND_LOGS = sql.Identifier("LiteLLM_SpendLogs")
JSON_COLUMNS = frozenset({"metadata", "request_tags", "messages", "response", "proxy_server_request"})
COMMENT = re.compile(r"--.*")


def migrations() -> list[Path]:
    """Every migration's SQL file, in the order in which LiteLLM applies them.

    The package is found, not imported. A folder's name is the migration's name (one has spaces in it).
    """
    found = importlib.util.find_spec("litellm_proxy_extras")
    if found is None or found.origin is None:
        raise DatabaseFault("litellm-proxy-extras is not installed: pip install 'litellm-lago-reconcile[sandbox]'")
    return sorted((Path(found.origin).parent / "migrations").glob("*/migration.sql"), key=lambda file: file.parent.name)


def migrate(url: str, upto: str | None = None) -> None:
    """Applies the migrations to an empty database, all of them or those up to and with `upto`.

    `upto` begins the name of a migration, such as `20250508072103`. Raises ValueError if none is.
    """
    files = migrations()
    if upto is not None:
        last = max((i for i, file in enumerate(files) if file.parent.name.startswith(upto)), default=None)
        if last is None:
            raise ValueError(f"litellm-proxy-extras has no migration {upto!r}")
        files = files[: last + 1]
    with psycopg.connect(url, autocommit=True) as connection:
        for file in files:
            for statement in _transactions(file.read_text()):
                connection.execute(statement.encode())


def _transactions(script: str) -> Iterator[str]:
    """The script as what may run in one transaction each: CREATE INDEX CONCURRENTLY has to stand alone."""
    if "CONCURRENTLY" not in script:
        yield script
        return
    for statement in COMMENT.sub("", script).split(";"):
        if statement.strip():
            yield statement


def partition(url: str, first: date, last: date) -> None:
    """Turns the plain "LiteLLM_SpendLogs" into LiteLLM's opt-in layout: monthly partitions by "startTime".

    The primary key becomes (request_id, "startTime"), so one request_id may occur twice. The months from
    `first` to `last` get a partition each, and "LiteLLM_SpendLogs_default" takes the rest. Rows move over.
    """
    with psycopg.connect(url) as connection:
        connection.execute(
            """
            ALTER TABLE "LiteLLM_SpendLogs" RENAME TO "LiteLLM_SpendLogs_legacy";
            ALTER TABLE "LiteLLM_SpendLogs_legacy"
                RENAME CONSTRAINT "LiteLLM_SpendLogs_pkey" TO "LiteLLM_SpendLogs_legacy_pkey";
            CREATE TABLE "LiteLLM_SpendLogs" (LIKE "LiteLLM_SpendLogs_legacy" INCLUDING DEFAULTS)
                PARTITION BY RANGE ("startTime");
            ALTER TABLE "LiteLLM_SpendLogs"
                ADD CONSTRAINT "LiteLLM_SpendLogs_pkey" PRIMARY KEY (request_id, "startTime");
            CREATE TABLE "LiteLLM_SpendLogs_default" PARTITION OF "LiteLLM_SpendLogs" DEFAULT;
            """
        )
        month = first.replace(day=1)
        while month <= last:
            following = (month + timedelta(days=32)).replace(day=1)
            connection.execute(
                sql.SQL('CREATE TABLE {} PARTITION OF "LiteLLM_SpendLogs" FOR VALUES FROM ({}) TO ({})').format(
                    sql.Identifier(f"LiteLLM_SpendLogs_p{month:%Y%m}"),
                    sql.Literal(month.isoformat()),
                    sql.Literal(following.isoformat()),
                )
            )
            month = following
        connection.execute(
            """
            INSERT INTO "LiteLLM_SpendLogs" SELECT * FROM "LiteLLM_SpendLogs_legacy";
            DROP TABLE "LiteLLM_SpendLogs_legacy";
            CREATE INDEX ON "LiteLLM_SpendLogs" ("startTime");
            CREATE INDEX ON "LiteLLM_SpendLogs" ("startTime", request_id);
            CREATE INDEX ON "LiteLLM_SpendLogs" (end_user);
            """
        )


def insert_rows(url: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Appends rows to "LiteLLM_SpendLogs" by COPY. The keys are columns; every row has those of the first.

    Datetimes with a zone are stored as UTC, as LiteLLM does. JSON columns take text or JSON values.
    """
    if not rows:
        return
    columns = list(rows[0])
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(SPEND_LOGS, sql.SQL(", ").join(map(sql.Identifier, columns)))
    with psycopg.connect(url) as connection, connection.cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row([_value(column, row[column]) for column in columns])


def _value(column: str, value: Any) -> Any:
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).replace(tzinfo=None)
    if column in JSON_COLUMNS and value is not None and not isinstance(value, str):
        return Jsonb(value)
    return value

"""What the job is measured against. Each is a process of its own and ends with one line of JSON: what it did.

floor   moves the same bytes and compares nothing: the rows by COPY, the pages of Lago, batches that were made before,
        by eight connections of one Python process
naive   a script as one writes it in an afternoon: pandas and requests, its own transaction IDs, live events by content
sdk     lago-agent-sdk: sends every row, and never asks what Lago holds
"""

from __future__ import annotations

import argparse
import asyncio
import json
import struct
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import psycopg

from benchmarks.data import CODE

CONNECTIONS = 8
PAGE, BATCH = 1_000, 100  # the most that Lago gives and takes
COLUMNS = """request_id, team_id, model, custom_llm_provider, spend, prompt_tokens, completion_tokens, total_tokens,
    "startTime", "endTime", status"""
_LENGTH = struct.Struct("<I")


def rows_of(begin: str, end: str) -> str:
    """The statement that reads the rows: only "startTime" has an index."""
    return f"""SELECT {COLUMNS} FROM "LiteLLM_SpendLogs"
        WHERE "startTime" >= '{begin}'::timestamp - interval '1 day' AND "startTime" < '{end}'
        AND "endTime" >= '{begin}' AND "endTime" < '{end}'"""


def bare(model: str, provider: str) -> str:
    return model.removeprefix(f"{provider}/")


def event(row: tuple[Any, ...]) -> dict[str, Any]:
    """The event of a row, of the size that the job's events have."""
    request_id, team, model, provider, spend, prompt, completion, total, _, ended, _ = row
    return {
        "transaction_id": f"{request_id:.45}",
        "external_subscription_id": team,
        "code": CODE,
        "timestamp": f"{ended.replace(tzinfo=UTC).timestamp():.3f}",
        "properties": {
            "model": bare(model, provider),
            "response_cost": f"{spend:.12f}",
            "prompt_tokens": str(prompt),
            "completion_tokens": str(completion),
            "total_tokens": str(total),
            "input_tokens": str(prompt),
            "output_tokens": str(completion),
            "request_id": request_id,
        },
    }


# --- the floor


class Connection:
    """One HTTP/1.1 connection, by hand: the least that Python can spend on a request."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def to(cls, url: str) -> Connection:
        parts = urlsplit(url)
        return cls(*await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 20))

    async def ask(self, method: str, target: str, body: bytes = b"") -> bytes:
        lines = (f"{method} {target} HTTP/1.1", "Host: lago", "Authorization: Bearer k", f"Content-Length: {len(body)}")
        self._writer.write("\r\n".join((*lines, "", "")).encode() + body)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        assert answer.split(" ", 2)[1] == "200", answer
        length = answer.lower().partition("content-length:")[2].partition("\r\n")[0]
        return await self._reader.readexactly(int(length))


async def _list(connections: list[Connection], begin: str, end: str) -> int:
    import orjson

    asked = {"code": CODE, "timestamp_from": begin + "Z", "timestamp_to": end + "Z", "per_page": PAGE}

    async def page(connection: Connection, number: int) -> dict[str, Any]:
        content = await connection.ask("GET", f"/api/v1/events?{urlencode({**asked, 'page': number})}")
        read: dict[str, Any] = orjson.loads(content)
        return read

    first = await page(connections[0], 1)
    numbers, listed = iter(range(2, first["meta"]["total_pages"] + 1)), len(first["events"])

    async def work(connection: Connection) -> int:
        return sum([len((await page(connection, number))["events"]) for number in numbers])

    return listed + sum(await asyncio.gather(*map(work, connections)))


async def _post(connections: list[Connection], bodies: Iterable[bytes]) -> None:
    waiting = iter(bodies)

    async def work(connection: Connection) -> None:
        for body in waiting:
            await connection.ask("POST", "/api/v1/events/batch", body)

    await asyncio.gather(*map(work, connections))


def floor(options: argparse.Namespace) -> dict[str, Any]:
    """One phase after the other: they would share one core anyway."""
    statement = rows_of(options.begin, options.end)
    with (
        psycopg.connect(options.database) as connection,
        connection.cursor() as cursor,
        cursor.copy(f"COPY ({statement}) TO STDOUT (FORMAT binary)") as copy,
    ):
        read = sum(len(chunk) for chunk in copy)

    async def talk() -> dict[str, Any]:
        connections = [await Connection.to(options.lago) for _ in range(CONNECTIONS)]
        found = {"bytes": read, "listed": await _list(connections, options.begin, options.end)}
        if options.batches:
            await _post(connections, _bodies(options.batches))
            if options.read_back:
                found["read_back"] = await _list(connections, options.begin, options.end)
        return found

    return asyncio.run(talk())


def _bodies(file: Path) -> Iterator[bytes]:
    content = memoryview(file.read_bytes())
    place = 0
    while place < len(content):
        (length,) = _LENGTH.unpack_from(content, place)
        yield bytes(content[place + 4 : place + 4 + length])
        place += 4 + length


def prepare(database: str, condition: str, file: Path) -> None:
    """Writes the bodies of the batches that hold those rows, each behind its length."""
    import orjson

    statement = f'SELECT {COLUMNS} FROM "LiteLLM_SpendLogs" WHERE {condition}'
    with psycopg.connect(database) as connection, connection.cursor("rows") as cursor, file.open("wb") as out:
        cursor.itersize = 10_000
        cursor.execute(statement.encode())
        while rows := cursor.fetchmany(BATCH):
            body = orjson.dumps({"events": [event(row) for row in rows]})
            out.write(_LENGTH.pack(len(body)) + body)


# --- peers


def naive(options: argparse.Namespace) -> dict[str, Any]:
    import pandas as pd
    import requests
    from lago_python_client.client import Client
    from lago_python_client.models import BatchEvent, Event
    from sqlalchemy import create_engine

    engine = create_engine(options.database.replace("postgresql://", "postgresql+psycopg://"))
    rows = pd.read_sql(rows_of(options.begin, options.end), engine)
    rows = rows[(rows["status"] != "failure") & (rows["team_id"].fillna("") != "")]

    session, page, listed = requests.Session(), 1, 0
    ids: set[str] = set()
    live: Counter[tuple[Any, ...]] = Counter()
    session.headers["Authorization"] = "Bearer k"
    asked = {"code": CODE, "timestamp_from": options.begin + "Z", "timestamp_to": options.end + "Z", "per_page": 100}
    while page:
        answer = session.get(f"{options.lago}/api/v1/events", params={**asked, "page": page}, timeout=60)
        answer.raise_for_status()
        found = answer.json()
        for one in found["events"]:
            said = one["properties"]
            ids.add(one["transaction_id"])
            tokens = int(said["prompt_tokens"]), int(said["completion_tokens"])
            live[(one["external_subscription_id"], said["model"], float(said["response_cost"]), *tokens)] += 1
        listed += len(found["events"])
        page = found["meta"]["next_page"]

    missing = []
    for row in rows.itertuples(index=False, name=None):
        request_id, team, model, provider, spend, prompt, completion, *_ = row
        content = (team, bare(model, provider), spend, prompt, completion)
        if request_id in ids:
            continue
        if live[content]:
            live[content] -= 1
        else:
            missing.append(row)
    if not options.dry:
        client = Client(api_key="k", api_url=options.lago)
        for first in range(0, len(missing), BATCH):
            batch = [Event(**event(row)) for row in missing[first : first + BATCH]]
            client.events.batch_create(BatchEvent(events=batch))
    return {"listed": listed, "missing": len(missing)}


def sdk(options: argparse.Namespace) -> dict[str, Any]:
    import logging

    from lago_agent_sdk.lago_client import LagoClient
    from lago_agent_sdk.queue import EventQueue

    logging.disable(logging.CRITICAL)  # it warns of every duplicate
    client = LagoClient("k", f"{options.lago}/api/v1")
    queue = EventQueue(client.send_batch, max_buffer_size=50_000_000)  # a full buffer drops the oldest events
    pushed = 0
    with psycopg.connect(options.database) as connection, connection.cursor("rows") as cursor:
        cursor.itersize = 10_000
        cursor.execute(rows_of(options.begin, options.end).encode())
        for row in cursor:
            queue.push(event(row))
            pushed += 1
    queue.flush(timeout=3600)
    queue.shutdown(timeout=60)
    return {"pushed": pushed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("who", choices=["floor", "naive", "sdk"])
    parser.add_argument("--database", required=True, help="URL of LiteLLM's database")
    parser.add_argument("--lago", required=True, help="URL of Lago")
    parser.add_argument("--begin", required=True, help="first instant, UTC, without an offset")
    parser.add_argument("--end", required=True)
    parser.add_argument("--batches", type=Path, help="floor: bodies to post")
    parser.add_argument("--read-back", action="store_true", help="floor: list the window again after the last batch")
    parser.add_argument("--dry", action="store_true", help="naive: post nothing")
    options = parser.parse_args()
    begin = time.perf_counter()
    found = {"floor": floor, "naive": naive, "sdk": sdk}[options.who](options)
    print(json.dumps({**found, "seconds": round(time.perf_counter() - begin, 3)}))


if __name__ == "__main__":
    main()

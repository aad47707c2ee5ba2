"""The stand-in's asynchronous side, for the endpoints of events: a few connections to its database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection

CONNECTIONS = 8


@dataclass(frozen=True, slots=True)
class Listing:
    """What a collection of events selects from: the JSON text of a row, FROM and WHERE, and the order."""

    row: str
    source: str
    order: str
    parameters: Mapping[str, Any]


class Store:
    """Connections that are opened when they are needed. Everything may raise psycopg.Error: Lago answers 500."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._idle: asyncio.LifoQueue[AsyncConnection | None] = asyncio.LifoQueue()
        for _ in range(CONNECTIONS):
            self._idle.put_nowait(None)

    async def close(self) -> None:
        while not self._idle.empty():
            connection = self._idle.get_nowait()
            if connection is not None:
                await connection.close()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection]:
        connection = await self._idle.get()
        try:
            if connection is None or connection.closed:
                connection = await AsyncConnection.connect(self._url, autocommit=True, prepare_threshold=1)
            yield connection
        finally:
            self._idle.put_nowait(connection)

    async def rows(self, statement: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        async with self.connection() as connection:
            cursor = await connection.execute(statement.encode(), parameters)
            return await cursor.fetchall()

    async def page(self, listing: Listing, page: int, per_page: int) -> tuple[list[str], int]:
        """The JSON texts of one page, and how many rows there are in all (counted anew, as Lago does)."""
        counted = await self.rows(f"SELECT count(*) {listing.source}", listing.parameters)
        selected = await self.rows(
            f"""SELECT {listing.row} {listing.source} ORDER BY {listing.order}
                LIMIT %(limit)s OFFSET %(offset)s""",
            {**listing.parameters, "limit": per_page, "offset": (page - 1) * per_page},
        )
        return [row[0] for row in selected], counted[0][0]

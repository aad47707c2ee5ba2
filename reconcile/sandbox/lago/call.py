"""A request as the endpoints get it, and what they ask of the stand-in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from starlette.datastructures import QueryParams

from reconcile.sandbox.lago.faults import Faults
from reconcile.sandbox.lago.posted import Metric
from reconcile.sandbox.lago.timestamps import naive
from reconcile.sandbox.lago.versions import Version


@dataclass(frozen=True, slots=True)
class Account:
    """An organization as its API key opens it."""

    organization: str
    clickhouse: bool
    deduplicates: bool
    reads_events: bool = True
    writes_events: bool = True


@dataclass(slots=True)
class Work:
    """What an answer cost Lago, for the slow mode: objects shown, rows counted, rows skipped by an offset."""

    shown: int = 0
    counted: int = 0
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class Call:
    """One request of an organization. `path` holds the decoded parts of the path, `params` the parsed body."""

    account: Account
    path: Mapping[str, str]
    query: QueryParams
    params: Mapping[str, Any]
    work: Work = field(default_factory=Work)

    @property
    def organization(self) -> str:
        return self.account.organization


class Lago(Protocol):
    """The stand-in behind the endpoints. `execute` may be called from any thread."""

    faults: Faults
    version: Version

    def account(self, key: str) -> Account | None: ...
    def metrics(self, organization: str) -> Mapping[str, Metric]: ...
    def clock(self) -> datetime: ...
    def execute(self, statement: str, parameters: Any = None) -> list[tuple[Any, ...]]: ...
    def reload(self) -> None: ...


def now(lago: Lago) -> datetime:
    """What Lago takes for the time, UTC without a zone."""
    return naive(lago.clock())

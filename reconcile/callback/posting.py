"""One request to Lago, and what its answer means for the events in it."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

import httpx

from .settings import Settings, Store

EXISTS = "value_already_exist"

_TIMEOUT = httpx.Timeout(30.0, connect=5.0)  # a busy Lago takes some seconds for a batch
_ASK_AGAIN = 60.0  # seconds until the store is asked for again, where there was no answer


class Answer(Enum):
    """What became of the events of one request."""

    TAKEN = auto()
    FLAGGED = auto()  # none was taken, and Lago named some of them
    REFUSED = auto()  # none was taken, for something in one or more of them
    FAILED = auto()  # Lago failed; perhaps by one of them
    BUSY = auto()  # not now
    CLOSED = auto()  # wrong key, wrong address, something else that answers there
    UNREACHABLE = auto()  # nobody got them
    LOST = auto()  # Lago may have them


@dataclass(frozen=True, slots=True)
class Reply:
    """`flagged` maps the place of an event to Lago's words; `text` is for a warning; `wait` is Lago's own wish in s."""

    answer: Answer
    text: str = ""
    flagged: dict[int, str] = field(default_factory=dict)
    wait: float | None = None


class Post:
    """Posts batches of events, given as JSON, over one kept connection. For one thread."""

    def __init__(self, settings: Settings, verify: Any = True) -> None:
        self._client = httpx.Client(
            base_url=f"{settings.base}/api/v1",
            headers={"Authorization": f"Bearer {settings.key}", "User-Agent": "reconcile-callback"},
            timeout=_TIMEOUT,
            verify=verify,
        )
        self._store: Store = settings.store
        self._asked = float("-inf")

    def __call__(self, events: Sequence[bytes]) -> Reply:
        body = b'{"events":[%b]}' % b",".join(events)
        try:
            response = self._client.post("/events/batch", content=body, headers={"Content-Type": "application/json"})
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError) as error:
            return Reply(Answer.UNREACHABLE, f"Lago cannot be reached ({type(error).__name__})")
        except httpx.HTTPError as error:
            return Reply(Answer.LOST, f"Lago's answer did not come ({type(error).__name__})")
        return reply_of(response.status_code, response.headers, response.content)

    def repeatable(self) -> bool:
        """Whether a second sending of a stored event is refused or folded for sure: only a Postgres store does so.

        Lago says which store it has since 1.47, and before there was one. Where it does not answer, it is not known.
        """
        if self._store == "auto" and time.monotonic() - self._asked > _ASK_AGAIN:
            self._asked = time.monotonic()
            try:
                response = self._client.get("/organizations", timeout=5.0)
                if response.status_code == 200:
                    kind = response.json()["organization"].get("events_store")
                    self._store = "clickhouse" if kind == "clickhouse" else "postgres"
            except (httpx.HTTPError, ValueError, KeyError, AttributeError, TypeError):
                pass  # asked again later
        return self._store == "postgres"

    def close(self) -> None:
        self._client.close()


def reply_of(status: int, headers: Any, content: bytes) -> Reply:
    """What an answer of Lago, or of a proxy in front of it, means."""
    text = f"Lago answered {status}"
    if status == 200:
        return Reply(Answer.TAKEN)
    if status == 422 and (flagged := _flagged(content)):
        return Reply(Answer.FLAGGED, text, flagged)
    if status in (400, 413, 422):
        return Reply(Answer.REFUSED, text)
    if status in (429, 503):
        return Reply(Answer.BUSY, text, wait=_wait(headers))
    if status in (502, 504):
        return Reply(Answer.LOST, text)
    if status >= 500:
        return Reply(Answer.FAILED, text)
    return Reply(Answer.CLOSED, text)


def _flagged(content: bytes) -> dict[int, str]:
    """`error_details` of a refused batch, by the place of the event; empty where it is something else."""
    try:
        details = json.loads(content)["error_details"]
        return {int(place): EXISTS if _exists(found) else json.dumps(found)[:200] for place, found in details.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _exists(found: Any) -> bool:
    return isinstance(found, dict) and found == {"transaction_id": [EXISTS]}


def _wait(headers: Any) -> float | None:
    for name in ("Retry-After", "X-RateLimit-Reset"):
        text = headers.get(name, "")
        if text.isdigit() and len(text) < 6:
            return float(text)
    return None

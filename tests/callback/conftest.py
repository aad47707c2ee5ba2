"""Settings, rows and senders for the tests of the callback."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from reconcile.callback.posting import Post
from reconcile.callback.sender import Limits, Sender
from reconcile.callback.settings import Settings, read

from .litellm_proxy import build_wheel

END = datetime(2026, 11, 20, 10, 0, 2, 345_678, tzinfo=UTC)

# As the callback's own, only quicker.
QUICK = Limits(linger=0.02, first_pause=0.02, longest_pause=0.1)


def environment(**more: str) -> dict[str, str]:
    return {
        "LAGO_API_BASE": "http://127.0.0.1:1",
        "LAGO_API_KEY": "lago-secret-5b7c",
        "LAGO_API_EVENT_CODE": "llm_usage",
        "LAGO_API_CHARGE_BY": "team_id",
        **more,
    }


def settings(**more: str) -> Settings:
    return read(environment(**more))


def row(**more: Any) -> dict[str, Any]:
    """A row as LiteLLM's payload has it."""
    return {
        "request_id": "chatcmpl-1",
        "call_type": "acompletion",
        "startTime": END - timedelta(seconds=2, microseconds=321_001),
        "endTime": END,
        "model": "openai/gpt-4o-mini",
        "custom_llm_provider": "openai",
        "team_id": "team-a",
        "user": "user-1",
        "organization_id": "org-x",
        "end_user": "customer-1",
        "prompt_tokens": 12,
        "completion_tokens": 6,
        "total_tokens": 18,
        "status": "success",
        "cache_hit": "None",
        **more,
    }


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for something that is about to become true."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("it did not become true")
        time.sleep(0.005)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The callback alone, as it is installed into a proxy's image."""
    return build_wheel(tmp_path_factory.mktemp("callback-wheel"))


@pytest.fixture
def sender_to() -> Iterator[Callable[..., Sender]]:
    """A maker of senders to a running Lago, by its settings."""
    posts: list[Post] = []

    def make(found: Settings, limits: Limits = QUICK, **more: Any) -> Sender:
        def post() -> Post:
            posts.append(Post(found))
            return posts[-1]

        return Sender(post, limits, **more)

    yield make
    for post in posts:
        post.close()

"""Rows of the spend log as LiteLLM writes them, made to order."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

# Long past: nothing waits for events that may still arrive, whatever day it is.
DAY = datetime(2025, 11, 20, tzinfo=UTC)
TEAMS = ("team-a", "team-b", "team-c")
SHOULD_BE_BILLED = ("success", "cached", "free")


def row(request_id: str, ended: datetime, *, seconds: float = 2.0, **changes: Any) -> dict[str, Any]:
    """A successful request that ended at `ended`, for `team-a`. `changes` are columns."""
    return {
        "request_id": request_id,
        "call_type": "acompletion",
        "api_key": "88dc28d0f030c55ed4ab77ed8faf098196cb1c05df778539800c9f1243fe6b4b",
        "spend": 0.0125,
        "prompt_tokens": 20,
        "completion_tokens": 10,
        "total_tokens": 30,
        "startTime": ended - timedelta(seconds=seconds),
        "endTime": ended,
        "model": "openai/gpt-4o-mini",
        "model_group": "chat-fast",
        "custom_llm_provider": "openai",
        "user": "user-1",
        "team_id": "team-a",
        "end_user": "customer-1",
        "organization_id": "org-1",
        "status": "success",
        "cache_hit": "None",
        **changes,
    }


def a_day(count: int, seed: int = 1, day: datetime = DAY) -> list[dict[str, Any]]:
    """A day's traffic, in no order: failures, cache hits, free models, requests without a team, streams.

    Every request ID says what becomes of the row: `success`, `cached` and `free` are billed, `failure` and
    `nobody` are not.
    """
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        ended = day + timedelta(milliseconds=chance.randrange(86_400_000))
        kind = chance.choices(("success", "cached", "free", "failure", "nobody"), (90, 4, 2, 2, 2))[0]
        prompt, completion = chance.randrange(1, 4_000), chance.randrange(1, 900)
        changes: dict[str, Any] = {
            "team_id": chance.choice(TEAMS),
            "spend": prompt * 1.5e-07 + completion * 6e-07,
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }
        if kind == "cached":
            changes |= {"cache_hit": "True", "spend": 0.0}
        elif kind == "free":
            changes |= {"model": "hosted_vllm/llama", "custom_llm_provider": "hosted_vllm", "spend": 0.0}
        elif kind == "failure":
            changes |= {"status": "failure", "spend": 0.0}
        elif kind == "nobody":
            changes |= {"team_id": chance.choice(("", None))}
        seconds = chance.uniform(0.05, 400.0 if number % 50 == 0 else 9.0)
        rows.append(row(f"{kind}-{number}", ended, seconds=round(seconds, 3), **changes))
    return rows


def billable(rows: list[dict[str, Any]]) -> set[str]:
    """The request IDs of `a_day`'s rows that have to be in Lago, once each."""
    return {one["request_id"] for one in rows if one["request_id"].startswith(SHOULD_BE_BILLED)}

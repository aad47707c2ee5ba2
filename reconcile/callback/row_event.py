"""The event of a row that LiteLLM is about to write, or the reason why the nightly run deals with it. Pure.

A row is given as LiteLLM's spend-log payload (`get_logging_payload`), with the cost that its writer stores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any

from ..domain.event import bare_model, event, transaction_id
from .settings import Settings

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

# LiteLLM bills a finished job at each look at it, or once under an ID that is settled in its database. Which look
# counts is known when the rows lie side by side.
JOB_CALLS = frozenset(
    prefix + call
    for prefix in ("", "a")
    for call in ("get_responses", "retrieve_batch", "create_batch", "file_retrieve", "video_status")
)
_JOB_ENDINGS = ("_batch_cost", "_background_cost", "_video_cost", "_guardrail_cost")


class Left(StrEnum):
    """Why the callback sends no event of a row. The job deals with each of them by its own rules."""

    FAILURE = "failure"
    CACHE_HIT = "cache_hit"
    ZERO_COST = "zero_cost"
    NO_CHARGE_ID = "no_charge_id"
    OWN = "own"
    INVALID_SPEND = "invalid_spend"
    OVER_LIMIT = "over_limit"
    BEFORE_START = "before_start"
    JOB = "job"
    SAME_CALL = "same_call"  # the call already has an event
    TWO_CALLBACKS = "two_callbacks"  # LiteLLM's own is configured beside this one, and has sent the call
    NO_ROW = "no_row"  # LiteLLM could not price the call, and writes no row


@dataclass(frozen=True, slots=True)
class Made:
    """An event ready to be posted, its usage time in ms since 1970 UTC, and what it bills, whatever its ID."""

    event: dict[str, Any]
    usage_ms: int
    content: tuple[str, float, int, int]

    @property
    def transaction_id(self) -> str:
        return str(self.event["transaction_id"])


def event_of(row: Mapping[str, Any], spend: float, settings: Settings) -> Made | Left:
    """The event of `row`, which LiteLLM stores with `spend` in USD."""
    charge_id = row.get(settings.charge_column) or ""
    request_id = row["request_id"]
    usage_ms = milliseconds(row["endTime"])
    if reason := _left(row, spend, charge_id, usage_ms, settings):
        return reason
    provider = row.get("custom_llm_provider") or ""
    prompt, completion = row.get("prompt_tokens") or 0, row.get("completion_tokens") or 0
    made = event(
        settings.shape,
        transaction_id=transaction_id(settings.shape.code, charge_id, request_id, milliseconds(row["startTime"])),
        subscription_id=charge_id,
        request_id=request_id,
        model=bare_model(row.get("model") or "", provider),
        usage_ms=usage_ms,
        spend=spend,
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=row.get("total_tokens") or 0,
    )
    return Made(made, usage_ms, (charge_id, spend, prompt, completion))


def milliseconds(moment: datetime) -> int:
    """The instant in ms since 1970 UTC, as the row will hold it.

    LiteLLM hands both times on as text with microseconds, and a column of `timestamp(3)` rounds half up.
    """
    return ((moment - _EPOCH) // _MICROSECOND + 500) // 1000


def _left(row: Mapping[str, Any], spend: float, charge_id: str, usage_ms: int, settings: Settings) -> Left | None:
    if row.get("status") == "failure":
        return Left.FAILURE
    if "cache_hit" in settings.exclude and str(row.get("cache_hit")).lower() == "true":
        return Left.CACHE_HIT
    if "zero_cost" in settings.exclude and spend == 0:
        return Left.ZERO_COST
    if not charge_id:
        return Left.NO_CHARGE_ID
    if charge_id in settings.own_ids:
        return Left.OWN
    if row.get("call_type") in JOB_CALLS or row["request_id"].endswith(_JOB_ENDINGS):
        return Left.JOB
    if not math.isfinite(spend) or spend < 0:
        return Left.INVALID_SPEND
    if Decimal(spend) > settings.row_limit:
        return Left.OVER_LIMIT
    if settings.start and usage_ms < milliseconds(settings.start):
        return Left.BEFORE_START
    return None

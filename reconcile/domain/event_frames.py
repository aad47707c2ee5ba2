"""The events of many rows at once: `reconcile.domain.event` over the columns of a frame. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from reconcile.domain.event import Shape, bare_model, event

_COLUMNS = (
    "transaction_id",
    "subscription_id",
    "request_id",
    "bare_model",
    "usage_ms",
    "spend",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
)


def bare_models(models: Sequence[str], providers: Sequence[str]) -> list[str]:
    """`bare_model` of many rows."""
    seen: dict[tuple[str, str], str] = {}
    bare = []
    for pair in zip(models, providers, strict=True):
        name = seen.get(pair)
        if name is None:
            name = seen[pair] = bare_model(*pair)
        bare.append(name)
    return bare


def build(rows: pd.DataFrame, shape: Shape) -> list[dict[str, Any]]:
    """The events of `rows`, in their order, ready to be posted.

    `rows` needs transaction_id, subscription_id, request_id, bare_model (str), usage_ms (int64), spend (finite, not
    negative), prompt_tokens, completion_tokens, total_tokens (int64).
    """
    return [
        event(
            shape,
            transaction_id=transaction,
            subscription_id=subscription,
            request_id=request,
            model=model,
            usage_ms=usage_ms,
            spend=spend,
            prompt_tokens=prompt,
            completion_tokens=completion,
            total_tokens=total,
        )
        for transaction, subscription, request, model, usage_ms, spend, prompt, completion, total in zip(
            *(rows[name].tolist() for name in _COLUMNS), strict=True
        )
    ]

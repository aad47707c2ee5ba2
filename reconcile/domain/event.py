"""One row of the spend log becomes one usage event for Lago. Pure: the same bytes on any machine, on any day.

Nothing here may read a clock, the environment or the network. The transaction ID and the timestamp are the identity
under which a row can be sent a thousand times and be billed once: they never change between releases.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pandas as pd

from reconcile.domain.money import decimal_of, plain

ID_VERSION = "1"
OWN_ID = re.compile(r"llm_[0-9a-f]{32}")

# The properties of an event, in the order they are sent. The first five are LiteLLM's own names (lago.py, 1.106.2).
PROPERTIES = (
    "model",
    "response_cost",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "input_tokens",
    "output_tokens",
    "request_id",
)


@dataclass(frozen=True, slots=True)
class Shape:
    """What an event of this stream carries.

    `properties` maps a name of `PROPERTIES` to the name it is sent under. `amount_factor`, where given, adds
    `precise_total_amount_cents` = spend x 100 x factor, for Lago's dynamic charges.
    """

    code: str
    properties: tuple[tuple[str, str], ...] = tuple((name, name) for name in PROPERTIES)
    amount_factor: Decimal | None = None


def transaction_id(code: str, charge_id: str, request_id: str, start_ms: int) -> str:
    """`llm_` and 32 hex digits of a SHA-256 over version, code, charge ID, request ID and start time.

    Each part is preceded by its length, so that no two different inputs give the same text. `start_ms` is
    `"startTime"` in milliseconds since 1970 UTC: LiteLLM's request IDs can come again (recycled provider IDs,
    partitioned tables). The charge-by setting is not in it: one request is billed once per event code.
    """
    return transaction_ids(code, [charge_id], [request_id], [start_ms])[0]


def transaction_ids(
    code: str, charge_ids: Iterable[str], request_ids: Iterable[str], starts_ms: Iterable[int]
) -> list[str]:
    """`transaction_id` of many rows at once."""
    sha256 = hashlib.sha256
    head = _part(ID_VERSION) + _part(code)
    charge_parts: dict[str, bytes] = {}
    ids = []
    for charge_id, request_id, start_ms in zip(charge_ids, request_ids, starts_ms, strict=True):
        prefix = charge_parts.get(charge_id)
        if prefix is None:
            prefix = charge_parts[charge_id] = head + _part(charge_id)
        request = request_id.encode()
        text = b"%b%d:%b%d" % (prefix, len(request), request, start_ms)
        ids.append("llm_" + sha256(text).hexdigest()[:32])
    return ids


def _part(text: str) -> bytes:
    encoded = text.encode()
    return b"%d:%b" % (len(encoded), encoded)


def bare_models(models: Sequence[str], providers: Sequence[str]) -> list[str]:
    """Models without their provider's prefix, as the `lago` callback sends them: `openai/gpt-4o` → `gpt-4o`.

    Rows carry the prefix since LiteLLM 1.90; the rule that held in every run of 1.106.2 is to strip a leading
    `custom_llm_provider + "/"`.
    """
    seen: dict[tuple[str, str], str] = {}
    bare = []
    for pair in zip(models, providers, strict=True):
        name = seen.get(pair)
        if name is None:
            model, provider = pair
            name = seen[pair] = model.removeprefix(provider + "/") if provider else model
        bare.append(name)
    return bare


def timestamp(usage_ms: int) -> str:
    """Lago's timestamp: seconds since 1970 UTC as a decimal string with three decimals."""
    seconds, milliseconds = divmod(usage_ms, 1000)
    return f"{seconds}.{milliseconds:03d}"


def build(rows: pd.DataFrame, shape: Shape) -> list[dict[str, Any]]:
    """The events of `rows`, in their order, ready to be posted.

    `rows` needs transaction_id, subscription_id, request_id, bare_model (str), usage_ms (int64), spend (finite, not
    negative), prompt_tokens, completion_tokens, total_tokens (int64).
    """
    events = []
    columns = (
        rows["transaction_id"].tolist(),
        rows["subscription_id"].tolist(),
        rows["usage_ms"].tolist(),
        rows["spend"].tolist(),
        rows["bare_model"].tolist(),
        rows["prompt_tokens"].tolist(),
        rows["completion_tokens"].tolist(),
        rows["total_tokens"].tolist(),
        rows["request_id"].tolist(),
    )
    for transaction, subscription, usage_ms, spend, model, prompt, completion, total, request in zip(
        *columns, strict=True
    ):
        cost = decimal_of(spend)
        values = {
            "model": model,
            "response_cost": plain(cost),
            "prompt_tokens": str(prompt),
            "completion_tokens": str(completion),
            "total_tokens": str(total),
            "input_tokens": str(prompt),
            "output_tokens": str(completion),
            "request_id": request,
        }
        event = {
            "transaction_id": transaction,
            "external_subscription_id": subscription,
            "code": shape.code,
            "timestamp": timestamp(usage_ms),
            "properties": {sent_name: values[name] for name, sent_name in shape.properties},
        }
        if shape.amount_factor is not None:
            event["precise_total_amount_cents"] = plain(cost * 100 * shape.amount_factor)
        events.append(event)
    return events

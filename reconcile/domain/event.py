"""One row of the spend log becomes one usage event for Lago. Pure: the same bytes on any machine, on any day.

Nothing here may read a clock, the environment or the network. The transaction ID and the timestamp are the identity
under which a row can be sent a thousand times and be billed once: they never change between releases.

It works on plain values and imports nothing but the standard library, so that a LiteLLM proxy can make the same event
of a call as it ends. `reconcile.domain.event_frames` makes the events of whole frames with it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from .money import decimal_of, plain, plain_double

ID_VERSION = "1"
OWN_ID = re.compile(r"llm_[0-9a-f]{32}")

# The properties of an event, in the order they are sent. The first five are LiteLLM's own names (lago.py, 1.110.2).
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


def bare_model(model: str, provider: str) -> str:
    """The model as LiteLLM's `lago` callback sends it: `openai/gpt-4o` → `gpt-4o`.

    Rows carry the provider's prefix since LiteLLM 1.90. Deployments that LiteLLM bridges to the responses API carry
    `responses/` after it (`openai/responses/gpt-4o`, `azure/responses/gpt-4o`), which the callback leaves out too.
    """
    return model.removeprefix(provider + "/").removeprefix("responses/") if provider else model


def timestamp(usage_ms: int) -> str:
    """Lago's timestamp: seconds since 1970 UTC as a decimal string with three decimals, and a `2` after them.

    Lago makes a double of it and cuts that to milliseconds: one in eight texts of three decimals is stored a
    millisecond early on a ClickHouse store, one in two before 1.48. Two tenths of a millisecond more keep every
    millisecond as it is, by cutting and by rounding.
    """
    seconds, milliseconds = divmod(usage_ms, 1000)
    return f"{seconds}.{milliseconds:03d}2"


def event(
    shape: Shape,
    *,
    transaction_id: str,
    subscription_id: str,
    request_id: str,
    model: str,
    usage_ms: int,
    spend: float,
    prompt_tokens: int,
    completion_tokens: int,
    total_tokens: int,
) -> dict[str, Any]:
    """The event of one row, ready to be posted. `model` is the bare one; `spend` is finite and not negative."""
    prompt, completion = str(prompt_tokens), str(completion_tokens)
    values = {
        "model": model,
        "response_cost": plain_double(spend),
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": str(total_tokens),
        "input_tokens": prompt,
        "output_tokens": completion,
        "request_id": request_id,
    }
    made: dict[str, Any] = {
        "transaction_id": transaction_id,
        "external_subscription_id": subscription_id,
        "code": shape.code,
        "timestamp": timestamp(usage_ms),
        "properties": {sent_name: values[name] for name, sent_name in shape.properties},
    }
    if shape.amount_factor is not None:
        made["precise_total_amount_cents"] = plain(decimal_of(spend) * 100 * shape.amount_factor)
    return made

"""The body of an answer as JSON, and what strangers wrote as words that can be stored and shown. Pure.

Postgres takes neither a NUL nor half of a surrogate pair, and a terminal obeys control characters; JSON holds them all.
"""

from __future__ import annotations

import json
import math
import re
from contextlib import suppress
from typing import Any, Final

import orjson

_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")
_REPLACEMENT: Final = "\ufffd"
NUL: Final = b"\\u0000"  # as JSON writes it


def json_object(content: bytes) -> dict[str, Any] | None:
    """The JSON object, None where there is none. All text in it can be stored."""
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        body = tolerant(content)
    else:
        if NUL in content:
            body = _storable(body)
    return body if isinstance(body, dict) else None


def tolerant(content: bytes) -> Any:
    """JSON that faster readers refuse (whole numbers beyond a double, half of a surrogate pair), with text that can be
    stored; None where it is no JSON, or too deep."""
    with suppress(ValueError, RecursionError):
        return _storable(json.loads(content, parse_int=_integer))
    return None


def braced(content: bytes) -> bool:
    """Whether the content looks like a JSON object from its ends."""
    return content[:64].lstrip()[:1] == b"{" and content[-64:].rstrip()[-1:] == b"}"


def shown(text: str) -> str:
    """The text on one line, without anything that a terminal would obey."""
    return " ".join("".join(one if one.isprintable() else " " for one in text).split())


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return _UNSTORABLE.sub(_REPLACEMENT, value)
    if isinstance(value, list):
        return [_storable(one) for one in value]
    if isinstance(value, dict):
        return {_storable(name): _storable(one) for name, one in value.items()}
    return value


def _integer(digits: str) -> int | float:
    """Python refuses to read a whole number of thousands of digits."""
    return int(digits) if len(digits) < 1_000 else math.inf

"""Lago's answers over HTTP: envelopes, page metadata, and how Rails reads a request, by Lago 1.51.0.

The error texts are those of Lago's code. The examples in its OpenAPI document differ in case and wording.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response


class Refused(Exception):
    """An answer other than 200."""

    def __init__(self, response: Response) -> None:
        self.response = response


def failure(status: int, error: str, **more: Any) -> Response:
    return answer({"status": status, "error": error, **more}, status)


def answer(content: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, media_type="application/json; charset=utf-8")


def not_found(resource: str) -> Response:
    return failure(404, "Not Found", code=f"{resource}_not_found")


def invalid(details: Any) -> Response:
    return failure(422, "Unprocessable Entity", code="validation_errors", error_details=details)


def rendered(name: str, text: str) -> Response:
    return raw(f'{{"{name}":{text}}}')


def rendered_page(collection: str, rows: Sequence[str], metadata: Mapping[str, Any]) -> Response:
    """A page of a collection, from the JSON texts of its rows."""
    return raw(f'{{"{collection}":[{",".join(rows)}],"meta":{orjson.dumps(metadata).decode()}}}')


def raw(text: str) -> Response:
    return Response(text, media_type="application/json; charset=utf-8")


def meta(page: int, per_page: int, total: int) -> dict[str, Any]:
    """Page metadata as Lago writes them: all zero where there is nothing to show."""
    pages = math.ceil(total / per_page)
    return {
        "current_page": page if total else 0,
        "next_page": page + 1 if page < pages else None,
        "prev_page": page - 1 if 1 < page <= pages else None,
        "total_pages": pages,
        "total_count": total,
    }


async def body(request: Request) -> Mapping[str, Any]:
    """The parameters of a request as Rails reads them: JSON if it says so, else none."""
    if "json" not in request.headers.get("content-type", ""):
        return {}
    try:
        content = orjson.loads(await request.body())
    except orjson.JSONDecodeError:
        raise Refused(failure(400, "Bad Request")) from None
    return content if isinstance(content, dict) else {}


def positive(text: str | None, default: int) -> int:
    return int(text) if text is not None and text.isascii() and text.isdigit() and int(text) else default


def microseconds(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def naive(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None)

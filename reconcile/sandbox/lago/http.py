"""Lago's answers over HTTP: envelopes, page metadata, and how Rails reads a request.

The error texts are those of Lago's code. The examples in its OpenAPI document differ in case and wording.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

import orjson
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

PAGE_LENGTH = 100
JSON = "application/json; charset=utf-8"
FORM = "application/x-www-form-urlencoded"

# orjson reads a whole number beyond 64 bits as a float; the standard library keeps it.
LONG_NUMBER = re.compile(rb"[0-9]{20}")


class Refused(Exception):
    """An answer other than 200."""

    def __init__(self, response: Response) -> None:
        self.response = response


def failure(status: int, error: str, **more: Any) -> Response:
    return answer({"status": status, "error": error, **more}, status)


def broken() -> Response:
    return failure(500, "Internal Server Error")


def answer(content: Any, status: int = 200) -> Response:
    return Response(dumped(content), status, media_type=JSON)


def not_found(resource: str) -> Response:
    return failure(404, "Not Found", code=f"{resource}_not_found")


def invalid(details: Any) -> Response:
    return failure(422, "Unprocessable Entity", code="validation_errors", error_details=details)


def rendered(name: str, text: str) -> Response:
    return raw(f'{{"{name}":{text}}}')


def rendered_page(collection: str, rows: Sequence[str], metadata: Mapping[str, Any]) -> Response:
    """A page of a collection, from the JSON texts of its rows."""
    return raw(f'{{"{collection}":[{",".join(rows)}],"meta":{dumped(metadata).decode()}}}')


def raw(text: str) -> Response:
    return Response(text, media_type=JSON)


def dumped(content: Any) -> bytes:
    """JSON with floats written as Ruby writes them: `0.00001`, `1e+300`."""
    try:
        return orjson.dumps(content)
    except TypeError:  # a whole number beyond 64 bits, or half of a surrogate pair
        return json.dumps(content, separators=(",", ":")).encode()


def meta(page: int, per_page: int, total: int) -> dict[str, Any]:
    """Page metadata as Lago writes them: all zero where there is nothing to show."""
    pages = math.ceil(total / per_page) if per_page else 0
    return {
        "current_page": page if total else 0,
        "next_page": page + 1 if page < pages else None,
        "prev_page": page - 1 if total and page > 1 else None,
        "total_pages": pages,
        "total_count": total,
    }


def paging(query: QueryParams, most: int | None = None) -> tuple[int, int]:
    """Page and page length as the query asks for them: 1 and 100 for what is no number; a length may be 0.

    `most` is the server's own upper end of the length.
    """
    per_page = _number(query.get("per_page"))
    length = PAGE_LENGTH if per_page is None or per_page < 0 else per_page
    page = _number(query.get("page"))
    return max(page or 1, 1), length if most is None else min(length, most)


async def body(request: Request) -> Mapping[str, Any]:
    """The parameters of a request as Rails reads them: JSON or a form if it says so, else none."""
    kind = request.headers.get("content-type", "")
    if "json" in kind:
        sent = await request.body()
        try:
            content = json.loads(sent) if LONG_NUMBER.search(sent) else orjson.loads(sent or b"{}")
        except ValueError:
            raise Refused(Response(b"", 400)) from None
        return content if isinstance(content, dict) else {}
    if kind.startswith(FORM):
        return form(await request.body())
    return {}


def form(sent: bytes) -> dict[str, Any]:
    """The parameters of a form, `a[b]=c` nested as Rails nests them."""
    found: dict[str, Any] = {}
    for name, value in parse_qsl(sent.decode(), keep_blank_values=True):
        first, *rest = re.findall(r"[^\[\]]+", name) or [name]
        place = found
        for inner in rest:
            place = place.setdefault(first, {})
            if not isinstance(place, dict):
                raise Refused(failure(400, "Bad Request"))
            first = inner
        place[first] = value
    return found


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"-?[0-9]+", text) else None

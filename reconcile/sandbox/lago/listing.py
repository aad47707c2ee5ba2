"""Collections other than events: a page of rows, each rendered, with the page's metadata."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from starlette.responses import Response

from reconcile.sandbox.lago.call import Call, Lago
from reconcile.sandbox.lago.http import Refused, answer, broken, failure, meta, paging


def listed(
    lago: Lago,
    call: Call,
    collection: str,
    select: tuple[str, str, str],
    parameters: Mapping[str, Any],
    render: Callable[[tuple[Any, ...]], dict[str, Any]],
) -> Response:
    """A page of `collection`. `select` is what to select, FROM and WHERE, and the order."""
    columns, source, order = select
    page, per_page = paging(call.query, lago.faults.max_per_page)
    ((total,),) = lago.execute(f"SELECT count(*) {source}", parameters)
    rows = lago.execute(
        f"SELECT {columns} {source} ORDER BY {order} LIMIT %(limit)s OFFSET %(offset)s",
        {**parameters, "limit": per_page, "offset": (page - 1) * per_page},
    )
    call.work.shown, call.work.counted = len(rows), total
    return page_of(lago, collection, [render(row) for row in rows], page, per_page, total)


def page_of(lago: Lago, collection: str, shown: list[dict[str, Any]], page: int, per_page: int, total: int) -> Response:
    """The answer with this page of `total` objects."""
    if per_page == 0 and lago.version.counts_past_the_end:
        raise Refused(broken())
    if not shown and not lago.version.counts_past_the_end:
        total = 0
    return answer({collection: shown, "meta": meta(page, per_page, total)})


def posted(call: Call, name: str) -> Mapping[str, Any]:
    """The object of this name in the request's body. Raises Refused where it is missing or empty."""
    found = call.params.get(name)
    if not isinstance(found, dict) or not found:
        message = f"param is missing or the value is empty or invalid: {name}"
        raise Refused(failure(400, f"BadRequest: {message}"))
    return found


def missing(given: Mapping[str, Any], *names: str) -> dict[str, list[str]]:
    """The error details for those of these fields that are blank."""
    return {name: ["value_is_mandatory"] for name in names if not str(given.get(name) or "").strip()}


def of(call: Call, **more: Any) -> dict[str, Any]:
    """Parameters of a statement: the organization, and what else is named."""
    return {"organization": call.organization, **more}

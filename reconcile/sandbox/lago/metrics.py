"""POST and GET /billable_metrics, GET /billable_metrics/{code}."""

from __future__ import annotations

from typing import Any

from psycopg.types.json import Jsonb
from starlette.responses import Response

from reconcile.sandbox.lago.call import Call, Lago, now
from reconcile.sandbox.lago.http import answer, invalid, not_found
from reconcile.sandbox.lago.listing import listed, missing, of, posted
from reconcile.sandbox.lago.timestamps import seconds_text

AGGREGATIONS = (
    "count_agg",
    "sum_agg",
    "max_agg",
    "unique_count_agg",
    "weighted_sum_agg",
    "latest_agg",
    "custom_agg",
)

COLUMNS = """id::text, name, code, description, aggregation_type, weighted_interval, recurring, rounding_function,
    rounding_precision, created_at, field_name, expression, filters"""

NAMES = (
    "lago_id",
    "name",
    "code",
    "description",
    "aggregation_type",
    "weighted_interval",
    "recurring",
    "rounding_function",
    "rounding_precision",
    "created_at",
    "field_name",
    "expression",
    "filters",
)

INSERT = f"""
INSERT INTO lago.billable_metrics (organization_id, name, code, description, aggregation_type, weighted_interval,
    field_name, expression, recurring, rounding_function, rounding_precision, filters, created_at)
VALUES (%(organization)s, %(name)s, %(code)s, %(description)s, %(aggregation_type)s, %(weighted_interval)s,
    %(field_name)s, %(expression)s, %(recurring)s, %(rounding_function)s, %(rounding_precision)s, %(filters)s, %(now)s)
ON CONFLICT DO NOTHING RETURNING {COLUMNS}"""  # noqa: S608 - constants


def create(lago: Lago, call: Call) -> Response:
    given = posted(call, "billable_metric")
    errors = missing(given, "name", "code")
    kind = given.get("aggregation_type")
    if kind not in AGGREGATIONS:
        errors["aggregation_type"] = ["value_is_invalid"]
    elif kind not in ("count_agg", "custom_agg"):
        errors |= missing(given, "field_name")
    if errors:
        return invalid(errors)
    optional = ("description", "expression", "weighted_interval", "rounding_function", "rounding_precision")
    filters = [{"key": one["key"], "values": sorted(one["values"])} for one in given.get("filters") or ()]
    rows = lago.execute(
        INSERT,
        of(
            call,
            **{name: given.get(name) for name in optional},
            name=given["name"],
            code=given["code"],
            aggregation_type=kind,
            field_name=None if kind == "count_agg" else given.get("field_name"),
            recurring=bool(given.get("recurring")),
            filters=Jsonb(filters),
            now=now(lago),
        ),
    )
    if not rows:
        return invalid({"code": ["value_already_exist"]})
    lago.reload()
    return answer({"billable_metric": _with_counts(rows[0])})


def list_all(lago: Lago, call: Call) -> Response:
    source = "FROM lago.billable_metrics WHERE organization_id = %(organization)s"
    select = (COLUMNS, source, "created_at DESC, sequence DESC")
    return listed(lago, call, "billable_metrics", select, of(call), _with_counts)


def find(lago: Lago, call: Call) -> Response:
    rows = lago.execute(
        f"SELECT {COLUMNS} FROM lago.billable_metrics WHERE organization_id = %(organization)s AND code = %(code)s",  # noqa: S608
        of(call, code=call.path["code"]),
    )
    return answer({"billable_metric": _json(rows[0])}) if rows else not_found("billable_metric")


def _json(row: tuple[Any, ...]) -> dict[str, Any]:
    metric = dict(zip(NAMES, row, strict=True))
    metric["created_at"] = seconds_text(metric["created_at"])
    metric["expression"] = metric["expression"] or None
    return metric


def _with_counts(row: tuple[Any, ...]) -> dict[str, Any]:
    """Lago counts nothing there any more."""
    return _json(row) | {"active_subscriptions_count": 0, "draft_invoices_count": 0, "plans_count": 0}

"""What Lago makes of an event as posted: casts, time, expression, validation. Pure.

Lago's events controller permits six fields and drops the rest without a word, its service reads the timestamp
as a number of seconds, and its model wants a transaction ID and a code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from reconcile.sandbox.lago.expression import ExpressionError, ruby_decimal
from reconcile.sandbox.lago.expression import evaluate as evaluate_expression
from reconcile.sandbox.lago.timestamps import OutOfRange, nanoseconds

DECIMAL_PREFIX = re.compile(r"\s*[+-]?(\d+(\.\d+)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
INVALID_TIME = {"timestamp": ["invalid_format"]}

Errors = dict[str, list[str]] | str


@dataclass(frozen=True, slots=True)
class Metric:
    """What the receipt of an event needs to know of its billable metric.

    `in_advance`: some plan has a charge on it that is paid in advance.
    """

    aggregation_type: str
    field_name: str | None
    expression: str | None
    in_advance: bool


@dataclass(frozen=True, slots=True)
class Event:
    """An event as Lago stores it. `nanoseconds` count from the epoch; the amount is a decimal string."""

    transaction_id: str | None
    code: str | None
    external_subscription_id: str | None
    nanoseconds: int
    received: bool  # the time is that of receipt: none was posted
    precise_total_amount_cents: str | None
    properties: dict[str, Any]

    @property
    def errors(self) -> dict[str, list[str]]:
        """Lago's model validations: transaction ID and code must not be blank."""
        blank = {"transaction_id": self.transaction_id, "code": self.code}
        return {name: ["value_is_mandatory"] for name, value in blank.items() if value is None or not value.strip()}


def read_event(
    params: Mapping[str, Any],
    now_microseconds: int,
    metrics: Mapping[str, Metric],
    *,
    exact_times: bool = True,
    takes_nul: bool = False,
) -> Event | Errors:
    """An event from its JSON object, or the error details that Lago answers with instead of looking further.

    `now_microseconds` stands for a missing timestamp. `metrics` are the organization's, by code. `takes_nul`: a
    NUL character in an ID is taken, as a ClickHouse store does; a Postgres store blames the timestamp for it.
    Raises OutOfRange.
    """
    posted = params.get("timestamp")
    if posted is True and not exact_times:
        raise OutOfRange
    timestamp = _scalar(posted)
    found = now_microseconds * 1000 if timestamp is None else nanoseconds(timestamp, exact=exact_times)
    if found is None:
        return dict(INVALID_TIME)
    properties = params.get("properties")
    event = Event(
        transaction_id=_scalar(params.get("transaction_id")),
        code=_scalar(params.get("code")),
        external_subscription_id=_scalar(params.get("external_subscription_id")),
        nanoseconds=found,
        received=timestamp is None,
        precise_total_amount_cents=_amount(_scalar(params.get("precise_total_amount_cents"))),
        properties=without_nulls(properties) if isinstance(properties, dict) else {},
    )
    if not takes_nul and any(
        text and "\0" in text for text in (event.transaction_id, event.code, event.external_subscription_id)
    ):
        return dict(INVALID_TIME)
    metric = metrics.get(event.code or "")
    if metric is not None and metric.expression and metric.field_name:
        try:
            value = evaluate_expression(
                metric.expression, event.code or "", Decimal(event.nanoseconds) / 10**9, event.properties
            )
        except ExpressionError as error:
            return f"expression_evaluation_failed: {error}"
        event.properties[metric.field_name] = value
    return event


def without_nulls(value: dict[str, Any]) -> dict[str, Any]:
    """Rails' "deep munge" of parameters: null within a list is dropped, as a value of an object it stays."""
    if not any(isinstance(one, dict | list) for one in value.values()):
        return value
    return {name: _munged(one) for name, one in value.items()}


def _munged(value: Any) -> Any:
    if isinstance(value, dict):
        return without_nulls(value)
    if isinstance(value, list):
        return [_munged(one) for one in value if one is not None]
    return value


def _scalar(value: Any) -> str | None:
    """A permitted scalar as Rails casts it to text; arrays and objects are dropped."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, int | float):
        return str(value)
    return None


def _amount(text: str | None) -> str | None:
    """A decimal as Rails casts it: the number that the text begins with, 0 where it begins with none."""
    if text is None or not text.strip():
        return None
    number = DECIMAL_PREFIX.match(text)
    return ruby_decimal(Decimal(number.group().strip())) if number else "0.0"

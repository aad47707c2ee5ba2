"""What Lago makes of an event as posted: casts, timestamp, expression, validation. Pure, and by Lago 1.51.0.

Lago's events controller permits six fields and drops the rest without a word, its service reads the timestamp
as a decimal number of seconds, and its model wants a transaction ID and a code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from reconcile.sandbox.lago_expression import ExpressionError, ruby_decimal
from reconcile.sandbox.lago_expression import evaluate as evaluate_expression

# What Ruby's BigDecimal() takes: blanks around, underscores between digits, an exponent by e or d.
DECIMAL = re.compile(r"\s*[+-]?(\d+(_\d+)*(\.(\d+(_\d+)*)?)?|\.\d+(_\d+)*)([eEdD][+-]?\d+)?\s*")
DECIMAL_PREFIX = re.compile(r"\s*[+-]?(\d+(\.\d+)?|\.\d+)([eE][+-]?\d+)?")

# What DateTime.iso8601 takes of the forms that clients send: no blank between date and time, no bare epoch.
ISO_8601 = re.compile(r"(\d{4}-\d{2}-\d{2}|\d{8})([Tt]\d{2}(:?\d{2}(:?\d{2}([.,]\d+)?)?)?([Zz]|[+-]\d{2}(:?\d{2})?)?)?")

Errors = dict[str, list[str]] | str


class OutOfRange(ValueError):
    """A timestamp that Lago's database does not take: Lago answers 500."""


@dataclass(frozen=True, slots=True)
class Expression:
    """The expression of a billable metric: the property it sets, and how."""

    field_name: str
    source: str


@dataclass(frozen=True, slots=True)
class Event:
    """An event as Lago stores it. `microseconds` count from the epoch; the amount is a decimal string."""

    transaction_id: str | None
    code: str | None
    external_subscription_id: str | None
    microseconds: int
    precise_total_amount_cents: str | None
    properties: dict[str, Any]

    @property
    def errors(self) -> dict[str, list[str]]:
        """Lago's model validations: transaction ID and code must not be blank."""
        blank = {"transaction_id": self.transaction_id, "code": self.code}
        return {name: ["value_is_mandatory"] for name, value in blank.items() if value is None or not value.strip()}


def read_event(
    params: Mapping[str, Any], now_microseconds: int, expressions: Mapping[str, Expression]
) -> Event | Errors:
    """An event from its JSON object, or the error details that Lago answers with instead of looking further.

    `now_microseconds` stands for a missing timestamp. `expressions` are the metrics' expressions by code.
    Raises OutOfRange.
    """
    timestamp = _scalar(params.get("timestamp"))
    if timestamp is None:
        microseconds = now_microseconds
    else:
        if not DECIMAL.fullmatch(timestamp):
            return {"timestamp": ["invalid_format"]}
        microseconds = _microseconds(timestamp)
    properties = params.get("properties")
    event = Event(
        transaction_id=_scalar(params.get("transaction_id")),
        code=_scalar(params.get("code")),
        external_subscription_id=_scalar(params.get("external_subscription_id")),
        microseconds=microseconds,
        precise_total_amount_cents=_amount(_scalar(params.get("precise_total_amount_cents"))),
        properties=properties if isinstance(properties, dict) else {},
    )
    expression = expressions.get(event.code or "")
    if expression is not None:
        try:
            value = evaluate_expression(
                expression.source, event.code or "", Decimal(microseconds) / 10**6, event.properties
            )
        except ExpressionError as error:
            return f"expression_evaluation_failed: {error}"
        event.properties[expression.field_name] = value
    return event


def read_time(text: str) -> datetime | None:
    """The instant that a filter of GET /events names (UTC without an offset); None where Lago refuses it."""
    if not ISO_8601.fullmatch(text):
        return None
    try:
        moment = datetime.fromisoformat(text.upper().replace(",", "."))
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _scalar(value: Any) -> str | None:
    """A permitted scalar as Rails casts it to text; arrays and objects are dropped."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, int | float):
        return str(value)
    return None


def _microseconds(timestamp: str) -> int:
    number = Decimal(timestamp.strip().replace("_", "").lower().replace("d", "e"))
    if number and number.adjusted() > 20:
        raise OutOfRange
    microseconds = int(number * 10**6)
    if abs(microseconds) >= 2**63:
        raise OutOfRange
    return microseconds


def _amount(text: str | None) -> str | None:
    """A decimal as Rails casts it: the number that the text begins with, 0 where it begins with none."""
    if text is None or not text.strip():
        return None
    number = DECIMAL_PREFIX.match(text)
    return ruby_decimal(Decimal(number.group().strip())) if number else "0.0"

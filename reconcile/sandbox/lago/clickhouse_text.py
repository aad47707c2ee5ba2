"""How a property becomes text, and text a number, on the way into a ClickHouse store. Pure.

Three programs have a hand in it: ClickHouse keeps the properties as a map of strings, the events processor (Go)
writes the metric's property once more with `%v`, and ClickHouse makes a decimal of that.
"""

from __future__ import annotations

import re
from decimal import ROUND_DOWN, Context, Decimal
from typing import Any

from reconcile.sandbox.lago.http import dumped

# toDecimal128OrZero(text, 26): 38 digits, 26 of them after the point. A second point is skipped: `1.2.3` is 1.23.
NUMBER = re.compile(r"[+-]?(\d+(\.[\d.]*)?|\.\d[\d.]*)([eE][+-]?\d+)?", re.ASCII)
SMALLEST = Decimal(1).scaleb(-26)
EXACT = Context(prec=400)

INT64, UINT64 = -(2**63), 2**64 - 1


def text_map(properties: dict[str, Any]) -> dict[str, str]:
    """The properties as GET /events lists them. A whole number beyond 64 bits empties the map."""
    if any(isinstance(value, int) and not INT64 <= value <= UINT64 for value in properties.values()):
        return {}
    return {name: _text(value) for name, value in properties.items()}


def go_text(value: Any) -> str:
    """A value as Go's `%v` writes it, after JSON made every number a float."""
    match value:
        case None:
            return "<nil>"
        case bool():
            return "true" if value else "false"
        case str():
            return value
        case int() | float():
            return _go_number(float(value))
        case dict():
            inner = " ".join(f"{name}:{go_text(value[name])}" for name in sorted(value))
            return f"map[{inner}]"
        case _:
            return f"[{' '.join(go_text(one) for one in value)}]"


def decimal_value(text: str) -> Decimal:
    """What ClickHouse counts for a text: 0 where it is no number or does not fit."""
    if not NUMBER.fullmatch(text):
        return Decimal(0)
    if text.count(".") > 1:
        whole, _, fraction = text.partition(".")
        text = f"{whole}.{fraction.replace('.', '')}"
    number = Decimal(text)
    if number.adjusted() > 11 or number.adjusted() < -26:
        return Decimal(0)
    return number.quantize(SMALLEST, ROUND_DOWN, EXACT) if len(text) > 26 or "e" in text.lower() else number


def _text(value: Any) -> str:
    match value:
        case None:
            return ""
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return _short_number(value)
        case _:
            return dumped(value).decode()


def _short_number(value: float) -> str:
    """The shortest text of a float: plain between 1e-6 and 1e21, else with an exponent: `5.1e-7`, `1e300`."""
    number = Decimal(repr(value))
    if not number:
        return "0"
    if -7 < number.adjusted() < 21:
        plain = format(number, "f")
        return plain.rstrip("0").rstrip(".") if "." in plain else plain
    return f"{_mantissa(number)}e{number.adjusted()}"


def _go_number(value: float) -> str:
    """`%v` of a float64: an exponent of at least two digits below 1e-4 and from a million on."""
    number = Decimal(repr(value))
    if not number or -5 < number.adjusted() < 6:
        plain = format(number, "f")
        return plain.rstrip("0").rstrip(".") if "." in plain else plain
    exponent = number.adjusted()
    return f"{_mantissa(number)}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"


def _mantissa(number: Decimal) -> str:
    sign, digits, _ = number.normalize().as_tuple()
    text = "".join(map(str, digits))
    return f"{'-' if sign else ''}{text[0]}{'.' if len(text) > 1 else ''}{text[1:]}"

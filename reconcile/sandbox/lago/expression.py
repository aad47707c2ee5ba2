"""The expression of a billable metric, as Lago evaluates it when an event arrives.

Numbers, `event.code`, `event.timestamp`, `event.properties.NAME`, the four operations, brackets, and the
functions round, ceil, floor and concat: what Lago's documentation names.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from decimal import ROUND_HALF_UP, Decimal, DivisionByZero, InvalidOperation
from typing import Any

Value = Decimal | str

OPERATIONS: dict[type[ast.operator], Callable[[Decimal, Decimal], Decimal]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


class ExpressionError(ValueError):
    """Why the expression has no value for this event, in Lago's words."""


def evaluate(source: str, code: str, timestamp: Decimal, properties: Mapping[str, Any]) -> str:
    """The value as the text that Lago puts into the properties: `3.0` for 1 + 2. Raises ExpressionError."""
    known: dict[str, Any] = {"event.code": code, "event.timestamp": timestamp}
    known.update({f"event.properties.{name}": value for name, value in properties.items()})
    try:
        value = _value(ast.parse(source, mode="eval").body, known)
    except (InvalidOperation, DivisionByZero) as error:
        raise ExpressionError("Expected a number") from error
    return value if isinstance(value, str) else ruby_decimal(value)


def ruby_decimal(number: Decimal) -> str:
    """A decimal as Ruby's BigDecimal#to_s("F") writes it: plain, at least one digit after the point."""
    text = plain_decimal(number)
    return text if "." in text else f"{text}.0"


def plain_decimal(number: Decimal) -> str:
    """A decimal without an exponent and without zeros at its end."""
    text = format(number, "f")
    return (text.rstrip("0").rstrip(".") if "." in text else text) if number else "0"


def _value(node: ast.expr, known: Mapping[str, Any]) -> Value:
    match node:
        case ast.Constant(value=int() | float() as number):
            return Decimal(str(number))
        case ast.Constant(value=str() as text):
            return text
        case ast.Attribute():
            return _variable(ast.unparse(node), known)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_number(operand, known)
        case ast.BinOp(left=left, op=operation, right=right) if type(operation) in OPERATIONS:
            return OPERATIONS[type(operation)](_number(left, known), _number(right, known))
        case ast.Call(func=ast.Name(id=function), args=arguments):
            return _call(function, arguments, known)
    raise ExpressionError("Parsing failed")


def _variable(name: str, known: Mapping[str, Any]) -> Value:
    value = known.get(name)
    if value is None:
        raise ExpressionError(f"Variable: {name.rsplit('.', 1)[-1]} not found")
    return value if isinstance(value, str | Decimal) else str(value)


def _number(node: ast.expr, known: Mapping[str, Any]) -> Decimal:
    return Decimal(_value(node, known))


def _call(function: str, arguments: list[ast.expr], known: Mapping[str, Any]) -> Value:
    if function == "concat":
        return "".join(str(_value(argument, known)) for argument in arguments)
    if not arguments or function not in ("round", "ceil", "floor"):
        raise ExpressionError("Parsing failed")
    digits = int(_number(arguments[1], known)) if len(arguments) > 1 else 0
    scaled = _number(arguments[0], known).scaleb(digits)
    whole = {
        "round": lambda: int(scaled.to_integral_value(ROUND_HALF_UP)),
        "ceil": lambda: math.ceil(scaled),
        "floor": lambda: math.floor(scaled),
    }[function]()
    return Decimal(whole).scaleb(-digits)

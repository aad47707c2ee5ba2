"""What units cost: Lago's charge models. Pure.

Amounts are in the currency's own unit, exact. A charge without a model here costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Decimal, localcontext
from typing import Any

DIGITS = 200
ZERO = Decimal(0)


class NoRange(ValueError):
    """No range of a volume charge holds these units: Lago answers 500, and bills nothing."""


def price(
    model: str, properties: Mapping[str, Any], units: Decimal, events_count: int, total_cents: Decimal
) -> Decimal:
    """What a bucket of a charge costs, below zero too. Raises NoRange.

    `total_cents` is the sum of the events' `precise_total_amount_cents`, which a dynamic charge bills.
    """
    with localcontext(prec=DIGITS):
        match model:
            case "standard":
                return units * _number(properties, "amount")
            case "graduated":
                return _graduated(properties["graduated_ranges"], units)
            case "graduated_percentage":
                return _graduated_percentage(properties["graduated_percentage_ranges"], units)
            case "package":
                return _package(properties, units)
            case "percentage":
                fixed = _number(properties, "fixed_amount") * events_count
                return units * _number(properties, "rate") / 100 + (fixed if units else ZERO)
            case "volume":
                return _volume(properties["volume_ranges"], units)
            case "dynamic":
                return total_cents / 100 if units else ZERO
        return ZERO


def rounded(units: Decimal, function: str | None, precision: int | None) -> Decimal:
    """A metric's rounding of its aggregated units."""
    modes = {"round": ROUND_HALF_UP, "ceil": ROUND_CEILING, "floor": ROUND_FLOOR}
    if function not in modes:
        return units
    with localcontext(prec=DIGITS):
        return units.quantize(Decimal(1).scaleb(-(precision or 0)), modes[function])


def cents(amount: Decimal) -> int:
    with localcontext(prec=DIGITS):
        return int((amount * 100).to_integral_value(ROUND_HALF_UP))


def total(units: Iterable[Decimal]) -> Decimal:
    """The exact sum."""
    with localcontext(prec=DIGITS):
        return sum(units, ZERO)


def unit_price(amount: Decimal, units: Decimal) -> Decimal:
    return amount / units if units else ZERO


def _number(properties: Mapping[str, Any], name: str) -> Decimal:
    return Decimal(str(properties.get(name) or 0))


def _graduated(ranges: Sequence[Mapping[str, Any]], units: Decimal) -> Decimal:
    total = ZERO
    for one in ranges:
        begin = max(Decimal(one["from_value"]) - 1, ZERO)
        if units <= begin and one["from_value"]:
            break
        within = units - begin if one["to_value"] is None else min(units, Decimal(one["to_value"])) - begin
        total += within * _number(one, "per_unit_amount") + (_number(one, "flat_amount") if units else ZERO)
    return total


def _graduated_percentage(ranges: Sequence[Mapping[str, Any]], units: Decimal) -> Decimal:
    as_rates = [
        {**one, "per_unit_amount": str(_number(one, "rate") / 100), "flat_amount": one.get("flat_amount")}
        for one in ranges
    ]
    return _graduated(as_rates, units)


def _package(properties: Mapping[str, Any], units: Decimal) -> Decimal:
    paid = units - _number(properties, "free_units")
    if paid <= 0:
        return ZERO
    return math.ceil(paid / _number(properties, "package_size")) * _number(properties, "amount")


def _volume(ranges: Sequence[Mapping[str, Any]], units: Decimal) -> Decimal:
    whole = math.ceil(units)
    for one in ranges:
        if one["from_value"] <= whole and (one["to_value"] is None or whole <= one["to_value"]):
            return units * _number(one, "per_unit_amount") + (_number(one, "flat_amount") if units else ZERO)
    raise NoRange

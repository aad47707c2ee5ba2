"""Doubles and decimals: `spend` is compared as the double it is, and added up and printed as a decimal. Pure.

NumPy is imported where arrays are added up: a LiteLLM proxy that makes an event needs none of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import Context, Decimal, Inexact
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# Wide enough for the sum of any two doubles, 1.8e308 + 5e-324: adding up never rounds.
_EXACT = Context(prec=1_100, Emax=10_000, Emin=-10_000, traps=[Inexact])


def decimal_of(value: float) -> Decimal:
    """The shortest decimal that reads back to the same double; 0 for NaN and infinite amounts."""
    value = float(value)
    return Decimal(repr(value)) if math.isfinite(value) else Decimal(0)


def plain(amount: Decimal) -> str:
    """Plain decimal notation to the last digit, without trailing zeros: `0.0000051`, `12.3`, `0`.

    Never an exponent: for sums, Lago silently drops a string that does not match `^-?\\d+(\\.\\d+)?$`
    (postgres_store.rb:514, Lago 1.51).
    """
    text = format(amount, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def plain_double(value: float) -> str:
    """`plain(decimal_of(value))`, without a decimal on the way where the double is written without an exponent."""
    text = repr(value)
    if "e" in text or "n" in text or text[0] == "-":  # an exponent, nan or inf, a sign: -0.0 is 0
        return plain(decimal_of(value))
    return text.removesuffix(".0")


def add(amounts: Iterable[Decimal]) -> Decimal:
    """The exact sum."""
    total = Decimal(0)
    for amount in amounts:
        total = _EXACT.add(total, amount)
    return total


def total(values: npt.NDArray[np.float64]) -> Decimal:
    """The exact decimal sum of doubles, each taken as its shortest decimal; NaN and infinite ones count 0."""
    import numpy as np

    distinct, counts = np.unique(values[np.isfinite(values)], return_counts=True)
    return add(
        _EXACT.multiply(decimal_of(value), Decimal(count))
        for value, count in zip(distinct.tolist(), counts.tolist(), strict=True)
    )

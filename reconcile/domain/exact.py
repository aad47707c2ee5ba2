"""Exact sums of money by group. Pure.

`spend` is a double, and stands for its shortest decimal: that is what LiteLLM meant, and what a report prints. A total
is the exact sum of those decimals. Adding a million Python decimals takes seconds, so sums are kept as integers of
1e-26 USD, in four limbs of 32 bits, and become decimals only when they are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Context, Decimal, Inexact

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from reconcile.domain.money import add, decimal_of

Limbs = npt.NDArray[np.int64]  # (groups, 4), least significant first; the last one is signed

_SCALE = 26
# Four limbs hold 38 digits and the carries of as many rows as fit in memory: making a decimal of them never rounds.
_EXACT = Context(prec=100, traps=[Inexact])
_TYPE = pa.decimal128(38, _SCALE)
# Within these bounds the 17 digits of any double fit the type.
_LEAST, _MOST = 1e-10, 1e11
_BASE = 1 << 32
# Amounts below 1,000 USD of so many decimals take a short way.
_DECIMALS = 12


def usable(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The amounts, with 0 for what is no amount: NaN and infinities."""
    return np.where(np.isfinite(values), values, 0.0)


def limbs_of(values: npt.NDArray[np.float64]) -> tuple[Limbs, npt.NDArray[np.int64]]:
    """Each amount as limbs, and the places of those that do not fit and stand as 0: the very small and very large."""
    amounts = usable(values)
    units, short = _short(amounts)
    limbs = _times(units, 10 ** (_SCALE - _DECIMALS))
    left = np.flatnonzero(~short)
    if not len(left):
        return limbs, left
    limbs[left], odd = _long(amounts[left])
    return limbs, left[odd]


def _short(amounts: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """The amounts in units of 10^-12 USD, 0 where that is not exact, and where it is.

    A whole number of at most 15 digits, divided by a power of ten that is a double itself, gives the double nearest to
    that decimal. No two decimals of 15 digits share a double: where the division gives the amount, it is its shortest
    decimal.
    """
    with np.errstate(over="ignore"):
        units = np.rint(amounts * 10.0**_DECIMALS)
    short = (np.abs(units) < 1e15) & (units / 10.0**_DECIMALS == amounts)
    return np.where(short, units, 0.0).astype(np.int64), short


def _times(units: npt.NDArray[np.int64], factor: int) -> Limbs:
    """The limbs of `units` times `factor`, both below 2^50."""
    low, high = units & (_BASE - 1), units >> 32
    factor_low, factor_high = factor & (_BASE - 1), factor >> 32
    limbs = np.zeros((len(units), 4), np.int64)
    # A product of two low limbs can reach 2^64: half of the factor at a time.
    first, second = low * (factor_low & 0xFFFF), low * (factor_low >> 16)
    limbs[:, 0] = first + ((second & 0xFFFF) << 16)
    limbs[:, 1] = (second >> 16) + low * factor_high + high * factor_low + (limbs[:, 0] >> 32)
    limbs[:, 0] &= _BASE - 1
    limbs[:, 2] = high * factor_high + (limbs[:, 1] >> 32)
    limbs[:, 1] &= _BASE - 1
    limbs[:, 3] = limbs[:, 2] >> 32
    limbs[:, 2] &= _BASE - 1
    return limbs


def _long(amounts: npt.NDArray[np.float64]) -> tuple[Limbs, npt.NDArray[np.bool_]]:
    """The limbs of any amounts by way of their text, and which do not fit and stand as 0."""
    places, distinct = pd.factorize(amounts)
    size = np.abs(distinct)
    odd = (size >= _MOST) | ((size < _LEAST) & (size > 0))
    fitting = np.where(odd, 0.0, distinct)
    decimals = pa.array(fitting).cast(pa.string()).cast(_TYPE)
    words = np.frombuffer(decimals.buffers()[1], np.uint64, count=2 * len(fitting)).reshape(-1, 2)
    low, high = words[:, 0], words[:, 1].view(np.int64)
    limbs = np.empty((len(fitting), 4), np.int64)
    limbs[:, 0] = (low & np.uint64(_BASE - 1)).astype(np.int64)
    limbs[:, 1] = (low >> np.uint64(32)).astype(np.int64)
    limbs[:, 2] = high & (_BASE - 1)
    limbs[:, 3] = high >> 32
    return limbs[places], odd[places]


def group_sums(limbs: Limbs, groups: npt.NDArray[np.int64], count: int) -> Limbs:
    """The limbs of each of `count` groups, added up."""
    sums = np.zeros((count, 4), np.int64)
    for limb in range(4):
        np.add.at(sums[:, limb], groups, limbs[:, limb])
    return sums


def as_decimals(sums: Limbs) -> list[Decimal]:
    """Sums of limbs as decimals in USD."""
    return [
        _EXACT.scaleb(Decimal(a + (b << 32) + (c << 64) + (d << 96)), -_SCALE) if a or b or c or d else Decimal(0)
        for a, b, c, d in sums.tolist()
    ]


def total(values: npt.NDArray[np.float64]) -> Decimal:
    """The exact sum of amounts; NaN and infinite ones count 0."""
    if not len(values):
        return Decimal(0)
    limbs, odd = limbs_of(values)
    (fitting,) = as_decimals(limbs.sum(axis=0, keepdims=True))
    return add([fitting, *odd_amounts(values, odd)])


def odd_amounts(values: npt.NDArray[np.float64], odd: npt.NDArray[np.int64]) -> Sequence[Decimal]:
    """The amounts that do not fit limbs, as decimals."""
    return [decimal_of(value) for value in values[odd].tolist()]

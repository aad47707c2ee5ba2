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


def usable(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The amounts, with 0 for what is no amount: NaN and infinities."""
    return np.where(np.isfinite(values), values, 0.0)


def limbs_of(values: npt.NDArray[np.float64]) -> tuple[Limbs, npt.NDArray[np.int64]]:
    """Each amount as limbs, and the places of those that do not fit and stand as 0: the very small and very large."""
    places, distinct = pd.factorize(usable(values))
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
    return limbs[places], np.flatnonzero(odd[places])


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

"""Sums by key, as integers: counters and exact money, which become words and decimals only when asked for. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from math import prod

import numpy as np
import numpy.typing as npt
import pandas as pd

from reconcile.domain import exact
from reconcile.domain.money import add

Ints = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]

# The parts of a key, and those of them that are words.
KEY = ("slice", "scope", "class", "reason", "charge_id", "model", "day")
WORDS = ("scope", "class", "reason", "charge_id", "model")
_COMPACT_AT = 100_000  # groups


class Words:
    """Numbers for words, as they come."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}
        self.words: list[str] = []

    def code(self, word: str) -> int:
        code = self._codes.get(word)
        if code is None:
            code = self._codes[word] = len(self.words)
            self.words.append(word)
        return code

    def codes(self, column: pd.Series) -> Ints:
        """The codes of a categorical column."""
        categories = column.cat.categories
        used = np.unique(column.cat.codes.to_numpy())
        known = np.zeros(len(categories), np.int64)
        names = categories.to_numpy(object)
        for place in used.tolist():
            known[place] = self.code(str(names[place]))
        return known[column.cat.codes.to_numpy()]


class Read:
    """Count and money of what was read."""

    def __init__(self) -> None:
        self.count = 0
        self._sums = np.zeros(4, np.int64)
        self._odd: list[Decimal] = []

    def add(self, amounts: Doubles, sign: int = 1) -> None:
        limbs, odd = exact.limbs_of(amounts)
        self.count += sign * len(amounts)
        self._sums += sign * limbs.sum(axis=0)
        self._odd += [sign * amount for amount in exact.odd_amounts(amounts, odd)]

    def take(self, count: int, limbs: Ints) -> None:
        self.count += count
        self._sums += limbs.sum(axis=0)

    @property
    def money(self) -> Decimal:
        (fitting,) = exact.as_decimals(self._sums.reshape(1, 4))
        return add([fitting, *self._odd])


class Groups:
    """Totals by key, as integers: they become words and decimals only when they are asked for."""

    def __init__(self, words: Words, counters: int) -> None:
        self._words = words
        self._width = counters
        self._keys: list[Ints] = []  # chunks of (groups, key columns)
        self._values: list[Ints] = []  # chunks of (groups, counters and limbs)
        self._size = 0
        self._compact_at = _COMPACT_AT
        # Amounts that do not fit limbs, by key.
        self._odd: dict[tuple[int, ...], Decimal] = {}

    def add(self, keys: list[Ints], counters: list[Ints], amounts: Doubles) -> None:
        limbs, odd = exact.limbs_of(amounts)
        for place, amount in zip(odd.tolist(), exact.odd_amounts(amounts, odd), strict=True):
            key = tuple(int(column[place]) for column in keys)
            self._odd[key] = add((self._odd.get(key, Decimal(0)), amount))
        self.take(np.stack(keys, axis=1), np.concatenate([np.stack(counters, axis=1), limbs], axis=1))

    def take(self, keys: Ints, values: Ints) -> None:
        """Adds counters and limbs (a row of `values`) to each key (a row of `keys`)."""
        keys, sums = _added(keys, values)
        self._keys.append(keys)
        self._values.append(_normal(sums, self._width))
        self._size += len(keys)
        if self._size > self._compact_at:
            keys, sums = self.summed(range(len(KEY)))
            self._keys, self._values, self._size = [keys], [sums], len(keys)
            # Where the keys are nearly all different, the next time comes only with as many again.
            self._compact_at = max(_COMPACT_AT, 2 * self._size)

    def summed(self, columns: Sequence[int], only: int | None = None) -> tuple[Ints, Ints]:
        """Keys of these columns, each once, with their counters and limbs; `only` of one slice."""
        chosen = [
            (keys[at], values[at])
            for keys, values in zip(self._keys, self._values, strict=True)
            if (at := np.full(len(keys), True) if only is None else keys[:, 0] == only).any()
        ]
        if not chosen:
            return np.zeros((0, len(columns)), np.int64), np.zeros((0, self._width + 4), np.int64)
        keys, values = (np.concatenate(part) for part in zip(*chosen, strict=True))
        keys, sums = _added(keys[:, list(columns)], values)
        return keys, _normal(sums, self._width)

    @property
    def odd_slices(self) -> set[int]:
        """The slices that hold amounts which do not fit limbs."""
        return {key[0] for key in self._odd}

    def by(self, *names: str, only: int | None = None) -> dict[tuple[str | int, ...], tuple[list[int], Decimal]]:
        """Counters and money by these parts of the key; `only` one slice."""
        columns = [KEY.index(name) for name in names]
        found: dict[tuple[str | int, ...], tuple[list[int], Decimal]] = {}
        keys, sums = self.summed(columns, only)
        money = exact.as_decimals(sums[:, self._width :])
        for codes, counters, amount in zip(keys.tolist(), sums[:, : self._width].tolist(), money, strict=True):
            found[self._named(names, codes)] = (counters, amount)
        for key, amount in self._odd.items():
            if only is None or key[0] == only:
                name = self._named(names, [key[column] for column in columns])
                counters, so_far = found[name]
                found[name] = (counters, add((so_far, amount)))
        return found

    def _named(self, names: Iterable[str], codes: list[int]) -> tuple[str | int, ...]:
        words = self._words.words
        return tuple(words[code] if name in WORDS else code for name, code in zip(names, codes, strict=True))


def _added(keys: Ints, values: Ints) -> tuple[Ints, Ints]:
    """Each key once, in order of first appearance, and the sums of its values."""
    group, first = _numbered(keys)
    # Numbers of 16 bits are sorted by their digits, in a tenth of the time.
    order = np.argsort(group.astype(np.uint16) if len(first) <= 1 << 16 else group, kind="stable")
    starts = np.flatnonzero(np.concatenate(([True], np.diff(group[order]) != 0)))
    return keys[first], np.add.reduceat(values[order], starts, axis=0)


def _numbered(keys: Ints) -> tuple[Ints, Ints]:
    """The group number of each key, in order of first appearance, and where each group is first seen."""
    least = keys.min(axis=0)
    widths = [int(width) for width in keys.max(axis=0) - least + 1]
    if prod(widths) < 1 << 63:
        number = np.zeros(len(keys), np.int64)
        for column, width in enumerate(widths):
            number = number * width + (keys[:, column] - least[column])
        group = pd.factorize(number)[0].astype(np.int64)
    else:
        group = np.zeros(len(keys), np.int64)
        for column in range(keys.shape[1]):
            part, distinct = pd.factorize(keys[:, column])
            group = pd.factorize(group * len(distinct) + part)[0].astype(np.int64)
    seen = np.maximum.accumulate(group)
    return group, np.flatnonzero(np.concatenate(([True], seen[1:] > seen[:-1])))


def _normal(sums: Ints, width: int) -> Ints:
    """Carries the limbs over, so that later sums cannot overflow them."""
    for limb in range(width, width + 3):
        sums[:, limb + 1] += sums[:, limb] >> 32
        sums[:, limb] &= (1 << 32) - 1
    return sums

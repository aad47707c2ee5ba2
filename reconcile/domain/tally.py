"""Counts and money of both sides by slice, scope, class, reason, charge ID, model and day; the proof that they balance.

Everything that a report shows is a sum over these groups, so that every total is the sum of its lines. Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import date
from decimal import Decimal
from typing import Any, TypeVar

import numpy as np
import orjson
import pandas as pd

from reconcile.domain import exact
from reconcile.domain.document import EventTotals, Group, RowTotals
from reconcile.domain.frames import among, constant
from reconcile.domain.money import add, plain
from reconcile.domain.sums import KEY, WORDS, Doubles, Groups, Ints, Read, Words
from reconcile.domain.vocabulary import EVENT_CLASSES, ROW_CLASSES, RowClass, Scope
from reconcile.errors import BooksFault

Days = Callable[[Ints], Ints]  # local days, numbered since 1970, of instants in ms
Totals = TypeVar("Totals", RowTotals, EventTotals)

_COST_TOLERANCE = 1e-9
_AGREEING = (RowClass.MATCHED, RowClass.MATCHED_LIVE)
_WINDOW = frozenset({Scope.WINDOW.value})
_OUTSIDE = frozenset({Scope.LATE.value, Scope.HELD.value})


def billable_spend(spend: Doubles) -> Doubles:
    """NaN, infinite and negative spend counts as 0."""
    return np.where(np.isfinite(spend) & (spend > 0), spend, 0.0)


class Tally:
    """The running totals of one run. `days` gives the local day of each instant; slices are `slice_ms` long.

    `keeps_slices` keeps the totals of each slice apart, as `pack` and `rows_there` need them: of a long report that
    would be most of the memory.
    """

    def __init__(self, days: Days, slice_ms: int, *, keeps_slices: bool = True) -> None:
        self._days, self.slice_ms, self.keeps_slices = days, slice_ms, keeps_slices
        self._words = Words()
        self._rows = Groups(self._words, counters=4)  # count, prompt tokens, completion tokens, ambiguous
        self._events = Groups(self._words, counters=1)
        self._read_rows, self._read_events = Read(), Read()
        self._read_slices: dict[int, list[int]] = {}  # slice -> rows and events read of it

    # --- what was read

    def read(self, rows: pd.DataFrame, events: pd.DataFrame) -> None:
        """Counts what was read (ROWS and EVENTS), before it is classified. Of events, those of the window alone."""
        counted, inside = ~among(rows["scope"], [Scope.CONTEXT]), among(rows["scope"], [Scope.WINDOW])
        self._read_rows.add(billable_spend(rows["spend"].to_numpy(np.float64)[counted]))
        self._read_events.add(exact.usable(events["response_cost"].to_numpy(np.float64)))
        for place, times in enumerate((rows["usage_ms"].to_numpy(np.int64)[inside], events["time_ms"])):
            numbers, counts = np.unique(np.asarray(times, np.int64) // self.slice_ms, return_counts=True)
            for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
                self._read_slices.setdefault(number, [0, 0])[place] += count

    def set_aside(self, costs: Doubles) -> None:
        """Takes events that were read out of the books: their rows are gone from the spend log."""
        self._read_events.add(exact.usable(costs), sign=-1)

    def rows_there(self, number: int) -> dict[tuple[str, str], int]:
        """How many rows of each charge ID and model were read of a slice and are decided about."""
        groups = self._rows.by("charge_id", "model", only=number)
        return {(str(charge_id), str(model)): counters[0] for (charge_id, model), (counters, _) in groups.items()}

    def groups_of(self, packed: bytes) -> dict[tuple[str, str], int]:
        """How many rows of each charge ID and model a packed slice held."""
        found = orjson.loads(packed)
        words, counts = found["words"], dict[tuple[str, str], int]()
        for (_, _, charge_id, model, _), (count, *_) in zip(found["rows"]["keys"], found["rows"]["sums"], strict=True):
            key = (words[charge_id], words[model])
            counts[key] = counts.get(key, 0) + count
        return counts

    # --- what was found

    def add_rows(self, rows: pd.DataFrame) -> None:
        """Takes row verdicts (ROW_VERDICTS), each once. Rows that are context alone are left out."""
        context = among(rows["scope"], [Scope.CONTEXT])
        if context.any():
            rows = rows[~context]
        if rows.empty:
            return
        spend = rows["spend"].to_numpy(np.float64)
        self._same_money(rows, spend)
        times = rows["usage_ms"].to_numpy(np.int64)
        self._rows.add(
            self._keys(rows, times),
            [
                np.ones(len(rows), np.int64),
                rows["prompt_tokens"].to_numpy(np.int64),
                rows["completion_tokens"].to_numpy(np.int64),
                rows["ambiguous"].to_numpy(np.int64),
            ],
            billable_spend(spend),
        )

    def add_events(self, events: pd.DataFrame) -> None:
        """Takes verdicts on events of the window (EVENT_VERDICTS), each once."""
        if events.empty:
            return
        times = events["time_ms"].to_numpy(np.int64)
        keys = self._keys(events.assign(scope=constant(Scope.WINDOW.value, len(events))), times)
        self._events.add(keys, [np.ones(len(events), np.int64)], exact.usable(events["cost"].to_numpy(np.float64)))

    def _keys(self, frame: pd.DataFrame, times: Ints) -> list[Ints]:
        codes = {name: self._words.codes(frame[name]) for name in WORDS}
        slices = times // self.slice_ms if self.keeps_slices else np.zeros(len(times), np.int64)
        return [slices, *codes.values(), self._days(times)]

    def _same_money(self, rows: pd.DataFrame, spend: Doubles) -> None:
        """Raises `BooksFault` where an agreeing pair does not hold the same money on both sides."""
        cost = rows["event_cost"].to_numpy(np.float64)
        agreeing = among(rows["class"], _AGREEING) & ~np.isnan(cost)
        row, event = spend[agreeing], cost[agreeing]
        same = np.abs(row - event) <= _COST_TOLERANCE * np.maximum(np.abs(row), np.abs(event))
        if not same.all():
            worst = int(np.flatnonzero(~same)[0])
            raise BooksFault(
                f"{int((~same).sum())} rows agree with events of another cost: "
                f"{float(row[worst])!r} and {float(event[worst])!r}"
            )

    # --- the proof

    def check(self) -> None:
        """Raises `BooksFault` where the classes do not add up to what was read, in count and in money."""
        rows, events = self.row_classes()["total"], self.event_classes()["total"]
        outside = self.outside()["total"]
        _same("rows", self._read_rows, (rows.count + outside.count, add((rows.spend, outside.spend))))
        _same("events", self._read_events, (events.count, events.spend))

    # --- slices

    def agreed_slices(
        self, numbers: Iterable[int], allowed_rows: Collection[str], allowed_events: Collection[str]
    ) -> list[int]:
        """Those of the slices of which all that was read is booked, in these classes alone. Empty ones agree.

        A slice with amounts that do not fit limbs is none of them: it cannot be packed.
        """
        odd = self._rows.odd_slices | self._events.odd_slices
        booked: dict[int, list[int]] = defaultdict(lambda: [0, 0])
        spoiled: set[int] = set()
        for place, groups, allowed in ((0, self._rows, allowed_rows), (1, self._events, allowed_events)):
            for (number, scope, name), (counters, _) in groups.by("slice", "scope", "class").items():
                if scope == Scope.WINDOW.value:
                    booked[int(number)][place] += counters[0]
                    if name not in allowed:
                        spoiled.add(int(number))
        nothing = [0, 0]
        return [
            number
            for number in numbers
            if number not in spoiled | odd and booked.get(number, nothing) == self._read_slices.get(number, nothing)
        ]

    def delivered_in(self, number: int) -> int:
        """How many rows of a slice this run has delivered."""
        groups = self._rows.by("scope", "class", only=number)
        return sum(counters[0] for (_, name), (counters, _) in groups.items() if name == RowClass.DELIVERED.value)

    def pack(self, number: int, further: Any) -> bytes:
        """The totals of a slice that agrees, for `absorb`: what this run delivered stands as matched on both sides.

        `further` travels along. Words are numbered; keys are class, reason, charge ID, model and day, sums the counters
        and limbs of exact money.
        """
        told = (Scope.WINDOW.value, RowClass.DELIVERED.value, RowClass.MATCHED.value, "")
        window, delivered, matched, none = map(self._words.code, told)
        keys, sums = self._rows.summed(range(len(KEY)), only=number)
        inside = keys[:, 1] == window
        keys, sums = np.ascontiguousarray(keys[inside, 2:]), sums[inside]
        event_keys, event_sums = self._events.summed(range(2, len(KEY)), only=number)
        sent = keys[:, 0] == delivered
        keys[sent, :2] = matched, none
        # Of a row its count and its money make the event that was delivered.
        event_keys = np.concatenate([event_keys, keys[sent]])
        event_sums = np.concatenate([event_sums, np.delete(sums[sent], (1, 2, 3), axis=1)])
        used = np.unique(np.concatenate([keys[:, :4].ravel(), event_keys[:, :4].ravel()]))
        for codes in (keys, event_keys):
            codes[:, :4] = np.searchsorted(used, codes[:, :4])
        # What was taken from columns lies in memory as columns, which orjson does not write.
        keys, sums, event_keys, event_sums = map(np.ascontiguousarray, (keys, sums, event_keys, event_sums))
        return orjson.dumps(
            {
                "words": [self._words.words[code] for code in used.tolist()],
                # As orjson takes them: what numpy cut out may lie in memory column by column.
                "rows": {"keys": keys, "sums": np.ascontiguousarray(sums)},
                "events": {"keys": np.ascontiguousarray(event_keys), "sums": np.ascontiguousarray(event_sums)},
                "further": further,
            },
            option=orjson.OPT_SERIALIZE_NUMPY,
        )

    def absorb(self, number: int, packed: bytes) -> Any:
        """Adds the totals of a slice that an earlier run has packed; gives what travelled along."""
        found = orjson.loads(packed)
        codes = np.array([self._words.code(word) for word in found["words"]], np.int64)
        window = self._words.code(Scope.WINDOW.value)
        for groups, read, part in (
            (self._rows, self._read_rows, found["rows"]),
            (self._events, self._read_events, found["events"]),
        ):
            if part["keys"]:
                keys, sums = np.array(part["keys"], np.int64), np.array(part["sums"], np.int64)
                where = np.tile([[number, window]], (len(keys), 1))
                groups.take(np.column_stack([where, codes[keys[:, :4]], keys[:, 4]]), sums)
                read.take(int(sums[:, 0].sum()), sums[:, -4:])
        return found["further"]

    # --- what a document shows

    def row_classes(self) -> dict[str, RowTotals]:
        """Totals of the window's rows: every class, and "total"."""
        return _by_class(_regroup(self._rows.by("scope", "class"), _row_totals, 1, _WINDOW), ROW_CLASSES, RowTotals)

    def event_classes(self) -> dict[str, EventTotals]:
        """Totals of the window's events: every class, and "total"."""
        found = _regroup(self._events.by("scope", "class"), _event_totals, 1, _WINDOW)
        return _by_class(found, EVENT_CLASSES, EventTotals)

    def outside(self) -> dict[str, RowTotals]:
        """Totals of late rows and of those held back before, by class, and "total"."""
        return _by_class(_regroup(self._rows.by("scope", "class"), _row_totals, 1, _OUTSIDE), ROW_CLASSES, RowTotals)

    @property
    def ambiguous(self) -> int:
        return sum(counters[3] for (scope,), (counters, _) in self._rows.by("scope").items() if scope in _WINDOW)

    def reasons(self) -> dict[tuple[str, str], tuple[int, Decimal]]:
        """Count and money of the window by class and reason; of events, those of classes that have no row."""
        found: dict[tuple[str, str], tuple[int, Decimal]] = {}
        for (scope, name, reason), (counters, money) in self._rows.by("scope", "class", "reason").items():
            if scope in _WINDOW:
                found[str(name), str(reason)] = (counters[0], money)
        for (name, reason), (counters, money) in self._events.by("class", "reason").items():
            if name not in ROW_CLASSES:
                found[str(name), str(reason)] = (counters[0], money)
        return found

    def by_charge_id(self) -> tuple[Group, ...]:
        return self._groups("charge_id", lambda key: {"charge_id": key or None})

    def by_model(self) -> tuple[Group, ...]:
        return self._groups("model", lambda key: {"model": key or None})

    def by_day(self) -> tuple[Group, ...]:
        return self._groups("day", lambda key: {"day": _day(key)})

    def by_charge_id_and_day(self) -> tuple[Group, ...]:
        rows = _per(self._rows.by("scope", "class", "charge_id", "day"), _row_totals, 2)
        events = _per(self._events.by("scope", "class", "charge_id", "day"), _event_totals, 2)
        return tuple(
            Group(
                rows.get(key, {"total": RowTotals()}),
                events.get(key, {"total": EventTotals()}),
                charge_id=str(key[0]) or None,
                day=_day(key[1]),
            )
            for key in sorted(rows.keys() | events.keys())
        )

    def _groups(self, name: str, called: Callable[[Any], Mapping[str, Any]]) -> tuple[Group, ...]:
        rows = _per(self._rows.by("scope", "class", name), _row_totals, 1)
        events = _per(self._events.by("scope", "class", name), _event_totals, 1)
        return tuple(
            Group(rows.get(key, {"total": RowTotals()}), events.get(key, {"total": EventTotals()}), **called(key[0]))
            for key in sorted(rows.keys() | events.keys())
        )


def _row_totals(counters: list[int], money: Decimal) -> RowTotals:
    return RowTotals(counters[0], money, counters[1], counters[2])


def _event_totals(counters: list[int], money: Decimal) -> EventTotals:
    return EventTotals(counters[0], money)


def _regroup(
    groups: Mapping[tuple[str | int, ...], tuple[list[int], Decimal]],
    made: Callable[[list[int], Decimal], Totals],
    place: int,
    scopes: Collection[str],
) -> dict[str, Totals]:
    """Totals by the part of the key at `place`, of these scopes."""
    found: dict[str, Totals] = {}
    for key, (counters, money) in groups.items():
        if key[0] in scopes:
            name, totals = str(key[place]), made(counters, money)
            found[name] = found[name] + totals if name in found else totals
    return found


def _per(
    groups: Mapping[tuple[str | int, ...], tuple[list[int], Decimal]],
    made: Callable[[list[int], Decimal], Totals],
    parts: int,
) -> dict[tuple[Any, ...], dict[str, Totals]]:
    """Totals of the window by the last `parts` of the key (scope, class, …), then by class and "total"."""
    found: dict[tuple[Any, ...], dict[str, Totals]] = defaultdict(dict)
    for key, (counters, money) in groups.items():
        if key[0] in _WINDOW:
            of_part, totals = found[key[-parts:]], made(counters, money)
            for name in ("total", str(key[1])):
                of_part[name] = of_part[name] + totals if name in of_part else totals
    return found


def _by_class(found: Mapping[str, Totals], names: Iterable[str], kind: type[Totals]) -> dict[str, Totals]:
    total = kind()
    for totals in found.values():
        total = total + totals
    return {"total": total} | {str(name): found.get(str(name), kind()) for name in names}


def _same(side: str, read: Read, booked: tuple[int, Decimal]) -> None:
    if (read.count, read.money) != booked:
        raise BooksFault(
            f"the {side} do not add up: read {read.count} of {plain(read.money)} USD, "
            f"classified {booked[0]} of {plain(booked[1])} USD"
        )


def _day(number: Any) -> date:
    return date.fromordinal(date(1970, 1, 1).toordinal() + int(number))

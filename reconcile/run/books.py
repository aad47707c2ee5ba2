"""Adds up the classes, exactly and in money, and proves that they add up to what was read. Pure.

Totals are kept per class, charge ID and day and per class and model; everything else is a sum of those, so that every
total is the sum of its lines.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from decimal import Decimal
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import orjson
import pandas as pd

from reconcile.domain.document import (
    DISCREPANCY_CLASSES,
    DISCREPANCY_COLUMNS,
    EVENT_CLASSES,
    ROW_CLASSES,
    EventTotals,
    Group,
    RowTotals,
)
from reconcile.domain.money import add, decimal_of, total
from reconcile.domain.money import plain as money
from reconcile.errors import BooksFault

Key = tuple[str, str, date]  # class, charge ID ('' for none), day
Days = Callable[[npt.NDArray[np.int64]], npt.NDArray[Any]]
Totals = TypeVar("Totals", RowTotals, EventTotals)


def billable_spend(spend: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """NaN, infinite and negative spend counts as 0."""
    return np.where(np.isfinite(spend) & (spend > 0), spend, 0.0)


class Books:
    """The running totals of one window. `days` gives the local day of each time (ms)."""

    def __init__(self, days: Days) -> None:
        self._days = days
        self.rows: dict[Key, RowTotals] = {}
        self.events: dict[Key, EventTotals] = {}
        self.row_models: dict[tuple[str, str], RowTotals] = {}
        self.event_models: dict[tuple[str, str], EventTotals] = {}
        self.reasons: dict[tuple[str, str], tuple[int, Decimal]] = {}
        self.ambiguous = 0
        self._read_rows, self._read_events = RowTotals(), EventTotals()
        self._discrepancies: list[pd.DataFrame] = []

    def read(self, rows: pd.DataFrame, event_costs: npt.NDArray[np.float64]) -> None:
        """Counts what was read, before it is classified."""
        self._read_rows += RowTotals(
            len(rows),
            total(billable_spend(rows["spend"].to_numpy(np.float64))),
            int(rows["prompt_tokens"].sum()),
            int(rows["completion_tokens"].sum()),
        )
        self._read_events += EventTotals(len(event_costs), total(event_costs))

    def set_aside(self, event_costs: npt.NDArray[np.float64]) -> None:
        """Takes events that were read out of the books again: their rows are gone from the spend log."""
        read = self._read_events
        self._read_events = EventTotals(read.count - len(event_costs), add((read.spend, -total(event_costs))))

    def add_rows(self, rows: pd.DataFrame) -> None:
        """Takes classified rows: class, reason, charge_id, model, usage_ms, spend, tokens, ambiguous, and for
        discrepancies request_id, transaction_id, event_cost, detail."""
        spend = billable_spend(rows["spend"].to_numpy(np.float64))
        sizes = {
            "prompt": rows["prompt_tokens"].to_numpy(np.int64),
            "completion": rows["completion_tokens"].to_numpy(np.int64),
        }
        day = self._days(rows["usage_ms"].to_numpy(np.int64))

        def made(at: npt.NDArray[np.int64], money: Decimal) -> RowTotals:
            return RowTotals(len(at), money, int(sizes["prompt"][at].sum()), int(sizes["completion"][at].sum()))

        _accumulate(self.rows, [rows["class"], rows["charge_id"], pd.Series(day)], spend, made)
        _accumulate(self.row_models, [rows["class"], rows["model"]], spend, made)
        self._add_reasons([rows["class"], rows["reason"]], spend, made)
        self.ambiguous += int(rows["ambiguous"].sum())
        self._keep(
            rows,
            rows["usage_ms"],
            row_spend=spend,
            event_spend=rows["event_cost"].to_numpy(np.float64),
            transaction_id=rows["transaction_id"],
            request_id=rows["request_id"],
        )

    def add_events(self, events: pd.DataFrame, *, paired_outside: npt.NDArray[np.bool_]) -> None:
        """Takes classified events: class, reason, charge_id, model, time_ms, cost, and for discrepancies
        transaction_id, row_request_id, row_spend. `paired_outside` marks those whose row is not in the window."""
        cost = np.nan_to_num(events["cost"].to_numpy(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        day = self._days(events["time_ms"].to_numpy(np.int64))

        def made(at: npt.NDArray[np.int64], money: Decimal) -> EventTotals:
            return EventTotals(len(at), money)

        _accumulate(self.events, [events["class"], events["charge_id"], pd.Series(day)], cost, made)
        _accumulate(self.event_models, [events["class"], events["model"]], cost, made)
        surplus = events["class"].isin(("duplicate", "orphan")).to_numpy(bool)
        if surplus.any():
            chosen, amounts = events[surplus], cost[surplus]
            self._add_reasons([chosen["class"], chosen["reason"]], amounts, lambda at, money: RowTotals(len(at), money))
        # The pairs of the window stand with their rows already.
        alone = events["class"].isin(("duplicate", "orphan")).to_numpy(bool) | paired_outside
        listed = events[alone]
        self._keep(
            listed,
            listed["time_ms"],
            row_spend=listed["row_spend"].to_numpy(np.float64),
            event_spend=cost[alone],
            transaction_id=listed["transaction_id"],
            request_id=listed["row_request_id"],
        )

    def _add_reasons(
        self,
        keys: list[pd.Series],
        amounts: npt.NDArray[np.float64],
        made: Callable[[npt.NDArray[np.int64], Decimal], RowTotals],
    ) -> None:
        reasons: dict[tuple[str, str], RowTotals] = {}
        _accumulate(reasons, keys, amounts, made)
        for key, found in reasons.items():
            count, money = self.reasons.get(key, (0, Decimal(0)))
            self.reasons[key] = (count + found.count, add((money, found.spend)))

    def _keep(
        self,
        frame: pd.DataFrame,
        times: pd.Series,
        *,
        row_spend: npt.NDArray[np.float64],
        event_spend: npt.NDArray[np.float64],
        transaction_id: pd.Series,
        request_id: pd.Series,
    ) -> None:
        wanted = frame["class"].isin(DISCREPANCY_CLASSES).to_numpy(bool)
        if not wanted.any():
            return
        chosen = frame[wanted]
        detail = chosen["detail"] if "detail" in chosen else pd.Series("", index=chosen.index)
        self._discrepancies.append(
            pd.DataFrame(
                {
                    "class": _text(chosen["class"]),
                    "charge_id": _text(chosen["charge_id"]),
                    "model": _text(chosen["model"]),
                    "request_id": _text(request_id[wanted]),
                    "transaction_id": _text(transaction_id[wanted]),
                    "usage_time": pd.to_datetime(times[wanted].to_numpy(), unit="ms", utc=True).as_unit("ms"),
                    "row_spend": row_spend[wanted],
                    "event_spend": event_spend[wanted],
                    "reason": _text(chosen["reason"]),
                    "detail": _text(detail),
                }
            )
        )

    def discrepancies(self, late: Books | None = None) -> pd.DataFrame:
        """All of them, largest money first; with those of late rows, but for what was told when it was new."""
        frames = list(self._discrepancies)
        if late is not None:
            frames += [frame[frame["class"] != "unattributed"] for frame in late._discrepancies]
        if not frames:
            return pd.DataFrame({name: pd.Series(dtype="str") for name in DISCREPANCY_COLUMNS}).astype(
                {"usage_time": "datetime64[ms, UTC]", "row_spend": "float64", "event_spend": "float64"}
            )
        frame = pd.concat(frames, ignore_index=True)
        money = np.nanmax(
            np.abs(np.stack([frame["row_spend"].to_numpy(), frame["event_spend"].to_numpy(), np.zeros(len(frame))])),
            axis=0,
        )
        frame["money"] = -money
        by = ["money", "usage_time", "class", "request_id", "transaction_id"]
        return frame.sort_values(by, kind="stable", ignore_index=True)[list(DISCREPANCY_COLUMNS)]

    def settled(self) -> bool:
        """Whether everything that was read is booked."""
        return (
            sum(found.count for found in self.rows.values()) == self._read_rows.count
            and sum(found.count for found in self.events.values()) == self._read_events.count
        )

    def pack(self, started: list[list[Any]]) -> bytes:
        """The totals of books that agree, for `absorb`: what this run delivered stands as matched on both sides.

        `started` travels along: the rows per day of their start.
        """
        agreed = Books(self._days)
        agreed._absorb(self)
        for (kind, charge_id, day), found in self.rows.items():
            if kind == "delivered":
                agreed._add_key(agreed.events, ("matched", charge_id, day), EventTotals(found.count, found.spend))
        for (kind, model), found in self.row_models.items():
            if kind == "delivered":
                agreed._add_key(agreed.event_models, ("matched", model), EventTotals(found.count, found.spend))
        _rename(agreed.rows, "delivered", "matched")
        _rename(agreed.row_models, "delivered", "matched")
        agreed.reasons = {key: found for key, found in agreed.reasons.items() if key[0] != "delivered"}
        content = {
            "rows": [[*_plain(key), *_row_line(found)] for key, found in agreed.rows.items()],
            "events": [[*_plain(key), found.count, money(found.spend)] for key, found in agreed.events.items()],
            "row_models": [[*key, *_row_line(found)] for key, found in agreed.row_models.items()],
            "event_models": [[*key, found.count, money(found.spend)] for key, found in agreed.event_models.items()],
            "reasons": [[*key, count, money(spend)] for key, (count, spend) in agreed.reasons.items()],
            "ambiguous": agreed.ambiguous,
            "started": started,
            "discrepancies": [
                {**entry, "usage_time": entry["usage_time"].isoformat()}
                for entry in (
                    self.discrepancies().replace({np.nan: None}).to_dict("records") if self._discrepancies else []
                )
            ],
        }
        return zlib.compress(orjson.dumps(content))

    def absorb(self, packed: bytes) -> list[list[Any]]:
        """Adds the totals of a slice that an earlier run has packed; gives what travelled along."""
        found = orjson.loads(zlib.decompress(packed))
        for kind, charge_id, day, *line in found["rows"]:
            self._add_key(self.rows, (kind, charge_id, date.fromisoformat(day)), _row_totals(line))
        for kind, charge_id, day, count, spend in found["events"]:
            key = (kind, charge_id, date.fromisoformat(day))
            self._add_key(self.events, key, EventTotals(count, Decimal(spend)))
        for kind, model, *line in found["row_models"]:
            self._add_key(self.row_models, (kind, model), _row_totals(line))
        for kind, model, count, spend in found["event_models"]:
            self._add_key(self.event_models, (kind, model), EventTotals(count, Decimal(spend)))
        for kind, reason, count, spend in found["reasons"]:
            known = self.reasons.get((kind, reason), (0, Decimal(0)))
            self.reasons[kind, reason] = (known[0] + count, add((known[1], Decimal(spend))))
        self.ambiguous += found["ambiguous"]
        rows = [_row_totals(line) for _, _, _, *line in found["rows"]]
        self._read_rows = _sum([self._read_rows, *rows], RowTotals)
        events = [EventTotals(count, Decimal(spend)) for _, _, _, count, spend in found["events"]]
        self._read_events = _sum([self._read_events, *events], EventTotals)
        if found["discrepancies"]:
            frame = pd.DataFrame(found["discrepancies"], columns=list(DISCREPANCY_COLUMNS))
            frame["usage_time"] = pd.to_datetime(frame["usage_time"], utc=True).dt.as_unit("ms")
            for name in DISCREPANCY_COLUMNS:
                if name.endswith("_spend"):
                    frame[name] = frame[name].astype(np.float64)
                elif name != "usage_time":
                    frame[name] = frame[name].astype("str")
            self._discrepancies.append(frame)
        started: list[list[Any]] = found["started"]
        return started

    def _absorb(self, other: Books) -> None:
        self.rows, self.events = dict(other.rows), dict(other.events)
        self.row_models, self.event_models = dict(other.row_models), dict(other.event_models)
        self.reasons, self.ambiguous = dict(other.reasons), other.ambiguous

    @staticmethod
    def _add_key(into: dict[Any, Any], key: Any, found: Any) -> None:
        into[key] = into[key] + found if key in into else found

    def check(self) -> None:
        """Raises `BooksFault` where the classes do not add up to what was read, in count and in money."""
        _same("rows", self._read_rows, _sum(self.rows.values(), RowTotals))
        _same("events", self._read_events, _sum(self.events.values(), EventTotals))

    def row_classes(self) -> dict[str, RowTotals]:
        return _by_class(self.rows, ROW_CLASSES, RowTotals)

    def event_classes(self) -> dict[str, EventTotals]:
        return _by_class(self.events, EVENT_CLASSES, EventTotals)

    def by_charge_id(self) -> tuple[Group, ...]:
        rows, events = _regroup(self.rows, lambda key: key[1]), _regroup(self.events, lambda key: key[1])
        return tuple(
            Group(rows.get(name, _none(RowTotals)), events.get(name, _none(EventTotals)), charge_id=name or None)
            for name in sorted(rows.keys() | events.keys())
        )

    def by_model(self) -> tuple[Group, ...]:
        rows = _regroup(self.row_models, lambda key: key[1])
        events = _regroup(self.event_models, lambda key: key[1])
        return tuple(
            Group(rows.get(name, _none(RowTotals)), events.get(name, _none(EventTotals)), model=name or None)
            for name in sorted(rows.keys() | events.keys())
        )

    def by_day(self) -> tuple[Group, ...]:
        rows, events = _regroup(self.rows, lambda key: key[2]), _regroup(self.events, lambda key: key[2])
        return tuple(
            Group(rows.get(day, _none(RowTotals)), events.get(day, _none(EventTotals)), day=day)
            for day in sorted(rows.keys() | events.keys())
        )

    def by_charge_id_and_day(self) -> tuple[Group, ...]:
        rows, events = _regroup(self.rows, lambda key: key[1:]), _regroup(self.events, lambda key: key[1:])
        return tuple(
            Group(
                rows.get(key, _none(RowTotals)),
                events.get(key, _none(EventTotals)),
                charge_id=key[0] or None,
                day=key[1],
            )
            for key in sorted(rows.keys() | events.keys())
        )


def _accumulate(
    into: dict[Any, Totals],
    keys: list[pd.Series],
    amounts: npt.NDArray[np.float64],
    made: Callable[[npt.NDArray[np.int64], Decimal], Totals],
) -> None:
    """Adds the groups of `keys` to `into`; money is added up exactly."""
    if not len(amounts):
        return
    codes, words = [], []
    for key in keys:
        places, distinct = pd.factorize(key.reset_index(drop=True))
        codes.append(places.astype(np.int64))
        words.append(list(distinct))
    group = codes[0]
    for places, known in zip(codes[1:], words[1:], strict=True):
        group = group * len(known) + places
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.concatenate(([True], np.diff(group[order]) != 0)))
    ends = np.append(starts[1:], len(order))
    distinct_amounts, place = np.unique(amounts, return_inverse=True)
    decimals = [decimal_of(value) for value in distinct_amounts.tolist()]
    place = place[order]
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        members = order[start:end]
        name = tuple(known[places[members[0]]] for places, known in zip(codes, words, strict=True))
        found = made(members, add(decimals[i] for i in place[start:end].tolist()))
        into[name] = into[name] + found if name in into else found


def _by_class(groups: Mapping[Key, Totals], names: Iterable[str], kind: type[Totals]) -> dict[str, Totals]:
    found: dict[str, Totals] = {"total": _sum(groups.values(), kind)}
    by_class: dict[str, list[Totals]] = defaultdict(list)
    for key, totals in groups.items():
        by_class[key[0]].append(totals)
    found |= {name: _sum(by_class.get(name, ()), kind) for name in names}
    return found


def _regroup(groups: Mapping[Any, Totals], part: Callable[[Any], Any]) -> dict[Any, dict[str, Totals]]:
    found: dict[Any, dict[str, Totals]] = defaultdict(dict)
    for key, totals in groups.items():
        of_part = found[part(key)]
        for name in ("total", key[0]):
            of_part[name] = of_part[name] + totals if name in of_part else totals
    return found


def _sum(totals: Iterable[Totals], kind: type[Totals]) -> Totals:
    result = kind()
    for part in totals:
        result = result + part
    return result


def _same(side: str, read: object, booked: object) -> None:
    if booked != read:
        raise BooksFault(f"the {side} do not add up: read {read}, classified {booked}")


def _none(kind: type[Totals]) -> dict[str, Totals]:
    return {"total": kind()}


def _text(values: pd.Series) -> pd.api.extensions.ExtensionArray:
    """Text, with none for ''."""
    text = pd.Series(values.astype("str").array)
    named: pd.api.extensions.ExtensionArray = text.where(text != "", None).array
    return named


def _rename(groups: dict[Any, RowTotals], old: str, new: str) -> None:
    for key in [key for key in groups if key[0] == old]:
        Books._add_key(groups, (new, *key[1:]), groups.pop(key))


def _plain(key: Key) -> tuple[str, str, str]:
    kind, charge_id, day = key
    return kind, charge_id, day.isoformat()


def _row_line(found: RowTotals) -> tuple[int, str, int, int]:
    return found.count, money(found.spend), found.prompt_tokens, found.completion_tokens


def _row_totals(line: list[Any]) -> RowTotals:
    count, spend, prompt_tokens, completion_tokens = line
    return RowTotals(count, Decimal(spend), prompt_tokens, completion_tokens)

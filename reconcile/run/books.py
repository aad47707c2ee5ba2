"""What a run gathers for its document while it works: the tally, discrepancies, and a few counts beside the classes.

Only the job writes to it, with what the stages return.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from reconcile.classify.doubt import Doubt
from reconcile.domain import exact
from reconcile.domain.document import DISCREPANCY_COLUMNS
from reconcile.domain.event import OWN_ID, transaction_ids
from reconcile.domain.frames import among, where
from reconcile.domain.instants import HOUR_MS, milliseconds
from reconcile.domain.money import add
from reconcile.domain.tally import Tally, billable_spend
from reconcile.domain.vocabulary import DISCREPANCY_CLASSES, EventClass, Reason, RowClass, Scope
from reconcile.domain.window import Window
from reconcile.litellm.day_totals import DayTotals
from reconcile.run.decide import Chosen, Key
from reconcile.run.read import Read
from reconcile.run.retention import Deleted
from reconcile.run.unchanged import Unchanged

_OWN_ID = (RowClass.MISSING, RowClass.HELD, RowClass.REJECTED)
_ALONE = (EventClass.DUPLICATE, EventClass.ORPHAN)
_BILLABLE = tuple(name for name in RowClass if name not in (RowClass.EXCLUDED, RowClass.UNATTRIBUTED))
_CACHE_HIT = "_cache_hit"  # in the request ID of an answer from LiteLLM's cache: it is meant to be free


@dataclass(slots=True)
class Books:
    """The running figures of one run. `code` is the event code, `reach_ms` how far before and after its row a live
    event may lie."""

    code: str
    tally: Tally
    reach_ms: tuple[int, int]
    days: DayTotals = field(default_factory=DayTotals)
    deleted: Deleted = field(default_factory=lambda: Deleted({}, {}, 1))
    # Of each slice that was read, by its number: LiteLLM's daily lines. Of each hour of "startTime": rows of the
    # window.
    days_of_slices: dict[int, list[list[Any]]] = field(default_factory=dict)
    rows_of_hours: dict[int, int] = field(default_factory=dict)
    # Of each slice: events that Lago listed, further copies of one included.
    listed_of_slices: dict[int, int] = field(default_factory=dict)
    decided: set[Key] = field(default_factory=set)
    settled: set[Key] = field(default_factory=set)
    free_of_charge: dict[str, int] = field(default_factory=dict)
    set_aside: tuple[int, Decimal] = (0, Decimal(0))
    pushed: tuple[int, Decimal] = (0, Decimal(0))
    doubt: Doubt | None = None
    held_before: frozenset[Key] = frozenset()
    # By charge ID, what the metric counts of the events listed in the window: how many, and the sum of its property.
    counted: dict[str, tuple[int, Decimal]] = field(default_factory=dict)
    aggregation: str | None = None
    offsets: npt.NDArray[np.int64] = field(init=False)
    _discrepancies: list[pd.DataFrame] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.offsets = np.zeros(sum(self.reach_ms) + 1, np.int64)

    def take_over(self, unchanged: Unchanged) -> None:
        """Takes the totals of the slices that are left unread."""
        for piece, packed in unchanged.totals:
            self.days.absorb(self.tally.absorb(milliseconds(piece.start) // self.tally.slice_ms, packed))

    def read(self, part: Read) -> None:
        """Counts what was read of a part, before it is classified. Of events, those that count."""
        rows, events = part.rows, part.counted_events
        for number, count in _by_number(part.listed_ms, self.tally.slice_ms):
            self.listed_of_slices[number] = self.listed_of_slices.get(number, 0) + count
        if rows.empty and events.empty:
            return
        self.tally.read(rows, events)
        self._count_in_lago(events)
        inside = where(rows, among(rows["scope"], [Scope.WINDOW]))
        if inside.empty:
            return
        for hour, count in _by_number(inside["start_ms"].to_numpy(np.int64), HOUR_MS):
            self.rows_of_hours[hour] = self.rows_of_hours.get(hour, 0) + count
        numbers = inside["usage_ms"].to_numpy(np.int64) // self.tally.slice_ms
        for number in np.unique(numbers).tolist():
            days = DayTotals()
            days.add(where(inside, numbers == number))
            if self.tally.keeps_slices:
                self.days_of_slices[number] = days.lines()
            self.days.absorb(days.lines())
            self.days.losing_ids += days.losing_ids

    def add_rows(self, rows: pd.DataFrame, details: Mapping[str, str] | None = None) -> None:
        """Takes rows that are decided about (ROW_VERDICTS), each once; `details` by transaction ID."""
        if rows.empty or (rows := where(rows, ~among(rows["scope"], [Scope.CONTEXT]))).empty:
            return
        self.tally.add_rows(rows)
        self._note_decided(rows)
        self._note_free_of_charge(rows)
        self._note_offsets(rows)
        self._keep_rows(rows, details or {})

    def add_events(self, events: pd.DataFrame, counted: Window | None) -> None:
        """Takes verdicts on events (EVENT_VERDICTS), each once; those outside the time that counts are left out."""
        if counted is None or events.empty:
            return
        times = events["time_ms"].to_numpy(np.int64)
        events = where(events, (times >= milliseconds(counted.start)) & (times < milliseconds(counted.end)))
        if self.deleted.rows:
            events = self._without_deleted(events)
        self.tally.add_events(events)
        # The pairs of the window stand with their rows already.
        alone = among(events["class"], _ALONE) | (
            among(events["class"], DISCREPANCY_CLASSES)
            & ~among(events["row_scope"], [Scope.WINDOW, Scope.LATE, Scope.HELD])
            & ~among(events["class"], [EventClass.UNBILLED])
        )
        if alone.any():
            chosen = events[alone]
            self._keep(
                chosen,
                times=chosen["time_ms"],
                row_spend=chosen["row_spend"].to_numpy(np.float64),
                event_spend=chosen["cost"].to_numpy(np.float64),
                transaction_ids=chosen["transaction_id"].tolist(),
                request_ids=chosen["row_request_id"].tolist(),
                details=[""] * len(chosen),
            )

    def _without_deleted(self, events: pd.DataFrame) -> pd.DataFrame:
        """The events without those whose rows LiteLLM has deleted: they are set aside."""
        unexplained = among(events["class"], [EventClass.ORPHAN]) & among(events["reason"], [Reason.NO_ROW])
        # An event of ours whose row is gone repeats another row's content where calls are alike.
        repeats = among(events["class"], [EventClass.DUPLICATE]) & among(events["reason"], [Reason.SAME_CONTENT])
        unexplained |= repeats & events["transaction_id"].str.fullmatch(OWN_ID.pattern).to_numpy(bool)
        places = np.flatnonzero(unexplained)
        gone = places[self.deleted.explain(events.iloc[places], self.tally.rows_there)]
        self._put_aside(events["cost"].to_numpy(np.float64)[gone])
        return events.drop(events.index[gone])

    def _put_aside(self, costs: npt.NDArray[np.float64]) -> None:
        """Takes events out of the books whose rows LiteLLM has deleted."""
        self.tally.set_aside(costs)
        count, money = self.set_aside
        self.set_aside = (count + len(costs), add((money, exact.total(exact.usable(costs)))))

    def note_doubt(self, doubt: Doubt) -> None:
        """Keeps the first reason to send nothing."""
        self.doubt = self.doubt or doubt

    def note_pushed(self, chosen: Chosen) -> None:
        """Counts rows that are sent although Lago may hold their event."""
        if not chosen.ours.any():
            return
        spend = chosen.to_send["spend"].to_numpy(np.float64)[chosen.ours]
        count, money = self.pushed
        self.pushed = (count + len(spend), add((money, exact.total(billable_spend(spend)))))

    def _note_decided(self, rows: pd.DataFrame) -> None:
        """Notes which of the rows held before this run has seen, and which of them are settled now."""
        held = self.held_before
        if not held:
            return
        stays = among(rows["class"], [RowClass.HELD, RowClass.MISSING]).tolist()
        keys = zip(rows["request_id"].tolist(), rows["start_ms"].tolist(), strict=True)
        for key, remains in zip(keys, stays, strict=True):
            if key in held:
                self.decided.add(key)
                if not remains:
                    self.settled.add(key)

    def in_lago(self, charge_id: str) -> tuple[int, Decimal | None]:
        """What the metric counts of a charge ID's events: how many, and units (None where they are no plain sum)."""
        count, added = self.counted.get(charge_id, (0, Decimal(0)))
        if self.aggregation == "count_agg":
            return count, Decimal(count)
        return count, added if self.aggregation == "sum_agg" else None

    def _count_in_lago(self, events: pd.DataFrame) -> None:
        events = where(events[["charge_id", "added"]], events["counted"].to_numpy(bool))
        if events.empty:
            return
        groups, names = pd.factorize(events["charge_id"].cat.codes.to_numpy())
        added = events["added"].to_numpy(np.float64)
        limbs, odd = exact.limbs_of(added)
        sums = exact.as_decimals(exact.group_sums(limbs, groups.astype(np.int64), len(names)))
        for place, amount in zip(groups[odd].tolist(), exact.odd_amounts(added, odd), strict=True):
            sums[place] = add((sums[place], amount))
        words = events["charge_id"].cat.categories.tolist()
        for code, number, units in zip(names.tolist(), np.bincount(groups).tolist(), sums, strict=True):
            count, so_far = self.counted.get(words[code], (0, Decimal(0)))
            self.counted[words[code]] = (count + number, add((so_far, units)))

    def offset_at(self, share: float) -> int | None:
        """By how many ms `share` of the matched live events lie after their rows, at most; None without any."""
        total = int(self.offsets.sum())
        if not total:
            return None
        place = int(np.searchsorted(np.cumsum(self.offsets), share * total))
        return min(place, len(self.offsets) - 1) - self.reach_ms[0]

    def discrepancies(self) -> pd.DataFrame:
        """All of them, largest money first (DISCREPANCY_COLUMNS)."""
        if not self._discrepancies:
            return pd.DataFrame({name: pd.Series(dtype="str") for name in DISCREPANCY_COLUMNS}).astype(
                {"usage_time": "datetime64[ms, UTC]", "row_spend": "float64", "event_spend": "float64"}
            )
        frame = pd.concat(self._discrepancies, ignore_index=True)
        amounts = np.stack([frame["row_spend"].to_numpy(), frame["event_spend"].to_numpy(), np.zeros(len(frame))])
        frame["money"] = -np.nanmax(np.abs(amounts), axis=0)
        by = ["money", "usage_time", "class", "request_id", "transaction_id"]
        return frame.sort_values(by, kind="stable", ignore_index=True)[list(DISCREPANCY_COLUMNS)]

    def _note_free_of_charge(self, rows: pd.DataFrame) -> None:
        tokens = rows["prompt_tokens"].to_numpy(np.int64) + rows["completion_tokens"].to_numpy(np.int64)
        free = (rows["spend"].to_numpy(np.float64) == 0) & (tokens > 0) & among(rows["class"], _BILLABLE)
        free &= among(rows["scope"], [Scope.WINDOW])
        if free.any():
            chosen = rows[free]
            paid = ~chosen["request_id"].str.contains(_CACHE_HIT, regex=False).to_numpy(bool)
            for model, count in chosen.loc[paid, "model"].astype("str").value_counts().items():
                self.free_of_charge[str(model)] = self.free_of_charge.get(str(model), 0) + int(count)

    def _note_offsets(self, rows: pd.DataFrame) -> None:
        live = among(rows["class"], [RowClass.MATCHED_LIVE])
        if live.any():
            before, after = self.reach_ms
            offset = rows["event_ms"].to_numpy(np.int64)[live] - rows["usage_ms"].to_numpy(np.int64)[live]
            inside = offset[(offset >= -before) & (offset <= after)]
            self.offsets += np.bincount(inside + before, minlength=len(self.offsets))

    def _keep_rows(self, rows: pd.DataFrame, details: Mapping[str, str]) -> None:
        wanted = among(rows["class"], DISCREPANCY_CLASSES)
        # What a late row without a charge ID had to say was said when its hour was new.
        wanted &= ~(among(rows["class"], [RowClass.UNATTRIBUTED]) & ~among(rows["scope"], [Scope.WINDOW]))
        if not wanted.any():
            return
        chosen = rows[wanted]
        own = among(chosen["class"], _OWN_ID) | (
            among(chosen["class"], [RowClass.MISDIRECTED]) & chosen["event_id"].eq("").to_numpy(bool)
        )
        made = transaction_ids(
            self.code,
            chosen["charge_id"].astype("str").tolist(),
            chosen["request_id"].tolist(),
            chosen["start_ms"].tolist(),
        )
        ids = np.where(own, np.array(made, object), chosen["event_id"].to_numpy(object)).tolist()
        self._keep(
            chosen,
            times=chosen["usage_ms"],
            row_spend=billable_spend(chosen["spend"].to_numpy(np.float64)),
            event_spend=chosen["event_cost"].to_numpy(np.float64),
            transaction_ids=ids,
            request_ids=chosen["request_id"].tolist(),
            details=[details.get(name, "") for name in ids],
        )

    def _keep(
        self,
        frame: pd.DataFrame,
        *,
        times: pd.Series,
        row_spend: npt.NDArray[np.float64],
        event_spend: npt.NDArray[np.float64],
        transaction_ids: Sequence[str],
        request_ids: Sequence[str],
        details: Sequence[str],
    ) -> None:
        self._discrepancies.append(
            pd.DataFrame(
                {
                    "class": frame["class"].astype("str").array,
                    "charge_id": _text(frame["charge_id"].astype("str").tolist()),
                    "model": _text(frame["model"].astype("str").tolist()),
                    "request_id": _text(request_ids),
                    "transaction_id": _text(transaction_ids),
                    "usage_time": pd.to_datetime(times.to_numpy(), unit="ms", utc=True).as_unit("ms"),
                    "row_spend": row_spend,
                    "event_spend": event_spend,
                    "reason": frame["reason"].astype("str").array,
                    "detail": _text(details),
                }
            )
        )


def _by_number(times: npt.NDArray[np.int64], length_ms: int) -> list[tuple[int, int]]:
    """How many of the instants lie in each stretch of `length_ms`, by its number since 1970."""
    numbers, counts = np.unique(times // length_ms, return_counts=True)
    return list(zip(numbers.tolist(), counts.tolist(), strict=True))


def _text(values: Sequence[str]) -> pd.api.extensions.ExtensionArray:
    """Text, with none for ''."""
    return pd.array([value or None for value in values], dtype="str")

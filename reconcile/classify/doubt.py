"""Missing rows beside unexplained events: which of them may be there already, and whether to go on sending. Pure.

Rows are ROW_VERDICTS of class `missing`, events EVENT_VERDICTS of class `orphan`; both in any order, of any index. The
reach is the doubt's own, much wider than that of pairs.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from reconcile.classify.frames import COST, MODEL, ROW_MODELS, TOKENS, Table, Vocabulary
from reconcile.classify.pairing import Ints, Reach, order
from reconcile.classify.stages import Stages

# So many missing rows, and so large a part of them, make a doubt.
FEWEST_ROWS = 20
_PART = 0.5
_VALUES = ("subscription", "cost", "model", "tokens")
_RATIO_TOLERANCE = 1e-6


def late_events(missing: pd.DataFrame, orphans: pd.DataFrame, reach: Reach) -> Ints:
    """Per missing row the position of the orphan that holds it back, -1 for none.

    That is an event of equal content on its subscription within reach; one event holds one row, the nearest first.
    Events that tell more come before those that tell less.
    """
    held = np.full(len(missing), -1, np.int64)
    if not len(missing) or not len(orphans):
        return held
    stages = _stages(missing, orphans, reach)
    rows, events = np.arange(len(missing)), _with_subscription(orphans)
    for turn in stages.content.turns():
        left = rows if turn.rows is None else rows[turn.rows[rows]]
        right = events[stages.content.carried[events] == turn.carried]
        if not len(left) or not len(right):
            continue
        key = turn.keys(left, right)
        known_rows, known_events = key.rows >= 0, key.events >= 0
        row, event = _nearest_first(
            stages, left[known_rows], key.rows[known_rows], right[known_events], key.events[known_events]
        )
        held[row] = event
        rows, events = rows[held[rows] < 0], np.setdiff1d(events, event)
    return held


def _nearest_first(stages: Stages, rows: Ints, row_keys: Ints, events: Ints, event_keys: Ints) -> tuple[Ints, Ints]:
    """Pairs within one key each: over and over the nearest two that are left.

    On the line of time those are neighbours: anything between them would be nearer to one of them.
    """
    none = np.empty(0, np.int64)
    shared = np.intersect1d(row_keys, event_keys)
    of_rows, of_events = np.isin(row_keys, shared), np.isin(event_keys, shared)
    rows, row_keys, events, event_keys = rows[of_rows], row_keys[of_rows], events[of_events], event_keys[of_events]
    if not len(rows):
        return none, none
    by_row = order(row_keys, stages.rows.times[rows], stages.rows.names_of(rows))
    by_event = order(event_keys, stages.events.times[events], stages.events.names_of(events))
    keys = np.concatenate((row_keys[by_row], event_keys[by_event]))
    times = np.concatenate((stages.rows.times[rows[by_row]], stages.events.times[events[by_event]]))
    line = np.lexsort((times, keys))  # stable: of one time, rows come first, and each side is in its order
    is_event = line >= len(rows)
    before, after = np.arange(-1, len(line) - 1), np.arange(1, len(line) + 1)
    first = np.concatenate(([True], keys[line][1:] != keys[line][:-1]))
    before[first] = -1
    after[np.append(first[1:], True)] = -1
    place, time = [*is_event.tolist()], times[line].tolist()
    previous, following = before.tolist(), after.tolist()
    near, far = stages.reach

    def distance(left: int) -> int | None:
        """Of a row and an event that are neighbours and within reach."""
        right = following[left]
        if right < 0 or place[left] == place[right]:
            return None
        apart = time[right] - time[left]
        return apart if apart <= (near if place[left] else far) else None

    heap = [(apart, left, following[left]) for left in range(len(line)) if (apart := distance(left)) is not None]
    heapq.heapify(heap)
    gone = [False] * len(line)
    pairs: list[tuple[int, int]] = []
    while heap:
        _, left, right = heapq.heappop(heap)
        if gone[left] or gone[right]:
            continue
        gone[left] = gone[right] = True
        pairs.append((right, left) if place[left] else (left, right))
        outer_left, outer_right = previous[left], following[right]
        if outer_left >= 0:
            following[outer_left] = outer_right
        if outer_right >= 0:
            previous[outer_right] = outer_left
        if outer_left >= 0 and (apart := distance(outer_left)) is not None:
            heapq.heappush(heap, (apart, outer_left, outer_right))
    if not pairs:
        return none, none
    row_places, event_places = (line[[pair[side] for pair in pairs]] for side in (0, 1))
    return rows[by_row[row_places]], events[by_event[event_places - len(rows)]]


@dataclass(frozen=True, slots=True)
class Doubt:
    """Why nothing more is sent: `events` of the `rows` that are missing have an event that could be theirs.

    `offset_ms` is the median of event minus row. `differing` says what is off in how many of the pairs, the commonest
    first: `time` where nothing else is. `cost_ratio` is that of event to row, where nearly all costs that differ have
    the same.
    """

    rows: int
    events: int
    offset_ms: int
    differing: tuple[tuple[str, int], ...]
    cost_ratio: float | None = None

    def text(self) -> str:
        """In plain words, with the likely cause."""
        seconds = abs(self.offset_ms) / 1000
        when = f"{seconds:,.3f}".rstrip("0").rstrip(".") + (" s later" if self.offset_ms >= 0 else " s earlier")
        values = [f"{name} in {count:,}" for name, count in self.differing if name != "time"]
        differs = f"different: {', '.join(values)}" if values else "no value differs but the time"
        return (
            f"{self.rows:,} rows are missing, and for {self.events:,} of them Lago holds an event that no row explains "
            f"and that could be theirs (median {when}; {differs}). {self._cause()}"
        )

    def _cause(self) -> str:
        counts = dict(self.differing)
        if counts.get("time", 0) * 2 >= self.events:
            return (
                "The same calls lie at other times: a clock is off (Lago's or LiteLLM's), or events arrive late. Mend "
                "the clock, or widen RECONCILE_MATCH_BEFORE and RECONCILE_MATCH_AFTER."
            )
        if counts.get("subscription", 0) * 2 >= self.events:
            return (
                "The same calls lie under other subscriptions: LAGO_API_CHARGE_BY of this job and of the proxy may "
                "differ, or another proxy writes to this event code."
            )
        if self.cost_ratio is not None and counts.get("cost", 0) * 2 >= self.events:
            return (
                f"Every cost in Lago is {self.cost_ratio:.6g} times the row's: a currency, or a margin, is applied to "
                "one side."
            )
        return "Another proxy, or another program, may write to this event code."


def doubt(missing: pd.DataFrame, orphans: pd.DataFrame, reach: Reach, slice_ms: int | None = None) -> Doubt | None:
    """Whether the missing rows are likely to be there in another form; None where they are not.

    An event could be a row's if it lies within reach, at most two of subscription, cost, model and tokens (as a whole)
    differ, and something that it carries is equal; each event counts for one row. What it does not carry does not
    differ. Fewer than 20 missing rows, or fewer than half with such an event, are no doubt.

    With `slice_ms` one slice is reason enough: hours in which all events were lost must not hide others in which all
    are there. The doubt is then about those slices alone.
    """
    if len(missing) < FEWEST_ROWS or len(orphans) < _PART * (FEWEST_ROWS if slice_ms else len(missing)):
        return None
    stages = _stages(missing, orphans, reach)
    rows, events = np.arange(len(missing)), _with_subscription(orphans)
    pairs: dict[tuple[str, ...], tuple[Ints, Ints]] = {}
    for differs in _ways():
        row, event = stages.in_turn(rows, events, stages.content.turns(differs))
        if len(row):
            pairs[differs] = (row, event)
            rows, events = np.setdiff1d(rows, row), np.setdiff1d(events, event)
        if not len(rows) or not len(events):
            break
    paired = np.ones(len(missing), bool)
    paired[rows] = False
    if paired.sum() >= _PART * len(missing):
        return _doubt(stages, pairs, len(missing), int(paired.sum()))
    if slice_ms is None:
        return None
    _, place = np.unique(missing["usage_ms"].to_numpy(np.int64) // slice_ms, return_inverse=True)
    counts, found = np.bincount(place), np.bincount(place, weights=paired)
    doubtful = ((counts >= FEWEST_ROWS) & (found >= _PART * counts))[place]
    if not doubtful.any():
        return None
    inside = {differs: (row[doubtful[row]], event[doubtful[row]]) for differs, (row, event) in pairs.items()}
    pairs = {differs: pair for differs, pair in inside.items() if len(pair[0])}
    return _doubt(stages, pairs, int(doubtful.sum()), int((doubtful & paired).sum()))


def _doubt(stages: Stages, pairs: dict[tuple[str, ...], tuple[Ints, Ints]], missing: int, paired: int) -> Doubt:
    counts = dict.fromkeys(("time", *_VALUES), 0)
    for differs, (row, _) in pairs.items():
        for name in differs or ("time",):
            counts[name] += len(row)
    offsets = [stages.events.times[event] - stages.rows.times[row] for row, event in pairs.values()]
    ratios = [
        stages.content.sent[event] / stages.content.spend[row]
        for differs, (row, event) in pairs.items()
        if "cost" in differs and (stages.content.spend[row] != 0).all()
    ]
    ratio = float(np.median(np.concatenate(ratios))) if ratios else None
    if ratio is not None and (np.abs(np.concatenate(ratios) - ratio) > _RATIO_TOLERANCE * abs(ratio)).mean() > 0.1:
        ratio = None
    common = sorted(((name, count) for name, count in counts.items() if count), key=lambda told: (-told[1], told[0]))
    return Doubt(missing, paired, int(np.median(np.concatenate(offsets))), tuple(common), ratio)


def _ways() -> Iterable[tuple[str, ...]]:
    """What may differ, the least first."""
    for count in range(3):
        yield from combinations(_VALUES, count)


def _with_subscription(orphans: pd.DataFrame) -> Ints:
    """An event without a subscription is no evidence."""
    return np.flatnonzero((orphans["subscription_id"] != "").to_numpy(bool))


def _stages(missing: pd.DataFrame, orphans: pd.DataFrame, reach: Reach) -> Stages:
    ids, models = Vocabulary(), Vocabulary()
    count = len(missing)
    rows = Table(
        {
            "request_id": missing["request_id"].array,
            "start_ms": missing["start_ms"].to_numpy(np.int64),
            "usage_ms": missing["usage_ms"].to_numpy(np.int64),
            "spend": missing["spend"].to_numpy(np.float64),
            **{name: missing[name].to_numpy(np.int64) for name in TOKENS},
            "subscription": ids.encode(missing["subscription_id"]),
            **dict.fromkeys(ROW_MODELS[1:], np.full(count, -1)),
            "model": models.encode(missing["model"]),
            "look": np.zeros(count, bool),
        },
        count,
    )
    model, cost = models.encode(orphans["model"]), orphans["cost"].to_numpy(np.float64)
    counts = {name: orphans[name].to_numpy(np.float64) for name in TOKENS}
    carried = np.where(np.isnan(cost), 0, COST) | np.where(model == 0, 0, MODEL)
    for bit, sent in enumerate(counts.values()):
        carried |= np.where(np.isnan(sent), 0, 1 << bit)
    events = Table(
        {
            "transaction_id": orphans["transaction_id"].array,
            "time_ms": orphans["time_ms"].to_numpy(np.int64),
            "cost": cost,
            **counts,
            "carried": carried,
            "subscription": ids.encode(orphans["subscription_id"]),
            "model": model,
        },
        len(orphans),
    )
    return Stages(rows, events, reach)

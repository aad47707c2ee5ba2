"""Pairs by transaction ID: the events that reconcile made itself. Pure.

They come before any pairing by content, and take their rows out of it. An event found under the row's ID is compared
with the row; one that was made from the same request for another charge ID is found by the ID that the ledger or the
event itself tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from reconcile.classify.frames import KIND, REASON, Rules, Table, Words, row_ids
from reconcile.classify.judgement import Pairs, differences
from reconcile.classify.pairing import Bools, Ints
from reconcile.domain.event import transaction_ids

# A ClickHouse store, and any Lago before 1.48, lists some events one millisecond before the time that was sent.
TIMESTAMP_TOLERANCE_MS = 1


def pair_by_id(rows: Table, places: Ints, events: Table, own: Ints, rules: Rules, words: Words) -> Pairs:
    """Pairs of the billable rows at `places` with the own events of their IDs at `own`.

    Of several events of one ID the one at the row's own time and subscription is the row's, else the earliest: that
    choice does not wait for events still to come. Nor does a row: an event stamped beyond its reach comes too late.
    """
    places = _likely(rows, places, events, own)
    if not len(own) or not len(places):
        return no_pairs()
    held, made = events["transaction_id"].take(own), row_ids(rows, places, rules.code, words)
    row, event = _same(made, held)
    row, event = places[row], own[event]
    delta = _delay(rows, row, events, event)
    in_time = delta <= rules.reach.after
    row, event, delta = row[in_time], event[in_time], delta[in_time]
    wanted, actual = rows["subscription"][row], events["subscription"][event]
    elsewhere = (wanted != 0) & (actual != wanted)
    as_made = ~elsewhere & (delta <= 0) & (delta >= -TIMESTAMP_TOLERANCE_MS)
    best_first = np.lexsort((words.ids.rank()[actual], delta, ~as_made, row))
    row, event, elsewhere, delta = row[best_first], event[best_first], elsewhere[best_first], delta[best_first]
    reason = differences(rows, row, events, event).reason()
    reason[(reason == 0) & (np.abs(delta) > TIMESTAMP_TOLERANCE_MS)] = REASON["timestamp"]
    kind = np.where(reason == 0, KIND["matched"], KIND["mismatched"])
    kind[elsewhere], reason[elsewhere] = KIND["misdirected"], REASON["other_subscription"]
    further = _repeats(row)
    kind[further], reason[further] = KIND["duplicate"], REASON["same_id"]
    return Pairs(row, event, kind, reason)


def _likely(rows: Table, places: Ints, events: Table, own: Ints) -> Ints:
    """The rows that one of the own events could be made from, so that few IDs are computed.

    Our events tell their request ID. One that does not (an earlier setting sent it under another name, or not at all)
    may be any row's.
    """
    requests = events["request_id"].take(own)
    if len(places) < 2 * len(own) or (requests == "").any():
        return places
    named = _among(rows["request_id"].take(places), requests)
    at = np.unique(events["time_ms"][own])
    usage = rows["usage_ms"][places]
    for late in range(TIMESTAMP_TOLERANCE_MS + 1):
        named |= np.isin(usage, at + late)
    return places[named]


def pair_by_other_charge_id(rows: Table, places: Ints, events: Table, own: Ints, rules: Rules, words: Words) -> Pairs:
    """Pairs of the billable rows at `places` with own events, made from the same request for another charge ID.

    The ledger names such an ID (`earlier`). Without it the event's own `request_id` (or its timestamp, where it carries
    none) and its charge ID or subscription do, if they and the row's start give its transaction ID. They were made for
    the row's usage time: later ones are somebody else's.
    """
    if not len(own) or not len(places):
        return no_pairs()
    names = words.ids.words
    ids, requests = events["transaction_id"].take(own), events["request_id"].take(own)
    earlier = rows["earlier"][places]
    told = np.flatnonzero(earlier != 0)
    found = [_same([names[code] for code in earlier[told].tolist()], ids)]
    found = [(told[row], event) for row, event in found]
    unnamed = np.asarray(requests == "", bool)
    named = np.flatnonzero(~unnamed)
    candidates = np.flatnonzero(_among(rows["request_id"].take(places), requests.take(named)))
    row, event = _same(rows["request_id"].take(places[candidates]), requests.take(named))
    guesses = [(candidates[row], named[event])]
    # Sent without its request_id, or with one of another name: the timestamp leads to the row.
    lost = np.flatnonzero(unnamed)
    usage = rows["usage_ms"][places]
    for late in range(TIMESTAMP_TOLERANCE_MS + 1):
        row, event = _same(usage, events["time_ms"][own[lost]] + late)
        guesses.append((row, lost[event]))
    row, event = (np.concatenate([guess[side] for guess in guesses]) for side in (0, 1))
    made = np.zeros(len(row), bool)
    of_guess = np.asarray(ids.take(event), object)
    request_ids = rows["request_id"].take(places[row]).tolist()
    starts = rows["start_ms"][places[row]].tolist()
    for name in ("charge", "subscription"):
        charge_ids = [names[code] for code in events[name][own[event]].tolist()]
        made |= of_guess == np.array(transaction_ids(rules.code, charge_ids, request_ids, starts), object)
    found.append((row[made], event[made]))
    row, event = (np.concatenate([pair[side] for pair in found]) for side in (0, 1))
    first = ~pd.Series(event).duplicated().to_numpy(bool)
    row, event = places[row[first]], own[event[first]]
    delta = _delay(rows, row, events, event)
    subscription = words.ids.rank()[events["subscription"][event]]
    by_id, _ = pd.factorize(np.asarray(events["transaction_id"].take(event), object), sort=True)
    in_order = np.lexsort((subscription, by_id, delta, row))
    in_order = in_order[delta[in_order] <= 0]
    row, event = row[in_order], event[in_order]
    further = _repeats(row) | (rows["kind"][row] != 0)
    kind = np.where(further, KIND["duplicate"], KIND["misdirected"])
    reason = np.where(further, REASON["same_content"], REASON["other_charge_id"])
    return Pairs(row, event, kind, reason)


def _among(texts: Any, wanted: Any) -> Bools:
    """Which of the texts are among the wanted ones. Arrow compares them without a Python string each."""
    return np.array(pc.is_in(pa.array(texts), value_set=pa.array(wanted)), bool)


def _same(left: Sequence[object], right: Sequence[object]) -> tuple[Ints, Ints]:
    """All pairs of positions with the same value."""
    if not len(left) or not len(right):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    met = pd.DataFrame({"value": left, "left": np.arange(len(left))}).merge(
        pd.DataFrame({"value": right, "right": np.arange(len(right))}), on="value"
    )
    return met["left"].to_numpy(np.int64), met["right"].to_numpy(np.int64)


def _delay(rows: Table, row: Ints, events: Table, event: Ints) -> Ints:
    """Milliseconds by which each event is stamped after its row's usage time."""
    delay: Ints = events["time_ms"][event] - rows["usage_ms"][row]
    return delay


def _repeats(values: Ints) -> Bools:
    return np.concatenate((np.zeros(min(len(values), 1), bool), values[1:] == values[:-1]))


def no_pairs() -> Pairs:
    none = np.empty(0, np.int64)
    return Pairs(none, none, none, none)

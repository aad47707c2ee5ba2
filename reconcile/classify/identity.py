"""Pairs by transaction ID: the events that reconcile made itself. Pure.

They come before any pairing by content, and take their rows out of it. An event found under the row's ID is compared
with the row; one that was made from the same request for another charge ID is found by the ID that the ledger or the
event itself tells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from reconcile.classify.content import Bools, same_cost
from reconcile.classify.frames import KIND, REASON, TOKENS, Rules, Vocabulary, row_ids
from reconcile.classify.pairing import Ints
from reconcile.domain.event import transaction_ids

# Before 1.48 Lago kept timestamps as floats, so that the millisecond it lists may be one less than the one sent.
TIMESTAMP_TOLERANCE_MS = 1


@dataclass(frozen=True, slots=True)
class Pairs:
    """Positions of rows and events, and the kind and reason of each pair (codes), element by element.

    A row may stand in several pairs: in one as its event, in the others as `duplicate`.
    """

    rows: Ints
    events: Ints
    kinds: Ints
    reasons: Ints


def pair_by_id(rows: pd.DataFrame, events: pd.DataFrame, rules: Rules, vocabulary: Vocabulary) -> Pairs:
    """Pairs of billable `rows` with the own `events` of their IDs.

    Of several events of one ID the one at the row's own time and subscription is the row's, else the earliest: that
    choice does not wait for events still to come. Nor does a row: an event stamped beyond its reach comes too late.
    """
    own = np.flatnonzero(events["own"].to_numpy(bool) & (events["kind"].to_numpy() == 0))
    if not len(own) or not len(rows):
        return _no_pairs()
    ids = pd.DataFrame({"id": pd.array(row_ids(rows, rules.code, vocabulary), dtype="str")})
    ids["row"] = np.arange(len(rows))
    held = pd.DataFrame({"id": events["transaction_id"].array.take(own), "event": own})
    found = held.merge(ids, on="id")
    row, event = found["row"].to_numpy(np.int64), found["event"].to_numpy(np.int64)
    delta = _delay(rows, row, events, event)
    in_time = delta <= rules.reach.after
    row, event, delta = row[in_time], event[in_time], delta[in_time]
    wanted = rows["subscription"].to_numpy()[row]
    actual = events["subscription"].to_numpy()[event]
    elsewhere = (wanted != 0) & (actual != wanted)
    as_made = ~elsewhere & (delta <= 0) & (delta >= -TIMESTAMP_TOLERANCE_MS)
    best_first = np.lexsort((_rank(vocabulary)[actual], delta, ~as_made, row))
    row, event, elsewhere, delta = row[best_first], event[best_first], elsewhere[best_first], delta[best_first]
    reason = differences(rows.take(row), events.take(event))
    reason[(reason == 0) & (np.abs(delta) > TIMESTAMP_TOLERANCE_MS)] = REASON["timestamp"]
    kind = np.where(reason == 0, KIND["matched"], KIND["mismatched"])
    kind[elsewhere], reason[elsewhere] = KIND["misdirected"], REASON["other_subscription"]
    further = _repeats(row)
    kind[further], reason[further] = KIND["duplicate"], REASON["same_id"]
    return Pairs(row, event, kind, reason)


def pair_by_other_charge_id(rows: pd.DataFrame, events: pd.DataFrame, rules: Rules, vocabulary: Vocabulary) -> Pairs:
    """Pairs of billable `rows` with own events that were made from the same request for another charge ID.

    The ledger names such an ID (`earlier`). Without it the event's own `request_id` (or its timestamp, where it carries
    none) and its charge ID or subscription do, if they and the row's start give its transaction ID. They were made for
    the row's usage time: later ones are somebody else's.
    """
    own = np.flatnonzero(events["own"].to_numpy(bool) & (events["kind"].to_numpy() == 0))
    if not len(own) or not len(rows):
        return _no_pairs()
    words = np.array(vocabulary.words, object)
    left = pd.DataFrame(
        {
            "event": own,
            "id": events["transaction_id"].array.take(own),
            "request_id": events["request_id"].array.take(own),
        }
    )
    earlier = rows["earlier"].to_numpy()
    named = np.flatnonzero(earlier != 0)
    by_ledger = left.merge(pd.DataFrame({"row": named, "id": pd.array(words[earlier[named]], dtype="str")}), on="id")
    right = pd.DataFrame(
        {"row": np.arange(len(rows)), "request_id": rows["request_id"].array, "at": rows["usage_ms"].to_numpy(np.int64)}
    )
    unnamed = left["request_id"] == ""
    by_name = left[~unnamed].merge(right[right["request_id"].isin(left["request_id"].tolist())], on="request_id")
    # Sent without its request_id, or with one of another name: the timestamp leads to the row.
    at = events["time_ms"].to_numpy(np.int64)[own][unnamed.to_numpy(bool)]
    by_time = pd.concat(
        [
            left.loc[unnamed, ["event", "id"]].assign(at=at + late).merge(right, on="at")
            for late in range(TIMESTAMP_TOLERANCE_MS + 1)
        ]
    )
    told = pd.concat([part[["event", "id", "row", "request_id"]] for part in (by_name, by_time)], ignore_index=True)
    starts = rows["start_ms"].to_numpy()[told["row"].to_numpy(np.int64)].tolist()
    made = np.zeros(len(told), bool)
    for name in ("charge", "subscription"):
        charge_ids = words[events[name].to_numpy()[told["event"].to_numpy(np.int64)]].tolist()
        ids = transaction_ids(rules.code, charge_ids, told["request_id"].tolist(), starts)
        made |= told["id"].to_numpy(object) == np.array(ids, object)
    found = pd.concat([by_ledger[["row", "event"]], told.loc[made, ["row", "event"]]]).drop_duplicates("event")
    row, event = found["row"].to_numpy(np.int64), found["event"].to_numpy(np.int64)
    delta = _delay(rows, row, events, event)
    subscription = _rank(vocabulary)[events["subscription"].to_numpy()[event]]
    by_id = np.argsort(np.argsort(events["transaction_id"].array.take(event)))
    in_order = np.lexsort((subscription, by_id, delta, row))
    in_order = in_order[delta[in_order] <= 0]
    row, event = row[in_order], event[in_order]
    further = _repeats(row) | (rows["kind"].to_numpy()[row] != 0)
    kind = np.where(further, KIND["duplicate"], KIND["misdirected"])
    reason = np.where(further, REASON["same_content"], REASON["other_charge_id"])
    return Pairs(row, event, kind, reason)


def _delay(rows: pd.DataFrame, row: Ints, events: pd.DataFrame, event: Ints) -> Ints:
    """Milliseconds by which each event is stamped after its row's usage time."""
    delay: Ints = events["time_ms"].to_numpy(np.int64)[event] - rows["usage_ms"].to_numpy(np.int64)[row]
    return delay


def _rank(vocabulary: Vocabulary) -> Ints:
    """The place of each word in the order of the alphabet: codes follow the order of the input."""
    ranks: Ints = np.argsort(np.argsort(np.array(vocabulary.words, object)))
    return ranks


def differences(rows: pd.DataFrame, events: pd.DataFrame) -> Ints:
    """Per pair, row by row, the reason code of the first of cost, tokens, model that differs; 0 for none.

    Only values that the event carries are compared: an earlier setting may have sent fewer.
    """
    cost, malformed = events["cost"].to_numpy(np.float64), events["malformed"].to_numpy(bool)
    unreadable_cost = malformed & np.isnan(cost)
    other_cost = unreadable_cost | (~np.isnan(cost) & ~same_cost(rows["spend"].to_numpy(np.float64), cost))
    other_tokens: Bools = malformed & ~unreadable_cost
    for name in TOKENS:
        counts = events[name].to_numpy(np.float64)
        other_tokens |= ~np.isnan(counts) & (counts != rows[name].to_numpy(np.float64))
    sent = events["model"].to_numpy()
    same_model: Bools = sent == 0
    for name in ("model", "group", "part"):
        same_model |= sent == rows[name].to_numpy()
    return np.select(
        [other_cost, other_tokens, ~same_model], [REASON["cost"], REASON["tokens"], REASON["model"]], 0
    ).astype(np.int64)


def _repeats(values: Ints) -> Bools:
    return np.concatenate((np.zeros(min(len(values), 1), bool), values[1:] == values[:-1]))


def _no_pairs() -> Pairs:
    none = np.empty(0, np.int64)
    return Pairs(none, none, none, none)

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
from reconcile.event import transaction_ids

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
    """Pairs of billable `rows` with the own `events` of their IDs."""
    own = np.flatnonzero(events["own"].to_numpy(bool) & (events["kind"].to_numpy() == 0))
    if not len(own) or not len(rows):
        return _no_pairs()
    ids = pd.DataFrame({"id": pd.array(row_ids(rows, rules.code, vocabulary), dtype="str")})
    ids["row"] = np.arange(len(rows))
    held = pd.DataFrame({"id": events["transaction_id"].array.take(own), "event": own})
    found = held.merge(ids[ids["id"].isin(held["id"])], on="id")
    row, event = found["row"].to_numpy(np.int64), found["event"].to_numpy(np.int64)
    wanted = rows["subscription"].to_numpy()[row]
    actual = events["subscription"].to_numpy()[event]
    elsewhere = (wanted != 0) & (actual != wanted)
    delta = events["time_ms"].to_numpy()[event] - rows["usage_ms"].to_numpy()[row]
    subscriptions = np.array(vocabulary.words, object)[actual]
    best_first = sorted(
        range(len(row)), key=lambda i: (row[i], elsewhere[i], abs(delta[i]), delta[i], subscriptions[i])
    )
    row, event, elsewhere, delta = row[best_first], event[best_first], elsewhere[best_first], delta[best_first]
    reason = differences(rows.take(row), events.take(event))
    reason[(reason == 0) & (np.abs(delta) > TIMESTAMP_TOLERANCE_MS)] = REASON["timestamp"]
    kind = np.where(reason == 0, KIND["matched"], KIND["mismatched"])
    kind[elsewhere], reason[elsewhere] = KIND["misdirected"], REASON["other_subscription"]
    further = _repeats(row)
    kind[further], reason[further] = KIND["duplicate"], REASON["same_id"]
    return Pairs(row, event, kind, reason)


def pair_by_other_charge_id(
    rows: pd.DataFrame, events: pd.DataFrame, rules: Rules, vocabulary: Vocabulary
) -> Pairs:
    """Pairs of billable `rows` with own events that were made from the same request for another charge ID.

    The ledger names such an ID (`earlier`); without it the event's own `request_id` and subscription do, if they and
    the row's start give its transaction ID.
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
    by_ledger = left.merge(
        pd.DataFrame({"row": named, "id": pd.array(words[earlier[named]], dtype="str")}), on="id"
    )
    right = pd.DataFrame({"row": np.arange(len(rows)), "request_id": rows["request_id"].array})
    told = left[left["request_id"] != ""].merge(right[right["request_id"].isin(left["request_id"])], on="request_id")
    subscriptions = words[events["subscription"].to_numpy()[told["event"].to_numpy(np.int64)]]
    starts = rows["start_ms"].to_numpy()[told["row"].to_numpy(np.int64)]
    made = transaction_ids(rules.code, subscriptions.tolist(), told["request_id"].tolist(), starts.tolist())
    by_event = told[told["id"].to_numpy(object) == np.array(made, object)]
    found = pd.concat([by_ledger[["row", "event"]], by_event[["row", "event"]]])
    found = found.drop_duplicates("event").sort_values(["row", "event"])
    row, event = found["row"].to_numpy(np.int64), found["event"].to_numpy(np.int64)
    further = _repeats(row) | (rows["kind"].to_numpy()[row] != 0)
    kind = np.where(further, KIND["duplicate"], KIND["misdirected"])
    reason = np.where(further, REASON["same_content"], REASON["other_charge_id"])
    return Pairs(row, event, kind, reason)


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

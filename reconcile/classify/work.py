"""The rows and events of one call of the classification, what is decided about them, and the frames of it. Pure."""

from __future__ import annotations

import numpy as np
import pandas as pd

from reconcile.classify.frames import KIND, KINDS, REASON, REASONS, TOKENS, Rules, Table, Words
from reconcile.classify.hints import Hints
from reconcile.classify.judgement import Pairs, judged
from reconcile.classify.pairing import Bools, Ints

_KINDS, _REASONS = pd.Index(KINDS, dtype="str"), pd.Index(REASONS, dtype="str")


class Work:
    """`rows` begin with `recent` ones that were handed over before, and are there to be repeated only.

    Kind, reason, by_id, ambiguous and closed of the tables are written in place.
    """

    def __init__(self, rows: Table, recent: int, events: Table, rules: Rules) -> None:
        self.rows, self.recent, self.events, self.rules = rows, recent, events, rules
        self.event_of_row = np.full(len(rows), -1, np.int64)
        self.row_of_event = np.full(len(events), -1, np.int64)

    def waiting_rows(self) -> Ints:
        return np.flatnonzero(self.rows["kind"] == 0)

    def waiting_events(self) -> Ints:
        """Those that may be paired by content and have no class yet."""
        return np.flatnonzero((self.events["kind"] == 0) & self.events["live"])

    def own_events(self) -> Ints:
        """Those of ours that no row explains yet."""
        return np.flatnonzero((self.events["kind"] == 0) & self.events["own"])

    def pair(self, rows: Ints, events: Ints, kind: str, reason: str = "") -> None:
        """Takes down pairs by content."""
        self.events["by_content"][events] = True
        self.write(
            Pairs(rows, events, np.full(len(rows), KIND[kind]), np.full(len(rows), REASON[reason] if reason else 0))
        )

    def write(self, pairs: Pairs) -> None:
        """Takes pairs down on both sides; one of kind `duplicate` leaves its row as it is."""
        pairs = judged(pairs, self.rows, self.events, self.rules)
        self.events["kind"][pairs.events], self.events["reason"][pairs.events] = pairs.kinds, pairs.reasons
        self.row_of_event[pairs.events] = pairs.rows
        first = pairs.kinds != KIND["duplicate"]
        rows = pairs.rows[first]
        self.rows["kind"][rows], self.rows["reason"][rows] = pairs.kinds[first], pairs.reasons[first]
        self.event_of_row[rows] = pairs.events[first]

    def settle_copies(self) -> None:
        """Further copies become duplicates where the first one has its class."""
        copies = np.flatnonzero((self.events["copy_of"] >= 0) & (self.events["kind"] == 0))
        if not len(copies):
            return
        copies = copies[self.events["kind"][self._first_copy(copies)] != 0]
        self.events["kind"][copies], self.events["reason"][copies] = KIND["duplicate"], REASON["copy"]

    def _first_copy(self, events: Ints) -> Ints:
        """The places of the events that these are copies of, or their own."""
        copy_of = self.events["copy_of"][events]
        return np.where(copy_of >= 0, np.searchsorted(self.events["serial"], copy_of), events)

    def settled_rows(self) -> Ints:
        fresh = np.flatnonzero(self.rows["kind"] != 0)
        return fresh[fresh >= self.recent]

    def row_verdicts(self, places: Ints, words: Words) -> pd.DataFrame:
        rows, event = self.rows.of(places), self.event_of_row[places]
        paired = np.flatnonzero(event >= 0)
        event_ms, event_cost = np.zeros(len(places), np.int64), np.full(len(places), np.nan)
        event_ms[paired] = self.events["time_ms"][event[paired]]
        event_cost[paired] = self.events["cost"][event[paired]]
        return pd.DataFrame(
            {
                "request_id": rows["request_id"],
                "start_ms": rows["start_ms"],
                "usage_ms": rows["usage_ms"],
                "model": words.models.decode(rows["model"]),
                "charge_id": words.ids.decode(rows["charge"]),
                "subscription_id": words.ids.decode(rows["subscription"]),
                "call_type": words.others.decode(rows["call_type"]),
                "spend": rows["spend"],
                **{name: rows[name] for name in TOKENS},
                "scope": words.others.decode(rows["scope"]),
                "class": pd.Categorical.from_codes(rows["kind"], _KINDS),
                "reason": pd.Categorical.from_codes(rows["reason"], _REASONS),
                "ambiguous": rows["ambiguous"],
                "event_id": _taken(self.events["transaction_id"], event),
                "event_ms": event_ms,
                "event_cost": event_cost,
            },
            copy=False,
        )

    def event_verdicts(self, places: Ints, hints: Hints, words: Words) -> pd.DataFrame:
        events, source = self.events.of(places), self._first_copy(places)
        row = self.row_of_event[source]
        paired = np.flatnonzero(row >= 0)
        row_start, row_spend = np.zeros(len(places), np.int64), np.full(len(places), np.nan)
        row_scope = np.zeros(len(places), np.int64)
        row_start[paired] = self.rows["start_ms"][row[paired]]
        row_spend[paired] = self.rows["spend"][row[paired]]
        row_scope[paired] = self.rows["scope"][row[paired]]
        request_ids = _taken(self.rows["request_id"], row)
        hint = np.where(row >= 0, -1, hints.of(self.events["serial"][source]))
        hinted = np.flatnonzero((hint >= 0) & (events["reason"] != REASON["same_id"]))
        if len(hinted):
            told = hints.table.take(hint[hinted])
            row_start[hinted], row_spend[hinted] = told["start_ms"], told["spend"]
            row_scope[hinted] = told["scope"]
            request_ids[hinted] = told["request_id"]
        return pd.DataFrame(
            {
                "transaction_id": events["transaction_id"],
                "subscription_id": words.ids.decode(events["subscription"]),
                "charge_id": words.ids.decode(events["charge"]),
                "model": words.models.decode(events["model"]),
                "time_ms": events["time_ms"],
                "cost": events["cost"],
                **{name: events[name] for name in TOKENS},
                "class": pd.Categorical.from_codes(events["kind"], _KINDS),
                "reason": pd.Categorical.from_codes(events["reason"], _REASONS),
                "live": self.events["by_content"][source],
                "row_request_id": request_ids,
                "row_start_ms": row_start,
                "row_spend": row_spend,
                "row_scope": words.others.decode(row_scope),
            },
            copy=False,
        )


def _taken(column: pd.api.extensions.ExtensionArray, places: Ints) -> pd.api.extensions.ExtensionArray:
    """The texts at `places`; '' where a place is negative."""
    if not len(column):
        return pd.array([""] * len(places), dtype="str")
    taken = column.take(np.maximum(places, 0))
    without = places < 0
    if without.any():
        taken[without] = ""
    return taken


def kinds_in(kinds: Ints, names: tuple[str, ...]) -> Bools:
    """Which of the kind codes are among the named ones."""
    wanted = np.zeros(len(KINDS), bool)
    wanted[[KIND[name] for name in names]] = True
    return wanted[kinds]

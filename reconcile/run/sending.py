"""Sends missing rows and reads Lago back: the part of the job that can cost money.

The order is what keeps the promise: a row is written to the ledger, then sent under an ID that never changes, then
Lago's answer is taken down, then Lago is read back. Killed anywhere in between, the next run finds out what happened.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from reconcile.classify import compare_by_id
from reconcile.domain.event import build
from reconcile.errors import NotVisibleFault, ReconcileError
from reconcile.lago import Outcome
from reconcile.run.context import Context, moment

# Up to this many delivered rows of one stretch are looked up one by one, more by listing the stretch.
_LOOKED_UP_SINGLY = 3


class Sender:
    """Sends rows, and reads Lago back, for one run."""

    def __init__(self, context: Context) -> None:
        sides = context.sides
        self._context = context
        self.lago, self.ledger, self.stream = sides.lago, sides.ledger, sides.stream
        self.run_id = context.run_id
        self.stop = context.stop
        self.visible_within = context.settings.visible_within

    def send(self, rows: pd.DataFrame, first_batch: int) -> Sent:
        """Sends rows of class `missing`; gives what became of each.

        `rows` (a fresh index): ROWS columns, transaction_id, bare_model; `ours` (bool) for those that go out although
        another charge ID may have them.
        A fault on the way is kept in the result, beside what is known of every row.
        """
        kind = np.full(len(rows), "missing", object)
        reason = np.full(len(rows), "not_sent", object)
        detail = np.full(len(rows), "", object)
        granted = self._claim(rows)
        kind[~granted], reason[~granted] = "misdirected", "other_charge_id"
        chosen = np.flatnonzero(granted)
        place_of = {name: place for place, name in zip(chosen, rows["transaction_id"].iloc[chosen], strict=True)}
        batches = 0

        def before(events: list[dict[str, Any]]) -> None:
            nonlocal batches
            batches += 1
            ids = [event["transaction_id"] for event in events]
            self.ledger.sending(self.run_id, first_batch + batches, ids)

        def after(outcomes: list[Outcome]) -> None:
            for outcome in outcomes:
                place = place_of[outcome.transaction_id]
                if outcome.status in ("accepted", "exists"):
                    kind[place], reason[place] = "delivered", outcome.status
                elif outcome.status == "refused":
                    kind[place], reason[place], detail[place] = "rejected", "refused", outcome.reason or ""
            self.ledger.answered(
                self.run_id,
                [
                    {
                        "batch": first_batch + outcome.batch,
                        "transaction_id": outcome.transaction_id,
                        "what": outcome.status,
                        "http_status": outcome.http_status,
                        "reason": outcome.reason,
                    }
                    for outcome in outcomes
                ],
            )

        fault: ReconcileError | None = None
        try:
            self.lago.deliver(
                build(rows.iloc[chosen], self._context.shape), before_batch=before, after_batch=after, stop=self.stop
            )
        except ReconcileError as error:
            fault = error
        return Sent(kind, reason, detail, batches, fault)

    def _claim(self, rows: pd.DataFrame) -> npt.NDArray[np.bool_]:
        settled_before = datetime.now(UTC) - self.visible_within
        granted = np.zeros(len(rows), bool)
        keys = list(zip(rows["request_id"].tolist(), rows["start_ms"].tolist(), strict=True))
        ours = rows["ours"].to_numpy(bool)
        for chosen in (False, True):
            places = np.flatnonzero(ours == chosen)
            if len(places):
                found = self.ledger.claim(
                    self.stream, self.run_id, rows.iloc[places], settled_before=settled_before, ours=chosen
                )
                granted[places] = [keys[place] in found for place in places.tolist()]
        return granted

    def verify(self, rows: pd.DataFrame, stretches: npt.NDArray[np.int64]) -> Verified:
        """Reads Lago back for delivered rows, and waits, bounded, for what a ClickHouse store shows late.

        `rows` as in `send`, and `reason`: `accepted` or `exists`. `stretches` numbers the parts of the window that are
        listed together. Gives class and reason per row: `delivered` where Lago has the event with equal content.
        """
        kind = np.full(len(rows), "", object)
        reason = np.full(len(rows), "", object)
        cost = np.full(len(rows), np.nan)
        deadline = time.monotonic() + self.visible_within.total_seconds()
        pause = 0.5
        while True:
            open_rows = np.flatnonzero(kind == "")
            for stretch in np.unique(stretches[open_rows]).tolist():
                places = open_rows[stretches[open_rows] == stretch]
                self._look(rows, places, kind, reason, cost)
            if (kind != "").all() or not self._may_come_later(rows, kind) or time.monotonic() >= deadline:
                break
            if self.stop.wait(min(pause, max(0.0, deadline - time.monotonic()))):
                break
            pause = min(pause * 1.5, 10.0)
        self._find_elsewhere(rows, kind, reason)
        lost = np.flatnonzero(kind == "")
        fault = None
        if len(lost):
            names = ", ".join(rows["transaction_id"].iloc[lost[:5]].tolist())
            more = f" and {len(lost) - 5} more" if len(lost) > 5 else ""
            fault = NotVisibleFault(
                f"Lago accepted {len(lost)} events that it does not show {self.visible_within.total_seconds():.0f} s "
                f"later: {names}{more}; running again is safe (RECONCILE_VISIBLE_WITHIN sets how long to wait)"
            )
            kind[lost], reason[lost] = "missing", "not_visible"
        shown = rows["transaction_id"].to_numpy(object)[kind == "delivered"]
        self.ledger.answered(
            self.run_id,
            [
                {"batch": 0, "transaction_id": name, "what": "verified", "http_status": None, "reason": None}
                for name in shown
            ],
        )
        return Verified(kind, reason, cost, fault)

    def _may_come_later(self, rows: pd.DataFrame, kind: npt.NDArray[np.object_]) -> bool:
        """What Lago said it has already, on Postgres, will not appear by waiting."""
        waiting = rows["reason"].to_numpy(object)[kind == ""]
        return self._context.rules.clickhouse or bool((waiting != "exists").any())

    def _look(
        self,
        rows: pd.DataFrame,
        places: npt.NDArray[np.int64],
        kind: npt.NDArray[np.object_],
        reason: npt.NDArray[np.object_],
        cost: npt.NDArray[np.float64],
    ) -> None:
        times = rows["usage_ms"].to_numpy(np.int64)[places]
        if len(places) <= _LOOKED_UP_SINGLY:
            subscriptions = rows["subscription_id"].to_numpy(object)[places]
            listed = pd.concat(
                [
                    self._context.list_events(moment(at), moment(at + 1), str(subscription))
                    for at, subscription in zip(times.tolist(), subscriptions, strict=True)
                ],
                ignore_index=True,
            )
        else:
            listed = self._context.list_events(moment(int(times.min())), moment(int(times.max()) + 1))
        ours = listed[listed["transaction_id"].isin(rows["transaction_id"].iloc[places])]
        found_kind, found_reason, found_cost = compare_by_id(rows.iloc[places], ours, self._context.rules)
        seen = found_kind != ""
        kind[places[seen]] = np.where(found_kind[seen] == "matched", "delivered", found_kind[seen])
        reason[places[seen]] = found_reason[seen]
        cost[places[seen]] = found_cost[seen]

    def _find_elsewhere(
        self, rows: pd.DataFrame, kind: npt.NDArray[np.object_], reason: npt.NDArray[np.object_]
    ) -> None:
        """Rows whose event exists, Lago says, but not at their usage time."""
        for place in np.flatnonzero((kind == "") & (rows["reason"].to_numpy(object) == "exists")).tolist():
            found = self.lago.find_event(rows["transaction_id"].iloc[place])
            if found is None:
                # Deleted together with its metric, the ID stays taken (lago-api, unique index over deleted events).
                kind[place], reason[place] = "rejected", "exists_but_deleted"
            elif found.get("external_subscription_id") != rows["subscription_id"].iloc[place]:
                kind[place], reason[place] = "misdirected", "other_subscription"
            else:
                kind[place], reason[place] = "mismatched", "timestamp"


@dataclass(frozen=True, slots=True)
class Sent:
    """Per row class, reason and detail: `delivered` (Lago answered, not verified yet), `rejected`, `missing`, …"""

    kind: npt.NDArray[np.object_]
    reason: npt.NDArray[np.object_]
    detail: npt.NDArray[np.object_]
    batches: int
    fault: ReconcileError | None


@dataclass(frozen=True, slots=True)
class Verified:
    """Per row class and reason, and the cost that Lago's event carries (NaN for none)."""

    kind: npt.NDArray[np.object_]
    reason: npt.NDArray[np.object_]
    cost: npt.NDArray[np.float64]
    fault: ReconcileError | None

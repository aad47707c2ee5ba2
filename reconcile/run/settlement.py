"""Decides what becomes of classified rows, and books it: hold back, send, read back.

It takes rows and events as the classification settles them, and knows which of them its books are about.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pandas as pd

from reconcile.classify import Settled, as_rows
from reconcile.domain.event import transaction_ids
from reconcile.domain.money import add, total
from reconcile.lago.coverage import in_invoices
from reconcile.run.books import Books, billable_spend
from reconcile.run.context import Context, as_ms
from reconcile.run.sending import Sender

# So many delivered rows are read back together: few enough to keep the memory flat.
_VERIFIED_AT_ONCE = 20_000
_LISTED_TOGETHER = 5_000
_SLICES_TOGETHER = 24

RowFilter = Callable[[pd.DataFrame], npt.NDArray[np.bool_]]
EventFilter = Callable[[pd.DataFrame], npt.NDArray[np.bool_]]


class Settlement:
    """`in_rows` and `in_events` say what the books are about; everything else was read as context only.

    `booked` is told every frame of rows, and of events, as it is booked.
    """

    def __init__(
        self,
        context: Context,
        books: Books,
        in_rows: RowFilter,
        in_events: EventFilter,
        *,
        booked_rows: Callable[[pd.DataFrame], None] | None = None,
        booked_events: Callable[[pd.DataFrame], None] | None = None,
    ) -> None:
        self.books = books
        self._context = context
        self._in_rows, self._in_events = in_rows, in_events
        self._booked_rows, self._booked_events = booked_rows, booked_events
        self._to_verify: list[pd.DataFrame] = []
        self._sender = Sender(context)

    def take(self, settled: Settled) -> None:
        """Decides and books. A fault on the way is raised after everything that is known was booked."""
        inside = self._in_rows(settled.rows)
        outside_ids = settled.rows["event_id"][~inside & (settled.rows["event_id"] != "").to_numpy(bool)]
        events = self._explained(settled.events[self._in_events(settled.events)].reset_index(drop=True))
        self.books.add_events(events, paired_outside=events["transaction_id"].isin(outside_ids).to_numpy(bool))
        if self._booked_events is not None:
            self._booked_events(events)
        decided = Decided(settled.rows[inside].reset_index(drop=True), self._context.rules.code)
        try:
            self._hold(decided)
            if self._context.sends:
                self._send(decided)
        finally:
            self._book(decided.booked(decided.kind != "unverified"))
        if sum(map(len, self._to_verify)) > _VERIFIED_AT_ONCE:
            self.verify()

    def _explained(self, events: pd.DataFrame) -> pd.DataFrame:
        """Without the events whose rows LiteLLM's retention has deleted: those are no orphans, and cannot be told."""
        until = self._context.retention_until_ms
        gone = (events["time_ms"].to_numpy(np.int64) < until) & events["reason"].eq("no_row").to_numpy(bool)
        if not gone.any():
            return events
        costs = np.nan_to_num(events["cost"].to_numpy(np.float64)[gone])
        self._context.set_aside.append(costs)
        self.books.set_aside(costs)
        return events[~gone].reset_index(drop=True)

    def verify(self) -> None:
        """Reads Lago back, and books what was delivered. Raises `NotVisibleFault` where Lago does not show it."""
        if not self._to_verify:
            return
        entries = pd.concat(self._to_verify, ignore_index=True)
        rows = entries[[name for name in entries.columns.astype(str) if name.startswith("sent_")]].rename(
            columns=lambda name: name.removeprefix("sent_")
        )
        rows["reason"] = entries["reason"].to_numpy(object)
        stretches = _stretches(rows["usage_ms"].to_numpy(np.int64), as_ms(self._context.settings.slice_length))
        with self._context.timing.stage("verify"):
            found = self._sender.verify(rows, stretches)
        self._to_verify = []
        ids = rows["transaction_id"].to_numpy(object)
        costs = np.where(found.kind == "delivered", np.nan, found.cost)
        self._book(
            entries.assign(event_cost=costs, **{"class": found.kind, "reason": found.reason, "transaction_id": ids})
        )
        if found.fault is not None:
            raise found.fault
        self._context.verified = True

    def abandon(self) -> None:
        """Books what Lago answered that it has, where a fault came before it could be read back."""
        if self._to_verify:
            self._context.verified = False
            self._book(pd.concat(self._to_verify, ignore_index=True).assign(**{"class": "delivered"}))
            self._to_verify = []

    def _book(self, rows: pd.DataFrame) -> None:
        self.books.add_rows(rows)
        if self._booked_rows is not None:
            self._booked_rows(rows)

    def _hold(self, decided: Decided) -> None:
        """Keeps missing rows back that Lago would store and bill nobody for."""
        places = decided.of_class("missing")
        if not len(places):
            return
        rows = decided.rows.iloc[places]
        subscription, reason = hold_reasons(
            self._context, rows["charge_id"].astype("str").tolist(), rows["usage_ms"].to_numpy(np.int64)
        )
        decided.subscription[places] = subscription
        held = reason != ""
        decided.set(places[held], "held", reason[held])
        if self._context.sends and held.any():
            self._keep_held(rows[held], reason[held])

    def _keep_held(self, rows: pd.DataFrame, reasons: npt.NDArray[np.object_]) -> None:
        columns = ("charge_id", "model", "spend", "prompt_tokens", "completion_tokens", "total_tokens")
        self._context.sides.ledger.hold(
            self._context.sides.stream,
            self._context.run_id,
            [
                {
                    "request_id": row["request_id"],
                    "start_ms": row["start_ms"],
                    "usage_ms": row["usage_ms"],
                    "reason": reason,
                    "row": {name: row[name] for name in columns},
                }
                for row, reason in zip(rows.to_dict("records"), reasons.tolist(), strict=True)
            ],
        )

    def _send(self, decided: Decided) -> None:
        context = self._context
        places = np.sort(np.concatenate((decided.of_class("missing"), self._doubtful(decided))))
        if not len(places):
            return
        rows = as_rows(decided.rows.iloc[places])
        rows["transaction_id"] = pd.array(decided.own_ids(places), dtype="str")
        rows["subscription_id"] = pd.array(decided.subscription[places], dtype="str")
        rows["bare_model"] = rows["model"]
        rows["ours"] = decided.kind[places] != "missing"
        context.pushed_doubtful += int(rows["ours"].sum())
        pushed = billable_spend(rows["spend"].to_numpy(np.float64)[rows["ours"].to_numpy(bool)])
        context.pushed_spend = add((context.pushed_spend, total(pushed)))
        if context.lock is not None:
            context.lock.confirm()
        with context.timing.stage("deliver"):
            sent = self._sender.send(rows, context.batches)
        context.batches += sent.batches
        decided.set(places, sent.kind, sent.reason, sent.detail)
        taken = np.flatnonzero(sent.kind == "delivered")
        if len(taken):
            # Booked when Lago was read back; until then the run has something that is not verified.
            context.verified = False
            decided.set(places[taken], "unverified", sent.reason[taken])
            entries = decided.booked(decided.kind == "unverified").reset_index(drop=True)
            sent_rows = rows.iloc[taken].reset_index(drop=True).add_prefix("sent_")
            self._to_verify.append(pd.concat([entries, sent_rows], axis=1))
        if sent.fault is not None:
            raise sent.fault
        context.go_on()

    def _doubtful(self, decided: Decided) -> npt.NDArray[np.int64]:
        """Rows that the operator wants sent although Lago may hold their event: those that could be sent otherwise."""
        names = sorted(self._context.settings.push_doubtful)
        places: npt.NDArray[np.int64] = np.flatnonzero(np.isin(decided.kind, names))
        spend = decided.rows["spend"].to_numpy(np.float64)[places]
        places = places[np.isfinite(spend) & (spend >= 0)]
        if not len(places):
            return places
        rows = decided.rows.iloc[places]
        subscription, reason = hold_reasons(
            self._context, rows["charge_id"].astype("str").tolist(), rows["usage_ms"].to_numpy(np.int64)
        )
        decided.subscription[places] = subscription
        sendable: npt.NDArray[np.int64] = places[reason == ""]
        return sendable


def _stretches(times: npt.NDArray[np.int64], slice_ms: int) -> npt.NDArray[np.int64]:
    """Numbers of the stretches to list: neighbouring slices together, until they hold many rows."""
    slices, place, counts = np.unique(times // slice_ms, return_inverse=True, return_counts=True)
    numbers, number, first, rows = np.zeros(len(slices), np.int64), 0, 0, 0
    for i, (at, count) in enumerate(zip(slices.tolist(), counts.tolist(), strict=True)):
        if i and (at != slices[i - 1] + 1 or i - first >= _SLICES_TOGETHER or rows + count > _LISTED_TOGETHER):
            number, first, rows = number + 1, i, 0
        numbers[i], rows = number, rows + count
    return numbers[place]


def hold_reasons(
    context: Context, charge_ids: list[str], usage_ms: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.object_]]:
    """Per row the external subscription ID that its event goes to, and why it is held back; '' where it is not."""
    settings, coverage = context.settings, context.coverage
    subscription, reason, covering = coverage.resolve(charge_ids, usage_ms)
    if settings.uncovered == "push":
        # A customer without one subscription cannot be pushed: there is no ID to send the event to.
        reason[(reason != "") & (subscription != "")] = ""
    if settings.late == "hold":
        closed = coverage.before_period(covering, usage_ms)
        # A subscription that has ended since has its last invoice: where that is final, nobody bills the row.
        ended = coverage.ended(covering) & ~closed & (reason == "")
        for customer in sorted(set(coverage.customers(covering[ended]))):
            closed |= ended & in_invoices(context.final_invoices(customer), subscription, usage_ms)
        closed &= reason == ""
        if closed.any():
            closed &= ~in_invoices(context.drafts, subscription, usage_ms)
        reason[closed] = "period_closed"
    return subscription, reason


class Decided:
    """The rows of one step and what is decided about them."""

    def __init__(self, rows: pd.DataFrame, code: str) -> None:
        self.rows = rows
        self._code = code
        self.kind = rows["class"].to_numpy(object)
        self.reason = rows["reason"].to_numpy(object)
        self.detail = np.full(len(rows), "", object)
        self.subscription = rows["subscription_id"].to_numpy(object)

    def of_class(self, name: str) -> npt.NDArray[np.int64]:
        return np.flatnonzero(self.kind == name)

    def set(
        self,
        places: npt.NDArray[np.int64],
        kind: str | npt.NDArray[np.object_],
        reason: str | npt.NDArray[np.object_],
        detail: npt.NDArray[np.object_] | None = None,
    ) -> None:
        self.kind[places], self.reason[places] = kind, reason
        if detail is not None:
            self.detail[places] = detail

    def own_ids(self, places: npt.NDArray[np.int64]) -> list[str]:
        rows = self.rows.iloc[places]
        return transaction_ids(
            self._code, rows["charge_id"].astype("str").tolist(), rows["request_id"].tolist(), rows["start_ms"].tolist()
        )

    def booked(self, which: npt.NDArray[np.bool_]) -> pd.DataFrame:
        """Rows with their class, and the transaction ID that stands for each in the list of discrepancies."""
        ids = self.rows["event_id"].to_numpy(object, copy=True)
        own = np.isin(self.kind, ("missing", "held", "rejected")) | ((self.kind == "misdirected") & (ids == ""))
        places = np.flatnonzero(own)
        ids[places] = self.own_ids(places)
        named = self.rows.assign(
            **{"class": self.kind, "reason": self.reason, "detail": self.detail, "transaction_id": ids}
        )
        return named[which]

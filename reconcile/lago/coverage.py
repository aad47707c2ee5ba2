"""Whether Lago will bill an event: which subscription covers a usage time, and whether its period is still open. Pure.

Lago answers 200 to events of unknown subscriptions and of closed periods, stores them, and bills nobody (1.51). So each
missing row is looked up here before it is sent.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

Ints = npt.NDArray[np.int64]
Texts = npt.NDArray[np.object_]

_NEVER = np.iinfo(np.int64).max
# Statuses of subscriptions that never were, or are not yet, in force.
_NOT_IN_FORCE = ("pending", "canceled", "incomplete", "activating")


class Coverage:
    """The organization's subscriptions.

    `subscriptions`: external_id, external_customer_id, status (str), started_at, terminated_at,
    current_billing_period_started_at (datetime64[ms, UTC], NaT for none). With `by_customer` a charge ID names a
    customer, else a subscription.
    """

    def __init__(self, subscriptions: pd.DataFrame, *, by_customer: bool) -> None:
        self.by_customer = by_customer
        in_force = subscriptions[
            ~subscriptions["status"].isin(_NOT_IN_FORCE).to_numpy(bool) & subscriptions["started_at"].notna()
        ]
        self._customer_of = dict(
            zip(
                subscriptions["external_id"].fillna("").tolist(),
                subscriptions["external_customer_id"].fillna("").tolist(),
                strict=True,
            )
        )
        names = in_force["external_customer_id" if by_customer else "external_id"].fillna("")
        starts = _ms(in_force["started_at"], 0)
        # The newest first: where two of one external ID meet, the later one bills.
        order = np.argsort(-starts, kind="stable")
        self._subscription = in_force["external_id"].fillna("").to_numpy(object)[order]
        self._start = starts[order]
        self._end = _ms(in_force["terminated_at"], _NEVER)[order]
        self._terminated = in_force["status"].eq("terminated").to_numpy(bool)[order]
        self._period_start = _ms(in_force["current_billing_period_started_at"], 0)[order]
        self._places: dict[str, Ints] = {
            str(name): np.asarray(places, np.int64)
            for name, places in pd.Series(np.arange(len(order))).groupby(names.to_numpy(object)[order]).indices.items()
        }

    def charge_ids_of(self, subscription_ids: list[str]) -> list[str]:
        """The charge IDs that events of these subscriptions are for: themselves, or their customers."""
        if not self.by_customer:
            return subscription_ids
        return [self._customer_of.get(name, "") or name for name in subscription_ids]

    def resolve(self, charge_ids: list[str], usage_ms: Ints) -> tuple[Texts, Texts, Ints]:
        """Per row the external subscription ID of its event, a reason, and the place of the covering subscription.

        The reason is '' where just one subscription covers the usage time, else `no_subscription` or
        `several_subscriptions`. The ID is '' only where a customer's subscription cannot be told. The place is -1
        where none covers it.
        """
        names = pd.Series(charge_ids, dtype="str")
        subscription = np.full(len(names), "", object) if self.by_customer else names.to_numpy(object)
        reason = np.full(len(names), "no_subscription", object)
        covering = np.full(len(names), -1, np.int64)
        for name, rows in names.groupby(names).indices.items():
            places = self._places.get(str(name))
            if places is None or not str(name):
                continue
            times = usage_ms[rows][:, None]
            covers = (self._start[places] <= times) & (times <= self._end[places])
            first = places[np.argmax(covers, axis=1)]
            some = covers.any(axis=1)
            rows = np.asarray(rows, np.int64)
            reason[rows[some]] = ""
            covering[rows[some]] = first[some]
            if self.by_customer:
                others = covers & (self._subscription[places][None, :] != self._subscription[first][:, None])
                several = some & others.any(axis=1)
                reason[rows[several]] = "several_subscriptions"
                covering[rows[several]] = -1
                single = some & ~several
                subscription[rows[single]] = self._subscription[first[single]]
        return subscription, reason, covering

    def before_period(self, covering: Ints, usage_ms: Ints) -> npt.NDArray[np.bool_]:
        """Where the usage time lies before the covering subscription's current billing period."""
        known = covering >= 0
        place = np.where(known, covering, 0)
        if not len(self._period_start):
            return np.zeros(len(covering), bool)
        return np.asarray(known & (usage_ms < self._period_start[place]))

    def subscriptions_of(self, charge_id: str) -> list[tuple[str, str]]:
        """The external customer and subscription IDs that a charge ID stands for, each once."""
        names = {self._subscription[place] for place in self._places.get(charge_id, ())}
        return sorted((self._customer_of.get(name, ""), name) for name in names)

    def customers(self, covering: Ints) -> list[str]:
        """The external customer IDs of covering subscriptions."""
        return [self._customer_of.get(self._subscription[place], "") for place in covering.tolist()]

    def ended(self, covering: Ints) -> npt.NDArray[np.bool_]:
        """Where the covering subscription has been terminated since: its last invoice may be final already."""
        known = covering >= 0
        if not len(self._terminated):
            return np.zeros(len(covering), bool)
        return np.asarray(known & self._terminated[np.where(known, covering, 0)])


def in_invoices(invoices: pd.DataFrame, subscription_ids: Texts, usage_ms: Ints) -> npt.NDArray[np.bool_]:
    """Where an invoice's charges cover the usage time.

    `invoices`: external_subscription_id (str), from, to (datetime64[ms, UTC], both inclusive; Lago cuts them to whole
    seconds, so the last second counts whole).
    """
    found = np.zeros(len(subscription_ids), bool)
    starts, ends = _ms(invoices["from"], 0), _ms(invoices["to"], _NEVER)
    for name, start, end in zip(invoices["external_subscription_id"].tolist(), starts, ends, strict=True):
        last = end if end == _NEVER else end // 1000 * 1000 + 999
        found |= (subscription_ids == name) & (usage_ms >= start) & (usage_ms <= last)
    return found


def _ms(times: pd.Series, absent: int) -> Ints:
    values = times.to_numpy("datetime64[ms]").astype(np.int64)
    return np.where(times.isna().to_numpy(bool), absent, values)

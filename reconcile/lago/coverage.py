"""Whether Lago bills an event: which subscription covers its time, whether that one's plan prices it, and whether its
period is still open. Pure.

Lago answers 200 to events of unknown subscriptions, of plans without a price on the metric and of closed periods,
stores them, and bills nobody (1.51). So each missing row is looked up here before it is sent, and each event that is
there.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from reconcile.domain.frames import named
from reconcile.domain.vocabulary import Reason
from reconcile.lago.items import Plan, Subscription

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Names = pd.Categorical | Sequence[str]

# In the order in which they are said of one row.
REASONS = ("", Reason.NO_SUBSCRIPTION, Reason.SEVERAL_SUBSCRIPTIONS, Reason.NOT_PRICED, Reason.PERIOD_CLOSED)

_NEVER = np.iinfo(np.int64).max
_COVERED, _NO_SUBSCRIPTION, _SEVERAL, _NOT_PRICED, _CLOSED = range(len(REASONS))


@dataclass(frozen=True, slots=True)
class Period:
    """What a draft invoice bills of one subscription. Both ends belong to it; Lago cuts them to whole seconds."""

    external_subscription_id: str
    from_ms: int
    to_ms: int
    lago_invoice_id: str


@dataclass(frozen=True, slots=True)
class Resolved:
    """Per row: the external subscription ID of its event ('' where a customer's cannot be told), the reason why Lago
    would bill nobody ('' for none), and the place of the covering subscription (-1 for none).
    """

    subscription: pd.Categorical
    reason: pd.Categorical
    covering: Ints


class Coverage:
    """Judges by the subscriptions that are known. With `by_customer` a charge ID names a customer, else a subscription.

    `plans`: by the subscription's lago_id, the plan that it uses. One that is not in there is taken to be priced: Lago
    did not say.
    """

    def __init__(
        self, subscriptions: Sequence[Subscription], plans: Mapping[str, Plan] | None = None, *, by_customer: bool
    ) -> None:
        self.by_customer = by_customer
        self._customer_of: dict[str, str] = {}
        for one in sorted(subscriptions, key=lambda one: one.started_ms or 0):
            self._customer_of[one.external_id] = one.external_customer_id
        # Where two of one external ID meet, Lago takes the one that has not ended, then the later one (event.rb).
        self._places = sorted(
            (one for one in subscriptions if one.in_force and one.external_id),
            key=lambda one: (-_NEVER if one.ended_ms is None else -one.ended_ms, -(one.started_ms or 0), one.lago_id),
        )
        self._start = np.array([one.started_ms for one in self._places], np.int64)
        self._end = np.array(_ends(self._places), np.int64)
        self._ended = np.array([one.ended for one in self._places], bool)
        self._period = np.array([one.period_ms or 0 for one in self._places], np.int64)
        self._subscription = named([one.external_id for one in self._places])
        self._by_subscription = _Index([one.external_id for one in self._places])
        self._by_charge_id = self._by_subscription
        if by_customer:
            self._by_charge_id = _Index([one.external_customer_id for one in self._places])
        self._price(plans or {})

    def with_plans(self, plans: Mapping[str, Plan]) -> Self:
        """The same subscriptions with other plans: cheap, where the subscriptions are many."""
        other = copy.copy(self)
        other._price(plans)
        return other

    def _price(self, plans: Mapping[str, Plan]) -> None:
        found = [plans.get(one.lago_id) for one in self._places]
        self._unpriced = np.array([plan is not None and not plan.priced for plan in found], bool)
        self._advance = np.array([plan is not None and plan.pay_in_advance for plan in found], bool)

    def resolve(self, charge_ids: Names, usage_ms: Ints) -> Resolved:
        """Which subscription covers each row. The reason is '', `no_subscription` or `several_subscriptions`."""
        ids = _categorical(charge_ids)
        covering, several = self._covering(self._by_charge_id, ids, usage_ms, one_only=self.by_customer)
        reason = np.where(covering < 0, _NO_SUBSCRIPTION, _COVERED).astype(np.int8)
        if not self.by_customer:
            return Resolved(ids, _reasons(reason), covering)
        reason[several] = _SEVERAL
        covering[several] = -1
        names = self._subscription.categories
        # Place -1 takes the last code of this list, which stands for ''.
        codes = np.append(self._subscription.codes.astype(np.int64), len(names))[covering]
        subscription = pd.Categorical.from_codes(codes, pd.Index([*names, ""], dtype="str"))
        return Resolved(subscription, _reasons(reason), covering)

    def judge(self, subscription_ids: Names, times_ms: Ints) -> pd.Categorical:
        """Why Lago bills nobody for an event that it holds: '', `no_subscription` or `not_priced`, by its own time."""
        covering, _ = self._covering(self._by_subscription, _categorical(subscription_ids), times_ms, one_only=False)
        reason = np.where(covering < 0, _NO_SUBSCRIPTION, _COVERED).astype(np.int8)
        reason[self.not_priced(covering)] = _NOT_PRICED
        return _reasons(reason)

    def hold(self, charge_ids: Names, usage_ms: Ints, drafts: Sequence[Period] = ()) -> Resolved:
        """Why a missing row's event would be billed to nobody, with every reason of REASONS."""
        found = self.resolve(charge_ids, usage_ms)
        reason = found.reason.codes.copy()
        reason[self.not_priced(found.covering)] = _NOT_PRICED
        closed = (reason == _COVERED) & self.period_closed(found.covering, usage_ms, drafts)
        reason[closed] = _CLOSED
        return Resolved(found.subscription, _reasons(reason), found.covering)

    def not_priced(self, covering: Ints) -> Bools:
        """Where the covering subscription's plan is known to have no charge on the metric."""
        return self._of(self._unpriced, covering)

    def pay_in_advance(self, covering: Ints) -> Bools:
        """Where Lago bills the event on receipt."""
        return self._of(self._advance, covering)

    def period_closed(self, covering: Ints, usage_ms: Ints, drafts: Sequence[Period] = ()) -> Bools:
        """Where no period of the covering subscription is open for the usage time any more.

        Lago bills a pay-in-advance charge on receipt, so nothing is closed there. A subscription that has ended has no
        open period at all. A draft invoice still takes the events of its period.
        """
        if not len(self._places):
            return np.zeros(len(covering), bool)
        place = np.where(covering >= 0, covering, 0)
        closed = (covering >= 0) & ~self._advance[place] & (self._ended[place] | (usage_ms < self._period[place]))
        if drafts and closed.any():
            closed[closed] = ~self._drafted(place[closed], usage_ms[closed], drafts)
        return np.asarray(closed, bool)

    def charge_ids_of(self, subscription_ids: Names) -> pd.Categorical:
        """The charge IDs that events of these subscriptions are for: themselves, or their customers."""
        ids = _categorical(subscription_ids)
        if not self.by_customer:
            return ids
        found = named([self._customer_of.get(name, "") or name for name in ids.categories.tolist()])
        return pd.Categorical.from_codes(found.codes[ids.codes], found.categories)

    def subscriptions_of(self, charge_id: str) -> list[tuple[str, str]]:
        """The external customer and subscription IDs that a charge ID stands for, each once."""
        places = self._by_charge_id.places_of(charge_id)
        return sorted({(self._places[at].external_customer_id, self._places[at].external_id) for at in places})

    def at(self, place: int) -> Subscription | None:
        """The subscription at a place of `Resolved.covering`."""
        return self._places[place] if place >= 0 else None

    def customers(self, covering: Ints) -> list[str]:
        """The external customer IDs of covering subscriptions, each once."""
        places = np.unique(covering[covering >= 0]).tolist()
        return sorted({self._places[place].external_customer_id for place in places})

    def _covering(self, index: _Index, ids: pd.Categorical, times: Ints, *, one_only: bool) -> tuple[Ints, Bools]:
        """Per row the first place that covers it, and (with `one_only`) where another subscription covers it too."""
        covering, several = np.full(len(ids), -1, np.int64), np.zeros(len(ids), bool)
        slot = index.slots(ids)
        rows = np.flatnonzero(slot >= 0)
        subject, step = self._subscription.codes, 0
        while len(rows):
            place = index.places[index.first[slot[rows]] + step]
            covers = (self._start[place] <= times[rows]) & (times[rows] <= self._end[place])
            fresh = covers & (covering[rows] < 0)
            if one_only:
                again = covers & ~fresh
                another = subject[place[again]] != subject[covering[rows[again]]]
                several[rows[again][another]] = True
            covering[rows[fresh]] = place[fresh]
            step += 1
            more = index.count[slot[rows]] > step
            rows = rows[more if one_only else more & (covering[rows] < 0)]
        return covering, several

    def _of(self, values: Bools, covering: Ints) -> Bools:
        if not len(values):
            return np.zeros(len(covering), bool)
        return np.asarray((covering >= 0) & values[covering])

    def _drafted(self, places: Ints, times: Ints, drafts: Sequence[Period]) -> Bools:
        taken = np.zeros(len(places), bool)
        codes = self._subscription.codes[places]
        names = pd.Index([period.external_subscription_id for period in drafts], dtype="str")
        for code, period in zip(self._subscription.categories.get_indexer(names), drafts, strict=True):
            last = period.to_ms // 1000 * 1000 + 999
            taken |= (codes == code) & (period.from_ms <= times) & (times <= last)
        return taken


class _Index:
    """Places by name: those of slot n are places[first[n] : first[n] + count[n]], in their order."""

    def __init__(self, names: Sequence[str]) -> None:
        ids = named(names)
        codes = ids.codes.astype(np.int64)
        self._names = ids.categories
        self.places = np.argsort(codes, kind="stable").astype(np.int64)
        self.count = np.bincount(codes, minlength=len(self._names)).astype(np.int64)
        self.first = np.concatenate(([0], np.cumsum(self.count)[:-1])).astype(np.int64)

    def slots(self, ids: pd.Categorical) -> Ints:
        """Per row its name's slot, -1 where no place has the name, or it is ''."""
        slots = self._names.get_indexer(ids.categories).astype(np.int64)
        slots[ids.categories == ""] = -1
        return np.asarray(np.append(slots, -1)[ids.codes], np.int64)

    def places_of(self, name: str) -> list[int]:
        if not name or name not in self._names:
            return []
        slot = int(self._names.get_indexer(pd.Index([name], dtype="str"))[0])
        first = int(self.first[slot])
        return [int(place) for place in self.places[first : first + int(self.count[slot])]]


def _ends(places: Sequence[Subscription]) -> list[int]:
    """The last millisecond of each, itself included.

    Lago shows an end in whole seconds. Where a plan changes within a second, the old subscription ends and the next of
    the same external ID begins at one instant, which only the start tells to the millisecond.
    """
    starts: dict[str, list[int]] = {}
    for one in places:
        starts.setdefault(one.external_id, []).append(one.started_ms or 0)
    ends = []
    for one in places:
        end = _NEVER if one.ended_ms is None else one.ended_ms
        ends.append(max([end, *(start for start in starts[one.external_id] if end < start < end + 1000)]))
    return ends


def _categorical(ids: Names) -> pd.Categorical:
    return ids if isinstance(ids, pd.Categorical) else named(list(ids))


def _reasons(codes: npt.NDArray[np.int8]) -> pd.Categorical:
    return pd.Categorical.from_codes(codes, pd.Index([str(reason) for reason in REASONS], dtype="str"))

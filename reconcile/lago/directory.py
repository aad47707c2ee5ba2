"""What a run knows of Lago's subscriptions and their plans: learned slice by slice, judged by `Coverage`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from reconcile.lago.catalog import Catalog
from reconcile.lago.coverage import Coverage, Ints, Names, Period, Resolved
from reconcile.lago.items import Plan, Subscription
from reconcile.lago.price_list import Memory, PriceList
from reconcile.lago.roll import Key, Roll

_SURVEYED = 20  # plans that a survey asks for


class Directory:
    """Decides which requests to make. Use one per run, from one thread.

    `code` is the metric's. With `by_customer` charge IDs are external customer IDs, else external subscription IDs.
    `now_ms` is the run's time: what `memory` keeps is as old as that says.
    """

    def __init__(self, lago: Catalog, memory: Memory, *, code: str, by_customer: bool, now_ms: int) -> None:
        self.by_customer = by_customer
        self._lago = lago
        self._roll = Roll(lago)
        self._prices = PriceList(lago, memory, code, now_ms)
        self._drafts: list[Period] = []
        self._asked_drafts: set[str] = set()  # external customer IDs
        self._coverage = Coverage((), by_customer=by_customer)
        self._seen = (0, 0)  # of the roll and of the price list, when the coverage was made

    def learn(
        self,
        charge_ids: Iterable[str],
        *,
        subscription_ids: Iterable[str] = (),
        since_ms: int = 0,
        money: Mapping[str, float] | None = None,
    ) -> None:
        """Makes `coverage` complete for these IDs from `since_ms` on. Asks Lago only for what is not known yet.

        `subscription_ids` are those of events, where charge IDs are customers. `money` (by ID) says which come first
        where not every subscription's plan can be asked for. Raises `LagoFault`.
        """
        wanted: set[Key] = {("external_id", name) for name in subscription_ids if name}
        if self.by_customer:
            wanted |= {("external_customer_id", name) for name in charge_ids if name}
        else:
            wanted |= {("external_id", name) for name in charge_ids if name}
        self._roll.find(wanted, since_ms)
        money, found = money or {}, dict[str, tuple[float, Subscription]]()
        for key in wanted:
            for one in self._roll.of(key):
                if one.in_force and not (one.ended_ms is not None and one.ended_ms + 1_000 <= since_ms):
                    earlier, _ = found.get(one.lago_id, (0.0, one))
                    found[one.lago_id] = (max(earlier, money.get(key[1], 0.0)), one)
        ordered = sorted(found.values(), key=lambda each: (-each[0], each[1].lago_id))
        self._prices.learn([one for _, one in ordered])

    @property
    def coverage(self) -> Coverage:
        """Judges by what was learned so far."""
        seen = (self._roll.version, len(self._prices.plan_of))
        if seen != self._seen:
            plans = {lago_id: plan for lago_id, plan in self._prices.plan_of.items() if plan is not None}
            if seen[0] != self._seen[0]:
                self._coverage = Coverage(self._roll.all(), plans, by_customer=self.by_customer)
            else:
                self._coverage = self._coverage.with_plans(plans)
            self._seen = seen
        return self._coverage

    def hold(self, charge_ids: Names, usage_ms: Ints) -> Resolved:
        """Why missing rows' events would be billed to nobody. Asks for draft invoices only where a period is over.

        The IDs must have been learned from the earliest of these times on.
        """
        found = self.coverage.hold(charge_ids, usage_ms)
        closed = self.coverage.period_closed(found.covering, usage_ms)
        customers = self.coverage.customers(found.covering[closed])
        return self.coverage.hold(charge_ids, usage_ms, self.drafts(customers)) if customers else found

    def drafts(self, customers: Collection[str]) -> list[Period]:
        """What draft invoices bill, of these customers at least. Each customer is asked for once in a run."""
        fresh = set(customers) - self._asked_drafts
        if fresh:
            self._drafts = list(dict.fromkeys([*self._drafts, *self._lago.draft_periods(fresh)]))
            self._asked_drafts |= fresh
        return self._drafts

    def subscriptions_of(self, charge_id: str) -> list[Subscription]:
        """Every subscription that was learned of a charge ID, whatever its status, the earliest first."""
        found = self._roll.of(("external_customer_id" if self.by_customer else "external_id", charge_id))
        return sorted(found, key=lambda one: (one.started_ms or 0, one.lago_id))

    def plan_of(self, subscription: Subscription) -> Plan | None:
        """The plan of a subscription in force that was learned, None where Lago does not show it."""
        return self._prices.plan_of.get(subscription.lago_id)

    def survey(self) -> tuple[int, int, dict[str, Plan]]:
        """For a check before the first run: how many subscriptions are active, how many are not, and the plans (by
        code) of the newest hundred active ones, at most 20.
        """
        active, others = self._roll.counts()
        codes = dict.fromkeys(one.plan_code for one in self._roll.all() if one.status == "active")
        return active, others, self._prices.plans(list(codes)[:_SURVEYED])

    def plans_in_use(self) -> dict[str, Plan]:
        """The plans of the subscriptions that were learned, each once, by a name for people."""
        return self._prices.in_use()

    @property
    def unknown_plans(self) -> int:
        """Subscriptions whose plan Lago does not show: they are taken to be priced."""
        return sum(plan is None for plan in self._prices.plan_of.values())

    @property
    def guessed_plans(self) -> int:
        """Subscriptions that are judged by their plan's code, though they may have a plan of their own."""
        return len(self._prices.guessed)

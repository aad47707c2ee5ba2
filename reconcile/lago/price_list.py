"""Which plan each subscription uses, and what it charges for the metric: asked for, or remembered between runs.

A plan is asked for by its code, once per plan in use, and again after half a day: in every nightly run. It may have
been overridden for one subscription. Then Lago has made another plan of the same code, which only
`GET /subscriptions/{id}` shows (20 ms; several are asked for at a time where that helps). While the subscriptions are
few, each is asked for in every run. Where they are many, Lago is asked first which of them have a plan of their own.
Such a plan is remembered until the plan that it was made from changes, or the subscription does (its plan's code or its
start), and for five to nine days otherwise, since Lago gives no sign when only the overridden plan is edited. Those
days differ by subscription, so that not all are asked for in one night.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from reconcile.lago.catalog import Catalog
from reconcile.lago.http import Unserved
from reconcile.lago.items import Plan, Subscription
from reconcile.lago.roll import ASKED_MS, LISTED_MS, PAGE, fits

_IN_FORCE = ("active", "terminated")
_HOUR_MS = 3_600_000
_PLAN_KEPT_MS = 12 * _HOUR_MS
_OWN_PLAN_KEPT_DAYS = 5  # and up to four more
# Requests in one run.
_OWN_PLANS_AT_MOST, _PLANS_AT_MOST = 400, 200
# So many subscriptions' own plans are asked for in any case; beyond, it pays to ask which of them have one.
_OWN_PLANS_ANYWAY = 10


@dataclass(frozen=True, slots=True)
class Remembered:
    """What Lago said once: true of the thing as `stamp` describes it, asked at `asked_ms`. `value` is JSON."""

    key: str
    stamp: str
    asked_ms: int
    value: Mapping[str, Any]


class Memory(Protocol):
    """What is kept between the runs of one organization and event code."""

    def load(self, keys: Sequence[str]) -> Mapping[str, Remembered]:
        """Those of the keys that are kept."""

    def store(self, entries: Sequence[Remembered]) -> None:
        """Keeps them, in place of those of the same keys."""


class PriceList:
    """The plans of subscriptions, with their charges on the metric `code`. `now_ms` is the run's time."""

    def __init__(self, lago: Catalog, memory: Memory, code: str, now_ms: int) -> None:
        self.plan_of: dict[str, Plan | None] = {}  # by the subscription's lago_id; None where Lago does not show it
        self.guessed: set[str] = set()  # lago_ids that are judged by their plan's code, though they may override it
        self._lago, self._memory, self._code, self._now_ms = lago, memory, code, now_ms
        self._plans: dict[str, Plan | None] = {}  # by code
        self._external_id: dict[str, str] = {}  # by lago_id
        self._shows = True
        self._overridden: frozenset[str] | None = None
        self._asked_overridden = False
        self._asked_plans = self._asked_own_plans = 0

    def learn(self, subscriptions: Sequence[Subscription]) -> None:
        """Fills `plan_of`. The first come first where not every subscription can be asked for."""
        fresh = [one for one in subscriptions if one.lago_id not in self.plan_of]
        self._external_id |= {one.lago_id: one.external_id for one in fresh}
        self._learn_plans(list(dict.fromkeys(one.plan_code for one in fresh if one.plan_code)))
        many = self._asked_own_plans + len(fresh) > _OWN_PLANS_ANYWAY
        if many:
            self._ask_overridden(len(fresh))
        to_ask = []
        for one in fresh:
            common = self._plans.get(one.plan_code)
            if self._overridden is not None and one.lago_id not in self._overridden and common is not None:
                self.plan_of[one.lago_id] = common
            else:
                to_ask.append(one)
        self._learn_own_plans(to_ask, recall=many)

    def in_use(self) -> dict[str, Plan]:
        """The plans that were learned, each once, by its code, or by its code and the first subscription of its own."""
        own: dict[Plan, list[str]] = {}
        found = {}
        for lago_id, plan in self.plan_of.items():
            if plan is None:
                continue
            if plan == self._plans.get(plan.code):
                found[plan.code] = plan
            else:
                own.setdefault(plan, []).append(self._external_id[lago_id])
        for plan, names in own.items():
            more = f" and {len(names) - 1} other subscriptions" if len(names) > 1 else ""
            found[f"{plan.code} of {min(names)}{more}"] = plan
        return dict(sorted(found.items()))

    def plans(self, codes: Sequence[str]) -> dict[str, Plan]:
        """The plans of these codes, without those that Lago does not show."""
        self._learn_plans(codes)
        return {code: plan for code in codes if (plan := self._plans[code]) is not None}

    def _learn_plans(self, codes: Sequence[str]) -> None:
        """The plans of these codes, as they are for subscriptions that override nothing."""
        fresh = [code for code in codes if code not in self._plans]
        remembered = self._memory.load([f"plan {code}" for code in fresh]) if fresh else {}
        stored = []
        # What was never asked for comes first: for the others there is an older answer.
        for code in sorted(fresh, key=lambda code: f"plan {code}" in remembered):
            entry = remembered.get(f"plan {code}")
            young = entry is not None and self._now_ms - entry.asked_ms < _PLAN_KEPT_MS
            if young or self._asked_plans >= _PLANS_AT_MOST:
                self._plans[code] = None if entry is None else Plan.remembered(entry.value)
                continue
            self._lago.http.check_stop()
            self._asked_plans += 1
            plan = self._plans[code] = self._lago.plan(code, self._code)
            if plan is not None:
                stored.append(Remembered(f"plan {code}", plan.fingerprint, self._now_ms, plan.as_json()))
        if stored:
            self._memory.store(stored)

    def _learn_own_plans(self, subscriptions: Sequence[Subscription], *, recall: bool) -> None:
        """The plans that only the subscriptions themselves show; with `recall` those that are remembered hold."""
        remembered = self._memory.load([_own_key(one) for one in subscriptions]) if subscriptions else {}
        known = {
            one.lago_id: entry
            for one in subscriptions
            if (entry := remembered.get(_own_key(one))) is not None and entry.stamp == self._stamp(one)
        }
        ordered = sorted(subscriptions, key=lambda one: one.lago_id in known)
        shown = self._show([one for one in ordered if not (recall and self._is_young(known.get(one.lago_id), one))])
        stored = []
        for one in ordered:
            entry, plan = known.get(one.lago_id), shown.get(one.lago_id)
            if plan is not None:
                stored.append(Remembered(_own_key(one), self._stamp(one), self._now_ms, plan.as_json()))
            elif entry is not None:
                plan = Plan.remembered(entry.value)
            else:
                plan = self._plans.get(one.plan_code)
                if plan is not None:
                    self.guessed.add(one.lago_id)
            self.plan_of[one.lago_id] = plan
        if stored:
            self._memory.store(stored)

    def _is_young(self, entry: Remembered | None, subscription: Subscription) -> bool:
        return entry is not None and self._now_ms - entry.asked_ms < _kept_ms(subscription)

    def _show(self, subscriptions: Sequence[Subscription]) -> dict[str, Plan | None]:
        """The plans that Lago shows of these subscriptions, by lago_id; of the first ones where they are too many."""
        left = _OWN_PLANS_AT_MOST - self._asked_own_plans
        to_ask = [one for one in subscriptions if fits(one.external_id)][:left] if self._shows else []
        shown: dict[str, Plan | None] = {}
        # The first one alone: a server that shows no single subscription is not asked for the others.
        for asked in (to_ask[:1], to_ask[1:]):
            if self._shows and asked:
                shown |= self._show_side_by_side(asked)
        return shown

    def _show_side_by_side(self, subscriptions: Sequence[Subscription]) -> dict[str, Plan | None]:
        def show(one: Subscription) -> Plan | None:
            self._lago.http.check_stop()
            try:
                return self._lago.plan_of(one, self._code)
            except Unserved:
                self._shows = False
                return None

        self._asked_own_plans += len(subscriptions)
        with ThreadPoolExecutor(self._lago.http.concurrency, thread_name_prefix="lago-plan") as pool:
            asked = [pool.submit(show, one) for one in subscriptions]
            try:
                return {one.lago_id: each.result() for one, each in zip(subscriptions, asked, strict=True)}
            finally:
                for each in asked:
                    each.cancel()

    def _ask_overridden(self, wanted: int) -> None:
        """Which subscriptions have a plan of their own, once in a run.

        `overriden` (Lago's spelling) is a filter of the list. That it was applied shows in the counts alone: those with
        it and those without it are all. The list is read where that costs less than asking for `wanted` plans.
        """
        if self._asked_overridden:
            return
        self._asked_overridden = True
        filters: tuple[dict[str, str], ...] = ({}, {"overriden": "false"}, {"overriden": "true"})
        with suppress(Unserved):
            counts = [self._lago.subscription_page(_IN_FORCE, 1, 1, **one).total for one in filters]
            total, common, own = (-1 if count is None else count for count in counts)
            if total == common + own and own * LISTED_MS <= wanted * ASKED_MS:
                self._overridden = self._list_overridden(own)

    def _list_overridden(self, count: int) -> frozenset[str] | None:
        found: set[str] = set()
        page: int | None = 1 if count else None
        while page is not None:
            self._lago.http.check_stop()
            answer = self._lago.subscription_page(_IN_FORCE, page, PAGE, overriden="true")
            found |= {one.lago_id for one in answer.subscriptions}
            page = answer.next_page if answer.subscriptions else None
        return frozenset(found) if len(found) == count else None

    def _stamp(self, subscription: Subscription) -> str:
        common = self._plans.get(subscription.plan_code)
        fingerprint = "" if common is None else common.fingerprint
        # Once Lago says that it has a plan of its own, what was remembered of it before may be the common plan.
        own = "" if self._overridden is None else " own"
        return f"{subscription.plan_code} {subscription.started_ms} {fingerprint}{own}"


def _own_key(subscription: Subscription) -> str:
    return f"subscription {subscription.lago_id}"


def _kept_ms(subscription: Subscription) -> int:
    days = _OWN_PLAN_KEPT_DAYS + zlib.crc32(subscription.lago_id.encode()) % 5
    return days * 24 * _HOUR_MS

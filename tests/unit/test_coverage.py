"""Which subscription bills a time, whether its plan prices it, and whether its period is still open."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconcile.domain.frames import named
from reconcile.lago.coverage import Coverage, Period
from reconcile.lago.items import Charge, Plan, Subscription

DAY = datetime(2025, 11, 20, tzinfo=UTC)
HOUR, SECOND, MOMENT = timedelta(hours=1), timedelta(seconds=1), timedelta(milliseconds=1)

PRICED = Plan("pro", (Charge("standard", False, (), (), False),))
ADVANCE = Plan("pro", (Charge("standard", True, (), (), False),))
UNPRICED = Plan("pro", ())
PRODUCTS = Plan("pro", (), billed=False)


def ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def one(
    external_id: str, customer: str = "customer-1", status: str = "active", **times: datetime | None
) -> Subscription:
    found: dict[str, datetime | None] = {"start": DAY, "end": None, "period": None, **times}
    start, end, period = (None if (at := found[name]) is None else ms(at) for name in ("start", "end", "period"))
    return Subscription(f"{external_id} {start} {end}", external_id, customer, status, "pro", start, end, period)


def ended(external_id: str, end: datetime, customer: str = "customer-1", start: datetime = DAY) -> Subscription:
    return one(external_id, customer, "terminated", start=start, end=end)


def coverage(*subscriptions: Subscription, by_customer: bool = False, plan: Plan | None = PRICED) -> Coverage:
    plans = {} if plan is None else {one.lago_id: plan for one in subscriptions}
    return Coverage(subscriptions, plans, by_customer=by_customer)


def resolved(found: Coverage, charge_id: str, *moments: datetime) -> list[tuple[str, str]]:
    answer = found.resolve([charge_id] * len(moments), np.array([ms(moment) for moment in moments]))
    return list(zip(answer.subscription.tolist(), answer.reason.tolist(), strict=True))


def held(found: Coverage, name: str, *moments: datetime, drafts: tuple[Period, ...] = ()) -> list[str]:
    return found.hold([name] * len(moments), np.array([ms(moment) for moment in moments]), drafts).reason.tolist()


def judged(found: Coverage, name: str, *moments: datetime) -> list[str]:
    return found.judge([name] * len(moments), np.array([ms(moment) for moment in moments])).tolist()


def test_a_subscription_covers_from_its_start_to_its_end_both_included() -> None:
    end = DAY + timedelta(days=1)
    found = coverage(ended("team-a", end))
    times = (DAY - MOMENT, DAY, end, end + MOMENT)
    reasons = ["no_subscription", "", "", "no_subscription"]
    assert resolved(found, "team-a", *times) == [("team-a", reason) for reason in reasons]
    assert judged(found, "team-a", *times) == reasons


def test_no_such_charge_id() -> None:
    assert resolved(coverage(one("team-a")), "team-b", DAY) == [("team-b", "no_subscription")]
    assert resolved(coverage(one("team-a")), "", DAY) == [("", "no_subscription")]
    assert resolved(coverage(one("")), "", DAY) == [("", "no_subscription")]
    assert resolved(coverage(one("team-a")), "team-a ", DAY) == [("team-a ", "no_subscription")]
    assert resolved(coverage(), "team-a", DAY) == [("team-a", "no_subscription")]
    assert judged(coverage(one("")), "", DAY) == ["no_subscription"]
    nothing = coverage().hold(named([]), np.array([], np.int64))
    assert (len(nothing.subscription), len(nothing.reason), len(nothing.covering)) == (0, 0, 0)


@pytest.mark.parametrize("status", ["pending", "canceled", "incomplete", "activating"])
def test_subscriptions_that_are_not_in_force_cover_nothing(status: str) -> None:
    assert resolved(coverage(one("team-a", status=status)), "team-a", DAY) == [("team-a", "no_subscription")]
    assert resolved(coverage(one("team-a", start=None)), "team-a", DAY) == [("team-a", "no_subscription")]


def test_an_id_that_was_taken_up_again_is_covered_on_both_sides_of_the_gap() -> None:
    first_end, second_start = DAY + HOUR, DAY + 2 * HOUR
    found = coverage(ended("team-a", first_end), one("team-a", start=second_start))
    in_the_gap = DAY + timedelta(minutes=90)
    assert judged(found, "team-a", DAY, in_the_gap, second_start) == ["", "no_subscription", ""]
    assert held(found, "team-a", DAY, in_the_gap, second_start) == ["period_closed", "no_subscription", ""]


def test_a_plan_that_changes_within_a_second_leaves_no_gap() -> None:
    # Lago ends the old one and begins the new one at 01:00:00.734, and shows the end as 01:00:00.
    change = DAY + HOUR + timedelta(milliseconds=734)
    old, new = ended("team-a", DAY + HOUR), one("team-a", start=change)
    found = Coverage([old, new], {old.lago_id: UNPRICED, new.lago_id: PRICED}, by_customer=False)
    assert judged(found, "team-a", change - MOMENT, change) == ["not_priced", ""]
    # Of another external ID nothing is known.
    apart = coverage(ended("team-a", DAY + HOUR), one("team-b", start=change))
    assert judged(apart, "team-a", change - MOMENT) == ["no_subscription"]


def test_where_two_of_one_id_meet_the_one_that_goes_on_bills() -> None:
    change = DAY + HOUR
    old, new = ended("team-a", change), one("team-a", start=change)
    for order in ([old, new], [new, old]):
        found = Coverage(order, {old.lago_id: UNPRICED, new.lago_id: PRICED}, by_customer=False)
        assert judged(found, "team-a", change - MOMENT, change) == ["not_priced", ""]


def test_one_that_goes_on_comes_before_one_that_began_later_and_ended() -> None:
    lasting, short = one("team-a"), ended("team-a", DAY + 2 * HOUR, start=DAY + HOUR)
    found = Coverage([short, lasting], {short.lago_id: UNPRICED, lasting.lago_id: PRICED}, by_customer=False)
    assert judged(found, "team-a", DAY + HOUR) == [""]


def test_a_subscription_without_a_customer_is_nobodys() -> None:
    found = coverage(one("team-a", customer=""), by_customer=True)
    assert resolved(found, "", DAY) == [("", "no_subscription")]
    assert judged(found, "team-a", DAY) == [""]


def test_a_customers_subscription_at_the_time() -> None:
    change = DAY + timedelta(days=1)
    found = coverage(
        ended("sub-old", change - MOMENT),
        one("sub-new", start=change),
        one("sub-else", customer="customer-2"),
        by_customer=True,
    )
    assert resolved(found, "customer-1", DAY, change, DAY - timedelta(days=1)) == [
        ("sub-old", ""),
        ("sub-new", ""),
        ("", "no_subscription"),
    ]
    assert judged(found, "sub-new", change, DAY) == ["", "no_subscription"]
    assert found.charge_ids_of(["sub-old", "sub-else", "unknown", "sub-old"]).tolist() == [
        "customer-1",
        "customer-2",
        "unknown",
        "customer-1",
    ]
    assert found.subscriptions_of("customer-1") == [("customer-1", "sub-new"), ("customer-1", "sub-old")]
    assert found.subscriptions_of("unknown") == found.subscriptions_of("") == []


def test_a_customer_with_two_subscriptions_cannot_be_told() -> None:
    found = coverage(one("sub-1"), one("sub-2"), by_customer=True)
    answer = found.resolve(["customer-1"], np.array([ms(DAY)]))
    assert answer.subscription.tolist() == [""]
    assert (answer.reason.tolist(), answer.covering.tolist()) == (["several_subscriptions"], [-1])
    assert held(found, "customer-1", DAY) == ["several_subscriptions"]


def test_without_customers_events_name_their_own_charge_id() -> None:
    assert coverage(one("sub-1")).charge_ids_of(["sub-1", "unknown"]).tolist() == ["sub-1", "unknown"]


@pytest.mark.parametrize(
    ("plan", "reason"),
    [(PRICED, ""), (ADVANCE, ""), (UNPRICED, "not_priced"), (PRODUCTS, "not_priced"), (None, "")],
    ids=["priced", "in advance", "unpriced", "product catalog", "unknown"],
)
def test_what_the_plan_prices(plan: Plan | None, reason: str) -> None:
    found = coverage(one("team-a"), plan=plan)
    assert judged(found, "team-a", DAY, DAY - MOMENT) == [reason, "no_subscription"]
    assert held(found, "team-a", DAY, DAY - MOMENT) == [reason, "no_subscription"]
    later = coverage(one("team-a"), plan=PRICED).with_plans({one("team-a").lago_id: plan} if plan else {})
    assert judged(later, "team-a", DAY) == [reason]


def test_before_the_open_period() -> None:
    period = DAY + timedelta(days=5)
    open_since = one("team-a", period=period)
    times = (period - MOMENT, period, DAY - MOMENT)
    # What no subscription covers has no period that could be closed.
    assert held(coverage(open_since), "team-a", *times) == ["period_closed", "", "no_subscription"]
    # Lago bills a pay-in-advance charge on receipt; a plan that is unknown is no such plan.
    assert held(coverage(open_since, plan=ADVANCE), "team-a", *times) == ["", "", "no_subscription"]
    assert held(coverage(open_since, plan=None), "team-a", *times) == ["period_closed", "", "no_subscription"]
    assert held(coverage(open_since, plan=UNPRICED), "team-a", *times) == [
        "not_priced",
        "not_priced",
        "no_subscription",
    ]
    # Lago names no period: of a product-catalog plan, or because it is an older one.
    assert held(coverage(one("team-a")), "team-a", DAY) == [""]


def test_an_ended_subscription_has_no_open_period() -> None:
    gone = ended("team-a", DAY + HOUR)
    assert held(coverage(gone), "team-a", DAY, DAY + HOUR) == ["period_closed"] * 2
    assert held(coverage(gone, plan=ADVANCE), "team-a", DAY) == [""]
    assert judged(coverage(gone), "team-a", DAY) == [""]


def test_draft_invoices_take_their_period_to_its_last_millisecond() -> None:
    end = DAY + HOUR - SECOND  # Lago shows 00:59:59 for 00:59:59.999
    found = coverage(*(one(name, start=DAY - HOUR, period=DAY + 2 * HOUR) for name in ("team-a", "team-b")))
    drafts = (Period("team-a", ms(DAY), ms(end), "i1"), Period("unknown", 0, ms(DAY + HOUR), "i2"))
    times = (DAY - MOMENT, DAY, end + 999 * MOMENT, end + 1000 * MOMENT)
    assert held(found, "team-a", *times, drafts=drafts) == ["period_closed", "", "", "period_closed"]
    assert held(found, "team-b", DAY, drafts=drafts) == ["period_closed"]
    assert held(coverage(ended("team-a", DAY + HOUR)), "team-a", DAY, drafts=drafts) == [""]


# Against the plainest reading of the rules, one row at a time.

NAMES = ("", "a", "b", "c")
AT = st.integers(0, 8)
SUBSCRIPTIONS = st.lists(
    st.builds(
        lambda number, name, customer, status, start, end, period: Subscription(
            f"lago-{number}",
            name,
            customer,
            "terminated" if end is not None and status == "active" else status,
            "pro",
            start,
            None if end is None or start is None else start + end * 1000,
            period,
        ),
        st.integers(0, 10**6),
        st.sampled_from(NAMES),
        st.sampled_from(("", "x", "y")),
        st.sampled_from(("active", "active", "active", "terminated", "pending", "canceled")),
        st.one_of(st.none(), AT.map(lambda at: at * 500)),
        st.one_of(st.none(), st.integers(0, 3)),
        st.one_of(st.none(), AT.map(lambda at: at * 500)),
    ),
    max_size=7,
    unique_by=lambda found: found.lago_id,
)
PLANS = st.lists(st.sampled_from((None, PRICED, ADVANCE, UNPRICED, PRODUCTS)), min_size=7, max_size=7)
DRAFTS = st.lists(
    st.builds(
        lambda name, at, long: Period(name, at * 500, at * 500 + long * 1000, "i"), st.sampled_from(NAMES), AT, AT
    ),
    max_size=3,
)
ROWS = st.lists(st.tuples(st.sampled_from((*NAMES, "x", "y", "z")), st.integers(-1, 5_000)), max_size=12)


def covering(known: list[Subscription], key: str, name: str, at: int) -> list[Subscription]:
    """Those that cover the time, the one that Lago would take first."""

    def end(found: Subscription) -> float:
        if found.ended_ms is None:
            return float("inf")
        siblings = [other.started_ms for other in known if other.external_id == found.external_id and other.in_force]
        return max([found.ended_ms, *(at for at in siblings if at is not None and 0 < at - found.ended_ms < 1000)])

    covers = [
        found
        for found in known
        if name and found.external_id and getattr(found, key) == name
        if found.in_force and found.started_ms is not None and found.started_ms <= at <= end(found)
    ]
    return sorted(
        covers,
        key=lambda found: (
            -(float("inf") if found.ended_ms is None else found.ended_ms),
            -(found.started_ms or 0),
            found.lago_id,
        ),
    )


def expected_hold(
    known: list[Subscription], plans: dict[str, Plan], drafts: list[Period], by_customer: bool, name: str, at: int
) -> tuple[str, str]:
    found = covering(known, "external_customer_id" if by_customer else "external_id", name, at)
    nameless = "" if by_customer else name
    if not found:
        return nameless, "no_subscription"
    if by_customer and len({one.external_id for one in found}) > 1:
        return "", "several_subscriptions"
    first = found[0]
    plan = plans.get(first.lago_id)
    if plan is not None and not (plan.billed and plan.charges):
        return first.external_id, "not_priced"
    if plan is not None and any(charge.pay_in_advance for charge in plan.charges):
        return first.external_id, ""
    over = first.status == "terminated" or first.ended_ms is not None or at < (first.period_ms or 0)
    taken = any(
        draft.external_subscription_id == first.external_id and draft.from_ms <= at <= draft.to_ms // 1000 * 1000 + 999
        for draft in drafts
    )
    return first.external_id, "period_closed" if over and not taken else ""


@given(SUBSCRIPTIONS, PLANS, DRAFTS, ROWS, st.booleans())
def test_every_judgement_against_the_plainest_reading(
    known: list[Subscription],
    used: list[Plan | None],
    drafts: list[Period],
    rows: list[tuple[str, int]],
    by_customer: bool,
) -> None:
    plans = {one.lago_id: plan for one, plan in zip(known, used, strict=False) if plan is not None}
    found = Coverage(known, plans, by_customer=by_customer)
    names, times = [name for name, _ in rows], np.array([at for _, at in rows], np.int64)
    answer = found.hold(named(names), times, drafts)
    told = list(zip(answer.subscription.tolist(), answer.reason.tolist(), strict=True))
    assert told == [expected_hold(known, plans, drafts, by_customer, name, at) for name, at in rows]
    reasons = []
    for name, at in rows:
        covers = covering(known, "external_id", name, at)
        plan = plans.get(covers[0].lago_id) if covers else None
        unpriced = plan is not None and not plan.priced
        reasons.append("not_priced" if unpriced else "" if covers else "no_subscription")
    assert found.judge(named(names), times).tolist() == reasons


def test_a_million_rows_are_judged_by_their_categories() -> None:
    known = [one(f"team-{number}", f"customer-{number // 2}") for number in range(2_000)]
    codes = np.arange(1_000_000) % 2_500
    ids = pd.Categorical.from_codes(codes, pd.Index([f"team-{number}" for number in range(2_500)], dtype="str"))
    times = np.full(1_000_000, ms(DAY) + 1)
    answer = coverage(*known).hold(ids, times)
    assert answer.subscription is ids
    assert int((answer.covering < 0).sum()) == 200_000

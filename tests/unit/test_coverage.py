"""Which subscription bills a usage time, and whether its period is still open."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from reconcile.lago.coverage import Coverage, in_invoices

DAY = datetime(2025, 11, 20, tzinfo=UTC)


def ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def subscriptions(*found: dict[str, Any]) -> pd.DataFrame:
    columns = ("external_id", "external_customer_id", "status", "started_at", "terminated_at")
    period = "current_billing_period_started_at"
    default = {"status": "active", "started_at": DAY, "terminated_at": None, period: None}
    frame = pd.DataFrame([{**default, **one} for one in found], columns=[*columns, period])
    for name in ("started_at", "terminated_at", period):
        frame[name] = pd.to_datetime(frame[name], utc=True).astype("datetime64[ms, UTC]")
    for name in ("external_id", "external_customer_id", "status"):
        frame[name] = frame[name].astype("str")
    return frame


def one(external_id: str, customer: str = "customer-1", **changes: Any) -> dict[str, Any]:
    return {"external_id": external_id, "external_customer_id": customer, **changes}


def resolved(coverage: Coverage, charge_id: str, *moments: datetime) -> list[tuple[str, str]]:
    names, reasons, _ = coverage.resolve([charge_id] * len(moments), np.array([ms(moment) for moment in moments]))
    return list(zip(names.tolist(), reasons.tolist(), strict=True))


def test_a_subscription_covers_from_its_start_to_its_end_both_included() -> None:
    end = DAY + timedelta(days=1)
    found = subscriptions(one("team-a", status="terminated", terminated_at=end))
    moment = timedelta(milliseconds=1)
    assert resolved(Coverage(found, by_customer=False), "team-a", DAY - moment, DAY, end, end + moment) == [
        ("team-a", "no_subscription"),
        ("team-a", ""),
        ("team-a", ""),
        ("team-a", "no_subscription"),
    ]


def test_no_such_charge_id() -> None:
    coverage = Coverage(subscriptions(one("team-a")), by_customer=False)
    assert resolved(coverage, "team-b", DAY) == [("team-b", "no_subscription")]
    assert resolved(coverage, "", DAY) == [("", "no_subscription")]
    assert resolved(Coverage(subscriptions(), by_customer=False), "team-a", DAY) == [("team-a", "no_subscription")]


def test_subscriptions_that_are_not_in_force_cover_nothing() -> None:
    for status in ("pending", "canceled", "incomplete", "activating"):
        coverage = Coverage(subscriptions(one("team-a", status=status)), by_customer=False)
        assert resolved(coverage, "team-a", DAY) == [("team-a", "no_subscription")]


def test_an_id_that_was_taken_up_again_is_covered_on_both_sides_of_the_gap() -> None:
    first_end, second_start = DAY + timedelta(hours=1), DAY + timedelta(hours=2)
    found = subscriptions(
        one("team-a", status="terminated", terminated_at=first_end), one("team-a", started_at=second_start)
    )
    coverage = Coverage(found, by_customer=False)
    in_the_gap = DAY + timedelta(minutes=90)
    assert [reason for _, reason in resolved(coverage, "team-a", DAY, in_the_gap, second_start)] == [
        "",
        "no_subscription",
        "",
    ]
    _, _, covering = coverage.resolve(["team-a"] * 3, np.array([ms(DAY), ms(in_the_gap), ms(second_start)]))
    assert coverage.ended(covering).tolist() == [True, False, False]


def test_a_customers_subscription_at_the_time() -> None:
    change = DAY + timedelta(days=1)
    found = subscriptions(
        one("sub-old", status="terminated", terminated_at=change - timedelta(milliseconds=1)),
        one("sub-new", started_at=change),
        one("sub-else", customer="customer-2"),
    )
    coverage = Coverage(found, by_customer=True)
    assert resolved(coverage, "customer-1", DAY, change, DAY - timedelta(days=1)) == [
        ("sub-old", ""),
        ("sub-new", ""),
        ("", "no_subscription"),
    ]
    assert coverage.charge_ids_of(["sub-old", "sub-else", "unknown"]) == ["customer-1", "customer-2", "unknown"]
    assert coverage.subscriptions_of("customer-1") == [("customer-1", "sub-new"), ("customer-1", "sub-old")]


def test_a_customer_with_two_subscriptions_cannot_be_told() -> None:
    coverage = Coverage(subscriptions(one("sub-1"), one("sub-2")), by_customer=True)
    names, reasons, covering = coverage.resolve(["customer-1"], np.array([ms(DAY)]))
    assert (names.tolist(), reasons.tolist(), covering.tolist()) == ([""], ["several_subscriptions"], [-1])


def test_without_customers_events_name_their_own_charge_id() -> None:
    coverage = Coverage(subscriptions(one("sub-1")), by_customer=False)
    assert coverage.charge_ids_of(["sub-1", "unknown"]) == ["sub-1", "unknown"]


def test_before_the_open_period() -> None:
    period = DAY + timedelta(days=5)
    coverage = Coverage(subscriptions(one("team-a", current_billing_period_started_at=period)), by_customer=False)
    times = np.array([ms(period) - 1, ms(period), ms(DAY) - 1])
    _, _, covering = coverage.resolve(["team-a"] * 3, times)
    # What no subscription covers has no period that could be closed.
    assert coverage.before_period(covering, times).tolist() == [True, False, False]
    none = Coverage(subscriptions(), by_customer=False)
    assert none.before_period(np.array([-1]), np.array([0])).tolist() == [False]
    assert none.ended(np.array([-1])).tolist() == [False]


def test_draft_invoices_take_their_period_to_its_last_millisecond() -> None:
    end = DAY + timedelta(hours=1) - timedelta(seconds=1)  # Lago shows 00:59:59 for 00:59:59.999
    invoices = pd.DataFrame({"external_subscription_id": ["team-a"], "from": [DAY], "to": [end]})
    for name in ("from", "to"):
        invoices[name] = invoices[name].astype("datetime64[ms, UTC]")
    times = np.array([ms(DAY) - 1, ms(DAY), ms(end) + 999, ms(end) + 1000, ms(DAY)])
    names = np.array(["team-a"] * 4 + ["team-b"], object)
    assert in_invoices(invoices, names, times).tolist() == [False, True, True, False, False]

"""RECONCILE_ID_KIND=external_customer_id: the charge ID is a customer, and its subscription at the usage time pays."""

from __future__ import annotations

import pytest

from .world import BEGIN, DAY, HOUR, MS, NIGHT, NOON, World, events_in, live_event, own_id, row, rows_in

CUSTOMER = "team-a"


@pytest.fixture
def customers(world: World) -> World:
    world.settings["RECONCILE_ID_KIND"] = "external_customer_id"
    return world


def test_the_event_goes_to_the_customers_subscription(customers: World) -> None:
    customers.subscribe("sub-1", external_customer_id=CUSTOMER)
    one = row("a", NOON)
    customers.write(one)
    ran = customers.day()
    assert (ran.exit_code, rows_in(ran.document), ran.document.verified) == (0, {"delivered": 1}, True)
    assert customers.billed() == {("a", "sub-1"): 1}
    (sent,) = customers.lago.organization.stored_events()
    # The charge ID is in the transaction ID, not the subscription.
    assert sent["transaction_id"] == own_id(one)
    again = customers.day(command="report")
    assert (again.exit_code, rows_in(again.document), events_in(again.document)) == (0, {"matched": 1}, {"matched": 1})
    assert [(group.charge_id, group.events["total"].count) for group in again.document.by_charge_id] == [(CUSTOMER, 1)]


def test_the_subscription_of_the_usage_time(customers: World) -> None:
    """Yesterday's row goes to yesterday's subscription, today's to today's."""
    customers.subscribe("old", external_customer_id=CUSTOMER, terminated_at=NOON)
    customers.subscribe("new", external_customer_id=CUSTOMER, started_at=NOON + MS)
    customers.lago.organization.add_invoice("old", (DAY, NOON))
    customers.write(row("before", NOON), row("after", NOON + MS))
    assert customers.day().exit_code == 0
    assert customers.billed() == {("before", "old"): 1, ("after", "new"): 1}
    assert rows_in(customers.day(command="report").document) == {"matched": 2}


def test_no_subscription(customers: World) -> None:
    customers.lago.organization.add_customer(CUSTOMER)
    customers.subscribe("sub-1", external_customer_id="another")
    customers.write(row("a", NOON))
    ran = customers.day()
    assert (ran.exit_code, ran.document.reasons["held"]) == (1, {"no_subscription": 1})
    assert customers.billed() == {}


def test_several_subscriptions(customers: World) -> None:
    """Nobody can say which is meant; once one of them has ended before, it is clear."""
    for name in ("sub-1", "sub-2"):
        customers.subscribe(name, external_customer_id=CUSTOMER)
    customers.write(row("a", NOON))
    ran = customers.day()
    assert (ran.exit_code, ran.document.reasons["held"]) == (1, {"several_subscriptions": 1})
    assert (customers.billed(), customers.held()) == ({}, {"a": "several_subscriptions"})
    customers.lago.organization.terminate_subscription("sub-2", NOON - HOUR)
    customers.nightly(DAY + 90 * NIGHT)
    assert (customers.billed(), customers.held()) == ({("a", "sub-1"): 1}, {})


@pytest.mark.parametrize("count", [0, 2])
def test_push_does_not_guess(customers: World, count: int) -> None:
    """There is no subscription to send it to."""
    for number in range(count):
        customers.subscribe(f"sub-{number}", external_customer_id=CUSTOMER)
    customers.write(row("a", NOON))
    ran = customers.day(RECONCILE_UNCOVERED="push")
    assert (rows_in(ran.document), customers.billed()) == ({"held": 1}, {})


def test_two_subscriptions_of_one_external_id(customers: World) -> None:
    """An ended one and its successor are one to Lago."""
    customers.subscribe("sub-1", external_customer_id=CUSTOMER, terminated_at=NOON)
    customers.subscribe("sub-1", external_customer_id=CUSTOMER, started_at=NOON)
    customers.write(row("a", NOON))
    assert rows_in(customers.day().document) == {"delivered": 1}
    assert customers.billed() == {("a", "sub-1"): 1}


def test_live_events_of_the_subscription(customers: World) -> None:
    """LiteLLM's callback sends them to the charge ID; somebody may send them to the subscription."""
    customers.subscribe("sub-1", external_customer_id=CUSTOMER)
    one = row("a", NOON)
    customers.write(one)
    customers.live(NOON + 20 * MS, {**live_event(one, "live-1"), "external_subscription_id": "sub-1"})
    ran = customers.day()
    assert (ran.exit_code, rows_in(ran.document)) == (0, {"matched_live": 1})


def test_a_closed_period_of_the_subscription(customers: World) -> None:
    customers.subscribe("sub-1", external_customer_id=CUSTOMER, period=(DAY + NIGHT, DAY + 30 * NIGHT))
    customers.write(row("a", NOON))
    assert customers.day().document.reasons["held"] == {"period_closed": 1}
    customers.lago.organization.add_invoice("sub-1", (BEGIN, DAY + NIGHT - MS))
    assert rows_in(customers.day().document) == {"delivered": 1}

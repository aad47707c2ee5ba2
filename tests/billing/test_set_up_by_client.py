"""A world made over HTTP alone, with Lago's own Python client, and the job that bills on it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from lago_python_client.client import Client
from lago_python_client.models import BillableMetric, Charge, Charges, Customer, Plan, Subscription

from reconcile.run import deliver

from .world import CODE, DAY, TEAM, World, row, rows_in, rows_of


@pytest.fixture
def client(bare_world: World, monkeypatch: pytest.MonkeyPatch) -> Client:
    monkeypatch.setenv("NO_PROXY", "*")
    return Client(api_key=bare_world.lago.key, api_url=bare_world.lago.url)


def test_the_job_bills_on_what_the_client_made(
    client: Client, bare_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = bare_world
    metric = client.billable_metrics.create(
        BillableMetric(name="Cost", code=CODE, aggregation_type="sum_agg", field_name="response_cost")
    )
    charge = Charge(billable_metric_id=metric.lago_id, charge_model="standard", properties={"amount": "1.2"})
    plan = client.plans.create(
        Plan(
            name="LLM",
            code="llm",
            interval="monthly",
            amount_cents=0,
            amount_currency="USD",
            pay_in_advance=False,
            charges=Charges(__root__=[charge]),
        )
    )
    customer = client.customers.create(Customer(external_id="acme", name="Acme", currency="USD"))
    # The month of the rows is the one under way.
    monkeypatch.setattr(world.lago.stand_in, "now", lambda: DAY.replace(day=27))
    monkeypatch.setattr(deliver, "too_far_apart", lambda *_: False)  # Lago's clock is set here, this host's is not
    given: dict[str, Any] = {"external_customer_id": "acme", "plan_code": "llm", "external_id": TEAM}
    subscription = client.subscriptions.create(Subscription(**given, subscription_at=f"{DAY.replace(day=1):%FT%TZ}"))
    assert (plan.code, customer.external_id, subscription.status) == ("llm", "acme", "active")

    rows = rows_of(DAY, 20)
    world.write(*rows, row("before-it", DAY.replace(month=10), spend=9.0))
    ran = world.day()
    assert (ran.exit_code, rows_in(ran.document)) == (0, {"delivered": 20})
    usage = client.customers.current_usage("acme", TEAM)
    (billed,) = usage.charges_usage
    spent = sum((Decimal(str(made["spend"])) for made in rows), Decimal(0))
    assert (Decimal(billed.units), billed.events_count) == (spent, 20)
    assert billed.amount_cents == round(spent * Decimal("1.2") * 100)

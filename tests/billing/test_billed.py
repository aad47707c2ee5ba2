"""An event is judged by what Lago bills for it: who is covered, what the metric counts, what the plan prices."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from reconcile.run.check import checks
from reconcile.sandbox.lago import plans

from .world import (
    CODE,
    DAY,
    END,
    HOUR,
    MS,
    NIGHT,
    NOON,
    TEAM,
    World,
    events_in,
    live_event,
    live_pairs,
    row,
    rows_in,
    rows_of,
)

PER_UNIT = {"charge_model": "standard", "properties": {"amount": "1"}}
NO_COUNTS = {"prompt_tokens": None, "completion_tokens": None, "total_tokens": None}


def dear_rows(count: int = 100) -> list[dict[str, Any]]:
    """Rows of 10, 11, 12 … USD."""
    return [{**one, "spend": 10.0 + number} for number, one in enumerate(rows_of(DAY, count))]


def nobody(world: World) -> None:
    world.subscribe("team-b")


def one_that_began_later(world: World) -> None:
    world.subscribe(started_at=DAY + 2 * NIGHT)


def one_that_ended_before(world: World) -> None:
    world.subscribe(terminated_at=DAY - NIGHT)


@pytest.mark.parametrize("who", [nobody, one_that_began_later, one_that_ended_before])
def test_live_events_of_a_team_that_no_subscription_covers(any_world: World, who: Callable[[World], None]) -> None:
    world = any_world
    who(world)
    live_pairs(world, dear_rows())
    ran = world.day()
    assert (ran.exit_code, rows_in(ran.document), events_in(ran.document)) == (1, {"unbilled": 100}, {"unbilled": 100})
    assert ran.document.rows["unbilled"].spend == Decimal(5950)
    assert ran.document.reasons["unbilled"] == {"no_subscription": 100}
    assert ran.document.reason_spend["unbilled"] == {"no_subscription": Decimal(5950)}
    assert world.requests()["send"] == 0
    listed = ran.document.as_json()["discrepancies"]
    assert len(listed) == 100  # a pair is one entry
    assert (listed[0]["class"], listed[0]["row_spend"], listed[0]["event_spend"]) == ("unbilled", "109", "109")


def test_events_of_our_own_that_nobody_covers_any_more(any_world: World) -> None:
    """They were sent as the operator decided; what Lago bills is what counts."""
    world = any_world
    world.write(*rows_of(DAY, 3))
    assert rows_in(world.day(RECONCILE_UNCOVERED="push").document) == {"delivered": 3}
    ran = world.day()
    assert (ran.exit_code, rows_in(ran.document), events_in(ran.document)) == (1, {"unbilled": 3}, {"unbilled": 3})
    assert ran.document.reasons["unbilled"] == {"no_subscription": 3}


def test_the_event_s_own_time_decides(any_world: World) -> None:
    """The subscription began, or ended, between a row and its event."""
    world = any_world
    world.subscribe(started_at=NOON + 50 * MS, terminated_at=NOON + HOUR)
    rows = [row("begins", NOON, spend=1.0), row("ends", NOON + HOUR - 50 * MS, spend=2.0)]
    live_pairs(world, rows, after=1200 * MS)
    ran = world.day()
    assert rows_in(ran.document) == {"matched_live": 1, "unbilled": 1}
    assert ran.document.reason_spend["unbilled"] == {"no_subscription": Decimal(2)}


def metric_of(world: World, **metric: Any) -> None:
    world.lago.organization.add_billable_metric(CODE, **metric)
    world.subscribe()


def without_counts(world: World, rows: list[dict[str, Any]]) -> None:
    """Live events as LiteLLM posts them for its `/v1/responses`, `/v1/completions` and image calls."""
    world.write(*rows)
    for one in rows:
        event = live_event(one, f"live-{one['request_id']}")
        for name in NO_COUNTS:
            del event["properties"][name]
        world.live(one["endTime"] + 5 * MS, event)


def units(world: World) -> Decimal:
    """What Lago bills the team, by its own usage."""
    usage = world.get(f"customers/{TEAM}/current_usage", external_subscription_id=TEAM)["customer_usage"]
    return sum((Decimal(one["units"]) for one in usage["charges_usage"]), Decimal(0))


def test_a_sum_of_input_tokens_that_litellm_never_sends(any_bare_world: World) -> None:
    world = any_bare_world
    metric_of(world, field_name="input_tokens")
    live_pairs(world, rows_of(DAY, 30))
    ran = world.day()
    assert (ran.exit_code, rows_in(ran.document), events_in(ran.document)) == (1, {"unbilled": 30}, {"unbilled": 30})
    assert ran.document.reasons["unbilled"] == {"not_counted": 30}
    assert units(world) == 0

    pushed = world.day(RECONCILE_NOT_COUNTED="push")
    assert (rows_in(pushed.document), pushed.document.verified) == ({"delivered": 30}, True)
    assert units(world) == 30 * 20
    again = world.day(RECONCILE_NOT_COUNTED="push")
    # The live events lie beside the rows' own, and are no discrepancy.
    assert (again.exit_code, rows_in(again.document)) == (0, {"matched": 30})
    assert events_in(again.document) == {"matched": 30, "unbilled": 30}
    assert units(world) == 30 * 20


def test_a_sum_of_total_tokens_that_some_events_lack(any_bare_world: World) -> None:
    world = any_bare_world
    metric_of(world, field_name="total_tokens")
    chat = rows_of(DAY, 10, "chat")
    bare = [{**one, "call_type": "aresponses", "model": "openai/gpt-4o"} for one in rows_of(DAY, 20, "responses")]
    images = [
        {**one, "call_type": "aimage_generation", "prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        for one in rows_of(DAY + HOUR, 5, "image", model="openai/dall-e-3")
    ]
    live_pairs(world, chat)
    without_counts(world, [*bare, *images])
    ran = world.run(DAY, DAY + NIGHT + HOUR, "backfill")
    # Nothing is due for an image without tokens.
    assert (ran.exit_code, rows_in(ran.document)) == (1, {"matched_live": 15, "unbilled": 20})
    assert ran.document.reasons["unbilled"] == {"not_counted": 20}
    assert units(world) == 10 * 30
    world.run(DAY, DAY + NIGHT + HOUR, "backfill", RECONCILE_NOT_COUNTED="push")
    assert units(world) == 30 * 30


def test_a_unique_count_of_request_ids_that_litellm_never_sends(any_bare_world: World) -> None:
    world = any_bare_world
    metric_of(world, aggregation_type="unique_count_agg", field_name="request_id")
    live_pairs(world, rows_of(DAY, 30))
    for settings in ({}, {"RECONCILE_NOT_COUNTED": "push"}):
        ran = world.day(**settings)
        assert (ran.exit_code, rows_in(ran.document)) == (1, {"unbilled": 30})
        assert ran.document.reasons["unbilled"] == {"not_counted": 30}
    assert world.requests()["send"] == 0


RENAMED = "model,response_cost=usd,request_id"


def test_a_property_that_litellm_sends_under_another_name(any_bare_world: World) -> None:
    """Our own events carry the name that the metric adds up, live ones the usual one."""
    world = any_bare_world
    metric_of(world, field_name="usd")
    live_pairs(world, rows_of(DAY, 12))
    world.write(row("lost", NOON + MS, spend=3.0))
    ran = world.day(RECONCILE_PROPERTIES=RENAMED)
    assert (ran.exit_code, rows_in(ran.document)) == (1, {"unbilled": 12, "delivered": 1})
    assert ran.document.reasons["unbilled"] == {"not_counted": 12}
    assert units(world) == 3
    pushed = world.day(RECONCILE_PROPERTIES=RENAMED, RECONCILE_NOT_COUNTED="push")
    assert rows_in(pushed.document) == {"delivered": 12, "matched": 1}
    assert units(world) == Decimal("3.078")


def test_a_property_that_was_renamed_after_events_were_sent(bare_world: World) -> None:
    """The metric adds up the new name, on the Postgres store also of old events, which carry the old one."""
    world = bare_world
    metric_of(world)
    world.write(*rows_of(DAY, 12))
    assert world.day().exit_code == 0
    world.lago.stand_in.execute(
        "UPDATE lago.billable_metrics SET field_name = 'usd' WHERE organization_id = %s", (world.lago.organization.id,)
    )
    world.lago.stand_in.reload()
    ran = world.day(RECONCILE_PROPERTIES=RENAMED)
    assert (ran.exit_code, rows_in(ran.document)) == (1, {"unbilled": 12})
    assert ran.document.reasons["unbilled"] == {"not_counted": 12}
    assert units(world) == 0
    # An event under a row's own ID cannot be sent again: Lago would refuse it.
    pushed = world.day(RECONCILE_PROPERTIES=RENAMED, RECONCILE_NOT_COUNTED="push")
    assert (pushed.exit_code, rows_in(pushed.document)) == (1, {"unbilled": 12})


@pytest.mark.parametrize(
    ("text", "postgres", "clickhouse"),
    [("5e-01", "unbilled", "matched_live"), (" 0.5", "unbilled", "unbilled"), ("0.5", "matched_live", "matched_live")],
)
def test_each_store_counts_by_its_own_rules(any_world: World, text: str, postgres: str, clickhouse: str) -> None:
    world = any_world
    world.subscribe()
    live_pairs(world, [row("a", NOON, spend=0.5)], response_cost=text)
    ran = world.day()
    expected = clickhouse if world.lago.organization.clickhouse else postgres
    assert rows_in(ran.document) == {expected: 1}
    assert units(world) == (Decimal("0.5") if expected == "matched_live" else 0)


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ({"field_name": "input_tokens"}, "never carry input_tokens"),
        ({"field_name": "total_tokens"}, "/v1/responses, /v1/completions and of images carry no total_tokens"),
        ({"aggregation_type": "unique_count_agg", "field_name": "request_id"}, "never carry request_id"),
    ],
)
def test_check_says_what_live_events_will_lack(bare_world: World, metric: dict[str, Any], said: str) -> None:
    metric_of(bare_world, **metric)
    (found,) = [one for one in checks(bare_world.configured()) if one.name == "the billable metric"]
    assert found.ok
    assert said in found.text
    if "aggregation_type" not in metric:
        assert "RECONCILE_NOT_COUNTED=push" in found.text


# --- plans


def test_a_plan_without_a_charge_on_the_metric(any_bare_world: World) -> None:
    world = any_bare_world
    metric_of(world, unit_amount=None)
    live_pairs(world, rows_of(DAY, 10, "live"))
    world.write(*rows_of(DAY, 5, "lost", model="openai/gpt-4o"))
    assert units_or_none(world) is None
    (found,) = [one for one in checks(world.configured()) if one.name == "subscriptions"]
    assert found.text.count("plan llm has no charge") == 1
    assert f"plan llm has no charge on the metric {CODE}: Lago stores the events and bills nobody" in found.text
    ran = world.day()
    assert (ran.exit_code, rows_in(ran.document)) == (1, {"unbilled": 10, "held": 5})
    assert ran.document.reasons["unbilled"] == {"not_priced": 10}
    assert ran.document.reasons["held"] == {"not_priced": 5}
    assert world.requests()["send"] == 0
    # The charge is made: the held rows go out, the others agree.
    world.lago.stand_in.execute(
        "UPDATE lago.billable_metrics SET unit_amount = 1 WHERE organization_id = %s", (world.lago.organization.id,)
    )
    healed = world.day()
    assert (healed.exit_code, rows_in(healed.document)) == (0, {"matched_live": 10, "delivered": 5})


def own_plan(world: World, external_id: str, *charges: dict[str, Any]) -> None:
    """A plan of one subscription alone, under the code of the common one, with these charges and no others."""
    stand_in, organization = world.lago.stand_in, world.lago.organization.id
    parent = plans.parent(stand_in, organization, "llm")
    assert parent is not None
    given = {"code": "llm", "name": "llm", "interval": "monthly", "amount_currency": "USD"}
    records = [{**plans.charge_record(one), **change} for one, change in zip(parent.charges, charges, strict=False)]
    child = plans.insert(stand_in, organization, given, records, parent_id=parent.lago_id)
    assert child is not None
    stand_in.execute(
        "UPDATE lago.subscriptions SET plan_id = %s WHERE organization_id = %s AND external_id = %s",
        (child.lago_id, organization, external_id),
    )


def test_a_plan_that_one_subscription_overrides(any_world: World) -> None:
    """GET /plans shows the common plan, which prices the metric; the subscription's own does not."""
    world = any_world
    world.subscribe("team-a", "team-b")
    own_plan(world, "team-b")
    live_pairs(world, [row("a", NOON, spend=1.0), row("b", NOON, spend=2.0, team_id="team-b")])
    world.write(row("c", NOON + HOUR, spend=3.0), row("d", NOON + HOUR, spend=4.0, team_id="team-b"))
    ran = world.day()
    assert rows_in(ran.document) == {"matched_live": 1, "unbilled": 1, "delivered": 1, "held": 1}
    assert ran.document.reason_spend["unbilled"] == {"not_priced": Decimal(2)}
    assert ran.document.reason_spend["held"] == {"not_priced": Decimal(4)}


def test_one_subscription_s_own_plan_may_be_the_one_that_prices(any_bare_world: World) -> None:
    world = any_bare_world
    metric_of(world)
    world.subscribe("team-b")
    own_plan(world, "team-b", {})
    world.lago.stand_in.execute(
        "UPDATE lago.billable_metrics SET unit_amount = NULL WHERE organization_id = %s", (world.lago.organization.id,)
    )
    world.write(row("a", NOON), row("b", NOON, team_id="team-b"))
    ran = world.day()
    assert (rows_in(ran.document), world.held()) == ({"delivered": 1, "held": 1}, {"a": "not_priced"})


def test_only_subscriptions_with_money_are_asked_for_and_remembered(world: World) -> None:
    """2,000 subscriptions, of which 20 have money in the window."""
    organization = world.lago.organization
    world.subscribe("team-0")
    organization.stand_in.execute(
        """INSERT INTO lago.subscriptions (organization_id, customer_id, plan_id, external_id, status, subscription_at,
                started_at, period_from, period_to, created_at)
            SELECT organization_id, customer_id, plan_id, 'team-' || number, status, subscription_at, started_at,
                period_from, period_to, created_at
            FROM lago.subscriptions, generate_series(1, 1999) AS number WHERE organization_id = %s""",
        (organization.id,),
    )
    world.write(*(row(f"r-{n}", NOON + n * MS, team_id=f"team-{n * 90}") for n in range(20)))
    world.requests()
    assert rows_in(world.day().document) == {"delivered": 20}
    first = catalogue(world)
    assert rows_in(world.day().document) == {"matched": 20}
    again = catalogue(world)
    assert (first <= 50, again <= 25, again < first) == (True, True, True), (first, again)


def catalogue(world: World) -> int:
    """How many requests asked for subscriptions or plans."""
    return sum(n for path, n in world.requests().items() if path.startswith(("subscriptions", "plans", "customers")))


@pytest.mark.parametrize(
    ("field", "expected"), [("total_tokens", 900), ("completion_tokens", 300), ("response_cost", 0.465)]
)
def test_the_report_compares_the_metric_s_real_field(any_bare_world: World, field: str, expected: float) -> None:
    world = any_bare_world
    world.lago.organization.add_billable_metric(CODE, field_name=field)
    start, end = DAY.replace(day=1), (DAY.replace(day=1) + timedelta(days=32)).replace(day=1)
    world.subscribe(started_at=start, period=(end, END))
    invoice = world.lago.organization.add_invoice(TEAM, (start, end - MS))
    live_pairs(world, rows_of(DAY, 30))
    world.lago.organization.finalize_invoice(invoice)
    (line,) = world.run(start, end, "report").document.lago_usage
    assert (line.events_units, line.lago_units) == (Decimal(str(expected)), Decimal(str(expected)))
    assert (line.events_count, line.lago_events_count) == (30, 30)


def units_or_none(world: World) -> Decimal | None:
    """None where Lago prices the metric for nobody."""
    return (
        units(world)
        if world.get(f"customers/{TEAM}/current_usage", external_subscription_id=TEAM)["customer_usage"][
            "charges_usage"
        ]
        else None
    )

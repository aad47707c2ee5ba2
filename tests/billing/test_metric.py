"""What Lago would not count is said before anything is sent."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from reconcile.errors import PreflightError
from reconcile.run.check import checks

from .world import CODE, NOON, TEAM, World, events_in, findings, row, rows_in


def with_metric(world: World, **options: Any) -> World:
    world.lago.organization.add_billable_metric(CODE, **options)
    world.subscribe()
    world.write(row("a", NOON))
    return world


def warnings(world: World) -> list[str]:
    ran = world.day()
    assert (ran.exit_code, rows_in(ran.document)) == (0, {"delivered": 1})
    return [finding.text for finding in ran.document.findings if finding.kind == "lago_counts"]


GOOD: tuple[dict[str, Any], ...] = (
    {"aggregation_type": "sum_agg", "field_name": "response_cost"},
    {"aggregation_type": "sum_agg", "field_name": "total_tokens"},
    {"aggregation_type": "count_agg", "field_name": None},
    {"aggregation_type": "unique_count_agg", "field_name": "model"},
    {"aggregation_type": "max_agg", "field_name": "prompt_tokens"},
    {"filters": [{"key": "model", "values": ["gpt-4o"]}]},
)


@pytest.mark.parametrize("options", GOOD, ids=str)
def test_a_metric_that_counts_the_events(bare_world: World, options: dict[str, Any]) -> None:
    assert warnings(with_metric(bare_world, **options)) == []


WRONG: tuple[tuple[dict[str, Any], str], ...] = (
    ({"field_name": "tokens"}, "aggregates the property 'tokens', which the events do not carry"),
    ({"field_name": None}, "aggregates the property None, which the events do not carry"),
    ({"field_name": "model"}, "adds up the property 'model', which is no number"),
    ({"field_name": "request_id"}, "adds up the property 'request_id', which is no number"),
    ({"aggregation_type": "unique_count_agg", "field_name": "user"}, "the events do not carry"),
)


@pytest.mark.parametrize(("options", "message"), WRONG, ids=str)
def test_a_metric_that_would_count_nothing(bare_world: World, options: dict[str, Any], message: str) -> None:
    world = with_metric(bare_world, **options)
    for command in ("run", "backfill", "report"):
        with pytest.raises(PreflightError, match=message) as raised:
            world.day(command=command)
        assert raised.value.exit_code == 2
    assert world.requests()["send"] == 0
    failed = [check for check in checks(world.configured()) if not check.ok]
    assert [check.name for check in failed] == ["the billable metric"]
    assert message in failed[0].text


def test_properties_decide_what_the_metric_may_add_up(bare_world: World) -> None:
    world = with_metric(bare_world, field_name="cost")
    world.settings["RECONCILE_PROPERTIES"] = "model,response_cost=cost,request_id"
    assert warnings(world) == []
    (sent,) = world.lago.organization.stored_events()
    assert sent["properties"] == {"model": "gpt-4o-mini", "cost": "0.0125", "request_id": "a"}
    del world.settings["RECONCILE_PROPERTIES"]
    with pytest.raises(PreflightError, match="'cost'"):
        world.day()


def test_an_expression(bare_world: World) -> None:
    world = with_metric(
        bare_world, field_name="value", expression="event.properties.prompt_tokens + event.properties.completion_tokens"
    )
    (warning,) = warnings(world)
    assert "event.properties.prompt_tokens" in warning
    (sent,) = world.lago.organization.stored_events()
    assert Decimal(sent["properties"]["value"]) == 30
    again = world.day(command="report")
    assert (again.exit_code, rows_in(again.document)) == (0, {"matched": 1})


def test_an_expression_over_what_is_not_sent(bare_world: World) -> None:
    """Lago refuses the events; the reason is kept."""
    world = with_metric(bare_world, field_name="value", expression="event.properties.seconds * 2")
    ran = world.day()
    assert (ran.exit_code, rows_in(ran.document), world.billed()) == (1, {"rejected": 1}, {})
    (refused,) = ran.document.as_json()["discrepancies"]
    assert "Variable: seconds not found" in refused["detail"]
    assert refused["transaction_id"].startswith("llm_")


def test_a_filter_that_never_matches(bare_world: World) -> None:
    filters = [{"key": "region", "values": ["eu"]}, {"key": "model", "values": ["gpt-4o"]}]
    (warning,) = warnings(with_metric(bare_world, filters=filters))
    assert "the filter on 'region' never matches" in warning


def charge(model: str = "standard", **properties: Any) -> dict[str, Any]:
    return {"charge_model": model, "properties": {"amount": "1", **properties}}


def with_plan(world: World, priced: dict[str, Any]) -> World:
    """The team's plan has this charge on the metric."""
    world.lago.organization.add_billable_metric(CODE)
    world.plan("pro", priced)
    world.subscribe(plan_code="pro")
    world.write(row("a", NOON))
    return world


@pytest.mark.parametrize(
    ("priced", "said"),
    [
        (charge(), None),
        (charge(pricing_group_keys=["model"]), None),
        (
            charge(pricing_group_keys=["model", "region"]),
            "plan pro: usage is grouped by 'region', which the events do not carry",
        ),
        (
            charge("dynamic"),
            "plan pro: a dynamic charge bills precise_total_amount_cents; set RECONCILE_PRECISE_AMOUNT",
        ),
    ],
)
def test_charges_of_plans(bare_world: World, priced: dict[str, Any], said: str | None) -> None:
    told = warnings(with_plan(bare_world, priced))
    assert len(told) == (said is not None)
    assert said is None or said in told[0]
    (subscriptions,) = [check.text for check in checks(bare_world.configured()) if check.name == "subscriptions"]
    assert said is None or said in subscriptions


@pytest.mark.parametrize(("factor", "cents"), [("1", "1.25"), ("1.2", "1.5"), ("0.001", "0.00125")])
def test_the_precise_amount(bare_world: World, factor: str, cents: str) -> None:
    world = with_plan(bare_world, charge("dynamic"))
    world.settings["RECONCILE_PRECISE_AMOUNT"] = factor
    assert warnings(world) == []
    ((stored,),) = world.lago.stand_in.execute(
        "SELECT precise_total_amount_cents FROM lago.events WHERE organization_id = %s", (world.lago.organization.id,)
    )
    assert stored == Decimal(cents)


def test_no_precise_amount_unless_it_is_set(bare_world: World) -> None:
    world = with_metric(bare_world)
    world.day()
    assert world.lago.stand_in.execute(
        "SELECT precise_total_amount_cents FROM lago.events WHERE organization_id = %s", (world.lago.organization.id,)
    ) == [(None,)]


@pytest.mark.parametrize("clickhouse", [False, True])
def test_renamed_properties_stay_matched_after_the_setting_changed(
    world: World, clickhouse_world: World, clickhouse: bool
) -> None:
    """In both directions, and with all that can be left out left out."""
    world = clickhouse_world if clickhouse else world
    world.subscribe()
    names = (
        "",
        "model=llm,response_cost,request_id=id",
        "response_cost,prompt_tokens=in,completion_tokens=out",
        "response_cost",
    )
    world.write(*(row(f"r-of-{number}", NOON.replace(minute=number)) for number in range(len(names))))
    for number, properties in enumerate(names):
        end = NOON.replace(minute=number + 1)
        ran = world.run(NOON, end, "backfill", RECONCILE_PROPERTIES=properties)
        assert (ran.exit_code, ran.document.rows["delivered"].count) == (0, 1), properties
        assert ran.document.rows["matched"].count == number
    for properties in names:
        ran = world.day(command="report", RECONCILE_PROPERTIES=properties)
        assert (ran.exit_code, rows_in(ran.document), events_in(ran.document)) == (0, {"matched": 4}, {"matched": 4})
        assert findings(ran.document) == {}
    assert len(world.lago.organization.stored_events()) == 4


def test_subscriptions_are_missing(bare_world: World) -> None:
    bare_world.lago.organization.add_billable_metric(CODE)
    assert [check.name for check in checks(bare_world.configured()) if not check.ok] == ["subscriptions"]
    bare_world.subscribe(TEAM)
    assert all(check.ok for check in checks(bare_world.configured()))

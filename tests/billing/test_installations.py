"""What other people's installations and the real Lago added: odd rows, odd plans, a Lago that is slow or breaks."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from reconcile.errors import PreflightError
from reconcile.run.check import checks
from reconcile.sandbox.lago import V1_38

from .world import (
    BEGIN,
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
    findings,
    live_event,
    live_pairs,
    row,
    rows_in,
    rows_of,
)

MINUTE = timedelta(minutes=1)
PER_UNIT = {"charge_model": "standard", "properties": {"amount": "1"}}


def minutes_of(count: int, name: str, **changes: Any) -> list[dict[str, Any]]:
    """A row a minute from 6:00 on."""
    return [row(f"{name}-of-{n}", DAY + 6 * HOUR + n * MINUTE, **changes) for n in range(count)]


def test_null_costs_and_times_a_millisecond_early(clickhouse_world: World) -> None:
    """2,011 rows, of which 14 have an event whose cost is null, which ClickHouse lists as ''; our own events, too."""
    world = clickhouse_world
    world.subscribe()
    rows = rows_of(DAY, 2011)
    for one in rows[100:114]:
        one["spend"] = 0.0
    live_pairs(world, [*rows[:100], *rows[114:1980]])
    live_pairs(world, rows[100:114], response_cost=None)
    world.write(*rows[1980:])
    ran = world.day(RECONCILE_VISIBLE_WITHIN="5s")
    assert (ran.exit_code, ran.document.verified) == (0, True)
    assert rows_in(ran.document) == {"matched_live": 1980, "delivered": 31}
    assert len(world.lago.organization.stored_events()) == 2011


def test_house_accounts(any_world: World) -> None:
    """Health checks and the admin page write rows, and events, that nobody is billed for."""
    world = any_world
    house = ("litellm-internal-health-check", "litellm-dashboard")
    pairs = [one for name in house for one in minutes_of(20, name, team_id=name, spend=0.0004)]
    live_pairs(world, pairs)
    ran = world.day()
    assert (ran.exit_code, rows_in(ran.document), events_in(ran.document)) == (0, {"excluded": 40}, {"own": 40})
    assert ran.document.reasons["excluded"]["own"] == 40
    assert (ran.document.rows["excluded"].spend, ran.document.events["own"].spend) == (Decimal("0.016"), Decimal("0.016"))

    lost = [
        {**one, "request_id": f"lost-{one['request_id']}", "endTime": one["endTime"] + HOUR}
        for name in house
        for one in minutes_of(4, name, team_id=name, spend=0.0007)
    ]
    world.write(*lost)
    none = world.day(RECONCILE_OWN_IDS="")
    assert (none.exit_code, rows_in(none.document)) == (1, {"unbilled": 40, "held": 8})
    assert none.document.reasons["unbilled"] == {"no_subscription": 40}
    assert none.document.reasons["held"] == {"no_subscription": 8}
    assert world.requests()["send"] == 0


def test_a_negative_cost_is_never_an_agreement(any_world: World) -> None:
    world = any_world
    world.subscribe()
    rows = minutes_of(20, "good", spend=0.0305)
    negative = [
        row("n-1", NOON, spend=-0.847665, prompt_tokens=1244, completion_tokens=88, total_tokens=1332),
        row("n-2", NOON + MINUTE, spend=-1.47693, prompt_tokens=753, completion_tokens=40, total_tokens=793),
    ]
    live_pairs(world, [*rows, *negative])
    ran = world.day()
    assert (ran.exit_code, rows_in(ran.document)) == (1, {"matched_live": 20, "mismatched": 2})
    assert events_in(ran.document) == {"matched_live": 20, "mismatched": 2}
    assert ran.document.reasons["mismatched"] == {"invalid_spend": 2}
    assert ran.document.rows["matched_live"].spend == ran.document.events["matched_live"].spend == Decimal("0.61")


def test_a_price_that_cannot_be(any_world: World) -> None:
    """Two rows of thousands of dollars without an event, one with its event, and ten small ones that were lost."""
    world = any_world
    world.subscribe()
    live_pairs(world, [*minutes_of(190, "good", spend=0.03), row("dear", NOON, spend=990.0)])
    small = [row(f"small-{n}", DAY + 20 * HOUR + n * MINUTE, spend=0.03) for n in range(10)]
    world.write(*small, row("over-1", NOON + MS, spend=6150.0), row("over-2", NOON + 2 * MS, spend=1830.0))
    ran = world.day()
    assert rows_in(ran.document) == {"matched_live": 191, "delivered": 10, "held": 2}
    assert ran.document.reason_spend["held"] == {"over_limit": Decimal(7980)}
    assert set(world.held().values()) == {"over_limit"}
    pushed = world.day(RECONCILE_ROW_LIMIT="10000")
    assert (pushed.exit_code, rows_in(pushed.document)) == (0, {"matched_live": 191, "matched": 10, "delivered": 2})


def test_usage_for_nothing(any_world: World) -> None:
    world = any_world
    world.subscribe()
    rows = minutes_of(
        91, "free", spend=0.0, prompt_tokens=20_000, completion_tokens=9_000, total_tokens=29_000, model="openai/o9"
    )
    live_pairs(world, rows[::2])
    live_pairs(world, rows[1::2], response_cost=None)
    ran = world.day()
    assert (ran.exit_code, rows_in(ran.document)) == (0, {"matched_live": 91})
    (finding,) = ran.document.findings
    assert (finding.kind, finding.count) == ("free_of_charge", 91)
    assert "o9" in finding.text


def test_an_event_without_its_cost(any_world: World) -> None:
    world = any_world
    world.subscribe()
    rows = minutes_of(12, "r", call_type="responses")
    for n, one in enumerate(rows):
        one |= {"spend": round(0.05 + n * 0.034, 3), "prompt_tokens": 100 + n, "total_tokens": 110 + n}
    live_pairs(world, rows[:6], response_cost=0)
    live_pairs(world, rows[6:], response_cost=None)
    ran = world.day()
    assert (ran.exit_code, rows_in(ran.document), events_in(ran.document)) == (1, {"unbilled": 12}, {"unbilled": 12})
    assert ran.document.reasons["unbilled"] == {"not_counted": 12}
    assert world.requests()["send"] == 0
    pushed = world.day(RECONCILE_NOT_COUNTED="push")
    assert rows_in(pushed.document) == {"delivered": 12}
    (finding,) = [one for one in pushed.document.findings if one.kind == "pushed_doubtful"]
    assert "RECONCILE_NOT_COUNTED=push" in finding.text
    again = world.day(RECONCILE_NOT_COUNTED="push")
    assert (again.exit_code, rows_in(again.document)) == (0, {"matched": 12})
    assert events_in(again.document) == {"matched": 12, "unbilled": 12}


def test_a_row_without_its_model(any_world: World) -> None:
    world = any_world
    world.subscribe()
    live_pairs(world, minutes_of(12, "r", model="", model_group=""), model="gpt-4o")
    ran = world.day()
    assert (ran.exit_code, rows_in(ran.document)) == (0, {"matched_live": 12})


# --- what the plan does


def priced(world: World, *charges: dict[str, Any], **metric: Any) -> None:
    world.lago.organization.add_billable_metric(CODE, unit_amount=None, **metric)
    world.plan("pro", *charges)
    world.subscribe(plan_code="pro")


def said(world: World) -> str:
    return "; ".join(one.text for one in checks(world.configured()) if one.ok)


def test_two_charges_bill_each_event_twice(bare_world: World) -> None:
    priced(bare_world, {**PER_UNIT, "code": "one"}, {**PER_UNIT, "code": "two"})
    live_pairs(bare_world, rows_of(DAY, 3))
    ran = bare_world.day()
    assert (ran.exit_code, findings(ran.document).keys()) == (0, {"priced_twice"})
    assert "each event is billed 2 times" in said(bare_world)


def test_a_default_bucket_at_the_price_0(bare_world: World) -> None:
    filters = [{"values": {"model": ["gpt-4o"]}, "properties": {"amount": "1"}}]
    priced(
        bare_world,
        {"charge_model": "standard", "properties": {"amount": "0"}, "filters": filters},
        filters=[{"key": "model", "values": ["gpt-4o"]}],
    )
    live_pairs(bare_world, [row("a", NOON, model="openai/gpt-4o"), row("b", NOON + HOUR, model="openai/gpt-9")])
    ran = bare_world.day()
    (finding,) = [one for one in ran.document.findings if one.kind == "priced_at_zero"]
    assert (ran.exit_code, "gpt-9" in finding.text, "gpt-4o" in finding.text) == (0, True, False)
    assert "has the price 0" in said(bare_world)


@pytest.mark.parametrize(
    ("metric", "kind"),
    [({"recurring": True}, "metric_recurring"), ({"rounding_function": "floor"}, "metric_rounded")],
)
def test_a_metric_that_carries_on_or_is_rounded(bare_world: World, metric: dict[str, Any], kind: str) -> None:
    world = bare_world
    given = {"name": "m", "code": CODE, "aggregation_type": "sum_agg", "field_name": "response_cost", **metric}
    world.post("billable_metrics", {"billable_metric": given})
    world.plan("pro", PER_UNIT)
    world.subscribe(plan_code="pro")
    live_pairs(world, rows_of(DAY, 3))
    ran = world.day()
    assert (ran.exit_code, findings(ran.document).keys()) == (0, {kind})
    finding = ran.document.findings[0]
    assert finding.text in said(world)


def test_a_pay_in_advance_charge_has_no_closed_period(any_bare_world: World) -> None:
    world = any_bare_world
    priced(world, {**PER_UNIT, "pay_in_advance": True})
    world.plan("arrears", PER_UNIT)
    for name, plan in (("team-a", "pro"), ("team-b", "arrears")):
        world.subscribe(name, plan_code=plan, period=(DAY + NIGHT, END))
    world.write(row("a", NOON), row("b", NOON, team_id="team-b"))
    ran = world.day()
    assert (rows_in(ran.document), world.held()) == ({"delivered": 1, "held": 1}, {"b": "period_closed"})


def test_an_ended_subscription_has_no_open_period(any_world: World) -> None:
    """It ended after the row, inside the period, and there is no invoice to be seen."""
    world = any_world
    world.subscribe(terminated_at=NOON + HOUR)
    live_pairs(world, [row("there", NOON - HOUR)])
    world.write(row("lost", NOON))
    ran = world.day()
    assert (ran.exit_code, rows_in(ran.document)) == (1, {"matched_live": 1, "held": 1})
    assert ran.document.reasons["held"] == {"period_closed": 1}
    world.lago.organization.add_invoice(TEAM, (BEGIN, NOON + HOUR))
    assert rows_in(world.day().document) == {"matched_live": 1, "delivered": 1}


def test_usage_of_a_subscription_that_does_not_price_the_metric(bare_world: World) -> None:
    """`charge_not_found` is an answer, and no fault of the report."""
    world = bare_world
    world.lago.organization.add_billable_metric(CODE, unit_amount=None)
    world.subscribe()
    live_pairs(world, rows_of(DAY, 3))
    ran = world.day(command="report")
    assert (ran.exit_code, ran.document.lago_usage, findings(ran.document).get("usage_unavailable")) == (1, (), None)


# --- finished jobs, repeats


@pytest.mark.parametrize("call_type", ["aretrieve_batch", "aget_responses", "acreate_batch", "afile_retrieve"])
def test_a_finished_job_that_is_fetched_again(any_world: World, call_type: str) -> None:
    """LiteLLM writes each look at it with the whole cost; the first is sent, no other."""
    world = any_world
    world.subscribe()
    looks = [
        row(f"look-{n}", NOON + n * HOUR, call_type=call_type, spend=4.5, prompt_tokens=9000, model="openai/gpt-4o")
        for n in range(5)
    ]
    world.write(*looks, row("other", NOON, spend=0.25))
    ran = world.day()
    assert rows_in(ran.document) == {"delivered": 2, "held": 4}
    assert ran.document.reasons["held"] == {"repeat": 4}
    assert world.billed() == {("look-0", TEAM): 1, ("other", TEAM): 1}
    again = world.day()
    assert rows_in(again.document) == {"matched": 2, "held": 4}


def test_events_of_a_finished_job_that_was_fetched_again(any_world: World) -> None:
    """One row, five events of its whole cost: four of them are billed on top."""
    world = any_world
    world.subscribe()
    one = row("batch_1_batch_cost", NOON, call_type="aretrieve_batch", model="", spend=4.5)
    world.write(one)
    for n in range(5):
        event = live_event(one, f"look-{n}", model=None)
        for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
            del event["properties"][name]
        world.live(NOON + n * 20 * timedelta(seconds=1), event)
    ran = world.day()
    assert (ran.exit_code, rows_in(ran.document)) == (1, {"matched_live": 1})
    assert events_in(ran.document) == {"matched_live": 1, "duplicate": 4}


def test_looks_for_nothing(any_world: World) -> None:
    """`aget_responses` rows carry the call's tokens at spend 0: nobody's bill, with an event or without one."""
    world = any_world
    world.subscribe()
    looks = [row(f"look-{n}", NOON + n * HOUR, call_type="aget_responses", spend=0.0) for n in range(3)]
    live_pairs(world, looks[:1])
    world.write(*looks[1:])
    ran = world.day()
    assert (ran.exit_code, rows_in(ran.document)) == (0, {"matched_live": 1, "excluded": 2})
    assert ran.document.reasons["excluded"]["retrieval"] == 2


def test_a_second_event_is_a_duplicate_before_it_is_another_row_s(any_world: World) -> None:
    """The callback fires twice for some calls; other calls of nearly the same content lost both events."""
    world = any_world
    world.subscribe()
    rows = minutes_of(10, "twice")
    for n, one in enumerate(rows):
        one["spend"] = 0.5 + n
    lost = [
        {**one, "request_id": f"lost-{n}", "endTime": one["endTime"] + 900 * MS, "spend": one["spend"] + 0.001}
        for n, one in enumerate(rows)
    ]
    live_pairs(world, rows)
    for n, one in enumerate(rows):
        world.live(one["endTime"] + 700 * MS, live_event(one, f"second-{n}"))
    world.write(*lost)
    ran = world.day()
    assert (ran.exit_code, rows_in(ran.document)) == (1, {"matched_live": 10, "delivered": 10})
    assert events_in(ran.document) == {"matched_live": 10, "duplicate": 10}


def test_one_bridged_call_that_was_written_twice(any_world: World) -> None:
    """LiteLLM 1.102: two rows, the inner one within the outer one; its events were lost, or one of them was."""
    world = any_world
    world.subscribe()
    shared = {"session_id": "s-1", "litellm_call_id": "c-1", "spend": 0.75}
    outer = row("chatcmpl-1", NOON + 10 * MS, seconds=3.0, **shared)
    inner = row("resp_1", NOON, seconds=2.9, **shared)
    assert inner["startTime"] > outer["startTime"]
    world.write(outer, inner)
    ran = world.day()
    assert (rows_in(ran.document), set(ran.document.reasons["held"])) == ({"delivered": 1, "held": 1}, {"same_call"})
    assert sum(world.billed().values()) == 1


# --- Postgres and settings


def test_row_level_security_is_no_empty_table(world: World, spend_database: str) -> None:
    world.subscribe()
    world.write(row("a", NOON))
    with psycopg.connect(spend_database, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS walled")
        connection.execute("CREATE ROLE walled LOGIN PASSWORD 'w'")
        connection.execute("GRANT ALL ON SCHEMA public TO walled")
        connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO walled")
        connection.execute('ALTER TABLE "LiteLLM_SpendLogs" ENABLE ROW LEVEL SECURITY')
    address = spend_database.split("@", 1)[1]
    try:
        with pytest.raises(PreflightError, match="row-level security|policy"):
            world.day(
                DATABASE_URL=f"postgresql://walled:w@{address}",
                RECONCILE_STATE_URL=spend_database,
            )
    finally:
        with psycopg.connect(spend_database, autocommit=True) as connection:
            connection.execute('ALTER TABLE "LiteLLM_SpendLogs" DISABLE ROW LEVEL SECURITY')
            connection.execute("DROP OWNED BY walled")
            connection.execute("DROP ROLE walled")
    assert world.requests()["send"] == 0


# --- a Lago that is slow, old, or breaks


def test_a_lago_that_cannot_list_more_than_half_an_hour(any_world: World) -> None:
    world = any_world
    world.subscribe()
    live_pairs(world, rows_of(DAY, 100))
    world.write(*rows_of(DAY, 10, "lost", model="openai/gpt-4o"))
    world.faults.widest_list = timedelta(minutes=30)
    ran = world.day()
    assert (ran.exit_code, rows_in(ran.document)) == (0, {"matched_live": 100, "delivered": 10})
    wide = ran.document.method.requests
    again = world.day()
    assert (again.exit_code, rows_in(again.document)) == (0, {"matched_live": 100, "matched": 10})
    # The width is remembered: no range is too wide the second time.
    assert (again.document.method.retries, again.document.method.requests < wide) == (0, True)


def test_usage_that_stays_500_is_left_out(world: World) -> None:
    world.subscribe("team-a", "team-b")
    live_pairs(world, [row("a", NOON), row("b", NOON, team_id="team-b")])
    world.faults.broken_usage = {"team-a"}
    ran = world.day(command="report")
    assert (ran.exit_code, ran.document.fault) == (0, None)
    assert {line.charge_id for line in ran.document.lago_usage} == {"team-b"}
    (finding,) = [one for one in ran.document.findings if one.kind == "usage_unavailable"]
    assert finding.count == 1
    assert "500" in finding.text


def test_a_lago_that_ignores_filters(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """1.38 ignores `external_id=`: what comes back is looked at."""
    monkeypatch.setattr(world.lago.stand_in, "version", V1_38)
    world.subscribe("team-a", "team-b", "team-c")
    live_pairs(world, [row("a", NOON), row("b", NOON, team_id="team-b")])
    world.write(row("c", NOON, team_id="team-c"), row("d", NOON, team_id="team-d"))
    ran = world.day()
    assert rows_in(ran.document) == {"matched_live": 2, "delivered": 1, "held": 1}
    assert world.held() == {"d": "no_subscription"}


@pytest.mark.parametrize(
    "model",
    ["x\0y", "".join(random.Random(5).choices("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", k=4000))],
    ids=["NUL", "4,000 letters"],
)
def test_one_item_s_500_rejects_that_item_alone(world: World, model: str) -> None:
    """Postgres takes no NUL in a text: such a model can only come over the wire as a long one."""
    if "\0" in model:
        pytest.skip("LiteLLM's Postgres holds no NUL")
    world.subscribe()
    world.write(*rows_of(DAY, 99), row("bad", NOON + MS, model=model))
    ran = world.day()
    assert (ran.exit_code, rows_in(ran.document), ran.document.verified) == (1, {"delivered": 99, "rejected": 1}, True)
    (entry,) = ran.document.as_json()["discrepancies"]
    assert (entry["class"], entry["request_id"]) == ("rejected", "bad")
    assert "500" in entry["reason"] + str(entry.get("detail"))
    assert world.requests()["send"] < 40


def test_a_customer_per_session(world: World) -> None:
    """6,000 rows, each with an end user of its own: a JSON blob with a UUID."""
    rng = random.Random(6)
    world.settings["LAGO_API_CHARGE_BY"] = "end_user_id"
    world.subscribe("known")
    rows = [
        {
            **one,
            "end_user": json.dumps({"device_id": f"{rng.getrandbits(256):064x}", "session_id": str(uuid.UUID(int=rng.getrandbits(128)))}),
        }
        for one in rows_of(DAY, 6000)
    ]
    world.write(*rows, row("k", NOON + MS, end_user="known"))
    world.requests()
    ran = world.day()
    assert rows_in(ran.document) == {"held": 6000, "delivered": 1}
    assert sum(world.requests().values()) < 600
    document = ran.document.as_json()
    assert len(document["by_charge_id"]) == 1000
    assert document["by_charge_id_total"] == 6001
    assert len(json.dumps(document)) < 2_000_000


def test_a_slow_catalogue(world: World) -> None:
    """500 subscriptions, of which three have money: those are asked for, and the next run remembers their plans."""
    organization = world.lago.organization
    for n in range(40):
        world.plan(f"plan-{n}", PER_UNIT)
        world.subscribe(f"team-{n}", plan_code=f"plan-{n}")
    world.write(*(row(f"r-{n}", NOON + n * MS, team_id=f"team-{n}") for n in range(3)))
    world.requests()
    assert world.day().exit_code == 0
    first = world.requests()
    asked = {path for path in first if path.startswith("plans")}
    assert asked <= {"plans/plan-0", "plans/plan-1", "plans/plan-2"}
    assert world.day().exit_code == 0
    assert not [path for path in world.requests() if path.startswith("plans")]
    assert organization.clickhouse is False



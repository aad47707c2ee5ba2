"""`reconcile explain`: one row's story, told by the job's own classification."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from integration.spend_rows import DAY, row

from .harness import CODE, World

NOON = DAY + timedelta(hours=12)


def live(subscription: str, at: datetime, **properties: Any) -> tuple[datetime, dict[str, Any]]:
    """An event as LiteLLM's callback posts it for `row`, at `at`."""
    values = {
        "model": "gpt-4o-mini",
        "response_cost": 0.0125,
        "prompt_tokens": 20,
        "completion_tokens": 10,
        "total_tokens": 30,
        **properties,
    }
    return at, {
        "transaction_id": f"live-{subscription}-{at.timestamp():.3f}",
        "external_subscription_id": subscription,
        "code": CODE,
        "timestamp": f"{at.timestamp():.3f}",
        "properties": values,
    }


def story(world: World, request_id: str, *arguments: str, **settings: str) -> dict[str, Any]:
    ran = world.run("explain", request_id, "--json", *arguments, **settings)
    assert ran.code == 0, ran.err
    (found,) = ran.document["stories"]
    return dict(found)


def second(number: float) -> datetime:
    return NOON + timedelta(seconds=number)


def a_world_of_every_kind(world: World) -> None:
    """Rows ten minutes apart, each with its own fate, named by it."""
    times = {name: NOON + timedelta(minutes=10 * number) for number, name in enumerate(KINDS)}
    world.subscribe()
    world.add_rows([row(name, at, **KINDS[name][0]) for name, at in times.items()])
    events = []
    for name, at in times.items():
        subscription, properties = KINDS[name][1]
        if subscription:
            events.append(live(subscription, at + timedelta(seconds=3), **properties))
    # As late as RECONCILE_DOUBT_AFTER looks, and like no other row.
    events.append(live("team-c", times["late"] + timedelta(hours=5), response_cost=0.77))
    events.append(live("team-b", times["twice"] + timedelta(seconds=9)))
    world.lago.organization.seed_events(events)


# By request ID: what is special about the row, and its live event: subscription ('' for none) and properties.
KINDS: dict[str, tuple[dict[str, Any], tuple[str, dict[str, Any]]]] = {
    "live": ({}, ("team-a", {})),
    "missing": ({}, ("", {})),
    "failed": ({"status": "failure", "spend": 0.0}, ("", {})),
    "nobody": ({"team_id": ""}, ("", {})),
    "dearer": ({}, ("team-a", {"response_cost": 0.5})),
    "elsewhere": ({"spend": 0.031}, ("team-b", {"response_cost": 0.031})),
    "uncovered": ({"team_id": "team-unknown"}, ("", {})),
    "broken": ({"spend": float("nan")}, ("", {})),
    "late": ({"team_id": "team-c", "spend": 0.77}, ("", {})),
    "over": ({"spend": 4_000.0}, ("", {})),
    "no number": ({}, ("team-a", {"response_cost": "a lot"})),
    "twice": ({"team_id": "team-b"}, ("team-b", {})),
}


def test_each_row_is_told_as_the_job_tells_it(world: World) -> None:
    a_world_of_every_kind(world)
    report = world.run("report", "--json", "--from", "2025-11-20", "--to", "2025-11-20").document
    listed = {
        one["request_id"]: (one["class"], one["reason"])
        for one in report["discrepancies"]
        if one["class"] in report["rows"]
    }
    expected = {name: listed.get(name, ("?", None)) for name in KINDS}
    told = {name: story(world, name) for name in KINDS}
    for name, found in told.items():
        if name in listed:
            assert (found["class"], found["reason"]) == expected[name], name
    agreeing = {name: told[name]["class"] for name in KINDS if name not in listed}
    assert agreeing == {"live": "matched_live", "failed": "excluded", "twice": "matched_live"}
    assert {name: one for name, one in expected.items() if name in listed} == {
        "missing": ("missing", "not_sent"),
        "nobody": ("unattributed", "no_charge_id"),
        "dearer": ("mismatched", "cost"),
        "elsewhere": ("misdirected", "other_subscription"),
        "uncovered": ("held", "no_subscription"),
        "broken": ("rejected", "invalid_spend"),
        "late": ("held", "late_event"),
        "over": ("held", "over_limit"),
        "no number": ("unbilled", "not_counted"),
    }
    # The events beside it.
    (event,) = told["dearer"]["events"]
    assert (event["of_this_row"], event["own"], event["class"]) == (True, False, "mismatched")
    assert (event["differs"], event["cost"], event["offset_seconds"]) == (["cost"], "0.5", "3")
    (event,) = told["elsewhere"]["events"]
    assert (event["differs"], event["subscription_id"]) == (["subscription"], "team-b")
    assert told["elsewhere"]["event_id"] == event["transaction_id"]
    (event,) = told["late"]["events"]
    assert (event["class"], event["reason"], event["offset_seconds"]) == ("orphan", "late_event", "18000")
    assert [one["class"] for one in told["twice"]["events"]] == ["matched_live", "duplicate"]
    assert [one["of_this_row"] for one in told["twice"]["events"]] == [True, True]
    assert told["uncovered"]["nobody"] == "no_subscription"
    assert told["over"]["nobody"] is None
    # What is never sent has no event.
    assert [name for name in KINDS if told[name]["event"] is None] == ["failed", "nobody", "broken"]
    # It looked, and changed nothing.
    assert all(one.method == "GET" for one in world.lago.stand_in.requests)
    assert [command for (command,) in world.query("SELECT command FROM reconcile.runs")] == ["report"]


def test_what_it_says_is_sent_is_sent_and_then_told(world: World) -> None:
    world.subscribe()
    world.add_rows([row("r-1", NOON, spend=5.1e-06)])
    before = story(world, "r-1", RECONCILE_LAG="1h")
    assert (before["class"], before["deliveries"], before["runs"], before["young_until"]) == ("missing", [], [], None)
    ran = world.backfill()
    assert ran.count("rows", "delivered") == 1
    found = world.events("transaction_id, external_subscription_id, code, properties")
    assert found == [
        tuple(before["event"][n] for n in ("transaction_id", "external_subscription_id", "code", "properties"))
    ]
    assert before["event"]["timestamp"] == f"{NOON.timestamp():.3f}2"

    after = story(world, "r-1")
    assert (after["class"], after["event_id"]) == ("matched", before["event"]["transaction_id"])
    (event,) = after["events"]
    assert (event["own"], event["of_this_row"], event["differs"]) == (True, True, [])
    (delivery,) = after["deliveries"]
    assert (delivery["run_id"], delivery["charge_id"], delivery["spend"]) == (
        ran.document["run_id"],
        "team-a",
        "0.0000051",
    )
    assert [(line["what"], line["http_status"]) for line in delivery["journal"]] == [
        ("sent", None),
        ("accepted", 200),
        ("read_back", None),
    ]
    assert [(one["run_id"], one["status"], one["exit_code"]) for one in after["runs"]] == [
        (ran.document["run_id"], "agreed", 0)
    ]
    (subscription,) = after["subscriptions"]
    assert subscription["covers"] is True
    assert (subscription["external_id"], subscription["charges"]) == ("team-a", ["standard"])


def test_few_requests_where_the_event_is_there(world: World) -> None:
    """A pair reaches minutes: the hours around the row are read for a missing row alone."""
    world.subscribe()
    world.add_rows([row("r-1", NOON)])
    far = [live("team-b", second(offset)) for offset in (-3_000, 12_000)]
    world.lago.organization.seed_events([live("team-a", second(1)), *far])
    found = world.run("explain", "r-1", "--json").document
    assert found["lago_requests"] <= 10
    (told,) = found["stories"]
    first, last = (datetime.fromisoformat(told[name]) for name in ("looked_from", "looked_to"))
    assert first <= second(-30) < second(120) <= last
    assert last - first <= timedelta(minutes=15)


def test_a_row_that_is_held_and_then_deleted(world: World) -> None:
    world.add_rows([row("r-1", NOON, team_id="team-new")])
    run_id = world.backfill().document["run_id"]
    assert story(world, "r-1")["held"]["run_id"] == run_id
    world.query('DELETE FROM "LiteLLM_SpendLogs"')
    told = story(world, "r-1")
    assert (told["row"], told["class"], told["reason"], told["charge_id"]) == (
        None,
        "held",
        "no_subscription",
        "team-new",
    )
    text = world.run("explain", "r-1").out
    assert "LiteLLM has deleted it" in text
    assert run_id in text


def test_one_id_of_two_rows_and_times_that_cannot_be(world: World) -> None:
    world.subscribe()
    world.query('ALTER TABLE "LiteLLM_SpendLogs" DROP CONSTRAINT "LiteLLM_SpendLogs_pkey"')
    try:
        world.add_rows([row("again", NOON), row("again", second(3_600), spend=0.5)])
        world.add_rows([row("again", NOON, spend=3.0)])
        world.query("""UPDATE "LiteLLM_SpendLogs" SET "endTime" = 'infinity' WHERE spend = 3""")
        found = world.run("explain", "again", "--json").document
        assert [one["row"]["spend"] for one in found["stories"]] == ["0.0125", "0.5"]
        assert found["unplaced"] == 1
        assert "time that cannot be: 1" in world.run("explain", "again").out
    finally:
        world.query('TRUNCATE "LiteLLM_SpendLogs"')
        world.query('ALTER TABLE "LiteLLM_SpendLogs" ADD CONSTRAINT "LiteLLM_SpendLogs_pkey" PRIMARY KEY (request_id)')


def test_a_long_call_and_a_young_one(world: World) -> None:
    world.subscribe()
    now = datetime.now(UTC)
    world.add_rows([row("long", NOON, seconds=30 * 3_600.0), row("young", now), row("backwards", NOON, seconds=-400.0)])
    long, young, backwards = (story(world, name) for name in ("long", "young", "backwards"))
    assert (long["class"], long["is_long"], long["young_until"]) == ("missing", True, None)
    assert (young["class"], young["is_long"]) == ("missing", False)
    assert datetime.fromisoformat(young["young_until"]) - now >= timedelta(hours=1, minutes=59)
    assert backwards["class"] is None
    assert "runs look at it from" in world.run("explain", "young").out


def test_for_people_in_both_languages(world: World) -> None:
    world.subscribe()
    hostile = "r-\x1b[31m\u202e$(rm)"
    world.add_rows([row(hostile, NOON, model="gpt\x07"), row("held", NOON, team_id="nobody\u200b")])
    ran = world.run("explain", hostile)
    assert ran.code == 0, ran.err
    assert not {"\x1b", "\u202e", "\x07"} & set(ran.out)
    assert "Missing in Lago (missing)" in ran.out
    assert "reconcile backfill --from 2025-11-20 --to 2025-11-20" in ran.out
    (line,) = [line for line in ran.out.splitlines() if line.startswith('  {"transaction_id"')]
    assert json.loads(line)["properties"]["request_id"] == hostile
    chinese = world.run("explain", "held", "--lang", "zh-CN")
    assert chinese.code == 0, chinese.err
    assert "暂缓发送 (held)" in chinese.out
    assert "Subscriptions" not in chinese.out
    assert "\u200b" not in chinese.out


def test_an_id_that_nobody_knows(world: World) -> None:
    for arguments in ((), ("--json",)):
        ran = world.run("explain", "chatcmpl-none", *arguments)
        assert (ran.code, ran.out) == (2, "")
        (line,) = ran.err.splitlines()
        assert line.startswith("reconcile: REQUEST_ID: ")
        assert "'chatcmpl-none'" in line
    # What is wrong with the settings is said as everywhere.
    ran = world.run("explain", "chatcmpl-none", LAGO_API_BASE="http://127.0.0.1:1")
    assert (ran.code, ran.out) == (3, "")


def test_customers_as_charge_ids(world: World) -> None:
    """The subscription of that time is told, and the event goes to it."""
    settings = {"RECONCILE_ID_KIND": "external_customer_id"}
    organization = world.lago.organization
    organization.add_subscription(
        "sub-old", external_customer_id="acme", started_at=DAY - timedelta(days=90), terminated_at=DAY
    )
    organization.add_subscription("sub-new", external_customer_id="acme", started_at=DAY + timedelta(hours=1))
    for name in ("one", "two"):
        organization.add_subscription(name, external_customer_id="both", started_at=DAY - timedelta(days=90))
    world.add_rows([row("r-acme", NOON, team_id="acme"), row("r-both", NOON, team_id="both")])
    acme, both = (story(world, name, **settings) for name in ("r-acme", "r-both"))
    assert [(one["external_id"], one["covers"]) for one in acme["subscriptions"]] == [
        ("sub-old", False),
        ("sub-new", True),
    ]
    assert acme["event"]["external_subscription_id"] == "sub-new"
    assert (both["class"], both["reason"], both["event"]) == ("held", "several_subscriptions", None)
    assert both["nobody"] == "several_subscriptions"

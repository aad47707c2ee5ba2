"""`reconcile setup`: says what Lago lacks, and writes the script that makes it. It makes nothing itself."""

from __future__ import annotations

import csv
import io
import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from integration.spend_rows import row

from .harness import Ran, World

NEW = "llm_spend"  # of which Lago knows nothing yet
HOSTILE = 'it\'s $(touch pwned) `touch pwned` "q" \\\\ \\n%s\r\n; touch pwned\n用户 @price@ \u202e'
# The part of curl that is used, for machines without it.
CURL = """#!{python}
import sys, httpx
options, headers, words = {{}}, {{}}, iter(sys.argv[1:])
for word in words:
    if word.startswith("http"):
        url = word
    elif word in ("--header", "-H"):
        text = next(words)
        name, _, value = (sys.stdin.readline() if text == "@-" else text).partition(": ")
        headers[name] = value.strip()
    elif word not in ("--globoff", "--silent", "--show-error", "-gsS"):
        options[word] = next(words)
body = options.get("--data-binary") or options["-d"]
answer = httpx.post(url, headers=headers, content=body.encode())
told = options.get("--write-out", "").replace("\\\\n", "\\n").replace("%{{http_code}}", str(answer.status_code))
sys.stdout.write(answer.text + told)
"""


@pytest.fixture(params=["curl", "stand-in"])
def curl(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PATH with curl on it: the machine's, where it has one, or a stand-in."""
    if request.param == "curl" and shutil.which("curl"):
        return os.environ["PATH"]
    return path_with_stand_in(tmp_path_factory.mktemp("bin"))


def path_with_stand_in(folder: Path) -> str:
    program = folder / "curl"
    program.write_text(CURL.format(python=sys.executable))
    program.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def this_month() -> datetime:
    """When the month began. Within its first minute it waits: rows have to lie in it and be older than half of one."""
    while True:
        now = datetime.now(UTC)
        month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        if now - month > timedelta(minutes=1):
            return month
        time.sleep(1)


def run_script(world: World, text: str, path: str, **settings: str) -> subprocess.CompletedProcess[str]:
    file = world.folder / "setup.sh"
    file.write_text(text, encoding="ascii")
    checked = subprocess.run(["sh", "-n", file], capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")
    environment = {"PATH": path, "LAGO_API_KEY": world.lago.key, **settings}
    return subprocess.run(["sh", file], env=environment, cwd=world.folder, capture_output=True, text=True)


def lago_has(world: World, path: str, key: str) -> list[dict[str, Any]]:
    headers = {"Authorization": f"Bearer {world.lago.key}"}
    found: list[dict[str, Any]] = httpx.get(f"{world.lago.url}/api/v1{path}", headers=headers).json()[key]
    return found


def table(world: World, *arguments: str, **settings: str) -> list[dict[str, str]]:
    ran = world.run("setup", "--csv", *arguments, **settings)
    assert ran.code == 0, ran.err
    return list(csv.DictReader(io.StringIO(ran.out.removeprefix("\ufeff"), newline="")))


def test_from_an_empty_lago_to_a_night_that_agrees(world: World, curl: str) -> None:
    settings = {
        "LAGO_API_EVENT_CODE": NEW,
        "RECONCILE_LAG": "30s",
        "RECONCILE_LOOKBACK": "1h",
    }
    month = this_month()
    now = datetime.now(UTC)
    world.add_rows(
        [
            row("r-1", now - timedelta(seconds=40), team_id=HOSTILE, spend=2.5),
            row("r-2", now - timedelta(seconds=41), team_id="team-a", spend=7.0),
            row("old", month - timedelta(days=1), team_id="team-a", spend=3.0),
            row("failed", now - timedelta(seconds=40), team_id="team-failed", status="failure", spend=0.0),
            row("nobody", now - timedelta(seconds=40), team_id=None, spend=0.25),
            row("house", now - timedelta(seconds=40), team_id="litellm-dashboard"),
        ]
    )
    before = world.run("setup", **settings)
    assert before.code == 0, before.err
    lines = before.out.splitlines()
    assert lines[:3] == [
        "missing  metric llm_spend: sum_agg of response_cost",
        "missing  plan llm_spend_at_cost: monthly, a standard charge on llm_spend, 1 USD a unit (LiteLLM's cost)",
        lines[2],
    ]
    assert lines[2].startswith("2 charge IDs (team_id) have usage since ")
    assert lines[3] == "missing  2 have no subscription"
    assert lines[4].startswith("           team-a  10 USD, 2 requests from ")
    assert "months which are over are never invoiced" in before.out
    assert "1 requests without a team_id, 0.25 USD" in before.out
    assert all(one.method == "GET" for one in world.lago.stand_in.requests)
    assert world.query("SELECT to_regnamespace('reconcile')") == [(None,)]

    written = world.run("setup", "--curl", **settings)
    assert (written.code, written.err) == (0, "")
    assert world.lago.key not in written.out
    made = run_script(world, written.out, curl)
    assert made.returncode == 0, made.stderr
    assert not (world.folder / "pwned").exists()
    world.no_secret_in(made.stdout + made.stderr)

    (first, second) = lago_has(world, "/subscriptions", "subscriptions")[::-1]
    # Most money first, and back to the first day of usage.
    assert (first["external_id"], first["plan_code"]) == ("team-a", "llm_spend_at_cost")
    assert first["subscription_at"] == f"{month - timedelta(days=1):%Y-%m-%dT00:00:00Z}"
    assert (second["external_id"], second["external_customer_id"]) == (HOSTILE, HOSTILE)
    (plan,) = lago_has(world, "/plans", "plans")
    (charge,) = plan["charges"]
    assert (charge["billable_metric_code"], charge["charge_model"]) == (NEW, "standard")
    assert charge["properties"]["amount"] == "1"

    checked = world.run("check", **settings)
    assert (checked.code, [line for line in checked.err.splitlines() if not line.startswith("note  RECONCILE_")]) == (
        0,
        [],
    )
    ran = world.run("run", "--json", **settings)
    assert ran.code == 0, ran.err
    assert ran.count("rows", "delivered") == 2
    again = world.run("setup", **settings)
    assert "missing" not in again.out
    assert again.out.splitlines()[-1] == "next     reconcile check"
    nothing = world.run("setup", "--curl", **settings)
    assert (nothing.code, nothing.err) == (0, "nothing is missing\n")
    requests = len(world.lago.stand_in.requests)
    assert run_script(world, nothing.out, curl).returncode == 0
    assert len(world.lago.stand_in.requests) == requests


def test_the_calls_on_the_terminal_can_be_pasted(world: World, curl: str) -> None:
    world.add_rows([row("r-1", datetime.now(UTC), team_id=HOSTILE)])
    lines = world.run("setup", LAGO_API_EVENT_CODE=NEW).out.splitlines()
    calls = [line for line in lines if "curl -gsS" in line]
    assert len(calls) == 4
    made = run_script(world, "\n".join(["set -eu", *calls]) + "\n", curl)
    assert made.returncode == 0, made.stderr
    assert [one["external_id"] for one in lago_has(world, "/subscriptions", "subscriptions")] == [HOSTILE]
    assert not (world.folder / "pwned").exists()


def test_how_charge_ids_stand(world: World) -> None:
    """What is there is left alone: a second subscription of an external ID would end the first."""
    now = datetime.now(UTC).replace(microsecond=0)
    organization = world.lago.organization
    long_ago = now - timedelta(days=30)
    used = {"there": 9.0, "none": 8.0, "late": 7.0, "pending": 6.0, "ended": 5.0, "unpriced": 4.0, "space ": 3.0}
    world.add_rows(
        [row(f"{name}-1", now - timedelta(days=20), team_id=name, spend=spend) for name, spend in used.items()]
    )
    world.add_rows(
        [row(f"{name}-2", now - timedelta(days=1), team_id=name, spend=spend) for name, spend in used.items()]
    )
    organization.add_subscription("there", started_at=long_ago)
    organization.add_subscription("late", started_at=now - timedelta(days=10))
    organization.add_subscription("pending", status="pending")
    ended = now - timedelta(days=5)
    organization.add_subscription("ended", started_at=long_ago, terminated_at=ended)
    free = {"name": "free", "code": "free", "interval": "monthly", "amount_cents": 0, "amount_currency": "USD"}
    post(world, "/plans", {"plan": free})
    subscribed = {"external_customer_id": "unpriced", "external_id": "unpriced", "plan_code": "free"}
    post(world, "/subscriptions", {"subscription": {**subscribed, "subscription_at": f"{long_ago:%Y-%m-%dT%H:%M:%SZ}"}})

    lines = table(world)
    stands = [
        (one["make"], one["external_id"], "" if one["make"] else one["note"].partition(":")[0])
        for one in lines
        if one["make"] != "customer"
    ]
    assert stands == [
        ("subscription", "none", ""),
        ("", "late", "begins_late"),
        ("", "pending", "pending"),
        ("subscription", "ended", ""),
        ("", "unpriced", "not_priced"),
        ("", "space ", "impossible"),
    ]
    by_id = {one["external_id"]: one for one in lines if one["make"] != "customer"}
    assert by_id["none"]["plan_code"] == "llm"
    assert by_id["none"]["subscription_at"] == f"{now - timedelta(days=20):%Y-%m-%dT00:00:00Z}"
    # Never over a time that an earlier one covers: Lago would bill it twice.
    assert by_id["ended"]["subscription_at"] == f"{ended + timedelta(seconds=1):%Y-%m-%dT%H:%M:%SZ}"
    assert [one["external_id"] for one in lines if one["make"] == "customer"] == ["none"]
    told = world.run("setup").out
    for word in ("there    1 have", "begins_late 1: ", "pending  1: ", "not_priced 1: ", "impossible 1: "):
        assert word in told
    made = run_script(world, world.run("setup", "--curl").out, path_with_stand_in(world.folder))
    assert made.returncode == 0, made.stderr
    active = {one["external_id"]: one for one in lago_has(world, "/subscriptions?per_page=100", "subscriptions")}
    assert active["ended"]["status"] == "active"
    # Nobody's subscription was ended or changed.
    assert datetime.fromisoformat(active["late"]["started_at"]) == now - timedelta(days=10)
    assert active["unpriced"]["plan_code"] == "free"


def post(world: World, path: str, body: dict[str, Any]) -> None:
    headers = {"Authorization": f"Bearer {world.lago.key}"}
    answer = httpx.post(f"{world.lago.url}/api/v1{path}", json=body, headers=headers)
    assert answer.status_code == 200, answer.text


def test_customers_as_charge_ids(world: World) -> None:
    now = datetime.now(UTC)
    world.add_rows([row(f"r-{name}", now - timedelta(hours=1), team_id=name) for name in ("acme", "globex", "both")])
    world.lago.organization.add_subscription("sub-1", external_customer_id="acme", started_at=now - timedelta(days=30))
    for name in ("sub-2", "sub-3"):
        world.lago.organization.add_subscription(name, external_customer_id="both", started_at=now - timedelta(days=30))
    lines = table(world, RECONCILE_ID_KIND="external_customer_id")
    assert [(one["make"], one["external_id"]) for one in lines] == [
        ("", "both"),
        ("customer", "globex"),
        ("subscription", "globex"),
    ]
    assert lines[0]["note"].startswith("several_subscriptions: ")


def test_which_plan(world: World) -> None:
    now = datetime.now(UTC)
    world.add_rows([row("r-1", now, team_id="team-new")])
    world.lago.organization.add_plan("cheap")
    world.lago.organization.add_plan("dear")
    for arguments in ((), ("--curl",), ("--csv",)):
        ran = world.run("setup", *arguments)
        assert (ran.code, ran.out) == (2, "")
        (line,) = ran.err.splitlines()
        assert line.startswith("reconcile: --plan: Lago has 2 plans with a charge on llm_usage (")
    assert {one["plan_code"] for one in table(world, "--plan", "dear") if one["make"] == "subscription"} == {"dear"}
    fresh = table(world, "--plan", "brand new")
    assert [(one["make"], one["code"], one["amount"]) for one in fresh if one["code"]] == [("plan", "brand new", "1")]
    post(world, "/plans", {"plan": {"name": "free", "code": "free", "interval": "monthly", "amount_currency": "USD"}})
    ran = world.run("setup", "--plan", "free")
    assert (ran.code, ran.out) == (2, "")
    assert "--plan: Lago's plan 'free' has no charge on llm_usage" in ran.err


def test_a_metric_that_adds_up_no_money_has_no_price_of_ours(world: World) -> None:
    post(
        world,
        "/billable_metrics",
        {"billable_metric": {"name": "calls", "code": "calls", "aggregation_type": "count_agg"}},
    )
    world.add_rows([row("r-1", datetime.now(UTC))])
    settings = {"LAGO_API_EVENT_CODE": "calls"}
    assert "PRICE, in USD" in world.run("setup", **settings).out
    script = world.run("setup", "--curl", **settings).out
    path = path_with_stand_in(world.folder)
    refused = run_script(world, script, path)
    assert refused.returncode != 0
    assert "PRICE" in refused.stderr
    assert run_script(world, script, path, PRICE="0.002").returncode == 0
    assert lago_has(world, "/plans", "plans")[0]["charges"][0]["properties"]["amount"] == "0.002"


def test_the_script_stops_where_lago_refuses(world: World) -> None:
    world.add_rows([row("r-1", datetime.now(UTC))])
    script = world.run("setup", "--curl", LAGO_API_EVENT_CODE=NEW).out
    path = path_with_stand_in(world.folder)
    refused = run_script(world, script, path, LAGO_API_KEY="a-wrong-key")
    assert refused.returncode == 1
    assert refused.stderr.startswith("refused: billable_metrics ")
    assert lago_has(world, "/billable_metrics", "billable_metrics")[0]["code"] != NEW
    without = subprocess.run(["sh", world.folder / "setup.sh"], env={"PATH": path}, capture_output=True, text=True)
    assert without.returncode != 0
    assert "LAGO_API_KEY" in without.stderr


def test_wrong_usage_and_settings(world: World) -> None:
    def refused(*arguments: str, **settings: str) -> str:
        ran: Ran = world.run("setup", *arguments, **settings)
        assert (ran.code, ran.out) == (2, "")
        (line,) = ran.err.splitlines()
        return line

    assert refused("--curl", "--csv").startswith("reconcile: --csv: not together with --curl")
    assert refused("--plan", "").startswith("reconcile: --plan: is given an empty value")
    world.secrets.add("a-wrong-lago-key")
    assert "LAGO_API_KEY" in refused("--curl", LAGO_API_KEY="a-wrong-lago-key")
    world.lago.organization.add_billable_metric("seconds_used", field_name="seconds")
    assert "'seconds', which the events do not carry" in refused(LAGO_API_EVENT_CODE="seconds_used")


def test_an_id_for_spreadsheets(world: World) -> None:
    world.add_rows([row("r-1", datetime.now(UTC), team_id="=1+1")])
    assert {one["external_id"] for one in table(world) if one["external_id"]} == {"'=1+1"}


def test_nothing_but_the_answer_in_a_pipe(world: World) -> None:
    """As processes, since what a terminal would show beside it depends on that."""
    world.subscribe("team-b")
    world.add_rows([row("r-1", datetime.now(UTC))])
    for arguments in (("setup", "--curl"), ("setup", "--csv"), ("setup",), ("explain", "r-1", "--json")):
        ran = world.ended(world.start(*arguments))
        assert (ran.code, ran.err) == (0, ""), arguments
        assert ran.out

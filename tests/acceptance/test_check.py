"""Wrong settings, wrong answers and none: `check` says each in one line, and nothing is sent."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlsplit, urlunsplit

import pytest
from integration.spend_rows import DAY, row

from .harness import Ran, World

DAYS = ("--from", "2025-11-20", "--to", "2025-11-20")
NOWHERE = "127.0.0.1:1"  # tcpmux: nobody listens there


def dead_postgres(world: World) -> dict[str, str]:
    parts = urlsplit(world.database_url)
    return {"DATABASE_URL": urlunsplit(parts._replace(netloc=f"postgres:{parts.password}@{NOWHERE}"))}


def wrong_password(world: World) -> dict[str, str]:
    parts = urlsplit(world.database_url)
    world.secrets.add("wr0ng-passw0rd")
    return {"DATABASE_URL": urlunsplit(parts._replace(netloc=f"postgres:wr0ng-passw0rd@{parts.hostname}:{parts.port}"))}


def missing_table(world: World) -> dict[str, str]:
    return {"DATABASE_URL": world.lago.stand_in.database_url, "RECONCILE_STATE_URL": world.database_url}


def dead_state(world: World) -> dict[str, str]:
    parts = urlsplit(world.database_url)
    return {"RECONCILE_STATE_URL": urlunsplit(parts._replace(netloc=f"postgres:{parts.password}@{NOWHERE}"))}


def wrong_key(world: World) -> dict[str, str]:
    world.secrets.add("a-wrong-lago-key")
    return {"LAGO_API_KEY": "a-wrong-lago-key"}


def dead_lago(world: World) -> dict[str, str]:
    return {"LAGO_API_BASE": f"http://{NOWHERE}"}


def no_lago(world: World) -> dict[str, str]:
    return {"LAGO_API_BASE": f"{world.lago.url}/elsewhere"}


def unknown_metric(world: World) -> dict[str, str]:
    return {"LAGO_API_EVENT_CODE": "no_such_metric"}


def foreign_field(world: World) -> dict[str, str]:
    world.lago.organization.add_billable_metric("seconds_used", field_name="seconds")
    return {"LAGO_API_EVENT_CODE": "seconds_used"}


def uncountable_field(world: World) -> dict[str, str]:
    world.lago.organization.add_billable_metric("models_used", field_name="model")
    return {"LAGO_API_EVENT_CODE": "models_used"}


WRONG = [
    # what is wrong, what the line says, the exit code of run and backfill
    (wrong_password, "wrong LiteLLM's spend log: DATABASE_URL: ", 2),
    (missing_table, 'wrong LiteLLM\'s spend log: DATABASE_URL: .*no table "LiteLLM_SpendLogs"', 2),
    (dead_postgres, "wrong LiteLLM's spend log: DATABASE_URL: .*does not answer", 3),
    (dead_state, "wrong the job's own state: RECONCILE_STATE_URL: .*does not answer", 3),
    (wrong_key, "wrong Lago: .*LAGO_API_KEY", 2),
    (dead_lago, "wrong Lago: .*no answer from Lago", 3),
    (no_lago, "wrong (Lago|the billable metric): LAGO_API_BASE does not lead to Lago's API", 2),
    (unknown_metric, "wrong the billable metric: LAGO_API_EVENT_CODE: .*'no_such_metric'", 2),
    (foreign_field, "wrong the billable metric: LAGO_API_EVENT_CODE: .*'seconds', which the events do not carry", 2),
    (uncountable_field, "wrong the billable metric: LAGO_API_EVENT_CODE: .*'model'.*no number", 2),
]


def of_kind(ran: Ran, beginning: str) -> list[str]:
    return [line for line in ran.err.splitlines() if line.startswith(beginning)]


@pytest.mark.parametrize(("wrong", "says", "code"), WRONG, ids=[wrong.__name__ for wrong, _, _ in WRONG])
def test_what_is_wrong(world: World, wrong: Callable[[World], dict[str, str]], says: str, code: int) -> None:
    world.add_rows([row("r-1", DAY)])
    world.subscribe()
    settings = wrong(world)
    checked = world.run("check", **settings)
    assert checked.code == 2
    named = [line for line in of_kind(checked, "wrong ") if re.match(says, line)]
    assert len(named) == 1, checked.err
    as_json = world.run("check", "--json", **settings)
    assert (as_json.code, as_json.out) == (2, "")

    ran = world.backfill(**settings)
    assert ran.code == code, ran.err
    if code == 3:
        assert ran.document["status"] == "incomplete"
        assert ran.document["rows"]["total"]["count"] == 0
    else:
        assert len(of_kind(ran, "reconcile: ")) == 1
    assert world.billed() == {}
    assert world.batches() == 0


def test_all_is_well(world: World) -> None:
    world.subscribe()
    ran = world.run("check")
    assert ran.code == 0, ran.err
    assert [line.split(":")[0] for line in ran.out.splitlines()] == [
        "ok    settings",
        "ok    LiteLLM's spend log",
        "ok    the job's own state",
        "ok    Lago",
        "ok    the billable metric",
        "ok    subscriptions",
        "ok    traffic",
    ]
    as_json = world.run("check", "--json")
    assert as_json.code == 0
    assert as_json.document["ok"] is True
    assert as_json.document["warnings"] == []
    assert as_json.document["settings"]["LAGO_API_CHARGE_BY"] == "environment"
    assert as_json.document["settings"]["RECONCILE_LAG"] == "default"
    # It looks, and changes nothing.
    assert world.query("SELECT to_regnamespace('reconcile')") == [(None,)]
    assert all(one.method == "GET" for one in world.lago.stand_in.requests)


def test_where_settings_come_from_and_what_is_likely_to_be_a_mistake(world: World) -> None:
    world.subscribe()
    (world.folder / ".env").write_text("RECONCILE_MATCH_AFTER=5s\n")
    ran = world.run("check", "--charge-by", "team_id", LAGO_API_CHARGE_BY="")
    (line,) = [line for line in ran.out.splitlines() if line.startswith("ok    settings: ")]
    assert "; .env: RECONCILE_MATCH_AFTER; " in line
    assert "; option: LAGO_API_CHARGE_BY; " in line
    assert line.endswith("; default: all others")
    assert ran.err.startswith("note  RECONCILE_MATCH_AFTER: ")
    assert world.run("check", "--json").document["settings"]["RECONCILE_MATCH_AFTER"] == ".env"
    logged = world.run("report", *DAYS, RECONCILE_LOG_FORMAT="json").err
    assert '".env": "RECONCILE_MATCH_AFTER"' in logged
    assert '"event": "RECONCILE_MATCH_AFTER: ' in logged


def test_a_password_that_breaks_its_url_is_nowhere(world: World) -> None:
    world.secrets |= {"zq", "x9!", "kk#77", "x9%21", "kk%2377", "kk"}
    broken = "postgresql://u:zq@x9!/kk#77@host/db"
    for command in (("check",), ("run",), ("backfill", *DAYS), ("runs",), ("migrate",)):
        ran = world.run(*command, DATABASE_URL=broken)
        assert (ran.code, ran.out) == (2, "")
        assert ran.err.startswith("reconcile: DATABASE_URL: has a raw @, / ? or # ")


def test_the_parts_of_litellm_s_chart_do(world: World) -> None:
    world.subscribe()
    parts = urlsplit(world.database_url)
    given = {
        "DATABASE_URL": "",
        "DATABASE_HOST": str(parts.hostname),
        "DATABASE_PORT": str(parts.port),
        "DATABASE_USERNAME": str(parts.username),
        "DATABASE_PASSWORD": str(parts.password),
        "DATABASE_NAME": parts.path.removeprefix("/"),
    }
    assert world.run("check", **given).code == 0


def test_a_slip_of_the_pen_sends_nothing(world: World) -> None:
    ran = world.backfill(RECONCILE_UNCOVRED="push")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == "reconcile: RECONCILE_UNCOVRED: is no setting; the nearest is RECONCILE_UNCOVERED\n"


def test_no_subscription_at_all(world: World) -> None:
    ran = world.run("check")
    assert ran.code == 2
    (line,) = of_kind(ran, "wrong ")
    assert line.startswith("wrong subscriptions: ")


@pytest.mark.parametrize("name", ["DATABASE_URL", "LAGO_API_BASE", "LAGO_API_KEY", "LAGO_API_EVENT_CODE"])
@pytest.mark.parametrize("command", [("check",), ("backfill", *DAYS), ("run",)])
def test_a_missing_setting(world: World, command: tuple[str, ...], name: str) -> None:
    ran = world.run(*command, **{name: ""})
    assert ran.code == 2
    assert ran.out == ""
    (line,) = ran.err.splitlines()
    assert line.startswith(f"reconcile: {name}: is not set; for example {name}=")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("backfill", "--from", "2025-11-20"), "--to"),
        (("backfill",), "--from: is missing; name a range, for example --from "),
        (("report", "--to", "2025-11-20"), "--from: is missing"),
        (("report", "--last", "7"), "--last: '7' is not a duration"),
        (("report", "--last", "10s"), "--last: '10s' is out of range"),
        (("report", "--last", "7d", *DAYS), "--last: says the whole range by itself; leave out --from"),
        (("backfill", "--last", "7d", "--to", "2025-11-20"), "--last: says the whole range by itself; leave out --to"),
        (
            ("backfill", "--last", "7d", "--month", "2025-11"),
            "--last: says the whole range by itself; leave out --month",
        ),
        (("report", "--month", "2025-13"), "--month '2025-13' is no month"),
        (("report", "--month", "2199-01"), "RECONCILE_LAG"),
        (("runs", "--last"), "--last: there is no run yet"),
        (("backfill", "--from", "2025-11-21", "--to", "2025-11-20"), "the range is empty"),
        (("backfill", "--from", "2025-11-31", "--to", "2025-12-01"), "there is no such date"),
        (
            ("backfill", *DAYS, "--charge-by", "nobody"),
            "reconcile: --charge-by: 'nobody' is none of end_user_id, user_id, team_id, organization_id; for example",
        ),
        (
            ("report", *DAYS, "--output", "reports", "--format", "pdf"),
            "reconcile: --format: 'pdf' is none of html, xlsx",
        ),
        (("report", *DAYS, "--lang", "de"), "reconcile: --lang: 'de' is none of en, zh-CN"),
        (("backfill", *DAYS, "--format", "xlsx"), "--output"),
        (("backfill", *DAYS, "--no-such-option"), "--no-such-option"),
        (("no-such-command",), "no-such-command"),
        (("show", "no-such-run"), "no run 'no-such-run'"),
    ],
)
def test_wrong_usage(world: World, arguments: tuple[str, ...], says: str) -> None:
    ran = world.run(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert says in ran.err
    assert world.lago.stand_in.requests == []

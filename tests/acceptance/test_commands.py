"""The other commands, and what each leaves behind."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta

import pytest
from integration.spend_rows import DAY, a_day, billable, row

from .harness import World

DAYS = ("--from", "2025-11-20", "--to", "2025-11-20")


def test_dry_run_and_report_change_nothing(world: World) -> None:
    rows = a_day(200, seed=4)
    world.add_rows(rows)
    world.subscribe()
    commands = (("backfill", *DAYS, "--dry-run"), ("report", *DAYS), ("run", "--dry-run"))
    for ran in [world.run(*command, "--json") for command in commands]:
        if ran.document["command"] != "run":
            assert ran.code == 1
            assert ran.count("rows", "missing") == len(billable(rows))
        assert ran.count("rows", "delivered") == 0
        assert ran.document["verified"] is None
    assert all(one.method == "GET" for one in world.lago.stand_in.requests)
    assert world.query("SELECT count(*) FROM reconcile.deliveries") == [(0,)]
    assert world.query("SELECT count(*) FROM reconcile.journal") == [(0,)]
    kept = world.query("SELECT command, dry_run FROM reconcile.runs ORDER BY started_at")
    assert kept == [("backfill", True), ("report", False), ("run", True)]
    missing = world.backfill("--dry-run").document["discrepancies"][0]
    assert world.backfill().code == 0
    # What a dry run says will be sent is what is sent, by its own ID.
    assert world.query(
        "SELECT request_id FROM reconcile.deliveries WHERE transaction_id = %s", (missing["transaction_id"],)
    ) == [(missing["request_id"],)]


def test_a_dry_run_shows_what_would_be_held(world: World) -> None:
    world.add_rows([row("r-1", DAY)])
    ran = world.backfill("--dry-run")
    assert ran.document["reasons"]["held"] == {"no_subscription": 1}
    assert world.query("SELECT count(*) FROM reconcile.held") == [(0,)]


def test_runs_and_show(world: World) -> None:
    assert world.run("runs").out == "no runs yet\n"
    assert world.run("runs", "--json").document == {"runs": []}
    world.add_rows([row("r-1", DAY + timedelta(hours=1))])
    world.subscribe()
    ran = world.backfill()
    run_id = ran.document["run_id"]
    (entry,) = world.run("runs", "--json").document["runs"]
    assert (entry["run_id"], entry["command"], entry["status"], entry["exit_code"]) == (run_id, "backfill", "agreed", 0)
    assert entry["window"] == {"from": "2025-11-20T00:00:00Z", "to": "2025-11-21T00:00:00Z"}
    assert run_id in world.run("runs").out
    shown = world.run("show", "--json", run_id)
    assert shown.code == 0
    assert shown.document == ran.document
    for_people = world.run("show", run_id)
    assert for_people.code == 0
    assert "llm_usage" in for_people.out
    unknown = world.run("show", "--json", "2025-01-01T00-00-00Z-ffff")
    assert (unknown.code, unknown.out) == (2, "")


def test_migrate(world: World) -> None:
    assert world.run("migrate").out.endswith("schema reconcile created or upgraded\n")
    assert world.run("migrate").out.endswith("schema reconcile is up to date\n")


def test_the_state_may_live_elsewhere(world: World, empty_database_url: str) -> None:
    world.add_rows([row("r-1", DAY)])
    world.subscribe()
    settings = {"RECONCILE_STATE_URL": empty_database_url}
    assert world.backfill(**settings).code == 0
    assert world.query("SELECT to_regnamespace('reconcile')") == [(None,)]
    assert world.query("SELECT count(*) FROM reconcile.runs", url=empty_database_url) == [(1,)]


def test_report_files(world: World) -> None:
    world.add_rows(a_day(100, seed=5))
    world.subscribe()
    folder = world.folder / "reports" / "new"
    formats = [argument for form in ("html", "xlsx", "csv", "json") for argument in ("--format", form)]
    ran = world.run("backfill", *DAYS, "--output", str(folder), *formats)
    assert ran.code == 0, ran.err
    assert {file.suffix for file in folder.iterdir()} == {".html", ".xlsx", ".csv", ".json"}
    assert all(file.name.startswith("reconcile-") for file in folder.iterdir())
    (document,) = folder.glob("*.json")
    assert json.loads(document.read_text())["status"] == "agreed"


def test_settings_from_a_file(world: World) -> None:
    world.subscribe()
    lines = [f"{name}={value}\n" for name, value in world.environment.items()]
    env_file = world.folder / ".env"
    env_file.write_text("".join(lines))
    assert world.run("check", **dict.fromkeys(world.environment, "")).code == 0
    env_file.unlink()


def test_the_summary_is_for_people(world: World) -> None:
    world.add_rows([row("r-1", DAY), row("r-2", DAY, team_id="team-without-subscription", spend=1234.5)])
    world.subscribe()
    ran = world.run("backfill", *DAYS)
    assert ran.code == 1
    assert "team-without-subscription" in ran.out
    assert "1,234.50" in ran.out
    assert "{" not in ran.out


def test_the_young_end_of_a_range_is_cut_and_said(world: World) -> None:
    world.subscribe()
    world.add_rows([row("r-old", datetime.now(UTC) - timedelta(hours=3)), row("r-young", datetime.now(UTC))])
    today, tomorrow = (f"{datetime.now(UTC) + timedelta(days=days):%Y-%m-%d}" for days in (-1, 1))
    ran = world.backfill("--from", today, "--to", tomorrow)
    assert ran.code == 0, ran.err
    assert ran.count("rows", "delivered") == ran.count("rows", "total") == 1
    end = datetime.fromisoformat(ran.document["window"]["to"])
    assert timedelta(hours=2) <= datetime.now(UTC) - end < timedelta(hours=2, minutes=5)
    assert "the range is cut to" in ran.err
    assert "RECONCILE_LAG" in ran.err
    whole = world.run("report", "--json", "--from", today, "--to", tomorrow, RECONCILE_LAG="30s")
    assert datetime.now(UTC) - datetime.fromisoformat(whole.document["window"]["to"]) < timedelta(minutes=5)


def test_a_range_of_which_all_is_young_is_wrong_usage(world: World) -> None:
    begin = f"{datetime.now(UTC) - timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"
    for command in ("backfill", "report"):
        ran = world.run(command, "--json", "--from", begin, "--to", "2199-12-31")
        assert (ran.code, ran.out) == (2, "")
        assert "RECONCILE_LAG" in ran.err


def test_show_says_which_run_it_was(world: World) -> None:
    world.add_rows([row("r-1", DAY)])
    world.subscribe()
    document = world.backfill("--dry-run").document
    lines = world.run("show", document["run_id"]).out.splitlines()
    assert lines[:3] == [
        f"Run: {document['run_id']}",
        "Command: backfill --dry-run",
        "Exact instants (UTC): 2025-11-20T00:00:00Z to 2025-11-21T00:00:00Z",
    ]
    assert lines[3].startswith(f"Started: {document['method']['started_at']}")
    assert lines[4].startswith(f"Finished: {document['method']['finished_at']}")


def test_a_fault_before_anything_was_read_makes_no_empty_tables(world: World) -> None:
    ran = world.run("backfill", *DAYS, LAGO_API_BASE="http://127.0.0.1:1")
    assert ran.code == 3
    assert "Not finished" in ran.out
    assert "Total" not in ran.out
    assert "What to do" not in ran.out
    shown = world.run("runs", "--last")
    assert shown.out.splitlines()[1] == "Command: backfill"
    assert shown.out.endswith(ran.out)


def test_the_last_days_and_a_month(world: World) -> None:
    world.add_rows([row("r-1", DAY + timedelta(hours=1))])
    world.subscribe()
    settings = {"RECONCILE_TIMEZONE": "Europe/Berlin"}
    ran = world.run("backfill", "--json", "--month", "2025-11", "--dry-run", **settings)
    assert ran.document["window"] == {"from": "2025-10-31T23:00:00Z", "to": "2025-11-30T23:00:00Z"}
    assert ran.count("rows", "missing") == 1
    this_month = world.run("report", "--json", "--month", f"{datetime.now(UTC) - timedelta(hours=3):%Y-%m}")
    assert "asked_to" in this_month.document["window"]
    assert "the range is cut to" in this_month.err
    assert f"--month {datetime.now(UTC) - timedelta(hours=3):%Y-%m} ends at" in this_month.err
    ran = world.run("report", "--json", "--last", "7d")
    assert ran.code == 0, ran.err
    start, end = (datetime.fromisoformat(ran.document["window"][edge]) for edge in ("from", "to"))
    assert end - start == timedelta(days=7)
    assert timedelta(hours=2) <= datetime.now(UTC) - end < timedelta(hours=2, minutes=5)
    assert "asked_to" not in ran.document["window"]


def test_the_last_run(world: World) -> None:
    world.add_rows([row("r-1", DAY)])
    world.subscribe()
    world.backfill()
    document = world.run("report", "--json", *DAYS).document
    assert world.run("runs", "--last", "--json").document == document
    shown = world.run("runs", "--last")
    assert shown.code == 0
    assert shown.out == world.run("show", document["run_id"]).out
    assert shown.out.startswith(f"Run: {document['run_id']}\nCommand: report\n")
    assert world.run("runs", "--last", "--lang", "zh-CN").out.startswith(f"运行编号: {document['run_id']}\n")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes_run_ids(world: World, shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def completed(words: str, **settings: str) -> list[str]:
        """The run IDs that the shell is offered."""
        asked = {
            "_RECONCILE_COMPLETE": f"complete_{shell}",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split(" ")) - 1),
            "_TYPER_COMPLETE_ARGS": words,
            "_TYPER_COMPLETE_FISH_ACTION": "get-args",
            "_TYPER_COMPLETE_WORD_TO_COMPLETE": words.split(" ")[-1],
        }
        for name, value in asked.items():
            monkeypatch.setenv(name, value)
        ran = world.run(**settings)
        for name in asked:
            monkeypatch.delenv(name)
        assert ran.err == ""
        return re.findall(r"\b[0-9]{4}-[0-9-]+T[0-9-]+Z-[0-9a-f]{4}\b", ran.out)

    assert completed("reconcile show 2") == []
    run_id = world.backfill().document["run_id"]
    assert completed("reconcile show ") == [run_id]
    assert completed(f"reconcile show {run_id[:9]}") == [run_id]
    assert completed("reconcile show 1999") == []
    # What is wrong is for the command to say.
    assert completed("reconcile show 2", DATABASE_URL="", LAGO_API_BASE="") == []
    assert completed("reconcile show 2", DATABASE_URL="postgresql://u:p@127.0.0.1:1/none") == []

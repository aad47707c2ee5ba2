"""`reconcile schedule` as a process, with a clock that the test sets."""

from __future__ import annotations

import signal
import time
from collections import Counter
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from reconcile.unattended.schedule import Service

from .conftest import World

NIGHTLY = """
timezone: Europe/Berlin
jobs:
  nightly:
    cron: "30 2 * * *"
    command: run
    report: {folder: reports, formats: [json]}
"""


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def test_every_night_once_also_when_the_clocks_go_back(world: World) -> None:
    world.cron(NIGHTLY)
    world.add_rows("2026-10-23T20:00Z", "2026-10-24T20:00Z", "2026-10-25T20:00Z")
    process = world.start("2026-10-23T12:00Z", RECONCILE_METRICS_ADDRESS="127.0.0.1:0")
    port = process.saw("metrics served")["port"]
    process.saw("schedule at work")
    process.saw("waiting for the next firing")
    for night in ("2026-10-24T00:30:01Z", "2026-10-25T00:30:01Z"):  # 02:30 in summer
        process.at(night)
        process.saw("job ends", exit_code=0, job="nightly")
        process.saw("waiting for the next firing")
    process.at("2026-10-25T01:30:01Z")  # 02:30 once more, in winter
    process.signal(signal.SIGHUP)  # the scheduler has looked at its jobs when it is answered
    process.saw("cron.yaml taken")
    process.saw("waiting for the next firing")
    process.at("2026-10-26T01:30:01Z")
    process.saw("job ends", exit_code=0)
    ends = [
        utc(night) - timedelta(hours=2) for night in ("2026-10-24T00:30Z", "2026-10-25T00:30Z", "2026-10-26T01:30Z")
    ]
    runs = world.runs()
    assert [code for code, _, _ in runs] == [0, 0, 0]
    assert all(timedelta(0) <= run[2] - end < timedelta(minutes=1) for run, end in zip(runs, ends, strict=True))
    assert all(run[2] - run[1] >= timedelta(hours=24) for run in runs)
    assert set(world.billed().values()) == {1}
    assert len(world.billed()) == 3
    assert len(list((world.folder / "reports").glob("reconcile-*.json"))) == 3

    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        assert client.get("/healthz").text == "ok\n"
        assert client.get("/").status_code == 404
        exposed = client.get("/metrics").text
    stream = 'charge_by="team_id",event_code="llm_usage"'
    assert 'reconcile_job_runs_total{exit_code="0",job="nightly"} 3.0' in exposed
    assert 'reconcile_rows{charge_by="team_id",class="delivered",event_code="llm_usage"} 1.0' in exposed
    assert f"reconcile_last_run_exit_code{{{stream}}} 0.0" in exposed

    process.signal(signal.SIGTERM)
    assert process.ended() == 0


def test_the_hour_that_is_skipped_does_not_skip_the_night(world: World) -> None:
    world.cron(NIGHTLY)
    process = world.start("2026-03-28T12:00Z")
    process.saw("schedule at work")
    process.saw("waiting for the next firing")
    process.at("2026-03-29T01:29:59Z")
    process.signal(signal.SIGHUP)
    process.saw("cron.yaml taken")
    process.saw("waiting for the next firing")
    process.at("2026-03-29T01:30:01Z")  # 03:30; there is no 02:30
    process.saw("job ends", exit_code=0)
    process.saw("waiting for the next firing")
    process.at("2026-03-30T00:30:01Z")
    process.saw("job ends", exit_code=0)
    assert len(world.runs()) == 2


def test_a_week_that_was_missed_is_one_run_over_all_of_it(world: World) -> None:
    world.cron(NIGHTLY)
    days = [f"2026-11-{day:02}T12:00Z" for day in range(2, 10)]
    world.add_rows(*days)
    process = world.start("2026-11-02T20:00Z")
    process.saw("schedule at work")
    process.saw("waiting for the next firing")
    process.at("2026-11-03T01:30:01Z")
    process.saw("job ends", exit_code=0)
    process.signal(signal.SIGTERM)
    assert process.ended() == 0
    assert world.billed() == Counter({f"{days[0]}-0": 1})

    process = world.start("2026-11-10T07:00Z")
    assert process.saw("catching up")["missed_firings"] == 6
    process.saw("job ends", exit_code=0)
    first, second = world.runs()
    assert (second[1], second[2]) == (first[2], pytest.approx(utc("2026-11-10T05:00Z"), abs=timedelta(minutes=1)))
    assert world.billed() == Counter({f"{day}-0": 1 for day in days})
    process.signal(signal.SIGTERM)
    assert process.ended() == 0

    process = world.start("2026-11-10T08:00Z")  # nothing is due
    process.saw("schedule at work")
    process.saw("waiting for the next firing")
    process.at("2026-11-11T01:30:01Z")
    process.saw("job ends", exit_code=0)
    assert not any(line["event"] == "catching up" for line in process.lines)


def test_a_run_that_meets_a_manual_backfill_is_tried_again(world: World) -> None:
    world.cron(NIGHTLY)
    world.add_rows("2026-11-02T12:00Z")
    process = world.start("2026-11-02T20:00Z")
    process.saw("schedule at work")
    world.lago.faults.hang(method="POST")
    dates = ("--from", "2026-11-02", "--to", "2026-11-02T18:00Z")
    manual = world.start("2026-11-03T01:29Z", "backfill", *dates, RECONCILE_TIMEOUT="1h")
    world.sees_posts(1)
    process.at("2026-11-03T01:30:01Z")
    process.saw("another run of this stream")
    process.saw("job ends", exit_code=4)
    process.saw("trying again later")
    manual.popen.kill()
    manual.ended()
    process.at("2026-11-03T01:36Z")
    process.saw("job ends", exit_code=0)
    assert world.billed() == Counter({"2026-11-02T12:00Z-0": 1})


def test_a_changed_file_is_taken_and_a_broken_one_is_not(world: World) -> None:
    world.cron(NIGHTLY)
    process = world.start("2026-11-02T20:00Z")
    process.saw("schedule at work", jobs=["nightly"])
    world.cron(NIGHTLY.replace("30 2", "30 25"))
    refused = process.saw("cron.yaml not taken")
    assert refused["problem"].startswith("cron.yaml:5: jobs.nightly.cron: ")
    world.cron(
        NIGHTLY.replace("nightly", "evening").replace("30 2", "30 22") + '  never: {cron: "0 0 29 2 *", command: run}\n'
    )
    process.saw("cron.yaml taken", jobs=["evening", "never"])
    process.saw("waiting for the next firing", job="evening")
    process.at("2026-11-02T21:30:01Z")
    process.saw("job ends", job="evening", exit_code=0)
    process.saw("waiting for the next firing", job="evening")
    process.at("2026-11-03T01:30:01Z")
    process.signal(signal.SIGHUP)
    process.saw("cron.yaml taken")
    (world.folder / "cron.yaml").unlink()
    process.saw("cron.yaml not taken")
    process.signal(signal.SIGINT)
    assert process.ended() == 0
    assert len(world.runs()) == 1


def test_sigterm_in_the_middle_of_a_delivery(world: World) -> None:
    """What is on its way ends, the process exits 0, and the next one sends the rest: each row once."""
    world.cron(NIGHTLY)
    world.add_rows("2026-11-02T12:00Z", count=250)
    world.lago.faults.answer(429, after=1, times=1, method="POST", headers={"x-ratelimit-reset": "3600"}, body=b"")
    process = world.start("2026-11-02T20:00Z", RECONCILE_CONCURRENCY="1")
    process.saw("schedule at work")
    process.saw("waiting for the next firing")
    process.at("2026-11-03T01:30:01Z")
    process.saw("job begins")
    world.sees_posts(2)
    told = time.monotonic()
    process.signal(signal.SIGTERM)
    assert process.ended() == 0
    assert time.monotonic() - told < 10
    assert process.lines[-1]["event"] == "stopped"
    assert process.lines[-1]["in_order"] is True
    assert sum(world.billed().values()) == 100

    process = world.start("2026-11-03T02:00Z")
    process.saw("job ends", exit_code=0)
    assert world.billed() == Counter({f"2026-11-02T12:00Z-{number}": 1 for number in range(250)})


def test_sigterm_while_lago_hangs(world: World) -> None:
    world.cron(NIGHTLY)
    world.add_rows("2026-11-02T12:00Z")
    world.lago.faults.hang(method="POST")
    process = world.start("2026-11-02T20:00Z", RECONCILE_TIMEOUT="1h", STOP_SECONDS="0.5")
    process.saw("schedule at work")
    process.saw("waiting for the next firing")
    process.at("2026-11-03T01:30:01Z")
    world.sees_posts(1)
    process.signal(signal.SIGTERM)
    assert process.ended() == 0

    process = world.start("2026-11-03T02:00Z")
    process.saw("job ends", exit_code=0)
    assert world.billed() == Counter({"2026-11-02T12:00Z-0": 1})


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"LAGO_API_KEY": ""}, "reconcile: LAGO_API_KEY: is not set"),
        ({"RECONCILE_STATE_URL": "postgresql://nobody:s3cret@{host}/postgres"}, "reconcile: RECONCILE_STATE_URL: "),
        ({"RECONCILE_METRICS_ADDRESS": "192.0.2.1:9464"}, "reconcile: RECONCILE_METRICS_ADDRESS: 192.0.2.1:9464 "),
    ],
)
def test_what_is_wrong_from_the_start_ends_it_with_2(world: World, settings: dict[str, str], says: str) -> None:
    world.cron(NIGHTLY)
    host = world.database_url.rpartition("@")[2].partition("/")[0]
    process = world.start("2026-11-02T20:00Z", **{name: value.format(host=host) for name, value in settings.items()})
    assert process.ended() == 2
    assert process.lines[-1]["event"].startswith(says)


def test_a_ledger_that_does_not_answer_is_waited_for(world: World) -> None:
    world.cron(NIGHTLY)
    process = world.start("2026-11-02T20:00Z", RECONCILE_STATE_URL="postgresql://postgres@127.0.0.1:1/postgres")
    process.saw("RECONCILE_STATE_URL: ", kind="database")
    process.saw("trying again later")
    process.signal(signal.SIGTERM)
    assert process.ended() == 0


def test_a_log_that_nobody_reads_any_more_stops_no_job(world: World) -> None:
    world.cron(NIGHTLY)
    world.add_rows("2026-11-02T12:00Z", "2026-11-03T12:00Z")
    process = world.start("2026-11-02T20:00Z", RECONCILE_METRICS_ADDRESS="127.0.0.1:0")
    port = process.saw("metrics served")["port"]
    process.saw("waiting for the next firing")
    process.reader_leaves()
    process.at("2026-11-03T01:30:01Z")
    world.sees_posts(1)
    process.at("2026-11-04T01:30:01Z")
    world.sees_posts(2)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        assert client.get("/healthz").status_code == 200
    process.signal(signal.SIGTERM)
    assert process.ended() == 0
    assert world.billed() == Counter({"2026-11-02T12:00Z-0": 1, "2026-11-03T12:00Z-0": 1})


def test_a_clock_that_goes_back_a_year_is_followed(world: World) -> None:
    """What the scheduler had planned by the wrong clock is planned anew."""
    world.cron(NIGHTLY)
    process = world.start("2027-11-02T20:00Z")
    process.saw("waiting for the next firing")
    process.at("2026-11-03T01:31:00Z")
    process.saw("job ends", exit_code=0)
    process.saw("waiting for the next firing")
    process.at("2026-11-04T01:30:01Z")
    process.saw("job ends", exit_code=0)
    process.signal(signal.SIGTERM)
    assert process.ended() == 0
    assert len(world.runs()) == 2


def test_it_is_not_healthy_once_it_runs_nothing_any_more(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.cron(NIGHTLY)
    for name, value in {**world.environment, "RECONCILE_METRICS_ADDRESS": "off"}.items():
        monkeypatch.setenv(name, value)
    service = Service(world.folder / "cron.yaml")
    assert service._healthy()
    monkeypatch.setattr("reconcile.unattended.schedule.service._STALLED_SECONDS", 0.0)
    service._ticked = time.monotonic() + 1000  # the loop turns, and the scheduler's threads do nothing
    assert not service._healthy()
    service._pulse()
    service._beat += 1000
    assert service._healthy()
    service._ticked = time.monotonic() - 1
    assert not service._healthy()

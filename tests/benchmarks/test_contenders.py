"""The benchmarks in small, without limits on time: every contender does what its figure says it does."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import contenders, data
from benchmarks.__main__ import instants, running_lago, table

ROOT = Path(__file__).parents[2]
ROWS = 1_000


def test_the_floor_and_the_job_leave_in_lago_what_belongs_there(tmp_path: Path) -> None:
    """All scenarios; the push comes from the first part of a day, as it does with a million rows."""
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks", "--rows", str(ROWS), "--days", "2", "--runs", "1", "--latency", "0"]
    ran = subprocess.run(
        [*command, "--contenders", "floor,job", "--json", file], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    figures = json.loads(file.read_text())
    sent = {(figure["scenario"].partition(" ")[0], figure["who"]): 0 for figure in figures}
    for figure in figures:
        assert figure["wrong"] == ""
        assert figure["seconds_of_each"] == [round(figure["seconds"], 3)]
        sent[figure["scenario"].partition(" ")[0], figure["who"]] += figure["sent"]
    lost = sent["S2", "job"]
    assert 0 < lost < ROWS / 20
    assert sent == {
        ("S1", "floor"): 2 * ROWS,  # with and without what is read back
        ("S1", "job"): ROWS,
        ("S2", "floor"): lost,
        ("S2", "job"): lost,
        ("S3", "floor"): 0,
        ("S3", "job"): ROWS,  # the first night
        ("S4", "floor"): 0,
        ("S4", "job"): 0,
    }
    assert ran.stdout.startswith("| scenario | who |")
    assert "job, 2 times the rows" in ran.stdout


@pytest.fixture
def asked(database_url: str, tmp_path: Path) -> argparse.Namespace:
    """A day whose live events are written down, and what a contender is asked about it."""
    begin, end = instants(data.span_of(ROWS, ROWS))
    data.fill(database_url, ROWS, 1, teams=5, metadata=800)
    data.write_live_events(database_url, f"NOT {data.LOST}", tmp_path / "found.events")
    return argparse.Namespace(database=database_url, begin=begin, end=end, dry=False, live=tmp_path / "found.events")


def test_the_naive_script_sends_what_is_missing_once(asked: argparse.Namespace) -> None:
    lost = data.count(asked.database, data.LOST)
    with running_lago(5) as lago:
        asked.lago = lago.url
        assert lago.tell("load", file=asked.live)["events"] == ROWS - lost
        found = contenders.naive(asked)
        assert (found["listed"], found["missing"]) == (ROWS - lost, lost)
        assert lago.tell("stats")["events"] == ROWS
        assert contenders.naive(asked)["missing"] == 0
        assert lago.tell("keep")["events"] == ROWS
        assert lago.tell("reset")["events"] == ROWS


def test_the_days_first_rows_lie_in_its_first_part(asked: argparse.Namespace) -> None:
    begin, end = instants(data.span_of(ROWS // 10, ROWS))
    assert data.count(asked.database, f""""endTime" >= '{begin}' AND "endTime" < '{end}'""") == ROWS // 10


def test_a_page_mixes_what_was_loaded_and_what_was_posted(asked: argparse.Namespace) -> None:
    """In Lago's order, newest first; a batch that holds what is there already is refused as a whole."""
    import httpx

    posted = {
        "transaction_id": "t-1",
        "external_subscription_id": "team-0001",
        "code": data.CODE,
        "timestamp": f"{data.LAST_DAY.timestamp() + 43_200:.3f}",
        "properties": {"response_cost": "0.5"},
    }
    with running_lago(5) as lago:
        kept = lago.tell("load", file=asked.live)["events"]
        api = f"{lago.url}/api/v1"
        other = {**posted, "transaction_id": "t-2"}
        for path, body, status, count in (
            ("events/batch", {"events": [posted]}, 200, 1),
            ("events/batch", {"events": [other, posted]}, 422, 1),
            ("events", {"event": other | {"timestamp": str(data.LAST_DAY.timestamp() + 43_200.005)}}, 200, 2),
            ("events", {"event": other}, 422, 2),
        ):
            assert httpx.post(f"{api}/{path}", json=body).status_code == status
            assert lago.tell("stats")["events"] == kept + count
        window = {"timestamp_from": "2026-10-31T11:00:00Z", "timestamp_to": "2026-10-31T13:00:00Z", "code": data.CODE}
        times: list[str] = []
        page: int | None = 1
        while page:
            answer = httpx.get(f"{api}/events", params={**window, "per_page": 20, "page": page}).json()
            times += [event["timestamp"] for event in answer["events"]]
            page = answer["meta"]["next_page"]
        assert times == sorted(times, reverse=True)
        assert len(times) == answer["meta"]["total_count"] > 20
        place = times.index("2026-10-31T12:00:00.000Z")
        for until, count in ((times[place - 1], 3), (times[place], 2)):
            window = {"timestamp_from": times[place + 1], "timestamp_to": until, "code": data.CODE}
            answer = httpx.get(f"{api}/events", params=window).json()
            shown = [event["timestamp"] for event in answer["events"]]
            assert (shown[0], shown[-1]) == (until, times[place + 1])
            assert len(shown) == answer["meta"]["total_count"] == count


def test_the_table_compares_each_with_the_floor_and_the_job_of_its_scenario() -> None:
    from benchmarks.__main__ import Figure

    def figure(scenario: str, who: str, seconds: float) -> Figure:
        return Figure(scenario, who, 100, seconds, 1.0, 50.0, 0.1, 0.2, 0.0, 7, 1, 100, [seconds], "")

    lines = table(
        [
            figure("S1 push", "floor", 1.0),
            figure("S1 push", "naive", 12.0),
            figure("S1 push, read back", "floor", 2.0),
            figure("S1 push, read back", "job", 3.0),
        ]
    ).splitlines()[2:]
    ratios = [tuple(cell.strip() for cell in line.split("|")[4:6]) for line in lines]
    assert ratios == [("", ""), ("12.00", "4.00"), ("", ""), ("1.50", "")]

"""The committed sample traffic: what it promises, and that its rows fit LiteLLM's table."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from importlib.resources import files
from typing import Any

import psycopg
import pytest

from reconcile.sandbox.litellm_schema import insert_rows
from reconcile.sandbox.traffic import EVENT_CODE, Traffic, load_traffic

from .captured import captured_events, captured_rows
from .versions import NEWEST

LAST_DAY = date(2024, 3, 1)  # the days before it hold a 29 February
CHARGE_BYS = {"team_id": "team_id", "user_id": "user", "end_user_id": "end_user"}
TOKENS = ("prompt_tokens", "completion_tokens", "total_tokens")


@pytest.fixture(scope="module", params=CHARGE_BYS)
def charge_by(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def traffic(charge_by: str) -> Traffic:
    return load_traffic(LAST_DAY, charge_by)


def by_request_id(traffic: Traffic) -> dict[str, dict[str, Any]]:
    return {row["request_id"]: row for row in traffic.rows}


def test_the_file_says_where_it_comes_from_and_is_small() -> None:
    packed = files("reconcile.sandbox").joinpath("data/sample_traffic.json.gz").read_bytes()
    data = json.loads(gzip.decompress(packed))
    assert data["made_by"] == "tools/make_sample_traffic.py"
    assert data["litellm"] == NEWEST
    assert packed[4:8] == b"\0\0\0\0"  # gzip's own timestamp: the bytes depend on nothing but the content
    assert len(packed) < 400_000


def test_four_days_end_on_the_day_asked_for(traffic: Traffic) -> None:
    days = Counter(row["endTime"].date() for row in traffic.rows)
    assert set(days) == {LAST_DAY - timedelta(days=back) for back in range(4)}
    assert min(days.values()) > 300
    assert 1_500 <= len(traffic.rows) <= 2_500
    assert max(event.received_at for event in traffic.events) < datetime(2024, 3, 2, tzinfo=UTC)
    assert traffic.events == sorted(traffic.events, key=lambda event: event.received_at)


def test_another_last_day_moves_every_time_by_whole_days_and_nothing_else() -> None:
    one, other = load_traffic(LAST_DAY), load_traffic(LAST_DAY + timedelta(days=400))
    shift = timedelta(days=400)
    times = ("startTime", "endTime", "completionStartTime", "created_at", "updated_at")
    moved = [{**row, **{name: row[name] + shift for name in times}} for row in one.rows]
    assert moved == other.rows
    assert [(event.received_at + shift, event.event) for event in one.events] == [
        (event.received_at, event.event) for event in other.events
    ]
    assert one.truth == other.truth


def test_every_event_is_its_rows_unless_the_truth_says_otherwise(traffic: Traffic, charge_by: str) -> None:
    truth, rows = traffic.truth, by_request_id(traffic)
    for live in traffic.events:
        event, properties = live.event, live.event["properties"]
        row_id = truth.row_of[event["transaction_id"]]
        assert (row_id is None) == (event["transaction_id"] in truth.orphans)
        if row_id is None:
            continue
        row = rows[row_id]
        assert row["status"] == "success"
        same_id = event["external_subscription_id"] == row[CHARGE_BYS[charge_by]]
        assert same_id == (event["transaction_id"] not in truth.misdirected)
        same_cost = (properties["response_cost"] or 0.0) == row["spend"]
        assert same_cost == (event["transaction_id"] not in (*truth.other_cost, *truth.no_cost))
        assert all(properties[name] == row[name] for name in TOKENS if name in properties)
        latency = live.received_at - row["endTime"].replace(tzinfo=UTC)
        late = event["transaction_id"] in truth.late
        assert (timedelta(minutes=6) if late else timedelta(milliseconds=2)) <= latency
        assert latency <= (timedelta(minutes=26) if late else timedelta(seconds=30))


def test_the_truth_covers_every_billable_row(traffic: Traffic, charge_by: str) -> None:
    truth, column = traffic.truth, CHARGE_BYS[charge_by]
    billable = {row["request_id"] for row in traffic.rows if row["status"] == "success" and row[column]}
    received = Counter(row for row in truth.row_of.values() if row)
    without_id = {truth.row_of[transaction_id] for transaction_id in truth.no_subscription_id}
    assert billable == (set(received) - without_id) | set(truth.lost) | set(truth.never_sent)
    assert not set(truth.lost) & set(received)
    assert not set(truth.never_sent) & set(received)
    assert {row for row, times in received.items() if times == 2} == {truth.row_of[one] for one in truth.doubled}
    assert len(truth.doubled) == 4
    assert len(truth.misdirected) == 1
    assert len(truth.no_cost) == len(truth.late) == 3
    assert len(truth.orphans) == 3
    assert 0.01 < len(truth.lost) / len(billable) < 0.03
    assert (truth.no_subscription_id != ()) == (charge_by == "end_user_id")
    assert (len(truth.never_sent) > 100) == (charge_by == "end_user_id")  # end users that only a header named


def test_charge_ids_are_those_of_rows_and_events(traffic: Traffic, charge_by: str) -> None:
    wanted = {row[CHARGE_BYS[charge_by]] for row in traffic.rows}
    assert traffic.charge_ids == sorted(wanted - {""})
    assert {event.event["external_subscription_id"] for event in traffic.events} <= wanted
    assert {event.event["code"] for event in traffic.events} == {EVENT_CODE}


def test_the_odd_calls_are_there() -> None:
    traffic = load_traffic(LAST_DAY)
    length = {row["request_id"]: row["endTime"] - row["startTime"] for row in traffic.rows}
    assert max(length.values()) == timedelta(hours=9)
    assert min(length.values()) == timedelta(seconds=-2)
    assert sum(timedelta(minutes=4) <= one < timedelta(hours=1) for one in length.values()) >= 20
    over_midnight = [row for row in traffic.rows if row["startTime"].date() < row["endTime"].date()]
    assert len({row["endTime"].date() for row in over_midnight}) == 3
    statuses = Counter(row["status"] for row in traffic.rows)
    assert statuses["failure"] > 20
    assert any(row["status"] == "failure" and row["spend"] > 0 for row in traffic.rows)
    assert sum(row["cache_hit"] == "True" for row in traffic.rows) == 25
    assert sum(row["spend"] == 0 and row["total_tokens"] > 0 for row in traffic.rows) > 50
    assert sum(row["team_id"] == "" for row in traffic.rows) > 20
    assert max(len(group) for group in traffic.truth.twins) == 5
    lost = set(traffic.truth.lost)
    assert any(0 < len(lost & set(group)) < len(group) for group in traffic.truth.twins)


@pytest.mark.parametrize(
    "rows",
    [load_traffic(LAST_DAY).rows, captured_rows("mock"), captured_rows("upstream_team")],
    ids=["sample", "mock", "upstream_team"],
)
def test_the_rows_go_into_litellms_table_as_they_are(rows: list[dict[str, Any]], database_url: str) -> None:
    insert_rows(database_url, rows)
    with psycopg.connect(database_url) as connection, connection.cursor() as cursor:
        cursor.execute('SELECT request_id, "startTime", "endTime", spend, metadata FROM "LiteLLM_SpendLogs"')
        stored = {request_id: rest for request_id, *rest in cursor}
    wanted = {
        row["request_id"]: [row["startTime"], row["endTime"], row["spend"], json.loads(row["metadata"])] for row in rows
    }
    assert stored == wanted


def test_the_captured_traffic_is_whole() -> None:
    assert len(captured_rows("mock")) == 10
    assert len(captured_events("mock")) == 8
    upstream, events = captured_rows("upstream_team"), captured_events("upstream_team")
    assert len(upstream) == 14  # of 15: chatcmpl-42 collided
    assert len(events) == 15
    for row in upstream:
        soon = [
            event
            for event in events
            if timedelta(0) <= event.received_at - row["endTime"].replace(tzinfo=UTC) < timedelta(seconds=1)
        ]
        assert [event.event["external_subscription_id"] for event in soon] == [row["team_id"]]
        assert [event.event["properties"]["response_cost"] or 0.0 for event in soon] == [row["spend"]]

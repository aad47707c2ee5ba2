"""The client against the sandbox's Lago, which keeps its events under Lago's own index in a real Postgres."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from reconcile.errors import PreflightError
from reconcile.lago import Directory, EventShape, Lago, Remembered, Usage

from .lago_double import QUICK

if TYPE_CHECKING:
    from tests.conftest import Lago as Served

START = datetime(2026, 11, 20, tzinfo=UTC)
END = datetime(2026, 11, 21, tzinfo=UTC)


class Forgetful:
    def load(self, keys: Sequence[str]) -> Mapping[str, Remembered]:
        return {}

    def store(self, entries: Sequence[Remembered]) -> None:
        return


def events(count: int) -> list[dict[str, Any]]:
    step = (END - START) / count
    return [
        {
            "transaction_id": f"t{number:04}",
            "external_subscription_id": f"team-{number % 3}",
            "code": "llm_usage",
            "timestamp": f"{(START + number * step).timestamp():.3f}",
            "properties": {"model": "gpt", "response_cost": "0.0000051", "prompt_tokens": "10"},
        }
        for number in range(count)
    ]


@pytest.fixture
def over_http(lago: Served) -> Iterator[Lago]:
    with Lago(lago.url, lago.key, concurrency=4, timeout=10, retry=QUICK) as client:
        yield client


def test_deliver_twice_and_list(lago: Served, over_http: Lago) -> None:
    sent = events(1_000)
    lago.faults.max_per_page = 37
    assert {outcome.status for outcome in over_http.deliver(sent)} == {"accepted"}
    assert {outcome.status for outcome in over_http.deliver(sent)} == {"exists"}
    frame = over_http.list_events("llm_usage", START, END)
    assert sorted(frame["transaction_id"]) == [event["transaction_id"] for event in sent]
    assert frame["response_cost"].eq(5.1e-06).all()
    assert over_http.count_events("llm_usage", START, START + timedelta(hours=12)) == 500


def test_lost_answers_and_an_old_lago(lago: Served, over_http: Lago) -> None:
    sent = events(300)
    lago.faults.before_1_39 = True
    over_http.deliver(sent[50:60])
    lago.faults.drop(times=2, path="/api/v1/events/batch")
    lago.faults.reset(times=1, path="/api/v1/events/batch")
    lago.faults.rate_limit(reset=0.1)
    assert {outcome.status for outcome in over_http.deliver(sent)} <= {"accepted", "exists"}
    assert Counter(event["transaction_id"] for event in lago.organization.stored_events()) == Counter(
        event["transaction_id"] for event in sent
    )


def test_clickhouse(clickhouse_lago: Served) -> None:
    sent = events(250)
    with Lago(clickhouse_lago.url, clickhouse_lago.key, retry=QUICK) as client:
        assert client.preflight.organization().events_store == "clickhouse"
        for _ in range(2):
            assert {outcome.status for outcome in client.deliver(sent)} == {"accepted"}
        clickhouse_lago.faults.max_per_page = 40
        frame = client.list_events("llm_usage", START, END, EventShape(store="clickhouse"))
    assert Counter(frame["transaction_id"]) == {event["transaction_id"]: 2 for event in sent}


def test_catalog(lago: Served, over_http: Lago) -> None:
    period = (datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC))
    october = (datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 10, 31, 23, 59, 59, tzinfo=UTC))
    lago.organization.add_subscription("team-0", external_customer_id="acme/1", started_at=october[0], period=period)
    lago.organization.add_subscription("gone", started_at=october[0], terminated_at=october[1])
    invoice = lago.organization.add_invoice("team-0", october)
    over_http.deliver(events(30))

    metric = over_http.metric("llm_usage")
    assert metric is not None
    assert (metric.aggregation_type, metric.field_name) == ("sum_agg", "response_cost")
    found = Directory(over_http, Forgetful(), code="llm_usage", by_customer=False, now_ms=0)
    found.learn(["team-0", "gone", "nobody"])
    ends = np.array([round(moment.timestamp() * 1000) for moment in (period[0], october[1], october[1])])
    assert found.coverage.judge(["team-0", "gone", "nobody"], ends).tolist() == ["", "", "no_subscription"]
    held = found.hold(["team-0", "team-0", "gone"], ends - np.array([0, 32 * 86_400_000, 0]))
    assert held.reason.tolist() == ["", "no_subscription", "period_closed"]
    assert found.hold(["team-0"], ends[1:2]).reason.tolist() == [""]  # the draft takes it
    assert [draft.lago_invoice_id for draft in found.drafts(["acme/1"])] == [invoice]
    usage = over_http.current_usage("acme/1", "team-0", "llm_usage")
    assert isinstance(usage, Usage)
    assert (usage.from_datetime, usage.to_datetime) == period
    assert [(charge.metric_code, charge.units, charge.events_count) for charge in usage.charges] == [
        ("llm_usage", Decimal("0.000051"), 10)
    ]
    assert over_http.current_usage("gone", "gone", "llm_usage") is None
    event = over_http.find_event("t0003")
    assert event is not None
    assert event["external_subscription_id"] == "team-0"
    assert over_http.find_event("t9999") is None


def test_keys_that_may_not(lago: Served) -> None:
    lago.organization.add_key("write-only", reads_events=False)
    with Lago(lago.url, "write-only") as client, pytest.raises(PreflightError, match="lacks a permission"):
        client.preflight.count_events("llm_usage", START, END)
    with Lago(lago.url, "unknown") as client, pytest.raises(PreflightError, match="does not know the key"):
        client.preflight.organization()

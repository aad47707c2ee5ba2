"""Listing: bounds, page sizes, depth, and a whole picture while events arrive."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from reconcile.domain.frames import EVENTS, check
from reconcile.errors import Interrupted, LagoFault, PreflightError
from reconcile.lago import EventShape, Lago

from .lago_double import KEY, QUICK, Double, Reply, Request, times

START = datetime(2026, 11, 20, tzinfo=UTC)
END = datetime(2026, 11, 21, tzinfo=UTC)


def event(name: str, at: datetime, subscription: str = "team-a", **properties: Any) -> dict[str, Any]:
    seconds = (at - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1) / 1e6
    return {
        "transaction_id": name,
        "external_subscription_id": subscription,
        "code": "llm",
        "timestamp": f"{seconds:.6f}",
        "properties": properties,
    }


def fill(double: Double, count: int, seed: int = 1, span: timedelta = END - START) -> list[str]:
    draw = random.Random(seed)
    names = [f"t{number:05}" for number in range(count)]
    for name in names:
        double.add(event(name, START + timedelta(milliseconds=draw.randrange(int(span / timedelta(milliseconds=1))))))
    return names


def listed(client: Lago, store: str = "postgres", **options: Any) -> list[str]:
    return sorted(client.list_events("llm", START, END, EventShape(store=store), **options)["transaction_id"])


def deepest(double: Double) -> int:
    return max(request.page for request in double.requests)


def test_half_open_to_the_microsecond(double: Double, client: Lago) -> None:
    us = timedelta(microseconds=1)
    inside = {"start": START, "late": END - us, "half": END - 500 * us}
    for name, at in {**inside, "before": START - us, "end": END, "far": END + timedelta(days=1)}.items():
        double.add(event(name, at))
    frame = client.list_events("llm", START, END)
    assert sorted(frame["transaction_id"]) == sorted(inside)
    assert client.count_events("llm", START, END) == 3
    assert double.requests[0].query["timestamp_from"] == ["2026-11-20T00:00:00.000000Z"]
    assert double.requests[-1].query["timestamp_to"] == ["2026-11-20T23:59:59.999999Z"]


def test_a_server_with_coarser_bounds_adds_nothing(double: Double, client: Lago) -> None:
    double.add(event("in", END - timedelta(milliseconds=1)))
    double.add(event("out", END))

    def coarse(request: Request) -> Reply | None:
        request.query["timestamp_to"] = [END.isoformat()]
        return None

    double.scripts.append(coarse)
    assert listed(client) == ["in"]


def test_other_codes_and_subscriptions_stay_out(double: Double, client: Lago) -> None:
    double.add(event("a", START))
    double.add(event("b", START, "team-b"))
    double.add(event("c", START) | {"code": "other"})
    assert listed(client) == ["a", "b"]
    assert listed(client, external_subscription_id="team-b") == ["b"]


@pytest.mark.parametrize("cap", [1, 17, 100, 1000])
def test_any_page_size_and_never_deep(double: Double, client: Lago, cap: int) -> None:
    double.page_cap = cap
    names = fill(double, 40 if cap == 1 else 400)
    assert listed(client) == names
    assert deepest(double) <= 10


def test_a_burst_in_one_instant_is_paged_on(double: Double, client: Lago) -> None:
    double.page_cap = 3
    names = [f"t{number:03}" for number in range(100)]
    for name in names:
        double.add(event(name, START + timedelta(hours=5)))
    assert listed(client) == names
    assert len(double.requests) < 200


@pytest.mark.parametrize("store", ["postgres", "clickhouse"])
def test_events_that_arrive_between_pages(double: Double, client: Lago, store: str) -> None:
    double.mode = store
    double.page_cap = 17
    names = fill(double, 120)
    arriving = iter(range(20))

    def arrive() -> None:
        if (number := next(arriving, None)) is not None:
            double.add(event(f"u{number:02}", END - timedelta(seconds=1 + number)))

    double.before_list = arrive
    found = Counter(listed(client, store=store))
    assert set(names) <= set(found)
    assert set(found.values()) == {1}


@pytest.mark.parametrize("store", ["postgres", "clickhouse"])
def test_events_that_never_stop_arriving(double: Double, client: Lago, store: str) -> None:
    double.mode = store
    double.page_cap = 17
    names = fill(double, 120)
    draw = random.Random(2)
    double.before_list = lambda: double.add(
        event(f"u{double.clock}", START + timedelta(milliseconds=draw.randrange(86_400_000)))
    )
    found = Counter(listed(client, store=store))
    assert set(names) <= set(found)
    assert set(found.values()) == {1}


def test_events_that_never_stop_arriving_in_one_instant(double: Double, client: Lago) -> None:
    double.page_cap = 17
    names = [f"t{number:03}" for number in range(60)]
    at = START + timedelta(hours=5)
    for name in names:
        double.add(event(name, at))
    double.before_list = lambda: double.add(event(f"s{double.clock:05}", at))
    found = Counter(listed(client))
    assert set(names) <= set(found)
    assert set(found.values()) == {1}
    assert len(double.requests) < 200


def test_ties_that_change_their_order_between_pages(double: Double, client: Lago) -> None:
    double.shuffle_ties = True
    double.page_cap = 10
    names = [f"t{number:03}" for number in range(60)]
    for number, name in enumerate(names):
        double.add(event(name, START + timedelta(hours=number // 20)))
    assert listed(client) == names


def test_clickhouse_lists_every_copy(double: Double, client: Lago) -> None:
    double.mode = "clickhouse"
    double.page_cap = 4
    for name in ["a", "b", "a", "c", "a", "b", *"defgh"]:
        double.add(event(name, START + timedelta(hours=ord(name) - ord("a"))))
    frame = client.list_events("llm", START, END, EventShape(store="clickhouse"))
    assert Counter(frame["transaction_id"]) == {"a": 3, "b": 2, **dict.fromkeys("cdefgh", 1)}


def test_clickhouse_lists_every_copy_of_one_instant(double: Double, client: Lago) -> None:
    double.mode = "clickhouse"
    double.page_cap = 4
    for _ in range(11):
        double.add(event("a", START))
    assert listed(client, store="clickhouse") == ["a"] * 11


def test_copies_are_kept_though_the_store_is_not_known(double: Double, client: Lago) -> None:
    double.mode = "clickhouse"
    for name in ["a", "b", "a"]:
        double.add(event(name, START))
    assert listed(client) == ["a", "a", "b"]


@pytest.mark.parametrize("error", [1, -1, 10**9, -(10**9)])
@pytest.mark.parametrize("store", ["postgres", "clickhouse"])
@pytest.mark.parametrize("cap", [20, 17, 1_000])
def test_a_wrong_count_neither_adds_nor_hides_an_event(
    double: Double, client: Lago, error: int, store: str, cap: int
) -> None:
    def wrong(request: Request) -> Reply | None:
        reply = double.serve(request)
        total = max(reply.body["meta"]["total_count"] + error, 0)
        reply.body["meta"] = {"total_count": total, "total_pages": -(-total // cap)}
        return reply

    double.page_cap = cap
    names = fill(double, 60)
    double.scripts.append(wrong)
    with Lago(double.url, KEY, retry=QUICK, page_size=min(cap, 20)) as lago:
        assert listed(lago, store=store) == names
    assert len(double.requests) < 600


@pytest.mark.parametrize("count", [100, 101, 250])
def test_an_old_count_of_a_server_with_small_pages(double: Double, client: Lago, count: int) -> None:
    """It grants 100 a page and counts what there was an hour ago: the first page looks like all there is."""
    double.page_cap = 100
    names = fill(double, count, span=timedelta(minutes=1))

    def old(request: Request) -> Reply | None:
        reply = double.serve(request)
        reply.body["meta"] = {"total_count": 100, "total_pages": 1, "next_page": None, "current_page": 1}
        return reply

    double.scripts.append(old)
    assert listed(client) == names


def test_a_full_page_of_a_window_is_looked_behind(double: Double) -> None:
    """The count stops at a page: only the length of the page tells."""
    names = fill(double, 300, span=timedelta(minutes=1))

    def capped(request: Request) -> Reply | None:
        reply = double.serve(request)
        reply.body["meta"] = {"total_count": min(reply.body["meta"]["total_count"], 40), "next_page": None}
        return reply

    double.scripts.append(capped)
    with Lago(double.url, KEY, retry=QUICK, page_size=40) as lago:
        assert listed(lago) == names


@pytest.mark.parametrize("meta", [["next_page"], ["total_pages", "current_page"], ["next_page", "total_pages"]])
def test_missing_meta_fields(double: Double, client: Lago, meta: list[str]) -> None:
    def sparse(request: Request) -> Reply | None:
        reply = double.serve(request)
        for name in meta:
            del reply.body["meta"][name]
        return reply

    double.page_cap = 7
    names = fill(double, 100)
    double.scripts.append(sparse)
    assert listed(client) == names


def test_without_any_meta_nothing_is_taken_for_whole(double: Double, client: Lago) -> None:
    double.scripts.append(lambda request: Reply(200, {"events": []}))
    assert listed(client) == []
    with pytest.raises(LagoFault, match="total_count"):
        client.count_events("llm", START, END)


def test_a_list_that_never_ends_is_a_fault(double: Double) -> None:
    one = {"code": "llm", "transaction_id": "a", "timestamp": "2026-11-20T00:00:00Z"}
    double.scripts = [lambda request: Reply(200, {"events": [one]})]
    with Lago(double.url, KEY, retry=QUICK) as lago, pytest.raises(LagoFault, match="did not settle"):
        listed(lago)
    assert len(double.requests) < 1_500


def test_progress_and_a_fault_on_the_way(double: Double, client: Lago) -> None:
    double.page_cap = 50
    names = fill(double, 120)
    pages: list[int] = []
    double.scripts.append(times(2, Reply(502, "<html>")))
    assert listed(client, on_page=pages.append) == names
    assert sum(pages) == 120


def test_stop_between_pages(double: Double) -> None:
    double.page_cap = 50
    fill(double, 300)
    with Lago(double.url, KEY, retry=QUICK) as lago, pytest.raises(Interrupted):
        lago.list_events("llm", START, END, on_page=lambda _: lago.http.stop.set())
    assert len(double.requests) == 1


def test_preflight_without_permission(double: Double, client: Lago) -> None:
    double.scripts.append(times(1, Reply(403, {"code": "read_action_not_allowed_for_event"})))
    with pytest.raises(PreflightError, match="permission"):
        client.preflight.count_events("llm", START, END)


@pytest.mark.parametrize(
    ("start", "end"), [(START, START), (END, START), (START + timedelta(microseconds=1), END)], ids=str
)
def test_bounds_that_make_no_interval(client: Lago, start: datetime, end: datetime) -> None:
    with pytest.raises(ValueError, match=r"empty|millisecond"):
        client.list_events("llm", start, end)


def test_an_empty_listing_has_the_same_columns(double: Double, client: Lago) -> None:
    empty = client.list_events("llm", START, END)
    double.add(event("a", START, model="gpt", response_cost=0.5, prompt_tokens=1, request_id="r"))
    full = client.list_events("llm", START, END)
    assert len(empty) == 0
    check(empty, EVENTS)
    check(full, EVENTS)

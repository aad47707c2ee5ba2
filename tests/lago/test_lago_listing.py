"""Listing: bounds, page sizes, depth, and a whole picture while events arrive."""

from __future__ import annotations

import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from reconcile.domain.frames import EVENTS, check
from reconcile.errors import Interrupted, LagoFault, PreflightError
from reconcile.lago import EventShape, Lago, Retry

from .lago_double import KEY, QUICK, Double, Reply, Request, times, visible

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


# --- windows, as few and as narrow as the traffic allows


def widths(double: Double) -> list[timedelta]:
    """How wide was asked for, in the order of the requests."""
    return [
        datetime.fromisoformat(r.query["timestamp_to"][0]) - datetime.fromisoformat(r.query["timestamp_from"][0])
        for r in double.requests
    ]


def windows(double: Double) -> int:
    return len({(r.query["timestamp_from"][0], r.query["timestamp_to"][0]) for r in double.requests})


def test_few_requests_and_no_wide_offsets(double: Double) -> None:
    names = fill(double, 12_000, span=timedelta(hours=3))
    with Lago(double.url, KEY, retry=QUICK) as lago:
        frame = lago.list_events("llm", START, START + timedelta(hours=3))
    assert sorted(frame["transaction_id"]) == names
    assert len(double.requests) <= 1.05 * 12 + windows(double)
    assert len(double.requests) <= 22
    assert deepest(double) <= 2
    assert all(request.query["per_page"] == ["1000"] for request in double.requests)


def test_little_traffic_costs_a_few_requests(double: Double, client: Lago) -> None:
    names = fill(double, 30)
    assert listed(client) == names
    assert len(double.requests) <= 4
    double.requests.clear()
    assert listed(client) == names
    assert len(double.requests) <= 2


def test_a_burst_is_cut_and_not_paged_through(double: Double) -> None:
    names = fill(double, 3_000, span=timedelta(seconds=20))
    with Lago(double.url, KEY, retry=QUICK, page_size=100) as lago:
        assert listed(lago) == names
    assert deepest(double) <= 10
    assert len(double.requests) < 60


@pytest.mark.parametrize("too_slow", [Reply(504, "<html>gateway timeout</html>"), None], ids=["504", "no answer"])
def test_a_lago_that_cannot_list_wide(double: Double, too_slow: Reply | None) -> None:
    """It answers to no range over 30 minutes: large organizations are known for it."""
    released = threading.Event()
    refused: list[timedelta] = []

    def patience(request: Request) -> Reply | None:
        low, high = (datetime.fromisoformat(request.query[name][0]) for name in ("timestamp_from", "timestamp_to"))
        if high - low < timedelta(minutes=30):
            return None
        refused.append(high - low)
        if too_slow is None:
            released.wait(10)
        return too_slow

    double.scripts.append(patience)
    names = fill(double, 300)
    try:
        with Lago(double.url, KEY, retry=QUICK, timeout=0.3) as lago:
            assert listed(lago) == names
            widest = lago.widest
            assert len(refused) <= 3
            assert widest is not None
            assert timedelta(minutes=10) <= widest <= timedelta(minutes=30)
            assert listed(lago) == names
            assert len(refused) <= 3  # remembered
        refused.clear()
        with Lago(double.url, KEY, retry=QUICK, timeout=0.3, widest=widest) as lago:
            assert listed(lago) == names
        assert refused == []
    finally:
        released.set()
    assert len(double.requests) < 3 * 24 * 6


def test_a_lago_that_answers_504_to_everything_is_a_fault(double: Double) -> None:
    double.scripts.append(times(-1, Reply(504, "<html>")))
    with Lago(double.url, KEY, retry=QUICK) as lago:
        with pytest.raises(LagoFault, match="504"):
            listed(lago)
        assert lago.widest is None
    assert len(double.requests) < 30


def test_a_504_that_passes_teaches_little(double: Double, client: Lago) -> None:
    names = fill(double, 40)
    double.scripts.append(times(12, Reply(504, "<html>")))
    with Lago(double.url, KEY, retry=Retry(attempts=6, wait_initial=0.002, wait_max=0.004)) as lago:
        assert listed(lago) == names
        assert lago.widest is None


def test_a_server_that_ignores_its_filters(double: Double, client: Lago) -> None:
    """Every code and every time comes, whatever was asked for."""
    double.add(event("a", START + timedelta(hours=1)))
    double.add(event("b", START - timedelta(hours=1)))
    double.add(event("c", END))
    double.add(event("d", START, "team-b"))
    double.add(event("e", START) | {"code": "other"})

    def deaf(request: Request) -> Reply | None:
        found = sorted(double.stored, key=lambda one: one["_moment"], reverse=True)
        shown = [visible(one) for one in found] if request.page == 1 else []
        return Reply(200, {"events": shown, "meta": {"total_count": 5, "total_pages": 1, "next_page": None}})

    double.scripts.append(deaf)
    assert listed(client) == ["a", "d"]
    assert listed(client, external_subscription_id="team-b") == ["d"]


# --- pieces


def test_pieces_come_in_order_and_hold_what_is_theirs(double: Double, client: Lago) -> None:
    names = fill(double, 300)
    double.add(event("edge", START + timedelta(hours=6)))
    edges = [START, *(START + timedelta(hours=hour) for hour in (1, 6, 7, 23)), END]
    pieces = list(client.list_pieces("llm", edges))
    assert len(pieces) == 5
    for piece, low, high in zip(pieces, edges, edges[1:], strict=False):
        check(piece, EVENTS)
        times_ms = piece["time_ms"].tolist()
        assert all(low.timestamp() * 1_000 <= at < high.timestamp() * 1_000 for at in times_ms)
    assert "edge" in set(pieces[2]["transaction_id"])
    assert sorted(one for piece in pieces for one in piece["transaction_id"]) == sorted([*names, "edge"])


def test_many_narrow_pieces_of_little_traffic_cost_a_few_requests(double: Double, client: Lago) -> None:
    fill(double, 100)
    edges = [START + timedelta(minutes=10 * number) for number in range(145)]
    assert sum(map(len, client.list_pieces("llm", edges))) == 100
    assert len(double.requests) < 8


def test_a_fault_comes_out_where_it_belongs(double: Double, client: Lago) -> None:
    fill(double, 100)
    later = START + timedelta(hours=12)

    def fails_later(request: Request) -> Reply | None:
        return Reply(503, "") if datetime.fromisoformat(request.query["timestamp_to"][0]) > later else None

    double.scripts.append(fails_later)
    pieces = client.list_pieces("llm", [START, START + timedelta(minutes=5), START + timedelta(minutes=6), END])
    next(pieces)
    next(pieces)
    with pytest.raises(LagoFault, match="503"):
        next(pieces)


def test_a_caller_that_goes_away_ends_the_reading(double: Double, client: Lago) -> None:
    fill(double, 2_000)
    pieces = client.list_pieces("llm", [START + timedelta(minutes=number) for number in range(1_441)])
    next(pieces)
    pieces.close()
    asked = len(double.requests)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lago-list")]
    assert len(double.requests) == asked


def test_listings_side_by_side(double: Double, client: Lago) -> None:
    names = fill(double, 500)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: listed(client), range(8)):
            assert found == names


def test_lists_travel_side_by_side_where_lago_gains_from_it(double: Double) -> None:
    never = threading.Event()

    def slow(request: Request) -> Reply | None:
        never.wait(0.03)  # every request takes as long, however many there are
        return None

    fill(double, 3_000)
    double.scripts.append(slow)
    with Lago(double.url, KEY, retry=QUICK, page_size=100, concurrency=4) as lago:
        listed(lago)
        found = lago.in_flight.lists
    assert found.limit > 1
    assert 1 < found.mean <= 4

"""What becomes of every event: batches, refusals, lost answers, both stores, Lago before v1.39."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconcile.errors import LagoFault, PreflightError
from reconcile.lago import Lago, Outcome

from .lago_double import EXISTS, KEY, QUICK, Double, Drop, Reply, Request, refusal, running, times

INVALID = {"timestamp": ["invalid_format"]}
FAILED_EXPRESSION = "expression_evaluation_failed: Variable: b not found"


def event(name: str, subscription: str = "team-a", problem: Any = None) -> dict[str, Any]:
    properties = {"response_cost": "0.01"} | ({"problem": problem} if problem else {})
    return {
        "transaction_id": name,
        "external_subscription_id": subscription,
        "code": "llm",
        "timestamp": "1700000000.123",
        "properties": properties,
    }


def statuses(outcomes: list[Outcome]) -> list[str]:
    return [outcome.status for outcome in outcomes]


def stored(double: Double) -> Counter[tuple[str, str]]:
    return Counter((one["external_subscription_id"], one["transaction_id"]) for one in double.stored)


def batch_sizes(double: Double) -> list[int]:
    return [len(request.body["events"]) for request in double.requests if request.path.endswith("/batch")]


def test_batches_of_a_hundred(double: Double, client: Lago) -> None:
    events = [event(f"t{number}") for number in range(250)]
    outcomes = client.deliver(events)
    assert outcomes == [
        Outcome(one["transaction_id"], "accepted", None, 1 + number // 100, 200) for number, one in enumerate(events)
    ]
    assert sorted(batch_sizes(double)) == [50, 100, 100]
    assert stored(double) == Counter(("team-a", one["transaction_id"]) for one in events)


def test_nothing_to_deliver(double: Double, client: Lago) -> None:
    assert client.deliver([]) == []
    assert double.requests == []


def test_a_single_event_goes_alone(double: Double, client: Lago) -> None:
    assert statuses(client.deliver([event("a")])) == ["accepted"]
    assert double.paths() == ["POST /events"]


def test_an_ingest_host_that_answers_with_nothing(double: Double, client: Lago) -> None:
    double.scripts.append(times(1, Reply(200, None)))
    assert statuses(client.deliver([event("a")])) == ["accepted"]


def test_stored_events_cost_one_more_request(double: Double, client: Lago) -> None:
    for name in ("t0", "t3", "t99"):
        double.add(event(name))
    outcomes = client.deliver([event(f"t{number}") for number in range(100)])
    assert {outcome.transaction_id for outcome in outcomes if outcome.status == "exists"} == {
        "t0",
        "t3",
        "t99",
    }
    assert outcomes[3] == Outcome("t3", "exists", None, 1, 422)
    assert Counter(statuses(outcomes)) == {"accepted": 97, "exists": 3}
    assert batch_sizes(double) == [100, 97]


def test_invalid_events_hide_stored_ones(double: Double, client: Lago) -> None:
    double.add(event("old"))
    outcomes = client.deliver([event("bad", problem=INVALID), event("old"), event("new"), event("new2")])
    assert statuses(outcomes) == ["refused", "exists", "accepted", "accepted"]
    assert outcomes[0].reason == "timestamp: invalid_format"
    assert batch_sizes(double) == [4, 3, 2]


def test_an_expression_that_fails_is_told_as_a_string(double: Double, client: Lago) -> None:
    outcomes = client.deliver([event("bad", problem=FAILED_EXPRESSION), event("good")])
    assert outcomes == [
        Outcome("bad", "refused", FAILED_EXPRESSION, 1, 422),
        Outcome("good", "accepted", None, 1, 200),
    ]
    double.requests.clear()
    assert client.deliver([event("alone", problem=FAILED_EXPRESSION)])[0].reason == FAILED_EXPRESSION


def test_one_transaction_id_never_twice_in_a_batch(double: Double, client: Lago) -> None:
    events = [event("a"), event("a", "team-b"), event("b"), event("a", "team-c"), event("b", "team-b")]
    assert statuses(client.deliver(events)) == ["accepted"] * 5
    for request in double.requests:
        names = [one["transaction_id"] for one in request.body.get("events", [])]
        assert len(names) == len(set(names))
    assert len(double.stored) == 5


def test_a_lower_batch_limit_halves(double: Double, client: Lago) -> None:
    double.batch_limit = 30
    assert set(statuses(client.deliver([event(f"t{number}") for number in range(100)]))) == {"accepted"}
    assert batch_sizes(double) == [100, 50, 25, 25, 50, 25, 25]
    assert len(double.stored) == 100


def test_a_much_lower_batch_limit_does_not_end_in_single_events(double: Double, client: Lago) -> None:
    double.batch_limit = 3
    assert set(statuses(client.deliver([event(f"t{number}") for number in range(96)]))) == {"accepted"}
    assert len(double.requests) == 63
    assert len(double.stored) == 96


def test_413_halves_down_to_the_event_that_is_too_large(double: Double, client: Lago) -> None:
    def proxy(request: Request) -> Reply | None:
        return Reply(413, "<html>too large</html>") if "huge" in str(request.body) else None

    double.scripts.append(proxy)
    outcomes = client.deliver([event("huge" if number == 7 else f"t{number}") for number in range(20)])
    assert [outcome.transaction_id for outcome in outcomes if outcome.status != "accepted"] == ["huge"]
    assert outcomes[7] == Outcome("huge", "refused", "<html>too large</html>", 1, 413)
    assert len(double.stored) == 19


def test_a_batch_stays_under_the_byte_limit(double: Double, client: Lago) -> None:
    events = [event(f"t{number}") | {"properties": {"note": "x" * 100_000}} for number in range(20)]
    assert set(statuses(client.deliver(events))) == {"accepted"}
    assert max(batch_sizes(double)) == 8


@pytest.mark.parametrize(
    "reply",
    [
        refusal("something unheard of"),
        refusal({"base": ["nobody_knows"]}),
        refusal({"100": INVALID}),
        Reply(422, "<html>?</html>"),
        Reply(400, {"status": 400, "error": "BadRequest: param is missing"}),
    ],
    ids=lambda reply: str(reply.body)[:60],
)
def test_a_refusal_that_names_no_event_is_isolated(double: Double, client: Lago, reply: Reply) -> None:
    def strict(request: Request) -> Reply | None:
        return reply if "bad" in str(request.body) else None

    double.scripts.append(strict)
    double.add(event("old"))
    outcomes = client.deliver([event("t1"), event("bad"), event("old"), event("t2")])
    assert statuses(outcomes) == ["accepted", "refused", "exists", "accepted"]
    assert outcomes[1].reason
    assert outcomes[1].http_status == reply.status


def test_a_server_that_tells_one_event_at_a_time(double: Double, client: Lago) -> None:
    def miserly(request: Request) -> Reply | None:
        if not request.path.endswith("/batch"):
            return None
        for index, one in enumerate(request.body["events"]):
            if double.has(one):
                return refusal({str(index): EXISTS})
        return None

    double.scripts.append(miserly)
    for number in range(0, 40, 2):
        double.add(event(f"t{number}"))
    outcomes = client.deliver([event(f"t{number}") for number in range(40)])
    assert statuses(outcomes) == ["exists", "accepted"] * 20
    assert set(stored(double).values()) == {1}
    assert len(double.requests) < 60


@pytest.mark.parametrize("fault", [Drop, Reply(504, "<html>timeout</html>")], ids=["drop", "504"])
@pytest.mark.parametrize("count", [1, 30])
def test_stored_though_the_answer_was_lost(double: Double, client: Lago, fault: type[Drop] | Reply, count: int) -> None:
    lost = [True]

    def commit_then_fail(request: Request) -> Reply | None:
        if not lost.pop() if lost else True:
            return None
        with double.lock:
            double.serve(request)
        if isinstance(fault, Reply):
            return fault
        raise fault

    double.scripts.append(commit_then_fail)
    outcomes = client.deliver([event(f"t{number}") for number in range(count)])
    assert set(statuses(outcomes)) == {"exists"}
    assert set(stored(double).values()) == {1}


def test_clickhouse_refuses_nothing(double: Double, client: Lago) -> None:
    double.mode = "clickhouse"
    double.add(event("old"))
    assert statuses(client.deliver([event("old"), event("new")])) == ["accepted", "accepted"]


def test_callbacks_come_from_the_calling_thread_before_and_after_each_batch(double: Double, client: Lago) -> None:
    story: list[tuple[str, int]] = []
    begun: set[str] = set()

    def before(ids: list[str], number: int) -> None:
        assert threading.current_thread() is threading.main_thread()
        assert sent.isdisjoint(ids)
        begun.update(ids)
        numbers.append(number)
        story.append(("before", len(ids)))

    def after(outcomes: list[Outcome]) -> None:
        assert threading.current_thread() is threading.main_thread()
        assert {outcome.transaction_id for outcome in outcomes} <= begun
        assert {outcome.batch for outcome in outcomes} <= set(numbers)
        assert {outcome.status for outcome in outcomes} == {"accepted"}
        story.append(("after", len(outcomes)))

    sent: set[str] = set()
    numbers: list[int] = []

    def watch(request: Request) -> Reply | None:
        sent.update(one["transaction_id"] for one in request.body["events"])
        return None

    double.scripts.append(watch)
    client.deliver(
        (event(f"t{number}") for number in range(1_050)),
        before_batch=before,
        after_batch=after,
    )
    assert Counter(story) == {("before", 100): 10, ("after", 100): 10, ("before", 50): 1, ("after", 50): 1}
    in_flight = highest = 0
    for kind, _ in story:
        in_flight += 1 if kind == "before" else -1
        highest = max(highest, in_flight)
    assert numbers == list(range(1, 12))
    assert 2 <= highest <= 5  # one that waits for its turn, and at most four in flight


def test_batches_travel_side_by_side_where_lago_gains_from_it(double: Double) -> None:
    never = threading.Event()

    def slow(request: Request) -> Reply | None:
        never.wait(0.05)  # every request takes as long, however many there are
        return Reply(200, {"events": []})

    double.scripts.append(slow)
    with Lago(double.url, KEY, concurrency=3, timeout=5, retry=QUICK) as lago:
        lago.deliver([event(f"t{number}") for number in range(6_000)])
        found = lago.in_flight
    assert len(double.requests) == 60
    assert found.batches.limit > 1
    assert 1 < found.batches.mean <= 3
    assert found.batches.most == 3
    assert (found.lists.mean, found.lists.limit) == (0, 1)


def test_building_overlaps_with_what_is_on_its_way(double: Double, client: Lago) -> None:
    """The next batch is built while the last one is on its way."""
    building = threading.Event()
    overlapped: list[bool] = []

    def build() -> Iterator[dict[str, Any]]:
        for number in range(300):
            if number == 150:
                building.set()
            yield event(f"t{number}")

    double.scripts.append(lambda request: overlapped.append(building.wait(5)))
    client.deliver(build())
    assert overlapped[0]


def test_a_fault_ends_the_delivery_and_hides_nothing(double: Double, client: Lago) -> None:
    def down_for_later_ones(request: Request) -> Reply | None:
        names = {one["transaction_id"] for one in request.body["events"]}
        return None if names & {"t0", "t1"} else Reply(503, "<html>down</html>")

    double.scripts.append(down_for_later_ones)
    double.add(event("t1"))
    begun: list[str] = []
    told: list[Outcome] = []
    with pytest.raises(LagoFault, match="503"):
        client.deliver(
            [event(f"t{number}") for number in range(1_000)],
            before_batch=lambda ids, _: begun.extend(ids),
            after_batch=told.extend,
        )
    told.sort(key=lambda outcome: outcome.batch)  # batches end in any order
    assert [outcome.transaction_id for outcome in told] == begun
    assert begun[:200] == [f"t{number}" for number in range(200)]
    assert len(begun) <= 400
    assert statuses(told)[:3] == ["accepted", "exists", "accepted"]
    assert statuses(told)[100:] == ["unknown"] * (len(begun) - 100)
    assert "503" in (told[150].reason or "")


def test_what_one_round_said_is_kept_when_the_next_one_fails(double: Double, client: Lago) -> None:
    double.add(event("old"))
    double.scripts.append(lambda request: Reply(503, "") if len(request.body["events"]) == 2 else None)
    told: list[Outcome] = []
    with pytest.raises(LagoFault):
        client.deliver([event("old"), event("a"), event("b")], after_batch=told.extend)
    assert statuses(told) == ["exists", "unknown", "unknown"]


def test_stop_finishes_what_is_on_its_way_and_begins_nothing(double: Double, client: Lago) -> None:
    stop = threading.Event()
    told: list[Outcome] = []
    double.scripts.append(lambda request: stop.set())
    outcomes = client.deliver([event(f"t{number}") for number in range(1_000)], after_batch=told.extend, stop=stop)
    finished = sum(outcome.status == "accepted" for outcome in outcomes)
    assert finished == len(double.stored) == len(told)
    assert 100 <= finished <= 300
    assert outcomes[-1] == Outcome("t999", "unknown", "not sent", 0, None)


def test_the_clients_stop_ends_the_waits(double: Double) -> None:
    stop = threading.Event()

    def down(request: Request) -> Reply | None:
        stop.set()
        return Reply(429, None, {"X-RateLimit-Reset": "9"})

    double.scripts.append(down)
    with Lago(double.url, KEY, retry=QUICK, stop=stop) as lago:
        outcomes = lago.deliver([event("a"), event("b")])
    assert statuses(outcomes) == ["unknown", "unknown"]
    assert outcomes[0].batch == 1


def test_nothing_leaves_when_the_ledger_cannot_be_written(double: Double, client: Lago) -> None:
    def broken(ids: list[str], number: int) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        client.deliver([event("a"), event("b")], before_batch=broken)
    assert double.requests == []


# --- a 500 that is one item's fault


def broken(*names: str, reply: Reply | None = None) -> Callable[[Request], Reply | None]:
    """Lago answers 500 to a request that holds one of these, as to a NUL or a property that no index takes."""
    said = reply or Reply(500, {"status": 500, "error": "Internal Server Error"})

    def script(request: Request) -> Reply | None:
        found = request.body.get("events") or [request.body["event"]]
        return said if any(one["transaction_id"] in names for one in found) else None

    return script


@pytest.mark.parametrize("reply", [None, Reply(500, "<html>We're sorry</html>")], ids=["json", "html"])
@pytest.mark.parametrize(
    "bad", [("t0",), ("t99",), ("t42",), ("t0", "t50", "t99"), ("t10", "t11", "t12", "t13", "t14")], ids=str
)
def test_a_500_is_one_items_fault(double: Double, client: Lago, bad: tuple[str, ...], reply: Reply | None) -> None:
    double.scripts.append(broken(*bad, reply=reply))
    outcomes = client.deliver([event(f"t{number}") for number in range(250)], stored=event("listed before"))
    refused = {outcome.transaction_id: outcome for outcome in outcomes if outcome.status != "accepted"}
    assert set(refused) == set(bad)
    for outcome in refused.values():
        assert (outcome.status, outcome.http_status) == ("refused", 500)
        assert ("sorry" if reply else "Internal Server Error") in (outcome.reason or "")
    assert stored(double).keys() - {("team-a", "listed before")} == {
        ("team-a", f"t{number}") for number in range(250) if f"t{number}" not in bad
    }
    assert set(stored(double).values()) == {1}
    for name in bad:
        alone = [r for r in double.requests if r.body.get("event", {}).get("transaction_id") == name]
        assert len(alone) == 3
    assert len(double.requests) < 25 + 30 * len(bad)


def test_a_500_without_anything_that_is_known_to_work(double: Double, client: Lago) -> None:
    """A neighbour that is taken proves that Lago works."""
    double.scripts.append(broken("t0", "t99"))
    outcomes = client.deliver([event(f"t{number}") for number in range(100)])
    assert [outcome.transaction_id for outcome in outcomes if outcome.status == "refused"] == ["t0", "t99"]
    assert len(double.stored) == 98


@pytest.mark.parametrize("known", [None, event("listed before")], ids=["nothing known", "one known"])
def test_a_lago_that_answers_500_to_everything_is_down(
    double: Double, client: Lago, known: dict[str, Any] | None
) -> None:
    double.scripts.append(times(-1, Reply(500, "<html>boom</html>")))
    told: list[Outcome] = []
    with pytest.raises(LagoFault, match=r"500 whatever is sent.*boom"):
        client.deliver([event(f"t{number}") for number in range(5_000)], stored=known, after_batch=told.extend)
    assert len(double.requests) <= (8 if known else 26)  # of two batches
    assert set(statuses(told)) == {"unknown"}


def test_a_lago_that_goes_down_on_the_way_refuses_nothing(double: Double, client: Lago) -> None:
    """One bad item is looked for when everything begins to answer 500."""
    bad = broken("t42")

    def down_later(request: Request) -> Reply | None:
        if len(double.requests) > 8:
            return Reply(500, "<html>boom</html>")
        return bad(request)

    double.scripts.append(down_later)
    told: list[Outcome] = []
    with pytest.raises(LagoFault, match="500 whatever is sent"):
        client.deliver([event(f"t{number}") for number in range(100)], after_batch=told.extend)
    assert len(double.requests) < 40
    assert set(statuses(told)) == {"accepted", "unknown"}
    assert {outcome.transaction_id for outcome in told if outcome.status == "accepted"} == {
        one["transaction_id"] for one in double.stored
    }


def test_a_lago_that_goes_down_with_the_last_one_refuses_nothing(double: Double, client: Lago) -> None:
    bad = broken("t0")
    down: list[bool] = []

    def down_then(request: Request) -> Reply | None:
        if down:
            return Reply(500, "<html>boom</html>")
        if request.body.get("event", {}).get("transaction_id") == "t0" and len(double.stored) == 99:
            down.append(True)
        return bad(request)

    double.scripts.append(down_then)
    told: list[Outcome] = []
    with pytest.raises(LagoFault, match="500 whatever is sent"):
        client.deliver(
            [event(f"t{number}") for number in range(99)], stored=event("listed before"), after_batch=told.extend
        )
    assert statuses(told) == ["unknown"] + ["accepted"] * 98


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_bad_items_alone_are_refused(double: Double, client: Lago, count: int) -> None:
    double.scripts.append(broken("t0", "t1"))
    events = [event(f"t{number}") for number in range(count)]
    assert statuses(client.deliver(events)) == ["refused"] * count
    assert statuses(client.deliver(events, stored=event("listed before"))) == ["refused"] * count
    double.scripts = [times(-1, Reply(500, ""))]
    with pytest.raises(LagoFault, match="500 whatever is sent"):
        client.deliver(events, stored=event("listed before"))


def test_a_500_that_passes_is_tried_again(double: Double, client: Lago) -> None:
    double.scripts.append(times(2, Reply(500, "")))
    assert set(statuses(client.deliver([event(f"t{number}") for number in range(100)]))) == {"accepted"}
    assert batch_sizes(double) == [100, 100, 100]


def test_before_1_39_the_neighbours_of_a_500_are_stored_and_come_back_as_existing(double: Double, client: Lago) -> None:
    bad = broken("t7")

    def stores_the_others(request: Request) -> Reply | None:
        reply = bad(request)
        if reply is not None:
            for one in request.body.get("events", []):
                if one["transaction_id"] != "t7" and not double.has(one):
                    double.add(one)
        return reply

    double.mode = "pre-1.39"
    double.scripts.append(stores_the_others)
    outcomes = client.deliver([event(f"t{number}") for number in range(20)])
    assert Counter(statuses(outcomes)) == {"exists": 19, "refused": 1}
    assert set(stored(double).values()) == {1}


# --- a store that refuses nothing: look before repeating


class Looks:
    """What the caller does: look at what Lago lists, after as long as it takes to become visible."""

    def __init__(self, double: Double) -> None:
        self.double = double
        self.asked: list[list[str]] = []

    def __call__(self, ids: Sequence[str]) -> set[str]:
        self.asked.append(list(ids))
        return {one["transaction_id"] for one in self.double.stored} & set(ids)


LOST = [Drop, *(Reply(status, "<html>") for status in (500, 502, 503, 504, 408))]


@pytest.mark.parametrize("fault", LOST, ids=repr)
@pytest.mark.parametrize("kept", [0, 3, 30], ids=lambda kept: f"{kept} kept")
def test_only_what_is_not_listed_goes_again(double: Double, client: Lago, fault: type[Drop] | Reply, kept: int) -> None:
    double.mode = "clickhouse"
    lost = [True]

    def commit_then_fail(request: Request) -> Reply | None:
        if not lost:
            return None
        lost.clear()
        with double.lock:
            for one in request.body["events"][:kept]:
                double.add(one)
        if isinstance(fault, Reply):
            return fault
        raise fault

    double.scripts.append(commit_then_fail)
    looks = Looks(double)
    outcomes = client.deliver([event(f"t{number}") for number in range(30)], look=looks)
    assert statuses(outcomes) == ["exists"] * kept + ["accepted"] * (30 - kept)
    assert set(stored(double).values()) == {1}
    assert looks.asked == [[f"t{number}" for number in range(30)]]
    assert [len(r.body["events"]) for r in double.requests] == ([30] if kept == 30 else [30, 30 - kept])


def test_a_read_timeout_is_an_answer_that_was_lost(double: Double) -> None:
    double.mode = "clickhouse"
    released = threading.Event()

    def hang(request: Request) -> Reply | None:
        with double.lock:
            reply = double.serve(request)
        released.wait(10)
        return reply

    double.scripts.append(hang)
    try:
        with Lago(double.url, KEY, timeout=0.2, retry=QUICK) as lago:
            outcomes = lago.deliver([event("a"), event("b")], look=Looks(double))
    finally:
        released.set()
    assert statuses(outcomes) == ["exists", "exists"]
    assert set(stored(double).values()) == {1}


@pytest.mark.parametrize("reply", [Reply(429, None, {"X-RateLimit-Reset": "0"}), Reply(401, {}), Reply(404, "<html>")])
def test_what_was_surely_not_stored_is_repeated_without_a_look(double: Double, client: Lago, reply: Reply) -> None:
    double.mode = "clickhouse"
    double.scripts.append(times(1, reply))
    looks = Looks(double)
    assert statuses(client.deliver([event("a"), event("b")], look=looks)) == ["accepted", "accepted"]
    assert looks.asked == []


def test_answers_that_are_lost_again_and_again_are_a_fault(double: Double, client: Lago) -> None:
    double.mode = "clickhouse"
    double.scripts.append(times(-1, Drop))
    looks = Looks(double)
    with pytest.raises(LagoFault, match="gave up after 4"):
        client.deliver([event("a"), event("b")], look=looks)
    assert len(looks.asked) == len(double.requests) == 4


def test_a_look_that_fails_ends_the_delivery(double: Double, client: Lago) -> None:
    double.mode = "clickhouse"
    double.scripts.append(times(1, Drop))

    def fails(ids: Sequence[str]) -> set[str]:
        raise LagoFault("cannot list")

    told: list[Outcome] = []
    with pytest.raises(LagoFault, match="cannot list"):
        client.deliver([event("a"), event("b")], look=fails, after_batch=told.extend)
    assert statuses(told) == ["unknown", "unknown"]
    assert len(double.requests) == 1


def test_one_items_500_on_a_store_that_refuses_nothing(double: Double, client: Lago) -> None:
    double.mode = "clickhouse"
    double.scripts.append(broken("t7"))
    outcomes = client.deliver([event(f"t{number}") for number in range(20)], look=Looks(double))
    assert Counter(statuses(outcomes)) == {"accepted": 19, "refused": 1}
    assert set(stored(double).values()) == {1}
    double.scripts = [times(-1, Reply(500, ""))]
    with pytest.raises(LagoFault, match="500 whatever is sent"):
        client.deliver([event(f"u{number}") for number in range(200)], look=Looks(double))


# --- Lago's clock


def stamped(double: Double, at: str | None) -> Callable[[Request], Reply | None]:
    def script(request: Request) -> Reply | None:
        with double.lock:
            reply = double.serve(request)
        for one in reply.body.get("events", [reply.body.get("event")]) if reply.status == 200 else ():
            one["created_at"] = at
        return reply

    return script


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("2026-11-25T01:02:03Z", datetime(2026, 11, 25, 1, 2, 3, tzinfo=UTC)),
        (None, None),
        ("soon", None),
    ],
)
@pytest.mark.parametrize("count", [1, 100, 350])
def test_lagos_clock_is_looked_at_before_the_second_batch(
    double: Double, client: Lago, count: int, at: str | None, expected: datetime | None
) -> None:
    double.scripts.append(stamped(double, at))
    seen: list[tuple[datetime | None, int]] = []

    def look(created_at: datetime | None) -> None:
        assert threading.current_thread() is threading.main_thread()
        seen.append((created_at, len(double.requests)))

    client.deliver([event(f"t{number}") for number in range(count)], first_answer=look)
    assert seen == [(expected, 1)]
    assert len(double.stored) == count


def test_a_clock_that_is_wrong_ends_the_delivery(double: Double, client: Lago) -> None:
    double.scripts.append(stamped(double, "2026-11-25T01:02:03Z"))

    def refuse(created_at: datetime | None) -> None:
        raise PreflightError("the clocks differ")

    told: list[Outcome] = []
    with pytest.raises(PreflightError, match="clocks differ"):
        client.deliver([event(f"t{n}") for n in range(300)], first_answer=refuse, after_batch=told.extend)
    assert len(double.stored) == len(told) == 100


def test_what_exists_tells_no_time(double: Double, client: Lago) -> None:
    """The batches go one by one until Lago has stored something."""
    for number in range(250):
        double.add(event(f"t{number}"))
    double.scripts.append(stamped(double, "2026-11-25T01:02:03Z"))
    seen: list[int] = []
    client.deliver([event(f"t{n}") for n in range(450)], first_answer=lambda _: seen.append(len(double.requests)))
    assert seen == [4]  # two batches of existing ones, and one that is half new
    seen.clear()
    client.deliver([event(f"t{n}") for n in range(450)], first_answer=lambda _: seen.append(0))
    assert seen == []


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Double, Lago]]:
    with running() as served, Lago(served.url, KEY, concurrency=4, timeout=5, retry=QUICK) as lago:
        yield served, lago


KINDS = ("new", "stored", "invalid", "failing")
WORLD = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 12), st.sampled_from(["team-a", "team-b"])), max_size=40
)


@given(
    world=WORLD,
    mode=st.sampled_from(["postgres", "pre-1.39", "clickhouse"]),
    limit=st.sampled_from([2, 7, 100]),
    faults=st.lists(st.sampled_from(["none", "drop before", "drop after"]), max_size=12),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_mix_ends_right_and_stored_once(
    shared: tuple[Double, Lago],
    world: list[tuple[str, int, str]],
    mode: str,
    limit: int,
    faults: list[str],
) -> None:
    double, client = shared
    double.mode, double.batch_limit = mode, limit
    double.stored, double.requests = [], []
    problems = {"invalid": INVALID, "failing": FAILED_EXPRESSION}
    kinds = {(subscription, f"t{number}"): kind for kind, number, subscription in world}
    events = [
        event(f"t{number}", subscription, problems.get(kinds[subscription, f"t{number}"]))
        for _, number, subscription in world
    ]
    for (subscription, name), kind in kinds.items():
        if kind == "stored":
            double.add(event(name, subscription))
    script = iter(faults)

    def flaky(request: Request) -> Reply | None:
        with double.lock:
            fault = next(script, "none")
            if fault == "drop after":
                double.serve(request)
        if fault != "none":
            raise Drop
        return None

    double.scripts = [flaky] if len(faults) < QUICK.attempts else []
    outcomes = client.deliver(events)

    assert [outcome.transaction_id for outcome in outcomes] == [one["transaction_id"] for one in events]
    for one, outcome in zip(events, outcomes, strict=True):
        kind = kinds[one["external_subscription_id"], one["transaction_id"]]
        if kind in problems:
            assert outcome.status == "refused"
            assert outcome.reason in ("timestamp: invalid_format", FAILED_EXPRESSION)
        elif mode == "clickhouse":
            assert outcome.status == "accepted"
        elif kind == "stored":
            assert outcome.status == "exists"
        else:
            assert outcome.status in ("accepted", "exists")
    expected = {key for key, kind in kinds.items() if kind not in problems}
    held = stored(double)
    assert set(held) == expected
    if mode != "clickhouse":
        assert set(held.values()) <= {1}
        if not double.scripts and mode == "postgres":
            news = Counter(outcome.status for outcome in outcomes)["accepted"]
            assert news == sum(kinds[key] == "new" for key in expected)

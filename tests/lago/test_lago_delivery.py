"""What becomes of every event: batches, refusals, lost answers, both stores, Lago before v1.39."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconcile.errors import LagoFault
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

    def before(batch: list[dict[str, Any]]) -> None:
        assert threading.current_thread() is threading.main_thread()
        names = {one["transaction_id"] for one in batch}
        assert names.isdisjoint(sent)
        begun.update(names)
        story.append(("before", len(batch)))

    def after(outcomes: list[Outcome]) -> None:
        assert threading.current_thread() is threading.main_thread()
        assert {outcome.transaction_id for outcome in outcomes} <= begun
        assert {outcome.status for outcome in outcomes} == {"accepted"}
        story.append(("after", len(outcomes)))

    sent: set[str] = set()

    def watch(request: Request) -> Reply | None:
        sent.update(one["transaction_id"] for one in request.body["events"])
        return None

    double.scripts.append(watch)
    client.deliver(
        [event(f"t{number}") for number in range(1_050)],
        concurrency=3,
        before_batch=before,
        after_batch=after,
    )
    assert Counter(story) == {("before", 100): 10, ("after", 100): 10, ("before", 50): 1, ("after", 50): 1}
    in_flight = highest = 0
    for kind, _ in story:
        in_flight += 1 if kind == "before" else -1
        highest = max(highest, in_flight)
    assert highest == 3


def test_batches_travel_side_by_side(double: Double, client: Lago) -> None:
    together = threading.Barrier(4)

    def meet(request: Request) -> Reply | None:
        together.wait(10)
        return None

    double.scripts.append(meet)
    client.deliver([event(f"t{number}") for number in range(400)], concurrency=4)
    assert len(double.stored) == 400


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
            concurrency=1,
            before_batch=lambda batch: begun.extend(one["transaction_id"] for one in batch),
            after_batch=told.extend,
        )
    assert [outcome.transaction_id for outcome in told] == begun == [f"t{number}" for number in range(200)]
    assert statuses(told)[:3] == ["accepted", "exists", "accepted"]
    assert statuses(told)[100:] == ["unknown"] * 100
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
    outcomes = client.deliver(
        [event(f"t{number}") for number in range(1_000)], concurrency=2, after_batch=told.extend, stop=stop
    )
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
    def broken(batch: list[dict[str, Any]]) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        client.deliver([event("a"), event("b")], before_batch=broken)
    assert double.requests == []


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

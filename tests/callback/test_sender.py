"""The queue and its thread, against answers that a Lago may give. What is not sent is counted."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from reconcile.callback.posting import EXISTS, Answer, Reply
from reconcile.callback.sender import Limits, Sender

from .conftest import QUICK, until

TAKEN = Reply(Answer.TAKEN)


@dataclass
class Answers:
    """A Lago by rule: `rule` gives the answer to a batch."""

    rule: Callable[[list[bytes]], Reply] = lambda batch: TAKEN
    store: str = "postgres"
    batches: list[list[bytes]] = field(default_factory=list)
    taken: list[bytes] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    def __call__(self, events: Sequence[bytes]) -> Reply:
        self.gate.wait(30)
        self.batches.append(list(events))
        reply = self.rule(list(events))
        if reply.answer is Answer.TAKEN:
            self.taken += events
        return reply

    def repeatable(self) -> bool:
        return self.store == "postgres"


def sender(answers: Answers, **limits: Any) -> Sender:
    return Sender(lambda: answers, replace(QUICK, **limits))


def put(to: Sender, count: int, ended: float | None = None) -> list[bytes]:
    bodies = [b"%d" % number for number in range(count)]
    for body in bodies:
        to.put(body, time.time() if ended is None else ended)
    return bodies


def test_events_go_in_batches_of_a_hundred_and_in_order() -> None:
    answers = Answers()
    one = sender(answers, linger=0.5)
    bodies = put(one, 250)
    assert one.flush(30)
    assert answers.taken == bodies
    assert max(map(len, answers.batches)) == 100
    assert len(answers.batches) <= 5
    assert one.measures.delivered == 250
    assert not one.measures.dropped


def test_a_single_event_does_not_wait_for_others_longer_than_its_linger() -> None:
    answers = Answers()
    put(sender(answers), 1)
    until(lambda: answers.taken == [b"0"])


def test_what_does_not_fit_is_dropped_and_counted_and_put_does_not_wait() -> None:
    answers = Answers()
    answers.gate.clear()
    one = sender(answers, queue=50, batch=10)
    put(one, 80)
    assert one.measures.dropped == {"queue_full": 30}
    answers.gate.set()
    assert one.flush(30)
    assert one.measures.delivered == 50


@pytest.mark.parametrize("answer", [Answer.BUSY, Answer.FAILED, Answer.UNREACHABLE, Answer.CLOSED, Answer.LOST])
def test_a_fault_that_passes_costs_nothing(answer: Answer) -> None:
    count = iter(range(1000))
    answers = Answers(lambda batch: TAKEN if next(count) >= 3 else Reply(answer, "no"))
    one = sender(answers)
    bodies = put(one, 30)
    until(lambda: one.measures.delivered == 30)
    assert sorted(answers.taken) == sorted(bodies)
    assert not one.measures.dropped


def test_pauses_grow_and_lagos_own_wish_goes_first() -> None:
    one = sender(Answers(), first_pause=1.0, longest_pause=30.0)
    pauses = [one._next_pause(0.0, None, False)]
    for _ in range(6):
        pauses.append(one._next_pause(pauses[-1], None, False))
    assert pauses == [1, 2, 4, 8, 16, 30, 30]
    assert one._next_pause(8.0, 5.0, False) == 5.0
    assert one._next_pause(8.0, 500.0, False) == 30.0
    assert one._next_pause(8.0, None, True) == 1.0


def test_an_event_that_grows_too_old_is_left_to_the_night() -> None:
    answers = Answers(lambda batch: Reply(Answer.UNREACHABLE, "nobody there"))
    now = [1_000_000.0]
    one = Sender(lambda: answers, replace(QUICK, give_up=600.0), wall_clock=lambda: now[0])
    one.put(b"old", now[0])
    until(lambda: len(answers.batches) >= 2)
    now[0] += 599
    one.put(b"young", now[0])
    seen = len(answers.batches)
    until(lambda: len(answers.batches) >= seen + 2)
    assert not one.measures.dropped
    now[0] += 2
    until(lambda: one.measures.dropped == {"too_old": 1})
    answers.rule = lambda batch: TAKEN
    until(lambda: answers.taken == [b"young"])


@pytest.mark.parametrize("answer", [Answer.LOST, Answer.FAILED])
@pytest.mark.parametrize("store", ["clickhouse", "unknown"])
def test_where_a_second_sending_may_bill_twice_a_batch_without_an_answer_is_not_sent_again(
    answer: Answer, store: str
) -> None:
    answers = Answers(lambda batch: Reply(answer, "no answer"), store=store)
    one = sender(answers)
    put(one, 30)
    assert one.flush(30)
    assert one.measures.dropped == {"answer_lost": 30}
    assert len({body for batch in answers.batches for body in batch}) == sum(map(len, answers.batches))


def test_a_piece_of_a_refused_batch_whose_answer_is_lost_is_not_sent_again_there() -> None:
    def rule(batch: list[bytes]) -> Reply:
        if len(batch) > 10:
            return Reply(Answer.REFUSED, "Lago answered 413")
        return Reply(Answer.LOST, "no answer") if b"5" in batch else TAKEN

    answers = Answers(rule, store="clickhouse")
    one = sender(answers)
    put(one, 30)
    assert one.flush(30)
    lost = one.measures.dropped["answer_lost"]
    assert 0 < lost <= 10
    assert one.measures.delivered == 30 - lost
    assert sum(b"5" in batch for batch in answers.batches if len(batch) <= 10) == 1


@pytest.mark.parametrize("answer", [Answer.BUSY, Answer.UNREACHABLE, Answer.CLOSED])
def test_what_no_store_has_taken_is_sent_again_there_too(answer: Answer) -> None:
    count = iter(range(1000))
    answers = Answers(lambda batch: TAKEN if next(count) else Reply(answer, "no"), store="clickhouse")
    one = sender(answers)
    put(one, 30)
    until(lambda: one.measures.delivered == 30)


def flagged(wrong: dict[bytes, str]) -> Callable[[list[bytes]], Reply]:
    def rule(batch: list[bytes]) -> Reply:
        places = {place: wrong[body] for place, body in enumerate(batch) if body in wrong}
        return Reply(Answer.FLAGGED, "Lago answered 422", places) if places else TAKEN

    return rule


def test_an_event_that_lago_has_is_settled_and_one_that_it_refuses_takes_nobody_along() -> None:
    answers = Answers(flagged({b"3": EXISTS, b"7": EXISTS, b"11": '{"code": ["value_is_mandatory"]}'}))
    one = sender(answers)
    put(one, 20)
    assert one.flush(30)
    assert len(answers.taken) == 17
    assert one.measures.delivered == 19
    assert one.measures.dropped == {"refused": 1}


def poisoned(poison: set[bytes], answer: Answer) -> Callable[[list[bytes]], Reply]:
    return lambda batch: Reply(answer, "Lago answered") if poison & set(batch) else TAKEN


@pytest.mark.parametrize("answer", [Answer.REFUSED, Answer.FAILED])
def test_what_breaks_a_batch_unnamed_is_found_and_takes_nobody_along(answer: Answer) -> None:
    answers = Answers(poisoned({b"5", b"6", b"93"}, answer))
    one = sender(answers)
    put(one, 100)

    def others_come() -> bool:
        one.put(b"later", time.time())
        return one.measures.dropped == {"refused": 3}

    until(others_come)
    assert one.flush(30)
    taken = [body for body in answers.taken if body != b"later"]
    assert len(taken) == len(set(taken)) == 97


def test_others_pass_beside_an_event_that_fails() -> None:
    answers = Answers(poisoned({b"0"}, Answer.FAILED))
    one = sender(answers, strikes=10**9)
    put(one, 1)
    until(lambda: len(answers.batches) >= 3)
    for _ in range(3):
        before = len(answers.taken)
        one.put(b"good", time.time())
        until(lambda before=before: len(answers.taken) == before + 1)
    assert one.waiting() == 1


def test_where_nothing_passes_the_fault_is_no_events_and_a_round_stays_short() -> None:
    answers = Answers(lambda batch: Reply(Answer.FAILED, "Lago answered 500"))
    one = sender(answers, linger=0.2)
    put(one, 100)
    until(lambda: len(answers.batches) >= 120)
    assert not one.measures.dropped
    assert one.waiting() == 100
    whole = [place for place, batch in enumerate(answers.batches) if len(batch) == 100]
    assert max(later - sooner for sooner, later in itertools.pairwise([*whole, len(answers.batches)])) <= 17
    answers.rule = lambda batch: TAKEN
    until(lambda: one.measures.delivered == 100)
    assert not one.measures.dropped


def test_a_fault_of_our_own_loses_its_batch_and_the_thread_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    def rule(batch: list[bytes]) -> Reply:
        if b"0" in batch:
            raise ZeroDivisionError
        return TAKEN

    answers = Answers(rule)
    one = sender(answers)
    put(one, 1)
    until(lambda: one.measures.dropped == {"error": 1})
    one.put(b"good", time.time())
    until(lambda: answers.taken == [b"good"])


def test_a_flush_is_bounded_and_says_what_is_left(caplog: pytest.LogCaptureFixture) -> None:
    one = sender(Answers(lambda batch: Reply(Answer.UNREACHABLE, "nobody there")), first_pause=30.0)
    put(one, 7)
    assert not one.flush(0.5)
    assert "7 events were not sent before the end" in caplog.text


def test_a_flush_cuts_a_pause_short() -> None:
    count = iter(range(1000))
    answers = Answers(lambda batch: TAKEN if next(count) else Reply(Answer.BUSY, "not now"))
    one = sender(answers, first_pause=3600.0, longest_pause=3600.0)
    put(one, 7)
    until(lambda: len(answers.batches) == 1)
    assert one.flush(30)


def test_warnings_are_few_and_say_how_often(caplog: pytest.LogCaptureFixture) -> None:
    answers = Answers()
    answers.gate.clear()
    one = sender(answers, queue=1)
    put(one, 1000)
    answers.gate.set()
    said = [record.getMessage() for record in caplog.records if "queue_full" in record.getMessage()]
    assert said == ["an event did not fit into the queue; the nightly run sends it (queue_full, 1 times)"]
    assert one.measures.dropped == {"queue_full": 999}


def _in_child(one: Sender, results: Any) -> None:
    waiting = one.waiting()
    one.put(b"child", time.time())
    results.put((waiting, one.flush(30), one.measures.delivered, os.getpid()))


def test_a_forked_process_sends_its_own_events_and_its_parent_those_that_waited() -> None:
    answers = Answers()
    answers.gate.clear()
    one = sender(answers)
    put(one, 5)
    until(lambda: len(one._hand) == 5)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    answers.gate = threading.Event()  # the child's thread meets an open gate
    answers.gate.set()
    child = context.Process(target=_in_child, args=(one, results))
    child.start()
    waiting, sent, delivered, pid = results.get(timeout=60)
    child.join(60)
    assert (waiting, sent, delivered) == (0, True, 1)
    assert pid != os.getpid()


def test_many_threads_lose_nothing() -> None:
    answers = Answers()
    one = sender(answers)
    threads = [threading.Thread(target=put, args=(one, 500)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert one.flush(60)
    assert len(answers.taken) == 4000
    assert one.measures.delivered == 4000


def test_the_limits_are_those_that_are_documented() -> None:
    assert Limits() == Limits(queue=10_000, batch=100, linger=1.0, give_up=600.0)

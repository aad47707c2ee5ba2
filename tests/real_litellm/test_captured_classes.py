"""The class of every row and event of the labelled captures, worked out by hand. The label is the truth.

Requests were sent 1.2 s apart or more, and each event came within half a second of its row's end. So within a reach of
a second or little more, rows and events of equal content keep apart, and the pairs can be held to the labels. With the
usual reach they cannot always: events that say the same may change places. Then the classes must still be the same, in
number.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pandas as pd
import pytest

from reconcile.classify import Reach, Rules, Settled, classify
from reconcile.domain.frames import EVENTS, ROWS, check

from .captured import EVENT_CODE, LABELLED, Labelled, labelled, labelled_events, labelled_rows

USUAL = Reach(before=30_000, after=120_000)


def apart(name: str) -> Reach:
    """The reach within which equal rows and events of a capture keep apart. A batch is looked at again after 2.6 s,
    and ID 42 used again after 1.2 s."""
    return Reach(before=1_000, after=3_000 if name.startswith(("jobs", "upstream_team")) else 1_000)


# Per capture the requests whose row or event is something else than one row, `matched_live`, with one event of its own.
# Of each: the classes (and reasons) of its rows, and of its events.
Found = tuple[list[str], list[str]]
LIVE = "matched_live"
DOUBLED = ["duplicate same_content", LIVE]
OTHER_COST: Found = (["mismatched cost"], ["mismatched cost"])
FAILED: Found = (["excluded failure"], [])
FAILED_WITH_SPEND: Found = (["excluded failure_with_spend"], [])
NO_CHARGE_ID: Found = (["unattributed no_charge_id"], [])
NO_EVENT: Found = (["missing not_sent"], [])
TWO: Found = ([LIVE, LIVE], [LIVE, LIVE])

UPSTREAM: dict[str, Found] = {
    # A key without a team: the callback posts nothing.
    "no team": NO_CHARGE_ID,
    "provider refuses": FAILED,
    # The provider used the ID again, so that the second row was dropped; its event was sent.
    "id 42": ([LIVE], DOUBLED),
}
SPECIAL: dict[str, Found] = {
    # The mirrored call of the operator's own test is billed under the caller's IDs.
    "silent experiment": TWO,
    # A stream's event is sent before its guardrails are paid for.
    "guardrail pre stream": OTHER_COST,
    "guardrail pre+post stream": OTHER_COST,
    "blocked after the call stream": OTHER_COST,
    "blocked before the call": FAILED_WITH_SPEND,
    "blocked after the call": FAILED_WITH_SPEND,
    "stream broken by the provider": FAILED_WITH_SPEND,
    "retries then failure": FAILED,
}
EXPECTED: dict[str, dict[str, Found]] = {
    "bridged_team": {},
    "bridged_team_1.102.3": {
        # LiteLLM wrote one call as two rows, and sent two events. All four are there: nothing is missing.
        "chat bridged to responses": TWO,
        "responses-only model over chat": TWO,
        "responses bridged to anthropic": TWO,
        # Both rows have one ID here: the table keeps the first.
        "messages bridged to openai": ([LIVE], DOUBLED),
    },
    "jobs_team": {
        # Fetching the file that holds a batch's result is a call of LiteLLM's own, with neither key nor team. The
        # second look at the batch writes no row, and posts the whole cost again.
        "batch retrieve": ([LIVE, "unattributed no_charge_id"], [LIVE]),
        "batch retrieve again": (["unattributed no_charge_id"], ["duplicate same_content"]),
    },
    "jobs_team_1.106.2": {
        # With a cache configured this LiteLLM posts the event of a look twice; that of a batch first with cost 0.
        "batch retrieve": ([LIVE, "unattributed no_charge_id"], [LIVE, "orphan no_row"]),
        "batch retrieve again": (["unattributed no_charge_id"], ["duplicate same_content", "orphan no_row"]),
        "responses retrieve": ([LIVE], DOUBLED),
        "responses retrieve again": ([LIVE], DOUBLED),
        "background retrieve": ([LIVE], DOUBLED),
        "background retrieve again": ([LIVE], DOUBLED),
    },
    "mock": {
        "no team": NO_CHARGE_ID,
        # With mock answers the team is not where the callback looks for it.
        "messages": NO_EVENT,
    },
    # The callback cannot read the answer of a speech call, and posts nothing.
    "other_team": {"speech": NO_EVENT},
    "retries_team": {
        # One row for each attempt that timed out.
        "timeouts only": (["excluded failure_with_spend"] * 2, []),
        "stream broken then retried": FAILED_WITH_SPEND,
        "stream broken then fallback": FAILED_WITH_SPEND,
        "refused then fallback": FAILED,
        # The classifier is billed to the caller, too.
        "auto router with a classifier": TWO,
        "judge guardrail": ([LIVE, "unattributed no_charge_id"], [LIVE]),
    },
    "special_team": SPECIAL,
    "special_team_1.106.2": {
        **SPECIAL,
        # This LiteLLM sends no event with a guardrail's cost in it. Where the call itself costs nothing, the event adds
        # nothing to the sum.
        "guardrail pre": OTHER_COST,
        "guardrail pre+post": OTHER_COST,
        "responses guardrail pre": OTHER_COST,
        "messages guardrail pre": (["unbilled not_counted"], ["unbilled not_counted"]),
    },
    "upstream_end_user": {
        # The row has the end user of a header, of metadata.user_id or of safety_identifier; the callback reads the
        # body's `user` alone, and sends '' where that is ''.
        "header end user": NO_EVENT,
        "responses safety_identifier": NO_EVENT,
        "messages metadata.user_id": NO_EVENT,
        "empty user": (["unattributed no_charge_id"], ["orphan no_subscription_id"]),
        "silent experiment": TWO,
        # The classifier's own call has no body with a `user`.
        "auto router with a classifier": ([LIVE, "missing not_sent"], [LIVE]),
    },
    "upstream_team": UPSTREAM,
    # With a cache configured this LiteLLM posts the event of an image twice.
    "upstream_team_1.106.2": {**UPSTREAM, "image": ([LIVE], DOUBLED)},
}


def expected_of(name: str) -> dict[str, Found]:
    """Of every request of a capture the classes of its rows and of its events."""
    requests = [request for request, _ in (*labelled_rows(name), *labelled_events(name))]
    assert EXPECTED[name].keys() <= {_request(request) for request in requests}
    return {_request(request): EXPECTED[name].get(_request(request), ([LIVE], [LIVE])) for request in requests}


def settled(capture: Labelled, reach: Reach) -> Settled:
    check(capture.rows, ROWS)
    check(capture.events, EVENTS)
    rules = Rules(code=EVENT_CODE, reach=reach, aggregation="sum_agg", own_number="spend")
    return classify(capture.rows, capture.events, rules)


def told(verdicts: pd.DataFrame) -> list[str]:
    words = zip(verdicts["class"].tolist(), verdicts["reason"].tolist(), strict=True)
    return [f"{kind} {reason}".strip() for kind, reason in words]


def request_of_rows(capture: Labelled, verdicts: pd.DataFrame) -> list[str]:
    labels = dict(zip(capture.rows["request_id"].tolist(), capture.row_requests, strict=True))
    return [_request(labels[request_id]) for request_id in verdicts["request_id"].tolist()]


def request_of_events(capture: Labelled, verdicts: pd.DataFrame) -> list[str]:
    labels = dict(zip(capture.events["transaction_id"].tolist(), capture.event_requests, strict=True))
    return [_request(labels[transaction_id]) for transaction_id in verdicts["transaction_id"].tolist()]


def _request(label: str) -> str:
    """Two requests under one ID are one for the table: which of their events is the second cannot be told."""
    return label.replace("id 42 again", "id 42")


def by_request(requests: list[str], words: list[str]) -> dict[str, list[str]]:
    return {
        request: sorted(word for other, word in zip(requests, words, strict=True) if other == request)
        for request in requests
    }


@pytest.mark.parametrize("name", LABELLED)
def test_the_class_of_every_row_and_event(name: str) -> None:
    capture = labelled(name)
    found = settled(capture, apart(name))
    rows = by_request(request_of_rows(capture, found.rows), told(found.rows))
    events = by_request(request_of_events(capture, found.events), told(found.events))
    expected = expected_of(name)
    assert {request: (rows.get(request, []), events.get(request, [])) for request in expected} == {
        request: (sorted(of_rows), sorted(of_events)) for request, (of_rows, of_events) in expected.items()
    }


@pytest.mark.parametrize("name", LABELLED)
def test_every_pair_is_of_one_request(name: str) -> None:
    capture = labelled(name)
    found = settled(capture, apart(name))
    labels = dict(zip(capture.events["transaction_id"].tolist(), capture.event_requests, strict=True))
    events = found.rows["event_id"].tolist()
    pairs = [
        (request, _request(labels[event]))
        for request, event in zip(request_of_rows(capture, found.rows), events, strict=True)
        if event
    ]
    assert [request for request, _ in pairs] == [request for _, request in pairs]
    assert len(pairs) == sum(word.split()[0] in (LIVE, "mismatched", "unbilled") for word in told(found.rows))


# What the usual reach makes of a capture where the first reading says something else, as (was, is, how often), of rows
# and of events. Every call of these has 12 + 6 tokens, and another one of equal values lies within two minutes. An
# event that is one value off its own row, but repeats another row to the last digit, is that row's duplicate (repeats
# come first); one of `model: null` and cost 0 repeats a look at a response.
Changes = list[tuple[str, str, int]]
WITH_THE_USUAL_REACH: dict[str, tuple[Changes, Changes]] = {
    "special_team": (
        [("mismatched cost", "missing not_sent", 3)],
        [("mismatched cost", "duplicate same_content", 3)],
    ),
    "special_team_1.106.2": (
        [("mismatched cost", "missing not_sent", 6)],
        [("mismatched cost", "duplicate same_content", 6)],
    ),
    "jobs_team_1.106.2": ([], [("orphan no_row", "duplicate same_content", 2)]),
}


@pytest.mark.parametrize("name", LABELLED)
def test_the_usual_reach_changes_no_number_but_these(name: str) -> None:
    capture = labelled(name)
    first, usual = settled(capture, apart(name)), settled(capture, USUAL)
    of_rows, of_events = WITH_THE_USUAL_REACH.get(name, ([], []))
    assert Counter(told(usual.rows)) == changed(Counter(told(first.rows)), of_rows)
    assert Counter(told(usual.events)) == changed(Counter(told(first.events)), of_events)


def changed(words: Counter[str], changes: Changes) -> Counter[str]:
    for was, becomes, count in changes:
        words[was] -= count
        words[becomes] += count
    return +words


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("jobs_team", ["responses retrieve", "responses retrieve again"]),
        ("jobs_team_1.106.2", ["responses retrieve", "responses retrieve again"]),
        ("other_team", ["file retrieve", "batch create"]),
    ],
)
def test_a_look_that_cost_nothing_and_lost_its_event_is_nobodys_bill(name: str, lost: list[str]) -> None:
    whole = labelled(name)
    kept = [number for number, request in enumerate(whole.event_requests) if request not in lost]
    capture = replace(
        whole,
        events=whole.events.iloc[kept].reset_index(drop=True),
        event_requests=[whole.event_requests[number] for number in kept],
    )
    found = settled(capture, apart(name))
    words = by_request(request_of_rows(capture, found.rows), told(found.rows))
    assert [words[request] for request in lost] == [["excluded retrieval"]] * len(lost)

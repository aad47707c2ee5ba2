"""The traffic of LiteLLM's real proxies through the job: the class of every row and event, worked out by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

import pytest
from real_litellm.captured import (
    CHARGE_BY,
    EVENT_CODE,
    LABELLED,
    Capture,
    captured_events,
    captured_rows,
    labelled_events,
    labelled_rows,
)
from real_litellm.test_captured_classes import apart, expected_of

from reconcile.domain.document import Document
from reconcile.domain.window import Window

from .conftest import Ground
from .outcome import counts

WINDOW = Window(datetime(2026, 11, 23, 20, 30, tzinfo=UTC), datetime(2026, 11, 23, 20, 40, tzinfo=UTC))


def run(capture: Capture, ground: Ground) -> Document:
    ground.lago.organization.add_billable_metric(EVENT_CODE)
    ground.subscribe("team1")
    ground.add_rows(captured_rows(capture))
    ground.add_events(captured_events(capture))
    return ground.backfill(WINDOW, LAGO_API_EVENT_CODE=EVENT_CODE, LAGO_API_CHARGE_BY=CHARGE_BY)


def listed(document: Document) -> list[tuple[Any, ...]]:
    names = ("class", "request_id", "transaction_id", "reason")
    return [tuple(entry[name] for name in names) for entry in document.as_json()["discrepancies"]]


def test_mock_answers(ground: Ground) -> None:
    """Ten rows, eight events.

    | row, 20:33: | what it is | event, 20:33: | class | because |
    |---|---|---|---|---|
    | 03.732 | chat, 10 + 20 tokens | 03.745 | matched_live | everything is equal |
    | 04.960 | stream | 04.962 | matched_live | everything is equal |
    | 05.676 | chat, end user by header | 05.685 | matched_live | the team is charged, not the end user |
    | 06.407 | bedrock, unpriced | 06.422 | matched_live | both cost 0; the row's prefix `bedrock/` is stripped |
    | 07.139 | embedding, total_tokens 0 | 07.148 | matched_live | the odd total is the same on both sides |
    | 07.864 | a key without a team | - | unattributed | team_id is '' |
    | 09.388 | /v1/messages, cost 0 | - | delivered | nothing was posted: the mock lost the team |
    | 10.965 | /v1/responses | 10.993 | matched_live | no tokens there; the event names the model_group |
    | 11.720 | /v1/completions | 11.729 | matched_live | no tokens there; model and cost are equal |
    | 12.506 | chat, as the first | 12.517 | matched_live | everything is equal |

    Four rows are equal (03.732, 05.676, 11.720, 12.506) and have four events. So none is in doubt.
    """
    document = run("mock", ground)
    assert counts(document.rows) == {"matched_live": 8, "unattributed": 1, "delivered": 1}
    assert counts(document.events) == {"matched_live": 8}
    assert listed(document) == [("unattributed", "chatcmpl-cc5061eb-6e08-4a07-9e26-faeea38c94b4", None, "no_charge_id")]
    assert ground.sent_requests() == ["msg_013Zva2CMHLNnXjNJJKqJ2EF"]
    assert document.ambiguous == 0


def test_answers_of_upstream_servers(ground: Ground) -> None:
    """Fifteen requests, fourteen rows, fifteen events.

    | row, 20:35: | what it is | event, 20:35: | because |
    |---|---|---|---|
    | 24.540, 28.189, 29.853, 48.430 | gpt-4o-mini, 12 + 6 tokens | four of those below | everything is equal |
    | 26.239 | the same by a deployment without prefix | one of those below | the bare model is the same |
    | 31.479, 33.633 | claude, 165 + 15, chat and /v1/messages | 31.497, 33.651 | equal twins, two events |
    | 35.286 | claude, 25 + 15, stream | 35.301 | everything is equal, cost 0 |
    | 36.980 | /v1/responses | 37.005 | no tokens there; model and cost are equal |
    | 38.591 | /v1/completions, 12 + 6, the cost of the first | one of those below | its own event has no tokens |
    | 40.190 | vllm | 40.198 | the prefix `hosted_vllm/` is stripped, the rest of the slashes stay |
    | 41.845 | embedding | 41.855 | everything is equal |
    | 43.494 | image, unpriced | 43.513 | the event's null cost is 0, and it has no tokens |
    | 45.155 | `chatcmpl-42` | one of those below | everything is equal |
    | (46.832) | `chatcmpl-42` again | - | the primary key kept the first: there is no such row |

    Seven rows are gpt-4o-mini with 12 + 6 tokens, that of /v1/completions among them. Seven events say just that:
    24.552, 26.255, 28.195, 29.858, 45.166, 46.838, 48.441. They are paired first. The eighth, of /v1/completions
    (38.604), carries no tokens and comes after them: no row is left, and it equals one that has its event. So it is the
    `duplicate`. In truth the vanished row's event (46.838) is the one too many. Both say the same in money, and nothing
    can tell them apart: the answer is right to the count.
    """
    document = run("upstream_team", ground)
    assert counts(document.rows) == {"matched_live": 14}
    assert counts(document.events) == {"matched_live": 14, "duplicate": 1}
    ((kind, request_id, transaction_id, reason),) = listed(document)
    assert (kind, transaction_id, reason) == ("duplicate", "342fafc5-6da5-4385-812a-34cd8f1e5649", "same_content")
    assert request_id is not None
    assert ground.own_events() == []
    assert document.ambiguous == 0


# The captures with labels were made within this day.
LABELLED_DAY = Window(datetime(2026, 11, 24, 22, tzinfo=UTC), datetime(2026, 11, 25, tzinfo=UTC))


def run_labelled(name: str, ground: Ground, lost: Collection[str] = ()) -> Document:
    """The job over a labelled capture, without the first event of each request that is `lost`."""
    ground.lago.organization.add_billable_metric(EVENT_CODE)
    ground.subscribe("team1", "cust-1", "cust-hdr", "cust-safe", "cust-meta")
    ground.add_rows([row for _, row in labelled_rows(name)])
    left = list(lost)
    events = []
    for request, event in labelled_events(name):
        if request in left:
            left.remove(request)
        else:
            events.append(event)
    assert not left
    ground.add_events(events)
    return backfill_labelled(name, ground)


def backfill_labelled(name: str, ground: Ground) -> Document:
    reach = apart(name)
    return ground.backfill(
        LABELLED_DAY,
        LAGO_API_EVENT_CODE=EVENT_CODE,
        LAGO_API_CHARGE_BY="end_user_id" if name.endswith("end_user") else "team_id",
        RECONCILE_MATCH_BEFORE=f"{reach.before // 1_000}s",
        RECONCILE_MATCH_AFTER=f"{reach.after // 1_000}s",
        # A call's second event holds back an equal call that was made seconds before, else.
        RECONCILE_DOUBT_AFTER=f"{reach.after // 1_000}s",
    )


@pytest.mark.parametrize("name", LABELLED)
def test_the_job_says_what_the_labels_say(name: str, ground: Ground) -> None:
    document = run_labelled(name, ground)
    rows = Counter(word.split()[0] for of_rows, _ in expected_of(name).values() for word in of_rows)
    events = Counter(word.split()[0] for _, of_events in expected_of(name).values() for word in of_events)
    rows["delivered"] = rows.pop("missing", 0)
    assert counts(document.rows) == +rows
    assert counts(document.events) == +events
    assert len(ground.own_events()) == rows["delivered"]
    again = backfill_labelled(name, ground)
    assert again.rows["delivered"].count == 0
    assert again.rows["matched"].count == rows["delivered"]


@pytest.mark.parametrize(
    "lost", ["chat bridged to responses", "responses-only model over chat", "responses bridged to anthropic"]
)
def test_the_second_row_of_one_call_is_held(lost: str, ground: Ground) -> None:
    """LiteLLM 1.102.3 wrote the call as two rows; one of its two events was lost. It is billed once, and stays so."""
    document = run_labelled("bridged_team_1.102.3", ground, [lost])
    assert document.reasons["held"] == {"same_call": 1}
    assert document.rows["held"].count == 1
    assert document.rows["delivered"].count == 0
    assert ground.own_events() == []


def test_a_call_that_was_written_twice_and_lost_both_events_is_sent_once(ground: Ground) -> None:
    document = run_labelled("bridged_team_1.102.3", ground, ["chat bridged to responses"] * 2)
    assert document.reasons["held"] == {"same_call": 1}
    assert document.rows["delivered"].count == 1
    assert len(ground.own_events()) == 1


def test_a_further_look_at_a_finished_job_is_held(ground: Ground) -> None:
    document = run_labelled("jobs_team", ground, ["background retrieve again"])
    assert document.reasons["held"] == {"repeat": 1}
    assert document.rows["delivered"].count == 0
    assert ground.own_events() == []


def test_looks_for_nothing_are_never_sent(ground: Ground) -> None:
    """Their rows carry all the tokens of the response in 1.110.2."""
    document = run_labelled("jobs_team", ground, ["responses retrieve", "responses retrieve again"])
    assert document.reasons["excluded"]["retrieval"] == 2
    assert document.rows["delivered"].count == 0
    assert ground.own_events() == []


@pytest.mark.parametrize("capture", ["mock", "upstream_team"])
def test_a_second_run_sends_nothing(capture: Capture, ground: Ground) -> None:
    run(capture, ground)
    before = ground.lago.organization.stored_events()
    again = ground.backfill(WINDOW, LAGO_API_EVENT_CODE=EVENT_CODE, LAGO_API_CHARGE_BY=CHARGE_BY)
    assert again.rows["delivered"].count == 0
    assert ground.lago.organization.stored_events() == before

"""What LiteLLM itself posts to Lago and writes to its table, in each of the versions that are driven."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest

from reconcile.sandbox.traffic import load_traffic

from .live import RequestSpec
from .loopback import Post, note_taking_lago
from .versions import NEWEST, LiteLLM

TOKENS = ("prompt_tokens", "completion_tokens", "total_tokens")

# One of each kind of request that the sample traffic has.
KINDS = {
    "async": RequestSpec(),
    "sync": RequestSpec(sync=True),
    "stream": RequestSpec(stream=True),
    "sync stream": RequestSpec(sync=True, stream=True),
    "embedding": RequestSpec(model="embed", kind="embedding"),
    "sync embedding": RequestSpec(model="embed", kind="embedding", sync=True),
    "responses": RequestSpec(model="gpt-4o", kind="responses"),
    "messages": RequestSpec(model="claude", kind="messages"),
    "text": RequestSpec(model="instruct", kind="text"),
    "image": RequestSpec(model="image", kind="image"),
    "azure": RequestSpec(model="gpt-4o-eu"),
    "anthropic": RequestSpec(model="claude"),
    "anthropic stream": RequestSpec(model="claude", stream=True),
    "bedrock": RequestSpec(model="nova"),
    "vllm": RequestSpec(model="qwen"),
    "vllm stream": RequestSpec(model="qwen", stream=True),
    "no prefix": RequestSpec(model="bare"),
    "cache miss": RequestSpec(cached=True, reply="same"),
    "cache hit": RequestSpec(cached=True, reply="same"),
}


@pytest.fixture
def notes() -> Iterator[tuple[str, list[Post]]]:
    with note_taking_lago() as base_and_posts:
        yield base_and_posts


@pytest.fixture(scope="module")
def live(litellm: LiteLLM) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Kind -> the row and the event that LiteLLM makes of it, charged by team_id."""
    with note_taking_lago() as (base, posts):
        rows = litellm.drive(base, "key", "llm_usage", "team_id", list(KINDS.values()))
    assert len(posts) == len(rows) == len(KINDS)
    events = [post.body["event"] for post in posts]
    return dict(zip(KINDS, zip(rows, events, strict=True), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_tells_what_its_row_tells(kind: str, live: dict[str, tuple[dict[str, Any], dict[str, Any]]]) -> None:
    row, event = live[kind]
    properties = event["properties"]
    assert event["code"] == "llm_usage"
    assert event["external_subscription_id"] == row["team_id"] == "team-research"
    assert row["model"].removeprefix(row["custom_llm_provider"] + "/") == properties["model"]
    assert (properties["response_cost"] or 0.0) == row["spend"]
    if kind in ("responses", "text", "image"):
        assert set(properties) == {"model", "response_cost"}
    else:
        assert {name: row[name] for name in TOKENS} == {name: properties[name] for name in TOKENS}


@pytest.mark.parametrize("litellm", [NEWEST], indirect=True)
@pytest.mark.parametrize("kind", KINDS)
def test_the_sample_traffic_has_what_litellm_makes(
    kind: str, live: dict[str, tuple[dict[str, Any], dict[str, Any]]]
) -> None:
    """If this fails after a new release of LiteLLM: `python tools/make_sample_traffic.py` makes the data anew."""
    row, event = live[kind]
    sample = load_traffic(date(2026, 11, 23))
    alike = [
        other
        for other in sample.rows
        if (row["call_type"], row["model"], row["cache_hit"], row["status"])
        == (other["call_type"], other["model"], other["cache_hit"], other["status"])
    ]
    assert alike
    assert set(row) == set(alike[0]) - {"created_at", "updated_at"}  # the database's own
    for other in alike:
        assert {name: type(value) for name, value in row.items()} == {name: type(other[name]) for name in row}
        equal = ("custom_llm_provider", "model_group", "model_id", "request_tags", "messages")
        assert {name: row[name] for name in equal} == {name: other[name] for name in equal}
    ids = {other["request_id"] for other in alike}
    events = [
        other.event
        for other in sample.events
        if sample.truth.row_of[other.event["transaction_id"]] in ids
        and other.event["transaction_id"] not in sample.truth.no_cost  # broken on the way
    ]
    assert events
    for other_event in events:
        assert set(event) == set(other_event)
        assert shape(event["properties"]) == shape(other_event["properties"])
        assert event["properties"]["model"] == other_event["properties"]["model"]


def shape(properties: dict[str, Any]) -> dict[str, type]:
    return {name: type(value) for name, value in properties.items()}


def test_events_go_to_lagos_single_event_path_under_the_key(litellm: LiteLLM, notes: tuple[str, list[Post]]) -> None:
    base, posts = notes
    litellm.drive(base + "/", "key-1", "tokens", "team_id", [RequestSpec(), RequestSpec()])
    assert [post.path for post in posts] == ["/api/v1/events"] * 2
    assert {post.headers["authorization"] for post in posts} == {"Bearer key-1"}
    assert {post.headers["user-agent"] for post in posts} == {f"litellm/{litellm.version}"}
    assert [set(post.body) for post in posts] == [{"event"}] * 2
    assert len({post.body["event"]["transaction_id"] for post in posts}) == 2


def test_a_cache_hit_is_sent_again_for_nothing(litellm: LiteLLM, notes: tuple[str, list[Post]]) -> None:
    base, posts = notes
    spec = RequestSpec(cached=True, reply="same")
    miss, hit = litellm.drive(base, "key", "llm_usage", "team_id", [spec, spec])
    assert (miss["cache_hit"], hit["cache_hit"]) == ("None", "True")
    assert hit["request_id"].startswith(miss["request_id"] + "_cache_hit")
    assert (hit["spend"], hit["total_tokens"]) == (0.0, miss["total_tokens"])
    assert [post.body["event"]["properties"]["response_cost"] for post in posts] == [miss["spend"], 0.0]


@pytest.mark.parametrize("sync", [False, True])
def test_an_end_user_of_the_body_is_charged_and_one_of_a_header_is_not(
    sync: bool, litellm: LiteLLM, notes: tuple[str, list[Post]]
) -> None:
    base, posts = notes
    specs = [
        RequestSpec(sync=sync, end_user="customer-1"),
        RequestSpec(sync=sync, header_end_user="customer-2"),
        RequestSpec(sync=sync),
        RequestSpec(sync=sync, end_user=""),
    ]
    rows = litellm.drive(base, "key", "llm_usage", "end_user_id", specs)
    assert [row["end_user"] for row in rows] == ["customer-1", "customer-2", "", ""]
    assert [post.body["event"]["external_subscription_id"] for post in posts] == ["customer-1", ""]


def test_events_are_charged_by_user(litellm: LiteLLM, notes: tuple[str, list[Post]]) -> None:
    base, posts = notes
    rows = litellm.drive(
        base, "key", "llm_usage", "user_id", [RequestSpec(user_id="user-1"), RequestSpec(user_id=None)]
    )
    assert [row["user"] for row in rows] == ["user-1", ""]
    assert [post.body["event"]["external_subscription_id"] for post in posts] == ["user-1"]


@pytest.mark.parametrize("sync", [False, True])
def test_a_failed_request_has_a_row_and_no_event(sync: bool, litellm: LiteLLM, notes: tuple[str, list[Post]]) -> None:
    base, posts = notes
    specs = [RequestSpec(fails=True, sync=sync), RequestSpec(fails=True, sync=sync, guardrail_cost=0.25)]
    rows = litellm.drive(base, "key", "llm_usage", "team_id", specs)
    assert [row["status"] for row in rows] == ["failure", "failure"]
    assert [row["spend"] for row in rows] == [0.0, 0.25]
    assert [row["request_id"] for row in rows] == [spec.call_id for spec in specs]
    assert posts == []


def test_a_guardrail_is_in_the_rows_spend_alone(litellm: LiteLLM, notes: tuple[str, list[Post]]) -> None:
    base, posts = notes
    (row,) = litellm.drive(base, "key", "llm_usage", "team_id", [RequestSpec(guardrail_cost=0.25)])
    cost = posts[0].body["event"]["properties"]["response_cost"]
    assert row["spend"] == pytest.approx(cost + 0.25)
    assert cost < 0.01


def test_an_event_that_lago_does_not_take_is_lost_and_its_row_is_not(litellm: LiteLLM) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: nobody answers there
        base = f"http://127.0.0.1:{unused.getsockname()[1]}"
        rows = litellm.drive(base, "key", "llm_usage", "team_id", [RequestSpec(), RequestSpec(sync=True)])
    assert [row["status"] for row in rows] == ["success", "success"]


def test_providers_that_reuse_an_id_make_colliding_rows(litellm: LiteLLM, notes: tuple[str, list[Post]]) -> None:
    base, posts = notes
    rows = litellm.drive(base, "key", "llm_usage", "team_id", [RequestSpec(reply="42"), RequestSpec(reply="42")])
    assert [row["request_id"] for row in rows] == ["chatcmpl-42"] * 2
    assert len(posts) == 2

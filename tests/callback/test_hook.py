"""The hooks in LiteLLM's own code, without its proxy: what they take, and what they never do."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from real_litellm import live
from real_litellm.live import RequestSpec, gateway
from real_litellm.loopback import Post as Posted
from real_litellm.loopback import note_taking_lago

import reconcile.callback
from reconcile.callback.row_event import Left, Made, event_of
from reconcile.callback.settings import Refused

from .conftest import END, environment, row, settings

pytestmark = pytest.mark.filterwarnings("ignore:.* using the `ReadOnly` qualifier:UserWarning")

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
    "bedrock": RequestSpec(model="nova"),
    "vllm": RequestSpec(model="qwen"),
    "no prefix": RequestSpec(model="bare"),
}


class NoSender:
    """Keeps what it is given."""

    def __init__(self) -> None:
        from reconcile.callback.measures import Measures

        self.measures = Measures()
        self.bodies: list[dict[str, Any]] = []

    def put(self, body: bytes, ended: float) -> None:
        self.bodies.append(json.loads(body))


def callback(payload: Any = None, **more: str) -> Any:
    live._litellm()
    from reconcile.callback.hook import LagoCallback

    def the_row(kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> dict[str, Any]:
        return row(request_id=response_obj["id"])

    return LagoCallback(settings(**more), payload or the_row, NoSender())  # type: ignore[arg-type]


def call(of: Any, answer: str = "chatcmpl-1", call_id: str = "call-1", **kwargs: Any) -> None:
    of.take({"litellm_call_id": call_id, "response_cost": 0.25, **kwargs}, {"id": answer}, END, END)


@pytest.fixture(scope="module")
def driven() -> Iterator[tuple[dict[str, dict[str, Any]], list[Posted]]]:
    """Kind -> the row that LiteLLM makes of it, and what our callback posted meanwhile."""
    litellm = live._litellm()
    from reconcile.callback import hook

    with note_taking_lago() as (base, posts), mock.patch.dict(os.environ, environment(LAGO_API_BASE=base)):
        ours = hook.start()
        rows = {}
        with gateway(base, "k", "llm_usage", "team_id") as send:
            litellm.callbacks[litellm.callbacks.index("lago")] = ours
            for kind, spec in KINDS.items():
                rows[kind] = send(spec)
                assert_settled(ours, len(rows))
        assert ours.sender.flush(30)
        yield rows, posts


def assert_settled(ours: Any, count: int) -> None:
    from .conftest import until

    measures = ours.sender.measures
    until(lambda: measures.delivered + ours.sender.waiting() + sum(measures.dropped.values()) >= count)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_call_has_the_event_of_its_row(
    kind: str, driven: tuple[dict[str, dict[str, Any]], list[Posted]]
) -> None:
    rows, posts = driven
    written = rows[kind]
    events = [event for post in posts for event in post.body["events"]]
    found = [one for one in events if one["properties"]["request_id"] == written["request_id"]]
    assert len(found) == 1
    assert {post.path for post in posts} == {"/api/v1/events/batch"}
    # the driver's rows are cut to the millisecond, so IDs are compared where a real database wrote the rows
    made = event_of({**written, "startTime": END, "endTime": END}, written["spend"], settings())
    assert isinstance(made, Made)
    same = ("external_subscription_id", "code", "properties")
    assert {name: found[0][name] for name in same} == {name: made.event[name] for name in same}


def test_one_attribute_is_one_callback_and_it_is_made_when_it_is_asked_for() -> None:
    live._litellm()
    from litellm.proxy.types_utils.utils import get_instance_fn

    vars(reconcile.callback).pop("lago", None)
    try:
        with mock.patch.dict(os.environ, {"LAGO_API_KEY": ""}), pytest.raises(Refused, match="LAGO_API_KEY"):
            get_instance_fn("reconcile.callback.lago", config_file_path="/etc/litellm/config.yaml")
        with mock.patch.dict(os.environ, environment()):
            first = get_instance_fn("reconcile.callback.lago", config_file_path="/etc/litellm/config.yaml")
            assert get_instance_fn("reconcile.callback.lago") is first
    finally:
        vars(reconcile.callback).pop("lago", None)
    with pytest.raises(AttributeError):
        _ = reconcile.callback.nothing


@pytest.mark.parametrize("version", ["1.89.7", "1.60.0", "0.13.2"])
def test_a_litellm_that_writes_other_rows_is_refused(version: str) -> None:
    live._litellm()
    from reconcile.callback.hook import check_version

    with pytest.raises(Refused, match=f"1.90 or later, and this is {version}"):
        check_version(version)


@pytest.mark.parametrize("version", ["1.90.0", "1.106.2", "1.110.2", "1.111.0.dev1", "2.0.0", "unknown"])
def test_the_others_are_not(version: str, caplog: pytest.LogCaptureFixture) -> None:
    live._litellm()
    from reconcile.callback.hook import check_version

    check_version(version)
    assert ("was tried with LiteLLM up to 1.110" in caplog.text) == version.startswith(("1.111", "2."))


def test_nothing_that_goes_wrong_reaches_the_request() -> None:
    def broken(*_: Any, **__: Any) -> dict[str, Any]:
        raise KeyError("litellm_params")

    ours = callback(broken)
    call(ours)
    ours.log_success_event({"response_cost": 1}, None, END, END)
    asyncio.run(ours.async_log_success_event(kwargs={"response_cost": 1}, response_obj=None, start_time=0, end_time=0))
    asyncio.run(ours.async_log_success_event(kwargs=None, response_obj=None, start_time=None, end_time=None))
    assert ours.sender.measures.dropped == {"error": 4}


def test_a_row_without_a_field_that_an_event_needs_is_counted() -> None:
    ours = callback(lambda *_, **__: {"status": "success"})
    call(ours)
    assert ours.sender.measures.dropped == {"error": 1}


def test_hooks_that_run_twice_make_one_event() -> None:
    ours = callback()
    call(ours)
    call(ours)
    call(ours, call_id="")
    assert len(ours.sender.bodies) == 1
    assert ours.sender.measures.left == {Left.SAME_CALL: 2}


def test_one_call_under_two_ids_makes_one_event_and_other_values_make_two() -> None:
    ours = callback()
    call(ours, "resp_1")
    call(ours, "chatcmpl-1")
    call(ours, "chatcmpl-2", response_cost=0.5)
    call(ours, "chatcmpl-3", call_id="call-2")
    assert [one["properties"]["request_id"] for one in ours.sender.bodies] == ["resp_1", "chatcmpl-2", "chatcmpl-3"]


def test_what_was_seen_is_not_remembered_for_ever() -> None:
    ours = callback()
    with mock.patch("reconcile.callback.hook._REMEMBERED", 5):
        for number in range(50):
            call(ours, f"chatcmpl-{number}", call_id=f"call-{number}")
    assert len(ours.sender.bodies) == 50
    assert len(ours._seen) == 10


def test_the_cost_is_what_the_spend_writer_stores() -> None:
    ours = callback()
    call(ours, "1", "a", response_cost=0.5)
    call(ours, "2", "b", response_cost=0.5, standard_logging_object={"response_cost": 0.75})
    call(ours, "3", "c", response_cost=0)
    call(ours, "4", "d", response_cost=None)
    call(ours, "5", "e", response_cost=0.5, standard_logging_object={"response_cost": None})
    assert [one["properties"]["response_cost"] for one in ours.sender.bodies] == ["0.5", "0.75", "0"]
    assert ours.sender.measures.left == {Left.NO_ROW: 2}


@pytest.mark.parametrize("name", ["callbacks", "success_callback", "_async_success_callback"])
def test_beside_litellms_own_callback_it_sends_nothing(name: str) -> None:
    litellm = live._litellm()
    from litellm.integrations.lago import LagoLogger

    from reconcile.callback import hook

    with mock.patch.dict(os.environ, environment()):
        theirs = LagoLogger()
        for one in ("lago", theirs):
            ours = callback()
            with mock.patch.object(litellm, name, [one]):
                call(ours)
                with pytest.raises(Refused, match="billed twice: take it out"):
                    hook.start()
            assert ours.sender.measures.left == {Left.TWO_CALLBACKS: 1}
            call(ours)
            assert len(ours.sender.bodies) == 1


def test_calls_of_several_loops_and_threads_meet_in_one_queue() -> None:
    ours = callback()

    def run(name: str) -> None:
        async def several() -> None:
            for number in range(20):
                kwargs = {"litellm_call_id": f"{name}-{number}", "response_cost": 0.1}
                await ours.async_log_success_event(kwargs, {"id": f"{name}-{number}"}, END, END)

        asyncio.run(several())

    threads = [threading.Thread(target=run, args=(str(number),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one["transaction_id"] for one in ours.sender.bodies}) == 80


def test_the_request_is_not_touched() -> None:
    """The hook gives LiteLLM's builder a lighter copy, and leaves what other callbacks get as it is."""
    seen: list[Any] = []

    def builder(kwargs: Any, response_obj: Any, *_: Any) -> dict[str, Any]:
        seen.append(kwargs)
        return row()

    kwargs = {
        "litellm_call_id": "call-1",
        "litellm_params": {"proxy_server_request": {"body": {"user": "x"}}, "metadata": {"a": 1}},
        "standard_logging_object": {
            "response_cost": 0.1,
            "model_map_information": {"big": 1},
            "id": "chatcmpl-1",
            "metadata": {"user_api_key_end_user_id": "x", "usage_object": {"big": 1}},
        },
    }
    before = json.dumps(kwargs)
    callback(builder).take(kwargs, {"id": "chatcmpl-1"}, END, END)
    assert json.dumps(kwargs) == before
    assert seen[0]["standard_logging_object"] == {
        "response_cost": 0.1,
        "id": "chatcmpl-1",
        "model_map_information": None,
        "messages": None,
        "response": None,
        "guardrail_information": None,
        "cost_breakdown": None,
        "error_information": None,
        "metadata": {
            "user_api_key_end_user_id": "x",
            "usage_object": None,
            "mcp_tool_call_metadata": None,
            "vector_store_request_metadata": None,
        },
    }
    assert seen[0]["litellm_params"]["metadata"] == {"a": 1}


def test_metrics_are_in_the_registry_that_litellm_serves() -> None:
    import prometheus_client

    from reconcile.callback.measures import Measures

    def sample(name: str, **labels: str) -> float:
        return prometheus_client.REGISTRY.get_sample_value(name, labels) or 0.0

    before = sample("reconcile_callback_delivery_seconds_count"), sample("reconcile_callback_dropped_total", reason="x")
    measures, twin = Measures(), Measures()
    measures.deliver([0.2, 40.0])
    twin.drop("x", 3, "why")
    twin.leave("own")
    measures.wait(7)
    assert sample("reconcile_callback_delivery_seconds_count") == before[0] + 2
    assert sample("reconcile_callback_dropped_total", reason="x") == before[1] + 3
    assert sample("reconcile_callback_left_total", reason="own") >= 1
    assert sample("reconcile_callback_waiting") == 7


def test_without_a_registry_nothing_is_served_and_nothing_fails() -> None:
    from reconcile.callback import measures

    with mock.patch.dict(sys.modules):
        sys.modules.pop("prometheus_client", None)
        measures.Measures().deliver([1.0])
        assert "prometheus_client" not in sys.modules

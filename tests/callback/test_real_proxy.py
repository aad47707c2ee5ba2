"""LiteLLM's real proxies, 1.106.2 and 1.110.2, with this callback: every row has its event, under its own ID."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from .conftest import until
from .litellm_proxy import REQUIREMENTS, proxy
from .requests import REQUESTS, ask, chat
from .worlds import CODES, World, content, times, world

CALLBACKS = ("reconcile.callback.lago", "rows_beside.user_id", "rows_beside.end_user_id")
NOT_SENT = {"failure", "nobody's", "the house's"}


@pytest.fixture(scope="module", params=REQUIREMENTS)
def served(
    request: pytest.FixtureRequest,
    wheel: Path,
    postgres_url: str,
    litellm_template: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[World, dict[str, Any], str]]:
    """The world after one request of each kind: the proxy's metrics, and its output; it was stopped with SIGTERM."""
    directory = tmp_path_factory.mktemp(f"proxy-{request.param}")
    with world(postgres_url, litellm_template) as made:
        more = {"cache": True, "cache_params": {"type": "local"}, "require_auth_for_metrics_endpoint": False}
        with proxy(request.param, wheel, directory, made.settings(), [*CALLBACKS, "prometheus"], **more) as running:
            for name in REQUESTS:
                ask(running, name)
            until(lambda: len(running.rows()) == len(REQUESTS))
            until(lambda: len(made.events("team_id")) >= len(REQUESTS) - len(NOT_SENT))
            metrics = httpx.get(running.url + "/metrics/", timeout=30).text
            assert running.ask(*chat("the end")).status_code == 200
            running.stop()
            made.write(running.rows())
            yield made, {"metrics": metrics}, running.output.read_text(encoding="utf-8")


@pytest.mark.parametrize("charge_by", CODES)
def test_every_event_has_the_id_the_time_and_the_values_of_a_row(
    charge_by: str, served: tuple[World, dict[str, Any], str]
) -> None:
    made, _, _ = served
    rows, events = made.rows(charge_by), made.events(charge_by)
    by_content = []
    for event in events:
        found = rows.get(event["transaction_id"])
        if found is None:
            by_content.append(event)
            continue
        assert event["external_subscription_id"] == found["subscription"]
        assert content(event) == found["content"]
        assert event["properties"]["request_id"] == found["request_id"]
        assert round(event["timestamp"].timestamp() * 1000) == found["usage_ms"]
    assert set(times(events).values()) <= {1}
    # LiteLLM writes the time of the writing into the request ID of a cache hit, and the table keeps one row of an ID.
    hits = [one for one in by_content if "_cache_hit" in one["properties"]["request_id"]]
    others = [one for one in by_content if one not in hits]
    assert len(hits) == (charge_by != "end_user_id")
    assert [one["properties"]["request_id"] for one in others] == ["chatcmpl-1"] * (charge_by != "end_user_id")
    for hit in hits:
        (cached,) = (one for one in rows.values() if one["cached"])
        assert content(hit) == cached["content"]
        assert abs(round(hit["timestamp"].timestamp() * 1000) - cached["usage_ms"]) <= 1


@pytest.mark.parametrize("charge_by", CODES)
def test_every_row_that_bills_has_its_event(charge_by: str, served: tuple[World, dict[str, Any], str]) -> None:
    made, _, _ = served
    sent = times(made.events(charge_by))
    for transaction, row in made.rows(charge_by).items():
        assert row["cached"] or bool(sent[transaction]) == row["billable"], row


def test_the_proxys_end_waits_for_what_is_queued(served: tuple[World, dict[str, Any], str]) -> None:
    made, _, output = served
    assert "chatcmpl-the end" in {event["properties"]["request_id"] for event in made.events("team_id")}
    assert "were not sent before the end" not in output


def test_litellms_metrics_hold_ours(served: tuple[World, dict[str, Any], str]) -> None:
    _, found, _ = served
    for line in (
        "reconcile_callback_waiting 0.0",
        'reconcile_callback_left_total{reason="no_charge_id"}',
        'reconcile_callback_left_total{reason="own"}',
        "reconcile_callback_delivery_seconds_bucket",
    ):
        assert line in found["metrics"]


def test_nothing_was_said_of_a_fault_or_a_key(served: tuple[World, dict[str, Any], str]) -> None:
    _, _, output = served
    assert "lago-test-key" not in output
    assert "reconcile.callback" not in output


def test_a_proxy_whose_settings_cannot_be_honoured_does_not_start(wheel: Path, tmp_path: Path) -> None:
    settings = {
        "LAGO_API_BASE": "http://127.0.0.1:1",
        "LAGO_API_KEY": "lago-test-key-91ab",
        "RECONCILE_ID_KIND": "external_customer_id",
    }
    with (
        pytest.raises(RuntimeError, match="did not start") as failed,
        proxy("1.110.2", wheel, tmp_path, settings, ["reconcile.callback.lago"]),
    ):
        pass
    said = str(failed.value)
    assert "reconcile.callback.lago cannot start. not set: LAGO_API_EVENT_CODE; RECONCILE_ID_KIND: " in said
    assert "lago-test-key" not in said


def test_requests_do_not_notice_that_lago_is_down_and_a_killed_proxy_leaves_the_rest_to_the_night(
    wheel: Path, postgres_url: str, litellm_template: str, tmp_path: Path
) -> None:
    with world(postgres_url, litellm_template) as made, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening
        nowhere = made.settings(LAGO_API_BASE=f"http://127.0.0.1:{nobody.getsockname()[1]}")
        with proxy("1.110.2", wheel, tmp_path, nowhere, ["reconcile.callback.lago"]) as running:
            for number in range(20):
                assert running.ask(*chat(str(number))).status_code == 200
            until(lambda: len(running.rows()) == 20)
            running.process.send_signal(signal.SIGKILL)
            running.process.wait(60)
            made.write(running.rows())
        assert len(made.rows("team_id")) == 20
        assert made.events("team_id") == []


def test_a_callback_that_is_a_file_beside_the_config_is_the_same(
    wheel: Path, postgres_url: str, litellm_template: str, tmp_path: Path
) -> None:
    """LiteLLM before 1.94 takes files beside its config alone."""
    (tmp_path / "lago_callback.py").write_text("from reconcile.callback import lago as lago\n", encoding="utf-8")
    with world(postgres_url, litellm_template) as made:
        with proxy("1.106.2", wheel, tmp_path, made.settings(), ["lago_callback.lago"]) as running:
            assert running.ask(*chat("1")).status_code == 200
            until(lambda: len(made.events("team_id")) == 1)
            running.stop()
            made.write(running.rows())
        assert set(made.rows("team_id")) == set(times(made.events("team_id")))

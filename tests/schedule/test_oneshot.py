"""`reconcile run` from cron: the metrics file and alerts, over real HTTP; and `reconcile test-alert`."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from .conftest import World

NOW = "2026-11-03T01:30Z"


@pytest.fixture
def hook() -> Iterator[tuple[str, list[str]]]:
    """A webhook's address and the texts that it took."""
    texts: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            texts.append(json.loads(self.rfile.read(int(self.headers["content-length"])))["text"])
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook", texts
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_run_leaves_metrics_and_raises_an_alert(world: World, hook: tuple[str, list[str]]) -> None:
    url, texts = hook
    prom = world.folder / "reconcile.prom"
    settings = {"RECONCILE_ALERT_WEBHOOK": url, "RECONCILE_METRICS_TEXTFILE": str(prom)}
    world.add_rows("2026-11-02T12:00Z")
    world.execute("UPDATE \"LiteLLM_SpendLogs\" SET team_id = 'nobody'")
    process = world.start(NOW, "run", "--output", "reports", "--format", "json", **settings)
    assert process.ended() == 1
    (text,) = texts
    (report,) = (world.folder / "reports").iterdir()
    assert "*reconcile: llm_usage: 1 held*" in text
    assert f"Report: {report}\n" in text
    stream = 'charge_by="team_id",event_code="llm_usage"'
    assert 'reconcile_rows{charge_by="team_id",class="held",event_code="llm_usage"} 1.0' in prom.read_text()

    process = world.start(NOW, "run", **settings, LAGO_API_KEY="wrong-key-1")
    assert process.ended() == 2
    assert len(texts) == 2
    assert "the run could not begin" in texts[1]
    assert "wrong-key-1" not in texts[1]
    assert f"reconcile_last_run_exit_code{{{stream}}} 2.0" in prom.read_text()
    assert f"reconcile_last_success_timestamp_seconds{{{stream}}} 1.79" in prom.read_text()  # still of the first run


def test_whoever_types_a_command_reads_its_result(world: World, hook: tuple[str, list[str]]) -> None:
    url, texts = hook
    prom = world.folder / "reconcile.prom"
    world.add_rows("2026-11-02T12:00Z")
    world.execute("UPDATE \"LiteLLM_SpendLogs\" SET team_id = 'nobody'")
    settings = {"RECONCILE_ALERT_WEBHOOK": url, "RECONCILE_METRICS_TEXTFILE": str(prom)}
    assert world.start(NOW, "run", "--dry-run", **settings).ended() == 1
    assert not prom.exists()
    assert world.start(NOW, "backfill", "--from", "2026-11-02", "--to", "2026-11-02", **settings).ended() == 1
    assert prom.exists()
    assert texts == []


def test_an_alert_that_is_not_taken_does_not_fail_the_run(world: World) -> None:
    world.add_rows("2026-11-02T12:00Z")
    settings = {"RECONCILE_ALERT_WEBHOOK": f"{world.lago.url}/s3cr3t", "RECONCILE_ALERT_ON": "delivered"}
    (world.folder / "taken").mkdir()
    process = world.start(NOW, "run", **settings, RECONCILE_METRICS_TEXTFILE=str(world.folder / "taken"))
    process.saw("metrics not written")
    process.saw("alert not delivered", channel="webhook")
    assert process.ended() == 0
    assert "s3cr3t" not in json.dumps(process.lines)


def test_test_alert(world: World, hook: tuple[str, list[str]]) -> None:
    url, texts = hook
    assert world.start(NOW, "test-alert", RECONCILE_ALERT_WEBHOOK=url).ended() == 0
    assert texts == ["*reconcile: a test alert*\nThis is a test: alerts of reconcile reach you here.\n"]
    none = world.start(NOW, "test-alert")
    assert none.ended() == 2
    assert "no channel for alerts is set; for example RECONCILE_ALERT_EMAIL_TO=" in none.lines[-1]["event"]

"""OpenTelemetry: a run and its stages as spans, for whoever asks for them, and nothing at all for the others."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import structlog.testing
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from reconcile.domain.window import Window
from reconcile.errors import ReconcileError
from reconcile.run import job, tracing
from reconcile.run.order import Order
from reconcile.run.tracing import Spans
from reconcile.settings import load

from .conftest import World

STAGES = {"read", "list", "look up", "classify", "deliver", "verify"}


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(job, "spans", lambda: Spans(provider.get_tracer("test")))
    return exporter


def backfill(world: World, **environ: str) -> job.Result:
    window = Window(datetime(2026, 11, 2, tzinfo=UTC), datetime(2026, 11, 3, tzinfo=UTC))
    return job.run(load({**world.environment, **environ}, None), Order("backfill", window))


def whole(exporter: InMemorySpanExporter) -> ReadableSpan:
    (found,) = [span for span in exporter.get_finished_spans() if span.parent is None]
    return found


def test_a_run_and_its_stages(world: World, exporter: InMemorySpanExporter) -> None:
    world.add_rows("2026-11-02T12:00Z")
    result = backfill(world)
    run = whole(exporter)
    assert run.name == "reconcile backfill"
    assert run.attributes == {
        "reconcile.run_id": result.document.run_id,
        "reconcile.event_code": "llm_usage",
        "reconcile.status": "agreed",
        "reconcile.exit_code": 0,
    }
    assert run.status.status_code is StatusCode.UNSET
    stages = [span for span in exporter.get_finished_spans() if span.parent is not None]
    assert {span.name for span in stages} == set(result.document.method.stage_seconds) == STAGES
    assert all(span.parent.span_id == run.context.span_id for span in stages if span.parent and run.context)


def test_a_run_that_a_fault_stops(world: World, exporter: InMemorySpanExporter) -> None:
    world.execute('DROP TABLE "LiteLLM_SpendLogs"')
    with pytest.raises(ReconcileError):
        backfill(world)
    run = whole(exporter)
    assert run.status.status_code is StatusCode.ERROR
    assert run.attributes is not None
    assert run.attributes["error.type"] == "PreflightError"
    assert run.events == ()  # an exception's message may hold what must not leave the machine


def test_no_message_of_an_error_leaves_the_machine(exporter: InMemorySpanExporter) -> None:
    spans = job.spans()
    with pytest.raises(ValueError, match="s3cr3t"), spans.run("run", "1"), spans.stage("list"):
        raise ValueError("s3cr3t")
    assert len(exporter.get_finished_spans()) == 2
    assert "s3cr3t" not in "".join(span.to_json() for span in exporter.get_finished_spans())


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_SERVICE_NAME": "billing"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": " "},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "True"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_nobody_asked(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)  # an import would fail, and be told
    with structlog.testing.capture_logs() as logs:
        assert tracing.spans(environ)._tracer is None
    assert logs == []


def test_what_cannot_be_is_told_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317"}
    with structlog.testing.capture_logs() as logs:
        assert tracing.spans({**there, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})._tracer is None
        monkeypatch.setitem(sys.modules, "opentelemetry", None)
        assert tracing.spans(there)._tracer is None
    assert [line["event"] for line in logs] == [
        "no spans: OTEL_EXPORTER_OTLP_PROTOCOL grpc is not spoken, only http/protobuf",
        "no spans: the extra `otel` is not installed",
    ]


def test_the_job_does_not_import_it() -> None:
    code = "import sys, reconcile.run.job as job; job.spans({}); print('opentelemetry' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout == "False\n"


@pytest.fixture
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """A collector's address, and what it was sent."""
    taken: list[ExportTraceServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.path == "/v1/traces":
                taken.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", taken
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_process_sends_them_to_the_collector_before_it_ends(
    collector: tuple[str, list[ExportTraceServiceRequest]],
) -> None:
    address, taken = collector
    code = """
from reconcile.run.order import Timing
from reconcile.run.tracing import spans
timing = Timing(spans=spans())
with timing.spans.run("run", "2026-11-23T02-15-00Z-7f3a"), timing.stage("read"):
    pass
"""
    environ = {"PATH": os.environ["PATH"], "OTEL_EXPORTER_OTLP_ENDPOINT": address}
    subprocess.run([sys.executable, "-c", code], check=True, env=environ)
    groups = [group for request in taken for group in request.resource_spans]
    assert [span.name for group in groups for scope in group.scope_spans for span in scope.spans] == [
        "read",
        "reconcile run",
    ]
    resource = {one.key: one.value.string_value for one in groups[0].resource.attributes}
    assert resource["service.name"] == "reconcile"

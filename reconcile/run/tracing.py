"""Spans of a run and its stages for OpenTelemetry, where OTEL settings are present and the extra `otel` is installed.

Without them nothing is imported and nothing is measured. They go out as OTLP over HTTP, as OpenTelemetry's own names
say (OTEL_EXPORTER_OTLP_ENDPOINT, …_HEADERS, …_TIMEOUT, OTEL_RESOURCE_ATTRIBUTES); where the process has a provider
already (`opentelemetry-instrument reconcile run`), they go to that one.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import structlog

log = structlog.get_logger()

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_OURS = "http/protobuf"


class Spans:
    """The spans of one run: `tracer` is OpenTelemetry's, or None where nobody listens."""

    def __init__(self, tracer: Any = None) -> None:
        self._tracer = tracer

    @contextmanager
    def run(self, command: str, run_id: str, **attributes: str) -> Iterator[None]:
        """The span over all stages. An error that ends it is recorded by its kind of exception alone."""
        if self._tracer is None:
            yield
            return
        given = {f"reconcile.{name}": text for name, text in (("run_id", run_id), *attributes.items())}
        with self._tracer.start_as_current_span(
            f"reconcile {command}", attributes=given, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield
            except BaseException as error:  # its message may name what a log must not
                span.set_attribute("error.type", type(error).__name__)
                _failed(span)
                raise

    def stage(self, name: str) -> AbstractContextManager[object]:
        """The span of a stage, once for each part of the window that the stage works on."""
        if self._tracer is None:
            return nullcontext()
        # An error is told by the run's span, without its message.
        return self._tracer.start_as_current_span(  # type: ignore[no-any-return]
            name, record_exception=False, set_status_on_exception=False
        )

    def ended(self, status: str, exit_code: int) -> None:
        """Notes on the run's span how it ended; called within it."""
        if self._tracer is None:
            return
        from opentelemetry import trace

        span = trace.get_current_span()
        span.set_attribute("reconcile.status", status)
        span.set_attribute("reconcile.exit_code", exit_code)
        if exit_code not in (0, 1):
            _failed(span)


def spans(environ: Mapping[str, str] = os.environ) -> Spans:
    """Spans that go where the OTEL settings say; silent ones where these name no place, or want none."""
    if not _first(environ, _ENDPOINTS) or _first(environ, ("OTEL_TRACES_EXPORTER",)) == "none":
        return Spans()
    if _first(environ, ("OTEL_SDK_DISABLED",)).lower() == "true":
        return Spans()
    try:
        from opentelemetry import trace

        if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            protocol = _first(environ, _PROTOCOLS) or _OURS
            if protocol != _OURS:
                log.warning(f"no spans: OTEL_EXPORTER_OTLP_PROTOCOL {protocol} is not spoken, only {_OURS}")
                return Spans()
            trace.set_tracer_provider(_provider(environ))
    except ImportError as error:
        log.warning("no spans: the extra `otel` is not installed", missing=error.name)
        return Spans()
    return Spans(trace.get_tracer("reconcile"))


def _provider(environ: Mapping[str, str]) -> Any:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = "OTEL_SERVICE_NAME" in environ or "service.name" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    provider = TracerProvider(resource=Resource.create({} if named else {"service.name": "reconcile"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    logging.getLogger("opentelemetry.exporter").setLevel(logging.ERROR)  # not a line for each attempt
    return provider


def _first(environ: Mapping[str, str], names: tuple[str, ...]) -> str:
    """The first of the names that has a value."""
    return next(filter(None, (environ.get(name, "").strip() for name in names)), "")


def _failed(span: Any) -> None:
    from opentelemetry.trace import StatusCode

    span.set_status(StatusCode.ERROR)

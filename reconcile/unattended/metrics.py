"""Metrics for Prometheus: of the last run of each stream, and of the scheduler.

`reconcile schedule` serves them (`/metrics`, and `/healthz`); a one-shot run writes them to a file that node_exporter's
textfile collector reads. Money is in USD, times are Unix seconds.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, Counter, Gauge, make_wsgi_app, write_to_textfile
from prometheus_client.parser import text_string_to_metric_families

from reconcile import __version__
from reconcile.domain.document import Document
from reconcile.domain.vocabulary import ROW_CLASSES
from reconcile.errors import SettingsError

_STREAM = ("event_code", "charge_by")
_FINISHED = (0, 1)


_GAUGES = {
    # name: meaning, further label
    "rows": ("Rows of the last finished run, by class", "class"),
    "rows_spend_usd": ("Spend of the rows of the last finished run, by class", "class"),
    "events": ("Events that Lago had before the last finished run, by class", "class"),
    "events_spend_usd": ("Cost of the events that Lago had before the last finished run, by class", "class"),
    "late_rows": ("Rows from before the window of the last finished run, and rows that stay held, by class", "class"),
    "late_rows_spend_usd": ("Spend of those rows, by class", "class"),
    "stage_seconds": ("Time that each stage of the last run took", "stage"),
    "lago_requests": ("Requests of the last run to Lago", None),
    "lago_retries": ("Requests of the last run to Lago that were repeats", None),
    "lago_in_flight": ("Requests to Lago that the last run had in flight, on average, by kind", "kind"),
    "lago_in_flight_limit": ("Requests to Lago that the last run let be in flight in the end, by kind", "kind"),
    "last_run_seconds": ("Time that the last run took", None),
    "last_run_timestamp_seconds": ("When the last run ended", None),
    "last_run_exit_code": ("Exit code of the last run", None),
    "last_success_timestamp_seconds": ("When the last finished run ended (exit 0 or 1)", None),
    "reconciled_until_timestamp_seconds": ("Latest usage time that a finished run has covered", None),
    "lag_seconds": ("How far the reconciled time was behind the clock when the last finished run ended", None),
}


class Metrics:
    """Every metric of one process, in a registry of its own. A run is one of `run` or `backfill` that may send."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._gauges = {
            f"reconcile_{name}": Gauge(
                f"reconcile_{name}", meaning, (*_STREAM, label) if label else _STREAM, registry=self.registry
            )
            for name, (meaning, label) in _GAUGES.items()
        }
        build = Gauge("reconcile_build_info", "Version of reconcile", ("version",), registry=self.registry)
        build.labels(__version__).set(1)

    def observe(self, document: Document, exit_code: int) -> None:
        """Takes down a run. The classes are those of the last run that finished; reports and dry runs do not count."""
        if document.command == "report" or document.dry_run:
            return
        stream, method = (document.event_code, document.charge_by), document.method
        self.ended(stream, method.finished_at, exit_code)
        self._set("last_run_seconds", stream, (method.finished_at - method.started_at).total_seconds())
        self._set("lago_requests", stream, method.requests)
        self._set("lago_retries", stream, method.retries)
        for kind, number in method.in_flight.items():
            self._set("lago_in_flight", (*stream, kind), number)
        for kind, limit in method.in_flight_limit.items():
            self._set("lago_in_flight_limit", (*stream, kind), limit)
        for stage, seconds in method.stage_seconds.items():
            self._set("stage_seconds", (*stream, stage), seconds)
        if exit_code not in _FINISHED:
            return
        for name, rows in document.rows.items():
            self._set("rows", (*stream, name), rows.count)
            self._set("rows_spend_usd", (*stream, name), float(rows.spend))
        for name, events in document.events.items():
            self._set("events", (*stream, name), events.count)
            self._set("events_spend_usd", (*stream, name), float(events.spend))
        for name in ROW_CLASSES:
            late = document.outside(name)
            self._set("late_rows", (*stream, name), late.count)
            self._set("late_rows_spend_usd", (*stream, name), float(late.spend))
        self.succeeded(stream, method.finished_at, document.window_to)

    def ended(self, stream: tuple[str, str], at: datetime, exit_code: int) -> None:
        """Takes down how and when a run ended, also one that came to no document."""
        self._set("last_run_timestamp_seconds", stream, at.timestamp())
        self._set("last_run_exit_code", stream, exit_code)

    def succeeded(self, stream: tuple[str, str], at: datetime, window_to: datetime) -> None:
        """Takes down the stream's last success, of this process or of an earlier one."""
        labels = dict(zip(_STREAM, stream, strict=True))
        before = self.registry.get_sample_value("reconcile_reconciled_until_timestamp_seconds", labels) or 0.0
        until = max(window_to.timestamp(), before)
        self._set("reconciled_until_timestamp_seconds", stream, until)
        self._set("last_success_timestamp_seconds", stream, at.timestamp())
        self._set("lag_seconds", stream, at.timestamp() - until)

    def _set(self, name: str, labels: tuple[str, ...], value: float) -> None:
        self._gauges[f"reconcile_{name}"].labels(*labels).set(value)

    def take_over(self, path: Path) -> None:
        """Takes the figures that an earlier run left in a textfile: a run that fails does not know the last success.

        Raises OSError and ValueError where the file cannot be read.
        """
        if not path.exists():
            return
        for family in text_string_to_metric_families(path.read_text(encoding="utf-8")):
            for sample in family.samples:
                if sample.name in self._gauges:
                    self._gauges[sample.name].labels(**sample.labels).set(sample.value)

    def write(self, path: Path) -> None:
        """Writes the textfile, whole or not at all. Raises OSError where it cannot be written."""
        write_to_textfile(str(path), self.registry)


class ScheduleMetrics(Metrics):
    """The same, with what `reconcile schedule` does beside the runs."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = Counter(
            "reconcile_job_runs", "Runs of each job, by exit code", ("job", "exit_code"), registry=self.registry
        )
        self.next_run = Gauge(
            "reconcile_job_next_run_timestamp_seconds", "When each job fires next", ("job",), registry=self.registry
        )
        self.alerts = Counter(
            "reconcile_alerts",
            "Alerts handed over, by channel and outcome",
            ("channel", "outcome"),
            registry=self.registry,
        )
        self.reloads = Counter(
            "reconcile_reloads", "Readings of a changed cron.yaml, by outcome", ("outcome",), registry=self.registry
        )


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads a line for each scrape."""


@contextmanager
def serving(metrics: Metrics, host: str, port: int, healthy: Callable[[], bool]) -> Iterator[int]:
    """Serves `/metrics` and `/healthz` (200, or 503 where not `healthy`) from a thread; yields the port.

    Raises SettingsError where the address cannot be listened on.
    """
    exposition = make_wsgi_app(metrics.registry)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO")
        if path == "/metrics":
            return exposition(environ, start_response)  # type: ignore[no-any-return]
        status, text = ("404 Not Found", b"not found\n")
        if path == "/healthz":
            status, text = ("200 OK", b"ok\n") if healthy() else ("503 Service Unavailable", b"stalled\n")
        start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(text)))])
        return [text]

    class Server(_Server):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    try:
        server = make_server(host, port, app, server_class=Server, handler_class=_Quiet)
    except OSError as error:
        raise SettingsError(
            f"RECONCILE_METRICS_ADDRESS: {host}:{port} cannot be listened on: {error.strerror}"
        ) from None
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

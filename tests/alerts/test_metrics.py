"""Metrics: what a run leaves in them, the textfile, and the two pages that `schedule` serves."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from reconcile.domain.document import Fault, Finding, RowTotals
from reconcile.domain.vocabulary import EVENT_CLASSES, ROW_CLASSES
from reconcile.errors import SettingsError
from reconcile.unattended.metrics import Metrics, serving

from .documents import END, made

STREAM = {"event_code": "llm_usage", "charge_by": "team_id"}


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"reconcile_{name}", {**STREAM, **labels})


def test_a_finished_run() -> None:
    metrics = Metrics()
    metrics.observe(made(rows={"held": (3, "1.05")}, events={"orphan": (12, "0.5")}), 1)
    assert value(metrics, "rows", **{"class": "held"}) == 3
    assert value(metrics, "rows_spend_usd", **{"class": "held"}) == 1.05
    assert value(metrics, "events", **{"class": "orphan"}) == 12
    assert value(metrics, "events_spend_usd", **{"class": "total"}) == 0.5
    for name in (*ROW_CLASSES, "total"):
        assert value(metrics, "rows", **{"class": name}) is not None
    for name in (*EVENT_CLASSES, "total"):
        assert value(metrics, "events", **{"class": name}) is not None
    assert value(metrics, "stage_seconds", stage="deliver") == 20.25
    assert (value(metrics, "lago_requests"), value(metrics, "lago_retries")) == (40, 2)
    assert (value(metrics, "last_run_seconds"), value(metrics, "last_run_exit_code")) == (90, 1)
    assert value(metrics, "last_run_timestamp_seconds") == value(metrics, "last_success_timestamp_seconds")
    assert value(metrics, "last_success_timestamp_seconds") == END.timestamp()
    assert value(metrics, "reconciled_until_timestamp_seconds") == END.timestamp() - 900
    assert value(metrics, "lag_seconds") == 900


def test_a_run_that_a_fault_stopped_leaves_classes_and_success_of_the_last_one() -> None:
    metrics = Metrics()
    metrics.observe(made(rows={"held": (3, "1.05")}), 1)
    metrics.observe(made(fault=Fault("lago", "x"), at=END + timedelta(days=1)), 3)
    assert value(metrics, "rows", **{"class": "held"}) == 3
    assert value(metrics, "last_run_exit_code") == 3
    assert value(metrics, "last_success_timestamp_seconds") == END.timestamp()
    assert value(metrics, "last_run_timestamp_seconds") == (END + timedelta(days=1)).timestamp()


def test_a_backfill_of_an_old_month_does_not_move_the_reconciled_time_back() -> None:
    metrics = Metrics()
    metrics.observe(made(), 0)
    metrics.succeeded(("llm_usage", "team_id"), END + timedelta(hours=1), END - timedelta(days=30))
    assert value(metrics, "reconciled_until_timestamp_seconds") == END.timestamp() - 900
    assert value(metrics, "lag_seconds") == 4500


def test_late_rows_rows_that_stay_held_and_requests_in_flight() -> None:
    metrics = Metrics()
    late = {"held": RowTotals(2, Decimal("1.50")), "delivered": RowTotals(3, Decimal("0.5"))}
    stay = (Finding("still_held", "…", 4, Decimal("0.25")),)
    document = made(late=late, findings=stay)
    flown = replace(document.method, in_flight={"list": 1.5, "deliver": 3.0}, in_flight_limit={"list": 2, "deliver": 4})
    metrics.observe(replace(document, method=flown), 0)
    assert value(metrics, "late_rows", **{"class": "held"}) == 6
    assert value(metrics, "late_rows_spend_usd", **{"class": "held"}) == 1.75
    assert value(metrics, "late_rows", **{"class": "delivered"}) == 3
    assert value(metrics, "lago_in_flight", kind="deliver") == 3
    assert value(metrics, "lago_in_flight_limit", kind="list") == 2
    metrics.observe(made(), 0)  # the next run has none, and says so
    assert value(metrics, "late_rows", **{"class": "held"}) == 0


@pytest.mark.parametrize("options", [{"command": "report"}, {"dry_run": True}])
def test_reports_and_dry_runs_do_not_count(options: dict[str, object]) -> None:
    metrics = Metrics()
    metrics.observe(made(**options), 1)  # type: ignore[arg-type]  # the options' types are mixed
    assert value(metrics, "last_run_exit_code") is None


def test_the_textfile_keeps_what_a_failed_run_does_not_know(tmp_path: Path) -> None:
    path = tmp_path / "reconcile.prom"
    first = Metrics()
    first.take_over(path)  # there is none yet
    first.observe(made(rows={"held": (3, "1.05")}), 1)
    first.write(path)
    second = Metrics()
    second.take_over(path)
    second.ended(("llm_usage", "team_id"), END + timedelta(days=1), 2)
    second.write(path)
    assert [one.name for one in tmp_path.iterdir()] == ["reconcile.prom"]
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(path.read_text(encoding="utf-8"))
        for sample in family.samples
    }
    stream = tuple(sorted(STREAM.items()))
    assert samples["reconcile_last_run_exit_code", stream] == 2
    assert samples["reconcile_last_success_timestamp_seconds", stream] == END.timestamp()
    assert samples["reconcile_rows", tuple(sorted({**STREAM, "class": "held"}.items()))] == 3


def test_the_pages() -> None:
    metrics = Metrics()
    metrics.observe(made(), 0)
    well = [True]
    with serving(metrics, "127.0.0.1", 0, lambda: well[0]) as port:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            assert "reconcile_last_run_exit_code" in client.get("/metrics").text
            assert client.get("/healthz").status_code == 200
            well[0] = False
            assert (client.get("/healthz").status_code, client.get("/healthz").text) == (503, "stalled\n")
            assert client.get("/secrets").status_code == 404
        with pytest.raises(SettingsError, match=rf"^RECONCILE_METRICS_ADDRESS: 127\.0\.0\.1:{port} cannot be"):
            serving(metrics, "127.0.0.1", port, lambda: True).__enter__()

"""The result document: its JSON form, what of it is cut, and that documents of older versions can still be read."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
from report import factory
from report.factory import Event, Row
from rich.console import Console

from reconcile.domain.document import Document, EventTotals, RowTotals, from_json
from reconcile.domain.vocabulary import DISCREPANCY_CLASSES, EVENT_CLASSES, ROW_CLASSES
from reconcile.report import terminal

OLD = Path(__file__).parents[1] / "data" / "document-0.1.0.json"


def as_json(document: Document, *, whole: bool = False) -> dict[str, Any]:
    """As it stands on stdout and in the ledger."""
    found: dict[str, Any] = json.loads(orjson.dumps(document.as_json(whole=whole)))
    return found


def test_every_class_is_there_with_zeros_and_every_reason_that_is_promised() -> None:
    found = as_json(factory.document())
    assert found["rows"].keys() == {"total", *ROW_CLASSES}
    assert found["events"].keys() == {"total", *EVENT_CLASSES}
    nothing = {"count": 0, "spend": "0", "prompt_tokens": 0, "completion_tokens": 0}
    assert found["rows"]["unbilled"] == nothing
    assert found["events"]["own"] == {"count": 0, "spend": "0"}
    assert found["reasons"] == {"excluded": {"failure": 0}, "held": {}, "rejected": {}, "unbilled": {}}
    assert found["reason_spend"] == {"excluded": {"failure": "0"}, "held": {}, "rejected": {}, "unbilled": {}}
    assert found["window"] == {"from": "2026-11-01T00:00:00Z", "to": "2026-11-02T00:00:00Z"}
    assert (found["by_charge_id_total"], found["discrepancies_total"]) == (0, 0)


def test_reasons_are_counted_beside_those_that_are_always_there() -> None:
    rows = [
        Row("unbilled", "2", reason="not_counted"),
        Row("excluded", "1", reason="own"),
        Row("held", reason="repeat"),
    ]
    found = as_json(factory.document(rows))
    assert found["reasons"]["unbilled"] == {"not_counted": 1}
    assert found["reasons"]["excluded"] == {"failure": 0, "own": 1}
    assert found["reason_spend"]["unbilled"] == {"not_counted": "2"}


def test_a_window_says_what_was_asked_for_where_it_is_another() -> None:
    cut = replace(
        factory.document(),
        window_asked_to=datetime(2026, 11, 3, tzinfo=UTC),
        window_extended_from=datetime(2026, 11, 1, 0, 0, 0, 5000, tzinfo=UTC),
    )
    assert as_json(cut)["window"] == {
        "from": "2026-11-01T00:00:00Z",
        "to": "2026-11-02T00:00:00Z",
        "asked_to": "2026-11-03T00:00:00Z",
        "extended_from": "2026-11-01T00:00:00.005Z",
    }
    again = from_json(as_json(cut))
    assert (again.window_asked_to, again.window_extended_from) == (cut.window_asked_to, cut.window_extended_from)


def test_charge_ids_are_cut_at_a_thousand_those_with_most_open_money_first() -> None:
    rows = [Row("matched", f"{number + 1}", f"customer-{number:04d}") for number in range(1_500)]
    rows += [Row("held", "0.5", "customer-0003"), Row("unattributed", "0.25", None), Row("unbilled", "0.75", "late")]
    document = factory.document(rows, [Event("orphan", "0.6", "customer-0001"), Event("own", "99", "house")])
    listed = as_json(document)["by_charge_id"]
    assert as_json(document)["by_charge_id_total"] == 1_503
    assert len(listed) == 1_000
    names = [group["charge_id"] for group in listed]
    assert names[:5] == ["late", "customer-0001", "customer-0003", None, "customer-1499"]
    assert names[-1] == "customer-0504"
    assert "delivered" not in listed[0]["rows"]  # classes of zero
    assert listed[0]["rows"]["unbilled"]["spend"] == "0.75"
    whole = as_json(document, whole=True)
    assert len(whole["by_charge_id"]) == whole["by_charge_id_total"] == 1_503
    assert len(orjson.dumps(document.as_json())) < 1_000_000


def test_a_document_of_the_ledger_reads_back() -> None:
    document = replace(
        factory.typical(),
        method=factory.method("Europe/Berlin", in_flight={"list": 1.75}, in_flight_limit={"list": 2}, workers=4),
        late={"held": RowTotals(1, Decimal("0.5"), 3, 4)},
    )
    again = as_json(from_json(as_json(document)))
    left_out = {"spend_logs_gap": [], "lago_usage": [], "discrepancies_total": len(again["discrepancies"])}
    assert again == {**as_json(document), **left_out}
    assert again["method"]["in_flight"] == {"list": 1.75}
    assert again["method"]["in_flight_limit"] == {"list": 2}


def test_a_document_of_version_0_1_0_reads_as_if_it_had_none_of_the_new_classes() -> None:
    old = json.loads(OLD.read_text(encoding="utf-8"))
    assert not {"unbilled", "own"} & (old["rows"].keys() | old["events"].keys())
    document = from_json(old)
    assert document.rows["unbilled"] == RowTotals()
    assert document.events["own"] == EventTotals()
    assert [str(name) for name in document.rows] == ["total", *ROW_CLASSES]
    assert document.method.in_flight == {}
    assert document.window_asked_to is None
    new = as_json(document, whole=True)
    for key in ("run_id", "status", "window", "stream", "by_charge_id", "by_day", "discrepancies", "findings", "fault"):
        assert new[key] == old[key], key
    for name, totals in old["rows"].items():
        assert new["rows"][name] == totals
    console = Console(file=io.StringIO(), width=100)
    terminal.heading(document, console, "en")
    terminal.render(document, console, "en")
    assert "Only in Lago" in console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO


def test_the_oldest_document_had_no_late_rows() -> None:
    old = json.loads(OLD.read_text(encoding="utf-8"))
    del old["late"]
    assert from_json(old).late == {}


def test_discrepancies_are_of_the_classes_that_are_listed() -> None:
    rows = [Row(name, reason="x") for name in ROW_CLASSES]
    events = [Event("duplicate"), Event("orphan"), Event("own")]
    found = as_json(factory.document(rows, events))["discrepancies"]
    assert {entry["class"] for entry in found} == set(DISCREPANCY_CLASSES)


def test_rows_outside_the_window_are_late_ones_and_those_that_stay_held() -> None:
    late = {"held": RowTotals(2, Decimal(1), 5, 6), "missing": RowTotals(1, Decimal(3))}
    findings = tuple(replace(finding, kind="still_held", count=4) for finding in factory.typical().findings)
    document = replace(factory.document(), late=late, findings=findings)
    assert document.outside("held").count == 6
    assert document.outside("missing") == RowTotals(1, Decimal(3))
    assert document.outside("delivered") == RowTotals()

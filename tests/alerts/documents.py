"""Result documents of runs, made by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pandas as pd

from reconcile.domain.document import (
    DISCREPANCY_COLUMNS,
    EVENT_CLASSES,
    ROW_CLASSES,
    Document,
    EventTotals,
    Fault,
    Method,
    RowTotals,
)

END = datetime(2026, 11, 20, 2, 0, tzinfo=UTC)


def made(
    *,
    rows: dict[str, tuple[int, str]] | None = None,
    events: dict[str, tuple[int, str]] | None = None,
    command: str = "run",
    fault: Fault | None = None,
    at: datetime = END,
    dry_run: bool = False,
    **changes: Any,
) -> Document:
    """A run's document with these counts and sums of money; it ended at `at`, after 90 seconds."""
    row_classes = {name: RowTotals(*_totals(rows, name)) for name in ROW_CLASSES}
    event_classes = {name: EventTotals(*_totals(events, name)) for name in EVENT_CLASSES}
    row_classes["total"] = sum(row_classes.values(), RowTotals())
    event_classes["total"] = sum(event_classes.values(), EventTotals())
    document = Document(
        run_id="2026-11-20T01-58-30Z-7f3a",
        command=command,
        dry_run=dry_run,
        status="agreed" if fault is None else "incomplete",
        verified=None,
        window_from=at - timedelta(hours=72),
        window_to=at - timedelta(minutes=15),
        lago="http://lago.example:3000",
        event_code="llm_usage",
        charge_by="team_id",
        rows=row_classes,
        events=event_classes,
        reasons={},
        reason_spend={},
        ambiguous=0,
        by_charge_id=(),
        by_model=(),
        by_day=(),
        by_charge_id_and_day=(),
        discrepancies=pd.DataFrame(columns=list(DISCREPANCY_COLUMNS)),
        method=Method(
            started_at=at - timedelta(seconds=90),
            finished_at=at,
            time_zone="UTC",
            versions={},
            settings={},
            lago_store="postgres",
            slices=72,
            requests=40,
            retries=2,
            stage_seconds={"read": 1.5, "deliver": 20.25},
        ),
        fault=fault,
    )
    return replace(document, **changes)


def _totals(given: dict[str, tuple[int, str]] | None, name: str) -> tuple[int, Decimal]:
    count, spend = (given or {}).get(name, (0, "0"))
    return count, Decimal(spend)

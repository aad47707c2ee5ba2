"""Documents made by hand: rows and events with known classes, and every table of the document summed from them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd

from reconcile.domain.document import (
    DISCREPANCY_CLASSES,
    DISCREPANCY_COLUMNS,
    EVENT_CLASSES,
    ROW_CLASSES,
    Document,
    EventTotals,
    Fault,
    Finding,
    Group,
    LagoUsage,
    Method,
    Previous,
    RowTotals,
    SpendLogsGap,
)

FROM = datetime(2026, 11, 1, tzinfo=UTC)
RUN_ID = "2026-12-01T02-15-00Z-7f3a"

HOSTILE = (
    '<script>document.title="owned"</script>',
    '=HYPERLINK("http://evil.example","click")',
    "+1+1",
    "-2+3",
    "@SUM(A1:A9)",
    "\t=1+1",
    "\r=1+1",
    "'quoted",
    "https://evil.example/a",
    "0123",
    "1e5",
    "team\u202egnp.exe",
    "a\u0000b\u0007c\u007f",
    "zero\u200bwidth",
    "line\u2028break",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }}",
    "[bold red]rich[/]",
    "שלום",
    "团队-甲",
    "  two  spaces ",
    "&lt;already&gt;",
    "x" * 5_000,
)


@dataclass(frozen=True)
class Row:
    name: str  # a row class
    spend: str = "0.01"
    charge_id: str | None = "team-a"
    model: str | None = "gpt-4o"
    at: datetime = FROM + timedelta(hours=10)
    event_spend: str | None = None  # of its event, where it has one inside the window
    reason: str = ""
    request_id: str = "req"
    detail: str | None = None


@dataclass(frozen=True)
class Event:
    """An event without a row: `duplicate`, `orphan` or `own`."""

    name: str
    spend: str = "0.01"
    charge_id: str | None = "team-a"
    model: str | None = "gpt-4o"
    at: datetime = FROM + timedelta(hours=10)
    reason: str = "no_row"


HAS_EVENT = ("matched", "matched_live", "unbilled", "mismatched", "misdirected")


def document(
    rows: Sequence[Row] = (),
    events: Sequence[Event] = (),
    *,
    window_from: datetime = FROM,
    window_to: datetime = FROM + timedelta(days=1),
    time_zone: str = "UTC",
    status: str | None = None,
    **changes: Any,
) -> Document:
    """A balanced document. `status` follows from the classes where it is not given."""
    zone = ZoneInfo(time_zone)
    sided = [
        *(_of_row(row) for row in rows),
        *(("events", event.name, event, event.spend) for event in events),
    ]
    sided += [
        ("events", row.name, row, row.event_spend if row.event_spend is not None else row.spend)
        for row in rows
        if row.name in HAS_EVENT
    ]
    whole = _group(sided)
    full_rows = {name: whole.rows.get(name, RowTotals()) for name in ("total", *ROW_CLASSES)}
    full_events = {name: whole.events.get(name, EventTotals()) for name in ("total", *EVENT_CLASSES)}
    reasons: dict[str, dict[str, int]] = {}
    reason_spend: dict[str, dict[str, Decimal]] = {}
    for row in rows:
        if row.reason:
            counts, spends = reasons.setdefault(row.name, {}), reason_spend.setdefault(row.name, {})
            counts[row.reason] = counts.get(row.reason, 0) + 1
            spends[row.reason] = spends.get(row.reason, Decimal(0)) + Decimal(row.spend)
    failing = ("unbilled", "mismatched", "misdirected", "held", "rejected", "missing")
    disagrees = any(full_rows[name].count for name in failing) or any(
        full_events[name].count for name in ("duplicate", "orphan")
    )
    values: dict[str, Any] = {
        "run_id": RUN_ID,
        "command": "backfill",
        "dry_run": False,
        "status": status or ("discrepancies" if disagrees else "agreed"),
        "verified": True if full_rows["delivered"].count else None,
        "window_from": window_from,
        "window_to": window_to,
        "lago": "http://localhost:3000",
        "event_code": "openai_tokens",
        "charge_by": "team_id",
        "rows": full_rows,
        "events": full_events,
        "reasons": reasons,
        "reason_spend": reason_spend,
        "ambiguous": 0,
        "by_charge_id": _groups(sided, lambda of: {"charge_id": of.charge_id}),
        "by_model": _groups(sided, lambda of: {"model": of.model}),
        "by_day": _groups(sided, lambda of: {"day": of.at.astimezone(zone).date()}),
        "by_charge_id_and_day": _groups(
            sided, lambda of: {"charge_id": of.charge_id, "day": of.at.astimezone(zone).date()}
        ),
        "discrepancies": _discrepancies(rows, events),
        "method": method(time_zone),
    }
    return Document(**{**values, **changes})


def method(time_zone: str = "UTC", **changes: Any) -> Method:
    values: dict[str, Any] = {
        "started_at": datetime(2026, 12, 1, 2, 15, tzinfo=UTC),
        "finished_at": datetime(2026, 12, 1, 2, 16, 40, 250_000, tzinfo=UTC),
        "time_zone": time_zone,
        "versions": {"reconcile": "0.1.0", "litellm tables": "1.106", "lago": "1.51.0"},
        "settings": {"RECONCILE_LATE": "hold", "RECONCILE_UNCOVERED": "hold"},
        "lago_store": "postgres",
        "slices": 30,
        "requests": 412,
        "retries": 3,
        "stage_seconds": {"read": 4.2, "list": 30.5, "classify": 1.0, "deliver": 12.25, "verify": 9.0},
    }
    return Method(**{**values, **changes})


@cache
def typical(time_zone: str = "Europe/Berlin") -> Document:
    """A month with a little of everything: 12 charge IDs, 6 models, 30 days, every class and table."""
    zone = ZoneInfo(time_zone)
    start = datetime(2026, 11, 1, tzinfo=zone).astimezone(UTC)
    end = datetime(2026, 12, 1, tzinfo=zone).astimezone(UTC)
    chance = random.Random(5)
    rows: list[Row] = []
    events: list[Event] = []
    teams = [f"team-{name}" for name in ("atlas", "borealis", "cobalt", "delta", "ember", "fjord", "granite", "harbor")]
    teams += ["customer-4711", "customer-4712", "研究-北京", "team\u202ex"]
    models = [
        "gpt-4o",
        "gpt-4o-mini",
        "claude-sonnet-4",
        "gemini-2.5-pro",
        "text-embedding-3-large",
        "mistral-large",
    ]
    seconds = int((end - start).total_seconds())
    rare = (
        ("mismatched", "cost"), ("mismatched", "tokens"), ("misdirected", "other_subscription"),
        ("missing", "not_sent"), ("unbilled", "not_counted"), ("unbilled", "not_priced"), ("held", "late_event"),
        ("held", "no_subscription"), ("held", "period_closed"), ("rejected", "invalid_spend"), ("rejected", "refused"),
        ("unattributed", "no_charge_id"), ("excluded", "failure_with_spend"),
    )  # fmt: skip
    for number in range(6_000):
        team = teams[min(int(chance.expovariate(0.35)), len(teams) - 1)]
        model = chance.choice(models)
        at = start + timedelta(seconds=chance.randrange(seconds), milliseconds=chance.randrange(1000))
        if (at.astimezone(zone).weekday() >= 5) and chance.random() < 0.6:
            continue
        spend = f"{chance.lognormvariate(-1.2, 1.4):.7f}"
        name, reason = (
            chance.choices(("matched_live", "delivered", "matched", "excluded"), (900, 35, 40, 12))[0],
            "",
        )
        if chance.random() < 0.03:
            name, reason = chance.choice(rare)
        if name == "excluded" and not reason:
            spend, reason = "0", "failure"
        rows.append(
            Row(
                name,
                spend,
                None if name == "unattributed" else team,
                model,
                at,
                f"{float(spend) * 1.18:.7f}" if reason == "cost" else None,
                reason,
                f"chatcmpl-{number:05d}",
                "code: value_already_exist" if reason == "refused" else None,
            )
        )
        if chance.random() < 0.002:
            events.append(Event("duplicate", spend, team, model, at, "same_content"))
        if chance.random() < 0.002:
            events.append(Event("orphan", spend, team, model, at, "no_row"))
        if chance.random() < 0.002:
            events.append(Event("own", spend, "litellm-dashboard", model, at, ""))
    made = document(
        rows,
        events,
        window_from=start,
        window_to=end,
        time_zone=time_zone,
        ambiguous=4,
        spend_logs_gap=(
            SpendLogsGap(
                start.date(), "team-atlas", "LiteLLM_DailyTeamSpend", 120, 123, 88_000, 90_100,
                Decimal("31.2"), Decimal("31.9004"),
            ),
        ),
        lago_usage=(
            LagoUsage("team-atlas", "past", start, end, Decimal("812.4"), 733, Decimal("812.4"), 733, 81_240, "USD"),
            LagoUsage("team-b", "current", end, end + timedelta(days=31), None, None, Decimal("1.5"), 9, 150, "EUR"),
        ),
        findings=(Finding("lost_request_ids", "14 rows share the request ID 'None'.", 14, Decimal("0.31")),),
    )  # fmt: skip
    then = {**made.rows, "missing": RowTotals(80, Decimal("41.07"), 900, 300)}
    previous = Previous("2026-11-30T02-15-00Z-11aa", datetime(2026, 11, 30, 2, 17, tzinfo=UTC), then, made.events)
    return Document(**{**_fields(made), "previous": previous})


def incomplete() -> Document:
    return document(
        [Row("matched"), Row("missing", "2.5", reason="not_sent")],
        status="incomplete",
        verified=False,
        fault=Fault("lago", "Lago answered 503 for 10 minutes at /api/v1/events/batch."),
    )


@cache
def hostile() -> Document:
    """Every string that a stranger chooses is a hostile one."""
    rows = [
        Row(
            "held", f"{number + 1}.25", text, text, reason="no_subscription", request_id=text, detail=text,
            at=FROM + timedelta(hours=number % 24),
        )
        for number, text in enumerate(HOSTILE)
    ]  # fmt: skip
    return document(
        [*rows, Row("rejected", "1", reason=HOSTILE[0], charge_id="team-b")],
        [Event("orphan", "3", "=cmd|' /C calc'!A0", HOSTILE[1], reason="=1+1")],
        event_code=HOSTILE[0],
        findings=(Finding(HOSTILE[0], HOSTILE[1]),),
        fault=Fault("lago", HOSTILE[0]),
    )


@cache
def large(discrepancies: int = 100_000, charge_ids: int = 200, models: int = 30) -> Document:
    """A month of 31 days with one missing row per discrepancy and one matched row per charge ID and day."""
    end = FROM + timedelta(days=31)
    rows = [
        Row(
            "matched_live", "1.2345678", f"customer-{number:04d}", f"model-{number % models:02d}",
            FROM + timedelta(days=day),
        )
        for number in range(charge_ids)
        for day in range(31)
    ]  # fmt: skip
    rows += [
        Row(
            "missing",
            f"0.{number % 9973 + 1:07d}",
            f"customer-{number % charge_ids:04d}",
            f"model-{number % models:02d}",
            FROM + timedelta(seconds=number * 26),
            reason="not_sent",
            request_id=f"chatcmpl-{number:032x}",
        )
        for number in range(discrepancies)
    ]
    return document(rows, window_to=end)


def _fields(made: Document) -> dict[str, Any]:
    return {name: getattr(made, name) for name in Document.__dataclass_fields__}


def _of_row(row: Row) -> tuple[str, str, Any, str]:
    return "rows", row.name, row, row.spend


def _group(sided: Iterable[tuple[str, str, Any, str]], **key: Any) -> Group:
    rows, events = {"total": RowTotals()}, {"total": EventTotals()}
    for side, name, _, spend in sided:
        if side == "rows":
            one = RowTotals(1, Decimal(spend), 10, 4)
            rows["total"] += one
            rows[name] = rows.get(name, RowTotals()) + one
        else:
            event = EventTotals(1, Decimal(spend))
            events["total"] += event
            events[name] = events.get(name, EventTotals()) + event
    return Group(rows, events, **key)


def _groups(sided: Iterable[tuple[str, str, Any, str]], key: Any) -> tuple[Group, ...]:
    parts: dict[tuple[Any, ...], list[tuple[str, str, Any, str]]] = {}
    for entry in sided:
        parts.setdefault(tuple(key(entry[2]).items()), []).append(entry)
    return tuple(_group(part, **dict(names)) for names, part in parts.items())


def _discrepancies(rows: Sequence[Row], events: Sequence[Event]) -> pd.DataFrame:
    lines: list[tuple[Any, ...]] = [
        (
            row.name,
            row.charge_id,
            row.model,
            row.request_id,
            f"llm_{number:032x}",
            row.at,
            float(row.spend),
            float(row.event_spend or row.spend) if row.name in HAS_EVENT else None,
            row.reason,
            row.detail,
        )
        for number, row in enumerate(rows)
        if row.name in DISCREPANCY_CLASSES
    ]
    lines += [
        (of.name, of.charge_id, of.model, None, f"live-{n}", of.at, None, float(of.spend), of.reason, None)
        for n, of in enumerate(events)
        if of.name in DISCREPANCY_CLASSES
    ]
    lines.sort(key=lambda line: -max(line[6] or 0, line[7] or 0))
    frame = pd.DataFrame(lines, columns=list(DISCREPANCY_COLUMNS), dtype=object)
    frame["usage_time"] = pd.to_datetime(frame["usage_time"], utc=True).astype("datetime64[ms, UTC]")
    for column in ("row_spend", "event_spend"):
        frame[column] = frame[column].astype("float64")
    return frame

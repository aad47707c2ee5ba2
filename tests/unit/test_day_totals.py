"""Rows by UTC day and charge ID beside LiteLLM's own daily totals."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest

from reconcile.domain.document import SpendLogsGap
from reconcile.domain.frames import ROWS, check, empty
from reconcile.litellm.day_totals import DAY_MS, DayTotal, DayTotals, gaps, lost_rows

DAY = date(2025, 11, 20)
DAY_NUMBER = (DAY - date(1970, 1, 1)).days
TABLE = "LiteLLM_DailyTeamSpend"


def rows(*changes: dict[str, Any]) -> pd.DataFrame:
    """ROWS of `team-a` with 20 + 10 tokens, 0.25 USD, begun on DAY."""
    usual = {name: "" if kind in ("str", "category") else 0 for name, kind in ROWS.items()}
    usual |= {"request_id": "chatcmpl-x", "start_ms": DAY_NUMBER * DAY_MS, "charge_id": "team-a", "status": "success"}
    usual |= {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 0, "spend": 0.25, "earlier_sure": False}
    records = [usual | change for change in changes]
    frame = pd.DataFrame(
        {
            name: pd.Categorical(pd.array([record[name] for record in records], dtype="str"))
            if kind == "category"
            else pd.Series([record[name] for record in records], dtype=kind)
            for name, kind in ROWS.items()
        }
    )
    check(frame, ROWS)
    return frame


def daily(**changes: Any) -> pd.DataFrame:
    line = {"day": "2025-11-20", "charge_id": "team-a", "tokens": 60, "spend": 0.5, "successful": 2}
    return pd.DataFrame([line | changes])


def totals(*changes: dict[str, Any]) -> DayTotals:
    found = DayTotals()
    found.add(rows(*changes))
    return found


def test_rows_are_added_up_by_the_day_of_their_start_and_their_charge_id() -> None:
    end = (DAY_NUMBER + 1) * DAY_MS
    found = totals(
        {},
        {"spend": 5.1e-06, "status": "failure"},
        {"start_ms": end - 1, "status": ""},
        {"start_ms": end},
        {"start_ms": -1},
        {"charge_id": ""},
    )
    assert found.totals == {
        (DAY_NUMBER, "team-a"): DayTotal(2, 90, Decimal("0.5000051")),
        (DAY_NUMBER + 1, "team-a"): DayTotal(1, 30, Decimal("0.25")),
        (-1, "team-a"): DayTotal(1, 30, Decimal("0.25")),
        (DAY_NUMBER, ""): DayTotal(1, 30, Decimal("0.25")),
    }
    assert found.of(DAY, "team-a") == DayTotal(2, 90, Decimal("0.5000051"))
    assert found.of(DAY, "team-b") == DayTotal()


@pytest.mark.parametrize(
    ("spends", "total"),
    [
        ([0.1] * 10, "1.0"),
        ([0.00026999999999999995, 5.4e-06], "0.00027539999999999995"),
        ([float("nan"), float("inf"), float("-inf"), 1.5], "1.5"),
        ([1e300, 1e-300, -1e300], "1e-300"),
        ([-0.847665, 0.847665], "0"),
    ],
)
def test_spend_is_added_up_exactly(spends: list[float], total: str) -> None:
    assert totals(*({"spend": spend} for spend in spends)).of(DAY, "team-a").spend == Decimal(total)


def test_how_rows_come_in_changes_nothing() -> None:
    chance = np.random.default_rng(7)
    changes = [
        {
            "charge_id": f"team-{chance.integers(5)}",
            "start_ms": int(chance.integers(3 * DAY_MS)),
            "spend": float(chance.random() * 10.0 ** chance.integers(-12, 3)),
            "prompt_tokens": int(chance.integers(1_000)),
            "status": str(chance.choice(["success", "failure", ""])),
        }
        for _ in range(500)
    ]
    whole, parts, stored = totals(*changes), DayTotals(), DayTotals()
    for place in range(0, len(changes), 37):
        parts.add(rows(*changes[place : place + 37]))
        stored.absorb(totals(*changes[place : place + 37]).lines())
    parts.add(empty(ROWS))
    assert whole.totals == parts.totals == stored.totals
    spend = sum((Decimal(repr(change["spend"])) for change in changes), Decimal(0))
    assert sum((one.spend for one in whole.totals.values()), Decimal(0)) == spend


def test_request_ids_that_lose_rows_are_counted() -> None:
    names = [
        "None",
        "7",
        "chatcmpl-42",
        "chatcmpl-123456789",
        "chatcmpl-1234567890",
        "chatcmpl-4a",
        "",
        "none",
        "x" * 99,
    ]
    assert totals(*({"request_id": name} for name in names)).losing_ids == 4


@pytest.mark.parametrize(
    ("says", "lost"),
    [
        ({}, None),
        ({"spend": 0.5 + 4e-10}, None),
        ({"successful": 1}, None),  # internal calls and retries are not in LiteLLM's count
        ({"successful": 0}, None),  # from before LiteLLM counted them
        ({"successful": 3}, True),
        ({"tokens": 61}, True),
        ({"spend": 0.6}, True),
        ({"tokens": 59}, False),  # LiteLLM has not counted yet, or has given the delivery up
        ({"spend": 0.4}, False),
        ({"charge_id": "team-b"}, True),
        ({"day": "2025-11-19"}, True),
    ],
)
def test_what_the_daily_table_says_otherwise(says: dict[str, Any], lost: bool | None) -> None:
    found = gaps(
        totals({}, {}, {"status": "failure", "spend": 0.0, "prompt_tokens": 0, "completion_tokens": 0}),
        TABLE,
        daily(**says),
    )
    assert [lost_rows(gap) for gap in found] == ([] if lost is None else [lost])


def test_a_gap_tells_both_sides() -> None:
    assert gaps(totals({}), TABLE, daily()) == (
        SpendLogsGap(
            day=DAY,
            charge_id="team-a",
            table=TABLE,
            rows_requests=1,
            daily_requests=2,
            rows_tokens=30,
            daily_tokens=60,
            rows_spend=Decimal("0.25"),
            daily_spend=Decimal("0.5"),
        ),
    )

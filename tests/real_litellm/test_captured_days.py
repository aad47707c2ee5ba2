"""LiteLLM 1.110.2's daily totals beside its spend log, after calls of which one lost its row."""

from __future__ import annotations

from decimal import Decimal

import pandas as pd

from reconcile.litellm.day_totals import DayTotals, gaps, lost_rows

from .captured import daily_team_lines, rows_beside_daily


def test_lost_rows_are_a_gap() -> None:
    """Seven calls. Two came with ID 42 and left one row; one was made while `disable_spend_logs` was on, and left none.
    One was LiteLLM's own: it is in the spend and in the tokens, and not in LiteLLM's count. One failed."""
    found = DayTotals()
    found.add(rows_beside_daily())
    lines = pd.DataFrame(daily_team_lines())
    daily = pd.DataFrame(
        {
            "day": lines["date"],
            "charge_id": lines["team_id"],
            "tokens": lines["prompt_tokens"] + lines["completion_tokens"],
            "spend": lines["spend"],
            "successful": lines["successful_requests"],
        }
    )
    daily = daily.groupby(["day", "charge_id"], as_index=False).sum()
    (gap,) = gaps(found, "LiteLLM_DailyTeamSpend", daily)
    assert lost_rows(gap)
    assert (gap.rows_requests, gap.daily_requests) == (4, 5)
    assert (gap.rows_tokens, gap.daily_tokens) == (4 * 18, 6 * 18)
    assert (gap.rows_spend, gap.daily_spend) == (4 * Decimal("5.4e-06"), 6 * Decimal("5.4e-06"))

"""LiteLLM's and Lago's own totals beside ours: what the spend log has lost, and what Lago puts on the invoice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from reconcile.domain.document import LagoUsage

from .world import CODE, DAY, HOUR, MS, NIGHT, NOON, TEAM, World, findings, live_event, row, rows_in, rows_of


def daily(world: World, requests: int, tokens: int, spend: float, *, day: datetime = DAY, team: str = TEAM) -> None:
    """What LiteLLM's other queue has counted for a day and team."""
    world.sql(
        """INSERT INTO "LiteLLM_DailyTeamSpend" (id, team_id, date, api_key, model, prompt_tokens, completion_tokens,
                spend, api_requests, successful_requests, updated_at)
            VALUES (gen_random_uuid(), %s, %s, 'k', %s, %s, 0, %s, %s, %s, now())""",
        (team, f"{day:%Y-%m-%d}", f"m{requests}", tokens, spend, requests, requests),
    )


@pytest.fixture(autouse=True)
def _no_totals_of_others(bare_world: World) -> None:
    bare_world.sql('TRUNCATE "LiteLLM_DailyTeamSpend"')


def gaps(document: Any) -> list[tuple[Any, ...]]:
    return [
        (gap.day.day, gap.charge_id, gap.daily_requests - gap.rows_requests, gap.daily_tokens - gap.rows_tokens,
         gap.daily_spend - gap.rows_spend)
        for gap in document.spend_logs_gap
    ]  # fmt: skip


def test_totals_that_agree(world: World) -> None:
    world.subscribe()
    world.write(*(row(f"a-of-{number}", NOON + number * MS, spend=0.1) for number in range(10)))
    # One tenth ten times, as two doubles would add it up in another order.
    daily(world, 4, 120, 0.4)
    daily(world, 6, 180, 0.1 + 0.1 + 0.1 + 0.1 + 0.1 + 0.1)
    ran = world.day()
    assert (gaps(ran.document), findings(ran.document)) == ([], {})


def test_rows_that_the_spend_log_has_lost(world: World) -> None:
    world.subscribe()
    world.write(row("a", NOON, spend=1.0))
    daily(world, 3, 90, 3.5)
    daily(world, 1, 30, 9.0, team="team-b")
    for command in ("backfill", "report"):
        ran = world.day(command=command)
        # A hint: the run agrees all the same, and nothing is sent for it.
        assert ran.exit_code == 0
        assert gaps(ran.document) == [
            (20, TEAM, 2, 60, Decimal("2.5")),
            (20, "team-b", 1, 30, Decimal(9)),
        ]
        (finding,) = ran.document.findings
        assert (finding.kind, finding.count, finding.spend) == ("spend_logs_gap", 3, Decimal("11.5"))
        assert "LiteLLM_DailyTeamSpend" in finding.text
    assert len(world.billed()) == 1


def test_each_team_on_each_day(world: World) -> None:
    teams = ("team-a", "team-b", "team-c")
    for number, day in enumerate((DAY, DAY + NIGHT, DAY + 2 * NIGHT)):
        for place, team in enumerate(teams):
            count = 1 + number * 3 + place
            world.write(*rows_of(day, count, f"{team}-{number}", team_id=team))
            daily(
                world, count, 30 * count, sum(round(0.001 * (one + 1), 6) for one in range(count)), day=day, team=team
            )
    assert gaps(world.run(DAY, DAY + 3 * NIGHT, "report").document) == []


def test_the_day_is_that_of_the_start(world: World) -> None:
    """LiteLLM counts a request on the UTC day of its start; its usage time may lie in the next window."""
    world.subscribe()
    world.write(row("a", DAY + NIGHT + HOUR, seconds=2 * 3600), row("b", DAY + HOUR, seconds=2 * 3600))
    daily(world, 1, 30, 0.0125)
    daily(world, 1, 30, 0.0125, day=DAY - NIGHT)
    assert gaps(world.day(command="report").document) == []
    assert gaps(world.day(DAY - NIGHT, command="report").document) == []
    assert gaps(world.run(DAY - NIGHT, DAY + 2 * NIGHT, "report").document) == []


def test_days_that_the_window_does_not_hold_whole(world: World) -> None:
    daily(world, 5, 5, 5.0)
    assert gaps(world.run(DAY + HOUR, DAY + NIGHT, "report").document) == []
    assert len(gaps(world.run(DAY - HOUR, DAY + NIGHT + HOUR, "report").document)) == 1


def test_litellm_without_daily_tables(world: World) -> None:
    world.sql('ALTER TABLE "LiteLLM_DailyTeamSpend" RENAME TO "hidden"')
    try:
        world.subscribe()
        world.write(row("a", NOON))
        assert rows_in(world.day().document) == {"delivered": 1}
    finally:
        world.sql('ALTER TABLE "hidden" RENAME TO "LiteLLM_DailyTeamSpend"')


@pytest.mark.parametrize("request_id", ["None", "7", "chatcmpl-42"])
def test_request_ids_that_come_again(world: World, request_id: str) -> None:
    world.subscribe()
    world.write(row(request_id, NOON), row("chatcmpl-8f14e45fceea", NOON + MS))
    ran = world.day()
    assert (ran.exit_code, findings(ran.document)) == (0, {"lost_request_ids": 1})


# --- Lago's usage


def usage(document: Any) -> list[LagoUsage]:
    return list(document.lago_usage)


def month(world: World) -> tuple[datetime, datetime]:
    """A closed month with one row delivered, one live event, and an invoice."""
    start, end = datetime(2025, 11, 1, tzinfo=UTC), datetime(2025, 12, 1, tzinfo=UTC)
    world.subscribe(started_at=start, period=(end, datetime(2035, 1, 1, tzinfo=UTC)))
    invoice = world.lago.organization.add_invoice(TEAM, (start, end - MS))
    rows = [row("a", NOON, spend=2.25), row("b", NOON + HOUR, spend=0.5)]
    world.write(*rows)
    world.live(NOON + HOUR, live_event(rows[1], "live-1"))
    assert world.run(start, end, "backfill").exit_code == 0
    world.lago.organization.finalize_invoice(invoice)
    return start, end


def test_events_say_what_lago_bills(world: World) -> None:
    start, end = month(world)
    ran = world.run(start, end, "report")
    (line,) = usage(ran.document)
    assert (line.charge_id, line.period, line.currency) == (TEAM, "past", "USD")
    assert (line.events_units, line.events_count) == (Decimal("2.75"), 2)
    assert (line.lago_units, line.lago_events_count, line.amount_cents) == (Decimal("2.75"), 2, 275)


def test_an_event_that_came_after_the_invoice(world: World) -> None:
    """It is in Lago, and on no invoice: finance sees the difference."""
    start, end = month(world)
    late = row("late", NOON + 2 * HOUR, spend=10.0)
    world.write(late)
    world.run(start, end, "backfill", RECONCILE_LATE="push")
    (line,) = usage(world.run(start, end, "report").document)
    assert (line.events_units, line.lago_units) == (Decimal("12.75"), Decimal("2.75"))


def test_a_window_that_is_no_period(world: World) -> None:
    """Lago's figure stands alone where ours cannot be set beside it."""
    month(world)
    (line,) = usage(world.day(command="report").document)
    assert (line.events_units, line.events_count, line.lago_units) == (None, None, Decimal("2.75"))


def test_a_metric_that_counts(bare_world: World) -> None:
    world = bare_world
    world.lago.organization.add_billable_metric(CODE, aggregation_type="count_agg", field_name=None)
    start, end = month(world)
    (line,) = usage(world.run(start, end, "report").document)
    assert (line.events_units, line.lago_units) == (Decimal(2), Decimal(2))


def test_the_open_period(world: World) -> None:
    """Up to now: what is still to come changes neither side."""
    now = datetime.now(UTC).replace(microsecond=0)
    start = now - timedelta(hours=6)
    world.subscribe(started_at=start, period=(start, now + 20 * NIGHT))
    one = row("a", now - timedelta(hours=2), spend=1.5)
    world.write(one)
    assert world.run(start, now - HOUR, "backfill").exit_code == 0
    (line,) = usage(world.run(start, now - HOUR, "report").document)
    assert (line.period, line.events_units, line.lago_units) == ("current", Decimal("1.5"), Decimal("1.5"))


def test_a_customer_of_two_subscriptions(world: World) -> None:
    """Each is asked for; our events of the customer are not split."""
    world.settings["RECONCILE_ID_KIND"] = "external_customer_id"
    start, end = datetime(2025, 11, 1, tzinfo=UTC), datetime(2025, 12, 1, tzinfo=UTC)
    world.subscribe("old", external_customer_id=TEAM, terminated_at=NOON)
    world.subscribe("new", external_customer_id=TEAM, started_at=NOON + MS, period=(start, end - MS))
    invoice = world.lago.organization.add_invoice("old", (start, NOON))
    world.write(row("a", NOON - HOUR, spend=1.0), row("b", NOON + HOUR, spend=2.0))
    world.run(start, end, "backfill")
    world.lago.organization.finalize_invoice(invoice)  # a draft shows what it held when it was made
    lines = usage(world.run(start, end, "report").document)
    assert {(line.period, line.lago_units) for line in lines} == {("past", Decimal(1)), ("current", Decimal(2))}
    assert {line.events_units for line in lines} == {None}


def test_only_reports_ask_for_usage(world: World) -> None:
    world.subscribe()
    world.write(*rows_of(DAY, 3))
    ran = world.day()
    assert usage(ran.document) == []
    assert not [path for path in world.requests() if path.endswith(("current_usage", "past_usage"))]


def test_rows_whose_times_cannot_be_are_told(world: World) -> None:
    """No window will ever hold them: without a word they would be lost."""
    world.subscribe()
    world.write(row("fine", NOON))
    world.sql("""UPDATE "LiteLLM_SpendLogs" SET "endTime" = 'infinity' WHERE request_id = 'fine'""")
    world.write(row("a", NOON))
    ran = world.day()
    assert (ran.exit_code, rows_in(ran.document), findings(ran.document)) == (0, {"delivered": 1}, {"unplaced_rows": 1})

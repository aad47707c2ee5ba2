"""What operators switch while rows keep coming: the callback, whom to charge, what an event carries, the ledger."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from reconcile.domain.document import Document
from reconcile.domain.window import Window

from .conftest import Ground
from .outcome import counts
from .world import MODELS, Row, live_event, row

DAYS = [
    Window(datetime(2024, 3, 1, tzinfo=UTC) + timedelta(days=n), datetime(2024, 3, 2, tzinfo=UTC) + timedelta(days=n))
    for n in range(4)
]
ALL = Window(DAYS[0].start, DAYS[-1].end)
ROWS_A_DAY = 120
TEAMS, USERS = ("team-a", "team-b"), ("user-x", "user-y", "user-z")
COLUMNS = {"team_id": "team_id", "user_id": "user"}


def rows_of(day: int) -> list[Row]:
    """A day's rows, one every 30 seconds: all models, twins, rows without a team, rows without a user."""
    made = []
    for n in range(ROWS_A_DAY):
        model = MODELS[n % len(MODELS)][1]
        tokens = (12, 6) if n % 5 == 0 else (100 + n, 20)
        team = None if n % 17 == 3 else TEAMS[n % 2]
        user = "" if n % 13 == 5 else USERS[n % 3]
        end = DAYS[day].start + timedelta(hours=9, seconds=30 * n)
        made.append(row(f"day{day}-{n:03}", team, end, model=model, tokens=tokens, user=user))
    return made


@pytest.fixture
def proxy(ground: Ground) -> Proxy:
    ground.subscribe(*TEAMS, *USERS)
    return Proxy(ground)


class Proxy:
    """LiteLLM with its callback on or off, day by day, and the count of what each request was billed."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.of: dict[str, str] = {}  # live event -> request
        self.rows: list[Row] = []

    def day(self, number: int, callback: str | None) -> None:
        """One day's traffic; `callback` is what the callback charges by, None where it is off. It loses every ninth."""
        rows = rows_of(number)
        self.rows += rows
        self.ground.add_rows(rows)
        if callback is None:
            return
        events = []
        for n, made in enumerate(rows):
            if made[COLUMNS[callback]] and n % 9 != 4:
                name = f"live {made['request_id']}"
                self.of[name] = made["request_id"]
                model = MODELS[n % len(MODELS)][1]
                latency = timedelta(milliseconds=5 + n)
                events.append(live_event(made, name, latency, model=model, charge_column=COLUMNS[callback]))
        self.ground.add_events(events)

    def run(self, charge_by: str, window: Window = ALL, **settings: str) -> Document:
        return self.ground.backfill(window, LAGO_API_CHARGE_BY=charge_by, **settings)

    def billed(self) -> Counter[str]:
        """How often each request is in Lago, over all subscriptions: counted from outside.

        An own event tells its request, or is known by its timestamp, a fifth of a millisecond after the row's end: no
        two rows here end in the same millisecond.
        """
        ended = {made["endTime"] + timedelta(microseconds=200): made["request_id"] for made in self.rows}
        events = self.ground.lago.organization.stored_events()
        return Counter(self.of.get(event["transaction_id"]) or ended[event["timestamp"]] for event in events)

    def chargeable(self, *charge_bys: str) -> set[str]:
        return {made["request_id"] for made in self.rows if any(made[COLUMNS[by]] for by in charge_bys)}


def once_each(requests: set[str]) -> Counter[str]:
    return Counter(dict.fromkeys(requests, 1))


def test_the_callback_off_and_on_again(proxy: Proxy) -> None:
    for day, callback in enumerate(("team_id", None, "team_id")):
        proxy.day(day, callback)
        proxy.run("team_id", DAYS[day])
    assert proxy.billed() == once_each(proxy.chargeable("team_id"))
    again = proxy.run("team_id")
    assert again.rows["delivered"].count == 0
    assert proxy.billed() == once_each(proxy.chargeable("team_id"))


@pytest.mark.parametrize("ledger", ["kept", "lost"])
@pytest.mark.parametrize(
    "properties", ["", "model,response_cost,request_id=row", "model,response_cost"], ids=["all", "renamed", "few"]
)
def test_another_charge_by_bills_no_request_again(ledger: str, properties: str, proxy: Proxy) -> None:
    """team_id, then user_id, then team_id again; events under another setting of RECONCILE_PROPERTIES in between."""

    def change() -> None:
        if ledger == "lost":
            proxy.ground.forget_runs()

    for day, callback in enumerate(("team_id", None, "team_id")):
        proxy.day(day, callback)
    proxy.run("team_id", RECONCILE_PROPERTIES=properties)
    by_team = proxy.chargeable("team_id")
    assert proxy.billed() == once_each(by_team)

    change()
    by_user = proxy.run("user_id")
    both = proxy.chargeable("team_id", "user_id")
    assert proxy.billed() == once_each(both)
    found = counts(by_user.rows)
    assert found["delivered"] == len(both - by_team)
    assert found["misdirected"] == len(both & by_team & proxy.chargeable("user_id"))
    assert by_user.reasons["misdirected"].keys() == {"other_charge_id", "other_subscription"}

    change()
    proxy.day(3, "user_id")
    proxy.run("user_id", DAYS[3], RECONCILE_PROPERTIES=properties)
    change()
    back = proxy.run("team_id")
    assert proxy.billed() == once_each(proxy.chargeable("team_id", "user_id"))
    assert back.rows["delivered"].count == len(
        {name for name in proxy.chargeable("team_id") - proxy.chargeable("user_id") if name.startswith("day3")}
    )


def test_other_properties_leave_what_was_sent_matched(proxy: Proxy) -> None:
    proxy.day(0, None)
    first = proxy.run("team_id", RECONCILE_PROPERTIES="model=m,response_cost,total_tokens=tokens")
    sent = first.rows["delivered"].count
    assert sent == len(proxy.chargeable("team_id"))
    for settings in ("model,response_cost=cost,request_id", "", "response_cost"):
        environment: dict[str, Any] = {"RECONCILE_PROPERTIES": settings}
        if "cost=cost" in settings:
            proxy.ground.lago.stand_in.execute("UPDATE lago.billable_metrics SET field_name = 'cost'")
        else:
            proxy.ground.lago.stand_in.execute("UPDATE lago.billable_metrics SET field_name = 'response_cost'")
        again = proxy.run("team_id", **environment)
        if "cost=cost" in settings:
            # What was sent has no such property: Lago bills none of it that cost something.
            due = sum(made["spend"] > 0 for made in proxy.rows if made["team_id"])
            assert again.reasons["unbilled"] == {"not_counted": due}
            assert again.rows["matched"].count == sent - due
        else:
            assert again.rows["matched"].count == sent
        assert again.rows["delivered"].count == 0
    assert proxy.billed() == once_each(proxy.chargeable("team_id"))

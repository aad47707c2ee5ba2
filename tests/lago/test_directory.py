"""What a run asks Lago for to know its subscriptions and their plans, what it remembers, and what that costs."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from reconcile.errors import LagoFault
from reconcile.lago import Directory, Lago, Remembered
from reconcile.lago.gate import Gate

from .lago_catalog import CODE, CannedCatalog, charge, plan
from .lago_double import Double, Reply, Request

DAY_MS = 86_400_000


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


NOON = ms("2026-11-20T12:00:00")
NOW = ms("2026-11-21T02:15:00")


@dataclass
class Kept:
    """A memory as the ledger's: by key, and what goes in comes out of JSON."""

    entries: dict[str, Remembered] = field(default_factory=dict)

    def load(self, keys: Sequence[str]) -> Mapping[str, Remembered]:
        return {key: self.entries[key] for key in keys if key in self.entries}

    def store(self, entries: Sequence[Remembered]) -> None:
        through = (replace(entry, value=json.loads(json.dumps(entry.value))) for entry in entries)
        self.entries |= {entry.key: entry for entry in through}


@pytest.fixture
def catalog(double: Double) -> CannedCatalog:
    canned = CannedCatalog(plans={"pro": plan("pro", charge())})
    double.scripts.append(canned)
    return canned


@pytest.fixture
def memory() -> Kept:
    return Kept()


class Two(Gate):
    """As if Lago had been found to gain from two requests in flight, and from no more."""

    def __init__(self) -> None:
        super().__init__(2)
        self._pace.limit = 2

    def leave(self, entered: tuple[float, int], items: float, status: int | None) -> None:
        super().leave(entered, items, status)
        self._pace.limit = 2


def directory(client: Lago, memory: Kept, *, by_customer: bool = False, now_ms: int = NOW) -> Directory:
    return Directory(client, memory, code=CODE, by_customer=by_customer, now_ms=now_ms)


def judged(found: Directory, *names: str, at: int = NOON) -> list[str]:
    return found.coverage.judge(list(names), np.full(len(names), at)).tolist()


def held(found: Directory, *names: str, at: int = NOON) -> list[str]:
    return found.hold(list(names), np.full(len(names), at)).reason.tolist()


def asked(double: Double) -> list[str]:
    """The requests so far, and forgets them."""
    paths = [path.removeprefix("GET ") for path in double.paths()]
    double.requests.clear()
    return paths


def test_a_small_organization_is_one_page_one_plan_and_each_subscription_with_money(
    double: Double, client: Lago, catalog: CannedCatalog, memory: Kept
) -> None:
    for number in range(40):
        catalog.add(f"team-{number}")
    found = directory(client, memory)
    found.learn(["team-3", "team-7", ""], since_ms=NOON)
    assert asked(double) == ["/subscriptions", "/plans/pro", "/subscriptions/team-3", "/subscriptions/team-7"]
    assert judged(found, "team-3", "team-7", "") == ["", "", "no_subscription"]
    found.learn(["team-3", "team-7"], since_ms=NOON)
    assert asked(double) == []


def test_ids_that_nothing_active_covers_are_looked_for_among_the_ended(
    double: Double, client: Lago, catalog: CannedCatalog, memory: Kept
) -> None:
    catalog.add("gone", status="terminated", terminated_at="2026-11-20T13:00:00Z")
    catalog.add("team", started_at="2026-11-20T12:30:00.000Z")
    catalog.add("team-early", started_at="2026-11-20T11:00:00.000Z")
    found = directory(client, memory)
    found.learn(["team-early"], since_ms=NOON)
    assert asked(double) == ["/subscriptions", "/plans/pro", "/subscriptions/team-early"]
    found.learn(["gone", "team", "nobody", "team-early"], since_ms=NOON)
    assert asked(double) == ["/subscriptions", "/subscriptions/gone", "/subscriptions/team"]
    assert judged(found, "gone", "team", "nobody", "team-early") == ["", "no_subscription", "no_subscription", ""]
    # Earlier times ask nothing either: by now the ended ones are known.
    found.learn(["team-early"], since_ms=0)
    assert asked(double) == []


def test_one_that_began_again_meanwhile_is_known_from_before_its_begin(
    double: Double, client: Lago, catalog: CannedCatalog, memory: Kept
) -> None:
    catalog.add("team", status="terminated", terminated_at="2026-11-20T12:10:00Z")
    catalog.add("team", started_at="2026-11-20T12:30:00.000Z")
    found = directory(client, memory)
    found.learn(["team"], since_ms=NOON)
    minute = 60_000
    times = np.array([NOON, NOON + 20 * minute, NOON + 30 * minute])
    assert found.coverage.judge(["team"] * 3, times).tolist() == ["", "no_subscription", ""]


def test_few_ids_of_many_subscriptions_are_asked_for_by_id(
    double: Double, client: Lago, catalog: CannedCatalog, memory: Kept
) -> None:
    for number in range(2_000):
        catalog.add(f"team-{number}")
    odd = "a/b?c#d%25 é"
    catalog.add(odd, status="terminated", terminated_at="2026-10-31T00:00:00Z", started_at="2026-10-01T00:00:00.000Z")
    catalog.add(odd, started_at="2026-11-10T00:00:00.000Z")
    found = directory(client, memory)
    found.learn([odd, "team-5", "nobody"], since_ms=ms("2026-10-15T00:00:00"))
    # The first page tells how many there are; each ID then costs one request, ended subscriptions included.
    assert asked(double)[:4] == ["/subscriptions"] * 4
    assert judged(found, odd, "team-5", "nobody") == ["", "", "no_subscription"]
    assert judged(found, odd, at=ms("2026-10-15T00:00:00")) == [""]
    assert judged(found, odd, at=ms("2026-11-05T00:00:00")) == ["no_subscription"]


def test_many_ids_are_read_from_the_whole_list(
    double: Double, client: Lago, catalog: CannedCatalog, memory: Kept
) -> None:
    for number in range(2_500):
        catalog.add(f"team-{number}")
    found = directory(client, memory)
    found.learn([f"team-{number}" for number in range(300)], since_ms=NOON)
    # The first page, three of 1,000, three counts of overridden plans, the plan.
    assert asked(double) == [*["/subscriptions"] * 4, "/plans/pro", *["/subscriptions"] * 3]
    assert set(judged(found, *(f"team-{number}" for number in range(300)))) == {""}
    found.learn([f"team-{number}" for number in range(2_500)], since_ms=NOON)
    assert asked(double) == []


@pytest.mark.parametrize("subscriptions", [50, 2_600])
def test_a_customer_per_session_stays_under_600_reads(
    double: Double, client: Lago, catalog: CannedCatalog, memory: Kept, subscriptions: int
) -> None:
    for number in range(subscriptions):
        catalog.add(f"team-{number}")
    names = [f'{{"session": "{number}"}}' for number in range(6_000)]
    found = directory(client, memory)
    for begin in range(0, 6_000, 250):  # a day of slices
        found.learn([*names[begin : begin + 250], "team-1"], since_ms=NOON)
    assert set(judged(found, *names)) == {"no_subscription"}
    assert judged(found, "team-1") == [""]
    assert len(double.requests) < 300


def test_unknown_ids_end_the_asking_one_by_one(
    double: Double, client: Lago, catalog: CannedCatalog, memory: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reconcile.lago.roll._UNKNOWN_AT_MOST", 20)
    monkeypatch.setattr("reconcile.lago.roll.PAGE", 100)
    for number in range(1_200):
        catalog.add(f"team-{number}")
    found = directory(client, memory)
    found.learn([f"session-{number}" for number in range(100)], since_ms=NOON)
    # 100 IDs at 20 ms are cheaper than 1,200 subscriptions at 2 ms; but Lago knows none of the first 20.
    assert len(asked(double)) == 1 + 20 + 12 + 1


def test_pages_that_are_capped_or_miss_something(
    double: Double, client: Lago, catalog: CannedCatalog, memory: Kept
) -> None:
    for number in range(250):
        catalog.add(f"team-{number}")
    catalog.page_cap = 60
    found = directory(client, memory)
    found.learn([f"team-{number}" for number in range(250)], since_ms=NOON)
    assert set(judged(found, *(f"team-{number}" for number in range(250)))) == {""}


def test_a_page_that_shifts_is_read_again(double: Double, client: Lago, catalog: CannedCatalog, memory: Kept) -> None:
    for number in range(1_500):
        catalog.add(f"team-{number}")
    hidden = catalog.subscriptions.pop(700)
    pages = []

    def shift(request: Any) -> Reply | None:
        if request.query.get("per_page") == ["1000"]:
            pages.append(request.page)
            reply = catalog(request)
            assert reply is not None
            reply.body["meta"]["total_count"] = 1_500
            if len(pages) == 3:  # past the end, with one short
                catalog.subscriptions.insert(700, hidden)
            return reply
        return None

    double.scripts.insert(0, shift)
    found = directory(client, memory)
    found.learn([f"team-{number}" for number in range(1_500)], since_ms=NOON)
    assert pages == [1, 2, 3, 1, 2]
    assert judged(found, hidden["external_id"]) == [""]


def test_an_old_lago_ignores_which_id_was_asked_for(
    double: Double, client: Lago, catalog: CannedCatalog, memory: Kept
) -> None:
    catalog.old = True
    for number in range(2_000):
        catalog.add(f"team-{number}")
    found = directory(client, memory)
    found.learn(["team-5", "nobody"], since_ms=NOON)
    assert judged(found, "team-5", "nobody") == ["", "no_subscription"]
    # The first page, one ID asked for in vain, two pages of 1,000, the ended; the plan and the one subscription's own.
    assert asked(double) == [*["/subscriptions"] * 5, "/plans/pro", "/subscriptions/team-5"]


def test_an_id_that_no_address_can_hold_is_looked_for_in_the_list(
    double: Double, client: Lago, catalog: CannedCatalog, memory: Kept
) -> None:
    for number in range(1_200):
        catalog.add(f"team-{number}")
    long = "é" * 1_000
    catalog.add(long)
    found = directory(client, memory)
    found.learn(["team-3", long], since_ms=NOON)
    assert judged(found, "team-3", long) == ["", ""]
    # Its plan is taken by its code: GET /subscriptions/{id} cannot be asked.
    assert asked(double) == [*["/subscriptions"] * 4, "/plans/pro", "/subscriptions/team-3"]
    assert found.guessed_plans == 1


def test_a_server_that_knows_fewer_statuses(double: Double, client: Lago, catalog: CannedCatalog, memory: Kept) -> None:
    def strict(request: Any) -> Reply | None:
        if {"pending", "canceled"} & set(request.query.get("status[]", ())):
            return Reply(422, {"error_details": {"status": ["value_is_invalid"]}})
        return None

    double.scripts.insert(0, strict)
    catalog.add("gone", status="terminated", terminated_at="2026-11-20T13:00:00Z")
    found = directory(client, memory)
    found.learn(["gone", "nobody"], since_ms=NOON)
    assert judged(found, "gone", "nobody") == ["", "no_subscription"]
    double.scripts.insert(0, lambda request: Reply(400, {}) if request.path.endswith("/subscriptions") else None)
    with pytest.raises(LagoFault, match="answered 400 to the statuses"):
        directory(client, memory).learn(["x"])


def test_customers(double: Double, client: Lago, catalog: CannedCatalog, memory: Kept) -> None:
    catalog.add("sub-1", "one")
    catalog.add("sub-2", "two")
    catalog.add("sub-3", "two", status="terminated", terminated_at="2026-11-20T13:00:00Z")
    catalog.add("sub-4", "four")
    found = directory(client, memory, by_customer=True)
    found.learn(["one", "two", "nobody"], subscription_ids=["sub-4", "sub-9"], since_ms=NOON)
    resolved = found.coverage.resolve(["one", "two", "nobody"], np.full(3, NOON))
    assert resolved.subscription.tolist() == ["sub-1", "", ""]
    assert resolved.reason.tolist() == ["", "several_subscriptions", "no_subscription"]
    assert judged(found, "sub-4", "sub-9") == ["", "no_subscription"]
    assert found.coverage.charge_ids_of(["sub-4", "sub-9"]).tolist() == ["four", "sub-9"]


# Plans


def test_an_overridden_plan_decides_and_not_the_plan_of_its_code(
    double: Double, client: Lago, catalog: CannedCatalog, memory: Kept
) -> None:
    catalog.own_plans[catalog.add("unpriced")] = plan("pro", parent_id="plan-pro")
    catalog.add("priced")
    catalog.own_plans[catalog.add("advance")] = plan("pro", charge(pay_in_advance=True), parent_id="plan-pro")
    found = directory(client, memory)
    found.learn(["unpriced", "priced", "advance"])
    assert judged(found, "unpriced", "priced", "advance") == ["not_priced", "", ""]
    before = ms("2026-11-01T00:00:00")
    for one in catalog.subscriptions:
        one["current_billing_period_started_at"] = "2026-11-10T00:00:00Z"
    again = directory(client, memory)
    again.learn(["unpriced", "priced", "advance"])
    assert held(again, "unpriced", "priced", "advance", at=before) == ["not_priced", "period_closed", ""]
    assert list(again.plans_in_use()) == ["pro", "pro of advance", "pro of unpriced"]
    assert (again.unknown_plans, again.guessed_plans) == (0, 0)


def test_a_charge_on_another_metric_prices_nothing(
    double: Double, client: Lago, catalog: CannedCatalog, memory: Kept
) -> None:
    catalog.plans["other"] = plan("other", charge("another_metric"))
    catalog.plans["catalog"] = plan("catalog", interval=None)
    catalog.add("team-a", plan_code="other")
    catalog.add("team-b", plan_code="catalog")
    found = directory(client, memory)
    found.learn(["team-a", "team-b"])
    assert judged(found, "team-a", "team-b") == ["not_priced", "not_priced"]
    assert [plan.billed for plan in found.plans_in_use().values()] == [False, True]


def test_few_are_asked_anew_in_every_run_so_an_edited_override_is_seen_at_once(
    double: Double, client: Lago, catalog: CannedCatalog, memory: Kept
) -> None:
    lago_id = catalog.add("team")
    directory(client, memory).learn(["team"], since_ms=NOON)
    asked(double)
    catalog.own_plans[lago_id] = plan("pro", parent_id="plan-pro")
    found = directory(client, memory, now_ms=NOW + 1)
    found.learn(["team"], since_ms=NOON)
    assert judged(found, "team") == ["not_priced"]
    assert asked(double) == ["/subscriptions", "/subscriptions/team"]  # the plan itself is remembered for half a day
    directory(client, memory, now_ms=NOW + DAY_MS).learn(["team"], since_ms=NOON)
    assert asked(double) == ["/subscriptions", "/plans/pro", "/subscriptions/team"]


def many(catalog: CannedCatalog, count: int, own: int) -> list[str]:
    """`count` subscriptions, the first `own` of them with a plan of their own."""
    for number in range(count):
        lago_id = catalog.add(f"team-{number}")
        if number < own:
            catalog.own_plans[lago_id] = plan("pro", parent_id="plan-pro")
    return [one["external_id"] for one in catalog.subscriptions]


def test_of_many_only_those_with_a_plan_of_their_own_are_asked_and_then_remembered(
    double: Double, client: Lago, catalog: CannedCatalog, memory: Kept
) -> None:
    names = many(catalog, 90, own=12)
    found = directory(client, memory)
    found.learn(names, since_ms=NOON)
    paths = asked(double)
    # The page, the plan, three counts, the list of the overridden, and those.
    assert paths[:6] == ["/subscriptions", "/plans/pro", *["/subscriptions"] * 4]
    assert sorted(paths[6:]) == sorted(f"/subscriptions/{name}" for name in names[:12])
    assert judged(found, *names) == ["not_priced"] * 12 + [""] * 78
    next_night = directory(client, memory, now_ms=NOW + DAY_MS)
    next_night.learn(names, since_ms=NOON)
    assert asked(double) == ["/subscriptions", "/plans/pro", *["/subscriptions"] * 4]
    assert judged(next_night, *names) == ["not_priced"] * 12 + [""] * 78


def test_what_is_remembered_of_an_override_ends_with_its_plan_its_subscription_and_after_days(
    double: Double, client: Lago, catalog: CannedCatalog, memory: Kept
) -> None:
    names = many(catalog, 30, own=12)
    directory(client, memory).learn(names, since_ms=NOON)
    asked(double)

    def shown(days: float) -> int:
        directory(client, memory, now_ms=NOW + round(days * DAY_MS)).learn(names, since_ms=NOON)
        return sum(path.startswith("/subscriptions/") for path in asked(double))

    assert shown(1) == 0
    catalog.subscriptions[3]["started_at"] = "2026-11-02T00:00:00.000Z"  # ended, and begun again
    assert shown(2) == 1
    assert shown(4.9) == 0
    catalog.plans["pro"]["charges"][0]["properties"]["amount"] = "0"
    assert shown(4.95) == 0  # the plan itself is asked for after half a day
    assert shown(5.5) == 12
    # Five to nine days later, not all in one night.
    spread = [shown(10.4 + day) for day in range(6)]
    assert sum(spread) == 12
    assert max(spread) < 12


def test_a_subscription_that_becomes_overridden_is_asked_for(
    double: Double, client: Lago, catalog: CannedCatalog, memory: Kept
) -> None:
    names = many(catalog, 30, own=0)
    few = directory(client, memory)
    few.learn(names[:5], since_ms=NOON)
    catalog.own_plans["sub-2"] = plan("pro", parent_id="plan-pro")
    found = directory(client, memory, now_ms=NOW + 1)
    found.learn(names, since_ms=NOON)
    assert judged(found, *names[:5]) == ["", "", "not_priced", "", ""]


def test_a_lago_that_cannot_say_which_are_overridden(
    double: Double, client: Lago, catalog: CannedCatalog, memory: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reconcile.lago.price_list._OWN_PLANS_AT_MOST", 20)
    catalog.old = True
    names = many(catalog, 50, own=50)
    first = directory(client, memory)
    first.learn(names, since_ms=NOON, money={name: float(number) for number, name in enumerate(names)})
    # Those with most money are asked for, the others judged by the plan of that code.
    assert judged(first, *names) == [""] * 30 + ["not_priced"] * 20
    assert first.guessed_plans == 30
    second = directory(client, memory)
    second.learn(names, since_ms=NOON)
    assert second.guessed_plans == 10
    third = directory(client, memory)
    third.learn(names, since_ms=NOON)
    assert (judged(third, *names), third.guessed_plans) == (["not_priced"] * 50, 0)


def test_what_was_never_asked_for_comes_before_what_is_old(
    double: Double, client: Lago, catalog: CannedCatalog, memory: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reconcile.lago.price_list._OWN_PLANS_AT_MOST", 20)
    catalog.old = True
    names = many(catalog, 40, own=40)
    money = {name: 40.0 - number for number, name in enumerate(names)}
    guessed = []
    for night in range(2):
        found = directory(client, memory, now_ms=NOW + night * 20 * DAY_MS)
        found.learn(names, since_ms=NOON, money=money)
        guessed.append(found.guessed_plans)
    assert guessed == [20, 0]
    assert judged(found, *names) == ["not_priced"] * 40


def test_plans_that_were_never_asked_for_come_before_those_that_are_old(
    double: Double, client: Lago, catalog: CannedCatalog, memory: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reconcile.lago.price_list._PLANS_AT_MOST", 2)
    catalog.plans = {code: plan(code, charge()) for code in ("plan-0", "plan-1", "plan-2")}
    for number in range(3):
        catalog.add(f"team-{number}", plan_code=f"plan-{number}")
    for night, expected in enumerate((["/plans/plan-0", "/plans/plan-1"], ["/plans/plan-2", "/plans/plan-0"])):
        found = directory(client, memory, now_ms=NOW + night * DAY_MS)
        found.learn(["team-0", "team-1", "team-2"], money={"team-0": 3.0, "team-1": 2.0, "team-2": 1.0})
        assert [path for path in asked(double) if path.startswith("/plans/")] == expected


def test_a_server_that_finds_nothing_by_a_filter_that_it_does_not_know(
    double: Double, client: Lago, catalog: CannedCatalog, memory: Kept
) -> None:
    def nothing(request: Any) -> Reply | None:
        found = {"subscriptions": [], "meta": {"next_page": None, "total_count": 0}}
        return Reply(200, found) if "overriden" in request.query else None

    double.scripts.insert(0, nothing)
    names = many(catalog, 30, own=30)
    found = directory(client, memory)
    found.learn(names, since_ms=NOON)
    assert judged(found, *names) == ["not_priced"] * 30


def test_plans_that_cannot_be_known_are_taken_to_be_priced(
    double: Double, client: Lago, catalog: CannedCatalog, memory: Kept
) -> None:
    catalog.shows = False
    catalog.add("team-a", plan_code="gone")
    catalog.add("team-b")
    catalog.plans["pro"] = plan("pro")
    found = directory(client, memory)
    found.learn(["team-a", "team-b"])
    assert judged(found, "team-a", "team-b") == ["", "not_priced"]
    assert (found.unknown_plans, found.guessed_plans) == (1, 1)
    # Once is enough to learn that this server shows no single subscription.
    assert sum(path.startswith("/subscriptions/") for path in asked(double)) == 1


def test_several_subscriptions_are_asked_for_their_plans_at_a_time_where_that_helps(
    double: Double, client: Lago, catalog: CannedCatalog, memory: Kept
) -> None:
    catalog.old = True  # it cannot say which subscriptions have a plan of their own
    together = threading.Barrier(2)

    def waits_for_another(request: Request) -> Reply | None:
        number = request.path.rpartition("-")[2]
        if "/subscriptions/" in request.path and int(number) >= 1:
            together.wait(10)
        return None

    double.scripts.insert(0, waits_for_another)
    client.plan_requests = Two()
    names = many(catalog, 31, own=31)
    found = directory(client, memory)
    found.learn(names, since_ms=NOON)
    assert judged(found, *names) == ["not_priced"] * 31
    paths = [path for path in asked(double) if path.startswith("/subscriptions/")]
    # The first one goes alone: a server that shows none is not asked for the others.
    assert paths[0] == "/subscriptions/team-0"
    assert sorted(paths) == sorted(f"/subscriptions/{name}" for name in names)


def test_a_fault_ends_the_asking_for_plans(double: Double, client: Lago, catalog: CannedCatalog, memory: Kept) -> None:
    catalog.old = True

    def fails(request: Request) -> Reply | None:
        asks = "/subscriptions/team-" in request.path and not request.path.endswith("-0")
        return Reply(500, {}) if asks else None

    double.scripts.insert(0, fails)
    names = many(catalog, 31, own=31)
    with pytest.raises(LagoFault, match="answered 500"):
        directory(client, memory).learn(names, since_ms=NOON)
    assert len({path for path in asked(double) if path.startswith("/subscriptions/")}) < 31
    assert memory.entries.keys() == {"plan pro"}


def test_of_an_ended_subscription_lago_shows_the_newest_alone(
    double: Double, client: Lago, catalog: CannedCatalog, memory: Kept
) -> None:
    for number, month in enumerate(("09", "10")):
        lago_id = catalog.add(
            "team",
            status="terminated",
            started_at=f"2026-{month}-01T00:00:00.000Z",
            terminated_at=f"2026-{month}-20T00:00:00Z",
        )
        catalog.own_plans[lago_id] = plan("pro", *[charge()] * number, parent_id="plan-pro")
    found = directory(client, memory)
    found.learn(["team"])
    assert judged(found, "team", at=ms("2026-10-10T00:00:00")) == [""]
    # The older one is judged by the plan of its code: Lago does not show what it was.
    assert judged(found, "team", at=ms("2026-09-10T00:00:00")) == [""]
    assert found.guessed_plans == 1


def test_pending_subscriptions_are_not_asked_for_their_plan(
    double: Double, client: Lago, catalog: CannedCatalog, memory: Kept
) -> None:
    catalog.add("team", status="pending", started_at=None)
    found = directory(client, memory)
    found.learn(["team"])
    assert asked(double) == ["/subscriptions", "/subscriptions"]
    assert judged(found, "team") == ["no_subscription"]


# Periods that are over


def draft(lago_id: str, customer: str, *periods: dict[str, str], status: str = "draft") -> dict[str, Any]:
    listed = {"lago_id": lago_id, "status": status, "customer": {"external_id": customer}}
    return {**listed, "billing_periods": list(periods)}


def october(subscription: str) -> dict[str, str]:
    return {
        "external_subscription_id": subscription,
        "charges_from_datetime": "2026-10-01T00:00:00Z",
        "charges_to_datetime": "2026-10-31T23:59:59Z",
        "subscription_from_datetime": "2026-11-01T00:00:00Z",
        "subscription_to_datetime": "2026-11-30T23:59:59Z",
    }


def test_drafts_are_asked_for_only_where_a_period_is_over(
    double: Double, client: Lago, catalog: CannedCatalog, memory: Kept
) -> None:
    catalog.add("team-a", "one", started_at="2026-10-01T00:00:00.000Z")
    catalog.add("team-b", "two", started_at="2026-10-01T00:00:00.000Z")
    catalog.invoices = [
        draft("i1", "one", october("team-a"), october("team-z")),
        draft("i2", "three", october("team-b")),  # of nobody who was asked for
        draft("i3", "two", october("team-b"), status="finalized"),
    ]
    found = directory(client, memory)
    found.learn(["team-a", "team-b"])
    asked(double)
    assert held(found, "team-a", "team-b") == ["", ""]
    assert asked(double) == []
    last = ms("2026-10-31T23:59:59.999")
    assert held(found, "team-a", "team-b", at=last) == ["", "period_closed"]
    assert asked(double) == ["/invoices", "/invoices", "/invoices/i1"]
    assert held(found, "team-a", "team-b", at=last) == ["", "period_closed"]
    assert asked(double) == []


def test_an_ended_subscription_has_no_open_period_also_where_no_invoice_is_seen(
    double: Double, client: Lago, catalog: CannedCatalog, memory: Kept
) -> None:
    catalog.add("team-a", status="terminated", terminated_at="2026-11-20T12:00:00Z")
    found = directory(client, memory)
    found.learn(["team-a"])
    assert judged(found, "team-a") == [""]
    assert held(found, "team-a") == ["period_closed"]
    assert held(found, "team-a", at=NOON + 1) == ["no_subscription"]


def test_drafts_of_many_customers_are_read_from_one_list(
    double: Double, client: Lago, catalog: CannedCatalog, memory: Kept
) -> None:
    names = [f"team-{number}" for number in range(60)]
    for name in names:
        catalog.add(name, f"of-{name}", started_at="2026-10-01T00:00:00.000Z")
    catalog.invoices = [draft("i1", "of-team-3", october("team-3")), draft("i2", "of-another", october("x"))]
    found = directory(client, memory)
    found.learn(names)
    asked(double)
    reasons = held(found, *names, at=ms("2026-10-15T00:00:00"))
    assert [name for name, reason in zip(names, reasons, strict=True) if not reason] == ["team-3"]
    assert asked(double) == ["/invoices", "/invoices/i1"]


def test_a_survey_before_the_first_run(double: Double, client: Lago, catalog: CannedCatalog, memory: Kept) -> None:
    many(catalog, 150, own=0)
    catalog.add("gone", status="terminated", terminated_at="2026-11-20T12:00:00Z")
    active, others, plans = directory(client, memory).survey()
    assert (active, others, list(plans)) == (150, 1, ["pro"])
    assert asked(double) == ["/subscriptions", "/subscriptions", "/plans/pro"]

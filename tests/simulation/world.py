"""A world from a seed: what the proxies wrote, what reached Lago live, who subscribed to what, and whose clock is off.

Every draw comes from the seed. What happens is put on the clock before the first night, so that the job's runs,
however long they take in virtual time, meet a world that goes on.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from reconcile.callback.row_event import Made, event_of
from reconcile.callback.settings import read as callback_settings
from reconcile.settings import Settings, load

from .lago import Key, Lago, Plan, Subscription
from .litellm import Content, Row, Table
from .machine import DAY, HOUR, MINUTE, SECOND, Clock, Jump, Skew, moment

CODE = "llm_usage"
MODELS = ("gpt-4o-mini", "claude-3-5-haiku", "mistral-small")
BEGINNING = 1_774_224_000_000  # Monday 23 March 2026, 00:00 UTC
LONG_AGO = BEGINNING - 200 * DAY
NIGHT = 2 * HOUR + 15 * MINUTE  # when the nightly run begins
JUMP = MINUTE  # how far a clock that jumps is off at most
METRICS = (
    ("sum_agg", "response_cost"),
    ("sum_agg", "response_cost"),
    ("sum_agg", "total_tokens"),
    ("count_agg", None),
    ("unique_count_agg", "request_id"),
)


@dataclass
class World:
    """Everything of one seed. `first` is when traffic begins and `quiet` when the last thing has happened (true ms)."""

    seed: int
    clock: Clock
    lago: Lago
    table: Table
    settings: Settings
    first: int
    days: int
    quiet: int
    host: Skew
    postgres: Skew
    retention: int | None
    jumps: bool  # whether clocks do
    changes: list[int] = field(default_factory=list)  # when subscriptions or plans change (true ms)
    story: list[str] = field(default_factory=list)
    told: dict[str, str] = field(default_factory=dict)

    def tell(self, text: str) -> None:
        self.story.append(f"{moment(self.clock.now):%d %b %H:%M:%S}  {text}")

    def label(self, posted: Mapping[str, Any]) -> Key | None:
        """The row that an event of the job is for: by its request and its time, whatever its transaction ID."""
        request = posted.get("properties", {}).get("request_id")
        time = int(float(posted["timestamp"]) * 1000)
        near = [row for row in self.table.rows if row.request_id == request and abs(row.usage_ms - time) <= 1]
        return near[0].key if near else None

    def set_clocks_right(self) -> None:
        for skew in (self.host, self.postgres, self.lago.skew):
            skew.ms = skew.usual

    def jump(self, chance: random.Random, at: int) -> Jump:
        """A clock that jumps at a run's I/O number `at`: as NTP sets it, or as somebody does who has none."""
        name, skew = chance.choice((("the host", self.host), ("Postgres", self.postgres), ("Lago", self.lago.skew)))
        to = chance.choice((skew.usual, chance.randint(-JUMP, JUMP), chance.randint(-JUMP, JUMP)))
        if skew is self.host and self.lago.clickhouse:
            # What a run that has ended may have sent is waited for by this clock: Lago's backlog and the jump together
            # have to stay below RECONCILE_VISIBLE_WITHIN.
            to = min(to, skew.ms + 15 * SECOND)
        return Jump(at, name, skew, to)

    def row(self, key: Key) -> Row:
        return next(row for row in self.table.rows if row.key == key)


def make(seed: int, database_url: str) -> World:
    """The world of a seed; its ledger lives in the Postgres at `database_url`, under an organization of its own."""
    chance = random.Random(f"world {seed}")
    clock = Clock(0)
    clickhouse = chance.random() < 0.5
    deduplicates = clickhouse and chance.random() < 0.4
    old = not clickhouse and chance.random() < 0.3
    aggregation, field_name = chance.choice(METRICS)
    backlog = random.Random(f"backlog {seed}")
    far = chance.random() < 0.3
    outage = chance.random() < 0.08
    lago = Lago(
        clock,
        store="clickhouse" if clickhouse else "postgres",
        deduplicates=deduplicates,
        atomic=not old,
        exact=not old,
        aggregation=aggregation,
        field_name=field_name,
        code=CODE,
        organization=f"organization {seed}",
        skew=Skew(_offset(chance, far)),
        backlog_ms=lambda: backlog.choice((0, 200, 3_000, 30_000, 60_000)),
    )
    days = 2 if outage else chance.choice((1, 1, 2))
    lag = chance.choice((1, 2))
    environment = {
        "DATABASE_URL": database_url,
        "LAGO_API_BASE": f"http://lago-{seed}.test",
        "LAGO_API_KEY": "simulated-key",
        "LAGO_API_EVENT_CODE": CODE,
        "LAGO_API_CHARGE_BY": "team_id",
        "RECONCILE_LOOKBACK": chance.choice(("24h", "30h", "48h")),
        "RECONCILE_LAG": f"{lag}h",
        "RECONCILE_SLICE": chance.choice(("1h", "6h", "24h", "24h")),
        "RECONCILE_MAX_CALL": chance.choice(("6h", "24h")),
        "RECONCILE_PAGE_SIZE": chance.choice(("1000", "1000", "7")),
        "RECONCILE_CONCURRENCY": chance.choice(("1", "8")),
        "RECONCILE_COPIES": "one" if deduplicates else "billed",
        "RECONCILE_NOT_COUNTED": chance.choice(("hold", "push")),
        "RECONCILE_OWN_IDS": "the-house",
        "RECONCILE_ROW_LIMIT": "900",
    }
    if old:
        environment["RECONCILE_EVENTS_STORE"] = "postgres"
    first = BEGINNING + chance.randrange(8) * DAY
    clock.now = first - DAY
    retention = chance.choice((None, None, 36 * HOUR, 72 * HOUR, 96 * HOUR))
    world = World(
        seed, clock, lago, Table(), load(environment, None), first, days, 0,
        Skew(_offset(chance, far)), Skew(_offset(chance, far)), retention, chance.random() < 0.3,
    )  # fmt: skip
    teams = _subscribe(world, chance)
    _traffic(world, chance, teams, environment, lag * HOUR, outage=outage)
    if retention is not None:
        for day in range(days + 8):
            clock.at(first + day * DAY + HOUR, lambda: _retain(world))
    last = max(
        [first + days * DAY]
        + [row.written_at for row in world.table.rows]
        + [at for row in world.table.rows for at, _ in row.mended]
        + world.changes
    )
    world.quiet = last + lag * HOUR + HOUR
    world.told = {
        "store": f"{'ClickHouse' if clickhouse else 'Postgres'}{', deduplicated' if deduplicates else ''}"
        f"{', before 1.39' if old else ''}",
        "metric": f"{aggregation} of {field_name}",
        "rows": str(len(world.table.rows)),
        "clocks": f"Lago {lago.skew.ms:+} ms, host {world.host.ms:+} ms, Postgres {world.postgres.ms:+} ms",
        "settings": " ".join(f"{name}={text}" for name, text in environment.items() if name.startswith("RECONCILE")),
    }
    return world


def _offset(chance: random.Random, far: bool) -> int:
    """How far a clock is off, in ms. NTP keeps it within a second; without it, up to half of what the job allows."""
    return chance.randint(-20_000, 20_000) if far else chance.randint(-800, 800)


def _subscribe(world: World, chance: random.Random) -> list[str]:
    """Teams and what each has in Lago; some of it changes while the world goes on."""
    lago, first, span = world.lago, world.first, world.days * DAY
    lago.plans = {
        "standard": Plan("standard"),
        "free": Plan("free", priced=False),
        "advance": Plan("advance", in_advance=True),
        "twice": Plan("twice", charges=2),
    }
    teams = []
    for number in range(chance.randint(1, 4)):
        team = f"team-{number}"
        teams.append(team)
        plan = lago.plans[chance.choice(("standard",) * 6 + ("advance", "twice"))]
        at = first + chance.randrange(span)
        kind = chance.choice(
            ("steady",) * 8 + ("begins", "ends", "restarts", "none", "free", "priced later", "made later")
        )
        one = Subscription(f"sub-{team}", team, plan, LONG_AGO, LONG_AGO)
        if kind == "none":
            continue
        if kind == "free":
            one.plan = lago.plans["free"]
        elif kind == "begins":
            one.created_at, one.started_at = at, at
        elif kind == "ends":
            one.ended_at = at // 1000 * 1000
        elif kind == "restarts":
            one.ended_at = at // 1000 * 1000
            later = at + chance.choice((SECOND, HOUR, 10 * HOUR))
            lago.subscriptions.append(Subscription(f"sub-{team}-2", team, lago.plans["standard"], later, later))
        elif kind == "priced later":
            one.plan = Plan(f"own of {team}", priced=False)
            lago.plans[one.plan.code] = one.plan
            at += chance.choice((0, 30 * HOUR, 60 * HOUR))
            world.clock.at(at, lambda plan=one.plan: _price(world, plan))  # type: ignore[misc]
        elif kind == "made later":
            one.created_at = at + chance.choice((0, 30 * HOUR, 60 * HOUR))
            at = one.created_at
        if kind != "steady":
            world.changes.append(at)
        lago.subscriptions.append(one)
        world.story.append(
            f"{team}: {kind}, plan {one.plan.code}"
            + ("" if kind in ("steady", "free") else f", at {moment(at):%d %b %H:%M:%S}")
        )
    return teams


def _price(world: World, plan: Plan) -> None:
    plan.priced = True
    world.tell(f"plan {plan.code} gets its charge on the metric")


def _traffic(
    world: World, chance: random.Random, teams: list[str], environment: Mapping[str, str], lag: int, *, outage: bool
) -> None:
    """Rows, and the live events beside them."""
    callback = callback_settings(environment)
    sender = chance.choice(("litellm",) * 6 + ("ours", "ours", "both", "none"))
    loss, doubling = chance.choice((0.02, 0.3, 0.5, 0.8)), chance.choice((0.0, 0.0, 0.1))
    lacking = chance.choice((0.0, 0.0, 0.2))
    proxy = _proxy_clock(world, chance)
    span, count = world.days * DAY, chance.choice((5, 10, 15, 25, 40, 60))
    bursts = [
        (world.first + chance.randrange(span), chance.choice((2, 10, 45)) * MINUTE)
        for _ in range(chance.choice((0, 0, 1, 2)))
    ]
    busy = [world.first + chance.randrange(span) for _ in range(3)]
    world.story.append(
        f"live: {sender}, loss {loss:.0%}, doubled {doubling:.0%}, bursts of delay "
        + (", ".join(f"{moment(at):%d %b %H:%M} ({for_ms // MINUTE} min)" for at, for_ms in bursts) or "none")
    )
    before: Row | None = None
    for number in range(count):
        end = world.first + chance.randrange(span)
        if chance.random() < 0.3:
            end = min(chance.choice(busy) + chance.randrange(5 * MINUTE), world.first + span)
        row = _row(world, chance, number, end, teams, before, proxy)
        world.table.rows.append(row)
        before = row
        end = row.ended_at
        _mend(world, chance, row, teams)
        if row.status == "failure":
            continue
        if sender in ("ours", "both") and chance.random() >= loss:
            _ours(world, chance, row, end, callback)
        if sender in ("litellm", "both") and row.content.team:
            for _ in range(2 if chance.random() < doubling else 1):
                if chance.random() >= loss:
                    _live(world, chance, row, end, _delay(chance, end, bursts, lag), lacking, number)
    if chance.random() < 0.3:
        _other_proxy(world, chance, teams, span)
    if chance.random() < 0.25:
        _at_the_edge(world, chance, teams, proxy, lag)
    if outage:
        _outage(world, chance, teams, proxy)


def _proxy_clock(world: World, chance: random.Random) -> Callable[[int], int]:
    """How far the proxy's clock is ahead, by the true time; in a world whose clocks jump this one may, too."""
    steps = [(0, _offset(chance, far=chance.random() < 0.2))]
    if world.jumps:
        span = world.days * DAY
        for at in sorted(world.first + chance.randrange(span) for _ in range(chance.choice((0, 1, 2)))):
            steps.append((at, chance.choice((steps[0][1], chance.randint(-JUMP, JUMP)))))
            world.story.append(f"the proxy's clock jumps to {steps[-1][1]:+} ms at {moment(at):%d %b %H:%M:%S}")

    def ahead(time_ms: int) -> int:
        return next(ms for at, ms in reversed(steps) if at <= time_ms)

    return ahead


def _at_the_edge(world: World, chance: random.Random, teams: list[str], proxy: Callable[[int], int], lag: int) -> None:
    """Calls of the minutes that a nightly window begins or ends with, written when no window holds them any more."""
    for number in range(chance.randint(1, 3)):
        edge = chance.randrange(world.days) * DAY + NIGHT - lag + chance.choice((0, 0, 12 * HOUR))
        end = world.first + edge + chance.randint(MINUTE, 44 * MINUTE)
        row = _row(world, chance, f"edge-{number}", end, teams, None, proxy)
        row.written_at = end + chance.randint(25 * HOUR, 60 * HOUR)
        world.table.rows.append(row)
        if row.status != "failure" and row.content.team and chance.random() < 0.3:
            _live(world, chance, row, end, SECOND, 0.0, f"edge-{number}")


def _outage(world: World, chance: random.Random, teams: list[str], proxy: Callable[[int], int]) -> None:
    """Two bad days of the proxy: rows of the first are written a day late, and their events are lost; the events of
    three quarters of an hour of the second come together, after it."""
    for number in range(chance.randint(2, 3)):
        end = world.first + chance.randint(3, 20) * HOUR + chance.randrange(HOUR)
        row = _row(world, chance, f"outage-{number}", end, teams, None, proxy)
        row.written_at = world.first + DAY + chance.randint(3, 20) * HOUR
        world.table.rows.append(row)
    begin, length = world.first + DAY + chance.randint(3, 20) * HOUR, 45 * MINUTE
    for number in range(chance.randint(25, 40)):
        end = begin + chance.randrange(length)
        row = _row(world, chance, f"jam-{number}", end, teams, None, proxy)
        world.table.rows.append(row)
        if row.status != "failure" and row.content.team:
            delay = begin + length + chance.randint(3, 9) * MINUTE - end
            _live(world, chance, row, end, delay, 0.0, f"jam-{number}")
    world.story.append(f"an outage: events of 45 minutes from {moment(begin):%d %b %H:%M} arrive after them")


def _row(
    world: World,
    chance: random.Random,
    number: int | str,
    end: int,
    teams: list[str],
    before: Row | None,
    proxy: Callable[[int], int],
) -> Row:
    lasted = chance.choice((200, 2_000, 15_000, 60_000))
    if chance.random() < 0.05:
        lasted = chance.choice((HOUR, 5 * HOUR, 8 * HOUR))
    team: str | None = chance.choice(teams)
    if chance.random() < 0.06:
        team = chance.choice((None, "", "the-house"))
    spend = 0.0 if chance.random() < 0.08 else round(10 ** chance.uniform(-6, 1), 9)
    prompt, completion = chance.randint(1, 9_000), chance.randint(0, 2_000)
    content = Content(team, f"openai/{chance.choice(MODELS)}", spend, prompt, completion)
    status = chance.choice(("success",) * 10 + ("failure", None))
    delay = chance.randint(1, 60) * SECOND
    late = chance.random()
    if late < 0.05:
        delay = chance.randint(2 * HOUR, 60 * HOUR)
    elif late < 0.12:
        delay = chance.randint(MINUTE, 2 * HOUR)
    begin = end - lasted
    row = Row(
        f"chatcmpl-{world.seed}-{number}", begin + proxy(begin), end + proxy(end), content, status, end, end + delay
    )
    if before is not None and chance.random() < 0.12 and before.status != "failure" and not before.mended:
        # The same call once more: equal content, near in time.
        row.content, row.status, row.twin, before.twin = before.content, before.status, True, True
        apart = chance.choice((0, 400, 20_000, 100_000, 10 * MINUTE))
        row.ended_at = before.ended_at + apart
        row.usage_ms, begin = row.ended_at + proxy(row.ended_at), row.ended_at - lasted
        row.start_ms = begin + proxy(begin)
        row.written_at = max(row.written_at, row.ended_at + SECOND)
    elif before is not None and chance.random() < 0.02:
        row.request_id = before.request_id  # a provider's ID that comes again
    return row


def _mend(world: World, chance: random.Random, row: Row, teams: list[str]) -> None:
    """A row that is changed in place: its price, or whom it belongs to."""
    if chance.random() >= 0.04 or row.twin:
        return
    at = row.written_at + chance.choice((MINUTE, 5 * HOUR, 30 * HOUR))
    old = row.content
    if not old.team or chance.random() < 0.4:
        new = Content(chance.choice(teams), old.model, old.spend, old.prompt, old.completion)
    else:
        new = Content(old.team, old.model, round(old.spend * 2 + 0.000007, 9), old.prompt, old.completion)

    def mend() -> None:
        row.content = new
        world.tell(f"{row.request_id} is mended: {old} becomes {new}")

    row.mended.append((at, old))
    world.clock.at(at, mend)


def _delay(chance: random.Random, end: int, bursts: list[tuple[int, int]], lag: int) -> int:
    """From the end of a call to the receipt of its live event, below the lag."""
    for begin, length in bursts:
        if begin <= end < begin + length:
            return min(begin + length - end + chance.randrange(20 * SECOND), lag - 5 * MINUTE)
    delay = int(chance.expovariate(1 / 800))
    if chance.random() < 0.02:
        delay = chance.randrange(3 * MINUTE, lag - 5 * MINUTE)
    return delay


def _live(
    world: World, chance: random.Random, row: Row, end: int, delay: int, lacking: float, number: int | str
) -> None:
    """What LiteLLM's own callback posts: a random ID, no time of its own, and once."""
    content = row.content
    properties: dict[str, Any] = {
        "model": content.model.removeprefix("openai/"),
        "response_cost": content.spend if content.spend or chance.random() < 0.5 else None,
        "prompt_tokens": content.prompt,
        "completion_tokens": content.completion,
        "total_tokens": content.tokens,
    }
    if chance.random() < lacking:
        for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
            del properties[name]
    posted = {
        "transaction_id": f"{chance.getrandbits(64):016x}-{number}",
        "external_subscription_id": content.team,
        "code": CODE,
        "properties": properties,
    }
    world.clock.at(end + delay, lambda: _post(world, posted, row.key, "litellm"))


def _ours(world: World, chance: random.Random, row: Row, end: int, callback: Any) -> None:
    """What `reconcile.callback` posts: the row's own event, tried for ten minutes."""
    written = {
        "request_id": row.request_id,
        "startTime": moment(row.start_ms),
        "endTime": moment(row.usage_ms),
        "team_id": row.content.team,
        "status": row.status,
        "custom_llm_provider": row.provider,
        "model": row.content.model,
        "prompt_tokens": row.content.prompt,
        "completion_tokens": row.content.completion,
        "total_tokens": row.content.tokens,
    }
    made = event_of(written, row.content.spend, callback)
    if isinstance(made, Made):
        delay = chance.choice((SECOND, SECOND, SECOND, 10 * MINUTE))
        world.clock.at(end + delay, lambda: _post(world, made.event, row.key, "callback"))


def _other_proxy(world: World, chance: random.Random, teams: list[str], span: int) -> None:
    """Another proxy's live events on the same code: its rows stand in a database that the job does not know."""
    shared = chance.random() < 0.5
    for number in range(chance.randint(1, 10)):
        prompt, completion = chance.randint(10_000, 90_000), chance.randint(2_001, 9_000)
        posted = {
            "transaction_id": f"other-{chance.getrandbits(64):016x}",
            "external_subscription_id": chance.choice(teams) if shared else "somebody-else",
            "code": CODE,
            "properties": {
                "model": chance.choice(MODELS),
                "response_cost": round(10 ** chance.uniform(1.1, 2), 9),
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
            },
        }
        at = world.first + chance.randrange(span)
        world.clock.at(at, lambda posted=posted: _post(world, posted, None, "other proxy"))  # type: ignore[misc]
        del number


def _post(world: World, posted: Mapping[str, Any], of: Key | None, by: str) -> None:
    world.lago.receive(posted, of=of, by=by)


def _retain(world: World) -> None:
    """LiteLLM deletes old rows by their start."""
    assert world.retention is not None
    limit = world.clock.now - world.retention
    gone = [row for row in world.table.there(world.clock.now) if row.start_ms < limit]
    for row in gone:
        row.deleted_at = world.clock.now
    if gone:
        world.tell(f"LiteLLM deletes {len(gone)} rows begun before {moment(limit):%d %b %H:%M}")


__all__ = ["CODE", "Callable", "World", "make"]

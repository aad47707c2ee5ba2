"""A seeded night of traffic as large as one likes: spend-log rows, LiteLLM's live events, and the truth about both.

The rows are what LiteLLM 1.106.2 writes, the events what its `lago` callback posts, with everything that goes wrong
between them. What belongs to what is known here and nowhere else, so that what the job finds out can be held to it.
"""

from __future__ import annotations

import random
import uuid
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from reconcile.domain.window import Window
from reconcile.sandbox.traffic import LiveEvent

Row = dict[str, Any]

CODE = "llm_usage"
TEAMS = ("team-research", "team-support", "team-platform")
NIGHT = Window(datetime(2024, 2, 29, 20, tzinfo=UTC), datetime(2024, 3, 1, 2, tzinfo=UTC))
# The traffic goes on for this long on both sides of the night, so that pairs lie across its edges.
AROUND = timedelta(minutes=10)
# RECONCILE_MATCH_BEFORE and _AFTER, at their defaults.
BEFORE, AFTER = timedelta(seconds=30), timedelta(seconds=120)

LOST, DOUBLED, OTHER_COST, ORPHANED = 0.02, 0.001, 0.001, 0.0005
MISDIRECTED, OTHER_TOKENS, OTHER_MODEL, NO_SUBSCRIPTION = 0.0003, 0.0001, 0.0001, 0.0001
FAILED, UNATTRIBUTED, LONG_STREAM, CACHED, INVALID = 0.01, 0.01, 0.005, 0.03, 0.0001


@dataclass(frozen=True, slots=True)
class Model:
    """One deployment: what its rows say, what its events say, and what a token costs in USD."""

    model: str
    group: str
    provider: str
    sent: str
    prompt_price: float
    completion_price: float
    call_type: str = "acompletion"
    # The callback sends no token counts for /v1/responses, /v1/completions and images.
    counts: bool = True
    # Without a price the callback sends null, and the row has 0.
    priced: bool = True


MODELS = (
    (40, Model("openai/gpt-4o-mini", "gpt-4o-mini", "openai", "gpt-4o-mini", 1.5e-07, 6e-07)),
    (20, Model("anthropic/claude-sonnet-4-5", "claude", "anthropic", "claude-sonnet-4-5", 3e-06, 1.5e-05)),
    # With mock answers 1.106.2 sent the alias instead of the model.
    (8, Model("azure/gpt-4o", "chat-eu", "azure", "chat-eu", 2.5e-06, 1e-05)),
    # Rows of older releases have no prefix.
    (6, Model("gpt-4o", "gpt-4o", "", "gpt-4o", 2.5e-06, 1e-05)),
    (8, Model("hosted_vllm/Qwen/Qwen2.5-7B", "qwen", "hosted_vllm", "Qwen/Qwen2.5-7B", 0.0, 0.0)),
    (5, Model("openai/gpt-4o", "gpt-4o", "openai", "gpt-4o", 2.5e-06, 1e-05, "aresponses", counts=False)),
    (6, Model("openai/embed-3", "embed", "openai", "embed-3", 2e-08, 0.0, "aembedding")),
    (1, Model("openai/dall-e-3", "image", "openai", "dall-e-3", 0.0, 0.0, "aimage_generation", False, False)),
)
_WEIGHTS = [weight for weight, _ in MODELS]
_DEPLOYMENTS = [model for _, model in MODELS]


@dataclass(slots=True)
class Truth:
    """What each row and event is. Rows by request ID, events by transaction ID.

    `rows` and `events` hold the class that is right. `row_of` tells the row of an event, None where there never was
    one. `twins` numbers the groups of rows that no event can tell apart; a row alone has no entry.
    """

    rows: dict[str, str] = field(default_factory=dict)
    events: dict[str, str] = field(default_factory=dict)
    row_of: dict[str, str | None] = field(default_factory=dict)
    twins: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class World:
    rows: list[Row]
    events: list[LiveEvent]
    truth: Truth

    def usage_times(self) -> dict[str, datetime]:
        return {row["request_id"]: row["endTime"].replace(tzinfo=UTC) for row in self.rows}

    def event_times(self) -> dict[str, datetime]:
        return {live.event["transaction_id"]: live.received_at for live in self.events}


def make_world(count: int, seed: int) -> World:
    """`count` rows around `NIGHT` and their live events; the same for the same arguments, on any machine."""
    maker = _Maker(random.Random(seed))
    while len(maker.rows) < count:
        maker.request(count)
    maker.further_events(count)
    return World(maker.rows, sorted(maker.events, key=lambda live: live.received_at), maker.finished())


def row(
    request_id: str,
    team: str | None,
    end: datetime,
    *,
    model: Model = _DEPLOYMENTS[0],
    tokens: tuple[int, int] = (12, 6),
    seconds: float = 1.0,
    spend: float | None = None,
    **changes: Any,
) -> Row:
    """One row of "LiteLLM_SpendLogs": a call of `team` that took `seconds` and ended at `end`."""
    prompt, completion = tokens
    priced = prompt * model.prompt_price + completion * model.completion_price
    naive = end.astimezone(UTC).replace(tzinfo=None)
    return {
        "request_id": request_id,
        "call_type": model.call_type,
        "api_key": "88dc28d0f030c55ed4ab77ed8faf098196cb1c05df778539800c9f1243fe6b4b",
        "spend": priced if spend is None else spend,
        "total_tokens": prompt + completion,
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "startTime": naive - timedelta(seconds=seconds),
        "endTime": naive,
        "completionStartTime": naive,
        "model": model.model,
        "model_group": model.group,
        "custom_llm_provider": model.provider,
        "user": "user-ada",
        "team_id": team,
        "organization_id": "",
        "end_user": "",
        "cache_hit": "None",
        "status": "success",
    } | changes


def live_event(
    of: Row,
    transaction_id: str,
    latency: timedelta,
    *,
    model: Model = _DEPLOYMENTS[0],
    charge_column: str = "team_id",
    changes: dict[str, Any] | None = None,
) -> LiveEvent:
    """What the callback posts for a row, `latency` after its end. `changes` are properties of other value."""
    cost = of["spend"] if model.priced else None
    counts = ("prompt_tokens", "completion_tokens", "total_tokens") if model.counts else ()
    properties = {"model": model.sent, "response_cost": cost, **{name: of[name] for name in counts}}
    return LiveEvent(
        received_at=of["endTime"].replace(tzinfo=UTC) + latency,
        event={
            "transaction_id": transaction_id,
            "external_subscription_id": of[charge_column],
            "code": CODE,
            "properties": properties | (changes or {}),
        },
    )


class _Maker:
    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.rows: list[Row] = []
        self.events: list[LiveEvent] = []
        self.truth = Truth()
        self._told: dict[str, tuple[Any, ...]] = {}

    def request(self, count: int) -> None:
        """The next request: mostly one of its kind; some come as a burst, and a bot sends the same all night."""
        draw = self.rng.random()
        if draw < 0.005:
            self._burst()
        elif draw < 0.03:
            self._one(self._time(), TEAMS[0], _DEPLOYMENTS[0], (12, 6))
        else:
            model = self.rng.choices(_DEPLOYMENTS, _WEIGHTS)[0]
            self._one(self._time(), self.rng.choice(TEAMS), model, self._tokens(model))

    def _burst(self) -> None:
        """Equal requests within a second, as from a retrying client."""
        end, team, model = self._time(), self.rng.choice(TEAMS), self.rng.choices(_DEPLOYMENTS, _WEIGHTS)[0]
        tokens = self._tokens(model)
        for _ in range(self.rng.randint(2, 4)):
            self._one(end + timedelta(milliseconds=self.rng.randint(0, 999)), team, model, tokens)

    def _one(self, end: datetime, team: str, model: Model, tokens: tuple[int, int]) -> None:
        rng = self.rng
        request_id = f"chatcmpl-{uuid.UUID(int=rng.getrandbits(128), version=4)}"
        seconds = round(rng.uniform(3_600, 36_000) if rng.random() < LONG_STREAM else rng.uniform(0.2, 30.0), 3)
        made = row(request_id, team, end, model=model, tokens=tokens, seconds=seconds)
        made["status"] = rng.choice(("success", "success", "success", None))  # releases before 1.70 wrote none
        made["end_user"] = rng.choice(("", None, "customer-7"))
        if rng.random() < CACHED and model.counts:
            made |= {"cache_hit": "True", "spend": 0.0}
        self.rows.append(made)
        counts = tokens if model.counts else ()
        self._told[request_id] = (team, model.sent, made["spend"], *counts)  # what an event tells of its row
        draw = rng.random()
        if draw < FAILED:
            made |= {"status": "failure", "spend": rng.choice((0.0, 0.0025)), "model": model.group}
            self.truth.rows[request_id] = "excluded"
        elif draw < FAILED + UNATTRIBUTED:
            made["team_id"] = rng.choice((None, ""))
            self.truth.rows[request_id] = "unattributed"
        elif draw < FAILED + UNATTRIBUTED + INVALID:
            made["spend"] = rng.choice((float("nan"), float("inf"), -0.01))
            self.truth.rows[request_id] = "rejected"
        else:
            self._event(made, model)

    def _event(self, made: Row, model: Model) -> None:
        """What became of the one event that LiteLLM posted for a row."""
        rng, request_id = self.rng, made["request_id"]
        shares = {
            "delivered": LOST,
            "cost": OTHER_COST,
            "misdirected": MISDIRECTED,
            "tokens": OTHER_TOKENS if model.counts else 0.0,
            "model": OTHER_MODEL,
        }
        others = [*shares.values(), 1.0 - sum(shares.values())]
        fate = rng.choices([*shares, "matched_live"], others)[0]
        changes: dict[str, Any] = {}
        if fate == "cost":
            made["spend"] += 0.0025  # a guardrail's: in the row's spend, not in the event's cost
            changes["response_cost"] = made["spend"] - 0.0025
        elif fate == "tokens":
            changes = {name: made[name] + 1 for name in ("prompt_tokens", "total_tokens")}
        elif fate == "model":
            changes["model"] = "gpt-4o-2024-08-06"
        kind = "mismatched" if changes else fate
        if changes.get("response_cost") == 0:
            kind = "unbilled"  # equal but for the cost, and Lago adds 0 for it
        self.truth.rows[request_id] = kind
        if fate != "delivered":
            live = live_event(made, self._transaction_id(), self._latency(), model=model, changes=changes)
            if fate == "misdirected":
                live.event["external_subscription_id"] = rng.choice([team for team in TEAMS if team != made["team_id"]])
            self._post(live, request_id, kind)

    def further_events(self, count: int) -> None:
        """Events beyond one per row: second ones, those without a row, those without a subscription."""
        rng, billed = self.rng, list(self.events)
        good = [live for live in billed if self.truth.events[live.event["transaction_id"]] == "matched_live"]
        for first in rng.sample(good, round(count * DOUBLED)):
            second = {**first.event, "transaction_id": self._transaction_id()}
            received_at = first.received_at + timedelta(milliseconds=rng.randint(1, 9_000))
            row_id = self.truth.row_of[first.event["transaction_id"]]
            self._post(LiveEvent(received_at, second), row_id, "duplicate")
        for share, subscription in ((ORPHANED, None), (NO_SUBSCRIPTION, "")):
            for _ in range(round(count * share)):
                model = rng.choices(_DEPLOYMENTS, _WEIGHTS)[0]
                never = row("", rng.choice(TEAMS), self._time(), model=model, tokens=self._tokens(model))
                live = live_event(never, self._transaction_id(), self._latency(), model=model)
                if subscription is not None:
                    live.event["external_subscription_id"] = subscription
                self._post(live, None, "orphan")

    def _post(self, live: LiveEvent, request_id: str | None, kind: str) -> None:
        self.events.append(live)
        self.truth.events[live.event["transaction_id"]] = kind
        self.truth.row_of[live.event["transaction_id"]] = request_id

    def _time(self) -> datetime:
        length = (NIGHT.end - NIGHT.start + 2 * AROUND) // timedelta(milliseconds=1)
        return NIGHT.start - AROUND + timedelta(milliseconds=self.rng.randrange(length))

    def _latency(self) -> timedelta:
        """2 ms to 20 s, mostly short."""
        return timedelta(milliseconds=round(2 * 10_000 ** self.rng.random()))

    def _tokens(self, model: Model) -> tuple[int, int]:
        if model.call_type == "aimage_generation":
            return 0, 0
        return self.rng.randint(8, 6_000), 0 if model.call_type == "aembedding" else self.rng.randint(1, 1_500)

    def _transaction_id(self) -> str:
        return str(uuid.UUID(int=self.rng.getrandbits(128), version=4))

    def finished(self) -> Truth:
        """The truth with its twins numbered."""
        groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
        for made in self.rows:
            if self.truth.rows[made["request_id"]] not in ("excluded", "unattributed", "rejected"):
                groups[self._told[made["request_id"]]].append(made)
        number = 0
        for members in groups.values():
            for chain in _chains(members):
                if len(chain) > 1:
                    number += 1
                    self.truth.twins |= {made["request_id"]: number for made in chain}
        return self.truth


def _chains(members: list[Row]) -> Iterator[list[Row]]:
    """Rows that follow one another so closely that an event may belong to either."""
    members = sorted(members, key=lambda made: made["endTime"])
    chain = members[:1]
    for made in members[1:]:
        if made["endTime"] - chain[-1]["endTime"] > BEFORE + AFTER:
            yield chain
            chain = []
        chain.append(made)
    yield chain

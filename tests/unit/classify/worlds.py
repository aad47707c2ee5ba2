"""Rows and events for the tests of the classification: hand-made ones, and small random worlds full of coincidences.

A world is two lists of records with the columns of ROWS and EVENTS. Its reach and its times are a few milliseconds,
so that a handful of records meet, miss and chain. Several worlds laid far apart in time make one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from reconcile.classify import (
    EVENT_NUMBERS,
    EVENT_TEXT,
    ROW_NUMBERS,
    ROW_TEXT,
    Classification,
    Reach,
    Rules,
    Settled,
    classify,
    no_events,
    no_rows,
)
from reconcile.event import transaction_id

CODE = "llm_usage"
BASE = 1_795_000_000_000  # milliseconds since 1970: November 2026
REACH = Reach(before=2, after=5)
RULES = Rules(CODE, REACH)
APART = 1_000  # between the worlds of one example

few = settings(deadline=None, max_examples=5, suppress_health_check=[HealthCheck.too_slow])
modest = settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow])

Record = dict[str, Any]


@dataclass(frozen=True)
class World:
    rows: list[Record]
    events: list[Record]


def row(request_id: str = "r1", at: int = 0, **changes: Any) -> Record:
    """A billable row of team a that ended `at` milliseconds after BASE."""
    record: Record = {
        "request_id": request_id,
        "model": "openai/gpt-4o",
        "model_group": "chat",
        "provider": "openai",
        "charge_id": "a",
        "subscription_id": "a",
        "status": "success",
        "cache_hit": "None",
        "earlier_id": "",
        "earlier_sure": False,
        "start_ms": BASE + at - 1_000,
        "usage_ms": BASE + at,
        "spend": 0.25,
        "prompt_tokens": 10,
        "completion_tokens": 4,
        "total_tokens": 14,
    }
    assert changes.keys() <= record.keys(), changes
    return record | changes


def live(transaction: str = "e1", at: int = 0, **changes: Any) -> Record:
    """LiteLLM's own event for `row`, stamped `at` milliseconds after BASE."""
    record: Record = {
        "transaction_id": transaction,
        "subscription_id": "a",
        "charge_id": "a",
        "model": "gpt-4o",
        "request_id": "",
        "time_ms": BASE + at,
        "response_cost": 0.25,
        "prompt_tokens": 10.0,
        "completion_tokens": 4.0,
        "total_tokens": 14.0,
        "cost_null": False,
        "malformed": False,
    }
    assert changes.keys() <= record.keys(), changes
    return record | changes


NO_TOKENS: Record = dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), float("nan"))
NULL_COST: Record = {"response_cost": float("nan"), "cost_null": True}


def own(of: Record, charge_id: str | None = None, **changes: Any) -> Record:
    """The event that reconcile makes for a row, or made for it under another charge ID."""
    charge = of["charge_id"] if charge_id is None else charge_id
    record = live(
        transaction_id(CODE, charge, of["request_id"], of["start_ms"]),
        subscription_id=charge,
        charge_id=charge,
        model=of["model"].removeprefix(of["provider"] + "/"),
        request_id=of["request_id"],
        time_ms=of["usage_ms"],
        response_cost=of["spend"],
        prompt_tokens=float(of["prompt_tokens"]),
        completion_tokens=float(of["completion_tokens"]),
        total_tokens=float(of["total_tokens"]),
    )
    assert changes.keys() <= record.keys(), changes
    return record | changes


def rows_frame(records: Sequence[Record]) -> pd.DataFrame:
    if not records:
        return no_rows()
    frame = pd.DataFrame.from_records(records)
    types = dict.fromkeys(ROW_TEXT, "str") | dict.fromkeys(ROW_NUMBERS, "int64")
    return frame.astype(types | {"spend": "float64", "earlier_sure": "bool"})


def events_frame(records: Sequence[Record]) -> pd.DataFrame:
    if not records:
        return no_events()
    frame = pd.DataFrame.from_records(records)
    types = dict.fromkeys(EVENT_TEXT, "str") | dict.fromkeys(EVENT_NUMBERS, "float64")
    return frame.astype(types | {"time_ms": "int64", "cost_null": "bool", "malformed": "bool"})


def settle(rows: Sequence[Record], events: Sequence[Record], rules: Rules = RULES) -> Settled:
    return classify(rows_frame(rows), events_frame(events), rules)


def settle_in_slices(
    rows: Sequence[Record], events: Sequence[Record], horizons: Iterable[int], rules: Rules = RULES
) -> list[Settled]:
    """What each call hands over: one per horizon (milliseconds since 1970, rising), and the last one."""
    classification = Classification(rules)
    results = []
    before = -1
    for horizon in (*horizons, None):
        until = 10**15 if horizon is None else horizon
        new_rows = [r for r in rows if before <= r["usage_ms"] < until]
        new_events = [e for e in events if before <= e["time_ms"] < until]
        results.append(classification.settle(rows_frame(new_rows), events_frame(new_events), horizon))
        before = until
    return results


def told_rows(*settled: Settled) -> dict[str, Record]:
    """What came out for each row, by request ID; fails where one came out twice."""
    return _told([part.rows for part in settled], ["request_id"])


def told_events(*settled: Settled) -> dict[str, Record]:
    """What came out for each event, by transaction ID, subscription and time; fails where one came out twice."""
    return _told([part.events for part in settled], ["transaction_id", "subscription_id", "time_ms"])


def _told(frames: list[pd.DataFrame], key: list[str]) -> dict[str, Record]:
    told: dict[str, Record] = {}
    for frame in frames:
        texts = {str(name): frame[name].astype("str") for name in frame.select_dtypes("category")}
        for record in frame.assign(**texts).to_dict("records"):
            name = " ".join(str(record[part]) for part in key)
            assert name not in told, f"{name} came out twice"
            told[name] = {str(k): None if v != v else v for k, v in record.items()}
    return told


def classes(settled: Settled) -> tuple[dict[str, str], dict[str, str]]:
    """Class and reason of every row by request ID, and of every event by transaction ID, as `class: reason`."""
    return (
        {name: _label(record) for name, record in told_rows(settled).items()},
        {name.split(" ")[0]: _label(record) for name, record in told_events(settled).items()},
    )


def _label(record: Record) -> str:
    return f"{record['class']}: {record['reason']}" if record["reason"] else str(record["class"])


# 1 and 1 + 6e-10 are equal, and so are 1 + 6e-10 and 1 + 1.2e-9: but the first is not equal to the last.
COSTS = (0.0, 1.0, 1.0 + 6e-10, 1.01)
CHAINED_COSTS = (*COSTS, 1.0 + 1.2e-9)
COUNTS = ((10, 4), (10, 5), (0, 0))
MODELS = (
    {"model": "openai/gpt-4o", "provider": "openai", "model_group": "chat"},
    {"model": "gpt-4o", "provider": "", "model_group": ""},
    {"model": "openai/mini", "provider": "openai", "model_group": "gpt-4o"},
    {"model": "vendor/mini", "provider": "", "model_group": "chat"},
)
SENT_MODELS = ("gpt-4o", "mini", "chat")
CARRIED = (7, 7, 7, 0, 3)  # bits of prompt, completion, total


@st.composite
def plain_rows(draw: st.DrawFn, costs: Sequence[float] = COSTS) -> Record:
    prompt, completion = draw(st.sampled_from(COUNTS))
    team = draw(st.sampled_from("aab"))
    return row(
        at=draw(st.integers(0, 14)),
        charge_id=team,
        subscription_id=team,
        spend=draw(st.sampled_from(costs)),
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        **draw(st.sampled_from(MODELS)),
    )


@st.composite
def live_events(draw: st.DrawFn, costs: Sequence[float] = COSTS) -> Record:
    prompt, completion = draw(st.sampled_from(COUNTS))
    carried = draw(st.sampled_from(CARRIED))
    counts = (prompt, completion, prompt + completion)
    told: Record = {
        name: float(count) if carried & (1 << bit) else float("nan")
        for bit, (name, count) in enumerate(zip(NO_TOKENS, counts, strict=True))
    }
    team = draw(st.sampled_from("aab"))
    cost = draw(st.sampled_from((*costs, None)))
    return live(
        at=draw(st.integers(0, 16)),
        subscription_id=team,
        charge_id=team,
        model=draw(st.sampled_from(SENT_MODELS)),
        response_cost=float("nan") if cost is None else cost,
        cost_null=cost is None,
        **told,
    )


@st.composite
def _live_world(draw: st.DrawFn, costs: Sequence[float]) -> World:
    rows = draw(st.lists(plain_rows(costs), max_size=7))
    events = draw(st.lists(live_events(costs), max_size=7))
    return World(rows, events)


@st.composite
def _any_world(draw: st.DrawFn) -> World:
    """Rows of every kind; events by ID, live ones and strays."""
    rows = [record | draw(st.sampled_from(ROW_CHANGES)) for record in draw(st.lists(plain_rows(), max_size=6))]
    events = draw(st.lists(live_events() | strays(), max_size=6))
    return World(rows, events)


@st.composite
def strays(draw: st.DrawFn) -> Record:
    """Events that nothing should be paired with, or only with care."""
    base = draw(live_events())
    return base | draw(
        st.sampled_from(
            (
                {"subscription_id": "", "charge_id": ""},
                {"response_cost": float("nan"), "malformed": True},
                {"prompt_tokens": float("nan"), "malformed": True},
                {"response_cost": float("nan"), "cost_null": False},
                {"model": ""},
            )
        )
    )


ROW_CHANGES: tuple[Record, ...] = (
    {},
    {},
    {},
    {"status": "failure"},
    {"charge_id": "", "subscription_id": ""},
    {"spend": float("nan")},
    {"spend": -1.0},
    {"cache_hit": "True"},
    {"earlier_sure": True},
)
OWN_CHANGES: tuple[Record, ...] = (
    {},
    {},
    {"response_cost": 1.5},
    {"model": "other"},
    {"prompt_tokens": 99.0},
    NO_TOKENS,
    {"subscription_id": "b", "charge_id": "b"},
)


@st.composite
def _with_own_events(draw: st.DrawFn, world: World) -> World:
    """Adds the events that reconcile made for some rows, or for the same requests under other charge IDs."""
    rows, events = [], list(world.events)
    for record in world.rows:
        kind = draw(st.sampled_from(("none", "none", "own", "both", "others", "again", "ledger")))
        if kind in ("own", "both", "again"):
            events.append(own(record) | draw(st.sampled_from(OWN_CHANGES)))
        if kind in ("both", "others"):
            events.append(own(record, "old"))
        if kind == "others":
            events.append(own(record, "older"))
        if kind == "again":
            # The same ID at another millisecond, as only ClickHouse takes it.
            events.append(own(record, time_ms=record["usage_ms"] + draw(st.sampled_from((-7, -1, 3, 9)))))
        if kind == "ledger":
            # The event tells no request ID: only the ledger knows whose it is.
            moved = own(record, "old")
            record = record | {"earlier_id": moved["transaction_id"], "earlier_sure": True}
            events.append(moved | {"request_id": ""})
        rows.append(record)
    return World(rows, events)


def _laid_apart(worlds: list[World], shuffled: list[int]) -> World:
    """One world of several, far apart in time; names say nothing about the order."""
    rows: list[Record] = []
    events: list[Record] = []
    for place, world in enumerate(worlds):
        shift = place * APART
        for record in world.rows:
            name = f"q{shuffled[len(rows)]}"
            times = {"start_ms": record["start_ms"] + shift, "usage_ms": record["usage_ms"] + shift}
            rows.append(record | times | {"request_id": name})
        for record in world.events:
            name = f"x{shuffled[len(events)]}"
            events.append(record | {"time_ms": record["time_ms"] + shift, "transaction_id": name})
    return World(rows, events)


MOST_WORLDS = 4
_names = st.permutations(range(7 * MOST_WORLDS))


@st.composite
def live_worlds(draw: st.DrawFn, costs: Sequence[float] = COSTS) -> World:
    """Several worlds of billable rows and live events."""
    return _laid_apart(draw(st.lists(_live_world(costs), min_size=1, max_size=MOST_WORLDS)), draw(_names))


@st.composite
def any_worlds(draw: st.DrawFn) -> World:
    """Several worlds of everything that can come."""
    worlds = draw(st.lists(_any_world(), min_size=1, max_size=MOST_WORLDS))
    return draw(_with_own_events(_laid_apart(worlds, draw(_names))))

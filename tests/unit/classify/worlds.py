"""Rows and events for the tests of the classification: hand-made ones, and small random worlds full of coincidences.

A world is two lists of records with the columns of ROWS and EVENTS. Its reach and its times are a few milliseconds,
so that a handful of records meet, miss and chain. Many small worlds side by side make one. Hypothesis draws a few and
makes them smaller where they fail; a seed draws very many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import pandas as pd
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from reconcile.classify import Classification, Reach, Rules, Settled, classify
from reconcile.domain.event import bare_model, transaction_id
from reconcile.domain.frames import EVENT_VERDICTS, EVENTS, NAME, ROW_VERDICTS, ROWS, check, empty, named

CODE = "llm_usage"
BASE = 1_795_000_000_000  # milliseconds since 1970: November 2026
REACH = Reach(before=2, after=5)
RULES = Rules(CODE, REACH)
CLICKHOUSE = Rules(CODE, REACH, clickhouse=True)
NAN = float("nan")
APART = 1_000  # between two slots
MOST = 6  # rows and events of a small world

modest = settings(deadline=None, max_examples=6, suppress_health_check=[HealthCheck.too_slow])

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
        "call_type": "acompletion",
        "earlier_id": "",
        "earlier_sure": False,
        "scope": "window",
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
        "malformed": False,
        "counted": True,
        "added": 0.25,
    }
    assert changes.keys() <= record.keys(), changes
    return record | changes


NO_TOKENS: Record = dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), NAN)
NO_COST: Record = {"response_cost": NAN}
NULL_COST: Record = {"response_cost": 0.0}  # null and empty are read as 0
NOT_COUNTED: Record = {"counted": False, "added": NAN}


def own(of: Record, charge_id: str | None = None, **changes: Any) -> Record:
    """The event that reconcile makes for a row, or made for it under another charge ID."""
    charge = of["charge_id"] if charge_id is None else charge_id
    record = live(
        transaction_id(CODE, charge, of["request_id"], of["start_ms"]),
        subscription_id=charge,
        charge_id=charge,
        model=bare_model(of["model"], of["provider"]),
        request_id=of["request_id"],
        time_ms=of["usage_ms"],
        response_cost=of["spend"],
        prompt_tokens=float(of["prompt_tokens"]),
        completion_tokens=float(of["completion_tokens"]),
        total_tokens=float(of["total_tokens"]),
        added=of["spend"],
    )
    assert changes.keys() <= record.keys(), changes
    return record | changes


def rows_frame(records: Sequence[Record]) -> pd.DataFrame:
    return _frame(records, ROWS)


def events_frame(records: Sequence[Record]) -> pd.DataFrame:
    return _frame(records, EVENTS)


def _frame(records: Sequence[Record], columns: Mapping[str, str]) -> pd.DataFrame:
    if not records:
        return empty(columns)
    made = {
        name: named([r[name] for r in records]) if kind == NAME else pd.Series([r[name] for r in records], dtype=kind)
        for name, kind in columns.items()
    }
    frame = pd.DataFrame(made)
    check(frame, columns)
    return frame


def settle(rows: Sequence[Record], events: Sequence[Record], rules: Rules = RULES) -> Settled:
    return checked(classify(rows_frame(rows), events_frame(events), rules))


def checked(settled: Settled) -> Settled:
    """As it is: fails where it is not of the columns that everybody relies on."""
    check(settled.rows, ROW_VERDICTS)
    check(settled.events, EVENT_VERDICTS)
    return settled


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
        results.append(checked(classification.settle(rows_frame(new_rows), events_frame(new_events), horizon)))
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


def classes_of(settled: Settled) -> list[str]:
    """Classes of the events in the order in which they came out."""
    told = zip(settled.events["class"], settled.events["reason"], strict=True)
    return [f"{name}: {reason}" if reason else name for name, reason in told]


def one(rows: list[Record], events: list[Record], rules: Rules = RULES) -> tuple[list[str], list[str]]:
    """Classes of the rows and of the events, in the order given."""
    of_rows, of_events = classes(settle(rows, events, rules))
    return [of_rows[r["request_id"]] for r in rows], [of_events[e["transaction_id"]] for e in events]


# 1 and 1 + 6e-10 are equal, and so are 1 + 6e-10 and 1 + 1.2e-9: but the first is not equal to the last.
COSTS = (0.0, 1.0, 1.0 + 6e-10, 1.01)
CHAINED_COSTS = (*COSTS, 1.0 + 1.2e-9)
COUNTS = ((10, 4), (10, 5), (0, 0))
TEAMS = "aab"
MODELS: tuple[Record, ...] = (
    {"model": "openai/gpt-4o", "provider": "openai", "model_group": "chat"},
    {"model": "gpt-4o", "provider": "", "model_group": ""},
    {"model": "openai/mini", "provider": "openai", "model_group": "gpt-4o"},
    {"model": "vendor/mini", "provider": "", "model_group": "chat"},
    {"model": "openai/responses/mini", "provider": "openai", "model_group": "chat"},
    {"model": "", "provider": "openai", "model_group": ""},
)
SENT_MODELS = ("gpt-4o", "gpt-4o", "mini", "chat", "responses/mini", "")
CARRIED = (7, 7, 7, 0, 3)  # bits of prompt, completion, total
ROW_CHANGES: tuple[Record, ...] = (
    {},
    {},
    {},
    {"status": "failure"},
    {"charge_id": "", "subscription_id": ""},
    {"spend": NAN},
    {"spend": -1.0},
    {"cache_hit": "True"},
    {"earlier_sure": True},
    {"charge_id": "house", "subscription_id": "house"},
    {"call_type": "aget_responses", "spend": 0.0},
    {"call_type": "aretrieve_batch", "model": "", "model_group": ""},
)
LIVE_CHANGES: tuple[Record, ...] = (
    {},
    {},
    {},
    {},
    {"subscription_id": "", "charge_id": ""},
    {"response_cost": NAN, "malformed": True},
    {"prompt_tokens": NAN, "malformed": True},
    {"response_cost": NAN},
    {"response_cost": 0.0},
    {"model": ""},
    {"subscription_id": "house", "charge_id": "house"},
    {"model": "", "response_cost": NAN, **NO_TOKENS},
)
OWN_CHANGES: tuple[Record, ...] = (
    {},
    {},
    {"response_cost": 1.5},
    {"model": "other"},
    {"prompt_tokens": 99.0},
    NO_TOKENS,
    {"subscription_id": "elsewhere", "charge_id": "elsewhere"},
)


def random_rows(chance: Random, costs: Sequence[float]) -> list[Record]:
    """Up to MOST rows, a third of them twins of others at times that are near, or the same."""
    rows: list[Record] = []
    for _ in range(chance.randint(0, MOST)):
        at = chance.randint(0, 14)
        if rows and chance.random() < 0.33:
            twin = chance.choice(rows)
            rows.append(_moved(twin, chance.choice((0, 0, 1, 4, 7, 8)), ""))
            continue
        prompt, completion = chance.choice(COUNTS)
        team = chance.choice(TEAMS)
        rows.append(
            row(
                at=at,
                charge_id=team,
                subscription_id=team,
                spend=chance.choice(costs),
                prompt_tokens=prompt,
                completion_tokens=completion,
                total_tokens=prompt + completion,
                **chance.choice(MODELS),
            )
        )
    return rows


def random_live(chance: Random, costs: Sequence[float], rows: Sequence[Record]) -> list[Record]:
    """Up to MOST events, half of them with the values of some row, but for one at times."""
    return [_random_event(chance, costs, rows) for _ in range(chance.randint(0, MOST))]


def _random_event(chance: Random, costs: Sequence[float], rows: Sequence[Record]) -> Record:
    counts, carried = chance.choice(COUNTS), chance.choice(CARRIED)
    team, cost, model = chance.choice(TEAMS), chance.choice((*costs, None)), chance.choice(SENT_MODELS)
    at = chance.randint(-2, 18)
    if rows and chance.random() < 0.5:
        of = chance.choice(rows)
        off = chance.choice(("", "", "", "team", "cost", "model", "counts", "time"))
        team = team if off == "team" else of["subscription_id"]
        cost = cost if off == "cost" else chance.choice((of["spend"],) * 5 + (None,))
        if off != "model":
            bare = bare_model(of["model"], of["provider"]) or model
            model = chance.choice((bare, bare, of["model"].partition("/")[2] or bare, of["model_group"] or model, ""))
        counts = counts if off == "counts" else (of["prompt_tokens"], of["completion_tokens"])
        at = at if off == "time" else of["usage_ms"] - BASE + chance.randint(-2, 5)
    told: Record = {
        name: float(count) if carried & (1 << bit) else NAN
        for bit, (name, count) in enumerate(zip(NO_TOKENS, (*counts, sum(counts)), strict=True))
    }
    return live(
        at=at,
        subscription_id=team,
        charge_id=team,
        model=model,
        response_cost=NAN if cost is None else cost,
        **told,
    )


def live_world(chance: Random, slots: int, lanes: int, costs: Sequence[float] = COSTS) -> World:
    """Billable rows and live events: `slots` x `lanes` small worlds that know nothing of one another."""

    def small() -> World:
        rows = random_rows(chance, costs)
        return World(rows, random_live(chance, costs, rows))

    return _side_by_side(chance, slots, lanes, small)


def any_world(chance: Random, slots: int, lanes: int) -> World:
    """The same with everything that can come: rows of every kind, broken events, events that reconcile sent."""

    def small() -> World:
        rows = random_rows(chance, COSTS)
        events = [event | chance.choice(LIVE_CHANGES) for event in random_live(chance, COSTS, rows)]
        return World([record | chance.choice(ROW_CHANGES) for record in rows], events)

    world = _side_by_side(chance, slots, lanes, small)
    rows, events = [], list(world.events)
    for record in world.rows:
        kind = chance.choice(("none", "none", "own", "both", "others", "again", "ledger"))
        if kind in ("own", "both", "again"):
            events.append(own(record) | chance.choice(OWN_CHANGES))
        if kind in ("both", "others"):
            events.append(own(record, "old"))
        if kind == "others":
            events.append(own(record, "older"))
        if kind == "again":
            # The same ID at another millisecond, as only ClickHouse takes it.
            events.append(own(record, time_ms=record["usage_ms"] + chance.choice((-7, -1, 3, 9))))
        if kind == "ledger":
            # The event tells no request ID: only the ledger knows whose it is.
            moved = own(record, "old")
            record = record | {"earlier_id": moved["transaction_id"], "earlier_sure": True}
            events.append(moved | {"request_id": ""})
        rows.append(record)
    return World(rows, events)


def _side_by_side(chance: Random, slots: int, lanes: int, small: Callable[[], World]) -> World:
    """Small worlds, far apart in time in their slots, and of other teams and models in their lanes.

    Names are dealt at random: they say nothing about the order in which things happened.
    """
    places = range(slots * lanes * MOST)
    row_names, event_names = (iter(chance.sample(places, len(places))) for _ in range(2))
    rows: list[Record] = []
    events: list[Record] = []
    for slot in range(slots):
        for lane in range(lanes):
            world = small()
            for records, laid in ((world.rows, rows), (world.events, events)):
                for record in records:
                    laid.append(_moved(record, slot * APART, f"-{lane}"))
            for record in rows[len(rows) - len(world.rows) :]:
                record["request_id"] = f"q{next(row_names)}"
            for record in events[len(events) - len(world.events) :]:
                name = next(event_names)
                # One in five has an ID of ours that no row explains.
                record["transaction_id"] = f"x{name}" if name % 5 else f"llm_{name:032x}"
    return World(rows, events)


def _moved(record: Record, shift: int, lane: str) -> Record:
    names = {"model", "model_group", "charge_id", "subscription_id"} & record.keys()
    times = {"start_ms", "usage_ms", "time_ms"} & record.keys()
    return (
        record
        | {name: record[name] + lane for name in names if record[name] not in ("", "house")}
        | {name: record[name] + shift for name in times}
    )


chances = st.randoms(use_true_random=False)


def live_worlds(costs: Sequence[float] = COSTS) -> st.SearchStrategy[World]:
    return chances.map(lambda chance: live_world(chance, 3, 3, costs))


def any_worlds() -> st.SearchStrategy[World]:
    return chances.map(lambda chance: any_world(chance, 3, 3))

"""CPU and memory of the classification: a million rows against 990,000 events of one day, in one process.

    python benchmarks/classify.py [--rows N] [--scenario NAME --slices N]

Every measurement is made in a process of its own, so that its peak is its own; the interpreter, the libraries and the
frames are included. The goal for `ordinary` is 2 s of CPU and 700 MB of peak memory. In 24 slices the frames of one
hour are there at a time, as in the job; in one slice those of the whole day are.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from reconcile.classify import Classification, Rules
from reconcile.domain.event import transaction_ids
from reconcile.domain.frames import EVENTS, ROWS, check, constant

Ints = npt.NDArray[np.int64]

CODE = "llm_usage"
DAY_MS = 86_400_000
FIRST_MS = 1_795_000_000_000
MODELS = ("gpt-4o", "gpt-4o-mini", "claude-sonnet-4", "llama-3", "haiku")
PROVIDERS = ("openai", "azure", "anthropic", "hosted_vllm", "bedrock")
PRICES = np.array([2.5e-6, 1.5e-7, 3e-6, 0.0, 2.5e-7])  # USD per prompt token
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)


@dataclass(frozen=True)
class Scenario:
    about: str
    contents: int | None = None  # distinct contents per team; None: nearly all distinct, one in twenty a twin
    tokens: bool = True  # whether events carry token counts
    own: bool = False  # whether events are reconcile's own


SCENARIOS = {
    "ordinary": Scenario("live events, 5 % twins"),
    "repetitive": Scenario("live events, 200 distinct contents", contents=200),
    "tokenless": Scenario("live events without token counts", tokens=False),
    "repetitive-tokenless": Scenario(
        "live events without token counts, 200 distinct contents", contents=200, tokens=False
    ),
    "own": Scenario("events that reconcile sent itself", own=True),
}


def text(prefix: str, chance: np.random.Generator, count: int, digits: int) -> pd.api.extensions.ExtensionArray:
    """`count` different names of `prefix` and `digits` random hex digits, made without a Python string each."""
    width = len(prefix) + digits
    letters = np.empty((count, width), np.uint8)
    letters[:, : len(prefix)] = np.frombuffer(prefix.encode(), np.uint8)
    letters[:, len(prefix) :] = _HEX[chance.integers(0, 16, (count, digits), np.uint8)]
    offsets = np.arange(count + 1, dtype=np.int64) * width
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(letters)]
    return strings(pa.Array.from_buffers(pa.large_string(), count, buffers))


def names(words: Sequence[str], places: Ints) -> pd.Categorical:
    return pd.Categorical.from_codes(places, pd.Index([*words], dtype="str"))


def chosen(words: Sequence[str], places: Ints) -> pd.api.extensions.ExtensionArray:
    return strings(pa.array(words, pa.large_string()).take(pa.array(places)))


def strings(array: pa.Array) -> pd.api.extensions.ExtensionArray:
    made: pd.api.extensions.ExtensionArray = pd.array(array, dtype="str")
    return made


def day(count: int, slices: int, scenario: Scenario) -> Iterator[tuple[pd.DataFrame, pd.DataFrame, int | None]]:
    """The rows and events of each slice, and its end; None for the end of the last one."""
    chance = np.random.default_rng(0)
    late: list[pd.DataFrame] = []
    for number in range(slices):
        start, end = (FIRST_MS + DAY_MS * place // slices for place in (number, number + 1))
        rows, events = world(count * (number + 1) // slices - count * number // slices, start, end, scenario, chance)
        if number + 1 == slices:
            yield rows, joined(late, events), None
        else:
            here = events["time_ms"].to_numpy() < end
            yield rows, joined(late, events[here]), end
            late = [events[~here]]


def joined(late: list[pd.DataFrame], events: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([*late, events], ignore_index=True)


def world(
    count: int, start: int, end: int, scenario: Scenario, chance: np.random.Generator
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of three teams, and their events: 1 % lost, 0.1 % doubled, 2 ms to 20 s late."""
    usage = np.sort(chance.integers(start, end, count))
    if scenario.contents is None:
        prompt, completion = chance.integers(5, 5_000, count), chance.integers(1, 2_000, count)
        twin = chance.random(count) < 0.05
        prompt[twin], completion[twin] = 7, 9
        model = chance.integers(0, len(MODELS), count)
    else:
        kind = chance.integers(0, scenario.contents, count)
        prompt, completion, model = 5 + kind % 40, 1 + kind // 40, kind % len(MODELS)
    spend = prompt * PRICES[model] + completion * PRICES[model] * 4
    team = chance.integers(0, 3, count)
    teams = ("team-0", "team-1", "team-2")
    none = np.zeros(count, np.int64)
    rows = pd.DataFrame(
        {
            "request_id": text("chatcmpl-", chance, count, 29),
            "start_ms": usage - 1_000,
            "usage_ms": usage,
            "model": names([f"{p}/{m}" for p, m in zip(PROVIDERS, MODELS, strict=True)], model),
            "model_group": constant("chat", count),
            "provider": names(PROVIDERS, model),
            "charge_id": names(teams, team),
            "subscription_id": names(teams, team),
            "status": constant("success", count),
            "cache_hit": constant("None", count),
            "call_type": constant("acompletion", count),
            "spend": spend,
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "earlier_id": chosen([""], none),
            "earlier_sure": np.zeros(count, bool),
            "scope": constant("window", count),
        }
    )
    check(rows, ROWS)

    kept = np.flatnonzero(chance.random(count) >= 0.01)
    if scenario.own:
        of = kept
        times = usage[of]
        ids = transaction_ids(
            CODE,
            rows["charge_id"].array.take(of).tolist(),
            rows["request_id"].array.take(of).tolist(),
            rows["start_ms"].to_numpy()[of].tolist(),
        )
        transactions = strings(pa.array(ids, pa.large_string()))
        requests = rows["request_id"].array.take(of)
        del ids
    else:
        of = np.concatenate((kept, chance.choice(kept, len(kept) // 1_000)))
        times = usage[of] + np.exp(chance.uniform(np.log(2), np.log(20_000), len(of))).astype(np.int64)
        transactions = text("", chance, len(of), 36)
        requests = chosen([""], np.zeros(len(of), np.int64))
    events = pd.DataFrame(
        {
            "transaction_id": transactions,
            "subscription_id": names(teams, team[of]),
            "charge_id": names(teams, team[of]),
            "model": names(MODELS, model[of]),
            "request_id": requests,
            "time_ms": times,
            "response_cost": spend[of],
            **{
                name: counts[of].astype(np.float64) if scenario.tokens else np.full(len(of), np.nan)
                for name, counts in (
                    ("prompt_tokens", prompt),
                    ("completion_tokens", completion),
                    ("total_tokens", prompt + completion),
                )
            },
            "malformed": np.zeros(len(of), bool),
            "counted": np.ones(len(of), bool),
            "added": spend[of],
        }
    )
    check(events, EVENTS)
    return rows, events


def peak_mb() -> float:
    """The most memory that this process ever had resident, in MB of 10^6 bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6  # Linux counts in KiB


def measure(name: str, count: int, slices: int) -> None:
    classification = Classification(Rules(CODE, aggregation="sum_agg", own_number="spend"))
    rows_by_class, events_by_class = Counter[str](), Counter[str]()
    seconds, before = 0.0, 0.0
    for rows, events, horizon in day(count, slices, SCENARIOS[name]):
        before = before or peak_mb()
        started = time.process_time()
        settled = classification.settle(rows, events, horizon)
        seconds += time.process_time() - started
        for by_class, frame in ((rows_by_class, settled.rows), (events_by_class, settled.events)):
            by_class.update(frame["class"].astype("str").tolist())
    print(
        f"{name}, {slices} slices ({SCENARIOS[name].about}): {count:,} rows, {events_by_class.total():,} events: "
        f"{seconds:.2f} s of CPU, {count / seconds:,.0f} rows/s, peak {peak_mb():,.0f} MB ({before:,.0f} MB before)"
    )
    for side, classes in (("rows", rows_by_class), ("events", events_by_class)):
        print(f"  {side}: " + ", ".join(f"{label} {number:,}" for label, number in classes.most_common()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--scenario", choices=SCENARIOS, help="measure this one alone, in this process")
    parser.add_argument("--slices", type=int, default=24, help="of the one scenario")
    arguments = parser.parse_args()
    if arguments.scenario:
        measure(arguments.scenario, arguments.rows, arguments.slices)
        return
    for name in SCENARIOS:
        for slices in (24, 1):
            command = ["--rows", arguments.rows, "--scenario", name, "--slices", slices]
            subprocess.run([sys.executable, __file__, *map(str, command)], check=True)


if __name__ == "__main__":
    main()

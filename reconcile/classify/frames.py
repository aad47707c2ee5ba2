"""The two frames that are classified, and the compact form in which they are worked on. Pure.

ROWS: request_id, model, model_group, provider, charge_id, subscription_id, status, cache_hit (str, '' for none),
start_ms, usage_ms (int64, milliseconds since 1970 UTC of "startTime" and "endTime"), spend (float64),
prompt_tokens, completion_tokens, total_tokens (int64), earlier_id (str: the transaction ID under which the request
was handed to Lago for another charge ID, '' for none), earlier_sure (bool: Lago is known to have taken that one).

EVENTS: transaction_id, subscription_id, charge_id, model, request_id (str, '' for none), time_ms (int64),
response_cost, prompt_tokens, completion_tokens, total_tokens (float64, NaN where the event carries none), cost_null
(bool: the cost is there, and null), malformed (bool: a count or cost is there, and is no number).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd

from reconcile.classify.pairing import Ints, Reach
from reconcile.domain.event import OWN_ID, bare_models, transaction_ids

ROW_TEXT = (
    "request_id",
    "model",
    "model_group",
    "provider",
    "charge_id",
    "subscription_id",
    "status",
    "cache_hit",
    "earlier_id",
)
ROW_NUMBERS = ("start_ms", "usage_ms", "prompt_tokens", "completion_tokens", "total_tokens")
EVENT_TEXT = ("transaction_id", "subscription_id", "charge_id", "model", "request_id")
EVENT_NUMBERS = ("response_cost", "prompt_tokens", "completion_tokens", "total_tokens")
TOKENS = ("prompt_tokens", "completion_tokens", "total_tokens")
ALL_TOKENS = 7  # the bits of an event that carries all three counts

KINDS = (
    "",
    "excluded",
    "unattributed",
    "matched",
    "matched_live",
    "mismatched",
    "misdirected",
    "missing",
    "rejected",
    "duplicate",
    "orphan",
)
KIND = {name: code for code, name in enumerate(KINDS)}
REASONS = (
    "",
    "no_charge_id",
    "failure",
    "failure_with_spend",
    "cache_hit",
    "zero_cost",
    "cost",
    "tokens",
    "model",
    "timestamp",
    "other_subscription",
    "other_charge_id",
    "invalid_spend",
    "not_sent",
    "same_id",
    "same_content",
    "no_row",
    "no_subscription_id",
    "excluded_row",
)
REASON = {name: code for code, name in enumerate(REASONS)}


DEFAULT_REACH = Reach(before=30_000, after=120_000)


@dataclass(frozen=True, slots=True)
class Rules:
    """What the classification depends on beside the two frames.

    `exclude` may hold `cache_hit` and `zero_cost`; `clickhouse` says that one transaction ID at two milliseconds is
    two events.
    """

    code: str
    reach: Reach = DEFAULT_REACH
    exclude: Collection[str] = ()
    clickhouse: bool = False


class Vocabulary:
    """Numbers for the strings that come again and again: models, subscriptions, charge IDs. 0 is the empty string."""

    def __init__(self) -> None:
        self._codes = {"": 0}
        self.words = [""]

    def encode(self, strings: pd.Series | list[str]) -> Ints:
        places, distinct = pd.factorize(pd.Series(strings, dtype="str"))
        return self._number(distinct.tolist())[places] if len(places) else np.empty(0, np.int64)

    def _number(self, distinct: list[str]) -> Ints:
        for word in distinct:
            if word not in self._codes:
                self._codes[word] = len(self.words)
                self.words.append(word)
        return np.array([self._codes[word] for word in distinct], np.int64)

    def decode(self, codes: Ints) -> pd.Categorical:
        return pd.Categorical.from_codes(codes, pd.Index(self.words, dtype="str"))


def no_rows() -> pd.DataFrame:
    frame = pd.DataFrame({name: pd.Series(dtype="str") for name in ROW_TEXT})
    for name in ROW_NUMBERS:
        frame[name] = np.empty(0, np.int64)
    frame["spend"] = np.empty(0, np.float64)
    frame["earlier_sure"] = np.empty(0, bool)
    return frame


def no_events() -> pd.DataFrame:
    frame = pd.DataFrame({name: pd.Series(dtype="str") for name in EVENT_TEXT})
    frame["time_ms"] = np.empty(0, np.int64)
    for name in EVENT_NUMBERS:
        frame[name] = np.empty(0, np.float64)
    for name in ("cost_null", "malformed"):
        frame[name] = np.empty(0, bool)
    return frame


def prepare_rows(rows: pd.DataFrame, rules: Rules, vocabulary: Vocabulary) -> pd.DataFrame:
    """The compact form of ROWS: text as codes, and kind and reason (codes), 0 for what is yet to be classified.

    A row is billable as LiteLLM's callback bills: it has success hooks only, and sends cache hits, zero-cost rows and
    rows of releases before 1.70, which wrote no status.

    model is the bare one; group and part are further names under which the callback may send it (-1 for none):
    with mock answers LiteLLM 1.106.2 sent the alias (`model_group`), and where the row does not name its provider,
    what stands before the first slash may be one.
    """
    spend = rows["spend"].to_numpy(np.float64)
    charge = vocabulary.encode(rows["charge_id"])
    reason = np.where(charge == 0, REASON["no_charge_id"], 0)
    if "zero_cost" in rules.exclude:
        reason[spend == 0] = REASON["zero_cost"]
    if "cache_hit" in rules.exclude:
        reason[rows["cache_hit"].str.lower().eq("true").to_numpy(bool)] = REASON["cache_hit"]
    failed = rows["status"].eq("failure").to_numpy(bool)
    reason[failed] = REASON["failure"]
    reason[failed & (spend != 0)] = REASON["failure_with_spend"]
    kind = np.where(reason == 0, 0, KIND["excluded"])
    kind[reason == REASON["no_charge_id"]] = KIND["unattributed"]

    model_places, model_names = pd.factorize(rows["model"])
    provider_places, provider_names = pd.factorize(rows["provider"])
    places, distinct = pd.factorize(model_places * len(provider_names) + provider_places)
    models = [model_names[pair // len(provider_names)] for pair in distinct.tolist()]
    providers = [provider_names[pair % len(provider_names)] for pair in distinct.tolist()]
    parts = ["" if provider else model.partition("/")[2] for model, provider in zip(models, providers, strict=True)]
    model = vocabulary.encode(bare_models(models, providers))[places] if len(places) else np.empty(0, np.int64)
    part = vocabulary.encode(parts)[places] if len(places) else np.empty(0, np.int64)
    group = vocabulary.encode(rows["model_group"])
    columns = {
        "request_id": rows["request_id"].array,
        "start_ms": rows["start_ms"].to_numpy(np.int64),
        "usage_ms": rows["usage_ms"].to_numpy(np.int64),
        "spend": spend,
        **{name: rows[name].to_numpy(np.int64) for name in TOKENS},
        "charge": charge.astype(np.int32),
        "subscription": vocabulary.encode(rows["subscription_id"]).astype(np.int32),
        "model": model.astype(np.int32),
        "group": np.where((group == 0) | (group == model), -1, group).astype(np.int32),
        "part": np.where((part == 0) | (part == model) | (part == group), -1, part).astype(np.int32),
        "earlier": vocabulary.encode(rows["earlier_id"]).astype(np.int32),
        "earlier_sure": rows["earlier_sure"].to_numpy(bool),
        "kind": kind.astype(np.int8),
        "reason": reason.astype(np.int8),
        "event_cost": np.full(len(rows), np.nan),
        "ambiguous": np.zeros(len(rows), bool),
        "closed": np.zeros(len(rows), bool),
    }
    return pd.DataFrame(columns)


def prepare_events(events: pd.DataFrame, rules: Rules, vocabulary: Vocabulary) -> pd.DataFrame:
    """The compact form of EVENTS: text as codes; own (made by reconcile), live (may be paired by content).

    cost is NaN where the event carries none that can be read; null is 0, as where LiteLLM has no price. carried holds
    a bit per token count. Copies of one identity on a ClickHouse store are one event (the list reads the raw table,
    Lago 1.51); the first listed is the latest.
    """
    if rules.clickhouse and len(events):
        events = events.drop_duplicates(["subscription_id", "transaction_id", "time_ms"], keep="first")
    subscription, model = vocabulary.encode(events["subscription_id"]), vocabulary.encode(events["model"])
    own = events["transaction_id"].str.fullmatch(OWN_ID.pattern).to_numpy(bool)
    malformed = events["malformed"].to_numpy(bool)
    cost_null = events["cost_null"].to_numpy(bool)
    cost = np.where(cost_null, 0.0, events["response_cost"].to_numpy(np.float64))
    carries = (model != 0) & (~np.isnan(cost) | malformed)
    carried = np.zeros(len(events), np.int64)
    for bit, name in enumerate(TOKENS):
        carried |= np.where(np.isnan(events[name].to_numpy(np.float64)), 0, 1 << bit)
    explained = own | carries
    orphan = (subscription == 0) | ~explained
    reason = np.where(subscription == 0, REASON["no_subscription_id"], np.where(explained, 0, REASON["no_row"]))
    return pd.DataFrame(
        {
            "transaction_id": events["transaction_id"].array,
            "request_id": events["request_id"].array,
            "time_ms": events["time_ms"].to_numpy(np.int64),
            "cost": cost,
            **{name: events[name].to_numpy(np.float64) for name in TOKENS},
            "carried": np.where(malformed, ALL_TOKENS, carried).astype(np.int8),
            "malformed": malformed,
            "subscription": subscription.astype(np.int32),
            "charge": vocabulary.encode(events["charge_id"]).astype(np.int32),
            "model": model.astype(np.int32),
            "own": own & ~orphan,
            "live": ~own & ~orphan,
            "kind": np.where(orphan, KIND["orphan"], 0).astype(np.int8),
            "reason": reason.astype(np.int8),
            "closed": np.zeros(len(events), bool),
            "hint": np.zeros(len(events), np.int8),
            "hint_ms": np.zeros(len(events), np.int64),
            "hint_spend": np.full(len(events), np.nan),
            **{f"hint_{name}": np.full(len(events), np.nan) for name in TOKENS},
            "hint_request_id": pd.array([""], dtype="str").take(np.zeros(len(events), np.int64)),
        }
    )


def row_ids(rows: pd.DataFrame, code: str, vocabulary: Vocabulary) -> list[str]:
    """The transaction IDs of compact rows."""
    words = vocabulary.words
    return transaction_ids(
        code,
        [words[charge] for charge in rows["charge"].tolist()],
        rows["request_id"].tolist(),
        rows["start_ms"].tolist(),
    )

"""The rows and events that are classified, in the compact form in which they are worked on. Pure.

What comes in are frames of ROWS and EVENTS (`reconcile.domain.frames`). Here they become tables of columns: text that
repeats as codes of a vocabulary, and kind and reason as codes of `KINDS` and `REASONS`, 0 for what is open.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from reconcile.classify.pairing import Bools, Ints, Reach
from reconcile.domain.event import OWN_ID, transaction_ids
from reconcile.domain.event_frames import bare_models
from reconcile.domain.vocabulary import EventClass, Reason, RowClass

TOKENS = ("prompt_tokens", "completion_tokens", "total_tokens")
# The bits of what an event carries.
ALL_TOKENS, COST, MODEL = 7, 8, 16
EVERYTHING = ALL_TOKENS | COST | MODEL

KINDS = ("", *(str(name) for name in dict.fromkeys((*RowClass, *EventClass))))
KIND = {name: code for code, name in enumerate(KINDS)}
REASONS = ("", *(str(name) for name in Reason))
REASON = {name: code for code, name in enumerate(REASONS)}

# What a look at a file, a batch or a response writes. Their events carry `model: null` (LiteLLM 1.106 to 1.110).
LOOKS = ("aget_responses", "afile_retrieve", "acreate_batch", "aretrieve_batch")
RETRIEVALS = ("aget_responses", "afile_retrieve", "acreate_batch")

# Names of a row's model, in the order in which they are tried.
ROW_MODELS = ("model", "group", "bridged", "part")

DEFAULT_REACH = Reach(before=30_000, after=120_000)
NO_DOUBT = Reach(before=0, after=0)


@dataclass(frozen=True, slots=True)
class Rules:
    """What the classification depends on beside the two frames.

    `exclude` may hold `cache_hit` and `zero_cost`; `clickhouse` says that one transaction ID at two milliseconds is
    two events, and `copies` whether Lago bills each copy of one there (`billed`) or `one` of them. `own_ids` are the
    charge IDs of the house itself. `doubt` is how far from a missing row an event may be its own; it has no width
    where nobody asks. `aggregation` is the metric's type, and `own_number` the number of a row that it
    reads: `spend`, a count of tokens, `one` (each event counts 1), or None where that is not known.
    """

    code: str
    reach: Reach = DEFAULT_REACH
    doubt: Reach = NO_DOUBT
    exclude: Collection[str] = ()
    clickhouse: bool = False
    own_ids: frozenset[str] = frozenset()
    copies: str = "billed"
    aggregation: str | None = None
    own_number: str | None = None


class Vocabulary:
    """Numbers for the strings that come again and again. 0 is the empty string."""

    def __init__(self) -> None:
        self._codes = {"": 0}
        self.words = [""]
        self._index = pd.Index(self.words, dtype="str")

    def encode(self, column: pd.Series) -> Ints:
        """The numbers of a categorical column."""
        numbers = self.numbers(column.cat.categories.tolist())
        return numbers[column.cat.codes.to_numpy()] if len(column) else np.empty(0, np.int64)

    def encode_text(self, column: pd.Series) -> Ints:
        """The numbers of a column of text that is mostly empty."""
        codes = np.zeros(len(column), np.int64)
        told = np.flatnonzero((column != "").to_numpy(bool))
        codes[told] = self.numbers(column.array.take(told).tolist())
        return codes

    def numbers(self, words: Sequence[str]) -> Ints:
        """The numbers of words, which are kept."""
        for word in words:
            if word not in self._codes:
                self._codes[word] = len(self.words)
                self.words.append(word)
        return np.array([self._codes[word] for word in words], np.int64)

    def decode(self, codes: Ints) -> pd.Categorical:
        if len(self._index) != len(self.words):
            self._index = pd.Index(self.words, dtype="str")
        return pd.Categorical.from_codes(codes, self._index)

    def rank(self) -> Ints:
        """The place of each word in the order of the alphabet: codes follow the order of the input."""
        ranks: Ints = np.argsort(np.argsort(np.array(self.words, object)))
        return ranks


class Words:
    """The vocabularies of one classification."""

    def __init__(self) -> None:
        self.ids = Vocabulary()  # subscriptions, charge IDs and transaction IDs that the ledger told
        self.models = Vocabulary()
        self.others = Vocabulary()  # call types and scopes


class Table:
    """Columns of one length by name: NumPy arrays, and pandas' arrays of text."""

    __slots__ = ("columns", "size")

    def __init__(self, columns: dict[str, Any], size: int) -> None:
        self.columns, self.size = columns, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, name: str) -> Any:
        return self.columns[name]

    def take(self, places: Ints) -> Table:
        return Table({name: column.take(places) for name, column in self.columns.items()}, len(places))

    def of(self, places: Ints) -> _Part:
        """The items at `places`, each column taken when it is asked for."""
        return _Part(self, places)

    def joined(self, *others: Table) -> Table:
        """This one's items, then the others'."""
        tables = [table for table in (self, *others) if table.size]
        if len(tables) < 2:
            return tables[0] if tables else self
        columns = {name: _joined([table[name] for table in tables]) for name in self.columns}
        return Table(columns, sum(table.size for table in tables))


@dataclass(frozen=True, slots=True)
class _Part:
    table: Table
    places: Ints

    def __getitem__(self, name: str) -> Any:
        return self.table[name].take(self.places)


def _joined(columns: list[Any]) -> Any:
    if isinstance(columns[0], np.ndarray):
        return np.concatenate(columns)
    return type(columns[0])._concat_same_type(columns)


def prepare_rows(rows: pd.DataFrame, rules: Rules, words: Words) -> Table:
    """The compact form of ROWS.

    A row is billable as LiteLLM's callback bills: it has success hooks only, and sends cache hits, zero-cost rows and
    rows of releases before 1.70, which wrote no status. Charge IDs of the house come before everything else.

    model is the bare one (0 for none); group, bridged and part are further names under which an event may carry it
    (-1 for none): with mock answers LiteLLM 1.106.2 sent the alias (`model_group`); events of ours once kept the
    `responses/` of a bridged deployment; where the row does not name its provider, what stands before the first slash
    may be one.
    """
    spend = rows["spend"].to_numpy(np.float64)
    charge = words.ids.encode(rows["charge_id"])
    reason = np.where(charge == 0, REASON["no_charge_id"], 0)
    if "zero_cost" in rules.exclude:
        reason[spend == 0] = REASON["zero_cost"]
    if "cache_hit" in rules.exclude:
        reason[_is(rows["cache_hit"], lambda hit: hit.lower() == "true")] = REASON["cache_hit"]
    failed = _is(rows["status"], "failure".__eq__)
    reason[failed] = REASON["failure"]
    reason[failed & (spend != 0)] = REASON["failure_with_spend"]
    reason[_is(rows["charge_id"], rules.own_ids.__contains__)] = REASON["own"]
    kind = np.where(reason == 0, 0, KIND["excluded"])
    kind[reason == REASON["no_charge_id"]] = KIND["unattributed"]
    columns = {
        "request_id": rows["request_id"].array,
        "start_ms": rows["start_ms"].to_numpy(np.int64),
        "usage_ms": rows["usage_ms"].to_numpy(np.int64),
        "spend": spend,
        **{name: rows[name].to_numpy(np.int64) for name in TOKENS},
        "charge": charge.astype(np.int32),
        "subscription": words.ids.encode(rows["subscription_id"]).astype(np.int32),
        **_models(rows, words.models),
        "call_type": words.others.encode(rows["call_type"]).astype(np.int32),
        "scope": words.others.encode(rows["scope"]).astype(np.int32),
        "look": _is(rows["call_type"], LOOKS.__contains__),
        "retrieval": _is(rows["call_type"], RETRIEVALS.__contains__),
        "earlier": words.ids.encode_text(rows["earlier_id"]).astype(np.int32),
        "earlier_sure": rows["earlier_sure"].to_numpy(bool),
        "kind": kind.astype(np.int8),
        "reason": reason.astype(np.int8),
        "by_id": np.zeros(len(rows), bool),  # it has an event of ours, found by its ID
        "ambiguous": np.zeros(len(rows), bool),
        "closed": np.zeros(len(rows), bool),
    }
    return Table(columns, len(rows))


def _is(column: pd.Series, wanted: Callable[[str], bool]) -> Bools:
    """Which values of a categorical column are wanted."""
    answers = np.array([bool(wanted(word)) for word in column.cat.categories.tolist()], bool)
    return answers[column.cat.codes.to_numpy()] if len(column) else np.empty(0, bool)


def _models(rows: pd.DataFrame, models: Vocabulary) -> dict[str, npt.NDArray[np.int32]]:
    names, providers = rows["model"].cat.categories.tolist(), rows["provider"].cat.categories.tolist()
    mixed = rows["model"].cat.codes.to_numpy().astype(np.int64) * len(providers) + rows["provider"].cat.codes.to_numpy()
    places, distinct = pd.factorize(mixed)
    pairs = [(names[pair // len(providers)], providers[pair % len(providers)]) for pair in distinct.tolist()]
    bare = bare_models([model for model, _ in pairs], [provider for _, provider in pairs])
    bridged, part = [], []
    for model, provider in pairs:
        after = model.removeprefix(provider + "/") if provider else model.partition("/")[2]
        bridged.append(after if after.startswith("responses/") else "")
        part.append("" if provider else after.removeprefix("responses/"))
    found = {
        name: models.numbers(told)[places] for name, told in zip(("bridged", "part"), (bridged, part), strict=True)
    }
    model = models.numbers(bare)[places] if len(places) else np.empty(0, np.int64)
    group = models.encode(rows["model_group"])
    result = {"model": model.astype(np.int32)}
    known = [model]
    for name, other in (("group", group), ("bridged", found["bridged"]), ("part", found["part"])):
        told_before = np.logical_or.reduce([other == earlier for earlier in known])
        # A row without its model equals an event of any model: it needs no other name.
        other = np.where((other == 0) | told_before | (model == 0), -1, other)
        result[name] = other.astype(np.int32)
        known.append(other)
    return result


def prepare_events(
    events: pd.DataFrame, rules: Rules, words: Words, first: int = 0, delivered: Collection[str] = ()
) -> Table:
    """The compact form of EVENTS. `first` is the serial number of the first one.

    `delivered` are IDs of events that an earlier run delivered: each belongs to its own row, and is no evidence of
    another one where LiteLLM has deleted that.

    own: it has an ID of ours; live: it may be paired by content. cost is NaN where the event carries none that can be
    read; carried holds the bits of what it carries. copy_of is the serial number of the event that it is a further
    copy of, -1 for none: the list of a ClickHouse store reads the raw table (Lago 1.51), and the first listed is the
    latest. Where copies are one event the further ones are left out.
    """
    if rules.clickhouse and rules.copies == "one":
        events = without_copies(events)
    subscription, model = words.ids.encode(events["subscription_id"]), words.models.encode(events["model"])
    ids = events["transaction_id"]
    own = _own(ids)
    malformed = events["malformed"].to_numpy(bool)
    cost = events["response_cost"].to_numpy(np.float64)
    carried = np.where(np.isnan(cost) & ~malformed, 0, COST) | np.where(model == 0, 0, MODEL)
    for bit, name in enumerate(TOKENS):
        carried |= np.where(np.isnan(events[name].to_numpy(np.float64)) & ~malformed, 0, 1 << bit)
    house = _is(events["charge_id"], rules.own_ids.__contains__)
    reason = np.where(own | (carried != 0), 0, REASON["no_row"])
    reason[subscription == 0] = REASON["no_subscription_id"]
    kind = np.where(reason == 0, 0, KIND["orphan"])
    # An event of ours may still be that of a row which is now somebody else's.
    of_house = house & (subscription != 0)
    kind[of_house & ~own], reason[of_house & ~own] = KIND["own"], 0
    copy_of = np.full(len(events), -1, np.int64)
    if rules.clickhouse:
        copy_of = _copies(subscription, ids, events["time_ms"].to_numpy(np.int64), first)
    open_event = (kind == 0) & (copy_of < 0)
    somebody_elses = np.zeros(len(events), bool)
    if delivered and own.any():
        places = np.flatnonzero(own)
        somebody_elses[places] = ids.iloc[places].isin(delivered).to_numpy(bool)
    columns = {
        "transaction_id": ids.array,
        "request_id": events["request_id"].array,
        "serial": np.arange(first, first + len(events)),
        "time_ms": events["time_ms"].to_numpy(np.int64),
        "cost": cost,
        **{name: events[name].to_numpy(np.float64) for name in TOKENS},
        "carried": carried.astype(np.int8),
        "malformed": malformed,
        "counted": events["counted"].to_numpy(bool),
        "added": events["added"].to_numpy(np.float64),
        "subscription": subscription.astype(np.int32),
        "charge": words.ids.encode(events["charge_id"]).astype(np.int32),
        "model": model.astype(np.int32),
        "house": of_house,
        "own": own & open_event,
        "live": open_event & (carried != 0) & ~of_house & ~somebody_elses,
        "by_content": ~own,
        "copy_of": copy_of,
        "kind": kind.astype(np.int8),
        "reason": reason.astype(np.int8),
        "closed": np.zeros(len(events), bool),
    }
    return Table(columns, len(events))


def without_copies(events: pd.DataFrame) -> pd.DataFrame:
    """EVENTS without the further copies of one subscription, transaction ID and millisecond; the first ones stay."""
    subscription = events["subscription_id"].cat.codes.to_numpy().astype(np.int64)
    copy_of = _copies(subscription, events["transaction_id"], events["time_ms"].to_numpy(np.int64), 0)
    return events if (copy_of < 0).all() else events[copy_of < 0].reset_index(drop=True)


def _copies(subscription: Ints, ids: pd.Series, times: Ints, first: int) -> Ints:
    """Per event the place of the first one of its identity, counted from `first`; -1 for the first one itself."""
    copy_of = np.full(len(ids), -1, np.int64)
    some = np.flatnonzero(pd.Series(times).duplicated(keep=False).to_numpy(bool))
    if not len(some):
        return copy_of
    names = pd.factorize(ids.array.take(some))[0]
    frame = pd.DataFrame({"subscription": subscription[some], "name": names, "time": times[some]})
    group = frame.groupby([*frame.columns], sort=False).ngroup().to_numpy()
    leader = np.full(len(some), -1, np.int64)
    leader[group[::-1]] = some[::-1]
    of = leader[group]
    further = of != some
    copy_of[some[further]] = of[further] + first
    return copy_of


def _own(ids: pd.Series) -> Bools:
    own = ids.str.startswith("llm_").to_numpy(bool, copy=True)
    likely = np.flatnonzero(own)
    if len(likely):
        own[likely] = ids.iloc[likely].str.fullmatch(OWN_ID.pattern).to_numpy(bool)
    return own


def row_ids(rows: Table, places: Ints, code: str, words: Words) -> list[str]:
    """The transaction IDs of the rows at `places`."""
    names = words.ids.words
    return transaction_ids(
        code,
        [names[charge] for charge in rows["charge"][places].tolist()],
        rows["request_id"].take(places).tolist(),
        rows["start_ms"][places].tolist(),
    )

"""Pages of `GET /events` → the EVENTS frame, column by column: an event at a time takes five times as long. Pure.

Every value is read as the organization's store takes it (Lago v1.51.0). The Postgres store lists properties as they
were sent, and counts JSON numbers and plain decimal text (postgres_store.rb). A ClickHouse store lists every property
as text, null as '', and counts what its own decimal parser reads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from reconcile.domain.event import OWN_ID
from reconcile.domain.frames import EVENTS, empty
from reconcile.errors import LagoFault
from reconcile.lago.body import NUL, tolerant
from reconcile.lago.values import (
    ABSENT,
    ANY_NOTATION,
    EMPTY,
    NUMBER,
    OTHER,
    PLAIN,
    TEXT,
    Floats,
    States,
    as_finite,
    as_text,
    as_whole,
    read_numbers,
    read_texts,
    read_times,
)

Flags = npt.NDArray[np.bool_]

_NAN: Final = float("nan")

# toDecimal128OrZero(value, 26) skips a second point, and has room for twelve digits before the first.
_SEVERAL_POINTS: Final = re.compile(r"([+-]?[0-9]*\.[0-9]*)\.([0-9.]*)")
_DECIMAL_END: Final = 1e12

_NUMERIC: Final = frozenset({"sum_agg", "max_agg", "latest_agg", "weighted_sum_agg"})


@dataclass(frozen=True, slots=True)
class EventShape:
    """Where an event's values stand, and what Lago does with them.

    The first six name the properties that may hold a value: the first that is there and neither null nor '' is taken.
    `field_name` and `aggregation` are the metric's (None where it has none), `store` the organization's: "postgres" or
    "clickhouse".
    """

    model: tuple[str, ...] = ("model",)
    response_cost: tuple[str, ...] = ("response_cost",)
    prompt_tokens: tuple[str, ...] = ("prompt_tokens",)
    completion_tokens: tuple[str, ...] = ("completion_tokens",)
    total_tokens: tuple[str, ...] = ("total_tokens",)
    request_id: tuple[str, ...] = ("request_id",)
    field_name: str | None = None
    aggregation: str | None = None
    store: str = "postgres"

    @property
    def clickhouse(self) -> bool:
        return self.store == "clickhouse"


@dataclass(frozen=True, slots=True)
class Columns:
    """Some events in the columns of EVENTS, before they are a frame."""

    transaction_id: pa.Array
    subscription_id: pa.DictionaryArray
    model: pa.DictionaryArray
    request_id: pa.Array
    time_ms: npt.NDArray[np.int64]
    response_cost: Floats
    prompt_tokens: Floats
    completion_tokens: Floats
    total_tokens: Floats
    malformed: Flags
    counted: Flags
    added: Floats

    def __len__(self) -> int:
        return len(self.time_ms)

    def only(self, mask: Flags) -> Columns:
        """The events that the mask names."""
        chosen = pa.array(mask)
        return Columns(
            *(
                column[mask] if isinstance(column, np.ndarray) else column.filter(chosen)
                for column in (getattr(self, one.name) for one in fields(self))
            )
        )


@dataclass(frozen=True, slots=True)
class Page:
    """One page as Lago gave it.

    `columns` holds the events of the code and the subscription that were asked for, `lago_ids` has one entry for each
    of them, whatever Lago sent, and `listed` counts all events of the page. `total`, `pages` and `next_page` are Lago's
    own words on the whole listing, None where it says nothing.
    """

    columns: Columns
    listed: int
    lago_ids: list[Any]
    total: int | None
    pages: int | None
    next_page: int | None


class PageDecoder:
    """Decodes pages of events of one shape; usable from several threads."""

    def __init__(self, shape: EventShape) -> None:
        self._shape = shape
        names = dict.fromkeys(
            (
                *shape.model,
                *shape.request_id,
                *shape.response_cost,
                *shape.prompt_tokens,
                *shape.completion_tokens,
                *shape.total_tokens,
                *(() if shape.field_name is None else (shape.field_name,)),
            )
        )
        self._attributes = {name: f"property_{number}" for number, name in enumerate(names)}
        try:
            properties = _struct("Properties", dict.fromkeys(self._attributes.values(), Any), names)
        except ValueError:
            raise LagoFault(f"a property has a name that cannot be read: {', '.join(map(repr, names))}") from None
        event_fields = ("lago_id", "transaction_id", "external_subscription_id", "code", "timestamp")
        event = _struct("Event", dict.fromkeys(event_fields, Any) | {"properties": properties | None})
        meta = _struct("Meta", dict.fromkeys(("total_count", "total_pages", "next_page"), Any))
        answer = _struct("Answer", {"events": list[event], "meta": meta | None})  # type: ignore[valid-type]
        self._answer: type[Any] = answer
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(answer).decode
        self._none = properties()

    def page(self, body: bytes, code: str, subscription_id: str | None = None) -> Page:
        """The events of `code`, of one subscription where it is named: a filter that Lago ignored holds here.

        Raises `LagoFault` where the body is no JSON object, or an event has no time.
        """
        try:
            answer = self._tidied(body) if NUL in body else self._decode(body)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            answer = self._tidied(body)
        events = answer.events or []
        wanted = [event for event in events if event.code == code]
        if subscription_id is not None:
            wanted = [event for event in wanted if event.external_subscription_id == subscription_id]
        meta = answer.meta or None
        return Page(
            columns=self._columns(wanted),
            listed=len(events),
            lago_ids=[event.lago_id for event in wanted],
            total=as_whole(meta and meta.total_count),
            pages=as_whole(meta and meta.total_pages),
            next_page=as_whole(meta and meta.next_page),
        )

    def _tidied(self, body: bytes) -> Any:
        """An answer with something in it that Lago was never seen to send; what is of no use is left out."""
        found = tolerant(body)
        if not isinstance(found, dict):
            raise LagoFault("GET /events answered with something that is no JSON object")
        events, meta = found.get("events"), found.get("meta")
        usable = [event for event in events if isinstance(event, dict)] if isinstance(events, list) else []
        for event in usable:
            if not isinstance(event.get("properties"), dict):
                event["properties"] = None
        return msgspec.convert({"events": usable, "meta": meta if isinstance(meta, dict) else None}, self._answer)

    def _columns(self, events: Sequence[Any]) -> Columns:
        shape = self._shape
        properties = [event.properties or self._none for event in events]
        read: dict[str, tuple[Floats, States]] = {}

        def values(name: str) -> list[Any]:
            return list(map(attrgetter(self._attributes[name]), properties))

        def text(names: Sequence[str]) -> pa.Array:
            chosen, *others = (read_texts(values(name)) for name in names)
            for other in others:
                chosen = pc.if_else(pc.equal(chosen, ""), other, chosen)
            return chosen

        def number(names: Sequence[str]) -> tuple[Floats, States]:
            for name in names:
                if name not in read:
                    read[name] = read_numbers(values(name), ANY_NOTATION if shape.clickhouse else PLAIN)
            chosen, states = read[names[0]]
            for name in names[1:]:
                other, other_states = read[name]
                better = (states < NUMBER) & (other_states > states)
                chosen, states = np.where(better, other, chosen), np.where(better, other_states, states)
            return chosen, states

        transaction_id = read_texts([event.transaction_id for event in events])
        request_id = pa.repeat(pa.scalar("", TEXT), len(events))
        if pc.any(pc.starts_with(transaction_id, "llm_")).as_py():
            request_id = self._requests(transaction_id, properties)
        cost, cost_states = number(shape.response_cost)
        prompt, prompt_states = number(shape.prompt_tokens)
        completion, completion_states = number(shape.completion_tokens)
        total, total_states = number(shape.total_tokens)
        all_states = (cost_states, prompt_states, completion_states, total_states)
        counted, added = self._counted(len(events), number, values)
        return Columns(
            transaction_id=transaction_id,
            subscription_id=read_texts([event.external_subscription_id for event in events]).dictionary_encode(),
            model=text(shape.model).dictionary_encode(),
            request_id=request_id,
            time_ms=read_times([event.timestamp for event in events]),
            response_cost=np.where(cost_states == EMPTY, 0.0, cost),
            prompt_tokens=prompt,
            completion_tokens=completion,
            total_tokens=total,
            malformed=np.logical_or.reduce([states == OTHER for states in all_states]),
            counted=counted,
            added=added,
        )

    def _requests(self, transaction_id: pa.Array, properties: Sequence[Any]) -> pa.Array:
        """The request of every event that carries our kind of transaction ID, '' of every other."""
        found = [""] * len(properties)
        attributes = [self._attributes[name] for name in self._shape.request_id]
        own = pc.match_substring_regex(transaction_id, f"^{OWN_ID.pattern}$").to_numpy(zero_copy_only=False)
        for place in np.flatnonzero(own).tolist():
            texts = (as_text(getattr(properties[place], attribute)) for attribute in attributes)
            found[place] = next(filter(None, texts), "")
        return pa.array(found, TEXT)

    def _counted(
        self,
        count: int,
        number: Callable[[Sequence[str]], tuple[Floats, States]],
        values: Callable[[str], list[Any]],
    ) -> tuple[Flags, Floats]:
        """Whether the metric counts each event, and what the event adds to its property.

        Numeric aggregations: the Postgres store counts numbers alone. On ClickHouse a sum counts every event, with 0
        where there is no number; for the others an event without a number is not counted here, though the store takes
        it for a 0. `unique_count_agg` counts what is there, and no number says what it adds (NaN). `count_agg` adds 1.
        Any other aggregation counts every event and adds nobody knows what (NaN).
        """
        shape = self._shape
        every, unknown = np.ones(count, np.bool_), np.full(count, _NAN)
        if shape.aggregation == "count_agg":
            return every, np.ones(count)
        if shape.aggregation not in _NUMERIC and shape.aggregation != "unique_count_agg":
            return every, unknown
        if shape.field_name is None:
            found, states = unknown, np.full(count, ABSENT, np.int8)
        else:
            found, states = number((shape.field_name,))
        if shape.aggregation == "unique_count_agg":
            return states > EMPTY, unknown
        counted = states == NUMBER
        if not shape.clickhouse:
            return counted, found
        counted &= np.abs(found) < _DECIMAL_END
        added = np.where(counted, found, _NAN)
        if shape.field_name is not None and (states == OTHER).any():
            texts = values(shape.field_name)
            for place in np.flatnonzero(states == OTHER):
                if matched := _SEVERAL_POINTS.fullmatch(str(texts[place])):
                    read = as_finite("".join([matched[1], *matched[2].split(".")]))
                    if abs(read) < _DECIMAL_END:
                        counted[place], added[place] = True, read
        if shape.aggregation == "sum_agg":
            return every, np.where(counted, added, 0.0)
        return counted, added


@lru_cache(maxsize=8)
def decoder(shape: EventShape) -> PageDecoder:
    """The decoder of this shape: compiling one takes a millisecond."""
    return PageDecoder(shape)


# Shape, code, subscription (None: of any) and body: where a page is decoded is the caller's choice.
Decode = Callable[[EventShape, str, str | None, bytes], Page]


def decode_page(shape: EventShape, code: str, subscription_id: str | None, body: bytes) -> Page:
    """See `PageDecoder.page`. Everything that goes in or comes out travels between processes."""
    return decoder(shape).page(body, code, subscription_id)


def frame(parts: Sequence[Columns]) -> pd.DataFrame:
    """The parts one after another as one EVENTS frame; whom an event is for is its subscription."""
    if not parts:
        return empty(EVENTS)

    def joined(name: str) -> npt.NDArray[Any]:
        columns = [getattr(part, name) for part in parts]
        return columns[0] if len(columns) == 1 else np.concatenate(columns)

    def texts(name: str) -> Any:
        return pd.array(pa.chunked_array([getattr(part, name) for part in parts]), dtype="str")

    def names(name: str) -> pd.Categorical[Any]:
        found = pa.chunked_array([getattr(part, name) for part in parts]).unify_dictionaries()
        codes = np.concatenate([chunk.indices.to_numpy() for chunk in found.chunks])
        categories = pd.array(pa.chunked_array([found.chunk(0).dictionary]), dtype="str")
        return pd.Categorical.from_codes(codes, pd.Index(categories))

    columns: dict[str, Any] = {}
    for name, kind in EVENTS.items():
        if name == "charge_id":
            columns[name] = columns["subscription_id"].copy()
        elif kind == "str":
            columns[name] = texts(name)
        elif kind == "category":
            columns[name] = names(name)
        else:
            columns[name] = joined(name)
    return pd.DataFrame(columns, copy=False)


def _struct(name: str, types: dict[str, Any], names: Iterable[str] | None = None) -> Any:
    """A struct whose fields are `UNSET` where the JSON has none; `names` are theirs in the JSON, in order."""
    return msgspec.defstruct(
        name,
        [(attribute, kind, msgspec.UNSET) for attribute, kind in types.items()],
        rename=None if names is None else dict(zip(types, names, strict=True)),
        gc=False,
    )

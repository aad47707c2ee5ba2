"""Pages of `GET /events` → the EVENTS frame, column by column: an event at a time takes five times as long. Pure.

Every value is read as the organization's store takes it (Lago v1.51.0). The Postgres store lists properties as they
were sent, and counts JSON numbers and plain decimal text (postgres_store.rb). A ClickHouse store lists every property
as text, null as '', and counts what its own decimal parser reads.
"""

from __future__ import annotations

import json
import math
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

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
States = npt.NDArray[np.int8]

_TEXT: Final = pa.large_string()
_MS: Final = pa.timestamp("ms", tz="UTC")
_NAN: Final = float("nan")

# What stands under a property's name, the cells of `States`. A ClickHouse store lists null as '', so both are EMPTY.
_ABSENT, _EMPTY, _NUMBER, _OTHER = range(4)

_FLOATS: Final = msgspec.json.Decoder(list[float]).decode
_JSON_NUMBERS: Final = frozenset({int, float})
_PLAIN: Final = r"-?[0-9]+(\.[0-9]+)?"  # the text that Lago's aggregations on Postgres count
_ANY_NOTATION: Final = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"
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
            answer = self._decode(body)
        except (msgspec.MsgspecError, ValueError):
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
            total=_whole(meta and meta.total_count),
            pages=_whole(meta and meta.total_pages),
            next_page=_whole(meta and meta.next_page),
        )

    def _tidied(self, body: bytes) -> Any:
        """An answer with something in it that Lago was never seen to send; what is of no use is left out."""
        try:
            found = json.loads(body, parse_int=_integer)
            # Half of a surrogate pair is no text for Arrow.
            found = json.loads(json.dumps(found, ensure_ascii=False).encode("utf-8", "replace"))
        except ValueError:
            found = None
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
            chosen, *others = (_texts(values(name)) for name in names)
            for other in others:
                chosen = pc.if_else(pc.equal(chosen, ""), other, chosen)
            return chosen

        def number(names: Sequence[str]) -> tuple[Floats, States]:
            for name in names:
                if name not in read:
                    read[name] = _numbers(values(name), _ANY_NOTATION if shape.clickhouse else _PLAIN)
            chosen, states = read[names[0]]
            for name in names[1:]:
                other, other_states = read[name]
                better = (states < _NUMBER) & (other_states > states)
                chosen, states = np.where(better, other, chosen), np.where(better, other_states, states)
            return chosen, states

        transaction_id = _texts([event.transaction_id for event in events])
        request_id = [""] * len(events)
        if pc.any(pc.starts_with(transaction_id, "llm_")).as_py():
            attributes = [self._attributes[name] for name in shape.request_id]
            own = pc.match_substring_regex(transaction_id, f"^{OWN_ID.pattern}$").to_numpy(zero_copy_only=False)
            for place in np.flatnonzero(own):
                texts = (_text(getattr(properties[place], attribute)) for attribute in attributes)
                request_id[place] = next(filter(None, texts), "")
        cost, cost_states = number(shape.response_cost)
        prompt, prompt_states = number(shape.prompt_tokens)
        completion, completion_states = number(shape.completion_tokens)
        total, total_states = number(shape.total_tokens)
        all_states = (cost_states, prompt_states, completion_states, total_states)
        counted, added = self._counted(len(events), number, values)
        return Columns(
            transaction_id=transaction_id,
            subscription_id=_texts([event.external_subscription_id for event in events]).dictionary_encode(),
            model=text(shape.model).dictionary_encode(),
            request_id=pa.array(request_id, _TEXT),
            time_ms=_times([event.timestamp for event in events]),
            response_cost=np.where(cost_states == _EMPTY, 0.0, cost),
            prompt_tokens=prompt,
            completion_tokens=completion,
            total_tokens=total,
            malformed=np.logical_or.reduce([states == _OTHER for states in all_states]),
            counted=counted,
            added=added,
        )

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
            found, states = unknown, np.full(count, _ABSENT, np.int8)
        else:
            found, states = number((shape.field_name,))
        if shape.aggregation == "unique_count_agg":
            return states > _EMPTY, unknown
        counted = states == _NUMBER
        if not shape.clickhouse:
            return counted, found
        counted &= np.abs(found) < _DECIMAL_END
        added = np.where(counted, found, _NAN)
        if shape.field_name is not None and (states == _OTHER).any():
            texts = values(shape.field_name)
            for place in np.flatnonzero(states == _OTHER):
                if matched := _SEVERAL_POINTS.fullmatch(str(texts[place])):
                    read = _finite("".join([matched[1], *matched[2].split(".")]))
                    if abs(read) < _DECIMAL_END:
                        counted[place], added[place] = True, read
        if shape.aggregation == "sum_agg":
            return every, np.where(counted, added, 0.0)
        return counted, added


@lru_cache(maxsize=8)
def decoder(shape: EventShape) -> PageDecoder:
    """The decoder of this shape: compiling one takes a millisecond."""
    return PageDecoder(shape)


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


def _texts(values: list[Any]) -> pa.Array:
    """Text as it is, '' for null and absent, and the JSON of everything else."""
    try:
        found = pa.array(values, _TEXT)
    except (pa.ArrowException, TypeError):
        return pa.array([_text(value) for value in values], _TEXT)
    return found.fill_null("") if found.null_count else found


def _text(value: object) -> str:
    if value is None or value is msgspec.UNSET:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _numbers(values: list[Any], pattern: str) -> tuple[Floats, States]:
    """JSON numbers, and text of the pattern; NaN for everything else, with what it is."""
    kinds = set(map(type, values))
    if kinds <= _JSON_NUMBERS:
        try:
            column = np.array(values, np.float64)
        except OverflowError:
            return _one_by_one(values, pattern)
        if np.isfinite(column).all():
            return column, np.full(len(values), _NUMBER, np.int8)
    elif kinds == {str}:
        if (joined := _joined(values, pattern)) is not None:
            return joined, np.full(len(values), _NUMBER, np.int8)
    elif kinds == {msgspec.UnsetType}:
        return np.full(len(values), _NAN), np.full(len(values), _ABSENT, np.int8)
    elif str in kinds and kinds <= _JSON_NUMBERS | {str}:
        places = [place for place, value in enumerate(values) if type(value) is str]
        if (joined := _joined([values[place] for place in places], pattern)) is not None:
            numbers = values.copy()
            for place, number in zip(places, joined.tolist(), strict=True):
                numbers[place] = number
            return _numbers(numbers, pattern)
    return _one_by_one(values, pattern)


def _joined(values: list[str], pattern: str) -> Floats | None:
    """All the texts at once, where each is also a JSON number: almost all are. None where one is not."""
    text = ",".join(values)
    # JSON allows blanks around a number, and an exponent in it.
    if any(letter in text for letter in (" \t\r\n" if pattern is _ANY_NOTATION else " \t\r\neE")):
        return None
    try:
        numbers = np.array(_FLOATS(f"[{text}]"), np.float64)
    except msgspec.MsgspecError:
        return None
    # No text is empty, or JSON would have refused it: as many numbers as texts means that none holds a comma.
    return numbers if len(numbers) == len(values) else None


def _one_by_one(values: list[Any], pattern: str) -> tuple[Floats, States]:
    reads = re.compile(pattern).fullmatch
    numbers, states = np.full(len(values), _NAN), np.full(len(values), _OTHER, np.int8)
    for place, value in enumerate(values):
        if value is msgspec.UNSET:
            states[place] = _ABSENT
        elif value is None or value == "":
            states[place] = _EMPTY
        elif type(value) in _JSON_NUMBERS or (type(value) is str and reads(value)):
            number = _finite(value)
            if not math.isnan(number):
                numbers[place], states[place] = number, _NUMBER
    return numbers, states


def _finite(value: str | int | float) -> float:
    """NaN where a double has no room for it, or the text is no number."""
    try:
        number = float(value)
    except (OverflowError, ValueError):
        return _NAN
    return number if math.isfinite(number) else _NAN


def _times(values: list[Any]) -> npt.NDArray[np.int64]:
    """ISO 8601 → whole milliseconds since 1970 UTC, cut and not rounded."""
    try:
        return pa.array(values, pa.string()).cast(_MS).cast(pa.int64()).to_numpy()  # type: ignore[no-any-return]
    except (pa.ArrowException, TypeError, ValueError):
        pass  # more digits than milliseconds need, or no offset
    if odd := [value for value in values if type(value) is not str or not value]:
        shown = "has no timestamp" if odd[0] in (None, "", msgspec.UNSET) else f"has the timestamp {_text(odd[0])[:60]}"
        raise LagoFault(f"GET /events: an event {shown}")
    try:
        return pd.to_datetime(values, format="ISO8601", utc=True).as_unit("ms").asi8
    except ValueError:
        pass
    raise LagoFault(f"GET /events: a timestamp is not ISO 8601: {_first_bad(values)}")


def _first_bad(values: list[str]) -> str:
    for value in values:
        if pd.isna(pd.to_datetime(value, format="ISO8601", utc=True, errors="coerce")):
            return " ".join(value.split())[:60]
    return "one of them"


def _integer(digits: str) -> int | float:
    """Python refuses to read a whole number of thousands of digits."""
    return int(digits) if len(digits) < 1_000 else math.inf


def _whole(value: object) -> int | None:
    """A count from a JSON number or a decimal string."""
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return int(value)
        except (ValueError, OverflowError):
            return None
    return None

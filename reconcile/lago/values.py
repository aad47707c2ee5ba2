"""A column of JSON values → texts, numbers or times, all at once where they are alike. Pure."""

from __future__ import annotations

import json
import math
import re
from contextlib import suppress
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from reconcile.errors import LagoFault

Floats = npt.NDArray[np.float64]
States = npt.NDArray[np.int8]

TEXT: Final = pa.large_string()
_MS: Final = pa.timestamp("ms", tz="UTC")
_NAN: Final = float("nan")
_FLOATS: Final = msgspec.json.Decoder(list[float]).decode
_JSON_NUMBERS: Final = frozenset({int, float})

# What stands under a property's name, the cells of `States`. A ClickHouse store lists null as '', so both are EMPTY.
ABSENT, EMPTY, NUMBER, OTHER = range(4)

PLAIN: Final = r"-?[0-9]+(\.[0-9]+)?"  # the text that Lago's aggregations on Postgres count
ANY_NOTATION: Final = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"


def read_texts(values: list[Any]) -> pa.Array:
    """Text as it is, '' for null and absent, and the JSON of everything else."""
    try:
        found = pa.array(values, TEXT)
    except (pa.ArrowException, TypeError):
        return pa.array([as_text(value) for value in values], TEXT)
    return found.fill_null("") if found.null_count else found


def as_text(value: object) -> str:
    if value is None or value is msgspec.UNSET:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def read_numbers(values: list[Any], pattern: str) -> tuple[Floats, States]:
    """JSON numbers, and text of the pattern; NaN for everything else, with what it is."""
    kinds = set(map(type, values))
    if kinds == {msgspec.UnsetType}:
        return np.full(len(values), _NAN), np.full(len(values), ABSENT, np.int8)
    column: Floats | None = None
    if kinds == {str}:
        column = _joined(values, pattern)
    elif kinds <= _JSON_NUMBERS or (
        kinds <= _JSON_NUMBERS | {str}
        and _joined([value for value in values if type(value) is str], pattern) is not None
    ):
        with suppress(OverflowError):
            column = np.array(values, np.float64)  # NumPy reads the texts among them as Python does
    if column is None or not np.isfinite(column).all():
        return _one_by_one(values, pattern)
    return column, np.full(len(values), NUMBER, np.int8)


def _joined(values: list[str], pattern: str) -> Floats | None:
    """All the texts at once, where each is also a JSON number: almost all are. None where one is not."""
    text = ",".join(values)
    # JSON allows blanks around a number, and an exponent in it.
    if any(letter in text for letter in (" \t\r\n" if pattern is ANY_NOTATION else " \t\r\neE")):
        return None
    try:
        numbers = np.array(_FLOATS(f"[{text}]"), np.float64)
    except msgspec.MsgspecError:
        return None
    # No text is empty, or JSON would have refused it: as many numbers as texts means that none holds a comma.
    return numbers if len(numbers) == len(values) else None


def _one_by_one(values: list[Any], pattern: str) -> tuple[Floats, States]:
    reads = re.compile(pattern).fullmatch
    numbers, states = np.full(len(values), _NAN), np.full(len(values), OTHER, np.int8)
    for place, value in enumerate(values):
        if value is msgspec.UNSET:
            states[place] = ABSENT
        elif value is None or value == "":
            states[place] = EMPTY
        elif type(value) in _JSON_NUMBERS or (type(value) is str and reads(value)):
            number = as_finite(value)
            if not math.isnan(number):
                numbers[place], states[place] = number, NUMBER
    return numbers, states


def as_finite(value: str | int | float) -> float:
    """NaN where a double has no room for it, or the text is no number."""
    try:
        number = float(value)
    except (OverflowError, ValueError):
        return _NAN
    return number if math.isfinite(number) else _NAN


def read_times(values: list[Any]) -> npt.NDArray[np.int64]:
    """ISO 8601 → whole milliseconds since 1970 UTC, cut and not rounded."""
    try:
        return pa.array(values, pa.string()).cast(_MS).cast(pa.int64()).to_numpy()  # type: ignore[no-any-return]
    except (pa.ArrowException, TypeError, ValueError):
        pass  # more digits than milliseconds need, or no offset
    if odd := [value for value in values if type(value) is not str or not value]:
        shown = (
            "has no timestamp" if odd[0] in (None, "", msgspec.UNSET) else f"has the timestamp {as_text(odd[0])[:60]}"
        )
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


def as_whole(value: object) -> int | None:
    """A count from a JSON number or a decimal string."""
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return int(value)
        except (ValueError, OverflowError):
            return None
    return None

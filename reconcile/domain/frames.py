"""The frames that cross a room's border: columns, types and units, their empty forms, a check for tests. Pure.

Text that repeats (models, subscriptions, charge IDs) is categorical with `str` categories; text that does not is `str`.
'' stands for none everywhere: no text column holds a null. Times are whole milliseconds since 1970 UTC.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pandas as pd
from pandas.api.types import union_categoricals

TEXT = "str"
NAME = "category"

# A row of LiteLLM's spend log.
ROWS: Mapping[str, str] = {
    "request_id": TEXT,
    "start_ms": "int64",  # "startTime"
    "usage_ms": "int64",  # "endTime"
    "model": NAME,
    "model_group": NAME,
    "provider": NAME,
    "charge_id": NAME,
    "subscription_id": NAME,  # the one that its event belongs to; '' where that is not known
    "status": NAME,
    "cache_hit": NAME,
    "call_type": NAME,
    "spend": "float64",  # USD
    "prompt_tokens": "int64",
    "completion_tokens": "int64",
    "total_tokens": "int64",
    "earlier_id": TEXT,  # transaction ID under which the request was handed to Lago for another charge ID
    "earlier_sure": "bool",  # Lago is known to have taken that one
    "scope": NAME,  # a Scope
}

# An event of the stream's code as Lago lists it.
EVENTS: Mapping[str, str] = {
    "transaction_id": TEXT,
    "subscription_id": NAME,
    "charge_id": NAME,  # whom it is for: the subscription, or its customer (RECONCILE_ID_KIND)
    "model": NAME,
    "request_id": TEXT,  # its property; '' on every event that does not carry our kind of transaction ID
    "time_ms": "int64",
    "response_cost": "float64",  # 0 where it is null or empty; NaN where the property is missing, or is no number
    "prompt_tokens": "float64",  # NaN where it is missing, null, empty or no number
    "completion_tokens": "float64",
    "total_tokens": "float64",
    "malformed": "bool",  # one of the four is there and is no number (null and '' are none)
    "counted": "bool",  # the metric counts the event, by the rules of the organization's store
    # What it adds to the metric's property: 0 where a sum counts it with nothing, NaN where it is not counted.
    "added": "float64",
}

# A row with what was found out about it. The reader of a column may rely on it only from the stage that fills it on.
ROW_VERDICTS: Mapping[str, str] = {
    "request_id": TEXT,
    "start_ms": "int64",
    "usage_ms": "int64",
    "model": NAME,  # as the callback sends it
    "charge_id": NAME,
    "subscription_id": NAME,
    "call_type": NAME,
    "spend": "float64",
    "prompt_tokens": "int64",
    "completion_tokens": "int64",
    "total_tokens": "int64",
    "scope": NAME,
    "class": NAME,  # a RowClass
    "reason": NAME,  # a Reason, or ''
    "ambiguous": "bool",
    "event_id": TEXT,  # transaction ID of the row's event
    "event_ms": "int64",  # that event's time, 0 where there is none
    "event_cost": "float64",  # NaN where there is none, or it carries none
}

# An event with what was found out about it.
EVENT_VERDICTS: Mapping[str, str] = {
    "transaction_id": TEXT,
    "subscription_id": NAME,
    "charge_id": NAME,
    "model": NAME,
    "time_ms": "int64",
    "cost": "float64",  # NaN where it carries none
    "prompt_tokens": "float64",
    "completion_tokens": "float64",
    "total_tokens": "float64",
    "class": NAME,  # an EventClass
    "reason": NAME,
    "live": "bool",  # paired by content, not by its ID
    "row_request_id": TEXT,  # of the row that it is paired with or repeats
    "row_start_ms": "int64",  # 0 for none
    "row_spend": "float64",  # NaN for none
    "row_scope": NAME,  # '' for none
}


def empty(columns: Mapping[str, str]) -> pd.DataFrame:
    """A frame of these columns without rows."""
    # pandas copies on write, so every caller may change its own view of the one that is kept.
    return _empty(tuple(columns.items())).copy(deep=False)


def named(texts: object) -> pd.Categorical:
    """Text that repeats, as this module's categorical: `str` categories, '' for none."""
    found = pd.Categorical(pd.array(texts, dtype="str"))  # type: ignore[call-overload]
    return found if len(found.categories) else pd.Categorical.from_codes([], pd.Index([], dtype="str"))


def constant(text: str, count: int) -> pd.Categorical:
    """`count` times the same word."""
    return pd.Categorical.from_codes(np.zeros(count, np.int8), dtype=_one_word(text))


def joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Frames of the same columns as one, with a fresh index. Words of categorical columns are united, not made
    objects."""
    first, *others = [frame for frame in frames if len(frame)] or [frames[0]]
    if not others:
        return first.reset_index(drop=True)
    columns: dict[str, object] = {}
    for name in first.columns:
        parts = [frame[name] for frame in (first, *others)]
        if str(first[name].dtype) == NAME:
            columns[name] = union_categoricals(parts)
        else:
            columns[name] = pd.concat(parts, ignore_index=True).array
    return pd.DataFrame(columns)


def where(frame: pd.DataFrame, wanted: npt.NDArray[np.bool_]) -> pd.DataFrame:
    """The rows where `wanted` holds. Nothing is copied where it holds everywhere, as it mostly does."""
    return frame if wanted.all() else frame[wanted]


def among(column: pd.Series, words: Collection[str]) -> npt.NDArray[np.bool_]:
    """Where a categorical column holds one of the words."""
    if not len(column):
        return np.zeros(0, bool)
    wanted = set(map(str, words))
    known = np.array([str(word) in wanted for word in column.cat.categories.tolist()], bool)
    return known[column.cat.codes.to_numpy()]


def changed(column: pd.Series, places: npt.NDArray[np.int64], words: str | Sequence[str]) -> pd.Categorical:
    """A categorical column with other words at some places."""
    categories = [str(word) for word in column.cat.categories.tolist()]
    number = {word: code for code, word in enumerate(categories)}
    told = [words] * len(places) if isinstance(words, str) else [str(word) for word in words]
    for word in dict.fromkeys(told):
        if word not in number:
            number[word] = len(categories)
            categories.append(word)
    codes = column.cat.codes.to_numpy().astype(np.int64)
    codes[places] = [number[word] for word in told]
    return pd.Categorical.from_codes(codes, pd.Index(categories, dtype="str"))


def check(frame: pd.DataFrame, columns: Mapping[str, str]) -> None:
    """Raises `AssertionError` where a frame is not of these columns, in this order and these types."""
    assert [*frame.columns] == [*columns], f"{[*frame.columns]} are not {[*columns]}"
    for name, kind in columns.items():
        found = str(frame[name].dtype)
        assert found == kind, f"{name} is {found}, not {kind}"
        if kind == NAME:
            assert str(frame[name].cat.categories.dtype) == "str", f"{name} has categories that are no text"
        if kind in (TEXT, NAME):
            assert not frame[name].isna().any(), f"{name} holds nulls"


@lru_cache
def _empty(columns: tuple[tuple[str, str], ...]) -> pd.DataFrame:
    """Making one takes milliseconds, and a slice of a run needs a dozen."""
    return pd.DataFrame({name: constant("", 0) if kind == NAME else pd.Series(dtype=kind) for name, kind in columns})


@lru_cache
def _one_word(text: str) -> pd.CategoricalDtype:
    return pd.CategoricalDtype(pd.Index([text], dtype="str"), ordered=False)

"""Rows that LiteLLM wrote a second time for what was billed once. Pure: frames in, an answer per row out.

Both frames hold request_id, start_ms, usage_ms, charge_id, api_key, call_type, spend, prompt_tokens, completion_tokens,
total_tokens, session_id and litellm_call_id ('' for none), text as `str` or categories.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from reconcile.classify.frames import LOOKS
from reconcile.classify.pairing import Bools, Ints

# What is equal in both rows of one call, and in each look at a finished job.
_CONTENT = ("charge_id", "api_key", "spend", "prompt_tokens", "completion_tokens", "total_tokens")
# What `overlapping` looks at.
OVERLAPPING = ("request_id", "start_ms", "usage_ms", "charge_id", "spend", "prompt_tokens", "completion_tokens")
# The calls that make a response; `acreate_batch`, which makes a batch, is among the looks.
_MAKERS = ("aresponses", "responses")
# An odd number with its bits spread evenly (2^64 divided by the golden ratio), as hashing by multiplication wants.
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


def same_call(missing: pd.DataFrame, others: pd.DataFrame) -> Bools:
    """Which of the `missing` rows are the second writing of one call: of themselves, or of `others` that have an event.

    LiteLLM 1.102.0 to 1.102.3 (and 1.103.1, 1.104.0, 1.105.0) wrote a bridged call as two rows, of which the inner one
    lies within the outer one in time, with equal content. They share `litellm_call_id`, which a client can set too: so
    they must overlap. Where one of the two has none, they share the session and one lies within the other.
    Of two missing rows of one call the first (by start, then request ID) is no second writing.
    """
    held = np.zeros(len(missing), bool)
    rows = _together(missing, others)
    group = _group(rows)
    is_missing = np.arange(len(rows)) < len(missing)
    several = (np.bincount(group) > 1) & (np.bincount(group, weights=is_missing) > 0)
    some = np.flatnonzero(several[group])
    start = rows["start_ms"].to_numpy(np.int64)
    end = np.array(np.maximum(rows["usage_ms"], rows["start_ms"]), np.int64)
    calls, sessions = (rows[name].astype("str").tolist() for name in ("litellm_call_id", "session_id"))

    def one_call(left: int, right: int) -> bool:
        """Of two rows of equal content that overlap."""
        if calls[left] and calls[right]:
            return calls[left] == calls[right]
        if not sessions[left] or sessions[left] != sessions[right]:
            return False
        inner_first = start[left] >= start[right] and end[left] <= end[right]
        return bool(inner_first) or bool(start[left] <= start[right] and end[left] >= end[right])

    group_of, before = group.tolist(), -1
    running: list[int] = []
    for place in _in_order(rows, group, some).tolist():
        if group_of[place] != before:
            before, running = group_of[place], []
        running = [other for other in running if end[other] >= start[place]]
        for other in running:
            if not one_call(other, place):
                continue
            if is_missing[place]:
                held[place] = True  # `other` has its event, or is the first
            elif is_missing[other]:
                held[other] = True
        running.append(place)
    return held


def repeat(missing: pd.DataFrame, others: pd.DataFrame) -> Bools:
    """Which of the `missing` rows are a further look at a finished job, with its whole cost again.

    LiteLLM writes and bills each look anew. An earlier row (by start, then request ID) of a look, or of the call that
    made the job, has the same charge ID, key, spend and tokens; it may be missing too, or one of `others`. A call that
    makes a response in the background costs nothing itself: where the key made one before, the first look is the bill.
    """
    rows = _together(missing, others)
    call_type, spend = rows["call_type"].astype("str"), rows["spend"].to_numpy(np.float64)
    look = call_type.isin(LOOKS).to_numpy(bool) & (spend > 0)
    maker = call_type.isin(_MAKERS).to_numpy(bool)
    background = maker & (spend == 0) & (rows["total_tokens"].to_numpy(np.int64) == 0)
    content, key = _group(rows), _group(rows, ("charge_id", "api_key"))
    repeats = _after_another(rows, content, look, look)
    repeats |= _after_another(rows, content, maker, look) & ~_after_another(rows, key, background, look)
    return repeats[: len(missing)]


def overlapping(rows: pd.DataFrame) -> list[tuple[str, int]]:
    """Keys (request_id, start_ms) of the rows (OVERLAPPING of ROWS) that lie beside one of equal content in time.

    Only those can be two writings of one call: a cheap look at all rows that spares most of them a costly one.
    """
    spend = rows["spend"].to_numpy(np.float64)
    places = np.flatnonzero(spend > 0)
    if len(places) < 2:
        return []
    # A number of the content: where two contents share one, a row is looked at in vain.
    content = rows["charge_id"].cat.codes.to_numpy().astype(np.uint64)[places]
    for part in (spend, rows["prompt_tokens"].to_numpy(np.int64), rows["completion_tokens"].to_numpy(np.int64)):
        content = (content ^ part.view(np.uint64)[places]) * _SPREAD
        content ^= content >> np.uint64(29)
    several = pd.Series(content).duplicated(keep=False).to_numpy(bool)
    group, places = pd.factorize(content[several])[0].astype(np.int64), places[several]
    if not len(places):
        return []
    start, end = rows["start_ms"].to_numpy(np.int64)[places], rows["usage_ms"].to_numpy(np.int64)[places]
    order = np.lexsort((start, group))
    group, start, end, places = group[order], start[order], np.maximum(end, start)[order], places[order]
    # Ends of one group never reach into the next: each group is moved behind the one before it.
    step = int(max(end.max(), start.max()) - start.min()) + 1
    reached = np.maximum.accumulate(end + group * step)
    apart = np.concatenate(([True], start[1:] + group[1:] * step > reached[:-1]))
    runs = np.cumsum(apart) - 1
    beside = places[np.bincount(runs)[runs] > 1]
    requests = rows["request_id"].array.take(beside).tolist()
    return list(zip(requests, rows["start_ms"].to_numpy(np.int64)[beside].tolist(), strict=True))


def _after_another(rows: pd.DataFrame, group: Ints, wanted: Bools, asked: Bools) -> Bools:
    """Which of the rows that are `asked` about have an earlier one of their group among the `wanted` ones."""
    in_order = _in_order(rows, group, np.flatnonzero(wanted | asked))
    there: Ints = np.cumsum(wanted[in_order]) - wanted[in_order]  # wanted ones before each, of any group
    first = np.concatenate(([True], group[in_order][1:] != group[in_order][:-1]))[: len(in_order)]
    base = np.maximum.accumulate(np.where(first, there, 0))
    answers = np.zeros(len(rows), bool)
    answers[in_order] = there > base
    return answers & asked


def _together(missing: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """The missing rows, then the others."""
    names = [*_CONTENT, "request_id", "start_ms", "usage_ms", "call_type", "session_id", "litellm_call_id"]
    text = {name: "str" for name in names if name not in _CONTENT[2:] and not name.endswith("_ms")}
    rows = pd.concat([frame[names].astype(text) for frame in (missing, others)], ignore_index=True)
    # A row that is in both frames is not its own second writing.
    known = rows.duplicated(["request_id", "start_ms"]) & (np.arange(len(rows)) >= len(missing))
    return rows[~known].reset_index(drop=True)


def _group(rows: pd.DataFrame, columns: tuple[str, ...] = _CONTENT) -> Ints:
    """Equal numbers for rows that are equal in the columns."""
    return np.array(rows.groupby([*columns], sort=False, dropna=False).ngroup(), np.int64)


def _in_order(rows: pd.DataFrame, group: Ints, places: Ints) -> Ints:
    """The places in order of content, start and request ID."""
    chosen = rows.iloc[places]
    frame = pd.DataFrame(
        {"group": group[places], "start": chosen["start_ms"].to_numpy(), "name": chosen["request_id"].to_numpy(object)}
    )
    in_order: Ints = places[frame.sort_values([*frame.columns], kind="stable").index.to_numpy()]
    return in_order

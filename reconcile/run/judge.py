"""Judges pairs by what Lago bills: an event that no subscription covers, or no plan prices, is on no invoice. Pure."""

from __future__ import annotations

import numpy as np
import pandas as pd

from reconcile.domain.frames import among, changed
from reconcile.domain.vocabulary import EventClass, Reason, RowClass
from reconcile.lago.coverage import Coverage

_AGREEING = (RowClass.MATCHED, RowClass.MATCHED_LIVE)


def judged(rows: pd.DataFrame, events: pd.DataFrame, coverage: Coverage) -> tuple[pd.DataFrame, pd.DataFrame]:
    """ROW_VERDICTS and EVENT_VERDICTS where what agrees is billed, or is `unbilled` with the reason.

    An event is judged by its own subscription and time. No subscription, or no price, is said before `not_counted`: as
    long as nobody can be billed, sending another event would bill nobody either.
    """
    return _judged(rows, coverage, "event_ms"), _judged(events, coverage, "time_ms")


def _judged(frame: pd.DataFrame, coverage: Coverage, time: str) -> pd.DataFrame:
    if frame.empty:
        return frame
    in_lago = among(frame["class"], _AGREEING) | among(frame["reason"], [Reason.NOT_COUNTED])
    places = np.flatnonzero(in_lago)
    if not len(places):
        return frame
    found = coverage.judge(frame["subscription_id"].array.take(places), frame[time].to_numpy(np.int64)[places])
    told = pd.Series(found)
    nobody = ~among(told, [""])
    if not nobody.any():
        return frame
    places = places[nobody]
    return frame.assign(
        **{
            "class": changed(frame["class"], places, EventClass.UNBILLED.value),
            "reason": changed(frame["reason"], places, told[nobody].astype("str").tolist()),
        }
    )

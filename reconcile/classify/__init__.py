"""Which row has its event in Lago, and which event has its row. Pure: no clock, no I/O, no settings object."""

from reconcile.classify.frames import EVENT_NUMBERS, EVENT_TEXT, ROW_NUMBERS, ROW_TEXT, Rules, no_events, no_rows
from reconcile.classify.pairing import Reach
from reconcile.classify.stream import Classification, Settled, as_rows, classify, compare_by_id

__all__ = [
    "EVENT_NUMBERS",
    "EVENT_TEXT",
    "ROW_NUMBERS",
    "ROW_TEXT",
    "Classification",
    "Reach",
    "Rules",
    "Settled",
    "as_rows",
    "classify",
    "compare_by_id",
    "no_events",
    "no_rows",
]

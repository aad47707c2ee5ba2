"""Which row has its event in Lago, and which event has its row. Pure: no clock, no I/O, no settings object."""

from reconcile.classify.frames import Rules, without_copies
from reconcile.classify.pairing import Reach
from reconcile.classify.stream import Classification, Settled, as_rows, classify, compare_by_id

__all__ = [
    "Classification",
    "Reach",
    "Rules",
    "Settled",
    "as_rows",
    "classify",
    "compare_by_id",
    "without_copies",
]

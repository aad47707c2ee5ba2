"""The job's memory: schema `reconcile` in Postgres. It is the only thing that the job writes to, beside Lago.

What was handed to Lago is written down before the first byte leaves and completed after, so that a run that was killed
at any moment can be repeated.
"""

from reconcile.ledger.database import Stream
from reconcile.ledger.deliveries import Deliveries
from reconcile.ledger.held import Held
from reconcile.ledger.hours import Hours
from reconcile.ledger.locks import Lock, Locks
from reconcile.ledger.remembered import Memories
from reconcile.ledger.runs import Runs, new_run_id


class Ledger(Locks, Runs, Deliveries, Held, Hours, Memories):
    """All of it. Usable from several threads, one at a time."""


__all__ = ["Ledger", "Lock", "Stream", "new_run_id"]

"""Every error that `reconcile` raises on purpose: one line for the reader, one exit code for the caller.

The message names what is wrong and the way out, and never holds a secret.
"""

from __future__ import annotations

import traceback
from pathlib import Path


class ReconcileError(Exception):
    """The base of them all. `kind` stands in the result document's `fault`."""

    exit_code = 3
    kind = "fault"


class UsageError(ReconcileError):
    """Wrong usage of the command line: nothing was sent."""

    exit_code = 2
    kind = "usage"


class SettingsError(ReconcileError):
    """A missing or wrong setting: nothing was sent."""

    exit_code = 2
    kind = "settings"


class PreflightError(ReconcileError):
    """Lago or Postgres gave a wrong answer before anything was sent: wrong key, missing column, unknown metric."""

    exit_code = 2
    kind = "preflight"


class ClockFault(PreflightError):
    """This host's clock and Lago's are too far apart, as its first answer to a delivery shows."""

    kind = "clock"


class DatabaseFault(ReconcileError):
    """Postgres does not answer, or stopped answering."""

    kind = "database"


class LagoFault(ReconcileError):
    """Lago does not answer, stopped answering, or kept refusing for a reason that may pass."""

    kind = "lago"


class WorkerFault(ReconcileError):
    """The processes or the Dask cluster that should decode pages died, or are not there."""

    kind = "workers"


class NotVisibleFault(ReconcileError):
    """Lago accepted deliveries that it does not show when it is read back."""

    kind = "not_visible"


class DoubtfulFault(ReconcileError):
    """Unexplained live events could be those of the missing rows: nothing more was sent. A person has to look."""

    kind = "doubtful"


class OutputFault(ReconcileError):
    """Stdout or a report file cannot be written. What was sent and recorded stands."""

    kind = "output"


class BooksFault(ReconcileError):
    """The classes do not add up to what was read. This is a defect of `reconcile`."""

    kind = "books"


class Defect(ReconcileError):
    """Anything that was not raised on purpose. What was sent and recorded stands; running again is safe."""

    @classmethod
    def of(cls, error: Exception) -> Defect:
        """Names the type and the place. The message is left out: nobody knows what is in it."""
        frames = traceback.extract_tb(error.__traceback__)[-3:]
        places = ", ".join(f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}" for frame in reversed(frames))
        return cls(f"a defect of reconcile stopped it: {type(error).__name__} at {places}; please report it")


class LockedError(ReconcileError):
    """Another run holds this stream's lock."""

    exit_code = 4
    kind = "locked"


class Interrupted(ReconcileError):
    """The run was told to stop. What was on its way is finished; running it again carries on."""

    exit_code = 130
    kind = "interrupted"

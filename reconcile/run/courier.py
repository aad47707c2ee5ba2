"""Carries rows to Lago and asks for them back: what was sent, what is not read back yet, and why it stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from reconcile.domain.event import timestamp
from reconcile.domain.frames import ROW_VERDICTS, among, empty, joined
from reconcile.domain.vocabulary import RowClass
from reconcile.errors import DoubtfulFault, ReconcileError
from reconcile.run.deliver import send
from reconcile.run.read import Read
from reconcile.run.read_back import Listed, verify
from reconcile.run.shared import Run

# So many delivered rows are read back together: few enough to keep the memory flat.
_TOGETHER = 20_000


@dataclass(slots=True)
class Courier:
    """The deliveries of one run. `verified` is None until something was sent, then whether Lago was read back since.

    `fault` is what ended the sending; the job raises it once everything that is known is in the books.
    """

    run: Run
    may_send: bool
    verified: bool | None = None
    batches: int = 0
    _read_back: int = 0  # the last batch that was
    details: dict[str, str] = field(default_factory=dict)
    fault: ReconcileError | None = None
    _listed: Listed = field(default_factory=Listed)
    _stored: Mapping[str, Any] | None = None
    _doubt: DoubtfulFault | None = None
    _waiting: list[tuple[pd.DataFrame, list[str]]] = field(default_factory=list)

    def note_listed(self, read: Read) -> None:
        """Takes down how many events Lago listed in a part, before anything is sent to it."""
        if self._stored is None and not self.run.sides.clickhouse:
            self._stored = _one_of(read.events, self.run.settings.event_code)
        if read.part is not None and read.part.core:
            self._listed = self._listed.with_part(read.part.window, len(read.listed_ms))

    def doubt(self, fault: DoubtfulFault) -> None:
        """Sends nothing more, unless the operator decided otherwise. The reading goes on: the report is to be whole."""
        if self.may_send and not self.run.settings.doubtful:
            self.may_send, self._doubt = False, self._doubt or fault

    def raise_doubt(self) -> None:
        """Ends the run with what stopped the sending."""
        if self._doubt is not None:
            raise self._doubt

    def go_on(self) -> None:
        """Raises what ended the sending, and `Interrupted` where the run is to stop."""
        if self.fault is not None:
            raise self.fault
        self.run.go_on()

    def deliver(self, rows: pd.DataFrame, ours: npt.NDArray[np.bool_]) -> pd.DataFrame:
        """Sends rows (ROW_VERDICTS); gives those that were not delivered. The others come from `read_back`."""
        if rows.empty:
            return rows
        with self.run.timing.stage("deliver"):
            sent = send(
                self.run,
                rows,
                ours,
                batches_before=self.batches,
                stored=self._stored,
                lago_works=self.verified is not None,
            )
        self.batches += sent.batches
        self.details |= sent.details
        self.fault = sent.fault
        taken = among(sent.rows["class"], [RowClass.DELIVERED])
        if taken.any():
            self.verified = False
            delivered = sent.rows[taken].reset_index(drop=True)
            accepted = delivered["reason"].eq("accepted").to_numpy(bool)
            self._listed = self._listed.with_accepted(delivered["usage_ms"].to_numpy(np.int64)[accepted])
            self._waiting.append((delivered, [sent.ids[place] for place in np.flatnonzero(taken).tolist()]))
        return sent.rows[~taken]

    @property
    def is_full(self) -> bool:
        """Whether so much was delivered that Lago should be read back before more is."""
        return sum(len(rows) for rows, _ in self._waiting) > _TOGETHER

    def read_back(self) -> pd.DataFrame:
        """Reads Lago back for what was delivered: the rows as Lago shows them."""
        if not self._waiting:
            return empty(ROW_VERDICTS)
        rows, ids = joined([rows for rows, _ in self._waiting]), [name for _, names in self._waiting for name in names]
        found = verify(self.run, rows, ids, self._listed)
        self.fault = self.fault or found.fault
        if found.fault is None:
            # Where the sending ended in a fault, Lago may have taken a batch that it did not answer for.
            self.verified = self.fault is None
            delivered = among(found.rows["class"], [RowClass.DELIVERED]).tolist()
            self.run.sides.ledger.verified(
                self.run.run_id,
                (self._read_back + 1, self.batches),
                [name for name, seen in zip(ids, delivered, strict=True) if seen],
            )
        self._waiting, self._read_back = [], self.batches
        return found.rows

    def abandon(self) -> pd.DataFrame:
        """What Lago answered that it has, where a fault came before it could be read back."""
        if not self._waiting:
            return empty(ROW_VERDICTS)
        self.verified = False
        rows = joined([rows for rows, _ in self._waiting])
        self._waiting = []
        return rows

    def end_stretch(self) -> None:
        """Forgets the parts of the stretch that is done."""
        self._listed = Listed()


def _one_of(events: pd.DataFrame, code: str) -> dict[str, Any] | None:
    """An event that Lago holds, as it can be sent again: it comes back as existing, where Lago works."""
    known = np.flatnonzero(~among(events["subscription_id"], [""]) & events["transaction_id"].ne("").to_numpy(bool))
    if not len(known):
        return None
    place = int(known[0])
    return {
        "transaction_id": str(events["transaction_id"].iloc[place]),
        "external_subscription_id": str(events["subscription_id"].iloc[place]),
        "code": code,
        "timestamp": timestamp(int(events["time_ms"].iloc[place])),
    }

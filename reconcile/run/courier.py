"""Carries rows to Lago and asks for them back: what was sent, what is not read back yet, and why it stopped."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from reconcile.domain.event import timestamp
from reconcile.domain.frames import ROW_VERDICTS, among, empty, joined
from reconcile.domain.vocabulary import RowClass
from reconcile.errors import DoubtfulFault, ReconcileError
from reconcile.run.deliver import Sent, send
from reconcile.run.read import Read
from reconcile.run.read_back import Listed, verify
from reconcile.run.shared import Run

# So many delivered rows are read back together: few enough to keep the memory flat.
_TOGETHER = 20_000


@dataclass(slots=True)
class Courier:
    """The deliveries of one run. `verified` is None until something was sent, then whether Lago was read back since.

    It sends in a thread of its own, one lot of rows at a time. `fault` is what ended the sending; the job raises it
    once everything that is known is in the books.
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
    _sending: Future[Sent] | None = None
    _sent_rows: pd.DataFrame = field(default_factory=lambda: empty(ROW_VERDICTS))  # those of `_sending`
    _refused: list[pd.DataFrame] = field(default_factory=list)  # not delivered, and not handed over yet
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
        if self._sending is not None and self._sending.done():
            self._settle()
        if self.fault is not None:
            raise self.fault
        self.run.go_on()

    def deliver(self, rows: pd.DataFrame, ours: npt.NDArray[np.bool_]) -> pd.DataFrame:
        """Begins to send rows (ROW_VERDICTS) once the ones before them are settled: the job reads on meanwhile.

        Gives rows of earlier calls that were not delivered. The others come from `read_back`. Raises what ended the
        sending before these rows.
        """
        if not rows.empty:
            self._settle()
            if self.fault is not None:
                raise self.fault
            thread = ThreadPoolExecutor(1, thread_name_prefix="courier")
            self._sent_rows, self._sending = (
                rows,
                thread.submit(
                    copy_context().run,
                    send,
                    self.run,
                    rows,
                    ours,
                    batches_before=self.batches,
                    stored=self._stored,
                    lago_works=self.verified is not None,
                ),
            )
            thread.shutdown(wait=False)  # it ends with its work
        return self._handed_over()

    def _settle(self) -> None:
        """Waits for what is on its way, and takes down what became of it."""
        if self._sending is None:
            return
        sending, self._sending = self._sending, None
        with self.run.timing.stage("deliver"):
            wait([sending])
        try:
            sent = sending.result()
        except ReconcileError as error:
            self.fault = error
            self._refused.append(self._sent_rows)
            return
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
        self._refused.append(sent.rows[~taken])

    def _handed_over(self) -> pd.DataFrame:
        rows, self._refused = joined([empty(ROW_VERDICTS), *self._refused]), []
        return rows

    @property
    def is_full(self) -> bool:
        """Whether so much was delivered that Lago should be read back before more is."""
        on_the_way = len(self._sent_rows) if self._sending is not None else 0
        return sum(len(rows) for rows, _ in self._waiting) + on_the_way > _TOGETHER

    def read_back(self) -> pd.DataFrame:
        """Reads Lago back for what was delivered: the rows as Lago shows them, and those that were not delivered."""
        self._settle()
        if not self._waiting:
            return self._handed_over()
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
        return joined([self._handed_over(), found.rows])

    def abandon(self) -> pd.DataFrame:
        """What was given to send, where a fault came before it could be read back."""
        self._settle()
        if not self._waiting:
            return self._handed_over()
        self.verified = False
        rows = joined([self._handed_over(), *(rows for rows, _ in self._waiting)])
        self._waiting = []
        return rows

    def close(self) -> None:
        """Waits for what is on its way: nothing is sent once the run has ended."""
        if self._sending is not None:
            wait([self._sending])

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

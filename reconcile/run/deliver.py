"""Sends rows: the part of the job that can cost money.

The order is what keeps the promise: a row is written to the ledger, then sent under an ID that never changes, then
Lago's answer is taken down, then Lago is read back. Killed anywhere in between, the next run finds out what happened.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd

from reconcile.domain.event import transaction_ids
from reconcile.domain.event_frames import build
from reconcile.domain.frames import changed
from reconcile.domain.vocabulary import Reason, RowClass
from reconcile.errors import ClockFault, LagoFault, ReconcileError
from reconcile.lago import Outcome
from reconcile.lago.delivery import BATCH_SIZE
from reconcile.run.clocks import too_far_apart
from reconcile.run.read_back import listed_ids
from reconcile.run.shared import Run

_BUILT_TOGETHER = 2_000
_WRITTEN_TOGETHER = 25  # lines of the journal
_LOOK_PAUSE = 1.0  # seconds


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of rows that were to be sent: `rows` are ROW_VERDICTS of class delivered (Lago answered that it has
    the event; it is read back later), rejected, misdirected or missing. `ids` are their transaction IDs, `details` what
    Lago said of those it refused, by ID."""

    rows: pd.DataFrame
    ids: list[str]
    details: Mapping[str, str] = field(default_factory=dict)
    batches: int = 0
    fault: ReconcileError | None = None


def own_ids(code: str, rows: pd.DataFrame) -> list[str]:
    """The transaction IDs under which rows are sent."""
    return transaction_ids(
        code, rows["charge_id"].astype("str").tolist(), rows["request_id"].tolist(), rows["start_ms"].tolist()
    )


def send(
    run: Run,
    rows: pd.DataFrame,
    ours: np.ndarray[Any, np.dtype[np.bool_]],
    *,
    batches_before: int,
    stored: Mapping[str, Any] | None,
    lago_works: bool,
) -> Sent:
    """Sends rows (ROW_VERDICTS; `subscription_id` is where the event goes) in batches numbered after `batches_before`.

    `ours` marks those that go out although Lago may hold an event of theirs, as the operator decided. A fault on the
    way is kept in the result, beside what is known of every row. `stored` is an event that Lago is known to hold,
    `lago_works` says that it has taken events in this run: they tell a bad item from a Lago that is down.
    """
    ids = own_ids(run.settings.event_code, rows)
    if run.lock is not None:
        run.lock.confirm()
    granted, batches = _claim(run, rows, ids, ours, batches_before)
    chosen = np.flatnonzero(granted)
    place_of = {ids[place]: place for place in chosen.tolist()}
    kinds = np.full(len(rows), RowClass.MISSING.value, object)
    reasons = np.full(len(rows), Reason.NOT_SENT.value, object)
    kinds[~granted], reasons[~granted] = RowClass.MISDIRECTED.value, Reason.OTHER_CHARGE_ID.value
    details: dict[str, str] = {}
    answers = _Answers(run, batches_before, dict(zip(ids, batches.tolist(), strict=True)))

    def after(outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            place = place_of[outcome.transaction_id]
            if outcome.status in ("accepted", "exists"):
                kinds[place], reasons[place] = RowClass.DELIVERED.value, outcome.status
            elif outcome.status == "refused":
                kinds[place], reasons[place] = RowClass.REJECTED.value, Reason.REFUSED.value
                details[outcome.transaction_id] = outcome.reason or ""
        answers.add(outcomes)

    fault: ReconcileError | None = None
    try:
        try:
            run.sides.lago.deliver(
                events_of(run, rows.iloc[chosen], [ids[place] for place in chosen.tolist()]),
                before_batch=answers.leaves,
                after_batch=after,
                first_answer=_check_clock if batches_before == 0 else None,
                stored=stored,
                look=_look(run, rows, place_of) if run.sides.clickhouse else None,
                stop=run.stop,
            )
        finally:
            answers.write()
    except ReconcileError as error:
        fault = error
    if fault is None and not lago_works and answers.only_failures:
        # One event may be at fault, or Lago may be down: nothing has shown that it takes any.
        fault = LagoFault(f"POST /events: Lago answers nothing but 500 ({next(iter(details.values()), '')})")
        failed = [place_of[name] for name in details]
        kinds[failed], reasons[failed] = RowClass.MISSING.value, Reason.NOT_SENT.value
    places = np.arange(len(rows))
    told = rows.assign(
        **{
            "class": changed(rows["class"], places, kinds.tolist()),
            "reason": changed(rows["reason"], places, reasons.tolist()),
        }
    )
    return Sent(told, ids, details, answers.batches, fault)


class _Answers:
    """Takes Lago's answers down in the journal, a few batches at a time.

    What is not written yet when the job is killed counts as unknown: the next run finds the events in Lago.
    """

    def __init__(self, run: Run, batches_before: int, batch_of: Mapping[str, int]) -> None:
        self._run, self._before, self._batch_of = run, batches_before, batch_of
        self._lines: list[dict[str, Any]] = []
        self._statuses: set[int | None] = set()
        self.batches = 0

    @property
    def only_failures(self) -> bool:
        """Whether Lago answered 500 to everything that was sent."""
        return self._statuses == {500}

    def leaves(self, names: list[str], number: int) -> None:
        """A batch is about to leave. Its rows were claimed as batch `number`, but where bodies are too large for
        that.

        Raises `DatabaseFault` where the lock is gone: another run may be at work on the same rows by now.
        """
        if self._run.lock is not None:
            self._run.lock.confirm()
        self.batches = max(self.batches, number)
        batch = self._before + number
        moved = [name for name in names if self._batch_of[name] != batch]
        if moved:
            were = sorted({self._batch_of[name] for name in moved})
            self._run.sides.ledger.in_batch(self._run.run_id, batch, moved, were)

    def add(self, outcomes: list[Outcome]) -> None:
        self._statuses |= {outcome.http_status for outcome in outcomes}
        self._lines += _lines(outcomes, self._before)
        if len(self._lines) >= _WRITTEN_TOGETHER:
            self.write()

    def write(self) -> None:
        self._run.sides.ledger.answered(self._run.run_id, self._lines)
        self._lines = []


def _look(run: Run, rows: pd.DataFrame, place_of: Mapping[str, int]) -> Callable[[Collection[str]], set[str]]:
    """Which of some events Lago lists, once they have had the time to become visible."""

    def listed(names: Collection[str]) -> set[str]:
        wanted = list(names)
        chosen = rows.iloc[[place_of[name] for name in wanted]]
        deadline = time.monotonic() + run.settings.visible_within.total_seconds()
        while True:
            found = listed_ids(run, chosen, wanted)
            if len(found) == len(wanted) or time.monotonic() >= deadline or run.stop.wait(_LOOK_PAUSE):
                return found

    return listed


def _claim(
    run: Run,
    rows: pd.DataFrame,
    ids: list[str],
    ours: np.ndarray[Any, np.dtype[np.bool_]],
    batches_before: int,
) -> tuple[np.ndarray[Any, np.dtype[np.bool_]], np.ndarray[Any, np.dtype[np.int64]]]:
    """Writes down the rows, and that their batches are about to leave; says which rows may, and in which batch.

    What another charge ID has stays with it.
    """
    wanted = pd.DataFrame(
        {
            **{name: rows[name].array for name in ("request_id", "start_ms", "usage_ms", "spend")},
            **{name: rows[name].astype("str").array for name in ("charge_id", "subscription_id")},
            "transaction_id": pd.array(ids, dtype="str"),
            "batch": 0,
        }
    )
    # Where every row may go out, which is nearly always so, these are the batches that they leave in.
    wanted["batch"] = batches_before + 1 + np.arange(len(rows)) // BATCH_SIZE
    granted = np.zeros(len(rows), bool)
    settled_before = datetime.now(UTC) - run.settings.visible_within
    for chosen in (False, True):
        places = np.flatnonzero(ours == chosen)
        if len(places):
            granted[places] = run.sides.ledger.claim(
                run.sides.stream, run.run_id, wanted.iloc[places], settled_before=settled_before, ours=chosen
            )
    batches = wanted["batch"].to_numpy(np.int64)
    numbers, counts = np.unique(batches[granted], return_counts=True)
    run.sides.ledger.sending(run.run_id, dict(zip(numbers.tolist(), counts.tolist(), strict=True)))
    return granted, batches


def events_of(run: Run, rows: pd.DataFrame, ids: list[str]) -> Iterator[dict[str, Any]]:
    """The events of the rows, a few thousand built at a time, while earlier ones are on their way."""
    for first in range(0, len(rows), _BUILT_TOGETHER):
        part = rows.iloc[first : first + _BUILT_TOGETHER]
        made = part.assign(
            transaction_id=pd.array(ids[first : first + len(part)], dtype="str"), bare_model=part["model"].astype("str")
        )
        yield from build(made, run.shape)


def _lines(outcomes: list[Outcome], batches_before: int) -> list[dict[str, Any]]:
    """The journal's lines about one batch: a single one where all of it was accepted."""
    number = batches_before + outcomes[0].batch
    if all(outcome.status == "accepted" for outcome in outcomes):
        first = outcomes[0]
        return [
            {
                "batch": number,
                "transaction_id": "",
                "what": "accepted",
                "http_status": first.http_status,
                "reason": None,
                "events": len(outcomes),
            }
        ]
    return [
        {
            "batch": batches_before + outcome.batch,
            "transaction_id": outcome.transaction_id,
            "what": outcome.status,
            "http_status": outcome.http_status,
            "reason": outcome.reason,
            "events": 1,
        }
        for outcome in outcomes
    ]


def _check_clock(created_at: datetime | None) -> None:
    """Ends the delivery after its first batch where Lago's clock is not this host's."""
    if created_at is not None and too_far_apart(created_at, datetime.now(UTC)):
        raise ClockFault(
            f"this host's clock and Lago's are more than a minute apart: Lago stored the first event at "
            f"{created_at:%Y-%m-%d %H:%M:%S} UTC; set the clocks right (NTP) and run again"
        )

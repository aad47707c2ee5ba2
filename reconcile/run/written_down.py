"""What the ledger knows of one request ID: what was sent for it, why it was held back, and the runs over its time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC
from typing import Any, Self

from reconcile.domain.instants import moment
from reconcile.domain.money import decimal_of, plain
from reconcile.domain.story import Delivered, HeldBack, JournalLine, RunOver, Story
from reconcile.domain.vocabulary import RowClass
from reconcile.run.preflight import Sides

_RUNS_TOLD = 3


@dataclass(frozen=True, slots=True)
class Known:
    """What the ledger knows of a request ID, by the start of its rows in ms."""

    deliveries: Mapping[int, tuple[Delivered, ...]]
    held: Mapping[int, Mapping[str, Any]]

    def held_back(self, start_ms: int) -> HeldBack | None:
        found = self.held.get(start_ms)
        return None if found is None else HeldBack(found["run_id"], found["reason"], found["since"].astimezone(UTC))

    @classmethod
    def of(cls, sides: Sides, request_id: str) -> Self:
        """Reads it from the ledger."""
        ledger, stream = sides.ledger, sides.stream
        held = {int(one["start_ms"]): one for one in ledger.held_of(stream, request_id)}
        return cls(_deliveries(ledger.deliveries_of(stream, request_id)), held)

    @property
    def starts(self) -> set[int]:
        """The starts of the rows that were sent or held, in ms."""
        return {*self.deliveries, *self.held}


def deleted(sides: Sides, request_id: str, start_ms: int, known: Known) -> Story:
    """The story of a row that LiteLLM has deleted, as far as the ledger knows it."""
    held, deliveries = known.held.get(start_ms), known.deliveries.get(start_ms, ())
    copy = {} if held is None else held["row"]
    return Story(
        request_id=request_id,
        row=None,
        charge_id=str(copy.get("charge_id", "")) or next((one.charge_id for one in deliveries), ""),
        row_class=RowClass.HELD.value if held is not None else None,
        reason=None if held is None else str(held["reason"]),
        ambiguous=False,
        is_long=False,
        event=None,
        event_id=None,
        nobody=None,
        young_until=None,
        looked_from=None,
        looked_to=None,
        events=(),
        events_total=0,
        deliveries=deliveries,
        held=known.held_back(start_ms),
        subscriptions=(),
        runs=runs_over(sides, int(held["usage_ms"])) if held is not None else (),
    )


def runs_over(sides: Sides, usage_ms: int) -> tuple[RunOver, ...]:
    """The stream's latest runs over a usage time."""
    return tuple(
        RunOver(
            run_id=one["run_id"],
            command=one["command"],
            dry_run=one["dry_run"],
            status=one["status"],
            exit_code=one["exit_code"],
            started_at=one["started_at"].astimezone(UTC),
            finished_at=None if one["finished_at"] is None else one["finished_at"].astimezone(UTC),
        )
        for one in sides.ledger.runs_over(sides.stream, moment(usage_ms), _RUNS_TOLD)
    )


def _deliveries(lines: Iterable[Mapping[str, Any]]) -> dict[int, tuple[Delivered, ...]]:
    """The ledger's entries by the row's start, each with its lines of the journal."""
    entries: dict[tuple[int, str, str], list[Mapping[str, Any]]] = {}
    for line in lines:
        entries.setdefault((line["start_ms"], line["run_id"], line["transaction_id"]), []).append(line)
    found: dict[int, tuple[Delivered, ...]] = {}
    for (start_ms, run_id, name), told in entries.items():
        first = told[0]
        delivered = Delivered(
            run_id=run_id,
            batch=first["batch"],
            charge_by=first["charge_by"],
            charge_id=first["charge_id"],
            subscription_id=first["subscription_id"],
            transaction_id=name,
            spend=amount(first["spend"]),
            sent_at=first["sent_at"].astimezone(UTC),
            journal=tuple(
                JournalLine(line["at"].astimezone(UTC), line["what"], line["http_status"], line["reason"])
                for line in told
                if line["what"] is not None
            ),
        )
        found[start_ms] = (*found.get(start_ms, ()), delivered)
    return found


def amount(spend: float) -> str:
    """A spend as a decimal string; `nan` and the like as they are."""
    return plain(decimal_of(spend)) if math.isfinite(spend) else str(spend)

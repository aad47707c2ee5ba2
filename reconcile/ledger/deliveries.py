"""What was handed to Lago: written down before the first byte leaves, completed after, never changed in between.

A row's entry names the run and the batch that it went out with; the journal says what Lago answered to that batch, in
one line where the whole batch was accepted, in one line per event where it was not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pandas as pd
from sqlalchemy import insert, text

from reconcile import statements
from reconcile.ledger.database import LedgerDatabase, Stream
from reconcile.ledger.tables import journal

_CLAIMED_TEXT = ("request_id", "charge_id", "subscription_id", "transaction_id")
_CLAIMED_NUMBERS = ("start_ms", "usage_ms", "spend", "batch")
_DELIVERED = ("request_id", "charge_id", "transaction_id", "start_ms", "taken", "left_by")


def _as_json(values: Sequence[str]) -> str:
    return orjson.dumps(values).decode()


def _as_array(numbers: Sequence[float]) -> str:
    """Numbers as Postgres writes an array of them."""
    return "{" + ",".join(map(repr, numbers)) + "}"


def _delivered(found: list[Any]) -> pd.DataFrame:
    frame = pd.DataFrame(found, columns=list(_DELIVERED))
    return frame.astype(
        {"request_id": "str", "charge_id": "str", "transaction_id": "str", "start_ms": np.int64, "taken": bool}
    )


_NOTHING = _delivered([])  # as most slices of most nights have it


class Deliveries(LedgerDatabase):
    """The deliveries and their journal."""

    def delivered(self, stream: Stream, usage_from_ms: int, usage_to_ms: int) -> pd.DataFrame:
        """What was handed to Lago for rows with a usage time in the half-open range, for any charge ID.

        Columns: request_id, charge_id, transaction_id (str), start_ms (int64), taken (bool), left_by (when the event
        had left at the latest).
        """
        with self._begin() as connection:
            found = connection.execute(
                text(statements.text("delivered")),
                {
                    "organization": stream.organization,
                    "event_code": stream.event_code,
                    "usage_from": usage_from_ms,
                    "usage_to": usage_to_ms,
                },
            ).all()
        return _delivered(list(found)) if found else _NOTHING.copy(deep=False)

    def deliveries_of(self, stream: Stream, request_id: str) -> list[dict[str, Any]]:
        """What was handed to Lago for a request ID, by any charge-by, the oldest first: a line for each line of the
        journal about it (columns of `sql/deliveries_of_request.sql`)."""
        with self._begin() as connection:
            found = connection.execute(
                text(statements.text("deliveries_of_request")),
                {"organization": stream.organization, "event_code": stream.event_code, "request_id": request_id},
            )
            return [dict(line) for line in found.mappings()]

    def claim(
        self, stream: Stream, run_id: str, rows: pd.DataFrame, *, settled_before: datetime, ours: bool = False
    ) -> npt.NDArray[np.bool_]:
        """Writes down, before they are sent, which rows go out; says of each whether it may.

        A request that was handed to Lago for another charge ID stays with it, unless nothing is known of an answer and
        it had left before `settled_before`. `ours` sends it all the same, as an operator may decide.
        `rows`: request_id, start_ms, charge_id, subscription_id, transaction_id, usage_ms, spend, batch.
        """
        granted = np.ones(len(rows), bool)
        if rows.empty:
            return granted
        with self._begin() as connection:
            refused = connection.execute(
                text(statements.text("claim_deliveries")),
                {
                    **stream.key(),
                    "run_id": run_id,
                    "sent_at": datetime.now(UTC),
                    "settled_before": settled_before,
                    "ours": ours,
                    **{name: _as_json(rows[name].tolist()) for name in _CLAIMED_TEXT},
                    **{name: _as_array(rows[name].tolist()) for name in _CLAIMED_NUMBERS},
                },
            )
            for (place,) in refused:
                granted[place - 1] = False
        return granted

    def in_batch(self, run_id: str, batch: int, transaction_ids: Sequence[str], were: Sequence[int]) -> None:
        """Notes deliveries of a run under the batch that they leave in; `were` are those that they are noted under."""
        with self._begin() as connection:
            connection.execute(
                text(statements.text("move_deliveries")),
                {"run_id": run_id, "batch": batch, "ids": list(transaction_ids), "were": list(were)},
            )

    def sending(self, run_id: str, batches: Mapping[int, int]) -> None:
        """Takes down that batches are about to leave: their numbers, and how many events each holds."""
        now = datetime.now(UTC)
        with self._begin() as connection:
            connection.execute(
                insert(journal),
                [
                    {"at": now, "run_id": run_id, "batch": batch, "transaction_id": "", "what": "sent", "events": count}
                    for batch, count in batches.items()
                ],
            )

    def verified(self, run_id: str, batches: tuple[int, int], transaction_ids: Sequence[str]) -> None:
        """Takes down that Lago was read back and shows these deliveries of the run: a line per batch.

        `batches` are the first and the last of those that they left in.
        """
        if not transaction_ids:
            return
        with self._begin() as connection:
            connection.execute(
                text(statements.text("verify_deliveries")),
                {
                    "run_id": run_id,
                    "at": datetime.now(UTC),
                    "first_batch": batches[0],
                    "last_batch": batches[1],
                    "shown": _as_json(transaction_ids),
                },
            )

    def answered(self, run_id: str, answers: Sequence[Mapping[str, Any]]) -> None:
        """Takes down what Lago answered: batch, transaction_id ('' for a whole batch), what, http_status, reason,
        events.

        An event that Lago has, though its batch was not accepted as a whole, is noted at its delivery as well.
        """
        if not answers:
            return
        now = datetime.now(UTC)
        taken = [answer for answer in answers if answer["transaction_id"] and answer["what"] in ("accepted", "exists")]
        with self._begin() as connection:
            connection.execute(insert(journal), [{"at": now, "run_id": run_id, **answer} for answer in answers])
            if taken:
                connection.execute(
                    text(statements.text("take_deliveries")),
                    {
                        "run_id": run_id,
                        "batches": sorted({answer["batch"] for answer in taken}),
                        "taken": [answer["transaction_id"] for answer in taken],
                    },
                )

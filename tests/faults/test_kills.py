"""SIGKILL at each moment at which the job has just written something, or is about to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from .world import COMMAND, Mode, World

COMMIT = b"COMMIT"
BEGIN_RUN = b"INSERT INTO reconcile.runs"
CLAIM = b"INSERT INTO reconcile.deliveries"
JOURNAL = b"INSERT INTO reconcile.journal"
READ_BACK = b"'read_back'"
HOURS = b"INSERT INTO reconcile.hours"
SLICES = b"INSERT INTO reconcile.slices"
FINISH = b"UPDATE reconcile.runs"
ROWS = b'"LiteLLM_SpendLogs"'
LIST = b"GET /api/v1/events?"
BATCH = b"POST /api/v1/events/batch"

LEDGER = {
    "begin_run written": ("after", BEGIN_RUN),
    "begin_run committed": ("after", BEGIN_RUN, COMMIT),
    "claim about to be written": ("before", CLAIM),
    "claim written, not committed": ("after", CLAIM),
    "claim about to be committed": ("before", CLAIM, COMMIT),
    "claim committed": ("after", CLAIM, COMMIT),
    "batches journalled as leaving": ("after", CLAIM, JOURNAL, COMMIT),
    "answers about to be journalled": ("before", CLAIM, JOURNAL, COMMIT, JOURNAL),
    "answers journalled, not committed": ("after", CLAIM, JOURNAL, COMMIT, JOURNAL),
    "answers journalled": ("after", CLAIM, JOURNAL, COMMIT, JOURNAL, COMMIT),
    "second claim committed": ("after", CLAIM, COMMIT, CLAIM, COMMIT),
    "read-back about to be journalled": ("before", READ_BACK),
    "read-back journalled": ("after", READ_BACK, COMMIT),
    "slices about to be kept": ("before", SLICES),
    "slices kept": ("after", SLICES, COMMIT),
    "hours kept": ("after", HOURS, COMMIT),
    "run about to be finished": ("before", FINISH),
    "run finished, not committed": ("after", FINISH),
    "run finished": ("after", FINISH, COMMIT),
}

LAGO = {
    "events about to be listed": ("before", LIST),
    "events listed": ("after", LIST),
    "first batch about to leave": ("before", BATCH),
    "first batch stored, answer on its way": ("after", BATCH),
    "second batch about to leave": ("before", BATCH, BATCH),
    "second batch stored, answer on its way": ("after", BATCH, BATCH),
    "last batch stored, answer on its way": ("after", BATCH, BATCH, BATCH, BATCH),
    "read-back about to be asked for": ("before", BATCH, LIST),
    "read-back answered": ("after", BATCH, LIST),
}

MOMENTS: dict[str, tuple[str, tuple[Any, ...]]] = {
    **{name: ("to_postgres", moment) for name, moment in LEDGER.items()},
    **{name: ("to_lago", moment) for name, moment in LAGO.items()},
}

# In CI the Postgres store meets every third moment, the others those at which they differ from it.
TELLING = (
    "claim committed",
    "first batch stored, answer on its way",
    "second batch about to leave",
    "answers journalled",
)


def moments() -> list[Any]:
    return [
        pytest.param(mode, name, id=f"{mode}: {name}", marks=() if told else pytest.mark.whole_matrix)
        for mode in ("postgres", "clickhouse", "1.38")
        for number, name in enumerate(MOMENTS)
        for told in [name in TELLING or (mode == "postgres" and number % 3 == 0)]
    ]


@pytest.mark.parametrize(("mode", "name"), moments())
def test_killed(worlds: Callable[..., World], mode: Mode, name: str) -> None:
    world = worlds(mode)
    world.fill()
    side, (when, *patterns) = MOMENTS[name]
    world.killed_at(getattr(world, side).trap(*patterns, when=when), *COMMAND, RECONCILE_CONCURRENCY="1")
    world.never_twice()
    world.heals()

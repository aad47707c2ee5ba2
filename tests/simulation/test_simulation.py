"""Some hundred worlds in every build; thousands by hand with `python tests/simulation --seeds 1-2000`.

Each call is a process of its own: the simulator turns the clock of its whole process, and a server of other tests that
waits in the same one would wait for a time that never comes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .bugs.planted import BUGS

TOGETHER = 20
SEEDS = range(1, 121, TOGETHER)
# Of the planted bugs those that the first seeds find; all of them by hand with `python tests/simulation --bugs`.
FOUND = {
    "random_transaction_id": 1,
    "own_time_of_sending": 1,
    "ledger_after_sending": 4,
    "price_ignored": 5,
    "rows_at_the_edge_lost": 18,
}


def simulation(*arguments: str, hash_seed: str = "0") -> tuple[int, str]:
    """The exit code and what was told, without the line that says how long it took."""
    ended = subprocess.run(
        [sys.executable, Path(__file__).parent, *arguments],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=False,
    )
    told = [line for line in ended.stdout.splitlines() if " seeds in " not in line]
    return ended.returncode, "\n".join(told) + ended.stderr


@pytest.mark.parametrize("first", SEEDS)
def test_every_promise_holds_in_every_world(first: int) -> None:
    code, told = simulation("--seeds", f"{first}-{first + TOGETHER - 1}")
    assert code == 0, told
    assert "sent: " in told, "no world had anything to send"


@pytest.mark.parametrize(("name", "seed"), FOUND.items(), ids=list(FOUND))
def test_a_planted_bug_is_found(name: str, seed: int) -> None:
    code, told = simulation("--bugs", name, "--seeds", str(seed))
    assert (code, told.startswith(f"{name}: seed {seed}: ")) == (0, True), told


def test_a_seed_tells_the_same_story_twice() -> None:
    assert simulation("7", hash_seed="1") == simulation("7", hash_seed="2")


def test_twelve_bugs_are_planted() -> None:
    assert len(BUGS) >= 12

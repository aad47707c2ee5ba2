"""Some hundred worlds in every build; thousands by hand with `python tests/simulation --seeds 1-2000`."""

from __future__ import annotations

from collections import Counter

import pytest

from reconcile.sandbox.postgres import create_database

from .bugs.planted import BUGS
from .command import again, find, migrate
from .play import play

SEEDS = range(1, 121)
TOGETHER = 10
# Of the planted bugs those that the first seeds find; all of them by hand with `python tests/simulation --bugs`.
FOUND = {
    "random_transaction_id": 1,
    "own_time_of_sending": 1,
    "ledger_after_sending": 4,
    "price_ignored": 5,
    "rows_at_the_edge_lost": 18,
}


@pytest.fixture(scope="session")
def ledgers(postgres_url: str) -> str:
    """A database for the ledgers of all worlds."""
    url = create_database(postgres_url)
    migrate(url)
    return url


@pytest.mark.parametrize("first", SEEDS[::TOGETHER])
def test_every_promise_holds_in_every_world(first: int, ledgers: str) -> None:
    counts: Counter[str] = Counter()
    for seed in range(first, first + TOGETHER):
        verdict = play(seed, ledgers)
        assert not verdict.wrong, "\n".join([*verdict.story, f"seed {seed}: {verdict.wrong}", f"again: {again(seed)}"])
        counts += verdict.counts
    assert counts["sent"], "no world had anything to send"
    assert counts["doubtful"] < TOGETHER


@pytest.mark.parametrize(("name", "seed"), FOUND.items(), ids=list(FOUND))
def test_a_planted_bug_is_found(name: str, seed: int, ledgers: str) -> None:
    assert find(name, ledgers, [seed]) is not None


def test_a_seed_tells_the_same_story_twice(ledgers: str) -> None:
    assert play(7, ledgers).story == play(7, ledgers).story


def test_twelve_bugs_are_planted() -> None:
    assert len(BUGS) >= 12

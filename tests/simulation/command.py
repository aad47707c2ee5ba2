"""The simulator's command line: seeds, ranges of seeds, and the planted bugs."""

from __future__ import annotations

import argparse
import contextlib
import gc
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from reconcile.ledger import Ledger
from reconcile.sandbox.postgres import create_database, postgres
from reconcile.settings import load

from .bugs.planted import BUGS, KNOWN
from .play import play

# A planted bug has to be found within so many seeds.
WITHIN = 500


def main(arguments: Sequence[str]) -> int:
    """0 where every promise held in every world (with --bugs: where every bug was found), 1 otherwise."""
    parser = argparse.ArgumentParser("python tests/simulation", description="Plays worlds around the job.")
    parser.add_argument("seed", nargs="*", type=int, help="a seed, with its story")
    parser.add_argument("--seeds", metavar="A-B", help="a range of seeds, with the stories of those that fail")
    parser.add_argument("--bugs", nargs="*", metavar="NAME", help="plant bugs (all without a name), find each")
    parser.add_argument("--known", action="store_true", help="with --bugs: play the seed that is known to find each")
    given = parser.parse_args(arguments)
    # The job leaves few cycles behind, and a collection looks at every object of pandas: between two seeds will do.
    gc.disable()
    with ledger_database() as url:
        if given.bugs is not None:
            names = given.bugs or list(BUGS)
            seeds = _range(given.seeds) or range(1, WITHIN + 1)
            return _bugs({name: (KNOWN[name],) if given.known else seeds for name in names}, url)
        return _seeds(given.seed, _range(given.seeds), url)


@contextlib.contextmanager
def ledger_database() -> Iterator[str]:
    """A Postgres with schema `reconcile`, for the ledgers of all worlds."""
    with postgres() as server:
        url = create_database(server)
        migrate(url)
        yield url


def migrate(url: str) -> None:
    names = {"LAGO_API_BASE": "http://lago.test", "LAGO_API_KEY": "none", "LAGO_API_EVENT_CODE": "none"}
    state = load({"DATABASE_URL": url, **names}, None).state
    with Ledger(state.sqlalchemy, state.display) as ledger:
        ledger.migrate()


def again(seed: int) -> str:
    """The command that plays a seed again."""
    return f"python tests/simulation {seed}"


def find(name: str, url: str, seeds: Sequence[int]) -> tuple[int, str] | None:
    """The first seed that a planted bug fails, and what is broken; None where no seed does."""
    for seed in seeds:
        verdict = play(seed, url, BUGS[name])
        if verdict.wrong:
            return seed, verdict.wrong
    return None


def _seeds(alone: Sequence[int], more: Sequence[int], url: str) -> int:
    counts: Counter[str] = Counter()
    failed, began = [], time.perf_counter()
    for seed in [*alone, *more]:
        verdict = play(seed, url)
        counts += verdict.counts
        if verdict.wrong or seed in alone:
            print("\n".join(verdict.story))
        if verdict.wrong:
            failed.append(seed)
            print(f"seed {seed}: {verdict.wrong}\nagain: {again(seed)}", flush=True)
    print(f"{len(alone) + len(more)} seeds in {time.perf_counter() - began:.0f} s, {len(failed)} failed {failed or ''}")
    print(", ".join(f"{name}: {count}" for name, count in sorted(counts.items())))
    return 1 if failed else 0


def _bugs(seeds_of: Mapping[str, Sequence[int]], url: str) -> int:
    missed = 0
    for name, seeds in seeds_of.items():
        found = find(name, url, seeds)
        missed += found is None
        print(f"{name}: " + ("not found" if found is None else f"seed {found[0]}: {found[1][:160]}"), flush=True)
    return 1 if missed else 0


def _range(text: str | None) -> Sequence[int]:
    if text is None:
        return ()
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)

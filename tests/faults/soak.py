"""Hours of bad luck, by hand: `python tests/faults/soak.py --minutes 60`.

Three living worlds (a Lago of each kind) get new calls every moment, some with their live event, some with a late row.
Over each of them a `reconcile schedule` works, and one-shot runs beside it. All the time something breaks: processes
are killed or stopped, connections cut, slowed, silenced and refused, Lago answers nonsense, Postgres restarts.
The schedule of the first world is never killed: its memory, descriptors and threads are watched. At the end the faults
stop, and every row must be in Lago exactly once.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from integration.spend_rows import TEAMS, row

from faults.launcher import Launcher, Process, launching
from faults.proxy import Proxy
from faults.server import TEMPLATE, Server, restartable
from faults.test_kills import MOMENTS
from faults.world import BEGIN, CODE, END, Mode, World
from reconcile.sandbox.lago import V1_38, LagoStandIn
from reconcile.sandbox.postgres import create_database, postgres
from reconcile.sandbox.servers import lago_server

MODES: tuple[Mode, ...] = ("postgres", "clickhouse", "1.38")
CRON = """
jobs:
  everyone: {cron: "* * * * *", command: run, report: {folder: reports, formats: [html, json]}}
"""
SETTINGS = {
    "RECONCILE_LAG": "10s",
    "RECONCILE_LOOKBACK": "3m",
    "RECONCILE_MAX_CALL": "1h",
    "RECONCILE_METRICS_ADDRESS": "off",
    "RECONCILE_ALERT_OVERDUE": "0s",
    # Rows are lost here by the dozen, and events lie about without one for the moment between two inserts.
    "RECONCILE_DOUBTFUL": "send",
    "RECONCILE_DOUBT_BEFORE": "1s",
    "RECONCILE_DOUBT_AFTER": "1s",
    "RECONCILE_RECHECK": "3h",
}


@dataclass
class Living:
    """A world in which time passes."""

    world: World
    chance: random.Random
    schedule: Process | None = None
    once: list[Process] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    number: int = 0
    unwritten: list[tuple[float, dict[str, Any]]] = field(default_factory=list)

    def passes(self) -> None:
        """A moment's traffic: calls end, and their live events are posted; LiteLLM writes the rows seconds later, some
        of them much later than RECONCILE_LAG."""
        calls = []
        for _ in range(self.chance.randrange(3, 12)):
            self.number += 1
            kind = "live" if self.chance.random() < 0.6 else "lost"
            ended = datetime.now(UTC)
            call = row(
                f"{kind}-{self.number}",
                ended.replace(microsecond=ended.microsecond // 1000 * 1000),
                team_id=self.chance.choice(TEAMS),
                # No two alike: what cannot be told apart cannot be counted from outside.
                spend=0.000001 * self.number,
                total_tokens=30 + self.number,
            )
            calls.append(call)
            delay = self.chance.uniform(20, 60) if self.chance.random() < 0.125 else self.chance.uniform(0, 6)
            self.unwritten.append((time.monotonic() + delay, call))
        self.world.call(calls)
        self.writes(time.monotonic())

    def writes(self, until: float) -> None:
        due = [call for at, call in self.unwritten if at <= until]
        self.unwritten = [(at, call) for at, call in self.unwritten if at > until]
        if due:
            self.world.write(due)

    def works(self) -> None:
        """Sees to it that the schedule runs, and now and then starts a run beside it."""
        if self.schedule is None or self.schedule.poll() is not None:
            self._note("schedule", self.schedule)
            self.schedule = self.world.start("schedule", fresh=True, **SETTINGS)
        for process in [one for one in self.once if one.poll() is not None]:
            self._note("once", process)
            self.once.remove(process)
        if len(self.once) < 2 and self.chance.random() < 0.25:
            dry = ("--dry-run",) if self.chance.random() < 0.1 else ()
            self.once.append(self.world.start("run", "--json", "--output", "reports", *dry, **SETTINGS))

    def _note(self, what: str, process: Process | None) -> None:
        if process is None:
            return
        ran = self.world.ended(process, exact=False)
        self.world.processes.remove(process)
        process.out.unlink()
        process.err.unlink()
        self.codes[f"{what} {ran.code}"] += 1
        assert ran.code in (0, 1, 3, 4, -signal.SIGKILL), (what, ran.code, ran.err[-3000:])

    def stops(self) -> None:
        """The faults end, and the schedule stops as it should."""
        self.world.release()
        if self.schedule is not None and self.schedule.poll() is None:
            self.schedule.kill(signal.SIGTERM)
            assert self.schedule.wait(60) == 0, self.schedule.err.read_text()[-3000:]
        for process in self.once:
            assert process.wait() is not None
            self._note("once", process)
        self.writes(math.inf)

    def is_exact(self) -> None:
        """One more run, or two, make all of it exact, and leave nothing behind."""
        for _ in range(2):
            ran = self.world.run("run", "--json", **SETTINGS)
            assert ran.code in (0, 1), (ran.code, ran.err[-3000:])
            self.world.is_exact()
            assert ran.code == 0, (ran.document["rows"], ran.document["events"])
        self.world.nothing_left()


# --- what happens to it


def killed(living: Living, steady: bool) -> None:
    chosen = [*living.once, *([] if steady or living.schedule is None else [living.schedule])]
    if chosen:
        living.chance.choice(chosen).kill()


def paused(living: Living, steady: bool) -> None:
    chosen = [*living.once, *([] if living.schedule is None else [living.schedule])]
    with contextlib.suppress(ProcessLookupError):
        process = living.chance.choice(chosen)
        process.kill(signal.SIGSTOP)
        time.sleep(living.chance.uniform(0.1, 1.5))
        process.kill(signal.SIGCONT)


def killed_at_a_moment(living: Living, steady: bool) -> None:
    side, (when, *patterns) = living.chance.choice(list(MOMENTS.values()))
    proxy: Proxy = getattr(living.world, side)
    trap = proxy.trap(*patterns, when=when)
    process = living.world.start("run", **SETTINGS)
    living.once.append(process)
    deadline = time.monotonic() + 8
    while not trap.sprung.is_set() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    proxy.release()


def cut(living: Living, steady: bool) -> None:
    living.chance.choice([living.world.to_lago, living.world.to_postgres]).cut(reset=living.chance.random() < 0.5)


def broken_at_a_moment(living: Living, steady: bool) -> None:
    side, (when, *patterns) = living.chance.choice(list(MOMENTS.values()))
    proxy: Proxy = getattr(living.world, side)
    proxy.trap(*patterns, when=when, then="vanish" if side == "to_lago" else "reset")
    time.sleep(living.chance.uniform(1, 5))
    proxy.traps = []


def slow(living: Living, steady: bool) -> None:
    proxy = living.chance.choice([living.world.to_lago, living.world.to_postgres])
    proxy.latency = living.chance.uniform(0.005, 0.1)
    time.sleep(living.chance.uniform(1, 4))
    proxy.latency = 0.0


def dripping(living: Living, steady: bool) -> None:
    living.world.to_lago.drip = (living.chance.randrange(200, 2000), 0.02)
    time.sleep(living.chance.uniform(1, 4))
    living.world.to_lago.drip = None


def refused(living: Living, steady: bool) -> None:
    proxy = living.chance.choice([living.world.to_lago, living.world.to_postgres])
    proxy.refusing = True
    time.sleep(living.chance.uniform(0.2, 5))
    proxy.refusing = False


def nonsense(living: Living, steady: bool) -> None:
    faults, chance = living.world.faults, living.chance
    times, method = chance.randrange(1, 4), chance.choice([None, "POST", "GET"])
    for plan in chance.sample([faults.drop, faults.reset, faults.hang, faults.rate_limit, faults.answer], 2):
        if plan == faults.answer:
            faults.answer(chance.choice([500, 502, 503, 504]), times=times, method=method)
        elif plan == faults.rate_limit:
            faults.rate_limit(reset=0.5, times=times)
        else:
            plan(times=times, method=method)


def thrown_out(living: Living, steady: bool) -> None:
    """Postgres ends every session of the job's database."""
    name = living.world.database_url.rpartition("/")[2]
    living.world.query(
        """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = %s AND pid <> pg_backend_pid()""",
        (name,),
    )


FAULTS: tuple[Callable[[Living, bool], None], ...] = (
    killed,
    killed,
    killed_at_a_moment,
    killed_at_a_moment,
    broken_at_a_moment,
    paused,
    cut,
    slow,
    dripping,
    refused,
    nonsense,
    thrown_out,
)


@dataclass(frozen=True, slots=True)
class Figures:
    """What a process needs: memory in MB, descriptors, threads."""

    memory: float
    descriptors: int
    threads: int


def figures(pid: int) -> Figures:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return Figures(
        int(status["VmRSS"].split()[0]) / 1024, len(list(Path(f"/proc/{pid}/fd").iterdir())), int(status["Threads"])
    )


@contextlib.contextmanager
def a_world(mode: Mode, server: Server, lago_database: str, launcher: Launcher, folder: Path) -> Iterator[World]:
    stand_in = LagoStandIn(lago_database, version=V1_38) if mode == "1.38" else LagoStandIn(lago_database)
    with stand_in, lago_server(stand_in) as url:
        key = f"lago-secret-key-soak-{mode}"
        store = "clickhouse" if mode == "clickhouse" else "postgres"
        organization = stand_in.add_organization(key, events_store=store)
        organization.add_billable_metric(CODE)
        stand_in.faults.before_1_39 = mode == "1.38"
        stand_in.faults.visibility_lag = 1.0 if mode == "clickhouse" else 0.0
        for team in TEAMS:
            organization.add_subscription(team, started_at=BEGIN, period=(BEGIN, END))
        folder.mkdir()
        (folder / "cron.yaml").write_text(CRON)
        to_lago = Proxy("127.0.0.1", int(url.rpartition(":")[2]))
        to_postgres = Proxy("127.0.0.1", 1)
        world = World(
            mode,
            create_database(server.url, template=TEMPLATE),
            url,
            key,
            stand_in,
            organization,
            folder,
            launcher,
            to_postgres,
            to_lago,
        )
        server.is_behind(world)
        try:
            yield world
        finally:
            for process in world.processes:
                process.kill()
            to_lago.close()
            to_postgres.close()


def soak(minutes: float, seed: int) -> None:
    chance = random.Random(seed)
    with contextlib.ExitStack() as stack:
        launcher = stack.enter_context(launching())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reconcile-soak-")))
        lago_server_url = stack.enter_context(postgres())
        server = stack.enter_context(restartable())
        worlds = [
            stack.enter_context(
                a_world(mode, server, create_database(lago_server_url), launcher, folder / f"world-{mode}")
            )
            for mode in MODES
        ]
        living = [Living(world, random.Random(chance.random())) for world in worlds]
        until = time.monotonic() + 60 * minutes
        told = time.monotonic() + 30
        seen: list[Figures] = []
        happened: Counter[str] = Counter()
        restart_at = time.monotonic() + 45
        print(f"seed {seed}, {minutes:g} minutes", flush=True)
        while time.monotonic() < until:
            for one in living:
                one.passes()
                one.works()
            steady = living[0].schedule
            assert steady is not None
            one = chance.choice(living)
            fault = chance.choice(FAULTS)
            if fault is not paused or one.once or one.schedule:
                fault(one, one is living[0])
                happened[fault.__name__] += 1
            if time.monotonic() > restart_at:
                server.restart(*worlds)
                happened["Postgres restarted"] += 1
                restart_at = time.monotonic() + 90
            if time.monotonic() > told:
                seen.append(figures(steady.pid))
                told += 30
                rows, now = sum(one.number for one in living), seen[-1]
                print(
                    f"{(until - time.monotonic()) / 60:5.1f} min left, {rows:6} rows, {happened.total():4} faults; "
                    f"schedule: {now.memory:.1f} MB, {now.descriptors} descriptors, {now.threads} threads",
                    flush=True,
                )
            for one in living:
                if one.world.mode != "clickhouse":
                    one.world.never_twice()
            time.sleep(chance.uniform(0.0, 0.5))
        threads = threading.active_count()
        for one in living:
            one.stops()
        time.sleep(12)  # every row is older than RECONCILE_LAG
        for one in living:
            one.is_exact()
            print(f"{one.world.mode}: exact, {one.number} rows, {dict(sorted(one.codes.items()))}", flush=True)
        print(f"faults: {dict(sorted(happened.items()))}; {threads} threads here")
        quarter = len(seen) // 4
        if quarter:
            parts = (statistics.median(one.memory for one in seen[i * quarter : (i + 1) * quarter]) for i in range(4))
            medians = ", ".join(f"{part:.1f}" for part in parts)
            print(f"memory of the steady schedule, medians of the quarters: {medians} MB")
            print(f"its descriptors: {seen[0].descriptors} at first, {seen[-1].descriptors} at last")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    given = parser.parse_args()
    soak(given.minutes, given.seed)


if __name__ == "__main__":
    main()

"""Plays one seed: nights with trouble, runs again after it, calm nights, a backfill, a report; the oracle watches."""

from __future__ import annotations

import gc
import random
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import psycopg

from reconcile.domain import window as windows
from reconcile.domain.instants import as_ms
from reconcile.domain.window import Window
from reconcile.run.order import Order

from . import job
from .machine import DAY, HOUR, MINUTE, Machine, Trouble, moment, shown
from .oracle import Ledger, Oracle, Run, Wrong
from .world import NIGHT, World, make


@dataclass
class Verdict:
    """`wrong` is the promise that was broken, '' for none."""

    seed: int
    wrong: str
    story: list[str]
    counts: Counter[str] = field(default_factory=Counter)


@dataclass
class Play:
    world: World
    oracle: Oracle
    connection: psycopg.Connection[tuple[object, ...]]
    chance: random.Random
    number: int = 0

    def run(self, command: str, trouble: Trouble, *, window: Window | None = None, dry_run: bool = False) -> job.Ended:
        """One run, as the scheduler or an operator starts it now."""
        world = self.world
        self.number += 1
        machine = Machine(world.clock, trouble, self.chance, world.host)
        now = moment(world.clock.now + world.host.ms)
        order = Order(
            command, window or windows.lookback_window(now, world.settings.lag, world.settings.lookback), dry_run
        )
        run = Run(
            self.number, f"{command}{' --dry-run' if dry_run else ''}", order.window, order.sends, world.clock.now,
            world.clock.now + world.host.ms, str(trouble) == "calm",
        )  # fmt: skip
        world.tell(f"run {run.number}: {run.command} {order.window}; {trouble}")
        self.oracle.begin(run)
        before = len(world.lago.events)
        ended = job.run(
            machine, world.settings, order, lago=world.lago, table=world.table, label=world.label,
            number=self.number, postgres=world.postgres,
        )  # fmt: skip
        sent = sum(event.by == "job" for event in world.lago.events[before:])
        world.tell(f"run {run.number}: {_outcome(ended)}; {ended.boundaries} I/Os, {sent} events stored")
        if ended.result is not None:
            rows = {name: one.count for name, one in ended.result.document.rows.items() if one.count}
            events = {name: one.count for name, one in ended.result.document.events.items() if one.count}
            late = {name: one.count for name, one in ended.result.document.late.items() if name != "total"}
            world.tell(f"run {run.number}: rows {rows}, late or held before {late}, events {events}")
            run.window = Window(ended.result.document.window_from, ended.result.document.window_to)
        self.oracle.end(ended, self._ledger(), self._locks())
        return ended

    def _ledger(self) -> Ledger:
        name = (self.world.lago.organization,)
        found = Ledger()
        for entry, *line in self.connection.execute(
            "SELECT entry, run_id, batch, transaction_id, what, http_status, reason, events FROM reconcile.journal "
            "WHERE run_id IN (SELECT run_id FROM reconcile.runs WHERE organization = %s)", name
        ):  # fmt: skip
            found.journal[int(str(entry))] = tuple(line)
        for request, start, *rest in self.connection.execute(
            """SELECT request_id, start_ms, transaction_id, taken OR EXISTS (
                SELECT FROM reconcile.journal AS line WHERE line.run_id = delivery.run_id
                AND line.batch = delivery.batch AND line.transaction_id = '' AND line.what = 'accepted')
            FROM reconcile.deliveries AS delivery WHERE organization = %s""", name
        ):  # fmt: skip
            found.deliveries[request, start] = tuple(rest)
        # A run that was written down and did not end well leaves its window to the next `run`.
        found.begun = [
            Window(start, end)
            for start, end in self.connection.execute(
                "SELECT window_from, window_to FROM reconcile.runs WHERE organization = %s AND command = 'run' "
                "AND NOT dry_run", name
            )
        ]  # fmt: skip
        for request, start, reason in self.connection.execute(
            "SELECT request_id, start_ms, reason FROM reconcile.held WHERE organization = %s", name
        ):
            found.held[str(request), int(str(start))] = str(reason)
        return found

    def _locks(self) -> int:
        found = self.connection.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = "
            "(SELECT oid FROM pg_database WHERE datname = current_database())"
        ).fetchone()
        return 0 if found is None else int(str(found[0]))


def play(seed: int, database_url: str, bug: Callable[[], AbstractContextManager[object]] = nullcontext) -> Verdict:
    """Plays a seed with a planted `bug`, or with none."""
    with job.quiet(), bug(), psycopg.connect(database_url, autocommit=True) as connection:
        world = make(seed, database_url)
        oracle = Oracle(world, as_ms(world.settings.lag), as_ms(world.settings.max_call))
        playing = Play(world, oracle, connection, random.Random(f"faults {seed}"))
        try:
            _nights(playing)
            wrong = ""
        except Wrong as broken:
            wrong = str(broken)
        except Exception as error:
            wrong = f"the job failed in a way of its own: {type(error).__name__}: {error}"
            if not wrong:
                raise
        finally:
            _forget(connection, world)
            gc.collect()
        return Verdict(seed, wrong, _story(world), oracle.counts)


def _nights(play: Play) -> None:
    world, chance = play.world, play.chance
    for night in range(1, world.days + 2):
        world.clock.go_to(max(world.clock.now, world.first + night * DAY + NIGHT - DAY // 2 * chance.choice((0, 0, 1))))
        if chance.random() < 0.12:
            play.run(chance.choice(("report", "run")), _trouble(world, chance), window=_all(world), dry_run=True)
        ended = play.run("run", _trouble(world, chance))
        for _ in range(2):
            if ended.exit_code in (0, 1) or chance.random() < 0.3:
                break
            world.clock.advance(chance.choice((1_000, 1_000, 5 * MINUTE, 2 * HOUR)))
            ended = play.run("run", _trouble(world, chance))
    if chance.random() < 0.15:
        play.run("backfill", _trouble(world, chance), window=_all(world))
    # At rest: all is written, all has arrived, every clock is right, and nothing fails.
    world.clock.go_to(max(world.clock.now, world.quiet))
    world.set_clocks_right()
    _calm(play, "run")
    world.clock.advance(DAY)
    _calm(play, "run")
    play.oracle.at_rest(everything=False)
    world.clock.advance(HOUR)
    _calm(play, "backfill", everything=True)
    if chance.random() < 0.3:
        world.clock.advance(HOUR)
        _calm(play, "report", everything=True)
    play.oracle.at_rest(everything=True)


def _calm(play: Play, command: str, *, everything: bool = False) -> None:
    """Without trouble a run does all its work. Where it is in doubt, somebody looks, and lets it send from now on."""
    world = play.world
    window = _all(world) if everything else None
    ended = play.run(command, Trouble(), window=window)
    fault = None if ended.result is None else ended.result.document.fault
    if fault is not None and fault.kind == "doubtful":
        play.oracle.counts["doubtful"] += 1
        world.tell("somebody looks at what the run doubts, and lets it send: RECONCILE_DOUBTFUL=send")
        world.settings = world.settings.model_copy(update={"doubtful": "send"})
        ended = play.run(command, Trouble(), window=window)
    if ended.exit_code not in (0, 1):
        raise Wrong(f"a calm run ended with {_outcome(ended)}")


def _all(world: World) -> Window:
    """From before the traffic to what is old enough now."""
    now = moment(world.clock.now + world.host.ms)
    return Window(
        moment(world.first - 6 * HOUR), windows.lookback_window(now, world.settings.lag, world.settings.lookback).end
    )


def _trouble(world: World, chance: random.Random) -> Trouble:
    trouble = Trouble()
    if world.jumps and chance.random() < 0.5:
        trouble.jump = world.jump(chance, _when(chance))
    if chance.random() < 0.25:
        return trouble
    match chance.choice(("kill", "send", "send", "stop", "cut", "lago", "lago", "lago and kill")):
        case "kill":
            trouble.kill_at = _when(chance)
        case "send":
            trouble.kill_at_send = chance.choice((1, 1, 2, 3))
        case "stop":
            trouble.stop_at = _when(chance)
        case "cut":
            trouble.cut_at, trouble.cut_for = _when(chance), chance.choice((1, 2, 1000))
        case "lago":
            _lago_fails(world, chance, trouble)
        case _:
            _lago_fails(world, chance, trouble)
            trouble.kill_at = _when(chance)
    return trouble


def _when(chance: random.Random) -> int:
    """A run has 60 to 200 I/Os; those in the middle send."""
    return chance.choice((chance.randint(1, 40), chance.randint(20, 100), chance.randint(60, 200)))


def _lago_fails(world: World, chance: random.Random, trouble: Trouble) -> None:
    trouble.lago = chance.choice((0.05, 0.3, 0.6, 1.0))
    trouble.lago_until = world.clock.now + chance.choice((20_000, 3 * MINUTE, 3 * HOUR))
    trouble.sends_alone = chance.random() < 0.7
    trouble.kinds = chance.choice(
        (("500",), ("500", "500 after"), *(tuple(chance.sample(job.KINDS, count)) for count in (1, 3, len(job.KINDS))))
    )


def _outcome(ended: job.Ended) -> str:
    if ended.killed:
        return "killed"
    fault = None if ended.result is None else ended.result.document.fault
    said = str(ended.refused or "") if fault is None else f"{fault.kind}: {fault.message}"
    return f"exit {ended.exit_code}" + (f" ({said[:300]})" if said else "")


def _story(world: World) -> list[str]:
    head = [f"{name}: {text}" for name, text in world.told.items()]
    return head + world.story + rows_of(world)


def _forget(connection: psycopg.Connection[tuple[object, ...]], world: World) -> None:
    """What this seed left in the ledger, so that the tables stay small."""
    name = (world.lago.organization,)
    connection.execute(
        "DELETE FROM reconcile.journal WHERE run_id IN (SELECT run_id FROM reconcile.runs WHERE organization = %s)",
        name,
    )
    for table in ("deliveries", "held", "hours", "long_calls", "remembered", "slices", "runs"):
        connection.execute(f"DELETE FROM reconcile.{table} WHERE organization = %s".encode(), name)


def rows_of(world: World) -> list[str]:
    """Each row and the events that are its own, for a story."""
    lines = []
    for row in sorted(world.table.rows, key=lambda row: row.usage_ms):
        lines.append(
            f"row {row.key[0]} ends {shown(row.usage_ms)}, written {shown(row.written_at)}, {row.content}, {row.status}"
        )
        for event in world.lago.events:
            if event.of == row.key:
                lines.append(
                    f"    {event.by} {event.transaction_id} at {shown(event.time_ms)} received {shown(event.received)}"
                )
    return lines

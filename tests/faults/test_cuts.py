"""Connections to Lago and to Postgres that are slow, drip, break, or lead nowhere; and a Postgres that is restarted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest

from reconcile.sandbox.postgres import create_database

from .launcher import until
from .server import TEMPLATE, Server, restartable
from .test_kills import BATCH, BEGIN_RUN, CLAIM, COMMIT, FINISH, JOURNAL, LIST, MOMENTS, READ_BACK, ROWS, SLICES
from .world import COMMAND, Mode, World

MODES: tuple[Mode, ...] = ("postgres", "clickhouse", "1.38")
ONE_AT_A_TIME = {"RECONCILE_CONCURRENCY": "1"}


def cases(*in_ci: str) -> list[Any]:
    """Every moment on every kind of Lago; the named ones of them in CI."""
    return [
        pytest.param(mode, name, id=case, marks=() if case in in_ci else pytest.mark.whole_matrix)
        for mode in MODES
        for name in MOMENTS
        for case in [f"{mode}: {name}"]
    ]


def ends_and_heals(world: World, *command: str, may_fail: bool = True, **settings: str) -> int:
    """A run that meets a fault: it says 0 where all is well (`World.ended` looks), else 3; the next one makes it so."""
    ran = world.run(*(command or COMMAND), **ONE_AT_A_TIME, **settings)
    assert ran.code in ((0, 3) if may_fail else (0,)), (ran.code, ran.err)
    if ran.code == 3:
        assert ran.document["status"] == "incomplete"
        assert ran.document["fault"]["kind"] in ("lago", "database", "not_visible")
    world.never_twice()
    world.release()
    world.nothing_left()
    world.heals()
    return ran.code


@pytest.mark.parametrize(
    ("mode", "name"),
    cases(
        "postgres: claim written, not committed",
        "postgres: run finished, not committed",
        "postgres: first batch stored, answer on its way",
        "clickhouse: first batch stored, answer on its way",
        "clickhouse: answers about to be journalled",
        "1.38: second batch stored, answer on its way",
    ),
)
def test_the_connection_is_reset(worlds: Callable[..., World], mode: Mode, name: str) -> None:
    world = worlds(mode)
    world.fill()
    side, (when, *patterns) = MOMENTS[name]
    trap = getattr(world, side).trap(*patterns, when=when, then="reset")
    code = ends_and_heals(world)
    assert trap.sprung.is_set()
    # Lago is asked again; what the ledger did not take down may have left, so that is not.
    assert code == (0 if side == "to_lago" else 3)


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        pytest.param(mode, name, marks=() if (mode, name) in in_ci else pytest.mark.whole_matrix)
        for in_ci in [
            {
                ("postgres", "first batch stored, answer on its way"),
                ("clickhouse", "second batch about to leave"),
            }
        ]
        for mode in MODES
        for name, (side, _) in MOMENTS.items()
        if side == "to_lago"
    ],
)
def test_the_connection_to_lago_is_half_open(worlds: Callable[..., World], mode: Mode, name: str) -> None:
    """Nothing comes any more, and nobody says so: RECONCILE_TIMEOUT ends the wait, and the request is made again."""
    world = worlds(mode)
    world.fill()
    _, (when, *patterns) = MOMENTS[name]
    trap = world.to_lago.trap(*patterns, when=when, then="vanish")
    assert ends_and_heals(world) == 0
    assert trap.sprung.is_set()


@pytest.mark.parametrize(
    ("mode", "patterns", "when"),
    [
        pytest.param("postgres", (ROWS, ROWS, ROWS), "before", id="rows"),
        pytest.param("postgres", (CLAIM,), "after", id="claim"),
        pytest.param("postgres", (BEGIN_RUN,), "before", id="begin_run", marks=pytest.mark.whole_matrix),
        pytest.param("clickhouse", (CLAIM, JOURNAL, COMMIT, JOURNAL), "before", id="answers"),
        pytest.param("clickhouse", (READ_BACK, COMMIT), "after", id="read-back", marks=pytest.mark.whole_matrix),
        pytest.param("1.38", (SLICES,), "before", id="slices", marks=pytest.mark.whole_matrix),
        pytest.param("1.38", (FINISH, COMMIT), "before", id="finish", marks=pytest.mark.whole_matrix),
    ],
)
def test_the_machine_of_postgres_is_gone(
    worlds: Callable[..., World], mode: Mode, patterns: tuple[bytes, ...], when: Literal["before", "after"]
) -> None:
    """Nothing that is sent to it is acknowledged. What the URL says of the patience of libpq is what holds."""
    world = worlds(mode)
    world.fill()
    trap = world.to_postgres.trap(*patterns, when=when, then="vanish")
    patience = "keepalives_idle=1&keepalives_interval=1&keepalives_count=2&tcp_user_timeout=2000"
    url = f"{world.environment['DATABASE_URL']}?{patience}"
    assert ends_and_heals(world, DATABASE_URL=url) == 3
    assert trap.sprung.is_set()


@pytest.mark.whole_matrix
def test_the_machine_of_postgres_is_gone_and_nothing_is_set(worlds: Callable[..., World]) -> None:
    """It takes the job a minute to find out, not two hours."""
    world = worlds()
    world.fill()
    trap = world.to_postgres.trap(CLAIM, when="after", then="vanish")
    assert ends_and_heals(world) == 3
    assert trap.sprung.is_set()


@pytest.mark.whole_matrix
def test_the_machine_of_a_run_is_gone(worlds: Callable[..., World]) -> None:
    """Postgres finds out within a minute and a half, and gives its lock to the next run."""
    world = worlds()
    world.fill()
    trap = world.to_lago.trap(BATCH, when="before")
    process = world.start(*COMMAND)
    until(trap.sprung.is_set, process)
    world.to_postgres.cut_off()
    process.kill()
    process.wait()
    world.to_lago.release()
    assert world.run().code == 4
    until(lambda: world.query("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)], seconds=100)
    world.release()
    world.heals()


@pytest.mark.parametrize("side", ["to_lago", "to_postgres"])
@pytest.mark.parametrize("mode", ["postgres", pytest.param("clickhouse", marks=pytest.mark.whole_matrix)])
def test_latency(worlds: Callable[..., World], mode: Mode, side: str) -> None:
    world = worlds(mode)
    world.fill()
    getattr(world, side).latency = 0.01
    assert ends_and_heals(world, may_fail=False, RECONCILE_TIMEOUT="5s") == 0


@pytest.mark.parametrize(
    ("mode", "side"),
    [
        ("postgres", "to_lago"),
        pytest.param("postgres", "to_postgres", marks=pytest.mark.whole_matrix),
        pytest.param("clickhouse", "to_lago", marks=pytest.mark.whole_matrix),
    ],
)
def test_a_drip(worlds: Callable[..., World], mode: Mode, side: str) -> None:
    """A page of events does not get through in time: smaller windows do."""
    world = worlds(mode)
    world.fill()
    getattr(world, side).drip = (1000, 0.04)
    assert ends_and_heals(world, may_fail=False) == 0


@pytest.mark.whole_matrix
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pattern", [LIST, BATCH], ids=["listing", "batches"])
def test_lago_accepts_and_never_answers(worlds: Callable[..., World], mode: Mode, pattern: bytes) -> None:
    world = worlds(mode)
    world.fill()
    world.to_lago.trap(pattern, when="before", then="silence", times=10_000)
    assert ends_and_heals(world) == 3


@pytest.mark.whole_matrix
@pytest.mark.parametrize("mode", MODES)
def test_lago_turns_everybody_away_in_the_middle(worlds: Callable[..., World], mode: Mode) -> None:
    world = worlds(mode)
    world.fill()
    trap = world.to_lago.trap(BATCH, BATCH, when="after")
    process = world.start(*COMMAND, **ONE_AT_A_TIME)
    until(trap.sprung.is_set, process)
    world.to_lago.refusing = True
    world.to_lago.cut(reset=True)
    world.to_lago.resume()
    ran = world.ended(process)
    assert (ran.code, ran.document["fault"]["kind"]) == (3, "lago")
    world.never_twice()
    world.release()
    world.heals()


# --- Postgres is restarted


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with restartable() as found:
        yield found


@pytest.mark.parametrize(
    ("mode", "side", "patterns"),
    [
        pytest.param("postgres", "to_lago", (LIST,), id="while events are listed", marks=pytest.mark.whole_matrix),
        pytest.param("postgres", "to_lago", (BATCH, BATCH), id="while a batch is away"),
        pytest.param("clickhouse", "to_lago", (BATCH, BATCH), id="while a batch is away from ClickHouse"),
        pytest.param(
            "1.38", "to_lago", (BATCH,), id="while a batch is away before 1.39", marks=pytest.mark.whole_matrix
        ),
        pytest.param("postgres", "to_postgres", (ROWS, ROWS), id="while rows are read"),
        pytest.param("postgres", "to_postgres", (CLAIM,), id="while rows are claimed", marks=pytest.mark.whole_matrix),
        pytest.param("postgres", "to_postgres", (FINISH,), id="at the end", marks=pytest.mark.whole_matrix),
    ],
)
def test_postgres_is_restarted(
    worlds: Callable[..., World],
    server: Server,
    mode: Mode,
    side: str,
    patterns: tuple[bytes, ...],
) -> None:
    world = worlds(mode)
    world.database_url = create_database(server.url, template=TEMPLATE)
    server.is_behind(world)
    world.fill()
    trap = getattr(world, side).trap(*patterns, when="after")
    process = world.start(*COMMAND, **ONE_AT_A_TIME)
    until(trap.sprung.is_set, process)
    server.restart(world)
    getattr(world, side).resume()
    ran = world.ended(process)
    assert (ran.code, ran.document["fault"]["kind"]) == (3, "database")
    world.never_twice()
    world.release()
    world.heals()

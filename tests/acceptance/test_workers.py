"""Decoding elsewhere: the same document to the byte, and no other one when a worker dies."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import distributed
import pytest
from integration.spend_rows import DAY, row

from reconcile.errors import Interrupted, WorkerFault
from reconcile.lago import EventShape
from reconcile.run import workers

from .harness import Ran, World, until

COUNT = 240
HOUR = ("--from", "2025-11-20T00:00:00Z", "--to", "2025-11-20T01:00:00Z")
SHAPE = EventShape(field_name="response_cost", aggregation="sum_agg")


@pytest.fixture
def world(world: World) -> World:
    """An hour of rows: live events for most, some of them twice, and one that nothing explains; pages of twenty."""
    world.environment["RECONCILE_PAGE_SIZE"] = "20"
    rows = [row(f"r-{n}", DAY + timedelta(seconds=10 + 10 * n), spend=0.0125 + n * 1e-7) for n in range(COUNT)]
    world.add_rows(rows)
    world.subscribe()
    lost, twice = range(0, COUNT, 9), range(1, COUNT, 50)
    live = [n for n in range(COUNT) if n not in lost] + list(twice)
    events = [(rows[n]["endTime"], _event(f"live-{at}", rows[n]["spend"])) for at, n in enumerate(live)]
    world.lago.organization.seed_events([*events, (DAY + timedelta(minutes=55), _event("stray", 7.5))])
    return world


def _event(name: str, spend: float) -> dict[str, Any]:
    properties = {"model": "gpt-4o-mini", "response_cost": spend, "prompt_tokens": 20, "completion_tokens": 10}
    return {
        "transaction_id": name,
        "external_subscription_id": "team-a",
        "code": "llm_usage",
        "properties": {**properties, "total_tokens": 30},
    }


def report(world: World, *arguments: str, **settings: str) -> Ran:
    return world.run("report", "--json", *HOUR, *arguments, **settings)


def text(ran: Ran) -> str:
    """The document without what tells one run from another: its ID, and how it was made."""
    document = ran.document
    del document["run_id"], document["method"]
    document["previous"] = None
    return json.dumps(document)


@contextmanager
def cluster(count: int) -> Iterator[distributed.LocalCluster]:
    with distributed.LocalCluster(
        n_workers=count, threads_per_worker=1, dashboard_address=None, silence_logs=50, memory_limit=0
    ) as found:
        yield found


def at_list(world: World, number: int, action: Callable[[], None]) -> None:
    """Does something before the list request of this number is answered."""
    seen = iter(range(1, 10_000))
    lock = threading.Lock()

    def before_list() -> None:
        with lock:
            now = next(seen) == number
        if now:
            action()

    world.lago.faults.before_list = before_list


def test_processes_and_dask_make_the_same_document_also_when_a_worker_is_killed(world: World) -> None:
    plain = report(world)
    assert plain.code == 1, plain.err
    assert plain.count("events", "orphan") == 1
    assert plain.document["method"]["workers"] == 1

    at_list(world, 6, kill_a_process)
    spread = report(world, RECONCILE_WORKERS="2")
    assert "a process that decodes pages died" in spread.err
    assert text(spread) == text(plain)
    assert spread.document["method"]["workers"] == 2

    with cluster(2) as dask:
        assert f"{dask.scheduler_address}: 2 workers" in world.run("check", RECONCILE_DASK=dask.scheduler_address).out
        at_list(world, 6, lambda: kill_a_busy_worker(dask))
        clustered = report(world, "--dask", dask.scheduler_address)
        assert text(clustered) == text(plain), clustered.err
        assert clustered.document["method"]["workers"] == 2
        assert killed, "no worker was killed"
        killed.clear()
    assert not multiprocessing.active_children()


def kill_a_process() -> None:
    """One of those that decode. They are there: earlier pages were decoded."""
    victim = next(one for one in multiprocessing.active_children() if one.name.startswith("SpawnProcess"))
    victim.kill()
    victim.join(10)


killed: list[int] = []


def kill_a_busy_worker(dask: distributed.LocalCluster) -> None:
    """Stops a worker, and kills it when it has a page in hand."""
    address, pid = next((one.worker_address, one.pid) for one in dask.workers.values())
    os.kill(pid, signal.SIGSTOP)

    def kill() -> None:
        deadline = time.monotonic() + 30
        while not dask.scheduler.workers[address].processing and time.monotonic() < deadline:
            time.sleep(0.01)
        assert dask.scheduler.workers[address].processing
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)

    threading.Thread(target=kill).start()


def die(*_: object) -> None:
    os._exit(9)


def test_processes_that_keep_dying_end_the_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "decode_page", die)
    ran = world.run("backfill", "--json", *HOUR, RECONCILE_WORKERS="2")
    assert ran.code == 3
    assert ran.document["fault"]["kind"] == "workers"
    assert "RECONCILE_WORKERS" in ran.document["fault"]["message"]
    assert ran.document["status"] == "incomplete"
    assert world.batches() == 0


def test_a_cluster_without_workers_ends_the_run(world: World) -> None:
    with cluster(0) as dask:
        ran = report(world, "--dask", dask.scheduler_address, RECONCILE_TIMEOUT="1s")
        checked = world.run("check", RECONCILE_DASK=dask.scheduler_address)
    assert checked.code == 2
    assert "has no worker; start some" in checked.err
    assert ran.code == 3
    assert ran.document["fault"] == {
        "kind": "workers",
        "message": "--dask: the cluster has had no worker for 1 s; nothing is lost: run it again",
    }


def test_a_scheduler_that_goes_away_ends_the_run(world: World) -> None:
    with cluster(0) as dask:
        closing = threading.Thread(target=dask.close)
        at_list(world, 1, closing.start)
        ran = report(world, "--dask", dask.scheduler_address, RECONCILE_TIMEOUT="2s")
        closing.join()
    assert ran.code == 3
    assert ran.document["fault"]["kind"] == "workers"


def test_no_scheduler_there(world: World) -> None:
    ran = report(world, "--dask", "tcp://127.0.0.1:1", RECONCILE_TIMEOUT="1s")
    assert ran.code == 3
    assert ran.document["fault"]["message"].endswith("no Dask scheduler answers at tcp://127.0.0.1:1 within 1 s")


def test_dask_is_not_installed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    ran = report(world, "--dask", "tcp://127.0.0.1:1")
    assert ran.code == 2
    assert "pip install 'litellm-lago-reconcile[dask]'" in ran.err


def test_certificates_that_are_not_configured(world: World) -> None:
    ran = report(world, "--dask", "tls://127.0.0.1:1")
    assert ran.code == 2
    assert "distributed.comm.tls" in ran.err


def test_a_worker_of_another_release_is_refused() -> None:
    with pytest.raises(WorkerFault, match="install the same on both"):
        workers._decode_as("0.0.9", SHAPE, "llm", None, b'{"events": []}')


def test_processes_that_a_stop_ended_are_no_fault() -> None:
    stop = threading.Event()
    stop.set()
    pool = workers.Processes(1, stop)
    try:
        with pytest.raises(Interrupted):
            pool.decode(Deadly(), "llm", None, b"{}")  # type: ignore[arg-type]
    finally:
        pool.close()


class Deadly:
    """Kills whoever unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (9,)


def test_one_gate_holds_the_requests_of_all_workers(world: World) -> None:
    most = level = 0
    lock = threading.Lock()

    def before_list() -> None:
        nonlocal level, most
        with lock:
            level += 1
            most = max(most, level)
        time.sleep(0.01)  # the others' time to break in
        with lock:
            level -= 1

    world.lago.faults.before_list = before_list
    assert report(world, RECONCILE_WORKERS="3", RECONCILE_CONCURRENCY="1").code == 1
    assert most == 1


@pytest.fixture
def held(world: World) -> Iterator[tuple[subprocess.Popen[str], set[int], threading.Event]]:
    """A run in a process of its own that waits for Lago, its worker processes, and what lets Lago answer."""
    reached, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        reached.set()
        go_on.wait(60)

    at_list(world, 6, hold)
    run = world.start("report", "--json", *HOUR, RECONCILE_WORKERS="2")
    until(reached.is_set, run)
    tasks = Path(f"/proc/{run.pid}/task").iterdir()
    found = {int(pid) for task in tasks for pid in (task / "children").read_text().split()}
    yield run, {pid for pid in found if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()}, go_on
    go_on.set()
    run.kill()
    run.communicate()


def test_ctrl_c_reaches_the_workers_too_and_the_run_ends_in_order(
    world: World, held: tuple[subprocess.Popen[str], set[int], threading.Event]
) -> None:
    run, processes, go_on = held
    assert processes
    for pid in (*processes, run.pid):
        os.kill(pid, signal.SIGINT)
    go_on.set()
    assert world.ended(run).code == 130


def test_workers_end_with_a_run_that_is_killed(
    held: tuple[subprocess.Popen[str], set[int], threading.Event],
) -> None:
    run, processes, _ = held
    assert processes
    run.kill()
    run.wait()
    deadline = time.monotonic() + 20
    while any(map(alive, processes)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_what_the_run_settled_on_is_told(world: World) -> None:
    """Lago answers the more a second the more it is asked at a time, up to three."""
    turns = threading.Semaphore(3)

    def before_list() -> None:
        with turns:
            time.sleep(0.03)

    world.lago.faults.before_list = before_list
    plain = report(world, RECONCILE_CONCURRENCY="4", RECONCILE_PAGE_SIZE="2")
    assert "in flight" not in plain.err
    ran = report(world, "--verbose", RECONCILE_CONCURRENCY="4", RECONCILE_PAGE_SIZE="2")
    method = ran.document["method"]
    assert set(method["in_flight_limit"]) == {"list", "deliver", "plan"}
    assert method["in_flight_limit"]["deliver"] == 1
    assert 1 < method["in_flight"]["list"] <= 4
    lines = [json.loads(line) for line in ran.err.splitlines() if line.startswith("{")]
    changes = [line for line in lines if line["event"] == "requests to Lago in flight"]
    assert (changes[0]["kind"], changes[0]["before"], changes[0]["limit"]) == ("list", 1, 2)
    settled = {line["kind"]: line for line in lines if line["event"] == "requests to Lago in flight, settled"}
    assert settled["list"]["limit"] == method["in_flight_limit"]["list"] == changes[-1]["limit"]


def test_a_run_by_itself_loads_none_of_it() -> None:
    code = (
        "import sys, reconcile.run.job; "
        "assert not {'distributed', 'dask', 'concurrent.futures.process'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

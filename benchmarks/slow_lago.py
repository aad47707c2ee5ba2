"""The nightly job beside a Lago as slow as a real one: how long it takes, and what live traffic feels of it.

    python benchmarks/slow_lago.py --rows 1000000 --workers 1 8

The rows and live events lie as densely as a million a day; one row in a hundred has lost its event. Lago is the
sandbox's stand-in in its slow mode (`docs/sandbox.md`), in a process of its own, with as many workers as a real one
has processes. For each number of workers it prints:

- the dry run's seconds over those of its own list requests sent again one after another, by a client that decodes
  nothing;
- requests in flight while any list was, on average, as the server saw them;
- the median time of live posts (`POST /events` at random moments) without the job, and beside it;
- list requests over events / 1,000 + windows;
- the run that sends what is missing, over the time that all its requests and the live posts beside it take of one
  worker.

The stand-in, Postgres and the job share the machine: with many workers they, not Lago's time, are the limit.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from typing import Any
from urllib.parse import urlsplit

import psycopg

from reconcile.sandbox.lago import LagoStandIn, Slow
from reconcile.sandbox.lago.call import Work
from reconcile.sandbox.lago.slow import cost
from reconcile.sandbox.litellm_schema import migrate
from reconcile.sandbox.postgres import create_database, postgres
from reconcile.sandbox.servers import lago_server

BEGIN = datetime(2026, 10, 1, tzinfo=UTC)
STEP = timedelta(milliseconds=86)  # between two rows: a million a day
TEAMS = 200
CODE = "llm_usage"
KEY = "benchmark"
LISTS = ("GET", "/events")
POSTS = ("POST", "/events")
LIVE_EVERY = 0.25  # seconds between two live posts, on average

ROWS = """
INSERT INTO "LiteLLM_SpendLogs" (
  request_id, call_type, spend, total_tokens, prompt_tokens, completion_tokens, "startTime", "endTime", model,
  model_group, custom_llm_provider, team_id, status, cache_hit
)
SELECT
  'chatcmpl-' || md5(i::text), 'acompletion',
  (i %% 5000 + 1) * 1.5e-7::float8 + (i %% 1999 + 1) * 6e-7::float8, i %% 5000 + i %% 1999 + 2,
  i %% 5000 + 1, i %% 1999 + 1, at - interval '1.2 second', at, 'openai/gpt-4o-mini', 'chat-fast', 'openai',
  'team-' || i %% %(teams)s, 'success', 'None'
FROM (SELECT i, %(begin)s::timestamp + i * %(step)s::interval AS at FROM generate_series(0, %(rows)s - 1) AS i) AS made
"""


@dataclass(frozen=True, slots=True)
class Served:
    """A request as the server saw it: seconds of its clock at arrival and at the end, and what it cost a worker."""

    what: tuple[str, str]
    arrived: float
    answered: float
    cost: float


class Watched(Slow):
    """The slow mode, which writes down what was served."""

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self.served: list[Served] = []

    @asynccontextmanager
    async def worker(self, method: str, route: str, work: Work) -> AsyncIterator[None]:
        arrived = time.monotonic()
        async with super().worker(method, route, work):
            yield
        self.served.append(Served((method, route), arrived, time.monotonic(), cost(method, route, work) / 1000))


def live_events(rows: int) -> Iterator[tuple[datetime, dict[str, Any]]]:
    """What LiteLLM's callback sent for all rows but every hundredth, 250 ms after each call's end."""
    for i in range(rows):
        if i % 100:
            prompt, completion = i % 5000 + 1, i % 1999 + 1
            properties = {
                "model": "gpt-4o-mini",
                "response_cost": prompt * 1.5e-7 + completion * 6e-7,
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
            }
            yield BEGIN + i * STEP + timedelta(milliseconds=250), event(f"{i:032x}", f"team-{i % TEAMS}", properties)


def event(transaction_id: str, subscription: str, properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "transaction_id": transaction_id,
        "external_subscription_id": subscription,
        "code": CODE,
        "properties": properties,
    }


def serve(rows: int, pipe: Connection) -> None:
    """Postgres and Lago, until the pipe closes. Answers `(workers)` with the settings of a server that has so many and
    `None` with what that one served, and forgets it."""
    with postgres() as server:
        database_url, lago_url = create_database(server, "litellm"), create_database(server, "lago")
        migrate(database_url)
        with psycopg.connect(database_url, autocommit=True) as connection:
            values = {"teams": TEAMS, "begin": BEGIN.replace(tzinfo=None), "step": STEP, "rows": rows}
            connection.execute(ROWS, values)
            connection.execute('VACUUM ANALYZE "LiteLLM_SpendLogs"')
        with LagoStandIn(lago_url) as stand_in, contextlib.ExitStack() as running:
            organization = stand_in.add_organization(KEY)
            organization.add_billable_metric(CODE)
            for number in range(TEAMS):
                period = (BEGIN - timedelta(days=1), BEGIN + timedelta(days=400))
                organization.add_subscription(f"team-{number}", started_at=period[0], period=period)
            organization.seed_events(live_events(rows))
            slow = Watched(1)
            pipe.send(None)
            with contextlib.suppress(EOFError):
                while True:
                    workers = pipe.recv()
                    if workers is None:
                        pipe.send((slow.served[:], [seen.query for seen in stand_in.requests if _is_list(seen)]))
                        slow.served.clear()
                        stand_in.requests.clear()
                        continue
                    running.close()
                    stand_in.slow = slow = Watched(workers)
                    with psycopg.connect(lago_url) as lago, psycopg.connect(database_url) as litellm:
                        lago.execute("DELETE FROM lago.events WHERE transaction_id LIKE 'llm|_%' ESCAPE '|'")
                        litellm.execute("DROP SCHEMA IF EXISTS reconcile CASCADE")
                    base = running.enter_context(lago_server(stand_in))
                    pipe.send(
                        {
                            "DATABASE_URL": database_url,
                            "LAGO_API_BASE": base,
                            "LAGO_API_KEY": KEY,
                            "LAGO_API_EVENT_CODE": CODE,
                            "LAGO_API_CHARGE_BY": "team_id",
                        }
                    )


def _is_list(seen: Any) -> bool:
    return seen.method == "GET" and seen.path.endswith("/api/v1/events")


class Server:
    """The other process, seen from here."""

    def __init__(self, rows: int) -> None:
        spawning = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawning.Pipe()
        self._process = spawning.Process(target=serve, args=(rows, theirs))
        self._process.start()
        theirs.close()
        self._pipe.recv()

    def start(self, workers: int) -> dict[str, str]:
        self._pipe.send(workers)
        environment: dict[str, str] = self._pipe.recv()
        return environment

    def served(self) -> tuple[list[Served], list[str]]:
        """All requests since the last question, and the queries of the lists among them in order of arrival."""
        self._pipe.send(None)
        found: tuple[list[Served], list[str]] = self._pipe.recv()
        return found

    def close(self) -> None:
        self._pipe.close()
        self._process.join()


class LiveTraffic:
    """Posts events at random moments, each from a thread of its own as LiteLLM's callback does; seconds of each."""

    def __init__(self, base: str) -> None:
        self._base = urlsplit(base)
        self._stop = threading.Event()
        self._draw = random.Random(1)
        self._number = time.time_ns()
        self.seconds: list[float] = []

    def __enter__(self) -> LiveTraffic:
        self._thread = threading.Thread(target=self._post_all)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def p50(self) -> float:
        return statistics.median(self.seconds)

    def _post_all(self) -> None:
        posting = []
        while not self._stop.wait(self._draw.expovariate(1 / LIVE_EVERY)):
            self._number += 1
            posting.append(threading.Thread(target=self._post, args=(self._number,)))
            posting[-1].start()
        for one in posting:
            one.join()

    def _post(self, number: int) -> None:
        body = json.dumps({"event": event(f"live-{number}", "team-0", {"response_cost": 1e-6})})
        began = time.monotonic()
        status = _ask(http.client.HTTPConnection(self._base.netloc), "POST", "/api/v1/events", body)
        self.seconds.append(time.monotonic() - began)
        assert status == 200, status


def _ask(connection: http.client.HTTPConnection, method: str, target: str, body: str | None = None) -> int:
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    connection.request(method, target, body, headers)
    answer = connection.getresponse()
    answer.read()
    return answer.status


def one_by_one(base: str, queries: list[str]) -> float:
    """Seconds that these list requests take, one after another."""
    connection = http.client.HTTPConnection(urlsplit(base).netloc)
    began = time.monotonic()
    for query in queries:
        assert _ask(connection, "GET", f"/api/v1/events?{query}") == 200
    return time.monotonic() - began


def job(environment: dict[str, str], rows: int, *options: str) -> tuple[float, dict[str, Any]]:
    """Seconds of the whole command, and its document."""
    command = [sys.executable, "-m", "reconcile", "backfill", "--json", *options]
    command += [
        "--from",
        f"{BEGIN:%Y-%m-%dT%H:%M:%SZ}",
        "--to",
        f"{BEGIN + rows * STEP + timedelta(seconds=1):%Y-%m-%dT%H:%M:%SZ}",
    ]
    with tempfile.TemporaryFile() as output:
        began = time.monotonic()
        done = subprocess.run(command, stdout=output, stderr=subprocess.DEVNULL, env=os.environ | environment)
        seconds = time.monotonic() - began
        assert done.returncode in (0, 1), done.returncode
        output.seek(0)
        return seconds, json.loads(output.read())


def mean_in_flight(served: list[Served]) -> float:
    """While any of them was."""
    changes = sorted([(one.arrived, 1) for one in served] + [(one.answered, -1) for one in served])
    area = busy = at = 0.0
    level = 0
    for moment, change in changes:
        if level:
            busy += moment - at
            area += level * (moment - at)
        level += change
        at = moment
    return area / busy if busy else 0.0


def measure(server: Server, rows: int, workers: int) -> float:
    """Prints what the module says of one number of workers; the dry run's seconds."""
    environment = server.start(workers)
    base = environment["LAGO_API_BASE"]
    with LiveTraffic(base) as idle:
        time.sleep(40 * LIVE_EVERY)
    server.served()
    seconds, document = job(environment, rows, "--dry-run")
    served, queries = server.served()
    lists = [one for one in served if one.what == LISTS]
    alone = one_by_one(base, queries)
    server.served()
    with LiveTraffic(base) as beside:
        busy_seconds, _ = job(environment, rows, "--dry-run")
    busy_lists = [one for one in server.served()[0] if one.what == LISTS]
    with LiveTraffic(base) as beside_sending:
        sending_seconds, sent = job(environment, rows)
    sending = server.served()[0]
    events = document["events"]["total"]["count"]
    windows = len({tuple(part for part in query.split("&") if not part.startswith("page=")) for query in queries})
    print(f"{workers} workers, {rows:,} rows, {events:,} events", flush=True)
    print(f"  dry run {seconds:.1f} s; its lists one by one {alone:.1f} s: {seconds / alone:.2f}")
    print(
        f"  lists in flight {mean_in_flight(lists):.2f} on average, {mean_in_flight(busy_lists):.2f} beside live posts"
    )
    print(f"  stages {document['method']['stage_seconds']}")
    others = Counter(" ".join(one.what) for one in served if one.what != LISTS)
    print(f"  other requests: {', '.join(f'{count} × {what}' for what, count in sorted(others.items()))}")
    print(
        f"  live posts' p50 {idle.p50 * 1000:.0f} ms idle, {beside.p50 * 1000:.0f} ms beside the job "
        f"({busy_seconds:.1f} s): {beside.p50 / idle.p50:.1f}"
    )
    print(
        f"  {len(lists):,} list requests of {windows:,} windows, of {len(served):,} in all: "
        f"{len(lists) / (events / 1000 + windows):.2f} of events / 1,000 + windows"
    )
    delivered = sent["rows"]["delivered"]["count"]
    floor = sum(one.cost for one in sending)
    batches = [one for one in sending if one.what == ("POST", "/events/batch")]
    print(
        f"  sending {delivered:,}: {sending_seconds:.1f} s, {floor:.1f} s of one worker: "
        f"{sending_seconds / floor:.2f}; batches in flight {mean_in_flight(batches):.2f}; "
        f"live posts' p50 {beside_sending.p50 * 1000:.0f} ms: {beside_sending.p50 / idle.p50:.1f}",
        flush=True,
    )
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8])
    options = parser.parse_args()
    began = time.monotonic()
    server = Server(options.rows)
    print(f"prepared {options.rows:,} rows in {time.monotonic() - began:.0f} s", flush=True)
    seconds = {workers: measure(server, options.rows, workers) for workers in options.workers}
    server.close()
    first, *others = options.workers
    for workers in others:
        print(f"{workers} workers: {seconds[first] / seconds[workers]:.1f} times as fast as {first}")


if __name__ == "__main__":
    main()

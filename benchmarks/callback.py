"""What the callback costs a request, beside LiteLLM's own; and 200 requests a second for a minute through it.

    .venv/bin/python benchmarks/callback.py [--seconds 60] [--rate 200] [--calls 400]

LiteLLM makes one real call of a provider on loopback; what it then gives its callbacks is given to the hooks again and
again, each time as another request. CPU is that of this process, threads included: Lago is another process.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import resource
import statistics
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from real_litellm import live
from real_litellm.loopback import note_taking_lago

_WARM = 200  # calls before the first that counts
_ROUNDS = 5


class _Lago(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def do_GET(self) -> None:
        self._answer(b'{"organization": {"events_store": "postgres"}}')

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def _serve(port: Any) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Lago)
    port.send(server.server_address[1])
    server.serve_forever()


@contextmanager
def lago() -> Iterator[str]:
    """A Lago in a process of its own, which takes everything; gives its address."""
    context = get_context("spawn")
    mine, its = context.Pipe()
    process = context.Process(target=_serve, args=(its,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{mine.recv()}"
    finally:
        process.terminate()
        process.join()


def captured() -> tuple[dict[str, Any], Any, Any, Any]:
    """What LiteLLM gives a success hook of one call."""
    litellm = live._litellm()
    from litellm.integrations.custom_logger import CustomLogger

    got: list[Any] = []

    class Probe(CustomLogger):  # type: ignore[misc]
        async def async_log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
            got.append((kwargs, response_obj, start_time, end_time))

    with note_taking_lago() as (base, _), live.gateway(base, "k", "llm", "team_id") as send:
        litellm.callbacks.insert(0, Probe())
        send(live.RequestSpec(end_user="customer-1"))
    found: tuple[dict[str, Any], Any, Any, Any] = got[0]
    return found


def another(call: tuple[dict[str, Any], Any, Any, Any], number: int) -> dict[str, Any]:
    """The same call as another request, that ends now."""
    kwargs, response, start, end = call
    now = type(end).now(end.tzinfo)
    return {
        "kwargs": {**kwargs, "litellm_call_id": f"call-{number}"},
        "response_obj": response.model_copy(update={"id": f"chatcmpl-{number}"}),
        "start_time": now - (end - start),
        "end_time": now,
    }


async def cpu(hook: Any, call: Any, count: int) -> float:
    """CPU of one hook in ms, whatever it starts included, where calls come one after another; the median of rounds."""
    calls = [another(call, number) for number in range(_WARM + _ROUNDS * count)]
    for one in calls[:_WARM]:
        await hook(**one)
    found = []
    for begin in range(_WARM, len(calls), count):
        gc.collect()
        begun = time.process_time()
        for one in calls[begin : begin + count]:
            await hook(**one)
        found.append((time.process_time() - begun) / count * 1000)
    return statistics.median(found)


async def load(hook: Any, call: Any, rate: int, seconds: float) -> list[float]:
    """The hook's own time in ms at each of `rate` requests a second."""
    took, begun = [], time.perf_counter()
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, begun + number / rate - time.perf_counter()))
        one = another(call, -1 - number)
        before = time.perf_counter()
        await hook(**one)
        took.append((time.perf_counter() - before) * 1000)
    return took


def _memory() -> float:
    """Resident memory of this process in MB."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


def _memory_of_a_full_queue(hooks: Any) -> float:
    """What the queue's 10,000 events take, in MB, where Lago does not answer."""
    gate = threading.Event()
    tracemalloc.start()
    sender = hooks.Sender(gate.wait)
    for number in range(hooks.Limits().queue):
        sender.put(json.dumps({"properties": "x" * 420, "number": number}).encode(), time.time())
    size = tracemalloc.get_traced_memory()[0] / 1e6
    tracemalloc.stop()
    return size


def measure(rate: int, seconds: float, count: int) -> dict[str, float]:
    """Every figure, by name."""
    call = captured()
    from litellm.integrations.lago import LagoLogger
    from litellm.proxy.spend_tracking.spend_tracking_utils import get_logging_payload

    from reconcile.callback import hook as hooks

    with lago() as base:
        settings = {
            "LAGO_API_BASE": base,
            "LAGO_API_KEY": "k",
            "LAGO_API_EVENT_CODE": "llm",
            "LAGO_API_CHARGE_BY": "team_id",
        }
        with mock.patch.dict(os.environ, settings):
            ours, theirs = hooks.start(), LagoLogger()
            figures = {"LiteLLM's own, CPU ms": asyncio.run(cpu(theirs.async_log_success_event, call, count // 4))}
            begun = time.process_time()
            for _ in range(count):
                get_logging_payload(*call)
            figures["get_logging_payload, CPU ms"] = (time.process_time() - begun) / count * 1000
            figures["hook and sending, CPU ms"] = asyncio.run(cpu(ours.async_log_success_event, call, count))
            ours.sender.flush(60)
            before, began_with = _memory(), ours.sender.measures.delivered
            took = asyncio.run(load(ours.async_log_success_event, call, rate, seconds))
            ours.sender.flush(60)
            grown = _memory() - before
        full = _memory_of_a_full_queue(hooks)
    took.sort()
    return {
        **figures,
        "requests": len(took),
        "delivered": ours.sender.measures.delivered - began_with,
        "dropped": sum(ours.sender.measures.dropped.values()),
        "hook p50 ms": statistics.median(took),
        "hook p99 ms": took[int(len(took) * 0.99)],
        "hook max ms": took[-1],
        "memory before MB": before,
        "memory grown MB": grown,
        "full queue MB": full,
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=60.0)
    arguments.add_argument("--rate", type=int, default=200)
    arguments.add_argument("--calls", type=int, default=400)
    given = arguments.parse_args()
    print(json.dumps(measure(given.rate, given.seconds, given.calls), indent=2))


if __name__ == "__main__":
    main()

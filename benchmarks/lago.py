"""A Lago that costs nearly nothing, so that a client's own cost shows: `python -m benchmarks.lago --subscriptions N`.

It keeps events in memory, lists what was posted, refuses what it holds already (the whole batch, as Lago's Postgres
store does), and answers the few other reads that the job makes. Pages of a loaded file are slices of it. It prints its
port and serves until it is ended. Beside Lago's API: `GET /_stats`, and `/_load?file=`, `/_keep` (what was posted
until now survives), `/_reset` (forgets the rest, and the counters), `/_latency?seconds=`.
"""

from __future__ import annotations

import argparse
import asyncio
import mmap
import resource
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import numpy.typing as npt
import orjson

from benchmarks.data import CODE, subscription_names

Ints = npt.NDArray[np.int64]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
MOST_IN_A_BATCH = 100
_LONG_AGO, _LONG_HENCE = "2020-01-01T00:00:00Z", "2099-12-31T23:59:59Z"

CHARGE = {
    "lago_id": "44444444-4444-4444-8444-444444444444",
    "lago_billable_metric_id": "33333333-3333-4333-8333-333333333333",
    "billable_metric_code": CODE,
    "charge_model": "standard",
    "invoiceable": True,
    "pay_in_advance": False,
    "prorated": False,
    "min_amount_cents": 0,
    "properties": {"amount": "1"},
    "filters": [],
    "taxes": [],
}
PLAN = {
    "lago_id": "55555555-5555-4555-8555-555555555555",
    "name": "usage",
    "code": "usage",
    "interval": "monthly",
    "amount_cents": 0,
    "amount_currency": "USD",
    "pay_in_advance": False,
    "parent_id": None,
    "charges": [CHARGE],
}
METRIC = {
    "lago_id": "33333333-3333-4333-8333-333333333333",
    "name": CODE,
    "code": CODE,
    "aggregation_type": "sum_agg",
    "weighted_interval": None,
    "recurring": False,
    "rounding_function": None,
    "rounding_precision": None,
    "field_name": "response_cost",
    "expression": "",
    "filters": [],
    "created_at": _LONG_AGO,
}
ORGANIZATION = {
    "lago_id": "11111111-1111-4111-8111-111111111111",
    "name": "Benchmark",
    "created_at": _LONG_AGO,
    "timezone": "UTC",
    "default_currency": "USD",
    "events_store": "postgres",
    "billing_configuration": {"invoice_grace_period": 0},
}
NOT_FOUND = {"status": 404, "error": "Not Found", "code": "resource_not_found"}
EMPTY = ("invoices", "customers", "fees", "credit_notes")


class Answer(NamedTuple):
    status: int
    body: bytes


class Events:
    """All events, newest first: those of a file, and those that were posted since."""

    def __init__(self) -> None:
        self.text: mmap.mmap | bytes = b""
        self.ages: Ints = np.zeros(0, np.int64)  # microseconds before 1970, so that newest first ascends
        self.ends: Ints = np.zeros(1, np.int64)
        self.posted: list[bytes] = []
        self.keys: set[tuple[str, str]] = set()
        self._posted_keys: list[tuple[str, str]] = []
        self._posted_ages: list[int] = []
        self._sorted: tuple[Ints, Ints] = (np.zeros(0, np.int64), np.zeros(0, np.int64))  # ages, places
        self._merged: tuple[tuple[int, ...], list[bytes]] | None = None
        self._kept = 0

    def load(self, file: Path) -> None:
        """The events of a file of `benchmarks.data`, instead of all that there were."""
        self.__init__()  # type: ignore[misc]
        index = np.load(file.with_suffix(".npy"))
        self.ages, self.ends = -index[0], np.concatenate(([0], np.cumsum(index[1])))
        if len(self.ages):
            with file.open("rb") as opened:
                self.text = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self.ages) + len(self.posted)

    def keep(self) -> None:
        self._kept = len(self.posted)

    def reset(self) -> None:
        self.keys.difference_update(self._posted_keys[self._kept :])
        for kept in (self.posted, self._posted_keys, self._posted_ages):
            del kept[self._kept :]
        self._sorted, self._merged = (np.zeros(0, np.int64), np.zeros(0, np.int64)), None

    def add(self, key: tuple[str, str], time_us: int, text: bytes) -> None:
        self.keys.add(key)
        self._posted_keys.append(key)
        self._posted_ages.append(-time_us)
        self.posted.append(text)

    def page(self, first_us: int, last_us: int, page: int, per_page: int) -> tuple[bytes, int]:
        """The texts of a page of what lies in [first, last], joined by commas, and how many there are in all."""
        begin, end = _between(self.ages, first_us, last_us)
        ages, places = self._in_order()
        others = slice(*_between(ages, first_us, last_us))
        count = end - begin + others.stop - others.start
        low, high = min((page - 1) * per_page, count), min(page * per_page, count)
        if low == high:
            return b"", count
        if others.start == others.stop:  # the file alone: every text ends with its comma
            return self.text[self.ends[begin + low] : self.ends[begin + high] - 1], count
        if begin == end:
            return b",".join(self.posted[place] for place in places[others][low:high].tolist()), count
        return b",".join(self._both(begin, end, others)[low:high]), count

    def _in_order(self) -> tuple[Ints, Ints]:
        ages, places = self._sorted
        if len(places) < len(self.posted):
            more = np.array(self._posted_ages[len(places) :], np.int64)
            ages = np.concatenate((ages, more))
            order = np.argsort(ages, kind="stable")
            self._sorted = ages[order], np.concatenate((places, np.arange(len(places), len(ages))))[order]
        return self._sorted

    def _both(self, begin: int, end: int, others: slice) -> list[bytes]:
        """The texts of a window in which both kinds lie. They are kept for the next page of it."""
        window = (begin, end, others.start, others.stop, len(self.posted))
        if self._merged is None or self._merged[0] != window:
            ages, places = self._sorted
            texts = [self.text[a : b - 1] for a, b in pairwise(self.ends[begin : end + 1].tolist())]
            texts += [self.posted[place] for place in places[others].tolist()]
            order = np.argsort(np.concatenate((self.ages[begin:end], ages[others])), kind="stable")
            self._merged = window, [texts[place] for place in order.tolist()]
        return self._merged[1]


def _between(ages: Ints, first_us: int, last_us: int) -> tuple[int, int]:
    return int(np.searchsorted(ages, -last_us, "left")), int(np.searchsorted(ages, -first_us, "right"))


class Server:
    """What is asked, and the answer."""

    def __init__(self, subscriptions: int) -> None:
        self.events = Events()
        self.latency = 0.0
        self.requests = self.in_flight = self.most_in_flight = 0
        self.subscriptions = {name: _subscription(name) for name in subscription_names(subscriptions)}

    def answer(self, method: str, target: str, body: bytes) -> Answer:
        parts = urlsplit(target)
        asked = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        if parts.path.startswith("/_"):
            return self._control(parts.path, asked)
        self.requests += 1
        path = parts.path.removeprefix("/api/v1").strip("/")
        if method == "POST":
            return self._post(path, orjson.loads(body))
        if path == "events":
            return self._list(asked)
        return self._read([unquote(part) for part in path.split("/")], asked)

    def _control(self, path: str, asked: dict[str, str]) -> Answer:
        if path == "/_load":
            self.events.load(Path(asked["file"]))
        elif path == "/_keep":
            self.events.keep()
        elif path == "/_reset":
            self.events.reset()
            self.requests = self.most_in_flight = 0
        elif path == "/_latency":
            self.latency = float(asked["seconds"])
        used = resource.getrusage(resource.RUSAGE_SELF)
        return _json(
            {
                "events": len(self.events),
                "requests": self.requests,
                "most_in_flight": self.most_in_flight,
                "cpu": used.ru_utime + used.ru_stime,
            }
        )

    def _list(self, asked: dict[str, str]) -> Answer:
        first = _microseconds(asked.get("timestamp_from"), 0)
        last = _microseconds(asked.get("timestamp_to"), 1 << 62)
        if asked.get("code", CODE) != CODE:
            first, last = 1, 0
        page, per_page = int(asked.get("page", 1)), int(asked.get("per_page", 100))
        texts, count = self.events.page(first, last, page, per_page)
        return Answer(200, b'{"events":[%b],"meta":%b}' % (texts, orjson.dumps(_meta(page, per_page, count))))

    def _post(self, path: str, given: dict[str, Any]) -> Answer:
        if path == "events/batch":
            return self._take(given["events"])
        if path == "events":
            taken = self._take([given["event"]])
            if taken.status != 200:
                return _refused({"transaction_id": ["value_already_exist"]})
            return Answer(200, b'{"event":%b}' % taken.body[len(b'{"events":[') : -len(b"]}")])
        return _json(NOT_FOUND, 404)

    def _take(self, given: list[dict[str, Any]]) -> Answer:
        if len(given) > MOST_IN_A_BATCH:
            return _refused({"events": ["too_many_events"]})
        keys = [(str(one["external_subscription_id"]), str(one["transaction_id"])) for one in given]
        held = [place for place, key in enumerate(keys) if key in self.events.keys]
        if held or len({*keys}) < len(keys):
            return _refused({str(place): {"transaction_id": ["value_already_exist"]} for place in held})
        now = datetime.now(UTC)
        received, texts = now.strftime("%Y-%m-%dT%H:%M:%SZ"), []
        for key, one in zip(keys, given, strict=True):
            # Kept to the millisecond, as Lago keeps it; what a double lacks of one is made good.
            time_us = int(float(one.get("timestamp") or now.timestamp()) * 1_000 + 0.05) * 1_000
            texts.append(_event(len(self.events), one, time_us, received))
            self.events.add(key, time_us, texts[-1])
        return Answer(200, b'{"events":[%b]}' % b",".join(texts))

    def _read(self, path: list[str], asked: dict[str, str]) -> Answer:
        match path:
            case ["organizations"]:
                return _json({"organization": ORGANIZATION})
            case ["billable_metrics", code] if code == CODE:
                return _json({"billable_metric": METRIC})
            case ["billable_metrics"]:
                return _json({"billable_metrics": [METRIC], "meta": _meta(1, 100, 1)})
            case ["plans"]:
                return _json({"plans": [PLAN], "meta": _meta(1, 100, 1)})
            case ["plans", "usage"]:
                return _json({"plan": PLAN})
            case ["subscriptions"]:
                return self._list_subscriptions(asked)
            case ["subscriptions", name] if name in self.subscriptions:
                return _json({"subscription": {**self.subscriptions[name], "plan": PLAN}})
            case [collection] if collection in EMPTY:
                return _json({collection: [], "meta": _meta(1, 100, 0)})
        return _json(NOT_FOUND, 404)

    def _list_subscriptions(self, asked: dict[str, str]) -> Answer:
        if asked.get("status[]", "active") != "active" or asked.get("plan_code", "usage") != "usage":
            found = []
        elif (wanted := asked.get("external_id") or asked.get("external_customer_id", "").removeprefix("of-")) != "":
            found = [self.subscriptions[wanted]] if wanted in self.subscriptions else []
        else:
            found = [*self.subscriptions.values()]
        page, per_page = int(asked.get("page", 1)), int(asked.get("per_page", 100))
        shown = found[(page - 1) * per_page : page * per_page]
        return _json({"subscriptions": shown, "meta": _meta(page, per_page, len(found))})


class Connection(asyncio.Protocol):
    """HTTP/1.1 with bodies of a known length, one request after the other."""

    def __init__(self, server: Server) -> None:
        self._server, self._read = server, bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._read += data
        while (end := self._read.find(b"\r\n\r\n")) >= 0:
            first, *lines = self._read[:end].decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            whole = end + 4 + int(headers.get("content-length", 0))
            if len(self._read) < whole:
                return
            body = bytes(self._read[end + 4 : whole])
            del self._read[:whole]
            method, target, _ = first.split(" ")
            answer = self._server.answer(method, target, body)
            self._send(answer, close=headers.get("connection", "").lower() == "close", control="/_" in target[:2])

    def _send(self, answer: Answer, *, close: bool, control: bool) -> None:
        server = self._server

        def send() -> None:
            head = b"HTTP/1.1 %d .\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            self._transport.writelines([head % (answer.status, len(answer.body)), answer.body])
            if close:
                self._transport.close()

        def send_late() -> None:
            server.in_flight -= 1
            send()

        if control:
            send()
            return
        server.in_flight += 1
        server.most_in_flight = max(server.most_in_flight, server.in_flight)
        if server.latency:
            asyncio.get_running_loop().call_later(server.latency, send_late)
        else:
            send_late()


def _event(number: int, given: dict[str, Any], time_us: int, received: str) -> bytes:
    at = (EPOCH + time_us * MICROSECOND).isoformat(timespec="milliseconds")[:23] + "Z"
    return orjson.dumps(
        {
            "lago_id": f"{number:08x}-0000-4000-8000-{number:012x}",
            "transaction_id": given["transaction_id"],
            "lago_customer_id": None,
            "code": given["code"],
            "timestamp": at,
            "precise_total_amount_cents": None,
            "properties": given.get("properties", {}),
            "lago_subscription_id": None,
            "external_subscription_id": given["external_subscription_id"],
            "created_at": received,
        }
    )


def _subscription(name: str) -> dict[str, Any]:
    return {
        "lago_id": f"sub-{name}",
        "external_id": name,
        "lago_customer_id": f"cust-{name}",
        "external_customer_id": f"of-{name}",
        "plan_code": "usage",
        "status": "active",
        "billing_time": "calendar",
        "subscription_at": _LONG_AGO,
        "started_at": _LONG_AGO,
        "ending_at": None,
        "terminated_at": None,
        "canceled_at": None,
        "created_at": _LONG_AGO,
        "current_billing_period_started_at": _LONG_AGO,
        "current_billing_period_ending_at": _LONG_HENCE,
    }


def _meta(page: int, per_page: int, count: int) -> dict[str, int | None]:
    pages = -(-count // per_page)
    return {
        "current_page": page,
        "next_page": page + 1 if page < pages else None,
        "prev_page": page - 1 if 1 < page <= pages else None,
        "total_pages": pages,
        "total_count": count,
    }


def _microseconds(text: str | None, default: int) -> int:
    if not text:
        return default
    moment = datetime.fromisoformat(text)
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - EPOCH) // MICROSECOND


def _json(answer: Any, status: int = 200) -> Answer:
    return Answer(status, orjson.dumps(answer))


def _refused(details: dict[str, Any]) -> Answer:
    body = {"status": 422, "error": "Unprocessable Entity", "code": "validation_errors", "error_details": details}
    return _json(body, 422)


async def serve(server: Server, ready: Callable[[int], None]) -> None:
    listening = await asyncio.get_running_loop().create_server(lambda: Connection(server), "127.0.0.1", 0)
    ready(listening.sockets[0].getsockname()[1])
    await listening.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subscriptions", type=int, default=200)
    asyncio.run(serve(Server(parser.parse_args().subscriptions), lambda port: print(port, flush=True)))


if __name__ == "__main__":
    main()

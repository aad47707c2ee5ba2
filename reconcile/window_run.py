"""One window, worked through slice by slice: read, pair, hold back, send, read back, book."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from reconcile.books import Books
from reconcile.classify import Classification, Reach, Rules, Settled, as_rows, no_events, no_rows
from reconcile.coverage import Coverage, in_invoices
from reconcile.errors import ReconcileError
from reconcile.event import Shape, transaction_ids
from reconcile.lago import Interrupted
from reconcile.preflight import Sides
from reconcile.sending import Sender
from reconcile.settings import PROPERTIES, Settings
from reconcile.spend_logs import CLOCK_SKEW, RowFeed, milliseconds
from reconcile.window import Window, local_days, slices, widen

# How many slices' events are listed ahead of the one that is worked on.
_AHEAD = 3
# So many delivered rows are read back together: few enough to keep the memory flat.
_VERIFIED_AT_ONCE = 20_000
_EPOCH = datetime.fromtimestamp(0, UTC)


class WindowRun:
    """The work on one window. `work` does it; `books` and `verified` hold the result, also where a fault ended it."""

    def __init__(
        self,
        settings: Settings,
        sides: Sides,
        run_id: str,
        window: Window,
        sends: bool,
        timing: Any,
        stop: threading.Event,
        progress: Any,
        lock: Any,
    ) -> None:
        self.settings, self.sides, self.window, self.sends = settings, sides, window, sends
        self.run_id = run_id
        self._timing, self._stop, self._progress, self._lock = timing, stop, progress, lock
        self.rules = Rules(
            code=settings.event_code,
            reach=Reach(_ms(settings.match_before), _ms(settings.match_after)),
            exclude=settings.exclude,
            clickhouse=sides.clickhouse,
        )
        self.books = Books(lambda times: np.asarray(local_days(_times(times), settings.time_zone).date, object))
        self.verified: bool | None = None
        self.slices = 0
        self.batches = 0
        self.pushed_doubtful = 0
        self._coverage: Coverage | None = None
        self._drafts: pd.DataFrame | None = None
        self._to_verify: list[pd.DataFrame] = []
        self._names = {
            name: tuple(dict.fromkeys((settings.properties.get(name, name), name)))
            for name in ("model", "response_cost", "prompt_tokens", "completion_tokens", "total_tokens", "request_id")
        }
        self._sender = Sender(
            lago=sides.lago,
            ledger=sides.ledger,
            stream=sides.stream,
            shape=Shape(
                settings.event_code,
                tuple((name, settings.properties[name]) for name in PROPERTIES if name in settings.properties),
                settings.precise_amount,
            ),
            rules=self.rules,
            visible_within=settings.visible_within,
            stop=stop,
            run_id=run_id,
            list_events=self._list,
        )

    @property
    def coverage(self) -> Coverage:
        """The organization's subscriptions, read once."""
        if self._coverage is None:
            self._coverage = Coverage(
                self.sides.lago.subscriptions(), by_customer=self.settings.id_kind == "external_customer_id"
            )
        return self._coverage

    def work(self) -> None:
        """Raises the faults of exit code 3; the books then hold what was read before, and nothing more was sent."""
        # Rows and events just outside take part in the pairing: far enough for a chain of pairs to end.
        halo = 2 * (self.settings.match_before + self.settings.match_after)
        wide = widen(self.window, halo, halo)
        parts = slices(wide, self.settings.slice_length)
        self.slices = len(parts)
        self._progress.total(len(parts))
        classification = Classification(self.rules)
        try:
            self._read_and_take(classification, wide, parts)
            self._settle_rest(classification)
            self._verify()
        except ReconcileError:
            self.sends = False
            self._settle_rest(classification)
            self._book_unverified()
            raise

    def _read_and_take(self, classification: Classification, wide: Window, parts: list[Window]) -> None:
        _ = self.coverage
        feed = RowFeed(self.sides.spend_logs, wide, self.settings.max_call)
        with ThreadPoolExecutor(_AHEAD, thread_name_prefix="list") as pool:
            listings = _Ahead(pool, parts, self._list_part)
            for number, part in enumerate(parts):
                self._go_on()
                with self._timing.stage("read"):
                    rows = feed.up_to(part.end)
                    sent_lately = self._prepare(rows, part)
                with self._timing.stage("list"):
                    waited = self._await_live_events(rows)
                    events = self._list_part(part) if waited else listings.take(number)
                    if sent_lately:
                        events = self._await_visible(part, events, sent_lately)
                self._count(rows, events)
                with self._timing.stage("classify"):
                    settled = classification.settle(rows, events, milliseconds(part.end))
                self._take(settled)
                self._progress.step(f"{part.end:%Y-%m-%d %H:%M}")

    def _settle_rest(self, classification: Classification) -> None:
        with self._timing.stage("classify"):
            settled = classification.settle(no_rows(), no_events(), None)
        self._take(settled)

    def _go_on(self) -> None:
        if self._stop.is_set():
            raise Interrupted("interrupted; running it again is safe and carries on")

    # --- reading

    def _prepare(self, rows: pd.DataFrame, part: Window) -> dict[str, datetime]:
        """Gives rows their subscription, and what the ledger knows of deliveries for other charge IDs.

        On a ClickHouse store it tells the transaction IDs that were sent so lately that they may not be visible yet,
        with the time until which to wait for each.
        """
        if self.coverage.by_customer and len(rows):
            subscriptions, _, _ = self.coverage.resolve(rows["charge_id"].tolist(), rows["usage_ms"].to_numpy(np.int64))
            rows["subscription_id"] = pd.array(subscriptions, dtype="str")
        known = self.sides.ledger.delivered(self.sides.stream, milliseconds(part.start), milliseconds(part.end))
        if known.empty:
            return {}
        merged = rows[["request_id", "start_ms", "charge_id"]].merge(
            known, on=["request_id", "start_ms"], how="left", suffixes=("", "_known")
        )
        elsewhere = merged["charge_id_known"].notna() & (merged["charge_id_known"] != merged["charge_id"])
        rows["earlier_id"] = merged["transaction_id"].where(elsewhere, "").astype("str").array
        rows["earlier_sure"] = elsewhere.to_numpy(bool) & merged["taken"].eq(True).to_numpy(bool)
        if not self.sides.clickhouse:
            return {}
        now = datetime.now(UTC)
        due = {
            str(name): sent_at + self.settings.visible_within
            for name, sent_at in zip(known["transaction_id"].tolist(), known["sent_at"].tolist(), strict=True)
        }
        return {name: until for name, until in due.items() if until > now}

    def _await_visible(self, part: Window, events: pd.DataFrame, sent_lately: dict[str, datetime]) -> pd.DataFrame:
        """Lists a slice again until what was sent lately is there, or has had the time to become visible."""
        pause = 0.5
        while True:
            unseen = sent_lately.keys() - set(events["transaction_id"].tolist())
            now = datetime.now(UTC)
            left = max(((sent_lately[name] - now).total_seconds() for name in unseen), default=0.0)
            if left <= 0:
                return events
            self._progress.note(f"waiting for {len(unseen)} events that Lago may not show yet")
            self._stop.wait(min(pause, left))
            self._go_on()
            pause = min(pause * 1.5, 10.0)
            events = self._list_part(part)

    def _await_live_events(self, rows: pd.DataFrame) -> bool:
        """Waits until the live event of every row would have arrived; says whether there was anything to wait for.

        Only then is a row without an event missing. A row from the future (a clock gone wrong) is not waited for.
        """
        if not self.sends or rows.empty:
            return False
        now = datetime.now(UTC)
        times = rows["usage_ms"].to_numpy(np.int64)
        recent = times[times <= milliseconds(now + CLOCK_SKEW)]
        if not len(recent):
            return False
        due = _moment(int(recent.max())) + self.settings.match_after
        if due <= now:
            return False
        self._progress.note(f"waiting until {due:%H:%M:%S} UTC for events that may still be on their way")
        while (left := (due - datetime.now(UTC)).total_seconds()) > 0:
            self._stop.wait(min(left, 1.0))
            self._go_on()
        return True

    def _list_part(self, part: Window) -> pd.DataFrame:
        return self._list(part.start, part.end, None)

    def _list(self, start: datetime, end: datetime, subscription_id: str | None) -> pd.DataFrame:
        listed = self.sides.lago.list_events(
            self.settings.event_code,
            start,
            end,
            names=self._names,
            store="clickhouse" if self.sides.clickhouse else "postgres",
            external_subscription_id=subscription_id,
        )
        subscriptions = listed["external_subscription_id"].fillna("")
        charge_ids = self.coverage.charge_ids_of(subscriptions.tolist())
        return pd.DataFrame(
            {
                "transaction_id": listed["transaction_id"].fillna("").array,
                "subscription_id": subscriptions.array,
                "charge_id": pd.array(charge_ids, dtype="str"),
                "model": listed["model"].fillna("").array,
                "request_id": listed["request_id"].fillna("").array,
                "time_ms": listed["timestamp"].to_numpy("datetime64[ms]").astype(np.int64),
                **{
                    name: listed[name].to_numpy(np.float64)
                    for name in ("response_cost", "prompt_tokens", "completion_tokens", "total_tokens")
                },
                "cost_null": listed["cost_null"].to_numpy(bool),
                "malformed": listed["malformed"].to_numpy(bool),
            }
        )

    def _count(self, rows: pd.DataFrame, events: pd.DataFrame) -> None:
        """Takes down what was read of the window itself, for the books to be checked against."""
        if self.sides.clickhouse:
            events = events.drop_duplicates(["subscription_id", "transaction_id", "time_ms"])
        inside = self._inside(events["time_ms"].to_numpy(np.int64))
        costs = np.where(events["cost_null"], 0.0, events["response_cost"])[inside]
        self.books.read(rows[self._inside(rows["usage_ms"].to_numpy(np.int64))], costs)

    def _inside(self, times: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        return np.asarray((times >= milliseconds(self.window.start)) & (times < milliseconds(self.window.end)))

    # --- deciding and booking

    def _take(self, settled: Settled) -> None:
        """Decides what becomes of the missing rows of the window, and books everything that is decided."""
        events = settled.events[self._inside(settled.events["time_ms"].to_numpy(np.int64))]
        inside = self._inside(settled.rows["usage_ms"].to_numpy(np.int64))
        outside_ids = settled.rows["event_id"][~inside & (settled.rows["event_id"] != "").to_numpy(bool)]
        self.books.add_events(
            events.reset_index(drop=True),
            paired_outside=events["transaction_id"].isin(outside_ids).to_numpy(bool),
        )
        decided = _Decided(settled.rows[inside].reset_index(drop=True), self.settings.event_code)
        try:
            self._hold(decided)
            if self.sends:
                self._send(decided)
        finally:
            self.books.add_rows(decided.booked(decided.kind != "unverified"))
        if sum(map(len, self._to_verify)) > _VERIFIED_AT_ONCE:
            self._verify()

    def _hold(self, decided: _Decided) -> None:
        """Keeps missing rows back that Lago would store and bill nobody for."""
        places = decided.of_class("missing")
        if not len(places):
            return
        rows = decided.rows.iloc[places]
        times = rows["usage_ms"].to_numpy(np.int64)
        subscription, reason, covering = self.coverage.resolve(rows["charge_id"].astype("str").tolist(), times)
        decided.subscription[places] = subscription
        if self.settings.uncovered == "push":
            # A customer without one subscription cannot be pushed: there is no ID to send the event to.
            reason[(reason != "") & (subscription != "")] = ""
        if self.settings.late == "hold":
            reason[(reason == "") & self._closed(subscription, covering, times)] = "period_closed"
        held = reason != ""
        decided.set(places[held], "held", reason[held])
        if self.sends and held.any():
            self._keep_held(rows[held], reason[held])

    def _closed(
        self, subscription: npt.NDArray[np.object_], covering: npt.NDArray[np.int64], times: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.bool_]:
        """Where the usage time lies before the open billing period, and no draft invoice takes it."""
        closed = self.coverage.before_period(covering, times)
        if closed.any():
            if self._drafts is None:
                self._drafts = self.sides.lago.draft_invoices()
            closed &= ~in_invoices(self._drafts, subscription, times)
        return closed

    def _keep_held(self, rows: pd.DataFrame, reasons: npt.NDArray[np.object_]) -> None:
        columns = ("charge_id", "model", "spend", "prompt_tokens", "completion_tokens", "total_tokens")
        self.sides.ledger.hold(
            self.sides.stream,
            self.run_id,
            [
                {
                    "request_id": row["request_id"],
                    "start_ms": row["start_ms"],
                    "usage_ms": row["usage_ms"],
                    "reason": reason,
                    "row": {name: row[name] for name in columns},
                }
                for row, reason in zip(rows.to_dict("records"), reasons.tolist(), strict=True)
            ],
        )

    def _send(self, decided: _Decided) -> None:
        doubtful = [name for name in ("mismatched", "misdirected") if name in self.settings.push_doubtful]
        places = np.sort(np.concatenate([decided.of_class(name) for name in ("missing", *doubtful)]))
        if not len(places):
            return
        rows = as_rows(decided.rows.iloc[places])
        rows["transaction_id"] = pd.array(decided.own_ids(places), dtype="str")
        rows["subscription_id"] = pd.array(decided.subscription[places], dtype="str")
        rows["bare_model"] = rows["model"]
        rows["ours"] = decided.kind[places] != "missing"
        self.pushed_doubtful += int(rows["ours"].sum())
        if self._lock is not None:
            self._lock.confirm()
        with self._timing.stage("deliver"):
            sent = self._sender.send(rows, self.batches)
        self.batches += sent.batches
        decided.set(places, sent.kind, sent.reason, sent.detail)
        taken = np.flatnonzero(sent.kind == "delivered")
        if len(taken):
            # Booked when Lago was read back; until then the run has something that is not verified.
            self.verified = False
            decided.set(places[taken], "unverified", sent.reason[taken])
            entries = decided.booked(decided.kind == "unverified").reset_index(drop=True)
            sent_rows = rows.iloc[taken].reset_index(drop=True).add_prefix("sent_")
            self._to_verify.append(pd.concat([entries, sent_rows], axis=1))
        if sent.fault is not None:
            raise sent.fault
        self._go_on()

    def _verify(self) -> None:
        """Reads Lago back, and books what was delivered."""
        if not self._to_verify:
            return
        entries = pd.concat(self._to_verify, ignore_index=True)
        rows = entries[[name for name in entries if name.startswith("sent_")]].rename(
            columns=lambda name: name.removeprefix("sent_")
        )
        rows["reason"] = entries["reason"].to_numpy(object)
        stretches = rows["usage_ms"].to_numpy(np.int64) // _ms(self.settings.slice_length)
        with self._timing.stage("verify"):
            found = self._sender.verify(rows, stretches)
        self._to_verify = []
        self.books.add_rows(entries.assign(**{"class": found.kind, "reason": found.reason}))
        if found.fault is not None:
            raise found.fault
        self.verified = True

    def _book_unverified(self) -> None:
        """What Lago answered that it has, where a fault came before it could be read back."""
        if self._to_verify:
            self.verified = False
            self.books.add_rows(pd.concat(self._to_verify, ignore_index=True).assign(**{"class": "delivered"}))
            self._to_verify = []


class _Decided:
    """The rows of one step and what is decided about them."""

    def __init__(self, rows: pd.DataFrame, code: str) -> None:
        self.rows = rows
        self._code = code
        self.kind = rows["class"].to_numpy(object)
        self.reason = rows["reason"].to_numpy(object)
        self.detail = np.full(len(rows), "", object)
        self.subscription = rows["subscription_id"].to_numpy(object)

    def of_class(self, name: str) -> npt.NDArray[np.int64]:
        return np.flatnonzero(self.kind == name)

    def set(
        self,
        places: npt.NDArray[np.int64],
        kind: str | npt.NDArray[np.object_],
        reason: str | npt.NDArray[np.object_],
        detail: npt.NDArray[np.object_] | None = None,
    ) -> None:
        self.kind[places], self.reason[places] = kind, reason
        if detail is not None:
            self.detail[places] = detail

    def own_ids(self, places: npt.NDArray[np.int64]) -> list[str]:
        rows = self.rows.iloc[places]
        return transaction_ids(
            self._code, rows["charge_id"].astype("str").tolist(), rows["request_id"].tolist(), rows["start_ms"].tolist()
        )

    def booked(self, which: npt.NDArray[np.bool_]) -> pd.DataFrame:
        """Rows with their class, and the transaction ID that stands for each in the list of discrepancies."""
        ids = self.rows["event_id"].to_numpy(object)
        own = np.isin(self.kind, ("missing", "held", "rejected")) | ((self.kind == "misdirected") & (ids == ""))
        places = np.flatnonzero(own)
        ids[places] = self.own_ids(places)
        named = self.rows.assign(
            **{"class": self.kind, "reason": self.reason, "detail": self.detail, "transaction_id": ids}
        )
        return named[which]


class _Ahead:
    """Listings of the slices to come, a few at a time, so that Lago and Postgres are read side by side."""

    def __init__(self, pool: ThreadPoolExecutor, parts: list[Window], read: Any) -> None:
        self._pool, self._parts, self._read = pool, parts, read
        self._pending: dict[int, Future[pd.DataFrame]] = {}

    def take(self, number: int) -> pd.DataFrame:
        for ahead in range(number, min(number + _AHEAD, len(self._parts))):
            if ahead not in self._pending:
                self._pending[ahead] = self._pool.submit(self._read, self._parts[ahead])
        return self._pending.pop(number).result()


def _ms(length: timedelta) -> int:
    return length // timedelta(milliseconds=1)


def _moment(milliseconds_: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=milliseconds_)


def _times(milliseconds_: npt.NDArray[np.int64]) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(pd.to_datetime(milliseconds_, unit="ms", utc=True))

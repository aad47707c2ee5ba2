"""One window, worked through slice by slice: both sides are read once, paired, and handed to the settlement."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd

from reconcile.classify import Classification, no_events, no_rows
from reconcile.domain.window import Window, widen
from reconcile.errors import ReconcileError
from reconcile.litellm.spend_logs import CLOCK_SKEW, RowFeed, milliseconds
from reconcile.run.context import Context, moment
from reconcile.run.settlement import Settlement

# How many slices' events are listed ahead of the one that is worked on.
_AHEAD = 3

Counted = Callable[[Window, pd.DataFrame, pd.DataFrame], None]


def halo(context: Context) -> timedelta:
    """How far outside the window rows and events take part in the pairing: far enough for chains of pairs to end."""
    return 2 * (context.settings.match_before + context.settings.match_after)


class WindowRun:
    """The work on one window, cut into `parts` (contiguous slices that cover it).

    `counted` is told the rows and events that were read of each part, halo included, before they are classified.
    `further` are rows (ROWS) that began too long before their usage time to be found by their start.
    """

    def __init__(
        self,
        context: Context,
        parts: Sequence[Window],
        settlement: Settlement,
        counted: Counted,
        further: pd.DataFrame | None = None,
    ) -> None:
        self._context, self._settlement, self._counted = context, settlement, counted
        self._classification = Classification(context.rules)
        self._wide = widen(Window(parts[0].start, parts[-1].end), halo(context), halo(context))
        self._parts = [*parts]
        self._parts[0] = Window(self._wide.start, self._parts[0].end)
        self._parts[-1] = Window(self._parts[-1].start, self._wide.end)
        self._further = no_rows() if further is None else further

    def work(self) -> None:
        """Raises the faults of exit code 3; the books then hold what was read before, and nothing more is sent."""
        try:
            self._read_and_take()
            self._settle_rest()
            self._settlement.verify()
        except ReconcileError:
            self._context.sends = False
            with contextlib.suppress(ReconcileError):
                self._settle_rest()
            self._settlement.abandon()
            raise

    def _read_and_take(self) -> None:
        context, timing = self._context, self._context.timing
        _ = context.coverage
        # Every event that is read finds its row: rows are read from one reach earlier on.
        rows_from = widen(self._wide, context.settings.match_after, timedelta(0))
        feed = RowFeed(context.sides.spend_logs, rows_from, context.settings.max_call)
        with ThreadPoolExecutor(_AHEAD, thread_name_prefix="list") as pool:
            listings = _Ahead(pool, self._parts, lambda part: context.list_events(part.start, part.end))
            for number, part in enumerate(self._parts):
                context.go_on()
                with timing.stage("read"):
                    rows = self._with_further(feed.up_to(part.end), part)
                    sent_lately = self._prepare(rows, part)
                with timing.stage("list"):
                    events = listings.take(number)
                    if self._await_live_events(part, rows, events):
                        events = context.list_events(part.start, part.end)
                    if sent_lately:
                        events = self._await_visible(part, events, sent_lately)
                self._counted(part, rows, events)
                with timing.stage("classify"):
                    settled = self._classification.settle(rows, events, milliseconds(part.end))
                self._settlement.take(settled)
                context.slices += 1
                context.progress.step(f"{part.end:%Y-%m-%d %H:%M}")

    def _settle_rest(self) -> None:
        with self._context.timing.stage("classify"):
            settled = self._classification.settle(no_rows(), no_events(), None)
        self._settlement.take(settled)

    def _with_further(self, rows: pd.DataFrame, part: Window) -> pd.DataFrame:
        times = self._further["usage_ms"].to_numpy(np.int64)
        due = self._further[(times >= milliseconds(part.start)) & (times < milliseconds(part.end))]
        if due.empty:
            return rows
        both = pd.concat([rows, due], ignore_index=True)
        return both.drop_duplicates(["request_id", "start_ms"], ignore_index=True)

    def _prepare(self, rows: pd.DataFrame, part: Window) -> dict[str, datetime]:
        """Gives rows their subscription, and what the ledger knows of deliveries for other charge IDs.

        On a ClickHouse store it tells the transaction IDs that were sent so lately that they may not be visible yet,
        with the time until which to wait for each.
        """
        context = self._context
        if context.coverage.by_customer and len(rows):
            subscriptions, _, _ = context.coverage.resolve(
                rows["charge_id"].tolist(), rows["usage_ms"].to_numpy(np.int64)
            )
            rows["subscription_id"] = pd.array(subscriptions, dtype="str")
        known = context.sides.ledger.delivered(context.sides.stream, milliseconds(part.start), milliseconds(part.end))
        if known.empty:
            return {}
        merged = rows[["request_id", "start_ms", "charge_id"]].merge(
            known, on=["request_id", "start_ms"], how="left", suffixes=("", "_known")
        )
        elsewhere = merged["charge_id_known"].notna() & (merged["charge_id_known"] != merged["charge_id"])
        rows["earlier_id"] = merged["transaction_id"].where(elsewhere, "").astype("str").array
        rows["earlier_sure"] = elsewhere.to_numpy(bool) & merged["taken"].eq(True).to_numpy(bool)
        if not context.sides.clickhouse:
            return {}
        now = datetime.now(UTC)
        due = {
            str(name): sent_at + context.settings.visible_within
            for name, sent_at in zip(known["transaction_id"].tolist(), known["sent_at"].tolist(), strict=True)
        }
        return {name: until for name, until in due.items() if until > now}

    def _await_visible(self, part: Window, events: pd.DataFrame, sent_lately: dict[str, datetime]) -> pd.DataFrame:
        """Lists a slice again until what was sent lately is there, or has had the time to become visible."""
        context, pause = self._context, 0.5
        while True:
            unseen = sent_lately.keys() - set(events["transaction_id"].tolist())
            now = datetime.now(UTC)
            left = max(((sent_lately[name] - now).total_seconds() for name in unseen), default=0.0)
            if left <= 0:
                return events
            context.progress.note(f"waiting for {len(unseen)} events that Lago may not show yet")
            context.stop.wait(min(pause, left))
            context.go_on()
            pause = min(pause * 1.5, 10.0)
            events = context.list_events(part.start, part.end)

    def _await_live_events(self, part: Window, rows: pd.DataFrame, events: pd.DataFrame) -> bool:
        """Waits where a row without an event is so young that its live event may still be on its way.

        That may be a row of an earlier slice, too. Says whether it waited: then the events have to be listed again. A
        row from the future (a clock gone wrong) is not waited for.
        """
        context, now = self._context, datetime.now(UTC)
        after = context.settings.match_after
        if not context.sends or part.end + after <= now:
            return False
        found = self._classification.preview(rows, events).rows
        lacking = found["usage_ms"].to_numpy(np.int64)[found["class"].eq("missing").to_numpy(bool)]
        young = lacking[lacking <= milliseconds(now + CLOCK_SKEW)]
        due = moment(int(young.max(initial=0))) + after
        if due <= now:
            return False
        context.progress.note(f"waiting until {due:%H:%M:%S} UTC for events that may still be on their way")
        while (left := (due - datetime.now(UTC)).total_seconds()) > 0:
            context.stop.wait(min(left, 1.0))
            context.go_on()
        return True


class _Ahead:
    """Listings of the slices to come, a few at a time, so that Lago and Postgres are read side by side.

    A slice that is not over yet is listed when its turn comes: live events may still arrive in it until then.
    """

    def __init__(
        self, pool: ThreadPoolExecutor, parts: Sequence[Window], read: Callable[[Window], pd.DataFrame]
    ) -> None:
        self._pool, self._parts, self._read = pool, parts, read
        self._pending: dict[int, Future[pd.DataFrame]] = {}

    def take(self, number: int) -> pd.DataFrame:
        for ahead in range(number, min(number + _AHEAD, len(self._parts))):
            over = self._parts[ahead].end <= datetime.now(UTC)
            if ahead not in self._pending and (over or ahead == number):
                self._pending[ahead] = self._pool.submit(self._read, self._parts[ahead])
        return self._pending.pop(number).result()

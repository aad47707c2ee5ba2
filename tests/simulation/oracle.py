"""What must hold, judged by the truth of the world and never by the job's own words.

Rows of one subscription and one spend are a group: live events carry no request, so which of two equal rows one is for
cannot be told, and numbers are compared instead. Spends are drawn so that other rows are groups of one; the rows that
cost nothing are one group a subscription.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pandas as pd

from reconcile.domain.document import Document, EventTotals, RowTotals
from reconcile.domain.instants import as_ms
from reconcile.domain.window import Window

from .job import Ended
from .lago import Event, Key
from .litellm import Content, Row
from .machine import EPOCH, HOUR, MINUTE, shown
from .world import World

FAIL_ON = ("missing", "unbilled", "mismatched", "misdirected", "duplicate", "orphan", "rejected", "held")
CATALOGUE = ("no_subscription", "not_priced", "period_closed")


_MS = timedelta(milliseconds=1)


class Wrong(AssertionError):
    """A promise is broken."""


@dataclass
class Run:
    """One run as the oracle follows it. Times are true ms; `host_started` is by the host's clock."""

    number: int
    command: str
    window: Window
    sends: bool
    started: int
    host_started: int
    calm: bool
    ended_at: int = 0


@dataclass
class Ledger:
    """What the ledger held after a run: each journal line, each delivery by its key, the windows of all that began."""

    journal: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    deliveries: dict[tuple[Any, ...], tuple[Any, ...]] = field(default_factory=dict)
    held: dict[Key, str] = field(default_factory=dict)
    begun: list[Window] = field(default_factory=list)


@dataclass
class Oracle:
    world: World
    lag: int
    max_call: int
    run: Run | None = None
    ledger: Ledger = field(default_factory=Ledger)
    seen: set[Key] = field(default_factory=set)  # rows that a finished run which sends has had before it
    asked: list[Window] = field(default_factory=list)
    named: dict[Key, str] = field(default_factory=dict)  # what the last finished run said of a row
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.world.lago.stored = self.on_stored

    # --- each event of the job, as Lago stores it

    def on_stored(self, event: Event) -> None:
        if event.by != "job":
            return
        world, lago, run = self.world, self.world.lago, self.run
        assert run is not None
        self.counts["sent"] += 1
        what = f"event {event.transaction_id} of {event.of}"
        if not run.sends:
            raise Wrong(f"{run.command}: {what} was sent by a run that sends nothing")
        if event.of is None:
            raise Wrong(f"{what} belongs to no row: {event.properties}, {shown(event.time_ms)}")
        row = world.row(event.of)
        contents = [row.content, *(old for _, old in row.mended)]
        if not any(_carries(event, content) for content in contents) or event.time_ms != self._kept(row.usage_ms):
            raise Wrong(f"{what} is not what its row says: {event}, {row}")
        if row.status == "failure" or event.subscription_id in ("", "the-house"):
            raise Wrong(f"{what} is of a row that is not billable: {row}")
        if row.usage_ms >= run.host_started - self.lag:
            raise Wrong(f"{what} is younger than the lag: {shown(row.usage_ms)}")
        if not event.folded:
            earlier = [
                one for one in lago.events if one.of == event.of and one.by in ("job", "callback") and one is not event
            ]
            if earlier:
                raise Wrong(f"billed twice: {what} was already sent: {_list(earlier)}")
            self._not_there_before(event, row, run, what)
        changed = self._changed(run, world.clock.now)
        if not event.billed_at_receipt and not changed:
            raise Wrong(
                f"{what} was sent, and is on nobody's invoice: {lago.open_for(event.subscription_id, event.time_ms)}"
            )

    def _not_there_before(self, event: Event, row: Row, run: Run, what: str) -> None:
        """The row's live event was not there when the run began, or is one that bills nobody.

        Which of two equal rows an event is for cannot be told. So as many of the group's rows as can have an event of
        their own have one, and that must be as many without this row: it is one that is left over.
        """
        if row.mended:
            return  # a live event with the old values is not the row's by its content
        group = [
            other
            for other in self.world.table.rows
            if _group(other.content) == _group(row.content) and other.status != "failure"
        ]
        there = [
            one
            for one in self.world.lago.events
            if one is not event
            and one.visible_at <= run.started
            and one.of in {other.key for other in group}
            and self.bills(one)
        ]
        # A row that has its event by ID explains its live one as well: that one is nobody else's.
        known = {one.of for one in there if one.by in ("job", "callback")}
        there = [one for one in there if one.by in ("job", "callback") or one.of not in known]
        could_be = {other.key: [one.number for one in there if self._could_be(one, other, group)] for other in group}
        others = {key: numbers for key, numbers in could_be.items() if key != row.key}
        if _most_pairs(could_be) > _most_pairs(others):
            raise Wrong(f"billed twice: {what}: Lago had {_list(there)} before the run began")

    def _could_be(self, event: Event, row: Row, group: list[Row]) -> bool:
        """Whether the event is the row's in truth, or could be by its content and time.

        A second event of one call is not that of an equal call which ended later, and out of reach of it.
        """
        if event.of == row.key:
            return True
        if event.by in ("job", "callback") or not _fits(event, row):
            return False
        if self._in_reach(event, row):
            return True
        settings, after = self.world.settings, event.time_ms - row.usage_ms
        second = any(self._in_reach(event, other) and _fits(event, other) for other in group)
        return (0 if second else -as_ms(settings.doubt_before)) <= after <= as_ms(settings.doubt_after)

    def _in_reach(self, event: Event, row: Row) -> bool:
        settings = self.world.settings
        return -as_ms(settings.match_before) <= event.time_ms - row.usage_ms <= as_ms(settings.match_after)

    def _changed(self, run: Run, until: int) -> bool:
        """Whether a subscription or plan changed while the run was at work, or before and Lago's clock was late."""
        return any(run.started - HOUR <= at <= until + 2 * MINUTE for at in self.world.changes)

    def bills(self, event: Event) -> bool:
        """Whether the event is billed, whatever a finished invoice holds: counted, covered and priced."""
        covering = self.world.lago.covering(event.subscription_id, event.time_ms)
        if covering is None or not covering.plan.priced or event.folded:
            return False
        number = self.world.lago.number(event)
        if event.of is None or self.world.lago.aggregation != "sum_agg":
            return number is not None
        own = self._own_number(self.world.row(event.of).content)
        return bool(number) or own == 0

    def _own_number(self, content: Content) -> Decimal:
        return (
            Decimal(repr(content.spend)) if self.world.lago.field_name == "response_cost" else Decimal(content.tokens)
        )

    def _kept(self, usage_ms: int) -> int:
        """The tenths that the job adds to a time keep its millisecond on every store."""
        return usage_ms

    # --- each run

    def begin(self, run: Run) -> None:
        self.run = run

    def end(self, ended: Ended, ledger: Ledger, locks: int) -> None:
        """After each run, however it ended."""
        run = self.run
        assert run is not None
        run.ended_at = self.world.clock.now
        self._append_only(ledger, run)
        if locks:
            raise Wrong(f"{locks} advisory locks are left")
        if not run.sends and ended.posts:
            raise Wrong(f"{run.command} sent {ended.posts[0]}")
        self.ledger = ledger
        if ended.result is None:
            return
        document, code = ended.result.document, ended.result.exit_code
        _balanced(document)
        if (document.status, code) not in (("agreed", 0), ("discrepancies", 1), ("incomplete", 3), ("incomplete", 130)):
            raise Wrong(f"status {document.status} with exit {code}")
        if code in (0, 1):
            self._finished(run, document, code)

    def _append_only(self, now: Ledger, run: Run) -> None:
        before = self.ledger
        for entry, line in before.journal.items():
            if now.journal.get(entry) != line:
                raise Wrong(f"journal line {entry} was {line} and is {now.journal.get(entry)}")
        for key, delivery in before.deliveries.items():
            found = now.deliveries.get(key)
            if found is None:
                raise Wrong(f"the delivery of {key} is gone from the ledger")
            (id_before, taken_before), (id_now, taken_now) = delivery[:2], found[:2]
            if taken_before and (id_now != id_before or not taken_now):
                raise Wrong(f"the delivery of {key} was taken by Lago, and the ledger forgot it: {delivery}, {found}")
        if not run.sends and (before.journal, before.deliveries, before.held) != (
            now.journal,
            now.deliveries,
            now.held,
        ):
            raise Wrong(f"{run.command} wrote to the ledger")
        for event in self.world.lago.events:
            if event.by == "job" and not any(found[0] == event.transaction_id for found in now.deliveries.values()):
                raise Wrong(f"{event.transaction_id} is in Lago, and not in the ledger")

    def _finished(self, run: Run, document: Document, code: int) -> None:
        """A run that says that it did all its work: each row of its window is billed, or named with a true reason."""
        named = _named(document, self.world.table.rows)
        window = run.window
        present = [
            row
            for row in self.world.table.rows
            if row.there(run.started)
            and row.there(run.ended_at)
            and _inside(row.usage_ms, window)
            # Longer calls are found by the nightly re-check of the hours that they began in.
            and row.usage_ms - row.start_ms <= self.max_call
        ]
        read = document.rows["total"].count
        if read < len(present):
            raise Wrong(f"{len(present)} rows lie in {window}, and {read} were read")
        claimed: Counter[Any] = Counter()
        for row in present:
            if any(run.started <= at <= run.ended_at for at, _ in row.mended) or row.status == "failure":
                continue
            if row.content.team == "the-house":
                continue
            said = named.get(row.key)
            if said is None and not row.content.team:
                raise Wrong(f"{row.key} has no charge ID, and is not named as unattributed")
            if said is None and row.mended:
                self._has_some_event(row)
            elif said is None:
                claimed[_group(row.content)] += 1
            else:
                self._true(row, said, run)
        self._enough(claimed, document)
        if run.sends:
            self.asked.append(window)
            self.seen |= {row.key for row in present}
            self.named |= {row.key: "" for row in present} | named
        if code == 0:
            for name in FAIL_ON:
                if name in document.rows and document.rows[name].count:
                    raise Wrong(f"exit 0 with {document.rows[name].count} rows {name}")
                # A live event that is not counted, beside the row's own event, is no discrepancy.
                if name != "unbilled" and name in document.events and document.events[name].count:
                    raise Wrong(f"exit 0 with {document.events[name].count} events {name}")
        if run.sends and document.rows["missing"].count:
            raise Wrong(f"a run that finished left {document.rows['missing'].count} rows missing")
        self.counts[f"exit {code}"] += 1

    def _has_some_event(self, row: Row) -> None:
        if not any(event.of == row.key for event in self.world.lago.events):
            raise Wrong(f"{row.key} is said to be in Lago, and has no event there")

    def _enough(self, claimed: Counter[Any], document: Document) -> None:
        """So many rows of a group cannot be billed where Lago bills fewer events of it."""
        for group, count in claimed.items():
            keys = {row.key for row in self.world.table.rows if _group(row.content) == group}
            events = [event for event in self.world.lago.events if event.of in keys and self.bills(event)]
            if len(events) < count:
                raise Wrong(f"{count} rows of {group} are said to be billed, and Lago bills {_list(events)}")

    def _true(self, row: Row, said: str, run: Run) -> None:
        """What the job says of a row that is not billed is so."""
        kind, _, reason = said.partition(" ")
        lago, team = self.world.lago, row.content.team or ""
        events = [event for event in lago.events if event.of == row.key]
        free = not row.content.spend
        changed = self._changed(run, run.ended_at)
        truth = lago.open_for(team, row.usage_ms) or "could be billed"
        wrong = Wrong(f"{row.key} is said to be {said}, and {truth}; events {_list(events)}")
        if kind == "unattributed":
            if team:
                raise wrong
        elif kind == "held" and reason in CATALOGUE:
            if reason != lago.open_for(team, row.usage_ms) and not changed:
                raise wrong
        elif kind == "held" and reason == "late_event":
            if not any(event.by != "job" and _equal(event, row) for event in lago.events) and not row.mended:
                raise wrong
        elif kind == "unbilled":
            bad = [event for event in lago.events if _equal(event, row) and not self.bills(event)]
            if not bad and not changed and not row.mended:
                raise wrong
        elif kind in ("mismatched", "misdirected"):
            # Where nothing is paid and tokens alone differ, it could be any of the team's free calls.
            if not row.mended and not free and not (reason == "cost" and self._any_of_the_model(row, run)):
                raise wrong
        elif kind == "rejected":
            if run.calm:
                raise wrong
        elif kind == "missing":
            if run.sends:
                raise wrong
        elif kind not in ("duplicate",):
            raise wrong

    def _any_of_the_model(self, row: Row, run: Run) -> bool:
        """Whether an event in reach tells no more than the row's model and another cost: it may be any call's.

        One whose own row is there without another event is that row's, in reach of it or not.
        """
        for event in self.world.lago.events:
            if event.by != "litellm" or "total_tokens" in event.properties or event.of is None:
                continue
            own = self.world.row(event.of)
            alike = event.subscription_id == row.content.team and event.properties["model"] == _bare(row.content)
            further = any(other.of == own.key and other is not event for other in self.world.lago.events)
            if alike and self._in_reach(event, row) and (further or own.mended or not own.there(run.started)):
                return True
        return False

    # --- at rest

    def at_rest(self, *, everything: bool) -> None:
        """After calm nights: each row that the runs were asked for is billed once, or accounted for.

        Rows that were changed in place are nobody's promise before a backfill (`everything`).
        """
        world, lago = self.world, self.world.lago
        by_group: dict[Any, list[Row]] = {}
        for row in world.table.rows:
            asked = any(_inside(row.usage_ms, window) for window in (*self.asked, *self.ledger.begun))
            gone_unseen = row.deleted_at is not None and row.key not in self.seen
            if row.status == "failure" or row.content.team in (None, "", "the-house") or not asked or gone_unseen:
                continue
            if row.mended:
                if everything and row.deleted_at is None:
                    self._mended(row)
                continue
            by_group.setdefault(_group(row.content), []).append(row)
        for group, rows in by_group.items():
            keys = {row.key for row in world.table.rows if _group(row.content) == group}
            events = [event for event in lago.events if event.of in keys and self.bills(event)]
            strict = [event for event in events if event.by != "job" or event.billed_at_receipt]
            open_rows = [row for row in rows if self._account(row, events)]
            if len(strict) < len(rows) - len(open_rows):
                raise Wrong(
                    f"lost: Lago bills {_list(strict)} for {len(rows)} rows of {group}: "
                    f"{[(row.key, self.named.get(row.key), self.ledger.held.get(row.key)) for row in rows]}"
                )

    def _account(self, row: Row, events: list[Event]) -> bool:
        """Whether the row is accounted for as one that nobody is billed for; raises where that is not so any more."""
        reason = self.ledger.held.get(row.key)
        if reason in CATALOGUE and self.world.lago.open_for(row.content.team or "", row.usage_ms) == "":
            raise Wrong(f"forgotten: {row.key} is held for {reason}, and could be billed")
        if reason is not None:
            return True
        said = self.named.get(row.key, "")
        return said != "" and not said.startswith("missing")

    def _mended(self, row: Row) -> None:
        if self.named.get(row.key) or self.ledger.held.get(row.key):
            return
        if not any(event.of == row.key for event in self.world.lago.events):
            raise Wrong(f"lost: {row.key}, a mended row, has no event and is named nowhere")


def _carries(event: Event, content: Content) -> bool:
    properties = event.properties
    return (
        event.subscription_id == (content.team or "")
        and Decimal(str(properties.get("response_cost"))) == Decimal(repr(content.spend))
        and properties.get("prompt_tokens") == str(content.prompt)
        and properties.get("completion_tokens") == str(content.completion)
        and properties.get("total_tokens") == str(content.tokens)
        and properties.get("model") == _bare(content)
    )


def _bare(content: Content) -> str:
    return content.model.removeprefix("openai/")


def _fits(event: Event, row: Row) -> bool:
    """Whether all that a live event tells is what the row says."""
    properties, content = event.properties, row.content
    tokens = {"prompt_tokens": content.prompt, "completion_tokens": content.completion, "total_tokens": content.tokens}
    return (
        _equal(event, row)
        and properties["model"] == _bare(content)
        and all(properties.get(name, count) == count for name, count in tokens.items())
    )


def _most_pairs(could_be: Mapping[Key, Sequence[int]]) -> int:
    """The largest number of pairs of a row and an event that could be its own, each in one pair (Kuhn)."""
    row_of: dict[int, Key] = {}

    def place(row: Key, tried: set[int]) -> bool:
        for event in could_be[row]:
            if event not in tried:
                tried.add(event)
                if event not in row_of or place(row_of[event], tried):
                    row_of[event] = row
                    return True
        return False

    return sum(place(row, set()) for row in could_be)


def _equal(event: Event, row: Row) -> bool:
    """Whether an event could be the row's by its subscription and cost."""
    cost = event.properties.get("response_cost")
    return event.subscription_id == row.content.team and float(cost or 0) == row.content.spend


def _group(content: Content) -> tuple[str, float]:
    return content.team or "", content.spend


def _inside(time_ms: int, window: Window) -> bool:
    low, high = ((edge - EPOCH) // _MS for edge in (window.start, window.end))
    return low <= time_ms < high


def _named(document: Document, rows: list[Row]) -> dict[Key, str]:
    """What the document says of single rows: class and reason."""
    key_of = {(row.request_id, row.usage_ms): row.key for row in rows}
    found = {}
    for one in document.discrepancies.to_dict("records"):
        if one["class"] not in ("duplicate", "orphan") and not pd.isna(one["request_id"]):
            time = (one["usage_time"].to_pydatetime() - EPOCH) // _MS
            key = key_of.get((str(one["request_id"]), time))
            if key is None:
                raise Wrong(f"{one['request_id']} at {one['usage_time']} is named, and is no row")
            found[key] = f"{one['class']} {one['reason']}"
    return found


def _list(events: list[Event]) -> str:
    return (
        "["
        + "; ".join(
            f"{one.by} {one.transaction_id} at {shown(one.time_ms)} received {shown(one.received)}" for one in events
        )
        + "]"
    )


def _balanced(document: Document) -> None:
    sides: tuple[tuple[Any, Any], ...] = ((document.rows, RowTotals()), (document.events, EventTotals()))
    for classes, nothing in sides:
        total = sum((one for name, one in classes.items() if name != "total"), nothing)
        if total != classes["total"]:
            raise Wrong(f"the books do not balance: {total}, {classes['total']}")
    for kind in ("held", "rejected"):
        if sum(document.reasons[kind].values()) != document.rows[kind].count:
            raise Wrong(f"the reasons of {kind} do not add up: {document.reasons}")

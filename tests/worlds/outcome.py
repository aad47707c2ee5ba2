"""What a run found out about each row and event, from its document and from Lago alone, held against the truth."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from reconcile.domain.document import Document
from reconcile.domain.window import Window

from .conftest import Ground
from .world import World

# How often each class occurs in a group, in order of name. A row or event that can be told apart is alone in its group.
Classes = tuple[tuple[str, int], ...]

USED_AND_BILLED = """
    WITH used AS (
      SELECT billed_as, count(*) AS times FROM truth.rows WHERE usage >= %(from)s AND usage < %(to)s GROUP BY 1
    ), billed AS (
      SELECT billed_as, count(*) AS times
      FROM lago.events AS event
      LEFT JOIN truth.events AS live USING (transaction_id)
      JOIN truth.rows AS row ON row.request_id = coalesce(live.request_id, event.properties->>'request_id')
      WHERE usage >= %(from)s AND usage < %(to)s GROUP BY 1
    )
    SELECT billed_as, used.times, coalesce(billed.times, 0) FROM used LEFT JOIN billed USING (billed_as)
    WHERE used.times IS DISTINCT FROM billed.times"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Class of every row of the window by request ID, and of every event of the world in it by transaction ID."""

    rows: dict[str, str]
    events: dict[str, str]


def outcome(world: World, window: Window, document: Document, ground: Ground) -> Outcome:
    """The document lists what is wrong and Lago holds what was sent; the rest failed, or has its live event."""
    usage, received = world.usage_times(), world.event_times()
    rows = {name: "matched_live" for name, at in usage.items() if window.start <= at < window.end}
    events = {name: "matched_live" for name, at in received.items() if window.start <= at < window.end}
    for made in world.rows:
        if made["request_id"] in rows and made["status"] == "failure":
            rows[made["request_id"]] = "excluded"
    rows |= dict.fromkeys(ground.sent_requests(), "delivered")
    for found in document.discrepancies.to_dict("records"):
        if found["request_id"] in rows and found["class"] not in ("duplicate", "orphan"):
            rows[found["request_id"]] = found["class"]
        if found["transaction_id"] in events:
            events[found["transaction_id"]] = found["class"]
    assert Counter(rows.values()) == counts(document.rows), "the document's totals are not those of its list"
    return Outcome(rows, events)


def counts(classes: Mapping[str, object]) -> Counter[str]:
    """The number of rows or events of each class of a document, without the empty ones."""
    numbers = {name: totals.count for name, totals in classes.items() if name != "total"}  # type: ignore[attr-defined]
    return Counter({name: number for name, number in numbers.items() if number})


@dataclass(frozen=True, slots=True)
class Difference:
    """A group whose classes are not the true ones."""

    rows: tuple[Classes, Classes]  # true, found
    events: tuple[Classes, Classes]

    def __str__(self) -> str:
        return "; ".join(f"{side} {_moved(*both)}" for side, both in (("rows", self.rows), ("events", self.events)))

    def sent_beyond(self) -> int:
        """How many rows more were sent than were lost (less: negative)."""
        true, found = (dict(classes).get("delivered", 0) for classes in self.rows)
        return found - true


def differences(world: World, found: Outcome) -> dict[str, Difference]:
    """The groups of twins (to the count), rows alone and events without a row, that were found to be something else."""
    truth = world.truth
    row_group = {name: str(truth.twins.get(name, name)) for name in truth.rows}
    event_group = {name: row_group[of] if of is not None else name for name, of in truth.row_of.items()}
    sides = [
        (_grouped(of, row_group), _grouped(of_events, event_group))
        for of, of_events in (
            ({name: truth.rows[name] for name in found.rows}, {name: truth.events[name] for name in found.events}),
            (found.rows, found.events),
        )
    ]
    (true_rows, true_events), (found_rows, found_events) = sides
    none: Classes = ()
    all_groups = {
        group: Difference(
            (true_rows.get(group, none), found_rows.get(group, none)),
            (true_events.get(group, none), found_events.get(group, none)),
        )
        for group in true_rows.keys() | true_events.keys()
    }
    return {
        group: one for group, one in all_groups.items() if one.rows[0] != one.rows[1] or one.events[0] != one.events[1]
    }


def _moved(true: Classes, found: Classes) -> str:
    change = Counter(dict(found))
    change.subtract(dict(true))
    return ", ".join(f"{kind} {by:+d}" for kind, by in sorted(change.items()) if by) or "as they are"


def _grouped(classes: Mapping[str, str], group_of: Mapping[str, str]) -> dict[str, Classes]:
    members: dict[str, Counter[str]] = defaultdict(Counter)
    for name, kind in classes.items():
        members[group_of[name]][kind] += 1
    return {group: tuple(sorted(kinds.items())) for group, kinds in members.items()}

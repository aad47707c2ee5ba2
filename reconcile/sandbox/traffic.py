"""Sample traffic for the demo: four days of spend-log rows and live events that LiteLLM 1.110.2's own code made.

The data is `data/sample_traffic.json.gz`, made by `tools/make_sample_traffic.py`, which also explains what is in it.
Times are stored relative to the newest day, so that the traffic can be laid on any days.
"""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from importlib.resources import files
from typing import Any

EVENT_CODE = "llm_usage"  # the billable metric's code that LiteLLM was given (LAGO_API_EVENT_CODE)

_COLUMN_OF = {"end_user_id": "end_user", "user_id": "user", "team_id": "team_id"}
_TIMES = ("startTime", "endTime", "completionStartTime", "created_at", "updated_at")


@dataclass(frozen=True, slots=True)
class LiveEvent:
    """One event of LiteLLM's `lago` callback, as Lago got it.

    `event` is the object `event` of the request's body: `transaction_id` (a random UUID),
    `external_subscription_id`, `code`, and `properties` with JSON numbers and null; no timestamp.
    `received_at`, UTC, is when Lago got it, which is the timestamp that Lago gives it.
    """

    received_at: datetime
    event: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Truth:
    """What belongs to what, and what went wrong on the way. Rows by `request_id`, events by `transaction_id`."""

    row_of: dict[str, str | None]  # event -> the row of the same request; None: LiteLLM lost the row
    lost: tuple[str, ...]  # rows whose event LiteLLM posted and Lago never got
    never_sent: tuple[str, ...]  # billable rows with a charge ID, for which LiteLLM posts no event
    doubled: tuple[str, ...]  # second events of a row that has one
    other_cost: tuple[str, ...]  # events whose cost is not the row's: guardrails, and a price changed on the way
    no_cost: tuple[str, ...]  # events without their cost: null, or 0
    late: tuple[str, ...]  # events that Lago got minutes after the call's end
    misdirected: tuple[str, ...]  # events under another charge ID than the row's
    orphans: tuple[str, ...]  # events without a row, with a subscription ID
    no_subscription_id: tuple[str, ...]  # events with the subscription ID ''
    twins: tuple[tuple[str, ...], ...]  # groups of equal rows that end within the same second


@dataclass(frozen=True, slots=True)
class Traffic:
    """Four days of traffic, ending on `last_day` UTC.

    `rows` hold every column of "LiteLLM_SpendLogs" of litellm-proxy-extras 0.4.110: datetimes naive, in UTC, with
    millisecond precision; JSON columns as JSON text. `events` are in the order in which Lago got them.
    `charge_ids` are the IDs of rows and events under this charge-by, sorted, without '': one subscription each.
    """

    rows: list[dict[str, Any]]
    events: list[LiveEvent]
    charge_ids: list[str]
    truth: Truth


def load_traffic(last_day: date, charge_by: str = "team_id") -> Traffic:
    """The traffic with every time shifted by whole days, so that the newest day is `last_day`.

    `charge_by` is `team_id`, `user_id` or `end_user_id`, as LiteLLM's `LAGO_API_CHARGE_BY`: the events are those
    that LiteLLM posted under this setting.
    """
    column = _COLUMN_OF[charge_by]
    data = _data()
    midnight = datetime.combine(last_day, time())
    rows = [_row(values, midnight) for values in _records(data["rows"])]
    request_ids = data["rows"]["request_id"]
    posts = [post for post in _records(data["events"]) if post["ids"][charge_by] is not None]
    for post in posts:
        post["request_id"] = None if post["row"] is None else request_ids[post["row"]]
    arrived = [post for post in posts if post["fate"] != "lost"]
    events = [_event(post, charge_by, midnight) for post in arrived]
    charge_ids = {row[column] for row in rows} | {event.event["external_subscription_id"] for event in events}
    return Traffic(
        rows=rows,
        events=events,
        charge_ids=sorted(charge_ids - {""}),
        truth=_truth(rows, posts, charge_by),
    )


@cache
def _data() -> dict[str, Any]:
    packed = files("reconcile.sandbox").joinpath("data/sample_traffic.json.gz").read_bytes()
    data: dict[str, Any] = json.loads(gzip.decompress(packed))
    return data


def _records(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _row(values: dict[str, Any], midnight: datetime) -> dict[str, Any]:
    times = {name: midnight + timedelta(milliseconds=values[name]) for name in _TIMES}
    return {**values, **times}


def _event(post: dict[str, Any], charge_by: str, midnight: datetime) -> LiveEvent:
    return LiveEvent(
        received_at=(midnight + timedelta(milliseconds=post["received_ms"])).replace(tzinfo=UTC),
        event={
            "transaction_id": post["transaction_id"],
            "external_subscription_id": post["ids"][charge_by],
            "code": EVENT_CODE,
            "properties": dict(post["properties"]),
        },
    )


def _truth(rows: list[dict[str, Any]], posts: list[dict[str, Any]], charge_by: str) -> Truth:
    def events_of(*fates: str) -> tuple[str, ...]:
        return tuple(post["transaction_id"] for post in posts if post["fate"] in fates and post["ids"][charge_by])

    posted = {post["request_id"] for post in posts if post["ids"][charge_by]}
    alike: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for row in rows:
        if row["status"] == "success":
            tokens = (row["prompt_tokens"], row["completion_tokens"], row["total_tokens"])
            second = row["endTime"].replace(microsecond=0)
            key = (row[_COLUMN_OF[charge_by]], row["model"], row["spend"], *tokens, second)
            alike[key].append(row["request_id"])
    return Truth(
        row_of={post["transaction_id"]: post["request_id"] for post in posts if post["fate"] != "lost"},
        lost=tuple(post["request_id"] for post in posts if post["fate"] == "lost" and post["ids"][charge_by]),
        never_sent=tuple(
            row["request_id"]
            for row in rows
            if row["status"] == "success" and row[_COLUMN_OF[charge_by]] and row["request_id"] not in posted
        ),
        doubled=events_of("doubled"),
        other_cost=events_of("other_cost", "guardrail"),
        no_cost=events_of("no_cost"),
        late=events_of("late"),
        misdirected=events_of("misdirected"),
        orphans=events_of("orphan"),
        no_subscription_id=tuple(post["transaction_id"] for post in posts if post["ids"][charge_by] == ""),
        twins=tuple(tuple(group) for group in alike.values() if len(group) > 1),
    )

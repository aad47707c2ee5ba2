"""What equal content and reach mean, one row and one event at a time, and the plainest matcher there is."""

from __future__ import annotations

import math
from collections.abc import Sequence

from reconcile.classify import Reach

from .worlds import Record

TOKENS = ("prompt_tokens", "completion_tokens", "total_tokens")


def carries(event: Record) -> set[str]:
    """Which of model, cost and tokens the event tells; what is there and is no number is told too."""
    told = {"model"} if event["model"] else set()
    if event["malformed"] or not math.isnan(event["response_cost"]):
        told |= {"cost"}
    if event["malformed"] or not all(math.isnan(event[n]) for n in TOKENS):
        told |= {"tokens"}
    return told


def compared(row: Record, event: Record) -> set[str]:
    """What both sides tell."""
    return carries(event) - (set() if row["model"] else {"model"})


def same_cost(row: Record, event: Record) -> bool:
    """Equal doubles, or within 1e-9 relative; a missing cost says nothing."""
    left, right = float(row["spend"]), float(event["response_cost"])
    if math.isnan(right) and not event["malformed"]:
        return True
    if not (math.isfinite(left) and math.isfinite(right)):
        return False
    return left == right or abs(left - right) <= 1e-9 * max(abs(left), abs(right))


def same_model(row: Record, event: Record) -> bool:
    """The row's model without its provider's prefix (and `responses/`), or its model_group; nothing says nothing.

    Without a provider the prefix is unknown.
    """
    model, provider = row["model"], row["provider"]
    if not model or not event["model"]:
        return True
    after = model.removeprefix(provider + "/") if provider else model.partition("/")[2]
    names = {after, after.removeprefix("responses/"), row["model_group"]} | (set() if provider else {model})
    return event["model"] in names - {""}


def same_tokens(row: Record, event: Record) -> bool:
    """Equal where the event has them."""
    return all((math.isnan(event[n]) and not event["malformed"]) or event[n] == row[n] for n in TOKENS)


def same_subscription(row: Record, event: Record) -> bool:
    return bool(event["subscription_id"]) and bool(event["subscription_id"] == row["subscription_id"])


def in_reach(row: Record, event: Record, reach: Reach) -> bool:
    delay: int = event["time_ms"] - row["usage_ms"]
    return -reach.before <= delay <= reach.after


def equal(row: Record, event: Record) -> bool:
    return (
        bool(compared(row, event))
        and same_subscription(row, event)
        and same_model(row, event)
        and same_cost(row, event)
        and same_tokens(row, event)
    )


def most_pairs(edges: Sequence[Sequence[str]]) -> int:
    """The largest number of one-to-one pairs, where `edges[row]` are the events that the row may have (Kuhn)."""
    row_of: dict[str, int] = {}

    def place(row: int, tried: set[str]) -> bool:
        for event in edges[row]:
            if event not in tried:
                tried.add(event)
                if event not in row_of or place(row_of[event], tried):
                    row_of[event] = row
                    return True
        return False

    return sum(place(row, set()) for row in range(len(edges)))

"""The words that a row, an event or a run can be given: classes, reasons, findings. Written here and nowhere else.

Documentation and translations are held to these enums by a test, in both directions. Pure.
"""

from __future__ import annotations

from enum import StrEnum


class RowClass(StrEnum):
    """Every row of a window is in exactly one."""

    EXCLUDED = "excluded"
    UNATTRIBUTED = "unattributed"
    MATCHED = "matched"
    MATCHED_LIVE = "matched_live"
    UNBILLED = "unbilled"
    MISMATCHED = "mismatched"
    MISDIRECTED = "misdirected"
    DELIVERED = "delivered"
    MISSING = "missing"
    HELD = "held"
    REJECTED = "rejected"


class EventClass(StrEnum):
    """Every event of the code in a window is in exactly one."""

    MATCHED = "matched"
    MATCHED_LIVE = "matched_live"
    UNBILLED = "unbilled"
    MISMATCHED = "mismatched"
    MISDIRECTED = "misdirected"
    DUPLICATE = "duplicate"
    OWN = "own"
    ORPHAN = "orphan"


class Reason(StrEnum):
    """Why a row or an event is in its class. `REASONS` says which class has which."""

    # excluded
    FAILURE = "failure"
    FAILURE_WITH_SPEND = "failure_with_spend"
    CACHE_HIT = "cache_hit"
    ZERO_COST = "zero_cost"
    OWN = "own"
    RETRIEVAL = "retrieval"
    # unattributed
    NO_CHARGE_ID = "no_charge_id"
    # unbilled
    NOT_COUNTED = "not_counted"
    NO_SUBSCRIPTION = "no_subscription"
    NOT_PRICED = "not_priced"
    # mismatched
    COST = "cost"
    TOKENS = "tokens"
    MODEL = "model"
    TIMESTAMP = "timestamp"
    INVALID_SPEND = "invalid_spend"
    # misdirected
    OTHER_SUBSCRIPTION = "other_subscription"
    OTHER_CHARGE_ID = "other_charge_id"
    # held
    SEVERAL_SUBSCRIPTIONS = "several_subscriptions"
    PERIOD_CLOSED = "period_closed"
    LATE_EVENT = "late_event"
    BEFORE_START = "before_start"
    OVER_LIMIT = "over_limit"
    SAME_CALL = "same_call"
    REPEAT = "repeat"
    # delivered
    ACCEPTED = "accepted"
    EXISTS = "exists"
    # missing
    NOT_SENT = "not_sent"
    NOT_VISIBLE = "not_visible"
    # rejected
    ID_TOO_LONG = "id_too_long"
    REFUSED = "refused"
    EXISTS_BUT_DELETED = "exists_but_deleted"
    # duplicate
    SAME_ID = "same_id"
    SAME_CONTENT = "same_content"
    COPY = "copy"
    # orphan
    NO_ROW = "no_row"
    NO_SUBSCRIPTION_ID = "no_subscription_id"
    EXCLUDED_ROW = "excluded_row"


class Scope(StrEnum):
    """Why a row or event was read."""

    WINDOW = "window"  # it lies in the window that was asked for
    LATE = "late"  # it was written after its time was reconciled
    HELD = "held"  # an earlier run held it back
    CONTEXT = "context"  # only so that pairs across an edge are found


ROW_CLASSES = tuple(RowClass)
EVENT_CLASSES = tuple(EventClass)
DISCREPANCY_CLASSES = (
    "unbilled",
    "mismatched",
    "misdirected",
    "duplicate",
    "orphan",
    "held",
    "rejected",
    "unattributed",
    "missing",
)

ROW_REASONS: dict[RowClass, tuple[Reason, ...]] = {
    RowClass.EXCLUDED: (
        Reason.FAILURE,
        Reason.FAILURE_WITH_SPEND,
        Reason.CACHE_HIT,
        Reason.ZERO_COST,
        Reason.OWN,
        Reason.RETRIEVAL,
    ),
    RowClass.UNATTRIBUTED: (Reason.NO_CHARGE_ID,),
    RowClass.MATCHED: (),
    RowClass.MATCHED_LIVE: (),
    RowClass.UNBILLED: (Reason.NOT_COUNTED, Reason.NO_SUBSCRIPTION, Reason.NOT_PRICED),
    RowClass.MISMATCHED: (Reason.COST, Reason.TOKENS, Reason.MODEL, Reason.TIMESTAMP, Reason.INVALID_SPEND),
    RowClass.MISDIRECTED: (Reason.OTHER_SUBSCRIPTION, Reason.OTHER_CHARGE_ID),
    RowClass.DELIVERED: (Reason.ACCEPTED, Reason.EXISTS),
    RowClass.MISSING: (Reason.NOT_SENT, Reason.NOT_VISIBLE),
    RowClass.HELD: (
        Reason.NO_SUBSCRIPTION,
        Reason.SEVERAL_SUBSCRIPTIONS,
        Reason.PERIOD_CLOSED,
        Reason.NOT_PRICED,
        Reason.LATE_EVENT,
        Reason.BEFORE_START,
        Reason.OVER_LIMIT,
        Reason.SAME_CALL,
        Reason.REPEAT,
    ),
    RowClass.REJECTED: (Reason.INVALID_SPEND, Reason.ID_TOO_LONG, Reason.REFUSED, Reason.EXISTS_BUT_DELETED),
}

EVENT_REASONS: dict[EventClass, tuple[Reason, ...]] = {
    EventClass.MATCHED: (),
    EventClass.MATCHED_LIVE: (),
    EventClass.UNBILLED: (Reason.NOT_COUNTED, Reason.NO_SUBSCRIPTION, Reason.NOT_PRICED),
    EventClass.MISMATCHED: ROW_REASONS[RowClass.MISMATCHED],
    EventClass.MISDIRECTED: ROW_REASONS[RowClass.MISDIRECTED],
    EventClass.DUPLICATE: (Reason.SAME_ID, Reason.SAME_CONTENT, Reason.COPY),
    EventClass.OWN: (),
    EventClass.ORPHAN: (Reason.NO_ROW, Reason.NO_SUBSCRIPTION_ID, Reason.EXCLUDED_ROW, Reason.LATE_EVENT),
}


class FindingKind(StrEnum):
    """What is true of a window and no class says. A finding alone never changes the exit code."""

    # The plan and the metric
    LAGO_COUNTS = "lago_counts"
    PRICED_TWICE = "priced_twice"
    PRICED_AT_ZERO = "priced_at_zero"
    METRIC_RECURRING = "metric_recurring"
    METRIC_ROUNDED = "metric_rounded"
    USAGE_UNAVAILABLE = "usage_unavailable"
    # The window and its traffic
    SLOW_EVENTS = "slow_events"
    FREE_OF_CHARGE = "free_of_charge"
    DOUBTFUL = "doubtful"
    PUSHED_DOUBTFUL = "pushed_doubtful"
    RETENTION = "retention"
    SPEND_LOGS_GAP = "spend_logs_gap"
    LOST_REQUEST_IDS = "lost_request_ids"
    UNPLACED_ROWS = "unplaced_rows"
    # Rows from outside the window
    LATE_DELIVERED = "late_delivered"
    LATE_MISSING = "late_missing"
    LATE_HELD = "late_held"
    LATE_REJECTED = "late_rejected"
    LATE_UNBILLED = "late_unbilled"
    LATE_MISMATCHED = "late_mismatched"
    LATE_MISDIRECTED = "late_misdirected"
    STILL_HELD = "still_held"

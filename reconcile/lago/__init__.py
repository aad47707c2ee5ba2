"""The Lago side: list events, deliver events, and read what billing depends on."""

from reconcile.lago.batch import Outcome
from reconcile.lago.client import Lago
from reconcile.lago.coverage import Coverage, Period, Resolved
from reconcile.lago.directory import Directory
from reconcile.lago.events import EventShape
from reconcile.lago.items import Charge, Metric, MetricFilter, Organization, Plan, Subscription
from reconcile.lago.patience import Retry
from reconcile.lago.price_list import Memory, Remembered
from reconcile.lago.usage import ChargeUsage, Usage, UsageUnavailable

__all__ = [
    "Charge",
    "ChargeUsage",
    "Coverage",
    "Directory",
    "EventShape",
    "Lago",
    "Memory",
    "Metric",
    "MetricFilter",
    "Organization",
    "Outcome",
    "Period",
    "Plan",
    "Remembered",
    "Resolved",
    "Retry",
    "Subscription",
    "Usage",
    "UsageUnavailable",
]

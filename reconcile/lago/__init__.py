"""The Lago side: list events, deliver events, and read what billing depends on."""

from reconcile.lago.batch import Outcome
from reconcile.lago.catalog import (
    Charge,
    ChargeUsage,
    Metric,
    MetricFilter,
    Organization,
    Usage,
)
from reconcile.lago.client import Lago
from reconcile.lago.events import EventShape
from reconcile.lago.patience import Retry

__all__ = [
    "Charge",
    "ChargeUsage",
    "EventShape",
    "Lago",
    "Metric",
    "MetricFilter",
    "Organization",
    "Outcome",
    "Retry",
    "Usage",
]

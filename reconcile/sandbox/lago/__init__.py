"""A Lago to push to: its REST API over HTTP, its state in Postgres, and what its front end does.

The stand-in follows the answers of real Lagos, for both event stores and two versions. A file is named after what is
answered in it: `events`, `events_postgres`, `events_clickhouse`, `metrics`, `plans`, `customers`, `subscriptions`,
`usage`, `invoices`, `fees`, `pay_in_advance`; behind them `counting`, `pricing`, `periods` and `timestamps` say how
Lago computes. What its front end or its clock would do is done through `Organization`.
"""

from __future__ import annotations

from reconcile.sandbox.lago.faults import Faults
from reconcile.sandbox.lago.organization import Organization
from reconcile.sandbox.lago.slow import Slow
from reconcile.sandbox.lago.stand_in import LagoStandIn, RequestSeen, utc_now
from reconcile.sandbox.lago.versions import NEWEST, V1_38, VERSIONS, Version

__all__ = [
    "NEWEST",
    "V1_38",
    "VERSIONS",
    "Faults",
    "LagoStandIn",
    "Organization",
    "RequestSeen",
    "Slow",
    "Version",
    "utc_now",
]

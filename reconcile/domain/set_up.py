"""What Lago needs before usage can be billed: what is there, what is missing, and the requests that make it. Pure.

Money is in USD; times are aware, in UTC.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from reconcile.domain.dates import instant
from reconcile.domain.money import add


class Standing(StrEnum):
    """How a charge ID stands in Lago."""

    THERE = "there"  # a subscription covers all of its usage, and its plan prices the metric
    MISSING = "missing"  # no subscription: one can be made
    BEGINS_LATE = "begins_late"  # the subscription begins after the first usage
    PENDING = "pending"  # the subscription has not begun yet
    NOT_PRICED = "not_priced"  # its plan has no charge on the metric
    SEVERAL = "several_subscriptions"  # the customer has several: which one is billed cannot be told
    IMPOSSIBLE = "impossible"  # Lago takes spaces off both ends of an ID, events keep theirs


@dataclass(frozen=True, slots=True)
class Usage:
    """What a charge ID used. `earlier` is what of it lies in months that are over."""

    charge_id: str
    rows: int
    spend: Decimal
    earlier_rows: int
    earlier_spend: Decimal
    first: datetime
    last: datetime


@dataclass(frozen=True, slots=True)
class Need:
    """A charge ID with usage, and how it stands. `begins_at` is when its subscription begins, or would have to.

    `makes_customer` says that Lago does not know its customer. `plan_code` is that of the subscription that is there.
    """

    usage: Usage
    standing: Standing
    begins_at: datetime | None = None
    makes_customer: bool = False
    plan_code: str | None = None


@dataclass(frozen=True, slots=True)
class MetricNeeded:
    """The billable metric. `lago_id` is None where it is missing: then it is a sum over `field_name`."""

    code: str
    lago_id: str | None
    aggregation: str
    field_name: str | None
    adds_up_cost: bool  # a unit is a USD of LiteLLM's spend


@dataclass(frozen=True, slots=True)
class PlanNeeded:
    """The plan that new subscriptions get. `others` are further plans that price the metric."""

    code: str
    exists: bool
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SetUp:
    """Everything that was found. `needs` are in order of money, the most first; `nobody` is usage without a charge ID.

    `month` is when the current month began: what was used before it is in a billing period that is over. `older` are
    the first and last day, in RECONCILE_TIMEZONE, of usage that is older than a first `run` looks.
    """

    lago: str
    charge_by: str
    by_customer: bool
    since: datetime
    until: datetime
    month: datetime
    metric: MetricNeeded
    plan: PlanNeeded
    needs: tuple[Need, ...]
    nobody: Usage | None
    older: tuple[date, date] | None = None

    def standing(self, standing: Standing) -> list[Need]:
        return [need for need in self.needs if need.standing is standing]

    @property
    def missing(self) -> list[Need]:
        return self.standing(Standing.MISSING)

    @property
    def is_complete(self) -> bool:
        """Whether nothing can be made that is not there."""
        return self.metric.lago_id is not None and self.plan.exists and not self.missing

    @property
    def closed(self) -> tuple[int, Decimal]:
        """Rows and spend of months that are over, of charge IDs whose subscription is missing."""
        return sum(need.usage.earlier_rows for need in self.missing), add(n.usage.earlier_spend for n in self.missing)

    def metric_body(self) -> dict[str, Any]:
        """The body of `POST /billable_metrics`."""
        return {
            "billable_metric": {
                "name": self.metric.code,
                "code": self.metric.code,
                "aggregation_type": self.metric.aggregation,
                "field_name": self.metric.field_name,
            }
        }

    def plan_body(self, metric_id: str, price: str) -> dict[str, Any]:
        """The body of `POST /plans`: a monthly plan of no fee of its own, with a standard charge on the metric."""
        return {
            "plan": {
                "name": self.plan.code,
                "code": self.plan.code,
                "interval": "monthly",
                "amount_cents": 0,
                "amount_currency": "USD",
                "pay_in_advance": False,
                "charges": [
                    {
                        "billable_metric_id": metric_id,
                        "code": self.metric.code,
                        "charge_model": "standard",
                        "properties": {"amount": price},
                    }
                ],
            }
        }

    def bodies(self, need: Need) -> Iterator[tuple[str, dict[str, Any]]]:
        """The requests that make a missing subscription, in order: path and body."""
        charge_id = need.usage.charge_id
        if need.makes_customer:
            yield "customers", {"customer": {"external_id": charge_id, "name": charge_id, "currency": "USD"}}
        assert need.begins_at is not None
        yield (
            "subscriptions",
            {
                "subscription": {
                    "external_customer_id": charge_id,
                    "external_id": charge_id,
                    "plan_code": self.plan.code,
                    "subscription_at": instant(need.begins_at),
                }
            },
        )

"""What Lago bills by, as plain values: the organization, the metric, a plan's charges, a subscription. Pure.

Field names are those of Lago v1.51.0 (serializers under app/serializers/v1). Fields that an older Lago does not send
come out as None. Times are whole milliseconds since 1970 UTC.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Self

from reconcile.errors import LagoFault
from reconcile.lago.http import as_dict, as_int, as_list, as_text

# The value of a charge's filter that stands for every value of the metric's filter (charge_filter_value.rb).
ALL_VALUES = "__ALL_FILTER_VALUES__"
# Statuses of subscriptions that never were, or are not yet, in force.
NOT_IN_FORCE = frozenset({"pending", "canceled", "incomplete", "activating"})

_RANGES = {
    "graduated": ("graduated_ranges", ("per_unit_amount", "flat_amount")),
    "volume": ("volume_ranges", ("per_unit_amount", "flat_amount")),
    "graduated_percentage": ("graduated_percentage_ranges", ("rate", "flat_amount")),
}


@dataclass(frozen=True, slots=True)
class Organization:
    """`events_store` is "postgres" or "clickhouse" (since Lago v1.47.0), None where Lago does not say."""

    lago_id: str | None
    name: str | None
    events_store: str | None


@dataclass(frozen=True, slots=True)
class MetricFilter:
    """Events are told apart by the property `key`; values that are not listed fall under no filter."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Metric:
    """A billable metric. `field_name` is the property that is aggregated (None for count_agg)."""

    code: str
    lago_id: str | None
    name: str | None
    aggregation_type: str | None  # count_agg, sum_agg, max_agg, unique_count_agg, weighted_sum_agg, latest_agg, …
    field_name: str | None
    expression: str | None
    recurring: bool
    weighted_interval: str | None
    rounding_function: str | None
    rounding_precision: int | None
    filters: tuple[MetricFilter, ...]


@dataclass(frozen=True, slots=True)
class Charge:
    """A price that a plan puts on the metric.

    The charge groups usage by the properties `group_keys`. Each of `filters` is a bucket of its own: the values that an
    event's properties must have to fall into it. What falls into none is in the default bucket; `default_is_free` where
    that one has the price 0.
    """

    charge_model: str | None
    pay_in_advance: bool
    group_keys: tuple[str, ...]
    filters: tuple[tuple[MetricFilter, ...], ...]
    default_is_free: bool

    @classmethod
    def remembered(cls, found: Mapping[str, Any]) -> Self:
        """The charge of `asdict`, once it has been JSON. Raises `KeyError` or `TypeError` for anything else."""
        return cls(
            charge_model=found["charge_model"],
            pay_in_advance=found["pay_in_advance"],
            group_keys=tuple(found["group_keys"]),
            filters=tuple(
                tuple(MetricFilter(one["key"], tuple(one["values"])) for one in bucket) for bucket in found["filters"]
            ),
            default_is_free=found["default_is_free"],
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """The charges that a plan has on the metric. `billed` is False for a plan of Lago's product catalog.

    Lago makes no fees for a product-catalog plan yet (1b1c24a, August 2026): it has no interval and no charges.
    """

    code: str
    charges: tuple[Charge, ...]
    billed: bool = True

    @property
    def priced(self) -> bool:
        return self.billed and bool(self.charges)

    @property
    def pay_in_advance(self) -> bool:
        """Whether Lago bills an event on receipt, whatever period its time lies in."""
        return self.billed and any(charge.pay_in_advance for charge in self.charges)

    @property
    def fingerprint(self) -> str:
        """Another one where anything that this module reads of the plan is another."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def remembered(cls, found: Mapping[str, Any]) -> Self:
        """The plan of `as_json`. Raises `KeyError` or `TypeError` for anything else."""
        return cls(found["code"], tuple(map(Charge.remembered, found["charges"])), found["billed"])


@dataclass(frozen=True, slots=True)
class Subscription:
    """A subscription. Several may share an external ID, one after the other.

    Lago gives `started_ms` to the millisecond (older versions: the second), ends and periods to the second.
    `period_ms` is the begin of the current billing period, None where Lago names none.
    """

    lago_id: str
    external_id: str
    external_customer_id: str
    status: str
    plan_code: str
    started_ms: int | None
    ended_ms: int | None
    period_ms: int | None

    @property
    def in_force(self) -> bool:
        """Whether it is, or once was, in force."""
        return self.status not in NOT_IN_FORCE and self.started_ms is not None

    @property
    def ended(self) -> bool:
        return self.status == "terminated" or self.ended_ms is not None


def read_organization(found: Mapping[str, Any]) -> Organization:
    store = found.get("events_store")
    return Organization(
        lago_id=as_text(found.get("lago_id")),
        name=as_text(found.get("name")),
        events_store=store if store in ("postgres", "clickhouse") else None,
    )


def read_metric(found: Mapping[str, Any]) -> Metric:
    filters = (one for one in as_list(found.get("filters")) if isinstance(one, dict))
    return Metric(
        code=str(found["code"]),
        lago_id=as_text(found.get("lago_id")),
        name=as_text(found.get("name")),
        aggregation_type=as_text(found.get("aggregation_type")),
        field_name=as_text(found.get("field_name")) or None,
        expression=as_text(found.get("expression")) or None,
        recurring=bool(found.get("recurring")),
        weighted_interval=as_text(found.get("weighted_interval")),
        rounding_function=as_text(found.get("rounding_function")),
        rounding_precision=as_int(found.get("rounding_precision")),
        filters=tuple(MetricFilter(str(one.get("key")), _texts(one.get("values"))) for one in filters),
    )


def read_plan(found: Mapping[str, Any], metric_code: str) -> Plan | None:
    """The plan with its charges on the metric, None where the answer carries no charges at all."""
    charges = found.get("charges")
    if not isinstance(charges, list):
        return None
    ours = (charge for charge in map(as_dict, charges) if charge.get("billable_metric_code") == metric_code)
    catalog = not charges and "interval" in found and found["interval"] is None
    return Plan(str(found.get("code") or ""), tuple(map(read_charge, ours)), billed=not catalog)


def read_charge(found: Mapping[str, Any]) -> Charge:
    properties = as_dict(found.get("properties"))
    keys = as_list(properties.get("pricing_group_keys")) or as_list(properties.get("grouped_by"))  # the older name
    buckets = (as_dict(as_dict(one).get("values")) for one in as_list(found.get("filters")))
    model = as_text(found.get("charge_model"))
    return Charge(
        charge_model=model,
        pay_in_advance=bool(found.get("pay_in_advance")),
        group_keys=_texts(keys),
        filters=tuple(tuple(MetricFilter(str(key), _texts(bucket[key])) for key in bucket) for bucket in buckets),
        default_is_free=is_free(model, properties),
    )


def is_free(charge_model: str | None, properties: Mapping[str, Any]) -> bool:
    """Whether a charge's properties put the price 0 on any usage whatever. False where that is not known."""
    if charge_model in ("standard", "package"):
        return _zero(properties.get("amount"))
    if charge_model == "percentage":
        extras = (properties.get("fixed_amount"), properties.get("per_transaction_min_amount"))
        return _zero(properties.get("rate")) and all(extra is None or _zero(extra) for extra in extras)
    if charge_model in _RANGES:
        name, prices = _RANGES[charge_model]
        ranges = [as_dict(one) for one in as_list(properties.get(name))]
        return bool(ranges) and all(_zero(one.get(price)) for one in ranges for price in prices)
    return False


def read_subscription(found: Mapping[str, Any]) -> Subscription:
    """Raises `LagoFault` where a time is not ISO 8601."""
    external_id, started = as_text(found.get("external_id")) or "", as_text(found.get("started_at"))
    return Subscription(
        lago_id=as_text(found.get("lago_id")) or f"{external_id} {started}",
        external_id=external_id,
        external_customer_id=as_text(found.get("external_customer_id")) or "",
        status=as_text(found.get("status")) or "",
        plan_code=as_text(found.get("plan_code")) or "",
        started_ms=milliseconds(started),
        ended_ms=milliseconds(found.get("terminated_at")),
        period_ms=milliseconds(found.get("current_billing_period_started_at")),
    )


def milliseconds(text: object) -> int | None:
    """An ISO 8601 string, with or without a fraction, `Z` or offset; None for None. Cut to whole milliseconds."""
    if text is None:
        return None
    try:
        found = moment(str(text))
    except ValueError as error:
        raise LagoFault(f"Lago sent a time that is not ISO 8601: {error}") from error
    whole = int(found.replace(microsecond=0).timestamp())
    return whole * 1000 + found.microsecond // 1000


def moment(text: str) -> datetime:
    """Raises `ValueError` where the text is not ISO 8601, or its time in UTC in no year that can be written."""
    found = datetime.fromisoformat(text)
    try:
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"{text!r}: {error}") from None


def _texts(values: object) -> tuple[str, ...]:
    return tuple(map(str, as_list(values)))


def _zero(value: object) -> bool:
    """Whether Lago's amount is there and is 0."""
    if value is None or isinstance(value, bool):
        return False
    try:
        return Decimal(str(value)) == 0
    except InvalidOperation:
        return False

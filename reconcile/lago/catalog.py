"""What Lago knows besides events: the organization, the metric, subscriptions, draft invoices, usage.

Field names and paths are those of Lago v1.51.0 (serializers under app/serializers/v1). Fields that an older
Lago does not send come out as None or NaT. All times are UTC.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

import pandas as pd

from reconcile.errors import LagoFault
from reconcile.lago.http import Http, Unserved, as_dict, as_int, as_list, as_text, segment

SUBSCRIPTION_STATUSES = ("active", "terminated", "pending", "canceled")
SUBSCRIPTION_TIMES = (
    "started_at",
    "terminated_at",
    "current_billing_period_started_at",
    "current_billing_period_ending_at",
)

_ABSENT = frozenset({404})
_NO_USAGE = frozenset({404, 405})  # customer_not_found; no_active_subscription
_BAD_FILTER = frozenset({400, 422})


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
    """A price that a plan puts on a metric. The charge groups usage by the properties `group_keys`."""

    plan_code: str | None
    charge_model: str | None
    pay_in_advance: bool
    group_keys: tuple[str, ...]
    filter_keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ChargeUsage:
    """What Lago counted for one charge: `units` as Lago aggregated them, `amount_cents` without taxes."""

    metric_code: str | None
    units: Decimal
    events_count: int
    amount_cents: int


@dataclass(frozen=True, slots=True)
class Usage:
    """One billing period of one subscription. `to_datetime` is inclusive. Both are cut to whole seconds."""

    from_datetime: datetime
    to_datetime: datetime
    currency: str | None
    amount_cents: int
    lago_invoice_id: str | None
    charges: tuple[ChargeUsage, ...]


class Catalog:
    """Reads of the catalog. Every method raises `LagoFault`, or `PreflightError` in a preflight view."""

    http: Http

    def organization(self) -> Organization:
        """The key's organization. All fields are None on a Lago that does not serve `GET /organizations`."""
        answer = self.http.get("/organizations", answers=_ABSENT)
        found = as_dict((answer.body or {}).get("organization")) if answer.ok else {}
        store = found.get("events_store")
        return Organization(
            lago_id=as_text(found.get("lago_id")),
            name=as_text(found.get("name")),
            events_store=store if store in ("postgres", "clickhouse") else None,
        )

    def metric(self, code: str) -> Metric | None:
        """The billable metric of this code, None where Lago has none."""
        for page in self.http.pages("/billable_metrics", "billable_metrics"):
            for item in page:
                if item.get("code") == code:
                    return _metric(item)
        return None

    def charges(self, code: str) -> tuple[Charge, ...]:
        """The charges that plans put on the metric of this code; none on a server without `GET /plans`."""
        charges: list[Charge] = []
        with suppress(Unserved):
            for page in self.http.pages("/plans", "plans", answers=_ABSENT):
                charges += [
                    _charge(plan, charge)
                    for plan in page
                    for charge in map(as_dict, as_list(plan.get("charges")))
                    if charge.get("billable_metric_code") == code
                ]
        return tuple(charges)

    def subscriptions(self) -> pd.DataFrame:
        """Every subscription of the organization, whatever its status. Several may share an external ID.

        Columns: external_id, external_customer_id, status (str), and SUBSCRIPTION_TIMES (datetime64[ms, UTC],
        NaT where Lago has none). Lago gives `started_at` in ms (older versions: seconds) and the others in
        seconds. Without the status filter Lago lists the active ones only.
        """
        try:
            items = self._subscriptions(SUBSCRIPTION_STATUSES)
        except Unserved:  # a server that knows fewer statuses: ask for those it knows
            items = []
            for status in SUBSCRIPTION_STATUSES:
                with suppress(Unserved):
                    items += self._subscriptions((status,))
        # A page shifts when a subscription is created between two requests, so one may be listed twice.
        known = {item.get("lago_id") or position: item for position, item in enumerate(items)}.values()
        texts = {
            name: pd.array([as_text(item.get(name)) for item in known], dtype="str")
            for name in ("external_id", "external_customer_id", "status")
        }
        return pd.DataFrame(texts | {name: _times(item.get(name) for item in known) for name in SUBSCRIPTION_TIMES})

    def _subscriptions(self, statuses: tuple[str, ...]) -> list[dict[str, Any]]:
        params = [("status[]", status) for status in statuses]
        pages = self.http.pages("/subscriptions", "subscriptions", params, answers=_BAD_FILTER)
        return [item for page in pages for item in page]

    def invoice_periods(self, status: str, external_customer_id: str | None = None) -> pd.DataFrame:
        """The billing periods of invoices of a status, of one customer where it is named.

        Events in the periods of a `draft` are still billed, though the period is over; in those of a `finalized` one
        they are billed by nobody any more.

        Columns: external_subscription_id (str), from, to (datetime64[ms, UTC]: the charges' boundaries, both
        inclusive, cut to whole seconds by Lago), lago_id (str, of the invoice). Empty on a server without
        invoices. The list of invoices carries no periods (invoice_index.rb), so each invoice is fetched.
        """
        params: list[tuple[str, str | int]] = [("status", status)]
        if external_customer_id is not None:
            params.append(("external_customer_id", external_customer_id))
        listed: dict[str, dict[str, Any]] = {}
        with suppress(Unserved):
            for page in self.http.pages("/invoices", "invoices", params, answers=_ABSENT):
                listed |= {str(item["lago_id"]): item for item in page if item.get("lago_id")}
        with ThreadPoolExecutor(self.http.concurrency, thread_name_prefix="lago-invoice") as pool:
            periods = [
                (period, lago_id)
                for lago_id, found in zip(
                    listed, pool.map(lambda invoice: self._periods(invoice, status), listed.values()), strict=True
                )
                for period in found
            ]
        return pd.DataFrame(
            {
                "external_subscription_id": pd.array(
                    [as_text(period.get("external_subscription_id")) for period, _ in periods], dtype="str"
                ),
                "from": _times(_boundary(period, "from") for period, _ in periods),
                "to": _times(_boundary(period, "to") for period, _ in periods),
                "lago_id": pd.array([lago_id for _, lago_id in periods], dtype="str"),
            }
        )

    def _periods(self, invoice: dict[str, Any], status: str) -> list[dict[str, Any]]:
        if "billing_periods" not in invoice:
            answer = self.http.get(f"/invoices/{segment(str(invoice['lago_id']))}", answers=_ABSENT)
            invoice = as_dict((answer.body or {}).get("invoice")) if answer.ok else {}
        # It may have changed since it was listed, and some servers ignore the filter.
        if invoice.get("status") != status:
            return []
        return [period for period in as_list(invoice.get("billing_periods")) if isinstance(period, dict)]

    def current_usage(self, external_customer_id: str, external_subscription_id: str) -> Usage | None:
        """The open billing period; None without an active subscription, or where Lago does not serve usage.

        Lago caches it per charge: it may lag behind the events until Lago's worker has seen them.
        """
        answer = self.http.get(
            f"/customers/{segment(external_customer_id)}/current_usage",
            [("external_subscription_id", external_subscription_id)],
            answers=_NO_USAGE,
        )
        return _usage((answer.body or {}).get("customer_usage")) if answer.ok else None

    def past_usage(
        self, external_customer_id: str, external_subscription_id: str, code: str | None = None
    ) -> tuple[Usage, ...]:
        """The invoiced billing periods, newest first, of one metric where `code` is given."""
        params = [("external_subscription_id", external_subscription_id)]
        if code is not None:
            params.append(("billable_metric_code", code))
        path = f"/customers/{segment(external_customer_id)}/past_usage"
        try:
            pages = list(self.http.pages(path, "usage_periods", params, answers=_NO_USAGE))
        except Unserved:
            return ()
        return tuple(_usage(period) for page in pages for period in page)

    def find_event(self, transaction_id: str) -> dict[str, Any] | None:
        """The event of this transaction ID as Lago shows it, None where there is none.

        One of them where several subscriptions share the ID: Lago cannot be asked for one subscription's.
        """
        if not transaction_id:
            return None  # the path without an ID is the list
        path = f"/events/{segment(transaction_id)}"
        answer = self.http.get(path, answers=_ABSENT)
        if answer.ok:
            return as_dict((answer.body or {}).get("event"))
        if "code" not in (answer.body or {}):  # a proxy's 404 says nothing about the event
            raise LagoFault(f"GET {path} answered 404, and not Lago's: {answer.excerpt}")
        return None


def _metric(item: dict[str, Any]) -> Metric:
    filters = (found for found in as_list(item.get("filters")) if isinstance(found, dict))
    return Metric(
        code=str(item["code"]),
        lago_id=as_text(item.get("lago_id")),
        name=as_text(item.get("name")),
        aggregation_type=as_text(item.get("aggregation_type")),
        field_name=as_text(item.get("field_name")) or None,
        expression=as_text(item.get("expression")) or None,
        recurring=bool(item.get("recurring")),
        weighted_interval=as_text(item.get("weighted_interval")),
        rounding_function=as_text(item.get("rounding_function")),
        rounding_precision=as_int(item.get("rounding_precision")),
        filters=tuple(
            MetricFilter(str(found.get("key")), tuple(map(str, as_list(found.get("values"))))) for found in filters
        ),
    )


def _charge(plan: dict[str, Any], charge: dict[str, Any]) -> Charge:
    properties = as_dict(charge.get("properties"))
    keys = as_list(properties.get("pricing_group_keys")) or as_list(properties.get("grouped_by"))  # the older name
    filters = (as_dict(as_dict(found).get("values")) for found in as_list(charge.get("filters")))
    return Charge(
        plan_code=as_text(plan.get("code")),
        charge_model=as_text(charge.get("charge_model")),
        pay_in_advance=bool(charge.get("pay_in_advance")),
        group_keys=tuple(map(str, keys)),
        filter_keys=tuple(dict.fromkeys(key for values in filters for key in values)),
    )


def _usage(found: object) -> Usage:
    item = as_dict(found)
    charges = (charge for charge in as_list(item.get("charges_usage")) if isinstance(charge, dict))
    try:
        return Usage(
            from_datetime=_time(item["from_datetime"]),
            to_datetime=_time(item["to_datetime"]),
            currency=as_text(item.get("currency")),
            amount_cents=as_int(item.get("amount_cents")) or 0,
            lago_invoice_id=as_text(item.get("lago_invoice_id")),
            charges=tuple(
                ChargeUsage(
                    metric_code=as_text(as_dict(charge.get("billable_metric")).get("code")),
                    units=Decimal(str(charge.get("units") or 0)),
                    events_count=as_int(charge.get("events_count")) or 0,
                    amount_cents=as_int(charge.get("amount_cents")) or 0,
                )
                for charge in charges
            ),
        )
    except (KeyError, TypeError, ValueError, InvalidOperation) as error:
        raise LagoFault(f"Lago's usage has an unknown shape: {type(error).__name__} {error}") from error


def _boundary(period: dict[str, Any], end: str) -> object:
    return period.get(f"charges_{end}_datetime") or period.get(f"subscription_{end}_datetime")


def _time(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _times(values: Iterable[object]) -> pd.Series:
    """ISO 8601 strings, with or without a fraction, `Z` or offset, to datetime64[ms, UTC]; None to NaT."""
    try:
        return pd.to_datetime(pd.Series(list(values), dtype="object"), format="ISO8601", utc=True).astype(
            "datetime64[ms, UTC]"
        )
    except ValueError as error:
        raise LagoFault(f"Lago sent a time that is not ISO 8601: {error}") from error

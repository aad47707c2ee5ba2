"""What Lago itself says that it bills: an extra figure for the report, never worth ending a run for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar

from reconcile.errors import LagoFault
from reconcile.lago.http import Http, as_dict, as_int, as_list, as_text, following, segment
from reconcile.lago.items import moment

Found = TypeVar("Found")

# resource_not_found, charge_not_found, billable_metric_not_found; no_active_subscription
_NO_USAGE = frozenset({404, 405})
_BROKEN = frozenset({500, 502, 503, 504})
_TRIES = 3
_PAUSE = 0.3  # seconds between two tries
_PAGE = 100


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


@dataclass(frozen=True, slots=True)
class UsageUnavailable:
    """Lago could not say. `text` is its answer, short; with `silent` it gave none, after a minute."""

    text: str
    silent: bool = False


class Usages:
    http: Http

    def current_usage(
        self, external_customer_id: str, external_subscription_id: str, code: str
    ) -> Usage | UsageUnavailable | None:
        """The open billing period, with the charges on the metric `code` alone.

        None without an active subscription, or where its plan has no charge on the metric (an older Lago: no charges).
        Lago caches usage per charge: it may lag behind the events until Lago's worker has seen them. The call may fail
        for good (a volume charge below 0 answers 500), so it is tried three times within a second.
        """
        path = f"/customers/{segment(external_customer_id)}/current_usage"
        params = [
            ("external_subscription_id", external_subscription_id),
            ("billable_metric_code", code),
            ("apply_taxes", "false"),
        ]

        def ask() -> Usage | UsageUnavailable | None:
            answer = self.http.get(path, params, answers=_NO_USAGE | _BROKEN)
            if answer.status in _BROKEN:
                return UsageUnavailable(f"GET {path} answered {answer.status}: {answer.excerpt}")
            return _usage((answer.body or {}).get("customer_usage"), code) if answer.ok else None

        return self._tried(ask)

    def past_usage(
        self, external_customer_id: str, external_subscription_id: str, code: str
    ) -> tuple[Usage, ...] | UsageUnavailable:
        """The invoiced billing periods of the metric, newest first.

        Lago lists the periods of every invoice, whatever its status: drafts, and voided ones that nobody pays
        (past_usage_query.rb). `lago_invoice_id` names it.
        """
        path = f"/customers/{segment(external_customer_id)}/past_usage"
        params = [("external_subscription_id", external_subscription_id), ("billable_metric_code", code)]

        def ask() -> tuple[Usage, ...] | UsageUnavailable:
            periods: list[Usage] = []
            page: int | None = 1
            while page is not None:
                self.http.check_stop()
                answer = self.http.get(
                    path, [*params, ("page", page), ("per_page", _PAGE)], answers=_NO_USAGE | _BROKEN
                )
                if answer.status in _BROKEN:
                    return UsageUnavailable(f"GET {path} answered {answer.status}: {answer.excerpt}")
                items = as_list((answer.body or {}).get("usage_periods")) if answer.ok else []
                new = [one for one in (_usage(item, code) for item in items) if one not in periods]
                periods += new
                page = following(answer.body, page) if new else None
            return tuple(periods)

        return self._tried(ask)

    def _tried(self, ask: Callable[[], Found]) -> Found | UsageUnavailable:
        try:
            found = ask()
            for _ in range(_TRIES - 1):
                if not isinstance(found, UsageUnavailable) or self.http.stop.wait(_PAUSE):
                    break
                found = ask()
            return found
        except LagoFault as fault:
            return UsageUnavailable(str(fault), silent=True)


def _usage(found: object, code: str) -> Usage:
    """Lago before 1.45 ignores the metric's code and sends every charge (1.38), so they are sorted out here."""
    item = as_dict(found)
    try:
        return Usage(
            from_datetime=moment(item["from_datetime"]),
            to_datetime=moment(item["to_datetime"]),
            currency=as_text(item.get("currency")),
            amount_cents=as_int(item.get("amount_cents")) or 0,
            lago_invoice_id=as_text(item.get("lago_invoice_id")),
            charges=tuple(
                charge
                for charge in map(_charge_usage, map(as_dict, as_list(item.get("charges_usage"))))
                if charge.metric_code == code
            ),
        )
    except (KeyError, TypeError, ValueError, InvalidOperation) as error:
        raise LagoFault(f"Lago's usage has an unknown shape: {type(error).__name__} {error}") from error


def _charge_usage(charge: dict[str, Any]) -> ChargeUsage:
    return ChargeUsage(
        metric_code=as_text(as_dict(charge.get("billable_metric")).get("code")),
        units=Decimal(str(charge.get("units") or 0)),
        events_count=as_int(charge.get("events_count")) or 0,
        amount_cents=as_int(charge.get("amount_cents")) or 0,
    )

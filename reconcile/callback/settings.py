"""What the callback reads from the proxy's environment, and what it refuses. Names and meanings are those of the job.

Every other `RECONCILE_*` name concerns the job alone and is left to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Literal, TypeVar
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ..domain import dates
from ..domain.event import PROPERTIES, Shape

Store = Literal["auto", "postgres", "clickhouse"]
_Value = TypeVar("_Value")

CHARGE_COLUMNS = {
    "end_user_id": "end_user",
    "user_id": "user",
    "team_id": "team_id",
    "organization_id": "organization_id",
}
_STORES: dict[str, Store] = {"auto": "auto", "postgres": "postgres", "clickhouse": "clickhouse"}
_HOUSE = "litellm-internal-health-check,litellm-dashboard,default_user_id"
_REQUIRED = ("LAGO_API_BASE", "LAGO_API_KEY", "LAGO_API_EVENT_CODE")


class Refused(RuntimeError):
    """The callback cannot do its work here; the message says what to change. It stops the proxy's start."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`charge_column` is the column of the row that holds the charge ID; `row_limit` is in USD."""

    base: str
    key: str = field(repr=False)
    shape: Shape
    charge_column: str
    exclude: frozenset[str]
    own_ids: frozenset[str]
    row_limit: Decimal
    start: datetime | None
    store: Store


def read(environment: Mapping[str, str]) -> Settings:
    """The settings of `environment`. Raises Refused with everything that is wrong, and never with the key in it."""
    wrong: list[str] = []

    def value(name: str, default: str, parse: Callable[[str], _Value]) -> _Value | None:
        text = environment.get(name, "").strip()
        try:
            return parse(text or default)
        except ValueError as error:
            wrong.append(f"{name}: {error}")
            return None

    missing = [name for name in _REQUIRED if not environment.get(name, "").strip()]
    if missing:
        wrong.append(f"not set: {', '.join(missing)}")
    base = value("LAGO_API_BASE", "http://unset", _address)
    key = value("LAGO_API_KEY", "unset", _key)
    column = value("LAGO_API_CHARGE_BY", "end_user_id", _one_of(CHARGE_COLUMNS))
    value("RECONCILE_ID_KIND", "external_subscription_id", _id_kind)
    exclude = value("RECONCILE_EXCLUDE", "", _exclude)
    properties = value("RECONCILE_PROPERTIES", "", _properties)
    factor = value("RECONCILE_PRECISE_AMOUNT", "", _amount)
    limit = value("RECONCILE_ROW_LIMIT", "1000", _amount)
    store = value("RECONCILE_EVENTS_STORE", "auto", _one_of(_STORES))
    zone = value("RECONCILE_TIMEZONE", "UTC", _zone) if environment.get("RECONCILE_START", "").strip() else None
    start = value("RECONCILE_START", "", lambda text: dates.parse(text, zone) if text and zone else None)
    if wrong or base is None or key is None or column is None or exclude is None or properties is None:
        raise Refused("reconcile.callback.lago cannot start. " + "; ".join(wrong))
    own_ids = environment.get("RECONCILE_OWN_IDS")  # an empty value means that there are none
    return Settings(
        base=base,
        key=key,
        shape=Shape(environment["LAGO_API_EVENT_CODE"].strip(), properties, factor),
        charge_column=column,
        exclude=exclude,
        own_ids=frozenset(_items(_HOUSE if own_ids is None else own_ids)),
        row_limit=limit or Decimal(1000),
        start=start,
        store=store or "auto",
    )


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _one_of(names: Mapping[str, _Value]) -> Callable[[str], _Value]:
    def parse(text: str) -> _Value:
        if text not in names:
            raise ValueError(f"{text[:60]!r} is none of {', '.join(names)}")
        return names[text]

    return parse


def _address(text: str) -> str:
    wrong = "is not the http:// or https:// address of a Lago"
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        raise ValueError(wrong) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(wrong)
    if "@" in parts.netloc:
        raise ValueError("holds a user or a password; Lago wants the key alone, in LAGO_API_KEY")
    path = parts.path.rstrip("/").removesuffix("/api/v1").rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path}"


def _key(text: str) -> str:
    if not re.fullmatch("[!-~]+", text):
        raise ValueError("holds a character that an HTTP header cannot carry")
    return text


def _id_kind(text: str) -> None:
    if text == "external_customer_id":
        raise ValueError(
            "external_customer_id needs Lago's subscriptions at the usage time, which a proxy does not read; "
            "leave this callback out, and the nightly run sends every event"
        )
    if text != "external_subscription_id":
        raise ValueError(f"{text[:60]!r} is none of external_subscription_id, external_customer_id")


def _exclude(text: str) -> frozenset[str]:
    for item in _items(text):
        if item not in ("cache_hit", "zero_cost"):
            raise ValueError(f"{item[:60]!r} is none of cache_hit, zero_cost")
    return frozenset(_items(text))


def _properties(text: str) -> tuple[tuple[str, str], ...]:
    """`name` or `name=sent_name`, separated by commas; empty means all."""
    sent: dict[str, str] = {}
    for item in _items(text or ",".join(PROPERTIES)):
        name, equals, sent_name = (part.strip() for part in item.partition("="))
        if name not in PROPERTIES:
            raise ValueError(f"{name[:60]!r} is none of {', '.join(PROPERTIES)}")
        if equals and not sent_name:
            raise ValueError(f"{item[:60]!r} gives no name to send {name} under")
        if name in sent or (sent_name or name) in sent.values():
            raise ValueError(f"{item[:60]!r} names a property twice")
        sent[name] = sent_name or name
    if not sent:
        raise ValueError("names no property")
    return tuple(sent.items())


def _amount(text: str) -> Decimal | None:
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,15})?", text) or not Decimal(text):
        raise ValueError(f"{text[:60]!r} is not a decimal number above 0")
    return Decimal(text)


def _zone(text: str) -> ZoneInfo:
    try:
        return ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"{text[:60]!r} is not an IANA time zone that this machine knows") from None

"""The types of the settings' values, each with its parser."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeAlias
from zoneinfo import ZoneInfo

from pydantic import BeforeValidator, PlainSerializer, SecretStr, ValidationInfo

from reconcile.domain.vocabulary import EVENT_CLASSES, ROW_CLASSES
from reconcile.settings import alerting, values
from reconcile.settings import database as databases

CHARGE_COLUMNS = {
    "end_user_id": "end_user",
    "user_id": "user",
    "team_id": "team_id",
    "organization_id": "organization_id",
}
CLASSES = tuple(dict.fromkeys((*map(str, ROW_CLASSES), *map(str, EVENT_CLASSES))))


def unless_empty(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: parse(text) if text else None


def _database(given: str | databases.Database) -> databases.Database:
    """Parts have been put together before; a URL is read here."""
    return given if isinstance(given, databases.Database) else databases.database(given)


def _log_level(text: str) -> str:
    return values.one_of("debug", "info", "warning", "error")(text.lower())


def _fail_on(text: str) -> frozenset[str]:
    return values.some_of(*CLASSES)(text) | {"missing"}


def _start(text: str, others: ValidationInfo) -> datetime | None:
    return values.start(text, others.data.get("time_zone", ZoneInfo("UTC"))) if text else None


# A dump of the settings shows a database as a report may show it.
Database: TypeAlias = Annotated[databases.Database, BeforeValidator(_database), PlainSerializer(str)]
StateDatabase: TypeAlias = Annotated[
    databases.Database | None, BeforeValidator(unless_empty(databases.database)), PlainSerializer(values.written)
]
ChargeBy: TypeAlias = Annotated[
    Literal["end_user_id", "user_id", "team_id", "organization_id"], BeforeValidator(values.one_of(*CHARGE_COLUMNS))
]
IdKind: TypeAlias = Annotated[
    Literal["external_subscription_id", "external_customer_id"],
    BeforeValidator(values.one_of("external_subscription_id", "external_customer_id")),
]
Text: TypeAlias = Annotated[str, BeforeValidator(str)]
Secret: TypeAlias = Annotated[SecretStr, BeforeValidator(values.api_key)]
LagoAddress: TypeAlias = Annotated[str, BeforeValidator(values.lago_address)]
DaskAddress: TypeAlias = Annotated[str | None, BeforeValidator(unless_empty(values.dask_address))]
TimeZone: TypeAlias = Annotated[ZoneInfo, BeforeValidator(values.time_zone)]
Start: TypeAlias = Annotated[datetime | None, BeforeValidator(_start)]
HoldOrPush: TypeAlias = Annotated[Literal["hold", "push"], BeforeValidator(values.one_of("hold", "push"))]
Copies: TypeAlias = Annotated[Literal["billed", "one"], BeforeValidator(values.one_of("billed", "one"))]
Send: TypeAlias = Annotated[Literal["send"] | None, BeforeValidator(unless_empty(values.one_of("send")))]
Store: TypeAlias = Annotated[
    Literal["auto", "postgres", "clickhouse"], BeforeValidator(values.one_of("auto", "postgres", "clickhouse"))
]
Length: TypeAlias = Annotated[timedelta, BeforeValidator(values.duration("0s"))]
Minutes: TypeAlias = Annotated[timedelta, BeforeValidator(values.duration("1m"))]
Reach: TypeAlias = Annotated[timedelta, BeforeValidator(values.duration("1s"))]
SliceLength: TypeAlias = Annotated[timedelta, BeforeValidator(values.duration("1m", "7d"))]
Timeout: TypeAlias = Annotated[timedelta, BeforeValidator(values.duration("1s", "1h"))]
Visibility: TypeAlias = Annotated[timedelta, BeforeValidator(values.duration("0s", "1d"))]
UpTo64: TypeAlias = Annotated[int, BeforeValidator(values.whole_number(1, 64))]
PageSize: TypeAlias = Annotated[int, BeforeValidator(values.whole_number(1, 10_000))]
Amount: TypeAlias = Annotated[Decimal, BeforeValidator(values.number_above_0("amount"))]
Properties: TypeAlias = Annotated[Mapping[str, str], BeforeValidator(values.properties)]
Factor: TypeAlias = Annotated[Decimal | None, BeforeValidator(unless_empty(values.number_above_0("factor")))]
Names: TypeAlias = Annotated[frozenset[str], BeforeValidator(values.names)]
FailOn: TypeAlias = Annotated[frozenset[str], BeforeValidator(_fail_on)]
Excluded: TypeAlias = Annotated[frozenset[str], BeforeValidator(values.some_of("cache_hit", "zero_cost"))]
Doubtful: TypeAlias = Annotated[frozenset[str], BeforeValidator(values.some_of("mismatched", "misdirected"))]
Language: TypeAlias = Annotated[Literal["en", "zh-CN"], BeforeValidator(values.one_of("en", "zh-CN"))]
LogLevel: TypeAlias = Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_log_level)]
LogFormat: TypeAlias = Annotated[
    Literal["auto", "human", "json"], BeforeValidator(values.one_of("auto", "human", "json"))
]
Webhook: TypeAlias = Annotated[SecretStr | None, BeforeValidator(unless_empty(alerting.secret_address))]
Mailboxes: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(alerting.mailboxes)]
Mailbox: TypeAlias = Annotated[str | None, BeforeValidator(unless_empty(alerting.mailbox))]
Mail: TypeAlias = Annotated[alerting.MailServer, BeforeValidator(alerting.mail_server), PlainSerializer(str)]
Thresholds: TypeAlias = Annotated[tuple[alerting.Threshold, ...], BeforeValidator(alerting.thresholds(*CLASSES))]
Listen: TypeAlias = Annotated[alerting.ListenAddress | None, BeforeValidator(alerting.listen_address)]

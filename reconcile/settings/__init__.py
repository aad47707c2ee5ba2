"""Every setting of `reconcile`, read from the environment and from `.env`.

LiteLLM's own names are kept with LiteLLM's meaning (its Lago callback, 1.60 to 1.109), so that the proxy's
env file works as it is. The fields of `Settings` are the one source of names, defaults, meanings and
examples: the help, `.env.example` and `docs/settings.md` follow `documentation()`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

from pydantic import BeforeValidator, Field, PlainSerializer, SecretStr, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from reconcile.domain.document import EVENT_CLASSES, ROW_CLASSES
from reconcile.errors import SettingsError
from reconcile.settings import values as values
from reconcile.settings.values import PROPERTIES, Database

__all__ = ["PROPERTIES", "Database", "Documented", "Settings", "documentation", "load"]

_CHARGE_COLUMNS = {
    "end_user_id": "end_user",
    "user_id": "user",
    "team_id": "team_id",
    "organization_id": "organization_id",
}
_CLASSES = tuple(dict.fromkeys(ROW_CLASSES + EVENT_CLASSES))
SECRETS = frozenset({"LAGO_API_KEY", "RECONCILE_ALERT_WEBHOOK", "RECONCILE_SMTP_URL"})
_EMPTY_COUNTS = "RECONCILE_FAIL_ON"  # elsewhere an empty value is no value

# A dump of the settings shows a database as a report may show it.
_Database = Annotated[Database, BeforeValidator(values.database), PlainSerializer(str)]


def _setting(name: str, default: str | None, meaning: str, example: str) -> Any:
    """A field. Its default is written and read as in the environment; None means that there is none."""
    facts: dict[str, Any] = {"validation_alias": name, "description": meaning, "examples": [example]}
    return Field(**facts) if default is None else Field(default, validate_default=True, **facts)


def _unless_empty(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: parse(text) if text else None


def _log_level(text: str) -> str:
    return values.one_of("debug", "info", "warning", "error")(text.lower())


def _fail_on(text: str) -> frozenset[str]:
    return values.some_of(*_CLASSES)(text) | {"missing"}


class Settings(BaseSettings):
    """All settings, checked. Immutable; `repr` and dumps hold neither key nor password."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        case_sensitive=True,
        enable_decoding=False,  # no setting is JSON
        hide_input_in_errors=True,
        arbitrary_types_allowed=True,
    )

    database: _Database = _setting(
        "DATABASE_URL",
        None,
        "LiteLLM's Postgres, only read. Prisma's `schema` names the tables' schema, its other parameters are ignored",
        "postgresql://litellm:password@localhost:5432/litellm",
    )
    lago_api_base: Annotated[str, BeforeValidator(values.lago_address)] = _setting(
        "LAGO_API_BASE",
        None,
        "Address of Lago; `/api/v1` is appended",
        "http://localhost:3000",
    )
    lago_api_key: Annotated[SecretStr, BeforeValidator(values.api_key)] = _setting(
        "LAGO_API_KEY",
        None,
        "Key of Lago's API; never printed, logged or stored",
        "your-lago-api-key",
    )
    event_code: Annotated[str, BeforeValidator(str)] = _setting(
        "LAGO_API_EVENT_CODE",
        None,
        "Code of the billable metric in Lago",
        "llm_usage",
    )
    charge_by: Annotated[
        Literal["end_user_id", "user_id", "team_id", "organization_id"],
        BeforeValidator(values.one_of(*_CHARGE_COLUMNS)),
    ] = _setting(
        "LAGO_API_CHARGE_BY",
        "end_user_id",
        "Who is charged: `end_user_id`, `user_id`, `team_id` or `organization_id`",
        "team_id",
    )
    id_kind: Annotated[
        Literal["external_subscription_id", "external_customer_id"],
        BeforeValidator(values.one_of("external_subscription_id", "external_customer_id")),
    ] = _setting(
        "RECONCILE_ID_KIND",
        "external_subscription_id",
        "What the charge ID names in Lago: `external_subscription_id`, as LiteLLM's callback has "
        "it, or `external_customer_id`, whose subscription at the usage time gets the event",
        "external_customer_id",
    )
    state_url: Annotated[
        Database | None, BeforeValidator(_unless_empty(values.database)), PlainSerializer(values.written)
    ] = _setting(
        "RECONCILE_STATE_URL",
        "",
        "Postgres for the job's own schema `reconcile`; empty: the database of `DATABASE_URL`",
        "postgresql://reconcile:password@localhost:5432/billing",
    )
    time_zone: Annotated[ZoneInfo, BeforeValidator(values.time_zone)] = _setting(
        "RECONCILE_TIMEZONE",
        "UTC",
        "IANA zone of the dates on the command line, in cron.yaml and in reports",
        "Europe/Berlin",
    )
    lookback: Annotated[timedelta, BeforeValidator(values.duration("1m"))] = _setting(
        "RECONCILE_LOOKBACK",
        "72h",
        "`run` covers `[now - lag - lookback, now - lag)`",
        "7d",
    )
    lag: Annotated[timedelta, BeforeValidator(values.duration("0s"))] = _setting(
        "RECONCILE_LAG",
        "15m",
        "Rows younger than this may still be in LiteLLM's write queue",
        "30m",
    )
    max_call: Annotated[timedelta, BeforeValidator(values.duration("0s"))] = _setting(
        "RECONCILE_MAX_CALL",
        "24h",
        "A call may have begun this long before its usage time",
        "48h",
    )
    match_before: Annotated[timedelta, BeforeValidator(values.duration("0s"))] = _setting(
        "RECONCILE_MATCH_BEFORE",
        "30s",
        "A live event may be stamped this much before the row's usage time",
        "10s",
    )
    match_after: Annotated[timedelta, BeforeValidator(values.duration("0s"))] = _setting(
        "RECONCILE_MATCH_AFTER",
        "120s",
        "A live event may be stamped this much after the row's usage time",
        "5m",
    )
    uncovered: Annotated[Literal["hold", "push"], BeforeValidator(values.one_of("hold", "push"))] = _setting(
        "RECONCILE_UNCOVERED",
        "hold",
        "`hold` or `push` rows that no Lago subscription covers at their usage time",
        "push",
    )
    late: Annotated[Literal["hold", "push"], BeforeValidator(values.one_of("hold", "push"))] = _setting(
        "RECONCILE_LATE",
        "hold",
        "`hold` or `push` rows whose billing period Lago has already closed",
        "push",
    )
    concurrency: Annotated[int, BeforeValidator(values.whole_number(1, 64))] = _setting(
        "RECONCILE_CONCURRENCY",
        "8",
        "Requests to Lago in flight, 1 to 64",
        "4",
    )
    fail_on: Annotated[frozenset[str], BeforeValidator(_fail_on)] = _setting(
        _EMPTY_COUNTS,
        "mismatched,misdirected,duplicate,orphan,rejected,held",
        "Classes that make the exit code 1; `missing` always does, so an empty value means `missing` alone",
        "mismatched,misdirected,duplicate",
    )
    slice_length: Annotated[timedelta, BeforeValidator(values.duration("1m", "7d"))] = _setting(
        "RECONCILE_SLICE",
        "1h",
        "Length of the slices that a window is worked through in, 1m to 7d; bounds the memory",
        "15m",
    )
    page_size: Annotated[int, BeforeValidator(values.whole_number(1, 10_000))] = _setting(
        "RECONCILE_PAGE_SIZE",
        "1000",
        "Events per page asked of Lago, 1 to 10000",
        "100",
    )
    timeout: Annotated[timedelta, BeforeValidator(values.duration("1s", "1h"))] = _setting(
        "RECONCILE_TIMEOUT",
        "30s",
        "How long one request to Lago may take, 1s to 1h",
        "1m",
    )
    recheck: Annotated[timedelta, BeforeValidator(values.duration("0s"))] = _setting(
        "RECONCILE_RECHECK",
        "35d",
        'How far back the hours of `"startTime"` are counted again for late rows',
        "62d",
    )
    events_store: Annotated[
        Literal["auto", "postgres", "clickhouse"],
        BeforeValidator(values.one_of("auto", "postgres", "clickhouse")),
    ] = _setting(
        "RECONCILE_EVENTS_STORE",
        "auto",
        "Where Lago keeps its events: `postgres`, `clickhouse`, or `auto`: what `GET "
        "/organizations` says (Lago 1.47 and later), else `postgres`",
        "clickhouse",
    )
    visible_within: Annotated[timedelta, BeforeValidator(values.duration("0s", "1d"))] = _setting(
        "RECONCILE_VISIBLE_WITHIN",
        "120s",
        "How long new events may take to show up when Lago is read back, at most 1d",
        "5m",
    )
    exclude: Annotated[frozenset[str], BeforeValidator(values.some_of("cache_hit", "zero_cost"))] = _setting(
        "RECONCILE_EXCLUDE",
        "",
        "Rows that are not billable besides failed requests: `cache_hit`, `zero_cost`",
        "cache_hit,zero_cost",
    )
    push_doubtful: Annotated[frozenset[str], BeforeValidator(values.some_of("mismatched", "misdirected"))] = _setting(
        "RECONCILE_PUSH_DOUBTFUL",
        "",
        "Rows that are sent although Lago may hold their event: `mismatched`, `misdirected`; they may be billed twice",
        "mismatched",
    )
    properties: Annotated[Mapping[str, str], BeforeValidator(values.properties)] = _setting(
        "RECONCILE_PROPERTIES",
        "",
        "Properties that an event carries, as `name` or `name=sent_name`; empty: `model`, "
        "`response_cost`, `prompt_tokens`, `completion_tokens`, `total_tokens`, `input_tokens`, "
        "`output_tokens`, `request_id`",
        "model,response_cost=cost",
    )
    precise_amount: Annotated[Decimal | None, BeforeValidator(_unless_empty(values.factor))] = _setting(
        "RECONCILE_PRECISE_AMOUNT",
        "",
        "A decimal factor; when set, each event carries `precise_total_amount_cents` = spend × 100 "
        "× factor, for Lago's dynamic charges",
        "1.2",
    )
    language: Annotated[Literal["en", "zh-CN"], BeforeValidator(values.one_of("en", "zh-CN"))] = _setting(
        "RECONCILE_LANG",
        "en",
        "Language of reports: `en` or `zh-CN`",
        "zh-CN",
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_log_level)] = _setting(
        "RECONCILE_LOG_LEVEL",
        "info",
        "Least level that is logged: `debug`, `info`, `warning` or `error`",
        "debug",
    )
    log_format: Annotated[Literal["auto", "human", "json"], BeforeValidator(values.one_of("auto", "human", "json"))] = (
        _setting(
            "RECONCILE_LOG_FORMAT",
            "auto",
            "Form of log lines: `human`, `json`, or `auto`: `human` on a terminal, else `json`",
            "json",
        )
    )
    alert_webhook: Annotated[SecretStr | None, BeforeValidator(_unless_empty(values.secret_address))] = _setting(
        "RECONCILE_ALERT_WEBHOOK",
        "",
        "Slack-compatible webhook that alerts are posted to; its address is a secret: never printed, logged or stored",
        "https://hooks.slack.com/services/T000/B000/XXXX",
    )
    alert_email_to: Annotated[tuple[str, ...], BeforeValidator(values.mailboxes)] = _setting(
        "RECONCILE_ALERT_EMAIL_TO",
        "",
        "Who gets alerts by e-mail, separated by commas",
        "finance@example.com,ops@example.com",
    )
    alert_email_from: Annotated[str | None, BeforeValidator(_unless_empty(values.mailbox))] = _setting(
        "RECONCILE_ALERT_EMAIL_FROM",
        "",
        "Sender of alerts by e-mail; empty: the first of `RECONCILE_ALERT_EMAIL_TO`",
        "reconcile@example.com",
    )
    smtp: Annotated[values.MailServer, BeforeValidator(values.mail_server), PlainSerializer(str)] = _setting(
        "RECONCILE_SMTP_URL",
        "smtp://localhost",
        "Mail server: `smtp://` (STARTTLS where it is offered) or `smtps://`, with user and password where it wants "
        "them; never printed, logged or stored",
        "smtps://user:password@mail.example.com:465",
    )
    alert_on: Annotated[tuple[values.Threshold, ...], BeforeValidator(values.thresholds(*_CLASSES))] = _setting(
        "RECONCILE_ALERT_ON",
        "missing,mismatched,misdirected,duplicate,orphan,rejected,held",
        "Classes that raise an alert: `orphan` (any at all), `orphan>10` (more than ten), `held>5.00usd` (more money)",
        "missing,orphan>10,held>5.00usd",
    )
    alert_overdue: Annotated[timedelta, BeforeValidator(values.duration("0s"))] = _setting(
        "RECONCILE_ALERT_OVERDUE",
        "26h",
        "`schedule` raises an alert when no run has finished for this long; 0s: never",
        "50h",
    )
    metrics_address: Annotated[values.ListenAddress | None, BeforeValidator(values.listen_address)] = _setting(
        "RECONCILE_METRICS_ADDRESS",
        "127.0.0.1:9464",
        "Where `schedule` serves `/metrics` and `/healthz`: an address and a port, or `off`",
        "0.0.0.0:9464",
    )
    metrics_textfile: Annotated[str, BeforeValidator(str)] = _setting(
        "RECONCILE_METRICS_TEXTFILE",
        "",
        "File that `run` and `backfill` write their metrics to, for node_exporter's textfile collector; one per stream",
        "/var/lib/node_exporter/reconcile.prom",
    )

    @property
    def state(self) -> Database:
        """Where the job's own schema `reconcile` lives."""
        return self.state_url or self.database

    @property
    def charge_column(self) -> str:
        """The column of `"LiteLLM_SpendLogs"` that holds the charge ID."""
        return _CHARGE_COLUMNS[self.charge_by]

    def public(self) -> dict[str, str]:
        """Every setting but the secret ones, as it would be written in the environment; without passwords."""
        texts = {
            name: values.written(getattr(self, attribute))
            for attribute, name in _names().items()
            if name not in SECRETS
        }
        return texts | {"RECONCILE_STATE_URL": self.state.display}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """`load` hands the environment over as arguments, so that callers can bring their own."""
        return init_settings, dotenv_settings

    @model_validator(mode="before")
    @classmethod
    def _without_empty_values(cls, given: dict[str, str]) -> dict[str, str]:
        stripped = {name: text.strip() for name, text in given.items()}
        return {name: text for name, text in stripped.items() if _counts(name, text)}


class Documented(NamedTuple):
    """One setting as its documentation shows it. `default` is None where the setting is required."""

    name: str
    default: str | None
    meaning: str
    example: str


def documentation() -> list[Documented]:
    """Every setting, in the order of the code."""
    return [
        Documented(
            name=str(info.validation_alias),
            default=None if info.is_required() else str(info.default),
            meaning=info.description or "",
            example=(info.examples or [""])[0],
        )
        for info in Settings.model_fields.values()
    ]


def load(
    environ: Mapping[str, str] | None = None, dotenv: Path | None = Path(".env"), **overrides: str | None
) -> Settings:
    """Read the settings. What is named by attribute in `overrides` and not None wins over everything.

    The environment (`os.environ` unless given) wins over the file; a missing file is no error. An empty
    value is no value, except for `RECONCILE_FAIL_ON`; an empty override is wrong. Raises SettingsError
    with one line for each wrong setting, and no secret in it.
    """
    environ = os.environ if environ is None else environ
    names = _names()
    given = {name: environ[name] for name in names.values() if _counts(name, environ.get(name))}
    replaced = {names[attribute]: text for attribute, text in overrides.items() if text is not None}
    problems = [_line(name, "is given an empty value") for name, text in replaced.items() if not _counts(name, text)]
    if not problems:
        arguments: dict[str, Any] = {"_env_file": dotenv, **given, **replaced}
        try:
            return Settings(**arguments)
        except ValidationError as error:
            problems = [_explained(detail) for detail in error.errors(include_url=False, include_input=False)]
        except UnicodeDecodeError:
            problems = [f"{dotenv}: is not a text file in UTF-8"]
        except OSError as error:
            problems = [f"{dotenv}: cannot be read ({error.strerror})"]
    # Raised out here: pydantic's exception holds the values, and must not be this one's context.
    raise SettingsError("\n".join(problems))


def _names() -> dict[str, str]:
    """Attribute to name."""
    return {attribute: str(info.validation_alias) for attribute, info in Settings.model_fields.items()}


def _counts(name: str, text: str | None) -> bool:
    return text is not None and (bool(text.strip()) or name == _EMPTY_COUNTS)


def _explained(detail: ErrorDetails) -> str:
    missing = detail["type"] == "missing"
    return _line(str(detail["loc"][0]), "is not set" if missing else str(detail["ctx"]["error"]))


def _line(name: str, problem: str) -> str:
    example = next(setting.example for setting in documentation() if setting.name == name)
    return f"{name}: {problem}; for example {name}={example}"

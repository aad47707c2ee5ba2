"""The settings, one field each: name, default, meaning, example. What is not here is no setting."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from reconcile.settings import kinds, values
from reconcile.settings.database import Database

SECRETS: Final = frozenset(
    {"DATABASE_PASSWORD", "LAGO_API_KEY", "RECONCILE_ALERT_WEBHOOK", "RECONCILE_HEARTBEAT_URL", "RECONCILE_SMTP_URL"}
)
_NARROW: Final = timedelta(seconds=10)


def _setting(name: str, default: str | None, meaning: str, example: str) -> Any:
    """A field. Its default is written and read as in the environment; None means that there is none."""
    facts: dict[str, Any] = {"validation_alias": name, "description": meaning, "examples": [example]}
    return Field(**facts) if default is None else Field(default, validate_default=True, **facts)


class Settings(BaseModel):
    """All settings, checked. Immutable; `repr` and dumps hold neither key nor password."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True, arbitrary_types_allowed=True)

    # Name to `environment`, the file's name, or `option`; what is not in it has its default.
    _sources: Mapping[str, str] = PrivateAttr(default_factory=dict)

    database: kinds.Database = _setting(
        "DATABASE_URL",
        None,
        "LiteLLM's Postgres, only read. Prisma's `schema` names the tables' schema, its other parameters are ignored",
        "postgresql://litellm:password@localhost:5432/litellm",
    )
    lago_api_base: kinds.LagoAddress = _setting(
        "LAGO_API_BASE",
        None,
        "Address of Lago; `/api/v1` is appended",
        "http://localhost:3000",
    )
    lago_api_key: kinds.Secret = _setting(
        "LAGO_API_KEY",
        None,
        "Key of Lago's API; never printed, logged or stored",
        "your-lago-api-key",
    )
    event_code: kinds.Text = _setting(
        "LAGO_API_EVENT_CODE",
        None,
        "Code of the billable metric in Lago",
        "llm_usage",
    )
    charge_by: kinds.ChargeBy = _setting(
        "LAGO_API_CHARGE_BY",
        "end_user_id",
        "Who is charged: `end_user_id`, `user_id`, `team_id` or `organization_id`",
        "team_id",
    )
    id_kind: kinds.IdKind = _setting(
        "RECONCILE_ID_KIND",
        "external_subscription_id",
        "What the charge ID names in Lago: `external_subscription_id`, as LiteLLM's callback has "
        "it, or `external_customer_id`, whose subscription at the usage time gets the event",
        "external_customer_id",
    )
    state_url: kinds.StateDatabase = _setting(
        "RECONCILE_STATE_URL",
        "",
        "Postgres for the job's own schema `reconcile`; empty: the database of `DATABASE_URL`",
        "postgresql://reconcile:password@localhost:5432/billing",
    )
    time_zone: kinds.TimeZone = _setting(
        "RECONCILE_TIMEZONE",
        "UTC",
        "IANA zone of the dates on the command line, in cron.yaml and in reports",
        "Europe/Berlin",
    )
    lookback: kinds.Minutes = _setting(
        "RECONCILE_LOOKBACK",
        "72h",
        "`run` covers `[now - lag - lookback, now - lag)`",
        "7d",
    )
    lag: kinds.Length = _setting(
        "RECONCILE_LAG",
        "2h",
        "Rows younger than this may still be in LiteLLM's write queue, and their events in LiteLLM's logging queue, in "
        "Lago's or on the way: no command looks at them",
        "30m",
    )
    start: kinds.Start = _setting(
        "RECONCILE_START",
        "",
        "The instant from which this stream bills: rows with an earlier usage time are never sent; a date means its "
        "first instant in `RECONCILE_TIMEZONE`",
        "2026-12-01T00:00:00Z",
    )
    max_call: kinds.Length = _setting(
        "RECONCILE_MAX_CALL",
        "24h",
        "A call may have begun this long before its usage time",
        "48h",
    )
    match_before: kinds.Reach = _setting(
        "RECONCILE_MATCH_BEFORE",
        "30s",
        "A live event may be stamped this much before the row's usage time; at least 1s, under 10s is warned about",
        "10s",
    )
    match_after: kinds.Reach = _setting(
        "RECONCILE_MATCH_AFTER",
        "120s",
        "A live event may be stamped this much after the row's usage time; at least 1s, under 10s is warned about",
        "5m",
    )
    doubt_before: kinds.Reach = _setting(
        "RECONCILE_DOUBT_BEFORE",
        "1h",
        "A missing row is held where an unexplained live event of equal content lies this little before it, or less",
        "2h",
    )
    doubt_after: kinds.Reach = _setting(
        "RECONCILE_DOUBT_AFTER",
        "6h",
        "The same after it",
        "12h",
    )
    doubtful: kinds.Send = _setting(
        "RECONCILE_DOUBTFUL",
        "",
        "`send`: rows are sent although unexplained live events could be theirs; empty: the run stops there",
        "send",
    )
    copies: kinds.Copies = _setting(
        "RECONCILE_COPIES",
        "billed",
        "What Lago makes of copies of one event in ClickHouse: `billed`, each counts; `one`, the organization has "
        "deduplication on",
        "one",
    )
    not_counted: kinds.HoldOrPush = _setting(
        "RECONCILE_NOT_COUNTED",
        "hold",
        "`push`: where a live event adds nothing to the sum that its metric bills though the row does, the row's own "
        "event is sent",
        "push",
    )
    own_ids: kinds.Names = _setting(
        "RECONCILE_OWN_IDS",
        "litellm-internal-health-check,litellm-dashboard,default_user_id",
        "Charge IDs of the house itself, which nobody is billed for; an empty value means that there are none",
        "litellm-internal-health-check,litellm-dashboard,default_user_id,our-own-team",
    )
    row_limit: kinds.Amount = _setting(
        "RECONCILE_ROW_LIMIT",
        "1000",
        "A row with more spend than this, in USD, is held: prices have been wrong by factors of 100,000",
        "250.50",
    )
    uncovered: kinds.HoldOrPush = _setting(
        "RECONCILE_UNCOVERED",
        "hold",
        "`hold` or `push` rows that no Lago subscription covers at their usage time",
        "push",
    )
    late: kinds.HoldOrPush = _setting(
        "RECONCILE_LATE",
        "hold",
        "`hold` or `push` rows whose billing period Lago has already closed",
        "push",
    )
    concurrency: kinds.UpTo64 = _setting(
        "RECONCILE_CONCURRENCY",
        "8",
        "The most requests to Lago in flight, 1 to 64; a run begins with one, and adds another only while Lago then "
        "answers more a second",
        "4",
    )
    workers: kinds.UpTo64 = _setting(
        "RECONCILE_WORKERS",
        "1",
        "Processes that decode what Lago lists, 1 to 64; 1: the threads of this process that read it",
        "4",
    )
    dask: kinds.DaskAddress = _setting(
        "RECONCILE_DASK",
        "",
        "Scheduler of a Dask cluster that decodes what Lago lists, in place of this host; also `--dask`",
        "tcp://dask-scheduler:8786",
    )
    fail_on: kinds.FailOn = _setting(
        "RECONCILE_FAIL_ON",
        "unbilled,mismatched,misdirected,duplicate,orphan,rejected,held",
        "Classes that make the exit code 1; `missing` always does, so an empty value means `missing` alone",
        "mismatched,misdirected,duplicate",
    )
    slice_length: kinds.SliceLength = _setting(
        "RECONCILE_SLICE",
        "1h",
        "Length of the slices that a window is worked through in, 1m to 7d; bounds the memory",
        "15m",
    )
    page_size: kinds.PageSize = _setting(
        "RECONCILE_PAGE_SIZE",
        "1000",
        "Events per page asked of Lago, 1 to 10000",
        "100",
    )
    timeout: kinds.Timeout = _setting(
        "RECONCILE_TIMEOUT",
        "30s",
        "How long one request to Lago may take, 1s to 1h",
        "1m",
    )
    recheck: kinds.Length = _setting(
        "RECONCILE_RECHECK",
        "35d",
        'How far back the hours of `"startTime"` are counted again for late rows, and `run` begins to close a gap',
        "62d",
    )
    events_store: kinds.Store = _setting(
        "RECONCILE_EVENTS_STORE",
        "auto",
        "Where Lago keeps its events: `postgres`, `clickhouse`, or `auto`: what `GET "
        "/organizations` says (Lago 1.47 and later), else `postgres`",
        "clickhouse",
    )
    visible_within: kinds.Visibility = _setting(
        "RECONCILE_VISIBLE_WITHIN",
        "120s",
        "How long new events may take to show up when Lago is read back, at most 1d",
        "5m",
    )
    exclude: kinds.Excluded = _setting(
        "RECONCILE_EXCLUDE",
        "",
        "Rows that are not billable besides failed requests: `cache_hit`, `zero_cost`",
        "cache_hit,zero_cost",
    )
    push_doubtful: kinds.Doubtful = _setting(
        "RECONCILE_PUSH_DOUBTFUL",
        "",
        "Rows that are sent although Lago may hold their event: `mismatched`, `misdirected`; they may be billed twice",
        "mismatched",
    )
    properties: kinds.Properties = _setting(
        "RECONCILE_PROPERTIES",
        "",
        "Properties that an event carries, as `name` or `name=sent_name`; empty: `model`, "
        "`response_cost`, `prompt_tokens`, `completion_tokens`, `total_tokens`, `input_tokens`, "
        "`output_tokens`, `request_id`",
        "model,response_cost=cost",
    )
    precise_amount: kinds.Factor = _setting(
        "RECONCILE_PRECISE_AMOUNT",
        "",
        "A decimal factor; when set, each event carries `precise_total_amount_cents` = spend × 100 "
        "× factor, for Lago's dynamic charges",
        "1.2",
    )
    language: kinds.Language = _setting(
        "RECONCILE_LANG",
        "en",
        "Language of reports: `en` or `zh-CN`",
        "zh-CN",
    )
    log_level: kinds.LogLevel = _setting(
        "RECONCILE_LOG_LEVEL",
        "info",
        "Least level that is logged: `debug`, `info`, `warning` or `error`",
        "debug",
    )
    log_format: kinds.LogFormat = _setting(
        "RECONCILE_LOG_FORMAT",
        "auto",
        "Form of log lines: `human`, `json`, or `auto`: `human` on a terminal, else `json`",
        "json",
    )
    alert_webhook: kinds.Webhook = _setting(
        "RECONCILE_ALERT_WEBHOOK",
        "",
        "Slack-compatible webhook that alerts are posted to; its address is a secret: never printed, logged or stored",
        "https://hooks.slack.com/services/T000/B000/XXXX",
    )
    alert_email_to: kinds.Mailboxes = _setting(
        "RECONCILE_ALERT_EMAIL_TO",
        "",
        "Who gets alerts by e-mail, separated by commas",
        "finance@example.com,ops@example.com",
    )
    alert_email_from: kinds.Mailbox = _setting(
        "RECONCILE_ALERT_EMAIL_FROM",
        "",
        "Sender of alerts by e-mail; empty: the first of `RECONCILE_ALERT_EMAIL_TO`",
        "reconcile@example.com",
    )
    smtp: kinds.Mail = _setting(
        "RECONCILE_SMTP_URL",
        "smtp://localhost",
        "Mail server: `smtp://` (STARTTLS where it is offered) or `smtps://`, with user and password where it wants "
        "them; never printed, logged or stored",
        "smtps://user:password@mail.example.com:465",
    )
    alert_on: kinds.Thresholds = _setting(
        "RECONCILE_ALERT_ON",
        "missing,unbilled,mismatched,misdirected,duplicate,orphan,rejected,held",
        "Classes that raise an alert: `orphan` (any at all), `orphan>10` (more than ten), `held>5.00usd` (more money); "
        "late rows and rows that stay held count too",
        "missing,orphan>10,held>5.00usd",
    )
    alert_overdue: kinds.Length = _setting(
        "RECONCILE_ALERT_OVERDUE",
        "26h",
        "`schedule` raises an alert when no run has finished for this long; 0s: never",
        "50h",
    )
    heartbeat_url: kinds.Webhook = _setting(
        "RECONCILE_HEARTBEAT_URL",
        "",
        "Address of a monitor (healthchecks.io, Cronitor) that is told when a `run` begins, and with which exit code "
        "it ended; a secret: never printed, logged or stored",
        "https://hc-ping.com/0d6ae2f5-5c2b-4d2f-9b9e-3a4f2a1c7b1e",
    )
    metrics_address: kinds.Listen = _setting(
        "RECONCILE_METRICS_ADDRESS",
        "127.0.0.1:9464",
        "Where `schedule` serves `/metrics` and `/healthz`: an address and a port, or `off`",
        "0.0.0.0:9464",
    )
    metrics_textfile: kinds.Text = _setting(
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
        return kinds.CHARGE_COLUMNS[self.charge_by]

    def public(self) -> dict[str, str]:
        """Every setting but the secret ones, as it would be written in the environment; without passwords."""
        texts = {
            name: values.written(getattr(self, attribute))
            for attribute, name in self.names().items()
            if name not in SECRETS
        }
        return texts | {"RECONCILE_STATE_URL": self.state.display}

    @classmethod
    def names(cls) -> dict[str, str]:
        """Attribute to name."""
        return {attribute: str(info.validation_alias) for attribute, info in cls.model_fields.items()}

    @property
    def sources(self) -> Mapping[str, str]:
        """Where each setting that was given came from: `environment`, `.env` or `option`. The others have defaults."""
        return self._sources

    def origins(self) -> dict[str, str]:
        """The names that came from each source, separated by commas; no values."""
        found: dict[str, list[str]] = {}
        for name, source in sorted(self._sources.items()):
            found.setdefault(source, []).append(name)
        return {source: ", ".join(names) for source, names in found.items()} | {"default": "all others"}

    def warnings(self) -> tuple[str, ...]:
        """What is allowed, and likely to be a mistake: one line each, beginning with the setting's name."""
        found = [
            f"{name}: under 10s a live event is easily overlooked, and its row held back or sent a second time"
            for name, reach in (
                ("RECONCILE_MATCH_BEFORE", self.match_before),
                ("RECONCILE_MATCH_AFTER", self.match_after),
            )
            if reach < _NARROW
        ]
        if self.lago_api_base.startswith("http://") and not _on_loopback(self.lago_api_base):
            found.append("LAGO_API_BASE: plain http to another machine: the key travels unencrypted; use https://")
        return tuple(found)

    def __eq__(self, other: object) -> bool:
        """By the values alone, wherever they came from."""
        return isinstance(other, Settings) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]  # some values are mappings


def _on_loopback(address: str) -> bool:
    host = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")

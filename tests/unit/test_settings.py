"""Settings: where they come from, what is refused and how, and that the documentation follows the code."""

from __future__ import annotations

import copy
import pickle
import re
import traceback
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

import hypothesis
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sqlalchemy.engine import make_url

from reconcile import settings
from reconcile.domain import event
from reconcile.domain.vocabulary import EVENT_CLASSES, ROW_CLASSES
from reconcile.errors import SettingsError
from reconcile.settings.alerting import ListenAddress, MailServer, Threshold
from reconcile.settings.values import duration_text, parse_duration

ROOT = Path(__file__).parents[2]
unhurried = hypothesis.settings(deadline=None)  # no test depends on how fast the machine is

PASSWORD = "s3cr3t-password"
KEY = "s3cr3t-lago-key"
REQUIRED = {
    "DATABASE_URL": f"postgresql://litellm:{PASSWORD}@db.example:5432/litellm",
    "LAGO_API_BASE": "http://localhost:3000",
    "LAGO_API_KEY": KEY,
    "LAGO_API_EVENT_CODE": "llm_usage",
}


WITHOUT_URL = {name: text for name, text in REQUIRED.items() if name != "DATABASE_URL"}


def load(environ: dict[str, str] | None = None, dotenv: Path | None = None) -> settings.Settings:
    return settings.load(REQUIRED | (environ or {}), dotenv)


def database(url: str) -> settings.Database:
    return load({"DATABASE_URL": url}).database


# Where settings come from


def test_the_defaults_are_the_contract_s() -> None:
    loaded = load()
    assert loaded.charge_by == "end_user_id"
    assert loaded.id_kind == "external_subscription_id"
    assert loaded.state == loaded.database
    assert loaded.time_zone == ZoneInfo("UTC")
    assert loaded.lookback == timedelta(hours=72)
    assert loaded.lag == timedelta(hours=2)
    assert loaded.start is None
    assert loaded.max_call == timedelta(hours=24)
    assert (loaded.match_before, loaded.match_after) == (timedelta(seconds=30), timedelta(seconds=120))
    assert (loaded.doubt_before, loaded.doubt_after) == (timedelta(hours=1), timedelta(hours=6))
    assert (loaded.doubtful, loaded.copies, loaded.not_counted) == (None, "billed", "hold")
    assert loaded.own_ids == {"litellm-internal-health-check", "litellm-dashboard", "default_user_id"}
    assert loaded.row_limit == Decimal(1000)
    assert (loaded.uncovered, loaded.late) == ("hold", "hold")
    assert (loaded.concurrency, loaded.workers) == (8, 1)
    assert loaded.fail_on == {
        "unbilled",
        "mismatched",
        "misdirected",
        "duplicate",
        "orphan",
        "rejected",
        "held",
        "missing",
    }
    assert loaded.slice_length == timedelta(hours=1)
    assert loaded.page_size == 1000
    assert loaded.timeout == timedelta(seconds=30)
    assert loaded.recheck == timedelta(days=35)
    assert loaded.events_store == "auto"
    assert loaded.visible_within == timedelta(seconds=120)
    assert loaded.exclude == loaded.push_doubtful == frozenset()
    assert loaded.properties == {name: name for name in settings.PROPERTIES}
    assert loaded.precise_amount is None
    assert (loaded.language, loaded.log_level, loaded.log_format) == ("en", "info", "auto")


def test_the_environment_wins_over_the_file_and_an_override_over_both(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("RECONCILE_LAG=1m\nRECONCILE_LOOKBACK=1h\nLAGO_API_CHARGE_BY='user_id'\n")
    environ = REQUIRED | {"RECONCILE_LAG": "2m", "LAGO_API_CHARGE_BY": "organization_id"}
    loaded = settings.load(environ, dotenv, charge_by="team_id", event_code=None)
    assert loaded.lookback == timedelta(hours=1)
    assert loaded.lag == timedelta(minutes=2)
    assert loaded.charge_by == "team_id"
    assert loaded.event_code == "llm_usage"


def test_the_process_s_environment_and_the_file_in_the_current_directory_are_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in REQUIRED.items():
        monkeypatch.setenv(name, value)
    (tmp_path / ".env").write_text("LAGO_API_EVENT_CODE=from the file\nRECONCILE_LAG=1m\n")
    monkeypatch.chdir(tmp_path)
    loaded = settings.load()
    assert (loaded.event_code, loaded.lag) == ("llm_usage", timedelta(minutes=1))


def test_the_proxy_s_env_file_works_as_it_is(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text(
        '\ufeffDATABASE_URL="postgresql://llm:p%40ss@db:5432/litellm?connection_limit=10&pool_timeout=60&schema=proxy"\n'
        "# the proxy's\nexport LITELLM_MASTER_KEY=sk-1\nOPENAI_API_KEY=\nSTORE_MODEL_IN_DB=True\n"
        "LAGO_API_BASE=http://lago:3000/\nLAGO_API_KEY=k\nLAGO_API_EVENT_CODE=code\nA LINE THAT IS NONE\n",
        encoding="utf-8",
    )
    loaded = settings.load({}, dotenv)
    assert loaded.database.schema == "proxy"
    assert loaded.database.libpq == "postgresql://llm:p%40ss@db:5432/litellm"
    assert loaded.lago_api_key.get_secret_value() == "k"


def test_names_are_case_sensitive() -> None:
    assert load({"reconcile_lag": "nonsense", "Reconcile_Lag": "nonsense"}).lag == timedelta(hours=2)


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_value_is_no_value(tmp_path: Path, empty: str) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text(f"RECONCILE_LAG={empty}\nRECONCILE_LOOKBACK=1h\nLAGO_API_KEY={empty}\n")
    assert load({"RECONCILE_LOOKBACK": empty}, dotenv).lookback == timedelta(hours=1)
    assert load(dotenv=dotenv).lag == timedelta(hours=2)
    assert load({"RECONCILE_STATE_URL": empty}).state.libpq == REQUIRED["DATABASE_URL"]
    with pytest.raises(SettingsError, match=r"^LAGO_API_KEY: is not set; for example LAGO_API_KEY="):
        load({"LAGO_API_KEY": empty})


def test_an_empty_fail_on_means_missing_alone(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("RECONCILE_FAIL_ON=\n")
    assert load({"RECONCILE_FAIL_ON": ""}).fail_on == {"missing"}
    assert load(dotenv=dotenv).fail_on == {"missing"}
    assert settings.load(REQUIRED, None, fail_on="").fail_on == {"missing"}


def test_an_empty_override_is_refused_rather_than_replaced_by_the_default() -> None:
    with pytest.raises(SettingsError, match=r"^LAGO_API_CHARGE_BY: is given an empty value; for example"):
        settings.load(REQUIRED, None, charge_by="")


def test_an_empty_list_of_own_ids_means_none_and_no_value_the_house_s(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("RECONCILE_OWN_IDS=\n")
    assert load({"RECONCILE_OWN_IDS": ""}).own_ids == frozenset()
    assert load(dotenv=dotenv).own_ids == frozenset()
    assert load({"RECONCILE_OWN_IDS": "us, the lab ,"}).own_ids == {"us", "the lab"}


def test_the_start_is_an_instant_and_a_date_in_the_zone() -> None:
    zone = {"RECONCILE_TIMEZONE": "Asia/Shanghai"}
    assert load({"RECONCILE_START": "2026-12-01", **zone}).start == datetime(2026, 11, 30, 16, tzinfo=UTC)
    assert load({"RECONCILE_START": "2026-12-01T08:00", **zone}).start == datetime(2026, 12, 1, tzinfo=UTC)
    assert load({"RECONCILE_START": "2026-12-01T08:00Z", **zone}).start == datetime(2026, 12, 1, 8, tzinfo=UTC)


@pytest.mark.parametrize("place", ["environment", "file"])
@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("RECONCILE_LAGG", "RECONCILE_LAG"),
        ("RECONCILE_TIME_ZONE", "RECONCILE_TIMEZONE"),
        ("RECONCILE_METRICS_PORT", "RECONCILE_METRICS_ADDRESS"),
        ("RECONCILE_", "RECONCILE_LAG"),
    ],
)
def test_an_unknown_name_of_ours_is_refused_with_the_nearest_known_one(
    tmp_path: Path, place: str, name: str, nearest: str
) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text(f"{name}=\n" if place == "file" else "")
    with pytest.raises(SettingsError) as refused:
        load({name: "x"} if place == "environment" else {}, dotenv)
    assert str(refused.value) == f"{name}: is no setting; the nearest is {nearest}"


def test_what_kubernetes_says_of_a_service_of_our_name_is_no_setting() -> None:
    """It puts these into every pod of the namespace, unless `enableServiceLinks` is false."""
    links = {
        "RECONCILE_METRICS_SERVICE_HOST": "10.0.0.1",
        "RECONCILE_METRICS_SERVICE_PORT": "9464",
        "RECONCILE_METRICS_SERVICE_PORT_HTTP": "9464",
        "RECONCILE_METRICS_PORT": "tcp://10.0.0.1:9464",
        "RECONCILE_METRICS_PORT_9464_TCP_ADDR": "10.0.0.1",
    }
    assert load(links) == load()


def test_each_setting_knows_where_it_came_from(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("RECONCILE_LAG=1m\nRECONCILE_LOOKBACK=1h\nRECONCILE_SLICE=\n")
    environ = REQUIRED | {"RECONCILE_LAG": "2m", "RECONCILE_LANG": ""}
    loaded = settings.load(environ, dotenv, charge_by="team_id")
    given = dict.fromkeys((*REQUIRED, "RECONCILE_LAG"), "environment")
    assert loaded.sources == {**given, "RECONCILE_LOOKBACK": ".env", "LAGO_API_CHARGE_BY": "option"}
    assert loaded.origins() == {
        ".env": "RECONCILE_LOOKBACK",
        "environment": "DATABASE_URL, LAGO_API_BASE, LAGO_API_EVENT_CODE, LAGO_API_KEY, RECONCILE_LAG",
        "option": "LAGO_API_CHARGE_BY",
        "default": "all others",
    }
    assert KEY not in str(loaded.origins())


@pytest.mark.parametrize(
    ("environ", "warned"),
    [
        ({}, []),
        ({"RECONCILE_MATCH_BEFORE": "10s", "RECONCILE_MATCH_AFTER": "9999ms"}, ["RECONCILE_MATCH_AFTER"]),
        ({"RECONCILE_MATCH_BEFORE": "1s"}, ["RECONCILE_MATCH_BEFORE"]),
        ({"LAGO_API_BASE": "http://lago:3000"}, ["LAGO_API_BASE"]),
        ({"LAGO_API_BASE": "http://10.0.0.1"}, ["LAGO_API_BASE"]),
        ({"LAGO_API_BASE": "https://lago"}, []),
        ({"LAGO_API_BASE": "http://127.3.2.1"}, []),
        ({"LAGO_API_BASE": "http://[::1]:3000"}, []),
        ({"LAGO_API_BASE": "http://lago.localhost"}, []),
    ],
)
def test_what_is_likely_to_be_a_mistake_is_warned_about(environ: dict[str, str], warned: list[str]) -> None:
    assert [warning.partition(":")[0] for warning in load(environ).warnings()] == warned


def test_space_around_a_value_does_not_count() -> None:
    loaded = load({"LAGO_API_KEY": f" {KEY}\n", "RECONCILE_LAG": " 5m "})
    assert (loaded.lago_api_key.get_secret_value(), loaded.lag) == (KEY, timedelta(minutes=5))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_bytes(b"LAGO_API_KEY=\xff\xfe\n")
    with pytest.raises(SettingsError, match=r"\.env: is not a text file in UTF-8$"):
        load(dotenv=dotenv)


def test_a_directory_called_env_is_no_file(tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()
    assert load(dotenv=tmp_path / ".env").event_code == "llm_usage"


# What is refused, and how


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("DATABASE_URL", "mysql://db/litellm", "begins with postgresql://"),
        ("DATABASE_URL", "postgresql:db", "begins with postgresql://"),
        ("DATABASE_URL", "postgresql://u:p/w@db:5432/litellm", "%2F"),
        ("DATABASE_URL", "postgresql://u:p@ss@db:5432/litellm", "%40"),
        ("DATABASE_URL", "postgresql://u:123/w@db/litellm", "%2F"),
        ("DATABASE_URL", "postgresql://u:123?w@db/litellm", "%3F"),
        ("DATABASE_URL", "postgresql://u:p#w@db/litellm", "%23"),
        ("DATABASE_URL", "postgresql://u:p@ss/w@db/litellm", "%40"),
        ("DATABASE_URL", "postgresql://u:p@db:70000/litellm", "is not a Postgres URL"),
        ("DATABASE_URL", "postgresql://u:p@[::1/litellm", "is not a Postgres URL"),
        ("DATABASE_URL", "postgresql://u:%FF@db/litellm", "is not a Postgres URL"),
        ("RECONCILE_STATE_URL", "sqlite:///x", "begins with postgresql://"),
        ("LAGO_API_BASE", "localhost:3000", "is not the http:// or https:// address"),
        ("LAGO_API_BASE", "http://", "is not the http:// or https:// address"),
        ("LAGO_API_BASE", "http://lago:port", "is not the http:// or https:// address"),
        ("LAGO_API_BASE", "http://la go", "is not the http:// or https:// address"),
        ("LAGO_API_BASE", "ftp://lago", "is not the http:// or https:// address"),
        ("LAGO_API_BASE", "http://lago?key=1", "holds a query"),
        ("LAGO_API_BASE", "http://lago/a b", "a space"),
        ("LAGO_API_BASE", "https://me:word@lago", "holds a user or a password"),
        ("LAGO_API_KEY", "ключ", "an HTTP header cannot carry"),
        ("LAGO_API_KEY", "two\nlines", "an HTTP header cannot carry"),
        (
            "LAGO_API_CHARGE_BY",
            "org_id",
            "'org_id' is none of end_user_id, user_id, team_id, organization_id",
        ),
        ("RECONCILE_ID_KIND", "customer", "is none of external_subscription_id, external_customer_id"),
        ("RECONCILE_TIMEZONE", "Berlin", "'Berlin' is not an IANA time zone"),
        ("RECONCILE_TIMEZONE", "localtime", "is not an IANA time zone"),
        ("RECONCILE_TIMEZONE", "right/UTC", "is not an IANA time zone"),
        ("RECONCILE_TIMEZONE", "../../etc/passwd", "is not an IANA time zone"),
        ("RECONCILE_LAG", "15", "'15' is not a duration"),
        ("RECONCILE_LAG", "-5m", "is not a duration"),
        ("RECONCILE_LAG", "1.5h", "is not a duration"),
        ("RECONCILE_LAG", "30m1h", "is not a duration"),
        ("RECONCILE_LAG", "٣m", "is not a duration"),
        ("RECONCILE_LAG", "3661d", "is out of range (0s to 3660d)"),
        ("RECONCILE_LAG", "999999999999d", "is out of range (0s to 3660d)"),
        ("RECONCILE_LOOKBACK", "0s", "is out of range (1m to 3660d)"),
        ("RECONCILE_MAX_CALL", "day", "is not a duration"),
        ("RECONCILE_START", "soon", "is neither a date nor a date-time"),
        ("RECONCILE_START", "2026-11-31", "there is no such date"),
        ("RECONCILE_MATCH_BEFORE", "0s", "is out of range (1s to 3660d)"),
        ("RECONCILE_MATCH_AFTER", "999ms", "is out of range (1s to 3660d)"),
        ("RECONCILE_DOUBT_BEFORE", "0s", "is out of range (1s to 3660d)"),
        ("RECONCILE_DOUBT_AFTER", "x", "is not a duration"),
        ("RECONCILE_DOUBTFUL", "stop", "'stop' is none of send"),
        ("RECONCILE_COPIES", "two", "'two' is none of billed, one"),
        ("RECONCILE_NOT_COUNTED", "send", "'send' is none of hold, push"),
        ("RECONCILE_ROW_LIMIT", "0", "is not a decimal amount above 0"),
        ("RECONCILE_ROW_LIMIT", "1e3", "is not a decimal amount above 0"),
        ("RECONCILE_WORKERS", "65", "is not a whole number from 1 to 64"),
        ("RECONCILE_DASK", "http://dask:8786", "is no address of a Dask scheduler"),
        ("RECONCILE_DASK", "dask", "is no address of a Dask scheduler"),
        ("RECONCILE_UNCOVERED", "send", "'send' is none of hold, push"),
        ("RECONCILE_LATE", "HOLD", "'HOLD' is none of hold, push"),
        ("RECONCILE_CONCURRENCY", "0", "'0' is not a whole number from 1 to 64"),
        ("RECONCILE_CONCURRENCY", "8.0", "is not a whole number"),
        ("RECONCILE_FAIL_ON", "held,lost", f"'lost' is none of {', '.join(ROW_CLASSES)}, duplicate, own, orphan"),
        ("RECONCILE_SLICE", "59s", "is out of range (1m to 7d)"),
        ("RECONCILE_SLICE", "8d", "is out of range (1m to 7d)"),
        ("RECONCILE_PAGE_SIZE", "10001", "is not a whole number from 1 to 10000"),
        ("RECONCILE_TIMEOUT", "0s", "is out of range (1s to 1h)"),
        ("RECONCILE_RECHECK", "forever", "is not a duration"),
        ("RECONCILE_EVENTS_STORE", "mysql", "is none of auto, postgres, clickhouse"),
        ("RECONCILE_VISIBLE_WITHIN", "2d", "is out of range (0s to 1d)"),
        ("RECONCILE_EXCLUDE", "failure", "'failure' is none of cache_hit, zero_cost"),
        ("RECONCILE_PUSH_DOUBTFUL", "orphan", "'orphan' is none of mismatched, misdirected"),
        ("RECONCILE_PROPERTIES", "cost", "'cost' is none of model, response_cost"),
        ("RECONCILE_PROPERTIES", "model,model=m", "'model=m' names a property twice"),
        ("RECONCILE_PROPERTIES", "model=x,request_id=x", "'request_id=x' names a property twice"),
        ("RECONCILE_PROPERTIES", "model=request_id,request_id", "'request_id' names a property twice"),
        ("RECONCILE_PROPERTIES", "model=", "gives no name to send model under"),
        ("RECONCILE_PROPERTIES", ",", "names no property"),
        ("RECONCILE_PRECISE_AMOUNT", "0", "is not a decimal factor above 0"),
        ("RECONCILE_PRECISE_AMOUNT", "1e2", "is not a decimal factor above 0"),
        ("RECONCILE_PRECISE_AMOUNT", "NaN", "is not a decimal factor above 0"),
        ("RECONCILE_PRECISE_AMOUNT", "on", "is not a decimal factor above 0"),
        ("RECONCILE_LANG", "de", "is none of en, zh-CN"),
        ("RECONCILE_LOG_LEVEL", "loud", "is none of debug, info, warning, error"),
        ("RECONCILE_LOG_FORMAT", "xml", "is none of auto, human, json"),
        ("RECONCILE_ALERT_WEBHOOK", "hooks.slack.com/services/T", "is not an http:// or https:// address"),
        ("RECONCILE_ALERT_WEBHOOK", "https://hooks/a b", "is not an http:// or https:// address"),
        ("RECONCILE_HEARTBEAT_URL", "hc-ping.com/0d6ae2f5", "is not an http:// or https:// address"),
        ("RECONCILE_ALERT_EMAIL_TO", "ops@example.com,finance", "'finance' is not an e-mail address"),
        ("RECONCILE_ALERT_EMAIL_FROM", "a@b.example,c@d.example", "is not an e-mail address"),
        ("RECONCILE_SMTP_URL", "mail.example:25", "is not a mail server"),
        ("RECONCILE_SMTP_URL", "smtp://me@mail.example", "a user without a password"),
        ("RECONCILE_SMTP_URL", "smtp://me:pa/ss@mail.example", "is not a mail server"),
        ("RECONCILE_ALERT_ON", "lost", f"'lost' is none of {', '.join(ROW_CLASSES)}, duplicate, own, orphan"),
        ("RECONCILE_ALERT_ON", "held>5.00", "'held>5.00' is not a class, class>10 or class>5.00usd"),
        ("RECONCILE_ALERT_ON", "held>-1", "is not a class"),
        ("RECONCILE_ALERT_OVERDUE", "26", "'26' is not a duration"),
        ("RECONCILE_METRICS_ADDRESS", "9464", "is neither an address with a port"),
        ("RECONCILE_METRICS_ADDRESS", "127.0.0.1:70000", "is neither an address with a port"),
        ("RECONCILE_LANG", "a\nb" * 100, "'a\\nba\\nb"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line_with_the_name_and_a_right_example(
    name: str, value: str, says: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        load({name: value})
    message = str(refused.value)
    assert message.count("\n") == 0
    assert message.startswith(f"{name}: ")
    assert says in message
    example = re.fullmatch(rf".*; for example {name}=(.+)", message)
    assert example is not None
    load({name: example[1]})


def test_every_setting_with_a_rule_is_refused_somewhere_above() -> None:
    marks = test_a_wrong_value_is_refused_in_one_line_with_the_name_and_a_right_example.pytestmark  # type: ignore[attr-defined]  # set by pytest
    refused = {parameters[0] for mark in marks for parameters in mark.args[1]}
    assert refused == {setting.name for setting in settings.documentation()} - {
        "LAGO_API_EVENT_CODE",
        "RECONCILE_METRICS_TEXTFILE",
        "RECONCILE_OWN_IDS",
        *settings.PARTS,
    }


def test_several_problems_make_one_line_each() -> None:
    with pytest.raises(SettingsError) as refused:
        settings.load({"RECONCILE_LAG": "15"}, None)
    lines = str(refused.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == [*REQUIRED, "RECONCILE_LAG"]


@pytest.mark.parametrize(
    "environ",
    [
        {"DATABASE_URL": f"mysql://u:{PASSWORD}@db/x"},
        {"DATABASE_URL": f"postgresql://u:{PASSWORD}/@db/x"},
        {"DATABASE_URL": f"postgresql://u:{PASSWORD}@[db/x"},
        {"DATABASE_URL": f"postgresql://u@db/x?password={PASSWORD}%zz"},
        {"DATABASE_URL": f"postgresql://u:zq@x9!/{PASSWORD}#77@host/db"},
        {"RECONCILE_STATE_URL": f"{PASSWORD}"},
        {"LAGO_API_BASE": f"http://u:{PASSWORD}@lago"},
        {"LAGO_API_BASE": f"http://u:{PASSWORD}/@lago"},
        {"LAGO_API_KEY": f"{KEY}\u00e9"},
        {"RECONCILE_LAG": "x"},
        {"RECONCILE_ALERT_WEBHOOK": f"ftp://hooks/{KEY}"},
        {"RECONCILE_HEARTBEAT_URL": f"ftp://monitor/{KEY}"},
        {"RECONCILE_SMTP_URL": f"smtp://me:{PASSWORD}/@mail"},
    ],
)
def test_no_secret_in_an_error_nor_in_its_traceback(environ: dict[str, str]) -> None:
    with pytest.raises(SettingsError) as refused:
        load(environ)
    assert refused.value.__cause__ is refused.value.__context__ is None
    shown = "".join(traceback.format_exception(refused.value)) + repr(refused.value)
    assert PASSWORD not in shown
    assert KEY not in shown


# What is loaded


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("15m", 900),
        ("72h", 259_200),
        ("35d", 3_024_000),
        ("250ms", 0.25),
        ("1h30m", 5400),
        ("1d2h3m4s5ms", 93_784.005),
        ("0s", 0),
        ("5m5ms", 300.005),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert load({"RECONCILE_LAG": text}).lag == timedelta(seconds=seconds)


@unhurried
@given(st.timedeltas(min_value=timedelta(), max_value=timedelta(days=3660)))
def test_a_duration_s_text_reads_back(duration: timedelta) -> None:
    milliseconds = timedelta(milliseconds=duration // timedelta(milliseconds=1))
    assert parse_duration(duration_text(milliseconds)) == milliseconds


@pytest.mark.parametrize(
    ("given_address", "address"),
    [
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://localhost:3000/", "http://localhost:3000"),
        ("https://api.getlago.com/api/v1", "https://api.getlago.com"),
        ("https://api.getlago.com/api/v1//", "https://api.getlago.com"),
        ("HTTPS://API.getlago.com:443/", "https://api.getlago.com"),
        ("http://proxy/lago/api/v1/", "http://proxy/lago"),
        ("http://[::1]:3000/", "http://[::1]:3000"),
    ],
)
def test_the_lago_address_is_brought_to_one_form(given_address: str, address: str) -> None:
    assert load({"LAGO_API_BASE": given_address}).lago_api_base == address


def test_lists_properties_and_the_factor() -> None:
    loaded = load(
        {
            "RECONCILE_FAIL_ON": "held, orphan",
            "RECONCILE_EXCLUDE": "cache_hit",
            "RECONCILE_PUSH_DOUBTFUL": "mismatched,misdirected",
            "RECONCILE_PROPERTIES": "response_cost = cost, model",
            "RECONCILE_PRECISE_AMOUNT": "1.20",
            "RECONCILE_LOG_LEVEL": "DEBUG",
        }
    )
    assert loaded.fail_on == {"held", "orphan", "missing"}
    assert loaded.exclude == {"cache_hit"}
    assert loaded.push_doubtful == {"mismatched", "misdirected"}
    assert list(loaded.properties.items()) == [("response_cost", "cost"), ("model", "model")]
    assert loaded.precise_amount == Decimal("1.2")
    assert loaded.log_level == "debug"


def test_thresholds_of_alerts_are_counts_or_money() -> None:
    loaded = load({"RECONCILE_ALERT_ON": "missing, orphan > 10, held>5.00usd, excluded>0.5 USD, matched>7usd"})
    assert loaded.alert_on == (
        Threshold("missing", 0, None),
        Threshold("orphan", 10, None),
        Threshold("held", None, Decimal("5.00")),
        Threshold("excluded", None, Decimal("0.5")),
        Threshold("matched", None, Decimal(7)),
    )
    assert {threshold.kind for threshold in load().alert_on} == load().fail_on


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("smtp://mail", MailServer("mail", 25, encrypted=False)),
        ("smtp://me:p%40ss@mail", MailServer("mail", 587, encrypted=False, user="me", password="p@ss")),
        ("smtps://me:w@[::1]/", MailServer("::1", 465, encrypted=True, user="me", password="w")),
        ("smtp://mail:2525", MailServer("mail", 2525, encrypted=False)),
    ],
)
def test_forms_of_a_mail_server(url: str, expected: MailServer) -> None:
    assert load({"RECONCILE_SMTP_URL": url}).smtp == expected


def test_metrics_can_be_off() -> None:
    assert load().metrics_address == ListenAddress("127.0.0.1", 9464)
    assert load({"RECONCILE_METRICS_ADDRESS": "off"}).metrics_address is None
    assert load({"RECONCILE_METRICS_ADDRESS": "[::]:0"}).metrics_address == ListenAddress("::", 0)


def test_every_class_can_make_the_exit_code_1() -> None:
    every = {*ROW_CLASSES, *EVENT_CLASSES}
    assert load({"RECONCILE_FAIL_ON": ",".join(every)}).fail_on == every


def test_the_properties_are_the_event_s() -> None:
    assert settings.PROPERTIES == event.PROPERTIES


@pytest.mark.parametrize(
    ("charge_by", "column"),
    [
        ("end_user_id", "end_user"),
        ("user_id", "user"),
        ("team_id", "team_id"),
        ("organization_id", "organization_id"),
    ],
)
def test_the_column_of_each_charge_by(charge_by: str, column: str) -> None:
    assert load({"LAGO_API_CHARGE_BY": charge_by}).charge_column == column


def test_settings_cannot_be_changed() -> None:
    loaded: Any = load()
    with pytest.raises(ValidationError):
        loaded.lag = timedelta()
    with pytest.raises(AttributeError):
        loaded.database.schema = "x"


def test_settings_travel_to_another_process() -> None:
    loaded = load({"RECONCILE_TIMEZONE": "Asia/Shanghai"})
    assert pickle.loads(pickle.dumps(loaded)) == copy.deepcopy(loaded) == loaded


def test_no_form_of_the_settings_shows_a_secret() -> None:
    loaded = load(
        {
            "RECONCILE_STATE_URL": f"postgresql://job:{PASSWORD}@db/state?sslkey=k&sslpassword={PASSWORD}",
            "RECONCILE_ALERT_WEBHOOK": f"https://hooks.example/{KEY}",
            "RECONCILE_HEARTBEAT_URL": f"https://monitor.example/{KEY}",
            "RECONCILE_SMTP_URL": f"smtps://me:{PASSWORD}@mail.example",
        }
    )
    forms = [
        repr(loaded),
        str(loaded),
        str(loaded.model_dump()),
        loaded.model_dump_json(),
        str(loaded.public()),
    ]
    forms += [f"{loaded.state} {loaded.state!r} {loaded.state.display}"]
    for form in forms:
        assert PASSWORD not in form
        assert KEY not in form


def test_the_public_settings_are_all_but_the_secrets_and_read_back() -> None:
    loaded = load(
        {
            "RECONCILE_STATE_URL": f"postgresql://job:{PASSWORD}@db/state",
            "RECONCILE_PROPERTIES": "model,response_cost=cost",
            "RECONCILE_PRECISE_AMOUNT": "1.2",
            "RECONCILE_EXCLUDE": "zero_cost,cache_hit",
            "RECONCILE_FAIL_ON": "",
            "RECONCILE_TIMEZONE": "Europe/Berlin",
            "RECONCILE_ALERT_ON": "missing,orphan>10,held>5.00USD",
            "RECONCILE_ALERT_EMAIL_TO": "a@b.example, c@d.example",
            "RECONCILE_METRICS_ADDRESS": "[::1]:9464",
            "RECONCILE_START": "2026-12-01",
            "RECONCILE_OWN_IDS": "",
            "RECONCILE_ROW_LIMIT": "250.5",
            "RECONCILE_DOUBTFUL": "send",
        }
    )
    public = loaded.public()
    hidden = settings.SECRETS | settings.PARTS.keys()
    assert list(public) == [s.name for s in settings.documentation() if s.name not in hidden]
    assert public["DATABASE_URL"] == "postgresql://litellm@db.example:5432/litellm"
    assert public["RECONCILE_STATE_URL"] == "postgresql://job@db/state"
    assert load().public()["RECONCILE_STATE_URL"] == public["DATABASE_URL"]
    again = settings.load(public | {"LAGO_API_KEY": KEY}, None)
    different = {"database", "state_url"}  # their passwords are gone
    assert again.model_dump(exclude=different) == loaded.model_dump(exclude=different)


# Databases


PRISMA = (
    "connection_limit=1&pool_timeout=2&pgbouncer=true&socket_timeout=3&statement_cache_size=0&sslaccept=strict"
    "&sslidentity=client.p12&sslpassword=word&sslcert=ca.pem&schema=proxy"
)
LIBPQ = (
    "sslmode=require&sslrootcert=/ca.pem&connect_timeout=5&application_name=x&options=-c%20a%3Db"
    "&target_session_attrs=any"
)


def test_prisma_s_parameters_are_dropped_and_libpq_s_kept() -> None:
    parsed = database(f"postgres://u:p@h:1/db?{PRISMA}&{LIBPQ}")
    assert parsed.schema == "proxy"
    assert parsed.libpq == f"postgresql://u:p@h:1/db?{LIBPQ}"
    assert parsed.display == "postgresql://u@h:1/db?schema=proxy"


def test_names_of_both_worlds_are_libpq_s_beside_a_client_key() -> None:
    client = "sslcert=/c.pem&sslkey=/c.key&sslpassword=word"
    assert database(f"postgresql://h/db?{client}").libpq == f"postgresql://h/db?{client}"


@pytest.mark.parametrize(
    ("url", "libpq", "display"),
    [
        ("postgresql://u:p@h/db", None, "postgresql://u@h/db"),
        ("postgresql://u:p@h/db?", "postgresql://u:p@h/db", "postgresql://u@h/db"),
        ("postgresql://u:p%40%2F%25@h/db", None, "postgresql://u@h/db"),
        ("postgresql://u:p%40:w@h/db", "postgresql://u:p%40%3Aw@h/db", "postgresql://u@h/db"),
        ("postgresql://u:100%@h/db", "postgresql://u:100%25@h/db", "postgresql://u@h/db"),
        ("postgresql://a%40b:p@h/db", None, "postgresql://a%40b@h/db"),
        ("postgresql://u:p@[::1]:5433/db", None, "postgresql://u@[::1]:5433/db"),
        ("postgresql:///db?host=/run/pg&port=5433", None, "postgresql://%2Frun%2Fpg:5433/db"),
        ("postgresql://%2Frun%2Fpg/db", None, "postgresql://%2Frun%2Fpg/db"),
        ("postgresql://u:p@one:1,two:2/db", None, "postgresql://u@one:1,two:2/db"),
        ("postgresql://u:p@one,[::1]/db?port=5", None, "postgresql://u@one:5,[::1]:5/db"),
        ("postgresql://u@h/db?password=p&schema=", "postgresql://u@h/db?password=p", "postgresql://u@h/db"),
        (
            "postgresql://u@h/db?schema=my%20schema",
            "postgresql://u@h/db",
            "postgresql://u@h/db?schema=my%20schema",
        ),
        ("postgresql://h/db?ssl=true", None, "postgresql://h/db"),
        ("postgresql://h/%E6%95%B0", None, "postgresql://h/%E6%95%B0"),
    ],
)
def test_forms_of_a_database_url(url: str, libpq: str | None, display: str) -> None:
    parsed = database(url)
    assert parsed.libpq == (libpq or url)
    assert parsed.display == display
    assert psycopg.conninfo.conninfo_to_dict(parsed.libpq)  # libpq itself takes it
    assert same_place(parsed)


def same_place(parsed: settings.Database) -> bool:
    """SQLAlchemy's psycopg dialect makes the same connection parameters of its URL as libpq of its own."""
    url = make_url(parsed.sqlalchemy)
    _, connect = url.get_dialect()().create_connect_args(url)
    expected = psycopg.conninfo.conninfo_to_dict(parsed.libpq)
    if "," in str(expected.get("host")) and "," not in str(expected["port"]):
        expected["port"] = ",".join([str(expected["port"])] * len(str(expected["host"]).split(",")))
    return {k: str(v) for k, v in connect.items()} == {k: str(v) for k, v in expected.items()}


@unhurried
@given(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1),
)
def test_any_user_and_password_survive_and_no_password_is_shown(user: str, password: str) -> None:
    parsed = database(f"postgresql://{quote(user, safe='')}:{quote(password, safe='')}@h:5432/db")
    understood = psycopg.conninfo.conninfo_to_dict(parsed.libpq)
    assert (understood["user"], understood["password"]) == (user, password)
    assert same_place(parsed)
    assert parsed.display == f"postgresql://{quote(user, safe='')}@h:5432/db"


PARTS = {"DATABASE_HOST": "db", "DATABASE_USER": "litellm", "DATABASE_NAME": "proxy"}


def of_parts(**parts: str) -> settings.Database:
    return settings.load(WITHOUT_URL | PARTS | parts, None).database


def test_litellm_s_parts_are_taken_as_they_are() -> None:
    parsed = of_parts(
        DATABASE_PASSWORD="s3cr]et?p@w/%20",
        DATABASE_PORT="6432",
        DATABASE_SCHEMA="llm",
        DATABASE_SSLMODE="require",
    )
    assert psycopg.conninfo.conninfo_to_dict(parsed.libpq) == {
        "host": "db",
        "port": "6432",
        "user": "litellm",
        "password": "s3cr]et?p@w/%20",
        "dbname": "proxy",
        "sslmode": "require",
    }
    assert parsed.display == "postgresql://litellm@db:6432/proxy?schema=llm"
    assert same_place(parsed)


@unhurried
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
def test_any_password_part_survives_and_none_is_shown(password: str) -> None:
    hypothesis.assume(password.strip())
    parsed = of_parts(DATABASE_PASSWORD=password)
    assert psycopg.conninfo.conninfo_to_dict(parsed.libpq)["password"] == password
    assert parsed.display == "postgresql://litellm@db/proxy"


def test_forms_of_the_parts() -> None:
    assert of_parts(DATABASE_HOST="db:5433").libpq == "postgresql://litellm@db:5433/proxy"
    assert of_parts(DATABASE_HOST="::1", DATABASE_PORT="5433").libpq == "postgresql://litellm@[::1]:5433/proxy"
    assert of_parts(DATABASE_HOST="/run/pg").libpq == "postgresql://litellm@%2Frun%2Fpg/proxy"
    assert of_parts(DATABASE_USER="", DATABASE_USERNAME="other").libpq == "postgresql://other@db/proxy"
    assert of_parts(DATABASE_USERNAME="other").libpq == "postgresql://litellm@db/proxy"
    verified = of_parts(DATABASE_SSLROOTCERT="/ca.pem")
    assert psycopg.conninfo.conninfo_to_dict(verified.libpq)["sslmode"] == "verify-full"


def test_a_url_wins_over_the_parts_as_it_does_for_litellm(tmp_path: Path) -> None:
    assert load(PARTS).database.libpq == REQUIRED["DATABASE_URL"]
    dotenv = tmp_path / ".env"
    dotenv.write_text(f"DATABASE_URL={REQUIRED['DATABASE_URL']}\n")
    assert settings.load(WITHOUT_URL | PARTS, dotenv).database.libpq == REQUIRED["DATABASE_URL"]


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"DATABASE_NAME": ""}, "DATABASE_NAME: is not set, beside DATABASE_HOST"),
        ({"DATABASE_USER": ""}, "DATABASE_USER: is not set, beside DATABASE_HOST"),
        ({"DATABASE_HOST": ""}, "DATABASE_HOST: is not set, beside DATABASE_USER"),
        ({"DATABASE_PORT": "65536"}, "DATABASE_PORT: is not a port"),
        ({"DATABASE_HOST": "db:70000"}, "DATABASE_HOST: is not the name or address of a host"),
        ({"DATABASE_SSLMODE": "on"}, "DATABASE_SSLMODE: is none of disable"),
    ],
)
def test_a_wrong_or_missing_part_is_named(parts: dict[str, str], says: str) -> None:
    with pytest.raises(SettingsError) as refused:
        of_parts(DATABASE_PASSWORD=PASSWORD, **parts)
    assert str(refused.value).startswith(says)
    assert PASSWORD not in str(refused.value)


# Documentation


def test_every_example_and_every_default_is_right() -> None:
    for setting in settings.documentation():
        load({setting.name: setting.example})
        assert setting.meaning
        assert "|" not in setting.meaning + setting.example
        if setting.name in settings.PARTS:
            parts = {"DATABASE_HOST": "h", "DATABASE_NAME": "n", "DATABASE_USERNAME": "u"}
            plain = settings.load(WITHOUT_URL | parts, None)
            assert settings.load(WITHOUT_URL | parts | {setting.name: setting.example}, None) != plain
            assert settings.load({**WITHOUT_URL, setting.name: setting.default or "", **parts}, None).database.schema
        elif setting.default is not None:
            assert load({setting.name: setting.default}) == load()
            assert load({setting.name: setting.example}) != load()


def test_env_example_follows_the_code(tmp_path: Path) -> None:
    blocks = (ROOT / ".env.example").read_text(encoding="utf-8").split("\n\n")[1:]
    expected = []
    for setting in settings.documentation():
        line = f"# {setting.name}={setting.default}"
        if setting.default is None:
            line = f"{setting.name}={setting.example}"
        expected.append(f"# {setting.meaning.replace('`', '')}\n{line}")
    assert [block.strip() for block in blocks] == expected


def test_env_example_is_a_working_env_file(tmp_path: Path) -> None:
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    uncommented = re.sub(r"^# ([A-Z_]+=)", r"\1", text, flags=re.MULTILINE)
    assert uncommented != text
    dotenv = tmp_path / ".env"
    loaded = []
    for content in (text, uncommented):
        dotenv.write_text(content, encoding="utf-8")
        loaded.append(settings.load({}, dotenv))
    assert loaded[0] == loaded[1]
    assert loaded[0].event_code == "llm_usage"


def test_the_page_about_settings_follows_the_code() -> None:
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    table = [line for line in page.splitlines() if line.startswith("| `")]
    expected = []
    for setting in settings.documentation():
        default = f"`{setting.default}`" if setting.default else "empty"
        default = "required" if setting.default is None else default
        expected.append(f"| `{setting.name}` | {default} | {setting.meaning} | `{setting.example}` |")
    assert table == expected
    for name in (*ROW_CLASSES, *EVENT_CLASSES):
        assert f"`{name}`" in page

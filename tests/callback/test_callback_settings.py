"""What the callback reads from the proxy's environment, and what it refuses."""

from __future__ import annotations

from decimal import Decimal
from urllib.parse import urlsplit

import pytest

from reconcile.callback.settings import Refused, read
from reconcile.domain.event import PROPERTIES
from reconcile.errors import SettingsError
from reconcile.settings import load

from .conftest import environment


def refusal(**more: str) -> str:
    with pytest.raises(Refused) as refused:
        read({name: value for name, value in environment(**more).items() if value != "-"})
    return str(refused.value)


def test_litellms_own_four_names_are_enough() -> None:
    found = read(environment(LAGO_API_BASE="http://lago.example:3000/", LAGO_API_CHARGE_BY=""))
    assert (found.base, found.key) == ("http://lago.example:3000", "lago-secret-5b7c")
    assert found.shape.code == "llm_usage"
    assert found.shape.properties == tuple((name, name) for name in PROPERTIES)
    assert found.charge_column == "end_user"
    assert (found.exclude, found.start, found.store) == (frozenset(), None, "auto")


def test_what_is_missing_is_named_all_at_once() -> None:
    text = refusal(LAGO_API_BASE="-", LAGO_API_KEY="-", LAGO_API_EVENT_CODE="")
    assert "LAGO_API_BASE, LAGO_API_KEY, LAGO_API_EVENT_CODE" in text


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("LAGO_API_BASE", "lago.example", "is not the http:// or https:// address"),
        ("LAGO_API_BASE", "http://me:secret@lago.example", "LAGO_API_KEY"),
        ("LAGO_API_KEY", "two words", "HTTP header"),
        ("LAGO_API_CHARGE_BY", "org_id", "end_user_id, user_id, team_id, organization_id"),
        ("RECONCILE_ID_KIND", "external_customer_id", "nightly run sends every event"),
        ("RECONCILE_ID_KIND", "customer", "external_subscription_id, external_customer_id"),
        ("RECONCILE_EXCLUDE", "cache_hit,failures", "'failures' is none of cache_hit, zero_cost"),
        ("RECONCILE_PROPERTIES", "model,cost", "'cost' is none of model"),
        ("RECONCILE_PROPERTIES", "model=", "no name to send model under"),
        ("RECONCILE_PROPERTIES", "model=x,request_id=x", "twice"),
        ("RECONCILE_PRECISE_AMOUNT", "-1", "above 0"),
        ("RECONCILE_ROW_LIMIT", "much", "above 0"),
        ("RECONCILE_EVENTS_STORE", "mysql", "auto, postgres, clickhouse"),
        ("RECONCILE_START", "soon", "neither a date nor a date-time"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name_and_the_key_is_never_shown(name: str, value: str, said: str) -> None:
    text = refusal(**{name: value})
    assert f"{name}: " in text
    assert said in text
    assert "secret" not in text
    assert "two words" not in text


def test_a_zone_that_the_machine_does_not_know_is_refused() -> None:
    assert "RECONCILE_TIMEZONE: " in refusal(RECONCILE_START="2026-11-01", RECONCILE_TIMEZONE="Mars/Olympus")


def test_the_jobs_settings_about_events_are_honoured() -> None:
    found = read(
        environment(
            RECONCILE_EXCLUDE="zero_cost, cache_hit",
            RECONCILE_PROPERTIES="response_cost=cost,model",
            RECONCILE_PRECISE_AMOUNT="1.2",
            RECONCILE_ROW_LIMIT="250.5",
            RECONCILE_OWN_IDS="",
            RECONCILE_START="2026-11-01",
            RECONCILE_TIMEZONE="Europe/Berlin",
            RECONCILE_EVENTS_STORE="clickhouse",
        )
    )
    assert found.exclude == {"zero_cost", "cache_hit"}
    assert found.shape.properties == (("response_cost", "cost"), ("model", "model"))
    assert (found.shape.amount_factor, found.row_limit) == (Decimal("1.2"), Decimal("250.5"))
    assert found.own_ids == frozenset()
    assert found.start is not None
    assert found.start.isoformat() == "2026-10-31T23:00:00+00:00"
    assert found.store == "clickhouse"


def test_settings_that_concern_the_job_alone_are_left_to_it() -> None:
    assert read(environment(RECONCILE_LOOKBACK="never", RECONCILE_NEW_IN_2030="1")) == read(environment())


SAMPLES: list[dict[str, str]] = [
    {},
    {"LAGO_API_BASE": "https://Lago.example:443/api/v1/"},
    {"LAGO_API_BASE": "ftp://lago.example"},
    {"LAGO_API_BASE": "http://lago.example/?a=1"},
    {"LAGO_API_KEY": "schlüssel"},
    {"LAGO_API_CHARGE_BY": "organization_id"},
    {"LAGO_API_CHARGE_BY": "key"},
    {"RECONCILE_EXCLUDE": "zero_cost,"},
    {"RECONCILE_EXCLUDE": "zero"},
    {"RECONCILE_PROPERTIES": " model = m , response_cost"},
    {"RECONCILE_PROPERTIES": ","},
    {"RECONCILE_PROPERTIES": "model,model=x"},
    {"RECONCILE_PROPERTIES": "=x"},
    {"RECONCILE_PRECISE_AMOUNT": "0"},
    {"RECONCILE_PRECISE_AMOUNT": "1.25"},
    {"RECONCILE_PRECISE_AMOUNT": "1e3"},
    {"RECONCILE_ROW_LIMIT": "0.5"},
    {"RECONCILE_OWN_IDS": ""},
    {"RECONCILE_OWN_IDS": "a, b"},
    {"RECONCILE_START": "2026-11-20T10:00:00", "RECONCILE_TIMEZONE": "America/St_Johns"},
    {"RECONCILE_START": "2026-03-29T02:30:00", "RECONCILE_TIMEZONE": "Europe/Berlin"},
    {"RECONCILE_EVENTS_STORE": "clickhouse"},
    {"RECONCILE_EVENTS_STORE": "kafka"},
]


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_the_same_words_mean_to_the_callback_what_they_mean_to_the_job(sample: dict[str, str]) -> None:
    words = environment(**sample)
    try:
        job = load({**words, "DATABASE_URL": "postgresql://u:p@localhost/litellm"}, dotenv=None)
    except SettingsError:
        with pytest.raises(Refused):
            read(words)
        return
    callback = read(words)
    assert urlsplit(callback.base).hostname == urlsplit(job.lago_api_base).hostname
    assert urlsplit(callback.base).path == urlsplit(job.lago_api_base).path
    assert callback.key == job.lago_api_key.get_secret_value()
    assert callback.shape.code == job.event_code
    assert dict(callback.shape.properties) == job.properties
    assert callback.shape.amount_factor == job.precise_amount
    assert callback.exclude == job.exclude
    assert callback.own_ids == job.own_ids
    assert callback.row_limit == job.row_limit
    assert callback.start == job.start
    assert callback.store == job.events_store

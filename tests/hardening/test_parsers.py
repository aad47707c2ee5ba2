"""Parsers against arbitrary input: each takes it, or says in its own words what is wrong. Nothing else comes out."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from datetime import UTC
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconcile.domain import dates
from reconcile.domain.window import parse_range
from reconcile.errors import LagoFault, SettingsError, UsageError
from reconcile.lago import body, items, usage
from reconcile.lago.batch import Item, Settler
from reconcile.lago.clock import ServerClock
from reconcile.lago.events import EventShape, decoder
from reconcile.lago.http import Answer, following
from reconcile.settings import alerting, values
from reconcile.settings.database import database
from reconcile.unattended.schedule import cron_file

# The same examples in every run: who changes a parser finds no old weakness of it in a night's build.
QUICK = settings(max_examples=100, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
ZONES = [ZoneInfo(name) for name in ("UTC", "Pacific/Apia", "America/Havana", "Africa/Monrovia")]

# JSON that Python reads, deep enough to be odd, with numbers and texts that no other reader likes.
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(10**300, 10**310)
    | st.floats()
    | st.text(st.characters(codec=None))
    | st.sampled_from(
        ["active", "2025-11-20T00:00:00Z", "9999-12-31T23:59:59-12:00", "postgres", "\0", "\ud800", "1e400"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def known(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    """Objects in which names that somebody looks for stand before odd things."""
    return st.dictionaries(st.sampled_from(names), VALUES, max_size=len(names))


# --- what Lago says


@QUICK
@given(st.binary() | VALUES.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass")))
def test_any_body_is_an_object_that_can_be_stored_or_none(content: bytes) -> None:
    found = body.json_object(content)
    if found is not None:
        text = json.dumps(found, ensure_ascii=False)
        assert "\\u0000" not in text.replace("\\\\", "")
        text.encode()


@QUICK
@given(st.text(st.characters(codec=None)))
def test_what_is_shown_acts_on_no_terminal_and_is_one_line(text: str) -> None:
    assert body.shown(text).isprintable()


READERS: list[tuple[Callable[[dict[str, Any]], Any], tuple[str, ...]]] = [
    (items.read_organization, ("lago_id", "name", "events_store")),
    (items.read_subscription, ("lago_id", "external_id", "status", "started_at", "terminated_at", "plan_code")),
    (lambda found: items.read_plan(found, "llm"), ("code", "charges", "interval")),
    (items.read_charge, ("properties", "filters", "charge_model", "pay_in_advance")),
    (lambda found: items.read_metric({"code": "llm"} | found), ("filters", "field_name", "rounding_precision", "name")),
    (lambda found: usage._usage(found, "llm"), ("from_datetime", "to_datetime", "charges_usage", "amount_cents")),
    (lambda found: following(found, 1), ("meta",)),
    (lambda found: following({"meta": found}, 1), ("next_page", "total_pages")),
]


@pytest.mark.parametrize(("read", "names"), READERS)
def test_an_object_of_the_catalog_is_read_or_a_fault(read: Callable[[Any], Any], names: tuple[str, ...]) -> None:
    @QUICK
    @given(known(*names))
    def test(found: dict[str, Any]) -> None:
        with contextlib.suppress(LagoFault):
            read(found)

    test()


@QUICK
@given(
    known("transaction_id", "external_subscription_id", "code", "timestamp", "properties", "lago_id"), VALUES, VALUES
)
def test_any_event_is_read_or_a_fault(event: dict[str, Any], properties: Any, meta: Any) -> None:
    whole = {"timestamp": "2025-11-20T00:00:00Z", "properties": {"model": properties}} | event | {"code": "llm"}
    content = json.dumps({"events": [whole], "meta": meta}).encode("utf-8", "surrogatepass")
    for store in ("postgres", "clickhouse"):
        with contextlib.suppress(LagoFault):
            assert (
                decoder(EventShape(field_name="cost", aggregation="sum_agg", store=store)).page(content, "llm").listed
            )


@QUICK
@given(st.sampled_from([200, 400, 409, 413, 422]), VALUES, st.booleans())
def test_any_refusal_settles_its_item_or_splits_the_batch(status: int, details: Any, alone: bool) -> None:
    content = json.dumps({"error_details": details}).encode("utf-8", "surrogatepass")
    sent = [Item("a", b"{}"), Item("b", b"{}")][: 1 if alone else 2]
    left = Settler._read(Settler.__new__(Settler), Answer(status, content, ""), sent)
    open_items = [item for item in sent if item.status == "unknown"]
    assert sorted(id(item) for group in left for item in group) == sorted(map(id, open_items))
    assert not (alone and left)
    for item in sent:
        assert (item.reason or "").isprintable()


@QUICK
@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, [0-9]{1,2} [A-Z][a-z]{2} [0-9]{1,5} [0-9:]{1,9} [-+A-Z0-9]{1,6}"))
def test_any_date_header(text: str) -> None:
    ServerClock().saw(text, 1.0, 2.0)


# --- what operators write


DAY = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
TIME = r"[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.,][0-9]{1,12})?)?([Zz]|[+-][0-9]{2}(:?[0-9]{2})?)?"


@QUICK
@given(st.text() | st.from_regex(f"{DAY}({TIME})?", fullmatch=True), st.sampled_from(ZONES))
def test_any_date_is_an_instant_or_wrong(text: str, zone: ZoneInfo) -> None:
    with contextlib.suppress(ValueError):
        found = dates.parse(text, zone)
        assert found.utcoffset() is not None
        assert 1969 <= found.year <= 2200
        with contextlib.suppress(UsageError):
            assert parse_range(text, text, zone).start == found


@QUICK
@given(st.text(min_size=8), st.sampled_from(["postgresql://", "smtp://", "http://", "https://", ""]))
def test_any_address_is_read_or_wrong_and_stands_in_no_message(text: str, scheme: str) -> None:
    for parse in (database, values.lago_address, alerting.mail_server, alerting.secret_address):
        said = ""
        try:
            parse(scheme + text)
        except ValueError as error:
            said = str(error)
        assert text not in said


@QUICK
@given(st.text())
def test_any_setting_is_read_or_wrong(text: str) -> None:
    parsers: list[Callable[[str], Any]] = [
        values.parse_duration, values.whole_number(1, 9), values.time_zone, values.properties, values.api_key,
        values.number_above_0("amount"), values.names, alerting.thresholds("held"), alerting.mailboxes,
        lambda text: values.start(text, UTC),
    ]  # fmt: skip
    for parse in parsers:
        with contextlib.suppress(ValueError):
            parse(text)


WORDS = [
    *("jobs:", "a:", "  b: ", "&x ", "*x", "<<: *x", "[", "]", "{", "}", "? ", ": ", "- ", "\n", "\n  ", "!!int "),
    *("!!python/object:os.system ", "2026-99-99", "0x", "1_0", "1:99", ".inf", "null", "'* * * * *'", "command: run"),
]
YAML = st.text() | st.lists(st.sampled_from(WORDS), max_size=14).map("".join)


@QUICK
@given(YAML)
def test_any_cron_file_is_read_or_wrong(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cron.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with contextlib.suppress(SettingsError):
        cron_file.load(path)


NAMES = "abcdefghij"
LAUGHS = "jobs:\n  a: &a [1]\n" + "".join(
    f"  {name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in pairwise(NAMES)
)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (LAUGHS, "repeats itself too often"),
        ("jobs: &x\n  a: *x\n", "holds itself"),
        ("[" * 5_000, "nested too deep|is not YAML"),
        ("jobs:\n  ? [a, b]\n  : c\n", ":2: a key is a list or a mapping"),
        ("jobs: 2026-99-99\n", "cannot be read: month must be in 1..12"),
        ("jobs: " + "9" * 5_000, "cannot be read"),
        ("jobs: !!int\n", "cannot be read"),
    ],
    ids=["a billion laughs", "itself", "depth", "keys", "no month", "a long number", "no number"],
)
def test_a_cron_file_that_means_harm(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "cron.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=what):
        cron_file.load(path)

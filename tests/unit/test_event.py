"""The event of a row: the same bytes on any machine, on any day, for ever. The golden values here never change."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconcile.domain.event import (
    OWN_ID,
    PROPERTIES,
    Shape,
    bare_model,
    event,
    timestamp,
    transaction_id,
    transaction_ids,
)
from reconcile.domain.event_frames import bare_models, build

quick = settings(deadline=None, max_examples=200)

GOLDEN_IDS = {
    ("llm_usage", "team-a", "chatcmpl-1", 1_795_000_000_000): "llm_d2af0bd27ecca069297f607722c18bd7",
    ("llm_usage", "team-a", "chatcmpl-1", 1_795_000_000_001): "llm_1a988a28d8f671271ffd673f86de2b94",
    ("llm_usage", "team-b", "chatcmpl-1", 1_795_000_000_000): "llm_4ab0e520331b8f51399fe921456879c8",
    ("openai_tokens", "team-a", "chatcmpl-1", 1_795_000_000_000): "llm_fff8ee87054581e02a976bec8893bd1d",
    ("llm_usage", "équipe-a", "请求-1", 1_795_000_000_123): "llm_a75991382d1239951d2933f3ea8d1fce",
    ("llm_usage", "ab", "c", 1): "llm_dba0af678e98122930c8ad323ffca824",
    ("llm_usage", "a", "bc", 1): "llm_cdd6ce075f63ef407326e8232cd13fee",
    ("llm_usage", "", "", 0): "llm_793378afb576efaa8895999da01b0c03",
}

GOLDEN_ROWS: list[dict[str, Any]] = [
    {
        "transaction_id": "llm_d2af0bd27ecca069297f607722c18bd7",
        "subscription_id": "team-a",
        "request_id": "chatcmpl-1",
        "bare_model": "gpt-4o-mini",
        "usage_ms": 1_795_000_003_007,
        "spend": 5.1e-06,
        "prompt_tokens": 14,
        "completion_tokens": 5,
        "total_tokens": 19,
    },
    {
        "transaction_id": "llm_a75991382d1239951d2933f3ea8d1fce",
        "subscription_id": "équipe-a",
        "request_id": "请求-1",
        "bare_model": "meta-llama/Llama-3-8b",
        "usage_ms": 1_795_000_000_000,
        "spend": 0.0,
        "prompt_tokens": 2_000_000_000,
        "completion_tokens": 0,
        "total_tokens": 2_000_000_000,
    },
]

GOLDEN_EVENTS = """\
{"code": "llm_usage", "external_subscription_id": "team-a", "properties": {"completion_tokens": "5", \
"input_tokens": "14", "model": "gpt-4o-mini", "output_tokens": "5", "prompt_tokens": "14", \
"request_id": "chatcmpl-1", "response_cost": "0.0000051", "total_tokens": "19"}, \
"timestamp": "1795000003.0072", "transaction_id": "llm_d2af0bd27ecca069297f607722c18bd7"}
{"code": "llm_usage", "external_subscription_id": "\\u00e9quipe-a", "properties": {"completion_tokens": "0", \
"input_tokens": "2000000000", "model": "meta-llama/Llama-3-8b", "output_tokens": "0", \
"prompt_tokens": "2000000000", "request_id": "\\u8bf7\\u6c42-1", "response_cost": "0", \
"total_tokens": "2000000000"}, "timestamp": "1795000000.0002", \
"transaction_id": "llm_a75991382d1239951d2933f3ea8d1fce"}
"""

ELSEWHERE = """
import json, sys
import pandas as pd
from reconcile.domain.event import Shape, transaction_id
from reconcile.domain.event_frames import build
keys, rows = json.load(sys.stdin)
for key in keys:
    print(transaction_id(*key))
for event in build(pd.DataFrame(rows), Shape("llm_usage")):
    print(json.dumps(event, sort_keys=True))
"""


def rows(*changes: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame([GOLDEN_ROWS[0] | change for change in changes or ({},)])


@pytest.mark.parametrize(("key", "expected"), GOLDEN_IDS.items())
def test_golden_ids(key: tuple[str, str, str, int], expected: str) -> None:
    assert transaction_id(*key) == expected
    assert OWN_ID.fullmatch(expected)


def test_golden_events() -> None:
    events = build(pd.DataFrame(GOLDEN_ROWS), Shape("llm_usage"))
    assert "".join(json.dumps(event, sort_keys=True) + "\n" for event in events) == GOLDEN_EVENTS


def test_the_order_of_the_keys_is_golden_too() -> None:
    (event,) = build(rows(), Shape("llm_usage"))
    assert list(event) == ["transaction_id", "external_subscription_id", "code", "timestamp", "properties"]
    assert list(event["properties"]) == list(PROPERTIES)


@pytest.mark.parametrize(
    "environment",
    [
        {"TZ": "UTC", "PYTHONHASHSEED": "0", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "utf-8"},
        {"TZ": "Pacific/Apia", "PYTHONHASHSEED": "1", "LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"},
        {"TZ": "America/St_Johns", "PYTHONHASHSEED": "4294967295", "LC_ALL": "tr_TR.UTF-8", "PYTHONUTF8": "1"},
    ],
    ids=lambda environment: environment["TZ"],
)
def test_the_same_bytes_in_any_environment(environment: dict[str, str]) -> None:
    """In a fresh process; where the machine has no Turkish locale, the C library takes C for it."""
    answer = subprocess.run(
        [sys.executable, "-c", ELSEWHERE],
        input=json.dumps([list(GOLDEN_IDS), GOLDEN_ROWS]),
        env={"PATH": os.environ.get("PATH", "")} | environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
        timeout=60,
    )
    assert answer.stdout == "".join(f"{name}\n" for name in GOLDEN_IDS.values()) + GOLDEN_EVENTS


texts = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(
    ["", "a", "ab", "1", "11", ":", "1:a", "é", "e\u0301", "ß", "ss", "İ", "i", " ", "\x00"]
)
keys = st.tuples(texts, texts, texts, st.integers(0, 3) | st.integers(0, 2**42))


@quick
@given(st.lists(keys, unique=True, min_size=2, max_size=8))
def test_different_input_gives_different_ids(many: list[tuple[str, str, str, int]]) -> None:
    ids = [transaction_id(*key) for key in many]
    assert len(set(ids)) == len(many)
    assert ids == [transaction_id(*key) for key in many]
    assert all(OWN_ID.fullmatch(name) for name in ids)


@quick
@given(st.text(st.sampled_from("ab1:|\x00é"), max_size=7), st.data())
def test_no_shift_of_a_boundary_gives_the_same_id(text: str, data: st.DataObject) -> None:
    """All ways to cut one text into code, charge ID and request ID."""
    cuts = itertools.combinations_with_replacement(range(len(text) + 1), 2)
    ids = [transaction_id(text[:i], text[i:j], text[j:], 1) for i, j in cuts]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("digits", ["1", "12", "123"])
def test_the_start_does_not_run_into_the_request_id(digits: str) -> None:
    ids = {transaction_id("c", "a", "r" + digits[:cut], int("9" + digits[cut:])) for cut in range(len(digits) + 1)}
    assert len(ids) == len(digits) + 1


def test_the_charge_by_setting_is_not_in_the_id() -> None:
    """One request with one charge ID has one ID per event code, whichever column the charge ID came from."""
    assert list(transaction_id.__annotations__) == ["code", "charge_id", "request_id", "start_ms", "return"]


@quick
@given(st.lists(st.tuples(texts, texts, st.integers(0, 2**42)), max_size=8))
def test_many_ids_at_once_are_the_same(parts: list[tuple[str, str, int]]) -> None:
    together = transaction_ids(
        "llm_usage",
        [charge for charge, _, _ in parts],
        [request for _, request, _ in parts],
        [at for _, _, at in parts],
    )
    assert together == [transaction_id("llm_usage", *part) for part in parts]


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        transaction_ids("llm_usage", ["a", "b"], ["r"], [1, 2])
    with pytest.raises(ValueError, match="zip"):
        bare_models(["openai/a", "openai/b"], ["openai"])


@pytest.mark.parametrize(
    ("usage_ms", "text"),
    [
        (0, "0.0002"),
        (7, "0.0072"),
        (999, "0.9992"),
        (1_000, "1.0002"),
        (1_795_000_003_070, "1795000003.0702"),
        (1_795_000_003_700, "1795000003.7002"),
        (253_402_300_799_999, "253402300799.9992"),
    ],
)
def test_timestamps(usage_ms: int, text: str) -> None:
    assert timestamp(usage_ms) == text


@quick
@given(st.integers(0, 253_402_300_799_999))
def test_a_timestamp_is_the_usage_time_to_the_millisecond(usage_ms: int) -> None:
    text = timestamp(usage_ms)
    assert re.fullmatch(r"\d+\.\d{3}2", text)
    assert Decimal(text) * 1000 == usage_ms + Decimal("0.2")
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=usage_ms)
    assert text.split(".")[1] == f"{moment.microsecond // 1000:03d}2"


@quick
@given(st.integers(0, 4_102_444_800_000))
def test_lago_stores_the_millisecond_that_was_sent(usage_ms: int) -> None:
    """It makes a double of the text; ClickHouse cuts what Ruby prints of that, Lago before 1.48 cut the double."""
    stored = float(timestamp(usage_ms))
    assert int(Decimal(repr(stored)) * 1000) == usage_ms
    assert int(stored * 1000) == usage_ms
    assert round(stored * 1000) == usage_ms


@pytest.mark.parametrize(
    ("model", "provider", "bare"),
    [
        ("openai/gpt-4o-mini", "openai", "gpt-4o-mini"),
        ("gpt-4o-mini", "openai", "gpt-4o-mini"),
        ("hosted_vllm/meta-llama/Llama-3-8b", "hosted_vllm", "meta-llama/Llama-3-8b"),
        ("openai/openai/x", "openai", "openai/x"),
        ("openai/responses/gpt-4o", "openai", "gpt-4o"),
        ("azure/responses/my-deployment", "azure", "my-deployment"),
        ("responses/gpt-4o", "openai", "gpt-4o"),
        ("responses/gpt-4o", "", "responses/gpt-4o"),
        ("openai/my/responses/x", "openai", "my/responses/x"),
        ("openai/gpt-4o", "", "openai/gpt-4o"),
        ("openai_like/gpt", "openai", "openai_like/gpt"),
        ("OpenAI/gpt", "openai", "OpenAI/gpt"),
        ("openai", "openai", "openai"),
        ("", "", ""),
        ("", "openai", ""),
    ],
)
def test_bare_models(model: str, provider: str, bare: str) -> None:
    assert bare_model(model, provider) == bare
    assert bare_models([model], [provider]) == [bare]


def test_bare_models_keep_their_places() -> None:
    models = ["openai/a", "b", "openai/a", "openai/a"]
    assert bare_models(models, ["openai", "x", "", "openai"]) == ["a", "b", "openai/a", "a"]


def test_renamed_and_reduced_properties() -> None:
    shape = Shape("c", properties=(("total_tokens", "tokens"), ("response_cost", "value"), ("model", "model")))
    (event,) = build(rows(), shape)
    assert event["properties"] == {"tokens": "19", "value": "0.0000051", "model": "gpt-4o-mini"}
    assert list(event["properties"]) == ["tokens", "value", "model"]
    assert event["code"] == "c"


def test_one_value_may_be_sent_under_two_names() -> None:
    shape = Shape("c", properties=(("total_tokens", "tokens"), ("total_tokens", "total")))
    (event,) = build(rows(), shape)
    assert event["properties"] == {"tokens": "19", "total": "19"}


def test_the_shape_does_not_touch_the_identity() -> None:
    (plain_event,) = build(rows(), Shape("llm_usage"))
    (other,) = build(rows(), Shape("llm_usage", properties=(("model", "m"),), amount_factor=Decimal(2)))
    for name in ("transaction_id", "external_subscription_id", "code", "timestamp"):
        assert other[name] == plain_event[name]


@pytest.mark.parametrize(
    ("spend", "factor", "cents"),
    [
        (5.1e-06, "1", "0.00051"),
        (0.1, "1.2", "12"),
        (0.0, "1.2", "0"),
        (12.34, "1", "1234"),
        (1e-05, "0.5", "0.0005"),
        (0.12345678901234568, "1.15", "14.1975307364197532"),
    ],
)
def test_the_amount_in_cents_for_dynamic_charges(spend: float, factor: str, cents: str) -> None:
    (event,) = build(rows({"spend": spend}), Shape("c", amount_factor=Decimal(factor)))
    assert event["precise_total_amount_cents"] == cents
    assert "precise_total_amount_cents" not in build(rows({"spend": spend}), Shape("c"))[0]


def test_every_value_is_a_plain_string() -> None:
    (event,) = build(rows({"spend": 1e-300}), Shape("c", amount_factor=Decimal("1e-30")))
    texts = [event["precise_total_amount_cents"], event["timestamp"]]
    texts += [event["properties"][name] for name in PROPERTIES if name not in ("model", "request_id")]
    assert all(re.fullmatch(r"\d+(\.\d+)?", text) for text in texts)


def test_events_stand_in_the_order_of_their_rows() -> None:
    many = rows(*({"request_id": f"r{i}"} for i in (3, 1, 2)))
    assert [event["properties"]["request_id"] for event in build(many, Shape("c"))] == ["r3", "r1", "r2"]
    assert build(many.iloc[:0], Shape("c")) == []


amounts = st.floats(0, allow_nan=False, allow_infinity=False)
counts = st.integers(0, 2**53)


@quick
@given(
    st.lists(st.tuples(texts, texts, texts, texts, st.integers(0, 2**42), amounts, counts, counts, counts), max_size=5)
)
def test_a_frame_gives_the_events_of_its_rows(many: list[tuple[Any, ...]]) -> None:
    names = ("transaction_id", "subscription_id", "request_id", "model", "usage_ms", "spend")
    names += ("prompt_tokens", "completion_tokens", "total_tokens")
    shape = Shape("c", amount_factor=Decimal("1.2"))
    frame = pd.DataFrame(many, columns=[*names]).rename(columns={"model": "bare_model"})
    assert build(frame, shape) == [event(shape, **dict(zip(names, values, strict=True))) for values in many]


def test_an_event_is_made_without_pandas_or_numpy() -> None:
    """A LiteLLM proxy makes events too, and has neither."""
    code = "import sys; import reconcile.domain.event; print({'pandas', 'numpy', 'pyarrow'} & {*sys.modules})"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout.strip() == "set()"

"""The callback's event is the job's event of the same row, and is made of the same rows."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import psycopg
import pytest

from reconcile.callback.row_event import JOB_CALLS, Left, Made, event_of, milliseconds
from reconcile.domain import event_frames
from reconcile.domain.event import Shape, bare_model, transaction_id

from .conftest import END, row, settings


def made(spend: float = 0.0000054, charge_by: str = "team_id", **more: Any) -> Made:
    found = event_of(row(**more), spend, settings(LAGO_API_CHARGE_BY=charge_by))
    assert isinstance(found, Made)
    return found


def test_the_event_has_golden_bytes() -> None:
    assert json.dumps(made().event) == (
        '{"transaction_id": "llm_9143d9966c6d851d4f4925e4016c3e26", "external_subscription_id": "team-a", '
        '"code": "llm_usage", "timestamp": "1795168802.3462", "properties": {"model": "gpt-4o-mini", '
        '"response_cost": "0.0000054", "prompt_tokens": "12", "completion_tokens": "6", "total_tokens": "18", '
        '"input_tokens": "12", "output_tokens": "6", "request_id": "chatcmpl-1"}}'
    )


@pytest.mark.parametrize(
    ("charge_by", "charge_id"),
    [("team_id", "team-a"), ("user_id", "user-1"), ("end_user_id", "customer-1"), ("organization_id", "org-x")],
)
def test_the_charge_id_is_the_rows_column(charge_by: str, charge_id: str) -> None:
    assert made(charge_by=charge_by).event["external_subscription_id"] == charge_id


@pytest.mark.parametrize("spend", [0.0, 5.1e-07, 0.1 + 0.2, 12.0])
@pytest.mark.parametrize("model", [("openai/responses/gpt-4o", "openai"), ("gpt-4o", ""), ("", "")])
def test_it_is_what_the_job_makes_of_the_written_row(spend: float, model: tuple[str, str], database_url: str) -> None:
    payload = row(model=model[0], custom_llm_provider=model[1], request_id="chatcmpl-ü")
    with psycopg.connect(database_url) as connection:
        text = json.dumps({**payload, "spend": spend, "api_key": ""}, default=lambda moment: moment.isoformat())
        columns = ", ".join(f'"{name}"' for name in json.loads(text))
        connection.execute(
            f'INSERT INTO "LiteLLM_SpendLogs" ({columns}) SELECT {columns} '
            'FROM jsonb_populate_recordset(NULL::"LiteLLM_SpendLogs", %s::jsonb)',
            [f"[{text}]"],
        )
        found = connection.execute(
            "SELECT request_id, team_id, model, custom_llm_provider, spend, prompt_tokens, completion_tokens, "
            'total_tokens, extract(epoch FROM "startTime") * 1000, extract(epoch FROM "endTime") * 1000 '
            'FROM "LiteLLM_SpendLogs"'
        ).fetchone()
    assert found is not None
    request_id, charge_id, name, provider, cost, prompt, completion, total, start_ms, usage_ms = found
    written = {
        "transaction_id": transaction_id("llm_usage", charge_id, request_id, int(start_ms)),
        "subscription_id": charge_id,
        "request_id": request_id,
        "bare_model": bare_model(name, provider),
        "usage_ms": int(usage_ms),
        "spend": cost,
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": total,
    }
    (job,) = event_frames.build(pd.DataFrame([written]), Shape("llm_usage"))
    ours = event_of(payload, spend, settings())
    assert isinstance(ours, Made)
    assert ours.event == job
    assert ours.usage_ms == usage_ms


def test_milliseconds_are_those_of_the_column(database_url: str) -> None:
    """`timestamp(3)` rounds half up, as text and as the microseconds that a driver sends."""
    moments = [END.replace(microsecond=micro) for micro in (0, 1, 499, 500, 501, 999_499, 999_500, 123_456, 345_500)]
    moments += [datetime(2024, 2, 29, 23, 59, 59, 999_500, tzinfo=UTC)]
    with psycopg.connect(database_url) as connection:
        connection.execute("CREATE TEMPORARY TABLE times (place int, written timestamp(3))")
        for place, moment in enumerate(moments):
            text, naive = moment.isoformat(), moment.replace(tzinfo=None)
            connection.execute(
                "INSERT INTO times VALUES (%s, %s::text::timestamp), (%s, %s)", [place, text, place, naive]
            )
        found = connection.execute("SELECT place, extract(epoch FROM written) * 1000 FROM times").fetchall()
    assert len(found) == 2 * len(moments)
    for place, written in found:
        assert milliseconds(moments[place]) == written, moments[place]


def test_milliseconds_do_not_depend_on_the_zone_of_the_text() -> None:
    elsewhere = END.astimezone(tz=datetime.fromisoformat("2026-01-01T00:00:00+05:30").tzinfo)
    assert milliseconds(elsewhere) == milliseconds(END)


NIGHT: dict[str, tuple[dict[str, Any], float, Left]] = {
    "a failure": ({"status": "failure"}, 0.5, Left.FAILURE),
    "no charge ID": ({"team_id": ""}, 0.5, Left.NO_CHARGE_ID),
    "a null charge ID": ({"team_id": None}, 0.5, Left.NO_CHARGE_ID),
    "the house": ({"team_id": "litellm-dashboard"}, 0.5, Left.OWN),
    "NaN": ({}, float("nan"), Left.INVALID_SPEND),
    "infinite": ({}, float("inf"), Left.INVALID_SPEND),
    "negative": ({}, -0.5, Left.INVALID_SPEND),
    "over the limit": ({}, 1000.01, Left.OVER_LIMIT),
    "a batch by its ID": ({"request_id": "batch_1_batch_cost"}, 0.5, Left.JOB),
    "a background response by its ID": ({"request_id": "resp_1_background_cost"}, 0.5, Left.JOB),
    "a video by its ID": ({"request_id": "video_1_video_cost"}, 0.5, Left.JOB),
    **{call: ({"call_type": call}, 0.5, Left.JOB) for call in sorted(JOB_CALLS)},
}


@pytest.mark.parametrize("case", NIGHT)
def test_what_the_night_decides_is_left_to_it(case: str) -> None:
    more, spend, reason = NIGHT[case]
    assert event_of(row(**more), spend, settings()) is reason


@pytest.mark.parametrize("more", [{}, {"status": None}, {"status": ""}, {"cache_hit": "True"}])
@pytest.mark.parametrize("spend", [0.0, 1000.0])
def test_what_bills_is_sent(more: dict[str, Any], spend: float) -> None:
    assert isinstance(event_of(row(**more), spend, settings()), Made)


def test_what_the_operator_excludes_is_not_sent() -> None:
    both = settings(RECONCILE_EXCLUDE="cache_hit,zero_cost")
    assert event_of(row(cache_hit="True"), 0.5, both) is Left.CACHE_HIT
    assert event_of(row(), 0.0, both) is Left.ZERO_COST
    assert isinstance(event_of(row(), 0.5, both), Made)


def test_the_streams_start_is_exact() -> None:
    start = settings(RECONCILE_START="2026-11-20T10:00:02.346Z")
    assert isinstance(event_of(row(), 0.5, start), Made)  # .345678 is written as .346
    assert event_of(row(endTime=END - timedelta(milliseconds=1)), 0.5, start) is Left.BEFORE_START


def test_renamed_properties_and_exact_amounts_are_sent() -> None:
    own = settings(RECONCILE_PROPERTIES="response_cost=cost,total_tokens", RECONCILE_PRECISE_AMOUNT="1.5")
    found = event_of(row(), 0.02, own)
    assert isinstance(found, Made)
    assert found.event["properties"] == {"cost": "0.02", "total_tokens": "18"}
    assert found.event["precise_total_amount_cents"] == "3"

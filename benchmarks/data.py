"""The data: rows in LiteLLM's own table, and the events that its callback would have left in Lago.

Every row is billable, has a team with a subscription, and a usage time well inside its day, so that the right result of
each scenario is a number.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import psycopg

CODE = "llm_usage"
LAST_DAY = datetime(2026, 10, 31, tzinfo=UTC)  # long past, whatever day it is
LOST = "abs(mod(hashtextextended(request_id, 11), 100)) = 7"  # SQL: one row in a hundred, whose live event was lost

# A usage row as it looks since LiteLLM 1.80: short columns, and the metadata that make up most of its bytes.
_ROWS = """
INSERT INTO "LiteLLM_SpendLogs" (
    request_id, call_type, api_key, spend, total_tokens, prompt_tokens, completion_tokens, "startTime", "endTime",
    "completionStartTime", model, model_id, model_group, custom_llm_provider, api_base, "user", metadata, cache_hit,
    cache_key, request_tags, team_id, end_user, requester_ip_address, session_id, status, organization_id,
    request_duration_ms)
SELECT
    'chatcmpl-' || md5(day || 'r' || i), 'acompletion', md5('key' || key_number) || md5('yek' || key_number),
    (prompt * in_price + completion * out_price)::float8, prompt + completion, prompt, completion,
    ended - took, ended, ended - took / 2, model, md5(model), 'chat-' || provider, provider,
    'https://api.example.com/v1', 'user-' || i %% 5000,
    jsonb_build_object(
        'user_api_key', md5('key' || key_number) || md5('yek' || key_number),
        'user_api_key_alias', 'key-' || key_number, 'user_api_key_team_id', team,
        'user_api_key_user_id', 'user-' || i %% 5000, 'status', null, 'requester_ip_address', '10.0.0.' || i %% 255,
        'user_agent', 'OpenAI/Python 2.8.1', 'applied_guardrails', '[]'::jsonb, 'spend_logs_metadata', null,
        'usage_object', jsonb_build_object(
            'prompt_tokens', prompt, 'completion_tokens', completion, 'total_tokens', prompt + completion),
        'model_map_information', %(padding)s || md5(i::text)),
    'None', 'Cache OFF', '[]', team, 'customer-' || i %% 20000, '10.0.0.' || i %% 255, md5('s' || i), 'success',
    'org-' || i %% 7, (extract(epoch FROM took) * 1000)::int
FROM (
    SELECT i, %(day)s::text AS day,
        %(day)s::timestamp + interval '5 minutes'
            + make_interval(secs => round(i * 85800000.0 / %(rows)s) / 1000) AS ended,
        make_interval(secs => (200 + random() * 8000)::int / 1000.0) AS took,
        'team-' || lpad(floor(power(random(), 2) * %(teams)s)::text, 4, '0') AS team,
        (random() * 500)::int AS key_number, 1 + (random() * 4)::int AS which,
        -- One in twenty asks and answers what others do.
        CASE WHEN i %% 20 = 3 THEN 12 ELSE 5 + (random() * 4000)::int END AS prompt,
        CASE WHEN i %% 20 = 3 THEN 6 ELSE 1 + (random() * 800)::int END AS completion
    FROM generate_series(0, %(rows)s - 1) AS i OFFSET 0
) AS made
JOIN (VALUES
    (1, 'openai', 'openai/gpt-4o', 2.5e-6, 1e-5),
    (2, 'openai', 'openai/gpt-4o-mini', 1.5e-7, 6e-7),
    (3, 'anthropic', 'anthropic/claude-sonnet-4-20250514', 3e-6, 1.5e-5),
    (4, 'bedrock', 'bedrock/anthropic.claude-3-haiku-20240307-v1:0', 2.5e-7, 1.25e-6),
    (5, 'vertex_ai', 'vertex_ai/gemini-2.5-pro', 1.25e-6, 1e-5)
) AS models (number, provider, model, in_price, out_price) ON number = which
"""

# Stamped by Lago on arrival: milliseconds after the call's end, one in fifty up to 20 s. Newest first, as Lago lists.
_LIVE = """
SELECT floor(extract(epoch FROM arrived) * 1000)::bigint * 1000, json_build_object(
    'lago_id', gen_random_uuid(), 'transaction_id', gen_random_uuid(), 'lago_customer_id', null, 'code', %(code)s::text,
    'timestamp', to_char(arrived, 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), 'precise_total_amount_cents', null,
    'properties', json_build_object(
        'model', substr(model, length(custom_llm_provider) + 2), 'response_cost', spend,
        'prompt_tokens', prompt_tokens, 'completion_tokens', completion_tokens, 'total_tokens', total_tokens),
    'lago_subscription_id', null, 'external_subscription_id', team_id,
    'created_at', to_char(arrived, 'YYYY-MM-DD"T"HH24:MI:SS"Z"'))::text
FROM (
    SELECT *, date_trunc('milliseconds', "endTime" + CASE WHEN abs(hashtext(request_id)) %% 50 = 0
        THEN make_interval(secs => 0.03 + abs(hashtext(request_id)) %% 20000 / 1000.0)
        ELSE make_interval(secs => 0.002 + abs(hashtext(request_id)) %% 26 / 1000.0) END) AS arrived
    FROM "LiteLLM_SpendLogs" WHERE {condition}
) AS live ORDER BY arrived DESC
"""


def subscription_names(count: int) -> list[str]:
    return [f"team-{number:04d}" for number in range(count)]


def span_of(rows: int, all_rows: int) -> timedelta:
    """How much of a day of `all_rows` rows holds the first `rows` of them."""
    if rows >= all_rows:
        return timedelta(days=1)
    return timedelta(minutes=5, milliseconds=int((rows - 0.5) * 85_800_000 / all_rows))


def fill(database_url: str, rows: int, days: int, *, teams: int, metadata: int) -> None:
    """Adds `rows` rows to each of `days` days, of which LAST_DAY is the last. `metadata`: bytes of it a row, about."""
    prices = (f"input_cost_per_token_{number}: {number * 7919 % 100_003}e-9, " for number in range(metadata // 30))
    padding = "".join(prices)[: max(metadata - 700, 0)]
    with psycopg.connect(database_url) as connection:
        connection.execute("SELECT setseed(0.42)")
        for number in range(days):
            day = f"{LAST_DAY - timedelta(days=number):%Y-%m-%d}"
            values = {"day": day, "rows": rows, "teams": teams, "padding": padding}
            connection.execute(_ROWS, values)
        connection.commit()
        connection.autocommit = True
        connection.execute('VACUUM (ANALYZE, FREEZE) "LiteLLM_SpendLogs"')


def count(database_url: str, condition: str) -> int:
    with psycopg.connect(database_url) as connection:
        found = connection.execute(f'SELECT count(*) FROM "LiteLLM_SpendLogs" WHERE {condition}').fetchone()
    assert found is not None
    return int(found[0])


def write_live_events(database_url: str, condition: str, file: Path) -> int:
    """Writes the live events of those rows as `benchmarks.lago` loads them; how many they are.

    The file holds their JSON, each with a comma behind it; beside it stand their times and lengths.
    """
    times: list[int] = []
    lengths: list[int] = []
    with (
        psycopg.connect(database_url) as connection,
        connection.cursor("events") as cursor,
        file.open("wb") as out,
    ):
        cursor.itersize = 20_000
        cursor.execute(_LIVE.format(condition=condition), {"code": CODE})
        for time_us, text in cursor:
            encoded = text.encode()
            out.write(encoded + b",")
            times.append(time_us)
            lengths.append(len(encoded) + 1)
    np.save(file.with_suffix(".npy"), np.array([times, lengths], np.int64).reshape(2, -1))
    return len(times)

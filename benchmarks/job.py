"""The whole job over real Postgres and the Lago stand-in: a month of rows, most of them billed live, then once more.

    python benchmarks/job.py --rows 1000000

Prints, for the first run and for the second (which finds nothing changed): seconds, CPU seconds of the job's own
process, its peak memory, requests to Lago, and the ratio of the two runs. The stand-in and Postgres share the machine,
so that the seconds say more about them than about the job; CPU seconds, memory and ratios are the job's own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from reconcile.sandbox.servers import sandbox

MONTH = datetime(2026, 10, 1, tzinfo=UTC)
DAYS = 31

ROWS = """
INSERT INTO "LiteLLM_SpendLogs" (
  request_id, call_type, spend, total_tokens, prompt_tokens, completion_tokens, "startTime", "endTime", model,
  model_group, custom_llm_provider, team_id, status, cache_hit
)
SELECT
  'chatcmpl-' || md5(i::text), 'acompletion',
  (i %% 5000 + 1) * 1.5e-7 + (i %% 1999 + 1) * 6e-7, i %% 5000 + i %% 1999 + 2,
  i %% 5000 + 1, i %% 1999 + 1, at - interval '1.2 second', at, 'openai/gpt-4o-mini', 'chat-fast', 'openai',
  'team-' || i %% %(teams)s, 'success', 'None'
FROM (SELECT i, %(begin)s::timestamp + i * %(step)s::interval AS at FROM generate_series(0, %(rows)s - 1) AS i) AS made
"""


def live_events(rows: int, teams: int, step: timedelta) -> Iterator[tuple[datetime, dict[str, Any]]]:
    """What LiteLLM's callback sent for all rows but every hundredth, 250 ms after each call's end."""
    for i in range(rows):
        if i % 100:
            prompt, completion = i % 5000 + 1, i % 1999 + 1
            yield (
                MONTH + i * step + timedelta(milliseconds=250),
                {
                    "transaction_id": f"{i:08x}-0000-4000-8000-{i:012x}",
                    "external_subscription_id": f"team-{i % teams}",
                    "code": "llm_usage",
                    "properties": {
                        "model": "gpt-4o-mini",
                        "response_cost": prompt * 1.5e-7 + completion * 6e-7,
                        "prompt_tokens": prompt,
                        "completion_tokens": completion,
                        "total_tokens": prompt + completion,
                    },
                },
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--teams", type=int, default=200)
    parser.add_argument("--no-live-events", action="store_true", help="an empty Lago: every row has to be sent")
    options = parser.parse_args()
    step = timedelta(days=DAYS) / options.rows // timedelta(milliseconds=1) * timedelta(milliseconds=1)
    with sandbox() as servers:
        begin = time.monotonic()
        with psycopg.connect(servers.environment["DATABASE_URL"]) as connection:
            values = {"teams": options.teams, "begin": MONTH.replace(tzinfo=None), "step": step, "rows": options.rows}
            connection.execute(ROWS, values)
            connection.commit()
            connection.autocommit = True
            connection.execute('VACUUM ANALYZE "LiteLLM_SpendLogs"')
        for number in range(options.teams):
            servers.organization.add_subscription(
                f"team-{number}",
                started_at=MONTH - timedelta(days=1),
                period=(MONTH - timedelta(days=1), MONTH + timedelta(days=400)),
            )
        if not options.no_live_events:
            servers.organization.seed_events(live_events(options.rows, options.teams, step))
        print(f"prepared {options.rows:,} rows in {time.monotonic() - begin:.0f} s", flush=True)
        runs = [measured(servers.environment) for _ in range(2)]
        first, second = runs
        print(f"second / first: {second['requests'] / first['requests']:.3f} of the requests, ", end="")
        print(f"{second['seconds'] / first['seconds']:.3f} of the seconds")


def measured(environment: dict[str, str]) -> dict[str, float]:
    command = [sys.executable, "-m", "reconcile", "backfill", "--json"]
    command += ["--from", f"{MONTH:%Y-%m-%d}", "--to", f"{MONTH + timedelta(days=DAYS - 1):%Y-%m-%d}"]
    begin = time.monotonic()
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL, env=os.environ | environment)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        document = json.loads(output.read())
    result = {
        "seconds": time.monotonic() - begin,
        "cpu": usage.ru_utime + usage.ru_stime,
        "memory": usage.ru_maxrss / 1024,
        "requests": document["method"]["requests"],
    }
    classes = {name: found["count"] for name, found in document["rows"].items() if found["count"]}
    print(
        f"exit {child.returncode}: {result['seconds']:.1f} s, {result['cpu']:.1f} s CPU, {result['memory']:.0f} MB, "
        f"{result['requests']:,} requests, {classes}, stages {document['method']['stage_seconds']}",
        flush=True,
    )
    return result


if __name__ == "__main__":
    main()

"""Rows that nobody would write: each is in a class, none takes another one along, and the bytes sent are exact."""

from __future__ import annotations

import string
from datetime import timedelta
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from acceptance.harness import Ran
from integration.spend_rows import DAY, row

from .conftest import Siege

pytestmark = pytest.mark.usefixtures("impatient")

HOUR = ("--from", "2025-11-20T00:00:00Z", "--to", "2025-11-20T01:00:00Z")
HALF_PAST = DAY + timedelta(minutes=30)
PLANES = "".join(chr(0x10000 * plane + 0x1234) for plane in range(17)) + "\U0010ffff\ufffe\ufeff"
FORMATS = [part for name in ("html", "xlsx", "csv", "json") for part in ("--format", name)]

ODD_CHARGE_IDS = [
    "None",
    "NULL",
    "nan",
    " ",
    "..",
    "../../admin?x=1#y%2e%00",
    "=cmd|'/c calc'!A1",
    "<script>alert(1)</script>{{7*7}}",
    "'\";DROP TABLE x--\\",
    '{a,b}\\"NULL',
    "\\u0000\\ud800",  # the letters, not the characters
    "\x01\x1b[31m\x7f\u202e\u2028",
    PLANES,
    "t" * 1_000_000,
]
ODD_REQUEST_IDS = ["None", "", "'\"\\{},NULL", PLANES, "a" * 1_900]
ODD_NUMBERS: list[dict[str, Any]] = [
    {"spend": 5e-324},
    {"spend": -0.0},
    {"spend": 0.1 + 0.2},
    {"prompt_tokens": 2**31 - 1, "completion_tokens": 2**31 - 1, "total_tokens": 2**31 - 1},
    {"model": "m" * 1_000_000},
    {"model": PLANES, "model_group": "\x1b]0;x\x07"},
]
SENT_NEVER: dict[str, dict[str, Any]] = {
    "NaN": {"spend": float("nan")},
    "infinite": {"spend": float("inf")},
    "negative": {"spend": -1.0},
    "beyond all prices": {"spend": 1e308},
}


def night(siege: Siege, command: str = "backfill") -> Ran:
    files = ("--output", str(siege.folder / "reports"), *FORMATS)
    return siege.run(command, "--json", *HOUR, *files, RECONCILE_ROW_LIMIT="999999999")


def random_id(length: int) -> str:
    return "".join(Random(length).choices(string.ascii_letters + string.digits, k=length))


def test_odd_rows_are_sent_once_to_the_byte(siege: Siege) -> None:
    """Twice over: held first, while nobody has a subscription, and then out of the ledger."""
    rows = [row(f"charge-{at}", HALF_PAST, team_id=name) for at, name in enumerate(ODD_CHARGE_IDS)]
    rows += [row(name, HALF_PAST) for name in ODD_REQUEST_IDS]
    rows += [row(f"number-{at}", HALF_PAST, **changes) for at, changes in enumerate(ODD_NUMBERS)]
    siege.add_rows(rows)
    siege.hostile.subscriptions.clear()
    ran = night(siege)
    assert (ran.code, ran.count("rows", "held")) == (1, len(rows)), ran.err
    siege.hostile.subscribe("team-a", *ODD_CHARGE_IDS)
    ran = night(siege)
    assert (ran.code, ran.count("rows", "delivered")) == (0, len(rows)), ran.err
    stored = {event["properties"]["request_id"]: event for event in siege.hostile.stored}
    assert len(stored) == len(siege.hostile.stored) == len(rows)
    for one in rows:
        event = stored[one["request_id"]]
        assert event["external_subscription_id"] == one["team_id"]
        assert event["properties"]["model"] == one["model"].removeprefix("openai/")
        assert Decimal(event["properties"]["response_cost"]) == Decimal(repr(abs(one["spend"])))
        assert event["properties"]["prompt_tokens"] == str(one["prompt_tokens"])
    assert night(siege).count("rows", "matched") == len(rows)
    human = siege.run("report", *HOUR)
    assert not [mark for mark in ("\x1b[31m", "\x1b]", "\u202e") if mark in human.out]


def test_a_row_that_cannot_be_sent_takes_none_along(siege: Siege) -> None:
    good = [row(f"r-{number}", DAY + timedelta(seconds=number)) for number in range(50)]
    # The organization's ID is as long as a real one: this is what the ledger's index cannot take beside it.
    siege.hostile.twist = lambda request, reply: (
        type(reply)(reply.status, reply.body.replace(b"org-1", b"7f3a6b0e-0000-4000-8000-000000000000"))
        if request.path == "/organizations"
        else reply
    )
    siege.add_rows(
        [
            *good,
            *(row(name, HALF_PAST, **changes) for name, changes in SENT_NEVER.items()),
            row(random_id(2_660), HALF_PAST),
            row(random_id(2_661), HALF_PAST, team_id="nobody"),
        ]
    )
    ran = night(siege)
    assert ran.code == 1, ran.err
    assert ran.document["reasons"]["rejected"] == {"invalid_spend": 3, "id_too_long": 2}
    assert ran.document["reasons"]["held"] == {"over_limit": 1}
    assert siege.hostile.billed() == {one["request_id"]: 1 for one in good}


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("4713-01-01 00:00:00 BC", "2025-11-20 00:30:00"),
        ("9999-12-31 23:59:59.999", "9999-12-31 23:59:59.999"),
        ("infinity", "infinity"),
        ("2025-11-20 00:30:00", "0001-01-01 00:00:00"),
        ("2025-11-20 00:30:00", "294276-12-31 23:59:59.999999"),
        ("2025-11-20 00:30:00", "infinity"),
        ("2025-11-20 00:30:00", "-infinity"),
    ],
)
def test_times_that_cannot_be_are_told_and_take_nothing_along(siege: Siege, start: str, end: str) -> None:
    """Their money is beyond what a sum of doubles holds."""
    siege.add_rows([row("r-1", DAY), *(row(f"never-{number}", HALF_PAST, spend=1.7e308) for number in range(2))])
    change = 'UPDATE "LiteLLM_SpendLogs" SET "startTime" = %s, "endTime" = %s WHERE request_id LIKE %s'
    siege.query(change, (start, end, "never-%"))
    ran = siege.backfill(*HOUR)
    assert (ran.code, ran.count("rows", "total")) == (0, 1), ran.err
    (finding,) = [one for one in ran.document["findings"] if one["kind"] == "unplaced_rows"]
    assert finding["count"] == 2
    assert siege.hostile.billed() == {"r-1": 1}


def test_daily_totals_beyond_every_number(siege: Siege) -> None:
    siege.add_rows([row("r-1", DAY + timedelta(hours=1), seconds=3_600)])
    siege.query('DELETE FROM "LiteLLM_DailyTeamSpend"')
    try:
        for number, spend in enumerate((1.7e308, 1.7e308, float("inf"), float("nan"))):
            siege.query(
                """INSERT INTO "LiteLLM_DailyTeamSpend" (id, team_id, date, api_key, model, spend, prompt_tokens,
                     completion_tokens, updated_at)
                   VALUES (%s, 'team-a', '2025-11-20', %s, 'm', %s, 9223372036854775807, 9223372036854775807, now())""",
                (str(number), str(number), spend),
            )
        ran = siege.run("report", "--json", "--from", "2025-11-20", "--to", "2025-11-20")
        assert (ran.code, ran.document["fault"]) == (1, None), ran.err
        assert ran.count("rows", "missing") == 1
    finally:
        siege.query('DELETE FROM "LiteLLM_DailyTeamSpend"')

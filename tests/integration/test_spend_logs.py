"""Reading LiteLLM's table at every age and in every layout: read only, with errors that name the cause."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pandas as pd
import psycopg
import pytest

from reconcile.domain import frames
from reconcile.domain.frames import empty
from reconcile.domain.intervals import on_grid
from reconcile.domain.window import Window
from reconcile.errors import DatabaseFault, PreflightError, ReconcileError
from reconcile.litellm.feed import RowFeed
from reconcile.litellm.spend_logs import SpendLogs, Unplaced
from reconcile.litellm.tables import DETAILS
from reconcile.sandbox.litellm_schema import insert_rows, migrate, partition
from reconcile.settings.database import database

from .spend_rows import DAY, row

OLDEST, WITH_STATUS = "20250326162113", "20250508072103"
YOUNGER = ("status", "organization_id")
WINDOW = Window(DAY, DAY + timedelta(days=1))
NOON = DAY + timedelta(hours=12)


@contextmanager
def opened(url: str, charge_column: str = "team_id") -> Iterator[SpendLogs]:
    found = database(url)
    with SpendLogs(found.libpq, found.schema, charge_column, found.display) as spend_logs:
        yield spend_logs


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def read(url: str, charge_column: str = "team_id") -> pd.DataFrame:
    with opened(url, charge_column) as spend_logs:
        spend_logs.preflight()
        with RowFeed(spend_logs, WINDOW, timedelta(hours=24)) as feed:
            found = feed.up_to(WINDOW.end)
    frames.check(found, frames.ROWS)
    return found.sort_values("request_id", ignore_index=True)


def test_the_columns_of_a_row(database_url: str) -> None:
    insert_rows(
        database_url,
        [row("r-1", NOON + timedelta(milliseconds=344), spend=5.1e-06, cache_hit="True", model_group=None)],
    )
    (found,) = read(database_url).to_dict("records")
    noon_ms = int(NOON.timestamp()) * 1000
    assert found == {
        "request_id": "r-1",
        "model": "openai/gpt-4o-mini",
        "model_group": "",
        "provider": "openai",
        "charge_id": "team-a",
        "subscription_id": "team-a",
        "status": "success",
        "cache_hit": "True",
        "call_type": "acompletion",
        "earlier_id": "",
        "earlier_sure": False,
        "scope": "window",
        "start_ms": noon_ms - 2_000 + 344,
        "usage_ms": noon_ms + 344,
        "spend": 5.1e-06,
        "prompt_tokens": 20,
        "completion_tokens": 10,
        "total_tokens": 30,
    }


@pytest.mark.parametrize(("upto", "lacks"), [(OLDEST, YOUNGER), (WITH_STATUS, ("organization_id",)), (None, ())])
def test_every_age_of_the_table(empty_database_url: str, upto: str | None, lacks: tuple[str, ...]) -> None:
    migrate(empty_database_url, upto)
    full = row("r-1", NOON)
    young = {name: value for name, value in full.items() if name not in lacks}
    insert_rows(empty_database_url, [young])
    (found,) = read(empty_database_url).to_dict("records")
    assert found["charge_id"] == "team-a"
    assert found["status"] == ("" if "status" in lacks else "success")
    if "organization_id" in lacks:
        with pytest.raises(PreflightError, match=r'has no column "organization_id".*LAGO_API_CHARGE_BY'):
            read(empty_database_url, "organization_id")
    else:
        assert read(empty_database_url, "organization_id")["charge_id"].tolist() == ["org-1"]


@pytest.mark.parametrize(
    ("column", "charge_id"),
    [("team_id", "team-a"), ("user", "user-1"), ("end_user", "customer-1"), ("organization_id", "org-1")],
)
def test_the_charge_column(database_url: str, column: str, charge_id: str) -> None:
    insert_rows(
        database_url,
        [row("r-1", NOON), row("r-2", NOON, **{column: ""}), row("r-3", NOON, **{column: None})],
    )
    assert read(database_url, column)["charge_id"].tolist() == [charge_id, "", ""]


def test_partitions(database_url: str) -> None:
    """Two rows may share a request ID there; LiteLLM's own default partition takes what no month takes."""
    insert_rows(database_url, [row("r-1", NOON)])
    partition(database_url, date(2025, 11, 1), date(2025, 11, 30))
    insert_rows(database_url, [row("r-1", NOON + timedelta(hours=1)), row("r-2", NOON)])
    assert read(database_url)["request_id"].tolist() == ["r-1", "r-1", "r-2"]


def test_the_table_from_before_the_partitions(database_url: str) -> None:
    """Rows that stand in both tables are read once."""
    partition(database_url, date(2025, 11, 1), date(2025, 11, 30))
    execute(database_url, 'CREATE TABLE "LiteLLM_SpendLogs_legacy" (LIKE "LiteLLM_SpendLogs" INCLUDING ALL)')
    insert_rows(database_url, [row("both", NOON), row("old", NOON)])
    execute(
        database_url,
        'INSERT INTO "LiteLLM_SpendLogs_legacy" SELECT * FROM "LiteLLM_SpendLogs"',
        """DELETE FROM "LiteLLM_SpendLogs" WHERE request_id = 'old'""",
    )
    insert_rows(database_url, [row("new", NOON)])
    assert read(database_url)["request_id"].tolist() == ["both", "new", "old"]
    with opened(database_url) as spend_logs:
        assert spend_logs.preflight().row_tables == ("LiteLLM_SpendLogs", "LiteLLM_SpendLogs_legacy")


def test_a_schema_of_its_own(database_url: str) -> None:
    insert_rows(database_url, [row("r-1", NOON)])
    execute(database_url, "CREATE SCHEMA proxy", 'ALTER TABLE "LiteLLM_SpendLogs" SET SCHEMA proxy')
    with pytest.raises(PreflightError, match='no table "LiteLLM_SpendLogs" in schema public'):
        read(database_url)
    assert read(database_url + "?schema=proxy&connection_limit=5&pool_timeout=3")["request_id"].tolist() == ["r-1"]


@pytest.mark.parametrize("column", ["spend", "endTime", "total_tokens"])
def test_a_missing_column_is_named(database_url: str, column: str) -> None:
    execute(database_url, f'ALTER TABLE "LiteLLM_SpendLogs" DROP COLUMN "{column}"')
    with pytest.raises(PreflightError, match=f'^DATABASE_URL: .*no column "{column}"'):
        read(database_url)


def test_a_missing_table_is_named(empty_database_url: str) -> None:
    with pytest.raises(PreflightError, match=r'no table "LiteLLM_SpendLogs".*\?schema=NAME'):
        read(empty_database_url)


@pytest.fixture
def guest(postgres_url: str, database_url: str) -> str:
    """The URL of a user who may connect, and has no rights."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS guest")
        connection.execute("CREATE ROLE guest LOGIN PASSWORD 'guest-secret'")
    parts = urlsplit(database_url)
    return urlunsplit(parts._replace(netloc=f"guest:guest-secret@{parts.hostname}:{parts.port}"))


def test_a_missing_grant_is_named(database_url: str, guest: str) -> None:
    with pytest.raises(PreflightError, match=r"LiteLLM_SpendLogs.*SELECT") as raised:
        read(guest)
    assert "guest-secret" not in str(raised.value)
    insert_rows(database_url, [row("r-1", NOON)])
    execute(database_url, 'GRANT SELECT (request_id) ON "LiteLLM_SpendLogs" TO guest')
    with pytest.raises(PreflightError, match="LiteLLM_SpendLogs"):
        read(guest)
    execute(database_url, 'GRANT SELECT ON "LiteLLM_SpendLogs" TO guest')
    assert read(guest)["request_id"].tolist() == ["r-1"]
    execute(database_url, "DROP OWNED BY guest")


@pytest.mark.parametrize("table", ["LiteLLM_SpendLogs", "LiteLLM_SpendLogs_legacy"])
def test_a_policy_that_hides_rows_is_named(database_url: str, guest: str, table: str) -> None:
    insert_rows(database_url, [row("r-1", NOON), row("r-2", NOON, team_id="team-b")])
    execute(
        database_url,
        'CREATE TABLE "LiteLLM_SpendLogs_legacy" (LIKE "LiteLLM_SpendLogs" INCLUDING ALL)',
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO guest",
    )
    assert len(read(guest)) == 2
    execute(
        database_url,
        f'ALTER TABLE "{table}" ENABLE ROW LEVEL SECURITY',
        f"""CREATE POLICY one_team ON "{table}" FOR SELECT TO guest USING (team_id = 'team-a')""",
    )
    with pytest.raises(PreflightError, match=f'row-level security hides rows of table "{table}".*BYPASSRLS') as raised:
        read(guest)
    assert raised.value.exit_code == 2
    assert "guest-secret" not in str(raised.value)
    execute(database_url, "ALTER ROLE guest BYPASSRLS")
    assert len(read(guest)) == 2
    execute(database_url, "DROP OWNED BY guest")


def test_a_policy_on_the_daily_totals_leaves_them_out(database_url: str, guest: str) -> None:
    execute(
        database_url,
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO guest",
        'ALTER TABLE "LiteLLM_DailyTeamSpend" ENABLE ROW LEVEL SECURITY',
    )
    with opened(guest) as spend_logs:
        assert spend_logs.daily_totals("2025-11-20", "2025-11-20") is None
        assert spend_logs.rows(WINDOW, WINDOW).empty
    execute(database_url, "DROP OWNED BY guest")


@pytest.mark.parametrize(
    ("change", "kind", "exit_code", "says"),
    [
        ({"netloc": "postgres:wrong-secret@{place}"}, PreflightError, 2, "password authentication failed"),
        ({"netloc": "nobody:wrong-secret@{place}"}, PreflightError, 2, "password authentication failed"),
        ({"path": "/no_such_database"}, PreflightError, 2, "does not exist"),
        ({"netloc": "postgres:wrong-secret@127.0.0.1:1"}, DatabaseFault, 3, "does not answer"),
        ({"netloc": "postgres:wrong-secret@no-such-host.invalid"}, DatabaseFault, 3, "does not answer"),
    ],
)
def test_a_wrong_answer_is_told_from_none(
    database_url: str, change: dict[str, str], kind: type[ReconcileError], exit_code: int, says: str
) -> None:
    parts = urlsplit(database_url)
    changed = {name: text.format(place=f"{parts.hostname}:{parts.port}") for name, text in change.items()}
    with pytest.raises(kind, match=f"^DATABASE_URL: .*{says}") as raised:
        read(urlunsplit(parts._replace(**changed)))
    assert raised.value.exit_code == exit_code
    assert "wrong-secret" not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "statement",
    [
        """DELETE FROM "LiteLLM_SpendLogs" WHERE request_id = 'r-1'""",
        """INSERT INTO "LiteLLM_SpendLogs" (request_id, call_type, "startTime", "endTime")
            VALUES ('r-2', '', now(), now())""",
        "CREATE SCHEMA reconcile",
    ],
)
def test_nothing_can_be_written(database_url: str, statement: str) -> None:
    insert_rows(database_url, [row("r-1", NOON)])
    with opened(database_url) as spend_logs:
        with pytest.raises(ReconcileError, match="read-only transaction"):
            spend_logs._connection.query(statement)
        assert spend_logs.rows(WINDOW, WINDOW)["request_id"].tolist() == ["r-1"]


def test_through_a_pooler(database_url: str, pgbouncer: Callable[[str], str]) -> None:
    insert_rows(database_url, [row(f"r-{number}", NOON + timedelta(seconds=number)) for number in range(20)])
    with opened(pgbouncer(database_url)) as one, opened(pgbouncer(database_url)) as another:
        for spend_logs in (one, another, one):
            assert spend_logs.preflight().row_tables == ("LiteLLM_SpendLogs",)
            assert len(spend_logs.rows(WINDOW, WINDOW)) == 20
            with pytest.raises(ReconcileError, match="read-only transaction"):
                spend_logs._connection.query('DELETE FROM "LiteLLM_SpendLogs"')
    assert len(read(database_url)) == 20


# --- every row in one slice, by its usage time

MOMENT = timedelta(milliseconds=1)
LONG = [
    row("nine-hours", DAY + timedelta(hours=3), seconds=9 * 3600),
    row("twenty-three-hours", DAY + timedelta(minutes=1), seconds=23 * 3600),
    row("into-the-next-day", DAY + timedelta(days=1, hours=1), seconds=9 * 3600),
    row("backwards", NOON, seconds=-1),
    row("backwards-by-five-minutes", DAY + timedelta(hours=1) - MOMENT, seconds=-299.999),
    row("backwards-over-the-end", DAY + timedelta(days=1) - MOMENT, seconds=-200),
    row("instant", NOON, seconds=0),
    row("first", DAY),
    row("before-the-first", DAY - MOMENT),
    row("last", DAY + timedelta(days=1) - MOMENT),
    row("after-the-last", DAY + timedelta(days=1)),
    *(row(f"hour-{hour}", DAY + timedelta(hours=hour)) for hour in range(24)),
]
OUTSIDE = {"into-the-next-day", "before-the-first", "after-the-last"}


@pytest.mark.parametrize("ahead", [False, True], ids=["when they are wanted", "ahead"])
@pytest.mark.parametrize("minutes", [7, 60, 1440, 10_080])
def test_each_row_is_in_the_slice_of_its_usage_time_once(database_url: str, minutes: int, ahead: bool) -> None:
    insert_rows(database_url, LONG)
    expected = {str(one["request_id"]): one["endTime"] for one in LONG if one["request_id"] not in OUTSIDE}
    found: dict[str, Window] = {}
    parts = on_grid(WINDOW, timedelta(minutes=minutes))
    with opened(database_url) as spend_logs, RowFeed(spend_logs, WINDOW, timedelta(hours=24)) as feed:
        for part, following in zip(parts, [*parts[1:], parts[-1]], strict=True):
            rows = feed.up_to(part.end)
            if ahead:
                feed.read_ahead(following.end)
                assert spend_logs.clock()  # its connection is free meanwhile
            frames.check(rows, frames.ROWS)
            given = rows["request_id"].tolist()
            assert not found.keys() & set(given)
            assert len(given) == len(set(given))
            found |= dict.fromkeys(given, part)
    assert found.keys() == expected.keys()
    for name, part in found.items():
        assert part.start <= expected[name] < part.end, name


def test_what_is_read_ahead_is_not_read_again(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    insert_rows(database_url, LONG)
    read: list[Window] = []
    reading = SpendLogs.read

    def noted(self: SpendLogs, starts: Window, usage: Window) -> Any:
        read.append(starts)
        return reading(self, starts, usage)

    monkeypatch.setattr(SpendLogs, "read", noted)
    with opened(database_url) as spend_logs, RowFeed(spend_logs, WINDOW, timedelta(hours=24)) as feed:
        for hours in range(1, 25):
            feed.read_ahead(DAY + timedelta(hours=hours))
            feed.read_ahead(DAY + timedelta(hours=hours))
            feed.up_to(DAY + timedelta(hours=hours))
    assert (read[0].start, read[-1].end) == (DAY - timedelta(hours=24), WINDOW.end + timedelta(minutes=5))
    assert all(one.end == other.start for one, other in pairwise(read))


def test_an_error_of_reading_ahead_comes_when_the_rows_are_wanted(database_url: str) -> None:
    insert_rows(database_url, LONG)
    with opened(database_url) as spend_logs:
        spend_logs.preflight()
        with RowFeed(spend_logs, WINDOW, timedelta(hours=24)) as feed:
            execute(database_url, 'ALTER TABLE "LiteLLM_SpendLogs" RENAME TO elsewhere')
            feed.read_ahead(WINDOW.end)
            with pytest.raises(PreflightError, match="does not exist"):
                feed.up_to(WINDOW.end)


def test_both_windows_of_a_reading_are_half_open(database_url: str) -> None:
    edges = (NOON - MOMENT, NOON, NOON + timedelta(hours=1) - MOMENT, NOON + timedelta(hours=1))
    insert_rows(
        database_url,
        [
            *(row(f"ends-{number}", moment) for number, moment in enumerate(edges)),
            *(row(f"starts-{number}", moment, seconds=0) for number, moment in enumerate(edges)),
        ],
    )
    hour = Window(NOON, NOON + timedelta(hours=1))
    with opened(database_url) as spend_logs:
        by_end = spend_logs.rows(WINDOW, hour)["request_id"]
        by_start = spend_logs.rows(hour, WINDOW)["request_id"]
    assert sorted(by_end) == ["ends-1", "ends-2", "starts-1", "starts-2"]
    assert sorted(name for name in by_start if name.startswith("starts")) == ["starts-1", "starts-2"]


def test_a_call_beyond_the_longest_is_not_looked_for(database_url: str) -> None:
    insert_rows(database_url, [row("longer", DAY + timedelta(hours=1), seconds=30 * 3600), row("r-1", NOON)])
    assert read(database_url)["request_id"].tolist() == ["r-1"]


def test_the_hours_of_a_table_and_its_legacy(database_url: str) -> None:
    execute(database_url, 'CREATE TABLE "LiteLLM_SpendLogs_legacy" (LIKE "LiteLLM_SpendLogs" INCLUDING ALL)')
    insert_rows(database_url, [row("r-1", NOON), row("r-2", NOON)])
    execute(database_url, 'INSERT INTO "LiteLLM_SpendLogs_legacy" SELECT * FROM "LiteLLM_SpendLogs"')
    insert_rows(database_url, [row("r-3", NOON + timedelta(hours=2))])
    with opened(database_url) as spend_logs:
        hours = spend_logs.hours(WINDOW)
    assert {moment.to_pydatetime(): int(count) for moment, count in hours.items()} == {
        datetime(2025, 11, 20, 11, tzinfo=UTC): 4,
        datetime(2025, 11, 20, 13, tzinfo=UTC): 1,
    }


def daily(url: str, **values: Any) -> None:
    columns = ", ".join(f'"{name}"' for name in values)
    with psycopg.connect(url) as connection:
        connection.execute(
            f'INSERT INTO "LiteLLM_DailyTeamSpend" ({columns}) VALUES ({", ".join(["%s"] * len(values))})'.encode(),
            list(values.values()),
        )


def test_the_daily_totals(database_url: str) -> None:
    common = {"updated_at": NOON, "date": "2025-11-20", "api_key": "k", "prompt_tokens": 20, "completion_tokens": 10}
    common |= {"spend": 0.25, "api_requests": 4, "successful_requests": 3, "failed_requests": 1}
    daily(database_url, id="1", team_id="team-a", model="a", **common)
    daily(database_url, id="2", team_id="team-a", model="b", **common)
    daily(database_url, id="3", team_id=None, model="a", **common)
    daily(database_url, **{**common, "date": "2025-11-21"}, id="4", team_id="team-a", model="a")
    with opened(database_url) as spend_logs:
        found = spend_logs.daily_totals("2025-11-20", "2025-11-20")
    assert found is not None
    table, frame = found
    assert table == "LiteLLM_DailyTeamSpend"
    assert sorted(frame[["day", "charge_id", "tokens", "spend", "successful"]].to_dict("split")["data"]) == [
        ["2025-11-20", "", 30, 0.25, 3],
        ["2025-11-20", "team-a", 60, 0.5, 6],
    ]


def test_daily_totals_from_before_successes_were_counted(database_url: str) -> None:
    execute(database_url, 'ALTER TABLE "LiteLLM_DailyTeamSpend" DROP COLUMN successful_requests')
    common = {"updated_at": NOON, "date": "2025-11-20", "api_key": "k", "prompt_tokens": 20, "completion_tokens": 10}
    daily(database_url, id="1", team_id="team-a", model="a", spend=0.25, api_requests=3, **common)
    with opened(database_url) as spend_logs:
        found = spend_logs.daily_totals("2025-11-20", "2025-11-20")
    assert found is not None
    assert found[1][["tokens", "successful"]].to_numpy().tolist() == [[30, 0]]


def test_no_daily_totals_before_litellm_kept_them(empty_database_url: str) -> None:
    migrate(empty_database_url, OLDEST)
    with opened(empty_database_url, "end_user") as spend_logs:
        assert spend_logs.daily_totals("2025-11-20", "2025-11-20") is None


# --- values that nobody expects

LONG_TEXT = "m" * 1_000_000


def test_values_that_nobody_expects_are_read_as_they_are(database_url: str) -> None:
    insert_rows(
        database_url,
        [
            row("", NOON, spend=float("nan")),
            row("None", NOON, spend=float("inf"), model=LONG_TEXT, team_id='{"a": "b\\"}'),
            row("r-1", NOON, spend=float("-inf"), call_type="", status="\U0001f600"),
            row("r-2", NOON, spend=-1.5, total_tokens=2**31 - 1, prompt_tokens=-1),
        ],
    )
    found = read(database_url).to_dict("records")
    assert [one["request_id"] for one in found] == ["", "None", "r-1", "r-2"]
    assert [repr(one["spend"]) for one in found] == ["nan", "inf", "-inf", "-1.5"]
    assert (found[1]["model"], found[1]["charge_id"]) == (LONG_TEXT, '{"a": "b\\"}')
    assert (found[2]["status"], found[2]["call_type"]) == ("\U0001f600", "")
    assert (found[3]["total_tokens"], found[3]["prompt_tokens"]) == (2**31 - 1, -1)
    with opened(database_url) as spend_logs:
        details = spend_logs.details(read(database_url))
    frames.check(details, DETAILS)
    assert sorted(details["request_id"]) == ["", "None", "r-1", "r-2"]


@pytest.mark.parametrize(
    ("column", "moment"),
    [
        ("startTime", "infinity"),
        ("startTime", "-infinity"),
        ("startTime", "294276-12-31"),
        ("startTime", "9999-12-31"),
        ("startTime", "0001-01-01"),
        ("startTime", "4713-01-01 BC"),
        ("endTime", "infinity"),
        ("endTime", "-infinity"),
        ("endTime", "294276-12-31"),
        ("endTime", "9999-12-31"),
        ("endTime", "0001-01-01"),
    ],
)
def test_a_row_that_no_window_holds_is_counted(database_url: str, column: str, moment: str) -> None:
    insert_rows(database_url, [row("r-1", NOON), row("odd", NOON, spend=2.5), row("odd-too", NOON, spend=float("nan"))])
    execute(
        database_url,
        f"""UPDATE "LiteLLM_SpendLogs" SET "{column}" = '{moment}' WHERE request_id LIKE 'odd%'""",
    )
    assert read(database_url)["request_id"].tolist() == ["r-1"]
    with opened(database_url) as spend_logs:
        assert spend_logs.unplaced(WINDOW) == Unplaced(2, 2.5)
        assert spend_logs.hours(Window(DAY, WINDOW.end))["2025-11-20 11:00"] == (3 if column == "endTime" else 1)


def test_no_row_of_an_ordinary_day_is_unplaced(database_url: str) -> None:
    insert_rows(database_url, LONG)
    with opened(database_url) as spend_logs:
        assert spend_logs.unplaced(WINDOW) == Unplaced(0, 0.0)


# --- looks at a few rows


def call(request_id: str, ended: datetime, session_id: str | None, **changes: Any) -> dict[str, Any]:
    ids = {"litellm_call_id": "c-1", "metadata": {"litellm_call_id": "m-1"}}
    return row(request_id, ended, **{"seconds": 1.0, "session_id": session_id, **ids, **changes})


CALL = call("inner", NOON, "s-1")


def insert_without(url: str, rows: list[dict[str, Any]], *columns: str) -> None:
    """Inserts the rows into a table of a LiteLLM from before these columns."""
    for column in columns:
        execute(url, f'ALTER TABLE "LiteLLM_SpendLogs" DROP COLUMN "{column}"')
    insert_rows(url, [{name: value for name, value in one.items() if name not in columns} for one in rows])


@pytest.mark.parametrize(
    ("lacks", "session_id", "call_id"),
    [
        ((), "s-1", "c-1"),
        (("litellm_call_id",), "s-1", "m-1"),
        (("litellm_call_id", "metadata"), "s-1", ""),
        (("session_id",), "", "c-1"),
    ],
)
def test_the_details_of_a_row(database_url: str, lacks: tuple[str, ...], session_id: str, call_id: str) -> None:
    insert_without(database_url, [CALL, call("other", NOON, "s-2")], *lacks)
    rows = read(database_url)
    with opened(database_url) as spend_logs:
        details = spend_logs.details(rows[rows["request_id"] == "inner"])
    frames.check(details, DETAILS)
    noon_ms = int(NOON.timestamp()) * 1000
    assert details.to_dict("records") == [
        {
            "request_id": "inner",
            "start_ms": noon_ms - 1_000,
            "usage_ms": noon_ms,
            "charge_id": "team-a",
            "api_key": CALL["api_key"],
            "call_type": "acompletion",
            "spend": 0.0125,
            "prompt_tokens": 20,
            "completion_tokens": 10,
            "total_tokens": 30,
            "session_id": session_id,
            "litellm_call_id": call_id,
        }
    ]


def test_a_row_from_before_the_column_has_its_call_id_in_the_metadata(database_url: str) -> None:
    insert_rows(
        database_url, [call("old", NOON, "s-1", litellm_call_id=None), call("none", NOON, "s-1", litellm_call_id="")]
    )
    with opened(database_url) as spend_logs:
        assert spend_logs.details(read(database_url))["litellm_call_id"].tolist() == ["m-1", "m-1"]


def test_details_know_rows_of_one_id_by_their_start_and_the_legacy_table(database_url: str) -> None:
    partition(database_url, date(2025, 11, 1), date(2025, 11, 30))
    execute(database_url, 'CREATE TABLE "LiteLLM_SpendLogs_legacy" (LIKE "LiteLLM_SpendLogs" INCLUDING ALL)')
    insert_rows(database_url, [row("r-1", NOON, spend=1.0), row("both", NOON)])
    execute(database_url, 'INSERT INTO "LiteLLM_SpendLogs_legacy" SELECT * FROM "LiteLLM_SpendLogs"')
    execute(database_url, """DELETE FROM "LiteLLM_SpendLogs" WHERE request_id = 'r-1'""")
    insert_rows(database_url, [row("r-1", NOON + timedelta(hours=1), spend=2.0)])
    insert_rows(database_url, [row("later", NOON + timedelta(hours=2), spend=3.0)])
    rows = read(database_url)
    with opened(database_url) as spend_logs:
        assert sorted(spend_logs.details(rows)["spend"]) == [0.0125, 1.0, 2.0, 3.0]
        assert spend_logs.details(rows[rows["spend"] == 2.0])["spend"].tolist() == [2.0]
        # An earlier row of the ID beside a later row of another one.
        assert sorted(spend_logs.details(rows[rows["spend"].isin([1.0, 3.0])])["spend"]) == [1.0, 3.0]
        assert spend_logs.details(rows[:0]).empty


def test_the_rows_of_a_session_within_seconds(database_url: str) -> None:
    near, far = NOON + timedelta(seconds=9), NOON + timedelta(seconds=11)
    insert_rows(
        database_url,
        [
            CALL,
            call("outer", NOON + timedelta(milliseconds=5), "s-1", seconds=1.02),
            call("near", near, "s-1"),
            call("far", far, "s-1"),
            call("stranger", NOON, "s-2"),
            call("much-later", NOON + timedelta(minutes=1), "s-3"),
            *(call(f"none-{number}", NOON, session) for number, session in enumerate(("", None))),
        ],
    )
    rows = read(database_url)
    with opened(database_url) as spend_logs:
        of_calls = spend_logs.details(rows[rows["request_id"].isin(["inner", "much-later"])])
        found = spend_logs.candidates_of_same_call(of_calls)
        frames.check(found, DETAILS)
        assert sorted(found["request_id"]) == ["inner", "much-later", "near", "outer"]
        without_session = spend_logs.details(rows[rows["request_id"].str.startswith("none")])
        assert len(without_session) == 2
        frames.check(spend_logs.candidates_of_same_call(without_session), DETAILS)
        assert spend_logs.candidates_of_same_call(without_session).empty


def look(request_id: str, hours: float, **changes: Any) -> dict[str, Any]:
    """A look at a finished response that began `hours` into the day."""
    return row(request_id, DAY + timedelta(hours=hours), **{"call_type": "aget_responses", **changes})


def earlier(url: str, request_id: str, since: datetime = DAY) -> list[str]:
    """The IDs of the earlier rows that tell about this one."""
    both = Window(DAY - timedelta(days=1), WINDOW.end)
    with opened(url) as spend_logs:
        rows = spend_logs.rows(both, both)
        found = spend_logs.earlier_of_jobs(spend_logs.details(rows[rows["request_id"] == request_id]), since)
    frames.check(found, DETAILS)
    return sorted(found["request_id"])


def test_the_earlier_rows_that_billed_the_same_job(database_url: str) -> None:
    nothing = {"spend": 0.0, "prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    insert_rows(
        database_url,
        [
            look("too-long-ago", -1),
            look("background-too", 0.25, call_type="aresponses", **nothing),
            look("background", 0.5, call_type="aresponses", **nothing),
            look("free", 0.75, **nothing),
            look("made-too", 1, call_type="responses"),
            look("made", 1.25, call_type="aresponses"),
            look("chat", 1.5, call_type="acompletion"),
            look("first", 2),
            look("second", 3),
            look("long-after", 5),
            look("asked-before", 6, api_key="k"),
            look("created", 7, call_type="acreate_batch", api_key="k"),
            look("asked", 8, call_type="aretrieve_batch", api_key="k"),
        ],
    )
    assert earlier(database_url, "first") == ["background", "made"]
    assert earlier(database_url, "first", DAY - timedelta(days=1)) == ["background", "made", "too-long-ago"]
    assert earlier(database_url, "second") == ["background", "first", "made"]
    assert earlier(database_url, "asked-before") == []
    assert earlier(database_url, "asked") == ["created"]
    with opened(database_url) as spend_logs:
        assert spend_logs.earlier_of_jobs(empty(DETAILS), DAY).empty


@pytest.mark.parametrize(
    "differs",
    [
        {"api_key": "k"},
        {"team_id": "b"},
        {"prompt_tokens": 1},
        {"completion_tokens": 1},
        {"spend": 0.012500000000000002},
        {"call_type": "acompletion"},
    ],
    ids=lambda differs: "".join(differs),
)
def test_a_row_that_differs_in_one_value_billed_something_else(database_url: str, differs: dict[str, Any]) -> None:
    insert_rows(database_url, [look("before", 1, **differs), look("asked", 2)])
    assert earlier(database_url, "asked") == []


def test_the_clock_of_postgres(database_url: str) -> None:
    before = datetime.now(UTC)
    with opened(database_url) as spend_logs:
        now = spend_logs.clock()
    assert before - timedelta(seconds=1) <= now <= datetime.now(UTC) + timedelta(seconds=1)

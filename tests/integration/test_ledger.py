"""The job's memory, on a real Postgres."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pandas as pd
import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, text

from reconcile.errors import DatabaseFault, LockedError, PreflightError
from reconcile.ledger import Ledger, Stream, new_run_id
from reconcile.ledger.tables import SCHEMA, metadata
from reconcile.settings.database import database

from .conftest import STREAM

OTHER_CHARGE_BY = Stream(STREAM.lago, STREAM.organization, STREAM.event_code, "user_id")
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


def query(url: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(statement.encode()).fetchall()


def test_the_migrations_lead_to_the_tables_of_the_code(ledger: Ledger, empty_database_url: str) -> None:
    options = {
        "include_schemas": True,
        "version_table_schema": SCHEMA,
        "include_name": lambda name, kind, _: kind != "schema" or name == SCHEMA,
        "compare_type": True,
        "compare_server_default": True,
    }
    with create_engine(database(empty_database_url).sqlalchemy).connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []


def test_a_schema_is_made_once(empty_database_url: str, open_ledger: Callable[[str], Ledger]) -> None:
    ledger = open_ledger(empty_database_url)
    assert not ledger.is_current()
    assert ledger.migrate()
    assert ledger.is_current()
    assert not ledger.migrate()
    schemas = "SELECT DISTINCT schemaname FROM pg_tables WHERE schemaname !~ '^(pg_|information_schema)'"
    assert query(empty_database_url, schemas) == [(SCHEMA,)]


def test_two_first_runs_at_once(empty_database_url: str, open_ledger: Callable[[str], Ledger]) -> None:
    ledgers = [open_ledger(empty_database_url) for _ in range(4)]
    with ThreadPoolExecutor() as pool:
        list(pool.map(Ledger.migrate, ledgers))
    assert all(ledger.is_current() for ledger in ledgers)


def test_a_ledger_of_another_release_is_not_current(ledger: Ledger, empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url) as connection:
        connection.execute("UPDATE reconcile.alembic_version SET version_num = '0000'")
    assert not ledger.is_current()


def test_a_user_without_rights_is_told_the_way_out(
    postgres_url: str, empty_database_url: str, open_ledger: Callable[[str], Ledger]
) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS reader")
        connection.execute("CREATE ROLE reader LOGIN PASSWORD 'reader-secret'")
    parts = urlsplit(empty_database_url)
    url = urlunsplit(parts._replace(netloc=f"reader:reader-secret@{parts.hostname}:{parts.port}"))
    with pytest.raises(PreflightError) as raised:
        open_ledger(url).migrate()
    message = str(raised.value)
    assert message.startswith("RECONCILE_STATE_URL: postgresql://reader@127.0.0.1")
    assert "permission denied" in message
    assert "`reconcile migrate`" in message
    assert "\n" not in message
    assert "reader-secret" not in message


def test_a_user_who_owns_the_schema_needs_no_other_right(
    postgres_url: str, empty_database_url: str, open_ledger: Callable[[str], Ledger]
) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS keeper")
        connection.execute("CREATE ROLE keeper LOGIN PASSWORD 'keeper-secret'")
    with psycopg.connect(empty_database_url) as connection:
        connection.execute("CREATE SCHEMA reconcile AUTHORIZATION keeper")
    parts = urlsplit(empty_database_url)
    ledger = open_ledger(urlunsplit(parts._replace(netloc=f"keeper:keeper-secret@{parts.hostname}:{parts.port}")))
    assert ledger.migrate()
    assert ledger.is_current()
    ledger.close()
    with psycopg.connect(empty_database_url) as connection:
        connection.execute("DROP OWNED BY keeper")


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"netloc": "postgres:wrong-secret@{place}"}, PreflightError),
        ({"path": "/no_such_database"}, PreflightError),
        ({"netloc": "postgres:wrong-secret@127.0.0.1:1"}, DatabaseFault),
    ],
)
def test_a_wrong_answer_is_told_from_none(
    empty_database_url: str, open_ledger: Callable[[str], Ledger], change: dict[str, str], kind: type[Exception]
) -> None:
    parts = urlsplit(empty_database_url)
    changed = {name: text.format(place=f"{parts.hostname}:{parts.port}") for name, text in change.items()}
    with pytest.raises(kind, match=r"^RECONCILE_STATE_URL: ") as raised:
        open_ledger(urlunsplit(parts._replace(**changed))).is_current()
    assert "wrong-secret" not in str(raised.value)
    assert "\n" not in str(raised.value)


# --- the lock


def test_a_stream_is_locked_for_others_at_once(
    ledger: Ledger, empty_database_url: str, open_ledger: Callable[[str], Ledger]
) -> None:
    second = open_ledger(empty_database_url)
    with ledger.lock(STREAM) as lock:
        began = time.monotonic()
        with pytest.raises(LockedError, match="llm_usage, team_id"), second.lock(STREAM):
            pass
        assert time.monotonic() - began < 1
        with second.lock(OTHER_CHARGE_BY):  # another stream is another lock
            lock.confirm()
    with second.lock(STREAM):
        pass


def test_a_lock_is_gone_when_its_holder_is_killed(ledger: Ledger, empty_database_url: str) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        env={**os.environ, "URL": database(empty_database_url).sqlalchemy},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(LockedError), ledger.lock(STREAM):
        pass
    holder.kill()
    holder.communicate()
    deadline = time.monotonic() + 10
    while True:
        try:
            with ledger.lock(STREAM):
                return
        except LockedError:
            assert time.monotonic() < deadline
            time.sleep(0.01)


HOLDER = """
import os, sys
from reconcile.ledger import Ledger, Stream
with Ledger(os.environ["URL"], "here").lock(Stream("http://lago.test", "org-1", "llm_usage", "team_id")):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lost_lock_is_noticed(ledger: Ledger, empty_database_url: str) -> None:
    with ledger.lock(STREAM) as lock:
        terminate = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
        assert query(empty_database_url, terminate) == [(True,)]
        with pytest.raises(DatabaseFault, match=r"^RECONCILE_STATE_URL: "):
            lock.confirm()


def test_postgres_is_told_to_notice_that_a_machine_is_gone(ledger: Ledger) -> None:
    """Also in the sessions of the ledger itself: rows that they have locked are in the way of the next run."""
    with ledger.lock(STREAM) as lock, ledger._begin() as connection:
        for one in (lock._held[0][0], connection):
            asked = [one.scalar(text(f"SHOW {name}")) for name in ("tcp_keepalives_idle", "tcp_user_timeout")]
            assert asked == ["30", "60000"]


# --- deliveries


def rows(*request_ids: str, charge_id: str = "team-a", batch: int = 1) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "request_id": list(request_ids),
            "start_ms": [1_000] * len(request_ids),
            "charge_id": charge_id,
            "subscription_id": charge_id,
            "transaction_id": [f"llm_{charge_id}_{name}" for name in request_ids],
            "usage_ms": [2_000 + place for place in range(len(request_ids))],
            "spend": 0.5,
            "batch": batch,
        }
    )


def claim(
    ledger: Ledger,
    found: pd.DataFrame,
    *,
    stream: Stream = STREAM,
    settled_before: datetime = LONG_AGO,
    ours: bool = False,
) -> set[str]:
    granted = ledger.claim(stream, "run-1", found, settled_before=settled_before, ours=ours)
    assert len(granted) == len(found)
    return set(found["request_id"][granted])


def accepted(transaction_id: str, what: str = "accepted") -> dict[str, Any]:
    """A line about one event, or about batch 1 as a whole where the ID is ''."""
    return {
        "transaction_id": transaction_id,
        "batch": 1,
        "what": what,
        "http_status": 200,
        "reason": None,
        "events": 1,
    }


def test_a_request_belongs_to_one_charge_id_per_event_code(ledger: Ledger) -> None:
    assert claim(ledger, rows("r-1", "r-2")) == {"r-1", "r-2"}
    assert claim(ledger, rows("r-1", "r-3", charge_id="user-1")) == {"r-3"}
    # The same row again is the same event: sending it twice bills it once.
    assert claim(ledger, rows("r-1")) == {"r-1"}
    other_code = Stream(STREAM.lago, STREAM.organization, "other_usage", STREAM.charge_by)
    assert claim(ledger, rows("r-1", charge_id="user-1"), stream=other_code) == {"r-1"}
    assert claim(ledger, rows("r-1", charge_id="user-1"), stream=OTHER_CHARGE_BY) == set()


@pytest.mark.parametrize("line", [accepted("llm_team-a_taken"), accepted("")], ids=["by event", "by batch"])
def test_a_claim_is_given_up_where_nothing_came_of_it(ledger: Ledger, line: dict[str, Any]) -> None:
    claim(ledger, rows("unanswered", batch=2))
    claim(ledger, rows("taken"))
    ledger.answered("run-1", [line])
    others = rows("unanswered", "taken", charge_id="user-1")
    assert claim(ledger, others, settled_before=datetime.now(UTC) - timedelta(minutes=2)) == set()
    assert claim(ledger, others, settled_before=datetime.now(UTC) + timedelta(minutes=2)) == {"unanswered"}
    assert claim(ledger, others, ours=True) == {"unanswered", "taken"}


def test_a_row_that_goes_out_again_keeps_what_is_known_of_it(ledger: Ledger) -> None:
    """Its batch was accepted as a whole; sent once more in another batch, it still belongs to its charge ID."""
    claim(ledger, rows("r-1"))
    ledger.answered("run-1", [accepted("")])
    claim(ledger, rows("r-1", batch=2))
    assert ledger.delivered(STREAM, 0, 10_000)["taken"].tolist() == [True]
    later = datetime.now(UTC) + timedelta(minutes=2)
    assert claim(ledger, rows("r-1", charge_id="user-1"), settled_before=later) == set()


def test_what_was_handed_over_is_found_again_by_its_usage_time(ledger: Ledger) -> None:
    claim(ledger, rows("r-1", "r-2", "r-3"))
    ledger.answered("run-1", [accepted("llm_team-a_r-2", "exists"), accepted("llm_team-a_r-3", "refused")])
    found = ledger.delivered(OTHER_CHARGE_BY, 2_001, 2_003)
    assert found[["request_id", "charge_id", "transaction_id", "start_ms", "taken"]].to_dict("list") == {
        "request_id": ["r-2", "r-3"],
        "charge_id": ["team-a", "team-a"],
        "transaction_id": ["llm_team-a_r-2", "llm_team-a_r-3"],
        "start_ms": [1_000, 1_000],
        "taken": [True, False],
    }
    assert ledger.delivered(STREAM, 3_000, 4_000).empty


def test_the_journal_tells_what_became_of_each_event(ledger: Ledger, empty_database_url: str) -> None:
    """In one line where a whole batch was accepted, in one per event where it was not; rows name their batch."""
    claim(ledger, rows("r-1", "r-2", batch=7))
    ledger.sending("run-1", {7: 2, 8: 100})
    refused = {**accepted("llm_team-a_r-2", "refused"), "batch": 7, "http_status": 422, "reason": "no code"}
    ledger.answered("run-1", [{**accepted("llm_team-a_r-1"), "batch": 7}, refused])
    ledger.answered("run-1", [{**accepted(""), "batch": 8, "events": 100}])
    ledger.answered("run-1", [])
    ledger.verified("run-1", (7, 7), ["llm_team-a_r-1"])
    statement = (
        "SELECT run_id, batch, transaction_id, what, http_status, reason, events FROM reconcile.journal ORDER BY entry"
    )
    assert query(empty_database_url, statement) == [
        ("run-1", 7, "", "sent", None, None, 2),
        ("run-1", 8, "", "sent", None, None, 100),
        ("run-1", 7, "llm_team-a_r-1", "accepted", 200, None, 1),
        ("run-1", 7, "llm_team-a_r-2", "refused", 422, "no code", 1),
        ("run-1", 8, "", "accepted", 200, None, 100),
        ("run-1", 7, "", "read_back", None, None, 1),
    ]
    assert query(empty_database_url, "SELECT request_id, run_id, batch FROM reconcile.deliveries ORDER BY 1") == [
        ("r-1", "run-1", 7),
        ("r-2", "run-1", 7),
    ]


def test_rows_that_leave_in_another_batch_are_noted_there(ledger: Ledger, empty_database_url: str) -> None:
    claim(ledger, rows("r-1", "r-2", batch=1))
    claim(ledger, rows("r-3", "r-4", batch=2))
    ledger.in_batch("run-1", 3, ["llm_team-a_r-2", "llm_team-a_r-3"], [1, 2])
    assert query(empty_database_url, "SELECT request_id, batch FROM reconcile.deliveries ORDER BY 1") == [
        ("r-1", 1),
        ("r-2", 3),
        ("r-3", 3),
        ("r-4", 2),
    ]


# --- what Lago said once


def test_what_lago_said_is_kept_by_organization_and_event_code(ledger: Ledger) -> None:
    ledger.keep_catalogue(STREAM, [("plan", "v1", 5, {"code": "basic"}), ("other", "", 6, {})])
    ledger.keep_catalogue(STREAM, [("plan", "v2", 7, {"code": "pro"})])
    assert ledger.recall_catalogue(STREAM, ["plan", "none"]) == {"plan": ("v2", 7, {"code": "pro"})}
    other_code = Stream(STREAM.lago, STREAM.organization, "other_usage", STREAM.charge_by)
    assert ledger.recall_catalogue(other_code, ["plan"]) == {}


def test_how_wide_lago_can_list(ledger: Ledger) -> None:
    assert ledger.widest(STREAM, 0) is None
    ledger.keep_widest(STREAM, timedelta(minutes=15), 5)
    assert ledger.widest(STREAM, 5) == timedelta(minutes=15)
    assert ledger.widest(STREAM, 6) is None  # what was learned long ago is tried anew
    ledger.keep_widest(STREAM, None, 6)
    assert ledger.widest(STREAM, 0) is None


# --- runs


def test_runs_newest_first(ledger: Ledger) -> None:
    first = datetime(2025, 11, 21, 2, 15, tzinfo=UTC)
    window = (first - timedelta(days=1), first)
    names = []
    for number in range(3):
        started_at = first + timedelta(hours=number)
        names.append(new_run_id(started_at, f"000{number}"))
        ledger.begin_run(names[-1], STREAM, command="run", dry_run=False, window=window, started_at=started_at)
    ledger.finish_run(names[1], status="agreed", exit_code=0, document={"a": 1}, finished_at=first)
    assert names[0] == "2025-11-21T02-15-00Z-0000"
    assert [entry["run_id"] for entry in ledger.runs(2)] == [names[2], names[1]]
    finished = ledger.run(names[1])
    assert finished is not None
    assert (finished["status"], finished["exit_code"], finished["document"]) == ("agreed", 0, {"a": 1})
    assert (finished["window_from"], finished["window_to"]) == window
    unfinished = ledger.run(names[2])
    assert unfinished is not None
    assert unfinished["status"] is None
    assert ledger.run("no-such-run") is None
    previous = ledger.previous(STREAM, window, names[2])
    assert previous is not None
    assert previous["run_id"] == names[1]
    assert ledger.previous(STREAM, window, names[1]) is None
    assert ledger.previous(OTHER_CHARGE_BY, window, names[2]) is None


def finished(ledger: Ledger, run_id: str, stream: Stream, start: datetime, hours: int, **changes: Any) -> None:
    """A run that ended without a fault."""
    kept = {"command": "run", "dry_run": False, "litellm": "here", **changes}
    ledger.begin_run(run_id, stream, window=(start, start + timedelta(hours=hours)), started_at=start, **kept)
    ledger.finish_run(run_id, status="agreed", exit_code=0, document={}, finished_at=start)


def test_which_windows_were_asked_for(ledger: Ledger) -> None:
    """A dry run, a report and a run that did not finish bill nothing."""
    start = datetime(2025, 11, 21, tzinfo=UTC)
    finished(ledger, "one", STREAM, start, 3)
    finished(ledger, "two", STREAM, start + timedelta(hours=10), 1, command="backfill")
    finished(ledger, "dry", STREAM, start + timedelta(hours=20), 1, dry_run=True)
    finished(ledger, "report", STREAM, start + timedelta(hours=20), 1, command="report")
    ledger.begin_run(
        "unfinished",
        STREAM,
        command="run",
        dry_run=False,
        window=(start, start + 9 * timedelta(days=1)),
        started_at=start,
    )
    assert [(one.start, one.length // timedelta(hours=1)) for one in ledger.asked_windows(STREAM)] == [
        (start, 3),
        (start + timedelta(hours=10), 1),
    ]
    assert ledger.last_run_to(STREAM) == start + timedelta(hours=3)
    assert ledger.asked_windows(OTHER_CHARGE_BY) == []
    assert ledger.last_run_to(OTHER_CHARGE_BY) is None


def test_which_streams_have_billed_the_same_usage(ledger: Ledger) -> None:
    start = datetime(2025, 11, 21, tzinfo=UTC)
    assert ledger.streams_beside(STREAM, "here") == []
    finished(ledger, "one", OTHER_CHARGE_BY, start, 1)
    assert ledger.streams_beside(STREAM, "here") == [(STREAM.event_code, "user_id")]
    assert ledger.streams_beside(STREAM, "elsewhere") == []
    finished(ledger, "older", Stream(STREAM.lago, STREAM.organization, "old", "team_id"), start, 1, litellm="")
    assert ("old", "team_id") in ledger.streams_beside(STREAM, "elsewhere")
    finished(ledger, "two", STREAM, start, 1)
    assert ledger.streams_beside(STREAM, "here") == []


# --- a transaction-pooling PgBouncer


def test_through_a_pooler(
    pgbouncer: Callable[[str], str], empty_database_url: str, open_ledger: Callable[[str], Ledger]
) -> None:
    """Between two statements of a session, the pooler may give its server connection to anybody."""
    first, second = (open_ledger(pgbouncer(empty_database_url)) for _ in range(2))
    assert first.migrate()
    assert second.is_current()
    with first.lock(STREAM) as lock:
        for _ in range(20):  # more than there are server connections
            assert claim(first, rows("r-1")) == {"r-1"}
            with pytest.raises(LockedError), second.lock(STREAM):
                pass
        lock.confirm()
    # The lock did not stay behind on the server connection that held it.
    with second.lock(OTHER_CHARGE_BY), first.lock(STREAM):
        assert second.delivered(STREAM, 0, 10_000)["request_id"].tolist() == ["r-1"]

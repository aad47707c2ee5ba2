"""A spend log, a Lago, and `reconcile schedule` as a process whose clock the test sets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import Lago

from reconcile.sandbox.litellm_schema import insert_rows

PATIENCE = 30.0
Line = dict[str, Any]


@dataclass
class Process:
    """A running `reconcile` and the lines of its log."""

    popen: subprocess.Popen[str]
    lines: list[Line] = field(default_factory=list)
    _news: threading.Condition = field(default_factory=threading.Condition)
    _read: int = 0

    def __post_init__(self) -> None:
        self._reader = threading.Thread(target=self._follow, daemon=True)
        self._reader.start()

    def _follow(self) -> None:
        assert self.popen.stderr is not None
        for text in self.popen.stderr:
            with self._news:
                self.lines.append(json.loads(text) if text.startswith("{") else {"event": text.strip()})
                self._news.notify_all()

    def saw(self, event: str, **values: Any) -> Line:
        """The next line of the log that is like this; earlier ones do not count again."""

        found: list[Line] = []

        def arrived() -> bool:
            while not found and self._read < len(self.lines):
                line = self.lines[self._read]
                self._read += 1
                if line["event"].startswith(event) and values.items() <= line.items():
                    found.append(line)
            return bool(found)

        with self._news:
            assert self._news.wait_for(arrived, PATIENCE), f"no {event!r} {values} in {self.lines}"
        return found[0]

    def at(self, moment: str) -> None:
        """Sets the clock."""
        assert self.popen.stdin is not None
        self.popen.stdin.write(moment + "\n")
        self.popen.stdin.flush()

    def reader_leaves(self) -> None:
        """Nobody reads the log from here on: the next line meets a pipe without a reader."""
        assert self.popen.stderr is not None
        nowhere = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nowhere, self.popen.stderr.fileno())
        os.close(nowhere)

    def signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def ended(self) -> int:
        code = self.popen.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code


@dataclass
class World:
    """LiteLLM's database, a Lago with the subscription `team-a`, and a folder that `reconcile` runs in."""

    database_url: str
    lago: Lago
    folder: Path
    processes: list[Process] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "DATABASE_URL": self.database_url,
            "LAGO_API_BASE": self.lago.url,
            "LAGO_API_KEY": self.lago.key,
            "LAGO_API_EVENT_CODE": "llm_usage",
            "LAGO_API_CHARGE_BY": "team_id",
            "RECONCILE_LOOKBACK": "24h",
            "RECONCILE_METRICS_ADDRESS": "off",
        }

    def cron(self, text: str) -> Path:
        path = self.folder / "cron.yaml"
        new = path.with_suffix(".new")
        new.write_text(text, encoding="utf-8")
        new.replace(path)
        return path

    def add_rows(self, *times: str, count: int = 1) -> None:
        """Rows that end at these times (UTC), so many at each."""
        insert_rows(
            self.database_url,
            [
                {
                    "request_id": f"{time}-{number}",
                    "call_type": "acompletion",
                    "spend": 0.25,
                    "total_tokens": 3,
                    "prompt_tokens": 2,
                    "completion_tokens": 1,
                    "startTime": datetime.fromisoformat(time) - timedelta(seconds=2),
                    "endTime": datetime.fromisoformat(time),
                    "model": "gpt-4o-mini",
                    "custom_llm_provider": "openai",
                    "team_id": "team-a",
                    "status": "success",
                }
                for time in times
                for number in range(count)
            ],
        )

    def start(self, now: str, *arguments: str, **settings: str) -> Process:
        """`reconcile` with the arguments, at this time."""
        clocked = Path(__file__).with_name("clocked.py")
        popen = subprocess.Popen(
            [sys.executable, str(clocked), now, *(arguments or ("schedule",))],
            cwd=self.folder,
            env={"PATH": os.environ["PATH"], **self.environment, **settings},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(Process(popen))
        return self.processes[-1]

    def runs(self) -> list[tuple[Any, ...]]:
        """Exit code, and window in UTC, of each run, in order."""
        return self.query("SELECT exit_code, window_from, window_to FROM reconcile.runs ORDER BY started_at")

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database_url, options="-c timezone=UTC") as connection:
            return connection.execute(statement).fetchall()

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.database_url) as connection:
            connection.execute(statement)

    def sees_posts(self, count: int) -> None:
        """Waits until Lago has been asked to take so many batches."""
        deadline = time.monotonic() + PATIENCE
        while sum(request.method == "POST" for request in self.lago.stand_in.requests) < count:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def billed(self) -> Counter[str]:
        """How often Lago has each request."""
        return Counter(event["properties"]["request_id"] for event in self.lago.organization.stored_events())


@pytest.fixture
def world(database_url: str, lago: Lago, tmp_path: Path) -> Iterator[World]:
    began = datetime(2026, 1, 1, tzinfo=UTC)
    lago.organization.add_subscription("team-a", started_at=began, period=(began, began + timedelta(days=730)))
    made = World(database_url, lago, tmp_path)
    yield made
    for process in made.processes:
        if process.popen.poll() is None:
            process.popen.kill()
            process.ended()
        text = json.dumps(process.lines)
        assert lago.key not in text
        assert "Traceback" not in text

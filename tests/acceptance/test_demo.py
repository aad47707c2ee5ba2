"""What a stranger runs first: the demo, and the sandbox to play with."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from .harness import PROGRAM

README = Path(__file__).parents[2] / "README.md"
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("LAGO_", "RECONCILE_", "DATABASE_"))}


def run(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    ran = subprocess.run(
        [PROGRAM, *arguments], cwd=folder, env={**CLEAN, **settings}, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in ran.stderr
    return ran


def test_the_demo(tmp_path: Path) -> None:
    """It exits as its data deserve: what was lost is sent, and the rest is for people to look at."""
    ran = run(tmp_path, "demo")
    assert ran.returncode == 1, ran.stderr
    assert "llm_usage" in ran.stdout
    (report,) = tmp_path.glob("reconcile-demo/*.json")
    document = json.loads(report.read_text())
    assert document["status"] == "discrepancies"
    assert document["verified"] is True
    assert document["rows"]["delivered"]["count"] > 0
    assert document["rows"]["missing"]["count"] == 0
    # Of each thing that an operator must know at sight there is one to be seen.
    assert document["rows"]["unbilled"]["count"] == 4  # three events without their cost, and a guardrail's
    assert document["reasons"]["held"] == {"late_event": 3}
    assert {file.suffix for file in report.parent.iterdir()} == {".html", ".json"}
    # README shows what it prints, in every figure.
    shown = table(README.read_text(encoding="utf-8"))
    assert len(shown) > 15
    assert table(ran.stdout) == shown


def table(text: str) -> list[list[str]]:
    """The headline's amounts, then the cells of each line that compares the two sides."""
    (headline,) = re.findall(r"^▲ (.+) does not agree$", text, re.MULTILINE)
    lines = re.findall(r"^   (?:LiteLLM|Lago)?  +(.+?)  +([0-9,]+)  +([0-9.,]+) *$", text, re.MULTILINE)
    return [[headline], *([name.strip(), count, money] for name, count, money in lines)]


def test_the_sandbox(tmp_path: Path) -> None:
    """Its `export` lines lead the program to it; a second run over the same days sends nothing; nothing is left."""
    sandbox = subprocess.Popen(
        [PROGRAM, "sandbox"], cwd=tmp_path, env=CLEAN, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert sandbox.stdout is not None
    settings: dict[str, str] = {}
    while "LAGO_API_CHARGE_BY" not in settings:
        found = re.fullmatch(r"export ([A-Z_]+)='(.*)'\n", sandbox.stdout.readline())
        assert found is not None
        settings[found[1]] = found[2]
    assert run(tmp_path, "check", **settings).returncode == 0
    first, second = (json.loads(run(tmp_path, "run", "--json", **settings).stdout) for _ in range(2))
    assert first["rows"]["delivered"]["count"] > 0
    assert second["rows"]["delivered"]["count"] == 0
    assert second["verified"] is None

    sandbox.send_signal(signal.SIGTERM)
    _, said = sandbox.communicate(timeout=30)
    assert sandbox.returncode == 0
    assert "Traceback" not in said
    with pytest.raises(psycopg.OperationalError, match="refused"):
        psycopg.connect(settings["DATABASE_URL"], connect_timeout=2)
    assert urlsplit(settings["LAGO_API_BASE"]).hostname == "127.0.0.1"

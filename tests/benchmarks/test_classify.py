"""The benchmark runs and finds what it lost: figures of a classification that went wrong would be worth nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "classify.py"


def run(*arguments: str) -> str:
    command = [sys.executable, str(BENCHMARK), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.mark.parametrize("scenario", ["ordinary", "repetitive", "tokenless", "repetitive-tokenless", "own"])
def test_classify(scenario: str) -> None:
    """Every row and event is counted in a class, and about one row in a hundred has lost its event."""
    head, of_rows, of_events = run("--rows", "3000", "--scenario", scenario, "--slices", "3").splitlines()
    figures = re.fullmatch(
        rf"{scenario}, 3 slices .*: 3,000 rows, ([\d,]+) events: "
        r"\d+\.\d\d s of CPU, [\d,]+ rows/s, peak [\d,]+ MB \([\d,]+ MB before\)",
        head,
    )
    assert figures
    rows, events = counts(of_rows), counts(of_events)
    assert sum(rows.values()) == 3_000
    assert sum(events.values()) == int(figures[1].replace(",", ""))
    paired = "matched" if scenario == "own" else "matched_live"
    assert rows[paired] == events[paired]
    assert 15 <= 3_000 - rows[paired] <= 60


def counts(line: str) -> dict[str, int]:
    return {label: int(number.replace(",", "")) for label, number in re.findall(r"(\w+) ([\d,]*\d)", line)}

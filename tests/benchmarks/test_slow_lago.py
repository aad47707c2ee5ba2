"""The benchmark beside a slow Lago runs, and its figures are those of a run that found what it should."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "slow_lago.py"


def test_slow_lago() -> None:
    command = [sys.executable, str(BENCHMARK), "--rows", "2000", "--workers", "2"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=240).stdout
    assert "2 workers, 2,000 rows, 1,980 events" in said
    assert re.search(r"dry run \d+\.\d s; its lists one by one \d+\.\d s: \d+\.\d\d", said)
    assert re.search(r"lists in flight [12]\.\d\d on average", said)
    assert re.search(r"live posts' p50 \d+ ms idle, \d+ ms beside the job", said)
    assert re.search(r"sending 20: \d+\.\d s", said)

"""The benchmark of the callback in short, without its limits: what is asked of it arrives, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys

from .litellm_proxy import ROOT


def test_two_hundred_requests_a_second_go_through_it() -> None:
    command = [sys.executable, ROOT / "benchmarks" / "callback.py", "--rate", "200", "--seconds", "3", "--calls", "40"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    figures = json.loads(ran.stdout)
    assert figures["requests"] == 600
    assert figures["delivered"] == 600
    assert figures["dropped"] == 0

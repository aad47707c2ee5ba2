"""One process from its start to its end: seconds, CPU, memory; and what the rest of the machine did meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Measured:
    """`seconds` and `cpu` (seconds) include the interpreter's start. `memory_mb`: the most that was resident, in 10^6
    bytes.

    `document`: the last line of its output that is JSON, None where there was none.
    """

    seconds: float
    cpu: float
    memory_mb: float
    code: int
    document: dict[str, Any] | None
    said: str


def measured(command: Sequence[str | Path], environment: Mapping[str, str], limit: float) -> Measured:
    """Runs a command. It is killed after `limit` seconds (code -9)."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        begin = time.perf_counter()
        child = subprocess.Popen(command, env=environment, stdout=out, stderr=err, stdin=subprocess.DEVNULL)
        timer = threading.Timer(limit, child.kill)
        timer.start()
        _, status, used = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - begin
        timer.cancel()
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        return Measured(
            seconds,
            used.ru_utime + used.ru_stime,
            used.ru_maxrss * 1024 / 1e6,  # Linux counts in KiB
            child.returncode,
            _document(out.read().decode(errors="replace")),
            err.read().decode(errors="replace")[-1_000:],
        )


def _document(output: str) -> dict[str, Any] | None:
    for text in (output, *reversed(output.splitlines())):
        if text.startswith("{"):
            found: dict[str, Any] = json.loads(text)
            return found
    return None


def machine_cpu() -> float:
    """CPU seconds of the whole machine since its start, without waiting. 0 where the system does not say (no /proc)."""
    try:
        user, nice, system, _, _, interrupt, soft, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    except (OSError, ValueError):
        return 0.0
    return (user + nice + system + interrupt + soft + steal) / _TICKS


def server_cpu(pid: int) -> float:
    """CPU seconds of a process and its children, ended ones among them. 0 where the system does not say."""
    total = 0.0
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for one, fields in ((pid, slice(11, 15)), *((int(child), slice(11, 13)) for child in children)):
            status = Path(f"/proc/{one}/stat").read_text()
            total += sum(map(int, status.rpartition(")")[2].split()[fields])) / _TICKS
    except (OSError, ValueError):
        return total
    return total

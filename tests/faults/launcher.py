"""Starts `reconcile` as a process of its own without the second that Python takes to import it.

A process that has imported the program waits for orders on its stdin and forks: each child is a real process that can
be killed at any moment, with streams, environment and folder of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATIENCE = 120.0


@dataclass
class Process:
    """A started `reconcile`."""

    launcher: Launcher
    pid: int
    arguments: Sequence[str]
    out: Path
    err: Path
    returncode: int | None = None

    def __post_init__(self) -> None:
        self._handle = os.pidfd_open(self.pid)

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it lives."""
        return self.wait(0.0)

    def wait(self, seconds: float = PATIENCE) -> int | None:
        if self.returncode is None and select.select([self._handle], [], [], seconds)[0]:
            os.close(self._handle)
            self.returncode = self.launcher.ask(wait=self.pid)
        return self.returncode

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)


class Launcher:
    """The process that forks. One thread at a time may use it."""

    def __init__(self) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, "-P", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
        )
        assert self.ask(ready=True) == 1

    def ask(self, **order: Any) -> int:
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._popen.stdin.write(json.dumps(order) + "\n")
        self._popen.stdin.flush()
        return int(self._popen.stdout.readline())

    def start(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        out: Path,
        err: Path,
        *,
        fresh: bool = False,
    ) -> Process:
        """A fresh process shares no page with the one that forked it: its memory is its own."""
        for stream in (out, err):
            stream.touch(0o600)  # it may be killed before it opens them
        pid = self.ask(
            arguments=list(arguments),
            environment=dict(environment),
            folder=str(folder),
            out=str(out),
            err=str(err),
            fresh=fresh,
        )
        return Process(self, pid, arguments, out, err)

    def close(self) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.close()
        self._popen.wait()


@contextlib.contextmanager
def launching() -> Iterator[Launcher]:
    launcher = Launcher()
    try:
        yield launcher
    finally:
        launcher.close()


def until(condition: Any, process: Process | None = None, seconds: float = PATIENCE) -> None:
    """Waits for a condition while the process lives."""
    deadline = time.monotonic() + seconds
    while not condition():
        if process is not None and process.poll() is not None and not condition():
            raise AssertionError(f"it has ended with {process.returncode}: {process.err.read_text()}")
        assert time.monotonic() < deadline
        time.sleep(0.005)


def _child(order: Mapping[str, Any]) -> None:
    from reconcile import cli

    os.setsid()
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    for number, (path, mode) in enumerate(((os.devnull, os.O_RDONLY), (order["out"], flags), (order["err"], flags))):
        opened = os.open(path, mode, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    if order["fresh"]:
        os.execve(sys.executable, [sys.executable, "-P", "-m", "reconcile", *order["arguments"]], order["environment"])
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False, errors="backslashreplace")
    sys.argv = ["reconcile", *order["arguments"]]
    code: object = 70
    try:
        cli.main()
    except SystemExit as end:
        code = end.code
    except BaseException:
        import traceback

        traceback.print_exc()
    with contextlib.suppress(Exception):
        sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 71)


def _serve() -> None:
    # What a run imports on its way.

    import reconcile.cli.jobs
    import reconcile.report.terminal
    import reconcile.run.job
    import reconcile.unattended.oneshot
    import reconcile.unattended.schedule  # noqa: F401

    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        order = json.loads(line)
        if order.get("ready"):
            answer = 1
        elif "wait" in order:
            answer = os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1])
        elif (answer := os.fork()) == 0:
            _child(order)
        answers.write(f"{answer}\n")
        answers.flush()


if __name__ == "__main__":
    _serve()

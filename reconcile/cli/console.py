"""What every command uses of the terminal: results to stdout, the rest to stderr, progress, and the way to stop."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import orjson
from rich.console import Console


def print_json(value: Any) -> None:
    sys.stdout.buffer.write(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    sys.stdout.buffer.flush()


def print_line(text: str) -> None:
    sys.stdout.write(text + "\n")


def say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


@contextlib.contextmanager
def stopping() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets: what is under way ends in order. A second one breaks off."""
    stop = threading.Event()

    def first(number: int, _frame: object) -> None:
        stop.set()
        signal.signal(number, signal.default_int_handler)

    previous = {number: signal.signal(number, first) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def progress_bar() -> Iterator[Any]:
    """A progress bar on stderr where that is a terminal; nothing in a pipe."""
    from reconcile.run.job import Silent

    if not sys.stderr.isatty():
        yield Silent()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("slices"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield Bar(bar)


class Bar:
    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._task = bar.add_task("reading", total=None)

    def total(self, steps: int) -> None:
        self._bar.update(self._task, total=steps)

    def step(self, text: str) -> None:
        self._bar.update(self._task, description=text, advance=1)

    def note(self, text: str) -> None:
        self._bar.update(self._task, description=text)

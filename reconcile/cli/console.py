"""What every command uses of the terminal: results to stdout, the rest to stderr, progress, and the way to stop.

Stdout that cannot be written (a full disk, a closed pipe) is a fault, `OutputFault`; stderr that cannot is nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TextIO, cast

import orjson

from reconcile import logs
from reconcile.errors import OutputFault

if TYPE_CHECKING:
    from rich.console import Console

_UNBROKEN = 10_000
_TRAILING = re.compile(" +$", re.MULTILINE)
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def print_json(value: Any) -> None:
    """UTF-8, whatever the terminal's encoding is."""
    print_bytes(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def print_bytes(data: bytes) -> None:
    """As they are, whatever the terminal's encoding is."""
    cast(Results, sys.stdout).write_bytes(data)


def print_line(text: str) -> None:
    sys.stdout.write(_harmless(text) + "\n")


@contextlib.contextmanager
def printing() -> Iterator[Console]:
    """A console as wide and as colourful as stdout, whose text goes there when the block ends.

    In a pipe or a file no line is broken, unless COLUMNS says where: it is searched, and mailed by cron. Rich itself
    takes a pipe that closed for a reason to exit 1.
    """
    from rich.console import Console

    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(width=_UNBROKEN)
    with console.capture() as captured:
        yield console
    text = captured.get()
    sys.stdout.write(text if console.is_terminal else _TRAILING.sub("", text))
    sys.stdout.flush()


def say(text: str) -> None:
    logs.write(_harmless(text) + "\n")


def _harmless(text: str) -> str:
    """Names come from strangers, and a terminal obeys control characters."""
    return _CONTROLS.sub("\ufffd", text)


@contextlib.contextmanager
def guarded() -> Iterator[Results]:
    """Within it, writing to stdout raises `OutputFault` and nothing else, and writing to stderr raises nothing."""
    _occupy()
    before = sys.stdout, sys.stderr
    results = Results(sys.stdout)
    sys.stdout, sys.stderr = cast(TextIO, results), cast(TextIO, Remarks(sys.stderr))
    try:
        yield results
    finally:
        sys.stdout, sys.stderr = before
        # What could not be written is still in the buffer, and would fail once more when Python ends: exit code 120.
        for stream in before:
            _given_up(stream)


def _occupy() -> None:
    """Opens what the process was started without: the next file or socket would become its stdout or stderr."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest that is free
            if opened != descriptor:
                os.close(opened)


def _given_up(stream: TextIO | None) -> None:
    """Flushes a stream, into nothing where it cannot be flushed to where it leads."""
    if stream is None:
        return
    try:
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
            stream.flush()


class _Guard:
    """A text stream that may be None. What is not said here is as the stream has it."""

    encoding = "utf-8"

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        if stream is not None:
            self.encoding = stream.encoding
            with contextlib.suppress(AttributeError):
                # A terminal that lacks a sign gets a question mark, no traceback.
                cast(Any, stream).reconfigure(errors="replace")

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # bytes that went there would not be guarded
            raise AttributeError(name)
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"{type(text).__name__} is not text")
        self._guarded(lambda stream: stream.write(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        self._guarded(lambda stream: stream.flush())

    def _guarded(self, action: Callable[[TextIO], object]) -> None:
        raise NotImplementedError

    def isatty(self) -> bool:
        return self._stream is not None and not self._stream.closed and self._stream.isatty()


class Results(_Guard):
    """Stdout. It fails once, with `fault`: whoever writes on after that has been told."""

    fault: OutputFault | None = None

    def write_bytes(self, data: bytes) -> None:
        self.flush()
        self._guarded(lambda stream: stream.buffer.write(data))
        self._guarded(lambda stream: stream.buffer.flush())

    def _guarded(self, action: Callable[[TextIO], object]) -> None:
        if self.fault is not None:
            return
        try:
            if self._stream is None:
                raise OSError(errno.EBADF, "it is closed")
            action(self._stream)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is closed"
            self.fault = OutputFault(f"stdout cannot be written: {reason}")
            raise self.fault from None


class Remarks(_Guard):
    """Stderr."""

    def _guarded(self, action: Callable[[TextIO], object]) -> None:
        if self._stream is not None:
            with contextlib.suppress(OSError, ValueError):
                action(self._stream)


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

    if sys.stderr is None or not sys.stderr.isatty():
        yield Silent()
        return
    from rich.console import Console
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

"""Logs on stderr: lines for people on a terminal, JSON elsewhere. Every line of a run carries its ID.

A log never raises: its reader may go away and its disk fill up, and neither is a reason to bill less.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import Any, TextIO, cast

import structlog

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(level: str, form: str) -> None:
    """`level` is debug, info, warning or error; `form` human, json, or auto (human on a terminal)."""
    on_terminal = sys.stderr is not None and sys.stderr.isatty()
    human = form == "human" or (form == "auto" and on_terminal)
    renderer: Any = structlog.dev.ConsoleRenderer(colors=on_terminal) if human else _json()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _Stderr())),
        cache_logger_on_first_use=False,
    )
    # These would name addresses and headers that our own lines leave out.
    for name in ("httpx", "httpcore", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.raiseExceptions = False  # those of the libraries do not raise, and say nothing where they fail


def write(text: str) -> None:
    """Writes to stderr what can be written to it."""
    # ValueError: it was closed. It is None where the process began without one.
    with contextlib.suppress(OSError, ValueError):
        if sys.stderr is not None:
            sys.stderr.write(text)
            sys.stderr.flush()


class _Stderr:
    """Whatever sys.stderr is at the moment: a progress bar stands in for it while it is shown."""

    def write(self, text: str) -> int:
        write(text)
        return len(text)

    def flush(self) -> None:
        """Every line has been flushed."""


def _json() -> Any:
    return structlog.processors.JSONRenderer()

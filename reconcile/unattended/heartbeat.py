"""Tells a monitor such as healthchecks.io or Cronitor that a run begins and how it ended, so that silence is noticed.

It never fails a run and hardly delays it: the start is told from a thread of its own, and the end, after everything was
sent and recorded, gets a few seconds. A monitor that is not told is one line in the log, without the address.
"""

from __future__ import annotations

import re
import threading
import uuid
from urllib.parse import SplitResult, urlencode, urlsplit

import structlog

from reconcile import __version__
from reconcile.run.job import EXIT_INTERRUPTED, Order
from reconcile.settings import Settings

log = structlog.get_logger()

PATIENCE_SECONDS = 5.0
_UNTOLD = (4, EXIT_INTERRUPTED)


class Heartbeat:
    """The heartbeat of one run. `address` is a secret; None: nobody is told."""

    def __init__(self, address: str | None) -> None:
        self._address = address
        self._run = str(uuid.uuid4())
        self._start: threading.Thread | None = None

    @classmethod
    def of(cls, settings: Settings, order: Order) -> Heartbeat:
        """Of a `run` that may send: a backfill that ended well says nothing about the nights."""
        secret = settings.heartbeat_url if order.sends and order.command == "run" else None
        return cls(None if secret is None else secret.get_secret_value())

    def begins(self) -> None:
        """Returns at once; only the first call counts."""
        if self._address is not None and self._start is None:
            self._start = self._told(_start_of(self._address, self._run))

    def ended(self, exit_code: int) -> None:
        """Returns within `PATIENCE_SECONDS`.

        A run that met another one (4) leaves the word to that one. An interrupted run is not told to have failed: it
        has begun and not ended, which the monitor notices unless the next run comes in time.
        """
        if self._address is None or exit_code in _UNTOLD:
            return
        thread = self._told(_end_of(self._address, self._run, exit_code), after=self._start)
        thread.join(PATIENCE_SECONDS)
        if thread.is_alive():
            _warn(self._address, f"no answer within {PATIENCE_SECONDS:g} s")

    def _told(self, address: str, after: threading.Thread | None = None) -> threading.Thread:
        """Asks for the address in a thread, since looking up a name knows no timeout."""

        def ask() -> None:
            import httpx  # most runs have nobody to tell, and it takes a tenth of a second

            if after is not None:  # the end must not arrive before the start
                after.join()
            try:
                answer = httpx.get(
                    address, timeout=PATIENCE_SECONDS, headers={"user-agent": f"reconcile/{__version__}"}
                )
            except Exception as error:  # whatever it is, a run is worth more than its heartbeat
                _warn(address, f"does not answer ({type(error).__name__})")
            else:
                if not answer.is_success:
                    _warn(address, f"answered {answer.status_code}")

        thread = threading.Thread(target=ask, name="heartbeat", daemon=True)
        thread.start()
        return thread


def _start_of(address: str, run: str) -> str:
    parts = urlsplit(address)
    if _is_cronitor(parts):
        return _with(parts, {"state": "run", "series": run})
    return _with(parts, {"rid": run}, "start")


def _end_of(address: str, run: str, exit_code: int) -> str:
    parts = urlsplit(address)
    if _is_cronitor(parts):
        state = "fail" if exit_code else "complete"
        return _with(parts, {"state": state, "series": run, "status_code": str(exit_code)})
    return _with(parts, {"rid": run}, str(exit_code))


def _is_cronitor(parts: SplitResult) -> bool:
    """Cronitor's addresses end in /p/KEY/MONITOR; no address of healthchecks.io does, nor of one's own Healthchecks."""
    return re.fullmatch("/p/[^/]+/[^/]+/?", parts.path) is not None


def _with(parts: SplitResult, query: dict[str, str], step: str = "") -> str:
    path = f"{parts.path.rstrip('/')}/{step}" if step else parts.path
    return parts._replace(path=path, query="&".join(filter(None, (parts.query, urlencode(query))))).geturl()


def _warn(address: str, reason: str) -> None:
    log.warning("heartbeat not told", host=urlsplit(address).hostname, reason=reason)

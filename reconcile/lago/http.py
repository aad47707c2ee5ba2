"""HTTP to Lago: what is asked, what an answer means, and errors that say what to do.

Every request of the package goes through `Http`. Nothing here knows what an event is.
Facts are of Lago v1.51.0 unless a docstring names another version.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from time import time
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from reconcile import __version__
from reconcile.errors import Interrupted, LagoFault, PreflightError, ReconcileError, SettingsError
from reconcile.lago.body import braced, json_object, shown
from reconcile.lago.clock import ClockOffset
from reconcile.lago.gate import Gate
from reconcile.lago.patience import PREFLIGHT, Passing, Patience, RateLimited, Retry, Shared
from reconcile.lago.wire import NoAnswer, Response, Wire

Params = Sequence[tuple[str, str | int]]

_EXCERPT = 200  # characters of an answer that an error quotes
_EXCERPT_BYTES = 20_000  # of a page, in which they are looked for
# Characters of a key. Lago's have 36; a shorter text may be a part of any word of an answer.
_NO_WORD = 12
_CATALOG_PAGE = 100  # Lago's own default
_MOST_PAGES = 10_000  # of a list; more is a list that never ends


@dataclass(frozen=True)
class Answer:
    """An answer that the caller judges: a success, or one of the statuses that it asked for.

    `excerpt` is a short quote of a refusal for messages.
    """

    status: int
    content: bytes
    excerpt: str

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    @cached_property
    def body(self) -> dict[str, Any] | None:
        """The JSON object, None where there is none."""
        return json_object(self.content)


class Unserved(Exception):
    """A list that this Lago does not serve, or not with these parameters."""


class TooSlow(LagoFault):
    """Lago, or the proxy in front of it, gave up on a request that may ask for too much (504, or no answer in time)."""


class AnswerLost(LagoFault):
    """A request that must not be repeated blindly got no answer, or a 5xx: Lago may have done what it asked for."""


@dataclass(frozen=True, slots=True)
class _Call:
    """One request. See `Http.get` and `Http.post`."""

    method: str
    path: str
    target: str  # the path with its query, under the base
    content: bytes | None
    answers: Collection[int]
    gate: Gate | None = None
    items: Callable[[bytes], float] = len
    large: bool = False
    repeatable: bool = True
    whole: bool = True

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class Http:
    """A client for Lago's API under `base_url`/api/v1, usable from several threads.

    Raises `SettingsError` where the address or the key cannot be used at all. `stop` ends every wait early
    (`Interrupted`); a request that is already on the wire is read to its end.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        concurrency: int,
        timeout: float,
        retry: Retry,
        stop: threading.Event,
        ca_file: str | None = None,
    ) -> None:
        self._base = _checked_base(base_url)
        self._path = f"{urlsplit(self._base).path}/api/v1"
        self._key = _checked_key(api_key)
        self._headers = {
            "Authorization": f"Bearer {self._key}",
            "User-Agent": f"litellm-lago-reconcile/{__version__}",
            "Accept": "application/json",
            "Accept-Encoding": "gzip",
        }
        self._wire = _wire(self._base, timeout, ca_file)
        self._preflight = False
        self._shared = Shared()
        self._patience = Patience(retry, self._shared, stop)
        self.concurrency = concurrency
        self.stop = stop

    def preflight(self) -> Http:
        """A view on the same client that takes a wrong answer for what it is, at once: `PreflightError`."""
        view = copy.copy(self)
        view._preflight = True
        view._patience = replace(self._patience, retry=PREFLIGHT)
        return view

    @property
    def first_pause(self) -> float:
        """Seconds before something is tried for the second time."""
        return self._patience.retry.wait_initial

    def close(self) -> None:
        self._wire.close()

    @property
    def requests(self) -> int:
        """Requests sent so far, repeated ones included."""
        return self._shared.requests

    @property
    def retries(self) -> int:
        """Requests that had to be repeated so far: a fault, a refusal that may pass, or the rate limit."""
        return self._shared.retries

    def check_stop(self) -> None:
        """Raise `Interrupted` where a run was told to stop: called between the requests of a long read."""
        if self.stop.is_set():
            raise Interrupted("stopped between two requests to Lago")

    @property
    def clock_offset(self) -> ClockOffset | None:
        """How far Lago's clock is ahead of this host's, None where no answer had a `Date`."""
        return self._shared.clock.offset

    def get(
        self,
        path: str,
        params: Params = (),
        *,
        answers: Collection[int] = (),
        gate: Gate | None = None,
        items: Callable[[bytes], float] = len,
        large: bool = False,
        whole: bool = True,
    ) -> Answer:
        """GET a JSON object. Statuses in `answers` are the caller's to judge; every other refusal is held or
        raised.

        `gate` is the one that the request passes, `items` tells it from the answer how much work that was to Lago. A
        `large` request is not held where Lago does not answer it in time (`TooSlow`). Where not `whole`, the caller
        parses the answer itself, and a JSON object is known by its braces here.

        Raises `LagoFault` when Lago kept refusing or did not answer, `PreflightError` in a preflight view.
        """
        target = f"{self._path}{path}" + (f"?{urlencode(params)}" if params else "")
        return self._hold(_Call("GET", path, target, None, answers, gate, items, large, whole=whole))

    def post(
        self,
        path: str,
        content: bytes,
        *,
        answers: Collection[int] = (),
        gate: Gate | None = None,
        items: Callable[[bytes], float] = len,
        repeatable: bool = True,
    ) -> Answer:
        """POST a JSON document. It may reach Lago more than once, unless it is not `repeatable`: then `AnswerLost` is
        raised where Lago may have read it and did not say what became of it.
        """
        target = f"{self._path}{path}"
        return self._hold(
            _Call("POST", path, target, content, answers, gate, items, repeatable=repeatable, whole=False)
        )

    def pages(
        self, path: str, key: str, params: Params = (), *, answers: Collection[int] = ()
    ) -> Iterator[list[dict[str, Any]]]:
        """The items under `key`, page by page. Raises `Unserved` where the first page got one of `answers`.

        Follows `next_page`. Lago counts some lists from a cache, so the total is not to be trusted
        (pagination.rb). Raises `LagoFault` where the list does not end.
        """
        page: int | None = 1
        before: list[dict[str, Any]] = []
        while page is not None:
            self.check_stop()
            answer = self.get(path, [*params, ("page", page), ("per_page", _CATALOG_PAGE)], answers=answers)
            if not answer.ok:
                raise Unserved(answer.status)
            items = [item for item in as_list((answer.body or {}).get(key)) if isinstance(item, dict)]
            if page > _MOST_PAGES or (items and items == before):
                raise LagoFault(f"GET {path}: the list does not end (page {page})")
            yield items
            page, before = following(answer.body, page) if items else None, items

    def pause(self, seconds: float) -> None:
        """Wait before something is tried again. Raises `Interrupted` where a run is told to stop."""
        self._patience.pause(seconds)

    def _hold(self, call: _Call) -> Answer:
        return self._patience.hold(str(call), lambda: self._attempt(call))

    def _attempt(self, call: _Call) -> Answer:
        self._shared.pass_gate(self.stop)
        headers = self._headers if call.content is None else self._headers | {"Content-Type": "application/json"}
        entered = None if call.gate is None else call.gate.enter(self.stop)
        self._shared.count(requests=1)
        response: Response | None = None
        sent = time()
        try:
            response = self._wire.exchange(call.method, call.target, headers, call.content)
        except NoAnswer as none:
            raise self._unanswered(call, none) from None
        finally:
            if call.gate is not None and entered is not None:
                items = 0.0 if response is None else call.items(response.content)
                call.gate.leave(entered, items, None if response is None else response.status)
        if (date := response.headers.get("date")) is not None and "age" not in response.headers:
            self._shared.saw_date(date, sent, time())
        return self._judge(call, response)

    def _unanswered(self, call: _Call, none: NoAnswer) -> LagoFault:
        where = f"{self._base}/api/v1{call.path}"
        ask = "is it up, and is this its address?"
        if "WRONG_VERSION_NUMBER" in str(none):
            ask = "something answers there without TLS: is http:// meant, or another port?"
        what = self._redacted(f"LAGO_API_BASE: no answer from Lago to {call.method} {where} ({none}); {ask}")
        if none.timed_out and call.large:
            return TooSlow(what)
        if none.sent and not call.repeatable:
            return AnswerLost(what)
        return Passing(what)

    def _judge(self, call: _Call, response: Response) -> Answer:
        status, content = response.status, response.content
        if status >= 300 and len(self._key) >= _NO_WORD:
            # Servers have been seen to echo a request's headers, and any text of a refusal may be shown or kept.
            content = content.replace(self._key.encode(), b"[LAGO_API_KEY]")
        if status == 429:
            raise RateLimited(_reset_seconds(response.headers))
        if 200 <= status < 300:
            answer = Answer(status, content, "")
            if (answer.body is not None) if call.whole else braced(content):
                return answer
            if call.method == "POST" and not content:
                return answer  # Lago's ingest host answers a single event with nothing at all
        excerpt = self._redacted(content[:_EXCERPT_BYTES].decode("utf-8", "replace"))[:_EXCERPT]
        if 200 <= status < 300:
            if not call.repeatable:  # what was taken and what was not, nobody can tell
                raise AnswerLost(f"{call} answered {status} without a JSON object: {excerpt}".rstrip(": "))
            raise self._wrong_address(call, f"{status} without a JSON object", excerpt)
        if status in call.answers:
            return Answer(status, content, excerpt)
        if 300 <= status < 400:
            raise self._wrong_address(call, self._redacted(f"{status}, a redirect to {_place(response)}"), "")
        if status == 404:
            raise self._wrong_address(call, "404", excerpt)
        said = f"{call} answered {status}" + (f": {excerpt}" if excerpt else "")
        if status == 401:
            raise self._refused(f"Lago does not know the key in LAGO_API_KEY ({said}). Copy it from Lago's API keys")
        if status == 403:
            raise self._refused(
                f"LAGO_API_KEY lacks a permission ({said}). Let the key read and write events, and read "
                f"billable metrics, plans, subscriptions, customers and invoices"
            )
        if status == 504 and call.large:
            raise TooSlow(said)
        if status >= 500 or status in (408, 425):
            raise Passing(said) if call.repeatable else AnswerLost(said)
        raise self._refused(said)

    def _wrong_address(self, call: _Call, answered: str, excerpt: str) -> ReconcileError:
        quoted = f": {excerpt}" if excerpt else ""
        return self._refused(
            f"LAGO_API_BASE does not lead to Lago's API ({call} answered {answered}{quoted}). "
            f"Give the API's own address without /api/v1, such as http://localhost:3000"
        )

    def _refused(self, message: str) -> ReconcileError:
        """A wrong answer: final before the run, worth holding the request for once the run is under way."""
        return PreflightError(message) if self._preflight else Passing(message)

    def _redacted(self, text: str) -> str:
        """One line of words, without the key."""
        return shown(text.replace(self._key, "[LAGO_API_KEY]"))


def segment(text: str) -> str:
    """An ID as one segment of a path: `/`, `?` and `#` encoded, and never `.` or `..`."""
    return text.replace(".", "%2E") if text in (".", "..") else quote(text, safe="")


def following(body: dict[str, Any] | None, page: int) -> int | None:
    """The page after `page` by the answer's meta, or None at the end. Meta fields may be missing."""
    meta = as_dict((body or {}).get("meta"))
    if "next_page" in meta:
        candidate = as_int(meta["next_page"])
        return candidate if candidate is not None and candidate > page else None
    total_pages = as_int(meta.get("total_pages"))
    return page + 1 if total_pages is not None and page < total_pages else None


def as_dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def as_list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def as_int(value: object) -> int | None:
    """An integer from a JSON number or a decimal string; None for anything else."""
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            return int(value)
    return None


def as_text(value: object) -> str | None:
    return None if value is None else str(value)


def _checked_base(base_url: str) -> str:
    example = "such as http://localhost:3000"
    try:
        parts = urlsplit(base_url.strip())
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise SettingsError(f"LAGO_API_BASE is no http or https address: give Lago's own, {example}")
    if parts.username is not None or parts.query or parts.fragment:
        raise SettingsError(f"LAGO_API_BASE takes no user name, query or fragment: give the bare address, {example}")
    return base_url.strip().rstrip("/")


def _checked_key(api_key: str) -> str:
    # The client would quote a key that cannot stand in a header in its error.
    if not api_key or not api_key.isascii() or not api_key.isprintable() or " " in api_key:
        raise SettingsError(
            "LAGO_API_KEY is empty, or holds a character that a key cannot have (a space, a line break): "
            "copy it again from Lago's API keys"
        )
    return api_key


def _wire(base: str, timeout: float, ca_file: str | None) -> Wire:
    try:
        return Wire(base, timeout=timeout, ca_file=ca_file)
    except OSError as error:
        raise SettingsError(f"the file of further certificates cannot be read: {ca_file} ({error.strerror})") from None
    except ValueError as error:
        raise SettingsError(str(error)) from None


def _place(response: Response) -> str:
    """Where a redirect leads, without its query."""
    try:
        target = urlsplit(response.headers.get("location", ""))
        return f"{target.scheme}://{target.hostname}{target.path}"
    except ValueError:
        return "what is no address"


def _reset_seconds(headers: Mapping[str, str]) -> float | None:
    """Seconds until the limit opens: Lago Cloud's X-RateLimit-Reset, or a proxy's Retry-After."""
    for name in ("x-ratelimit-reset", "retry-after"):
        with suppress(KeyError, ValueError):
            seconds = float(headers[name])
            if 0 <= seconds < float("inf"):
                return seconds
    return None

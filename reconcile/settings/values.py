"""How the value of a setting is written: durations, numbers, lists, Lago's address, instants.

Every parser takes the text without surrounding space and raises ValueError with what is wrong with it.
A value that may hold a secret is never part of the message.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo
from decimal import Decimal
from functools import cache
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, available_timezones

from pydantic import SecretStr

from reconcile.domain import dates

PROPERTIES = (
    "model",
    "response_cost",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "input_tokens",
    "output_tokens",
    "request_id",
)
"""The names that an event's properties have inside `reconcile`, in the order in which they are sent."""


_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1))  # in milliseconds
_DURATION = re.compile("".join(f"(?:([0-9]{{1,12}}){unit})?" for unit, _ in _UNITS))
_LONGEST = "3660d"  # keeps every sum of an instant and durations within the calendar


def parse_duration(text: str) -> timedelta:
    """Read `90s`, `15m`, `72h`, `35d`, `250ms` or, from large to small, `1h30m`."""
    found = _DURATION.fullmatch(text)
    if not text or not found:
        raise ValueError(f"{shown(text)} is not a duration (whole numbers with the units d, h, m, s, ms)")
    milliseconds = sum(int(n or 0) * size for n, (_, size) in zip(found.groups(), _UNITS, strict=True))
    return timedelta(milliseconds=min(milliseconds, timedelta.max // timedelta(milliseconds=1)))


def duration_text(duration: timedelta) -> str:
    """The duration in the largest unit that gives a whole number: `3d`, `90s`, `0s`."""
    milliseconds = duration // timedelta(milliseconds=1)
    if not milliseconds:
        return "0s"
    unit, size = next((unit, size) for unit, size in _UNITS if milliseconds % size == 0)
    return f"{milliseconds // size}{unit}"


def shown(text: str) -> str:
    """A wrong value in a message: on one line, and not endless."""
    return repr(text if len(text) <= 60 else text[:57] + "…")


def duration(least: str, most: str = _LONGEST) -> Callable[[str], timedelta]:
    """A parser of durations from `least` to `most`."""
    bounds = parse_duration(least), parse_duration(most)

    def parse(text: str) -> timedelta:
        length = parse_duration(text)
        if not bounds[0] <= length <= bounds[1]:
            raise ValueError(f"{shown(text)} is out of range ({least} to {most})")
        return length

    return parse


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """A parser of whole numbers from `least` to `most`."""

    def parse(text: str) -> int:
        if not re.fullmatch("[0-9]{1,9}", text) or not least <= int(text) <= most:
            raise ValueError(f"{shown(text)} is not a whole number from {least} to {most}")
        return int(text)

    return parse


def one_of(*names: str) -> Callable[[str], str]:
    """A parser of one name out of `names`."""

    def parse(text: str) -> str:
        if text not in names:
            raise ValueError(f"{shown(text)} is none of {', '.join(names)}")
        return text

    return parse


def some_of(*names: str) -> Callable[[str], frozenset[str]]:
    """A parser of a comma list of names out of `names`."""

    def parse(text: str) -> frozenset[str]:
        for item in items(text):
            if item not in names:
                raise ValueError(f"{shown(item)} is none of {', '.join(names)}")
        return frozenset(items(text))

    return parse


def items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def lago_address(text: str) -> str:
    """Lago's address without `/api/v1`, trailing slashes and the scheme's own port; host in lower case."""
    wrong = "is not the http:// or https:// address of a Lago"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not re.fullmatch(r"[\w.:%-]+", host) or parts.scheme not in ("http", "https"):
        raise ValueError(wrong)
    if "@" in parts.netloc:
        raise ValueError("holds a user or a password; Lago wants the key alone, in LAGO_API_KEY")
    if parts.query or parts.fragment or re.search(r"\s", parts.path):
        raise ValueError(f"{wrong}: it holds a query, a fragment or a space")
    path = parts.path.rstrip("/").removesuffix("/api/v1").rstrip("/")
    usual_port = {"http": 80, "https": 443}[parts.scheme]
    place = (f"[{host}]" if ":" in host else host) + ("" if port in (None, usual_port) else f":{port}")
    return f"{parts.scheme}://{place}{path}"


def dask_address(text: str) -> str:
    """Where a Dask scheduler listens: HOST:PORT, or with one of Dask's schemes before it."""
    if not re.fullmatch(r"((tcp|tls|ws|wss)://)?([\w.-]+|\[[\w:.%]+\]):\d{1,5}", text):
        raise ValueError("is no address of a Dask scheduler (tcp:// or tls://, a host and a port)")
    return text


def api_key(text: str) -> SecretStr:
    """A key that can stand in an HTTP header."""
    if not re.fullmatch("[!-~]+", text):
        raise ValueError("holds a character that an HTTP header cannot carry")
    return SecretStr(text)


def time_zone(text: str) -> ZoneInfo:
    """A zone of the IANA database."""
    if text not in _zones():
        raise ValueError(f"{shown(text)} is not an IANA time zone")
    return ZoneInfo(text)


@cache
def _zones() -> frozenset[str]:
    """The names of all zones; to find them, some 600 files are opened."""
    # `localtime` is a file beside the zones: another zone on another machine.
    return frozenset(available_timezones() - {"localtime"})


def properties(text: str) -> dict[str, str]:
    """`name` or `name=sent_name`, separated by commas; empty means all of `PROPERTIES`."""
    sent: dict[str, str] = {}
    for item in items(text or ",".join(PROPERTIES)):
        name, equals, sent_name = (part.strip() for part in item.partition("="))
        if name not in PROPERTIES:
            raise ValueError(f"{shown(name)} is none of {', '.join(PROPERTIES)}")
        if equals and not sent_name:
            raise ValueError(f"{shown(item)} gives no name to send {name} under")
        if name in sent or (sent_name or name) in sent.values():
            raise ValueError(f"{shown(item)} names a property twice")
        sent[name] = sent_name or name
    if not sent:
        raise ValueError("names no property")
    return sent


def number_above_0(what: str) -> Callable[[str], Decimal]:
    """A parser of decimal numbers above 0; `what` names the number in the message."""

    def parse(text: str) -> Decimal:
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,15})?", text) or not Decimal(text):
            raise ValueError(f"{shown(text)} is not a decimal {what} above 0")
        return Decimal(text)

    return parse


def start(text: str, zone: tzinfo) -> datetime:
    """An instant: a date-time, or a date for its first instant in the zone."""
    return dates.parse(text, zone)


def names(text: str) -> frozenset[str]:
    """A comma list of names, which may be anything."""
    return frozenset(items(text))


def written(value: Any) -> str:
    """A setting's value as it would be written in the environment; passwords left out."""
    match value:
        case None:
            return ""
        case datetime():
            return dates.instant(value)
        case timedelta():
            return duration_text(value)
        case tuple():
            return ",".join(map(str, value))
        case frozenset():
            return ",".join(sorted(value))
        case dict():
            return ",".join(name if name == sent else f"{name}={sent}" for name, sent in value.items())
        case _:
            return str(value)

"""How the value of a setting is written: Postgres URLs, durations, numbers, lists, addresses.

Every parser takes the text without surrounding space and raises ValueError with what is wrong with it.
A value that may hold a secret is never part of the message.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import quote, quote_from_bytes, unquote, unquote_to_bytes, urlsplit
from zoneinfo import ZoneInfo, available_timezones

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr
from sqlalchemy.engine import URL

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


@dataclass(frozen=True, slots=True)
class Database:
    """Where a Postgres is. Neither `str` nor `repr` shows the password.

    `schema` is the schema of LiteLLM's tables. `libpq` is a URL for psycopg and ADBC, without the
    parameters that only Prisma knows; it holds the password.
    """

    schema: str
    libpq: str = field(repr=False)

    @property
    def sqlalchemy(self) -> str:
        """The same database as an SQLAlchemy URL for psycopg; it holds the password."""
        parts = self._parts()
        # Host and port stand in the query: only there can they name sockets and several hosts.
        return URL.create(
            "postgresql+psycopg",
            username=parts.pop("user", None),
            password=parts.pop("password", None),
            database=parts.pop("dbname", None),
            query=parts,
        ).render_as_string(hide_password=False)

    @property
    def display(self) -> str:
        """User, hosts, database and schema, as a URL that may be shown."""
        parts = self._parts()
        user = f"{quote(parts['user'], safe='')}@" if "user" in parts else ""
        hosts, ports = (parts.get(name, "").split(",") for name in ("host", "port"))
        places = ",".join(
            (f"[{host}]" if ":" in host else quote(host, safe="")) + (f":{port}" if port else "")
            for host, port in zip(hosts, ports, strict=False)
        )
        schema = "" if self.schema == "public" else f"?schema={quote(self.schema, safe='')}"
        return f"postgresql://{user}{places}/{quote(parts.get('dbname', ''), safe='')}{schema}"

    def _parts(self) -> dict[str, str]:
        parts = {name: str(value) for name, value in conninfo_to_dict(self.libpq).items()}
        hosts, ports = (parts.get(name, "").split(",") for name in ("host", "port"))
        if len(ports) == 1 < len(hosts):  # libpq takes one port for all hosts, SQLAlchemy does not
            parts["port"] = ",".join(ports * len(hosts))
        return parts

    def __str__(self) -> str:
        return self.display

    def __repr__(self) -> str:
        return f"Database({self.display!r})"


def database(text: str) -> Database:
    """Read a Postgres URL as libpq (psql) and Prisma write it.

    Parameters that libpq does not know are taken for Prisma's and left out, but for `schema`. An `@` or `:`
    in the password is percent-encoded where it was not: Prisma takes it as it is, libpq does not.
    """
    scheme, separator, rest = text.partition("://")
    if scheme not in ("postgresql", "postgres") or not separator:
        raise ValueError("is not a Postgres URL: it begins with postgresql:// or postgres://")
    rest, _, query = rest.partition("?")
    authority, slash, path = rest.partition("/")
    login, at, hosts = authority.rpartition("@")
    login = ":".join(quote_from_bytes(unquote_to_bytes(part), safe="") for part in login.split(":", 1))
    parameters = [(unquote(pair.partition("=")[0]), pair) for pair in query.split("&") if pair]
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    if not any(name == "sslkey" for name, _ in parameters):
        # Prisma's parameters of these names mean something else: a CA file, the password of a PKCS 12 file.
        known -= {"sslcert", "sslpassword"}
    kept = "&".join(pair for name, pair in parameters if name in known or pair == "ssl=true")
    schemas = [unquote(pair.partition("=")[2]) for name, pair in parameters if name == "schema"]
    libpq = f"postgresql://{login}{at}{hosts}{slash}{path}" + (f"?{kept}" if kept else "")
    try:
        ports = str(conninfo_to_dict(libpq).get("port", "")).split(",")
    except (psycopg.ProgrammingError, UnicodeDecodeError):
        ports = ["not understood"]  # these exceptions hold parts of the URL: let go of them
    if not all(re.fullmatch("[0-9]{0,5}", port) and int(port or 1) in range(1, 65536) for port in ports):
        raise ValueError("is not a Postgres URL; in user and password write / ? # % as %2F %3F %23 %25")
    return Database(schema=(schemas or [""])[-1] or "public", libpq=libpq)


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
        for item in _items(text):
            if item not in names:
                raise ValueError(f"{shown(item)} is none of {', '.join(names)}")
        return frozenset(_items(text))

    return parse


def _items(text: str) -> list[str]:
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


def api_key(text: str) -> SecretStr:
    """A key that can stand in an HTTP header."""
    if not re.fullmatch("[!-~]+", text):
        raise ValueError("holds a character that an HTTP header cannot carry")
    return SecretStr(text)


def secret_address(text: str) -> SecretStr:
    """An http or https address whose path may be a secret, as those of webhooks are."""
    try:
        parts = urlsplit(text)
        well = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        well = False
    if not well or not re.fullmatch("[!-~]+", text):
        raise ValueError("is not an http:// or https:// address")
    return SecretStr(text)


def mailbox(text: str) -> str:
    """An e-mail address."""
    if not re.fullmatch(r"[!-+./0-9:;=?A-~-]+@[A-Za-z0-9.-]+", text):
        raise ValueError(f"{shown(text)} is not an e-mail address")
    return text


def mailboxes(text: str) -> tuple[str, ...]:
    """E-mail addresses, separated by commas."""
    return tuple(mailbox(item) for item in _items(text))


@dataclass(frozen=True, slots=True)
class MailServer:
    """An SMTP server. `encrypted` from the first byte (smtps), else by STARTTLS where it is offered."""

    host: str
    port: int
    encrypted: bool
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    def __str__(self) -> str:
        return f"{'smtps' if self.encrypted else 'smtp'}://{self.host}:{self.port}"


def mail_server(text: str) -> MailServer:
    """`smtp://[user:password@]host[:port]` (port 25, or 587 with a user) or `smtps://…` (port 465)."""
    wrong = "is not a mail server: smtp://host:port or smtps://user:password@host:port, with / ? # % @ as %2F …"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.scheme not in ("smtp", "smtps") or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError(wrong)
    if bool(parts.username) != bool(parts.password):
        raise ValueError("has a user without a password, or a password without a user")
    usual = 465 if parts.scheme == "smtps" else 587 if parts.username else 25
    login = unquote(parts.username or ""), unquote(parts.password or "")
    return MailServer(host, port or usual, parts.scheme == "smtps", *login)


@dataclass(frozen=True, slots=True)
class Threshold:
    """Says when a class raises an alert: with more members than `count`, or more money than `spend` (USD)."""

    kind: str
    count: int | None
    spend: Decimal | None

    def __str__(self) -> str:
        if self.spend is not None:
            return f"{self.kind}>{self.spend}usd"
        return f"{self.kind}>{self.count}" if self.count else self.kind


def thresholds(*names: str) -> Callable[[str], tuple[Threshold, ...]]:
    """A parser of a comma list of `class`, `class>10` and `class>5.00usd`, with classes out of `names`."""

    def parse(text: str) -> tuple[Threshold, ...]:
        return tuple(_threshold(item, names) for item in _items(text))

    return parse


def _threshold(text: str, names: tuple[str, ...]) -> Threshold:
    found = re.fullmatch(r"([a-z_]+) *(?:> *([0-9]{1,12})(\.[0-9]{1,12})? *(usd)?)?", text, re.IGNORECASE)
    if not found or (found[3] and not found[4]):
        raise ValueError(f"{shown(text)} is not a class, class>10 or class>5.00usd")
    if found[1] not in names:
        raise ValueError(f"{shown(found[1])} is none of {', '.join(names)}")
    if found[4]:
        return Threshold(found[1], None, Decimal(found[2] + (found[3] or "")))
    return Threshold(found[1], int(found[2] or 0), None)


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def listen_address(text: str) -> ListenAddress | None:
    """An address and a port, such as 127.0.0.1:9464; `off` is none. Port 0 takes a free one."""
    if text == "off":
        return None
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    if not colon or not host or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError(f"{shown(text)} is neither an address with a port, such as 127.0.0.1:9464, nor off")
    return ListenAddress(host, int(port))


def time_zone(text: str) -> ZoneInfo:
    """A zone of the IANA database."""
    # `localtime` is a file beside the zones: another zone on another machine.
    if text not in available_timezones() - {"localtime"}:
        raise ValueError(f"{shown(text)} is not an IANA time zone")
    return ZoneInfo(text)


def properties(text: str) -> dict[str, str]:
    """`name` or `name=sent_name`, separated by commas; empty means all of `PROPERTIES`."""
    sent: dict[str, str] = {}
    for item in _items(text or ",".join(PROPERTIES)):
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


def factor(text: str) -> Decimal:
    """A decimal number above 0."""
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,15})?", text) or not Decimal(text):
        raise ValueError(f"{shown(text)} is not a decimal factor above 0")
    return Decimal(text)


def written(value: Any) -> str:
    """A setting's value as it would be written in the environment; passwords left out."""
    match value:
        case None:
            return ""
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

"""How a Postgres is named: as one URL, or as LiteLLM's own parts of one. No message holds a password."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, quote_from_bytes, unquote, unquote_to_bytes

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.engine import URL

LIVENESS: Final[Mapping[str, str]] = {
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
"""Parameters of libpq for each connection, where its URL does not give them: a server whose machine is gone is found
out within about a minute. Left to the kernel, it takes up to two hours."""


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


_RAW: Final = (
    "has a raw @, / ? or # in its user or password; write them as %40 %2F %3F %23, or set DATABASE_HOST and the other "
    "parts, which are taken as they are"
)


def database(text: str) -> Database:
    """Read a Postgres URL as libpq (psql) and Prisma write it.

    Parameters that libpq does not know are taken for Prisma's and left out, but for `schema`. An `@`, `/`, `?` or `#`
    of a user or password is percent-encoded in it: a raw one leaves open where the password ends, so that a piece of
    it could pass for a host's name, and be shown.
    """
    scheme, separator, rest = text.partition("://")
    if scheme not in ("postgresql", "postgres") or not separator:
        raise ValueError("is not a Postgres URL: it begins with postgresql:// or postgres://")
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    if "#" in rest or rest.count("@") > 1 or rest.count("@") > authority.count("@"):
        raise ValueError(_RAW)
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
    if not _understood(libpq):
        raise ValueError("is not a Postgres URL; in user and password write @ / ? # % as %40 %2F %3F %23 %25")
    return Database(schema=(schemas or [""])[-1] or "public", libpq=libpq)


PARTS: Final[Mapping[str, tuple[str, str, str]]] = {
    # name: default, meaning, example
    "DATABASE_HOST": (
        "",
        "LiteLLM's Postgres by its parts, where `DATABASE_URL` is not set: its host",
        "db.example.com",
    ),
    "DATABASE_PORT": ("5432", "Its port", "6432"),
    "DATABASE_USER": ("", "Its user; `DATABASE_USERNAME` is the same", "litellm"),
    "DATABASE_USERNAME": ("", "Its user, where `DATABASE_USER` is not set", "litellm"),
    "DATABASE_PASSWORD": (
        "",
        "Its password, as it is: nothing is encoded; never printed, logged or stored",
        "pass/word",
    ),
    "DATABASE_NAME": ("", "Its database", "litellm"),
    "DATABASE_SCHEMA": ("public", "The schema of LiteLLM's tables in it", "litellm"),
    "DATABASE_SSLMODE": ("", "Its `sslmode`; empty: libpq's own, `prefer`", "verify-full"),
    "DATABASE_SSLROOTCERT": ("", "Its certificate authority; alone it means `verify-full`", "/etc/ssl/postgres.pem"),
}
"""LiteLLM's own names for the parts of its database, with its meaning."""


class WrongPartError(ValueError):
    """A part that is missing or wrong. `name` is the setting's."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(problem)
        self.name = name


def of_parts(parts: Mapping[str, str]) -> Database:
    """The database that the parts name, each as it is. Raises `WrongPartError`."""
    user = parts.get("DATABASE_USER") or parts.get("DATABASE_USERNAME", "")
    needed = {"DATABASE_HOST": parts.get("DATABASE_HOST"), "DATABASE_USER": user}
    for name, text in (needed | {"DATABASE_NAME": parts.get("DATABASE_NAME")}).items():
        if not text:
            given = next(iter(parts))
            raise WrongPartError(name, f"is not set, beside {given}; set it, or DATABASE_URL alone")
    certificate, mode = parts.get("DATABASE_SSLROOTCERT", ""), parts.get("DATABASE_SSLMODE", "")
    mode = mode or ("verify-full" if certificate else "")
    if mode and mode not in _SSL_MODES:
        raise WrongPartError("DATABASE_SSLMODE", f"is none of {', '.join(_SSL_MODES)}")
    port = parts.get("DATABASE_PORT", "")
    if port and not (re.fullmatch("[0-9]{1,5}", port) and int(port) in range(1, 65536)):
        raise WrongPartError("DATABASE_PORT", "is not a port")
    host = parts["DATABASE_HOST"]
    password = parts.get("DATABASE_PASSWORD", "")
    login = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
    has_port = re.fullmatch(r"(?:[^:\[\]]+|\[[^\]]+\]):[0-9]+", host)  # as LiteLLM's own example has it
    place = host if has_port or host.startswith("[") else f"[{host}]" if ":" in host else quote(host, safe="")
    query = {name: quote(text, safe="") for name, text in (("sslmode", mode), ("sslrootcert", certificate)) if text}
    libpq = f"postgresql://{login}@{place}{f':{port}' if port and not has_port else ''}"
    libpq += f"/{quote(parts['DATABASE_NAME'], safe='')}"
    libpq += "?" * bool(query) + "&".join(f"{name}={text}" for name, text in query.items())
    if not _understood(libpq):
        raise WrongPartError("DATABASE_HOST", "is not the name or address of a host")
    return Database(schema=parts.get("DATABASE_SCHEMA") or "public", libpq=libpq)


_SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


def _understood(libpq: str) -> bool:
    """Whether libpq takes the URL. Its own exceptions hold parts of it, and go no further."""
    try:
        ports = str(conninfo_to_dict(libpq).get("port", "")).split(",")
    except (psycopg.ProgrammingError, UnicodeDecodeError):
        return False
    return all(re.fullmatch("[0-9]{0,5}", port) and int(port or 1) in range(1, 65536) for port in ports)

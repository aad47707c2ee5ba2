"""How the settings of alerts and metrics are written: webhooks, mail servers, thresholds, a listening address.

Every parser takes the text without surrounding space and raises ValueError with what is wrong with it.
A value that may hold a secret is never part of the message.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from reconcile.settings.values import items, shown


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
    return tuple(mailbox(item) for item in items(text))


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
        return tuple(_threshold(item, names) for item in items(text))

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

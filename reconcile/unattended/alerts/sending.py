"""How an alert reaches people: a Slack-compatible webhook and e-mail. Faults are retried, then logged, never raised."""

from __future__ import annotations

import html
import smtplib
import ssl
import threading
from collections.abc import Callable, Sequence
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Protocol
from urllib.parse import urlsplit

import httpx
import structlog
from tenacity import (
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_after_attempt,
    stop_any,
    stop_when_event_set,
    wait_exponential,
)
from tenacity.wait import wait_base

from reconcile.settings import Settings
from reconcile.settings.alerting import MailServer
from reconcile.unattended.alerts.message import Alert

log = structlog.get_logger()

ATTEMPTS = 4
_PAUSE = wait_exponential(multiplier=2, max=20)  # 2, 4 and 8 seconds
_TIMEOUT_SECONDS = 10.0


class Undelivered(Exception):
    """A channel did not take an alert; the message holds no secret. `passing`: another try may succeed."""

    def __init__(self, message: str, *, passing: bool) -> None:
        super().__init__(message)
        self.passing = passing


class Channel(Protocol):
    """One way to people. `name` is webhook or email."""

    name: str

    def deliver(self, alert: Alert) -> None:
        """Raises Undelivered."""


class Webhook:
    """A POST of `{"text": …}`, as Slack, Mattermost, Discord's /slack and others take it."""

    name = "webhook"

    def __init__(self, address: str) -> None:
        self._address = address
        self._host = urlsplit(address).hostname  # the rest is a secret

    def deliver(self, alert: Alert) -> None:
        try:
            # Slack takes <…> for a link or a call to everybody.
            text = html.escape(f"*{alert.subject}*\n{alert.text}", quote=False)
            answer = httpx.post(self._address, json={"text": text}, timeout=_TIMEOUT_SECONDS)
        except httpx.HTTPError as error:
            raise Undelivered(f"{self._host} does not answer ({type(error).__name__})", passing=True) from None
        if not answer.is_success:
            passing = answer.status_code == 429 or answer.is_server_error
            raise Undelivered(f"{self._host} answered {answer.status_code}", passing=passing)


class Email:
    """One message to all recipients."""

    name = "email"

    def __init__(self, server: MailServer, sender: str, recipients: Sequence[str]) -> None:
        self._server, self._sender, self._recipients = server, sender, list(recipients)

    def deliver(self, alert: Alert) -> None:
        message = EmailMessage()
        message["Subject"] = alert.subject
        message["From"] = self._sender
        message["To"] = ", ".join(self._recipients)
        message["Date"] = formatdate()
        message["Message-ID"] = make_msgid(domain=self._sender.rpartition("@")[2])
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(alert.text)
        try:
            with self._connected() as smtp:
                smtp.send_message(message, self._sender, self._recipients)
        except smtplib.SMTPRecipientsRefused as error:
            passing = all(400 <= code < 500 for code, _ in error.recipients.values())
            raise Undelivered(f"{self._server} refuses every recipient", passing=passing) from None
        except smtplib.SMTPResponseException as error:
            text = f"{self._server} answered {error.smtp_code} ({type(error).__name__})"
            raise Undelivered(text, passing=400 <= error.smtp_code < 500) from None
        except ssl.SSLCertVerificationError as error:
            raise Undelivered(
                f"{self._server}: certificate not trusted: {error.verify_message}", passing=False
            ) from None
        except (OSError, smtplib.SMTPException) as error:
            raise Undelivered(f"{self._server} does not answer ({type(error).__name__})", passing=True) from None

    def _connected(self) -> smtplib.SMTP:
        server, context = self._server, ssl.create_default_context()
        if server.encrypted:
            smtp: smtplib.SMTP = smtplib.SMTP_SSL(server.host, server.port, timeout=_TIMEOUT_SECONDS, context=context)
        else:
            smtp = smtplib.SMTP(server.host, server.port, timeout=_TIMEOUT_SECONDS)
        try:
            encrypted = server.encrypted
            smtp.ehlo_or_helo_if_needed()
            if not encrypted and smtp.has_extn("starttls"):
                smtp.starttls(context=context)
                encrypted = True
            if server.user:
                if not encrypted:
                    raise Undelivered(f"{server} offers no encryption: the password is not sent", passing=False)
                smtp.login(server.user, server.password)
        except BaseException:
            smtp.close()
            raise
        return smtp


def channels(settings: Settings) -> list[Channel]:
    """The channels that are set; none where alerts are not wanted."""
    found: list[Channel] = []
    if settings.alert_webhook is not None:
        found.append(Webhook(settings.alert_webhook.get_secret_value()))
    if settings.alert_email_to:
        sender = settings.alert_email_from or settings.alert_email_to[0]
        found.append(Email(settings.smtp, sender, settings.alert_email_to))
    return found


def send(
    alert: Alert,
    to: Sequence[Channel],
    *,
    stop: threading.Event | None = None,
    pause: wait_base = _PAUSE,
    told: Callable[[str, bool], None] | None = None,
) -> bool:
    """Hands an alert to every channel; says whether all took it. Raises nothing.

    A fault that may pass is retried, four attempts in all, until `stop` is set. `told` learns each channel's outcome.
    """
    stop = stop or threading.Event()
    results = []
    for channel in to:
        taken = _delivered(channel, alert, stop, pause)
        results.append(taken)
        if told is not None:
            told(channel.name, taken)
    return all(results)


def _delivered(channel: Channel, alert: Alert, stop: threading.Event, pause: wait_base) -> bool:
    attempts = Retrying(
        retry=retry_if_exception(lambda error: isinstance(error, Undelivered) and error.passing),
        stop=stop_any(stop_after_attempt(ATTEMPTS), stop_when_event_set(stop)),
        wait=pause,
        sleep=sleep_using_event(stop),
        reraise=True,
    )
    try:
        attempts(channel.deliver, alert)
    except Exception as error:  # whatever it is, a run is worth more than its alert
        reason = str(error) if isinstance(error, Undelivered) else type(error).__name__
        log.error("alert not delivered", channel=channel.name, kind=alert.kind, reason=reason)
        return False
    log.info("alert delivered", channel=channel.name, kind=alert.kind)
    return True

"""Alerts reach a real webhook and a real mail server, are retried, and never raise."""

from __future__ import annotations

import threading
from urllib.parse import quote

import pytest
from structlog.testing import capture_logs
from tenacity import wait_none

from reconcile import settings
from reconcile.unattended import alerts
from reconcile.unattended.alerts.sending import ATTEMPTS

from .conftest import PASSWORD, SECRET_PATH, USER, Certificate, Hook, MailServers

ALERT = alerts.Alert("discrepancies", "reconcile: llm_usage: 12 orphan", "orphan>10 & <!channel>\nZürich 团队\n")


def channels(**environ: str) -> list[alerts.Channel]:
    required = {
        "DATABASE_URL": "postgresql://db/litellm",
        "LAGO_API_BASE": "http://lago",
        "LAGO_API_KEY": "k",
        "LAGO_API_EVENT_CODE": "llm_usage",
    }
    return alerts.channels(settings.load({**required, **environ}, None))


def by_mail(url: str, **environ: str) -> list[alerts.Channel]:
    return channels(RECONCILE_ALERT_EMAIL_TO="finance@example.com,ops@example.com", RECONCILE_SMTP_URL=url, **environ)


def send(to: list[alerts.Channel]) -> tuple[bool, str]:
    """Whether it was taken, and the log, which holds no secret."""
    with capture_logs() as logs:
        taken = alerts.send(ALERT, to, pause=wait_none())
    text = str(logs)
    assert SECRET_PATH not in text
    assert PASSWORD not in text
    return taken, text


def test_no_channel_is_set_by_default() -> None:
    assert channels() == []
    assert send([]) == (True, "[]")


def test_a_webhook_gets_a_slack_message(hook: Hook) -> None:
    assert send(channels(RECONCILE_ALERT_WEBHOOK=hook.url))[0]
    assert hook.took() == ["*reconcile: llm_usage: 12 orphan*\norphan&gt;10 &amp; &lt;!channel&gt;\nZürich 团队\n"]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_webhook_that_fails_for_a_while_is_tried_again(hook: Hook, status: int) -> None:
    hook.planned = [status] * (ATTEMPTS - 1)
    assert send(channels(RECONCILE_ALERT_WEBHOOK=hook.url))[0]
    assert len(hook.took()) == 1


def test_a_webhook_that_goes_on_failing_is_given_up(hook: Hook) -> None:
    hook.planned = [500] * 99
    taken, log = send(channels(RECONCILE_ALERT_WEBHOOK=hook.url))
    assert not taken
    assert "127.0.0.1 answered 500" in log
    assert len(hook.planned) == 99 - ATTEMPTS


def test_a_webhook_that_refuses_is_not_tried_again(hook: Hook) -> None:
    hook.planned = [404] * 99
    assert not send(channels(RECONCILE_ALERT_WEBHOOK=hook.url))[0]
    assert len(hook.planned) == 98


def test_a_webhook_that_nobody_serves_is_a_line_in_the_log() -> None:
    taken, log = send(channels(RECONCILE_ALERT_WEBHOOK=f"http://127.0.0.1:1{SECRET_PATH}"))
    assert not taken
    assert "127.0.0.1 does not answer (ConnectError)" in log


def test_a_process_that_stops_does_not_go_on_trying(hook: Hook) -> None:
    hook.planned = [500] * 99
    stop = threading.Event()
    stop.set()
    assert not alerts.send(ALERT, channels(RECONCILE_ALERT_WEBHOOK=hook.url), stop=stop)
    assert len(hook.planned) == 98


def test_one_mail_to_all(mail_servers: MailServers) -> None:
    mail = mail_servers()
    assert send(by_mail(f"smtp://127.0.0.1:{mail.port}", RECONCILE_ALERT_EMAIL_FROM="reconcile@example.com"))[0]
    ((sender, recipients, message),) = mail.envelopes
    assert sender == "reconcile@example.com"
    assert recipients == ["finance@example.com", "ops@example.com"]
    assert message["Subject"] == ALERT.subject
    assert message["To"] == "finance@example.com, ops@example.com"
    assert message["Message-ID"].endswith("@example.com>")
    assert message["Date"]
    assert message.get_content().replace("\r\n", "\n") == ALERT.text


def test_the_sender_is_the_first_recipient_where_none_is_set(mail_servers: MailServers) -> None:
    mail = mail_servers()
    assert send(by_mail(f"smtp://127.0.0.1:{mail.port}"))[0]
    assert mail.envelopes[0][0] == "finance@example.com"


def test_a_mail_server_that_is_busy_is_tried_again_and_one_that_refuses_is_not(mail_servers: MailServers) -> None:
    mail = mail_servers()
    mail.planned = ["451 later"]
    assert send(by_mail(f"smtp://127.0.0.1:{mail.port}"))[0]
    mail.planned = ["554 spam"] * 9
    taken, log = send(by_mail(f"smtp://127.0.0.1:{mail.port}"))
    assert not taken
    assert "answered 554" in log
    assert len(mail.planned) == 8


def test_a_mail_server_that_is_away_is_a_line_in_the_log() -> None:
    taken, log = send(by_mail("smtp://127.0.0.1:1"))
    assert not taken
    assert "smtp://127.0.0.1:1 does not answer (ConnectionRefusedError)" in log


def test_a_channel_that_fails_does_not_keep_the_other_from_it(hook: Hook, mail_servers: MailServers) -> None:
    mail = mail_servers()
    hook.planned = [404]
    both = by_mail(f"smtp://127.0.0.1:{mail.port}", RECONCILE_ALERT_WEBHOOK=hook.url)
    assert [channel.name for channel in both] == ["webhook", "email"]
    assert not send(both)[0]
    assert len(mail.envelopes) == 1


LOGIN = f"{USER}:{quote(PASSWORD, safe='')}"


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")
def test_no_password_without_encryption(mail_servers: MailServers) -> None:
    mail = mail_servers(login=True, auth_require_tls=False)
    taken, log = send(by_mail(f"smtp://{LOGIN}@127.0.0.1:{mail.port}"))
    assert not taken
    assert "offers no encryption: the password is not sent" in log
    assert (mail.logins, mail.envelopes) == ([], [])


@pytest.mark.usefixtures("trusted")
def test_starttls_and_login(mail_servers: MailServers, certificate: Certificate) -> None:
    mail = mail_servers(login=True, tls_context=certificate.context)
    assert send(by_mail(f"smtp://{LOGIN}@127.0.0.1:{mail.port}"))[0]
    assert (mail.logins, mail.encrypted) == ([(USER, PASSWORD)], [True])


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")
@pytest.mark.usefixtures("trusted")
def test_smtps_and_login(mail_servers: MailServers, certificate: Certificate) -> None:
    mail = mail_servers(login=True, ssl_context=certificate.context, auth_require_tls=False)
    assert send(by_mail(f"smtps://{LOGIN}@127.0.0.1:{mail.port}"))[0]
    assert (mail.logins, len(mail.envelopes)) == ([(USER, PASSWORD)], 1)


def test_a_certificate_that_nobody_trusts_gets_no_password(mail_servers: MailServers, certificate: Certificate) -> None:
    mail = mail_servers(login=True, tls_context=certificate.context)
    taken, log = send(by_mail(f"smtp://{LOGIN}@127.0.0.1:{mail.port}"))
    assert not taken
    assert "certificate not trusted: self-signed certificate" in log
    assert mail.logins == []


@pytest.mark.usefixtures("trusted")
def test_a_wrong_password_is_not_tried_again(mail_servers: MailServers, certificate: Certificate) -> None:
    mail = mail_servers(login=True, tls_context=certificate.context)
    taken, log = send(by_mail(f"smtp://{USER}:wrong@127.0.0.1:{mail.port}"))
    assert not taken
    assert "answered 535 (SMTPAuthenticationError)" in log
    assert {password for _, password in mail.logins} == {"wrong"}

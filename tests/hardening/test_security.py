"""Secrets stay where they are, the network is not trusted, and what strangers wrote does nothing."""

from __future__ import annotations

import csv
import itertools
import json
import ssl
import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from acceptance.harness import Ran
from alerts.conftest import Hook, hook  # noqa: F401 - a fixture
from integration.spend_rows import DAY, row
from psycopg import sql

from reconcile.run import job

from .conftest import Siege
from .hostile_lago import HangUp, HostileLago, Reply, Request, answer, refused, serving

pytestmark = pytest.mark.usefixtures("impatient")

HOUR = ("--from", "2025-11-20T00:00:00Z", "--to", "2025-11-20T01:00:00Z")
PASSWORD = "canary p@ss/w?rd#%&=:'\"\\ü"
SMTP_PASSWORD = "canary-smtp-p4ss"
ROLE = "canary_reader"
FORMATS = [part for name in ("html", "xlsx", "csv", "json") for part in ("--format", name)]


@pytest.fixture
def canaries(siege: Siege, hook: Hook) -> Iterator[Siege]:  # noqa: F811
    """A siege whose every secret is a canary. All that a run prints is searched for them, and in the end the ledger and
    every file that was written."""
    name, place = siege.database_url.rsplit("/", 1)[1], siege.database_url.rpartition("@")[2]
    with psycopg.connect(siege.database_url, autocommit=True) as connection:
        role = sql.Identifier(ROLE)
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(PASSWORD)))
        connection.execute(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {}").format(role))
        connection.execute(sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(sql.Identifier(name), role))
    encoded = quote(PASSWORD, safe="")
    siege.environment |= {
        "DATABASE_URL": f"postgresql://{ROLE}:{encoded}@{place}",
        "RECONCILE_ALERT_WEBHOOK": hook.url,
        "RECONCILE_ALERT_EMAIL_TO": "ops@example.com",
        "RECONCILE_HEARTBEAT_URL": "http://127.0.0.1:1/canary-heartbeat",
        "RECONCILE_SMTP_URL": f"smtp://canary:{SMTP_PASSWORD}@127.0.0.1:1",
    }
    siege.secrets |= {
        PASSWORD,
        encoded,
        "w?rd",
        quote("w?rd", safe=""),
        SMTP_PASSWORD,
        hook.url.rsplit("/", 1)[1],
        "canary-heartbeat",
    }
    siege.add_rows([row(f"r-{number}", DAY + timedelta(seconds=number)) for number in range(3)])
    siege.monkeypatch.setattr("reconcile.unattended.alerts.sending.ATTEMPTS", 1)
    try:
        yield siege
        siege.no_secret_is_kept()
    finally:
        with psycopg.connect(siege.database_url, autocommit=True) as connection:
            connection.execute("DROP SCHEMA IF EXISTS reconcile CASCADE")
            connection.execute(sql.SQL("DROP OWNED BY {0} CASCADE; DROP ROLE {0}").format(sql.Identifier(ROLE)))


def everything(siege: Siege, **settings: str) -> list[Ran]:
    """Every command that can end differently, as loud as it can be."""
    loud = {"RECONCILE_LOG_LEVEL": "debug", "RECONCILE_TIMEOUT": "1s", **settings}
    files = ("--output", str(siege.folder / "reports"), *FORMATS)
    return [
        siege.run("check", **loud),
        siege.run("run", *files, RECONCILE_LOG_FORMAT="human", **loud),
        siege.run("backfill", "--json", *HOUR, *files, **loud),
        siege.run("runs", "--json", **loud),
        siege.run("test-alert", **loud),
    ]


def echo(status: int, headers: bool = False) -> Callable[[Request], Reply]:
    """A server that shows what it was sent, as debugging pages do."""

    def reply(request: Request) -> Reply:
        told = json.dumps(request.headers)
        if headers:
            return Reply(status, b"", {"Location": f"https://elsewhere.example/{quote(told)}?{told}"})
        return Reply(status, f"<html>You sent {told}</html>".encode(), {"Content-Type": "text/html"})

    return reply


def hangs_up(request: Request) -> Reply:
    raise HangUp


FAILURES = {
    "everything works": lambda request: None,
    "echoed in a page of 500": echo(500),
    "echoed in a page of 200": echo(200),
    "echoed in an address": echo(302, headers=True),
    "echoed in a refusal": lambda request: (
        refused({"x": [request.headers["authorization"]]}) if request.posts else None
    ),
    "hangs up": hangs_up,
}


@pytest.mark.parametrize("trap", FAILURES.values(), ids=FAILURES)
def test_no_secret_in_whatever_lago_does(canaries: Siege, trap: Callable[[Request], Reply | None]) -> None:
    canaries.hostile.trap = trap
    codes = [ran.code for ran in everything(canaries)]
    assert (codes[2] == 0) == (trap is FAILURES["everything works"])
    assert codes[-1] != 0  # no mail server listens


BAD_DATABASES = {
    "wrong password": {"DATABASE_URL": "postgresql://{role}:{other}@{place}"},
    "raw password": {"DATABASE_URL": "postgresql://{role}:{raw}@{place}"},
    "no such host": {"DATABASE_URL": "postgresql://{role}:{encoded}@nowhere.invalid/litellm"},
    "nobody listens": {"DATABASE_URL": "postgresql://{role}:{encoded}@127.0.0.1:1/litellm"},
    "no such database": {"DATABASE_URL": "postgresql://{role}:{encoded}@{host}/none"},
    "no such option": {"DATABASE_URL": "postgresql://{role}:{encoded}@{place}?sslmode=canary"},
    "no such certificate": {"DATABASE_URL": "postgresql://{role}:{encoded}@{place}?sslmode=verify-full&sslrootcert=/x"},
    "half an escape": {"DATABASE_URL": "postgresql://{role}:{encoded}%@{place}"},
    "another state": {"RECONCILE_STATE_URL": "postgresql://{role}:{other}@{place}"},
    "state without a host": {"RECONCILE_STATE_URL": "postgresql://{role}:{encoded}@nowhere.invalid/litellm"},
}


@pytest.mark.parametrize("settings", BAD_DATABASES.values(), ids=BAD_DATABASES)
def test_no_secret_in_whatever_postgres_does(canaries: Siege, settings: dict[str, str]) -> None:
    place = canaries.database_url.rpartition("@")[2]
    words = {
        "role": ROLE,
        "place": place,
        "host": place.split("/")[0],
        "raw": PASSWORD,
        "encoded": quote(PASSWORD, safe=""),
        "other": quote(PASSWORD, safe="") + "x",
    }
    given = {name: text.format(**words) for name, text in settings.items()}
    for command in (("check",), ("backfill", "--json", *HOUR), ("runs",)):
        ran = canaries.run(*command, RECONCILE_LOG_LEVEL="debug", **given)
        assert ran.code in (2, 3), ran.err
    assert canaries.hostile.posts() == []


def test_the_parts_of_a_password_with_every_sign(canaries: Siege) -> None:
    host, _, port = canaries.database_url.rpartition("@")[2].split("/")[0].partition(":")
    parts = {"HOST": host, "PORT": port, "USER": ROLE, "NAME": canaries.database_url.rsplit("/", 1)[1]}
    settings = {f"DATABASE_{name}": text for name, text in parts.items()} | {"DATABASE_PASSWORD": PASSWORD}
    del canaries.environment["DATABASE_URL"]
    assert canaries.backfill(*HOUR, **settings).code == 0
    assert canaries.backfill(*HOUR, **settings | {"DATABASE_PASSWORD": PASSWORD + "x"}).code == 2


@pytest.mark.parametrize("command", [("run",), ("backfill", *HOUR)])
def test_a_defect_names_its_place_and_nothing_else(
    canaries: Siege,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    hook: Hook,  # noqa: F811
) -> None:
    """What nobody foresaw is exit code 3 and no traceback: who reads the exit code must not take it for a finding."""

    def breaks(*arguments: object) -> None:
        raise TypeError(f"cannot unpack {canaries.environment['DATABASE_URL']} with {canaries.hostile.key}")

    monkeypatch.setattr(job, "make_plan", breaks)
    ran = canaries.run(*command)
    assert (ran.code, ran.out) == (3, "")
    assert "a defect of reconcile stopped it: TypeError at test_security.py:" in ran.err
    assert len(hook.bodies) == (command == ("run",))


def test_no_secret_on_any_command_line(canaries: Siege) -> None:
    """Looked at while the run waits for Lago, workers and all."""
    found: list[str] = []

    def look(request: Request) -> Reply | None:
        if request.lists:
            for line in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    found.append(line.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
                except OSError:
                    continue
        return None

    canaries.hostile.trap = look
    ran = canaries.ended(canaries.start("backfill", "--json", *HOUR, RECONCILE_WORKERS="2"))
    assert ran.code == 0, ran.err
    assert any("backfill" in line for line in found)
    for line in found:
        canaries.no_secret_in(line)


# --- TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that is its own authority, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "36500", "-subj", "/CN=lago",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


def test_a_certificate_is_checked_and_an_authority_of_the_house_is_named_by_ssl_cert_file(
    siege: Siege, authority: tuple[Path, Path]
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority)
    siege.add_rows([row("r-1", DAY)])
    with serving(HostileLago(), context) as lago:
        lago.subscribe("team-a")
        ran = siege.backfill(*HOUR, LAGO_API_BASE=lago.url)
        assert ran.code == 3
        assert "SSL_CERT_FILE names a file of the authorities" in ran.document["fault"]["message"]
        assert lago.seen == []
        ran = siege.backfill(*HOUR, LAGO_API_BASE=lago.url, SSL_CERT_FILE=str(authority[0]))
        assert ran.code == 0, ran.err
        assert lago.billed() == {"r-1": 1}
        # The name has to be right, too.
        elsewhere = lago.url.replace("127.0.0.1", "localhost")
        assert siege.backfill(*HOUR, LAGO_API_BASE=elsewhere, SSL_CERT_FILE=str(authority[0])).code == 3


@pytest.mark.parametrize(("address", "warned"), [("http://lago.example", True), ("http://127.0.0.1:1", False)])
def test_check_warns_of_a_key_that_travels_in_the_open(siege: Siege, address: str, warned: bool) -> None:
    ran = siege.run("check", LAGO_API_BASE=address, HTTP_PROXY="http://127.0.0.1:1")
    assert ran.code == 2
    assert ("note  LAGO_API_BASE: plain http to another machine" in ran.err) == warned


# --- names of strangers

FORMULAS = ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1", "\n=1", "＝1", "'=1", "=cmd|'/c calc'!A1", "<script>x</script>"]


def test_no_cell_is_a_formula_and_nothing_is_markup(siege: Siege) -> None:
    for place, name in enumerate(FORMULAS):
        siege.add_rows([row(name, DAY + timedelta(seconds=place), end_user=name, model=name)])
    folder = siege.folder / "reports"
    ran = siege.run("report", "--json", *HOUR, "--output", str(folder), *FORMATS, LAGO_API_CHARGE_BY="end_user_id")
    assert ran.count("rows", "held") == len(FORMULAS)
    texts = ("charge_id", "model", "request_id")
    for path in folder.glob("*.csv"):
        with path.open(encoding="utf-8-sig", newline="") as file:
            for line in csv.DictReader(file):
                assert not [line[name] for name in texts if name in line and line[name][:1] in tuple("=+-@\t\r\n＝")]
    (page,) = folder.glob("*.html")
    assert "<script>x</script>" not in page.read_text(encoding="utf-8")
    (names,) = folder.glob("*.by-charge-id.csv")
    assert "'=1+1" in names.read_text(encoding="utf-8-sig")


def test_a_name_that_is_no_text_in_a_command_line(siege: Siege) -> None:
    """Bytes that are no UTF-8 come as halves of surrogate pairs."""
    for arguments in (
        ("show", "\udcff"),
        ("report", *HOUR, "--event-code", "\udcff"),
        ("report", "--from", "\udcff", "--to", "x"),
    ):
        assert siege.run(*arguments).code in (2, 3)
    assert siege.run("check", LAGO_API_EVENT_CODE="caf\udce9").code == 2


def test_two_hundred_is_not_the_end_of_it(siege: Siege) -> None:
    """A Lago that answers everything with 200 and an empty object gets no run to agree."""
    siege.add_rows([row("r-1", DAY)])
    numbers = itertools.count()
    siege.hostile.trap = lambda request: answer({}) if next(numbers) >= 2 else None
    ran = siege.backfill(*HOUR, RECONCILE_VISIBLE_WITHIN="1s", RECONCILE_UNCOVERED="push")
    assert ran.code in (1, 3)
    assert siege.hostile.billed() == {}

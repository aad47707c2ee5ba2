"""The callback alone, as it is installed into a proxy's image: what it brings along, and what it shares."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path
from zipfile import ZipFile

from .litellm_proxy import ROOT

HEAVY = (
    "pandas",
    "pyarrow",
    "sqlalchemy",
    "numpy",
    "psycopg",
    "pydantic",
    "structlog",
    "alembic",
    "typer",
    "adbc_driver_manager",
)
SOURCES = ("domain/event.py", "domain/money.py", "domain/dates.py")


def test_a_fresh_environment_gets_httpx_and_nothing_heavy(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "fresh", with_pip=True)
    python = tmp_path / "fresh" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", wheel], check=True)
    listed = subprocess.run([python, "-m", "pip", "list", "--format=json"], check=True, capture_output=True)
    names = {one["name"].lower() for one in json.loads(listed.stdout)}
    assert names <= {
        *("litellm-lago-callback", "httpx", "httpcore", "h11", "anyio", "idna", "sniffio", "certifi"),
        *("typing-extensions", "typing_extensions", "pip", "setuptools"),
    }
    code = (
        "import json, sys, reconcile.callback, litellm_lago_callback.callback as ours\n"
        "from litellm_lago_callback.callback import posting, row_event, sender\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    ran = subprocess.run([python, "-I", "-c", code], check=True, capture_output=True, cwd=tmp_path)
    assert not set(HEAVY) & set(json.loads(ran.stdout))
    asked = subprocess.run(
        [python, "-I", "-c", "import reconcile.callback; reconcile.callback.lago"], capture_output=True, cwd=tmp_path
    )
    assert b"runs in LiteLLM's proxy" in asked.stderr


def test_importing_the_job_or_the_callback_loads_nothing_heavy() -> None:
    code = "import sys, reconcile, reconcile.callback; print(sorted(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert not [name for name in HEAVY if f"'{name}'" in ran.stdout]


def test_both_distributions_share_no_file_and_one_identity(wheel: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        tmp_path,
        ROOT,
    ]
    subprocess.run(command, check=True)
    (job,) = tmp_path.glob("litellm_lago_reconcile-*.whl")
    with ZipFile(job) as of_job, ZipFile(wheel) as of_callback:
        assert not set(of_job.namelist()) & set(of_callback.namelist())
        for source in SOURCES:
            assert of_callback.read(f"litellm_lago_callback/{source}") == of_job.read(f"reconcile/{source}")
        mine = {name for name in of_callback.namelist() if "/callback/" in name}
        assert {name.rsplit("/", 1)[1] for name in mine} == {
            one.name for one in (ROOT / "reconcile" / "callback").glob("*.py")
        }
        site = tmp_path / "site"
        of_job.extractall(site)
        of_callback.extractall(site)
    code = (
        "import reconcile.callback, reconcile.domain.event, litellm_lago_callback.domain.event as other;"
        "print(reconcile.callback.__file__, reconcile.domain.event.transaction_id('c', 'a', 'r', 1)"
        " == other.transaction_id('c', 'a', 'r', 1))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(site)!r}); {code}"],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert ran.stdout.split() == [str(site / "reconcile" / "callback" / "__init__.py"), "True"]

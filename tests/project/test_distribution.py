"""What people install: the wheel and the sdist, in an environment that has nothing else, run the demo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest
from uv import find_uv_bin

ROOT = Path(__file__).parents[2]
CARRIED = {
    "reconcile/py.typed",
    "reconcile/cron.yaml",
    "reconcile/callback/hook.py",
    "reconcile/ledger/migrations/script.py.mako",
    "reconcile/sandbox/data/sample_traffic.json.gz",
    *(f"reconcile/report/languages/{one.name}" for one in (ROOT / "reconcile/report/languages").glob("*.toml")),
    *(f"reconcile/report/templates/{one.name}" for one in (ROOT / "reconcile/report/templates").iterdir()),
    *(f"reconcile/ledger/migrations/versions/{one.name}" for one in (ROOT / "reconcile/ledger").rglob("0*.py")),
    *(f"reconcile/unattended/alerts/templates/{one.name}" for one in (ROOT / "reconcile/unattended").rglob("*.j2")),
    *(f"reconcile/sql/{one.name}" for one in (ROOT / "sql").glob("*.sql")),
}
# Without the callback's own hook into LiteLLM's proxy, which is not there.
IMPORT_ALL = """
import importlib, pkgutil, reconcile
for module in pkgutil.walk_packages(reconcile.__path__, "reconcile."):
    if module.name not in ("reconcile.__main__", "reconcile.callback.hook", "reconcile.ledger.migrations.env"):
        importlib.import_module(module.name)
print(reconcile.__file__)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist of the checkout, and the wheel of that sdist."""
    folder, source = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("source")
    build = [sys.executable, "-m", "hatchling", "build", "-d", folder]
    subprocess.run([*build, "-t", "sdist"], cwd=ROOT, check=True, capture_output=True)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(source, filter="data")
    (unpacked,) = source.iterdir()
    subprocess.run([*build, "-t", "wheel"], cwd=unpacked, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return sdist, wheel


def test_the_wheel_carries_all_that_is_no_code(built: tuple[Path, Path]) -> None:
    _, wheel = built
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name for name in CARRIED if name not in names} == set()
    assert len(CARRIED) > 30
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"reconcile", "litellm_lago_reconcile"}


def test_both_run_in_a_fresh_environment(built: tuple[Path, Path], tmp_path: Path) -> None:
    sdist, wheel = built
    fresh = tmp_path / "fresh"
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | {
        name: value for name, value in os.environ.items() if name.startswith(("UV_", "PIP_", "SSL_")) or "proxy" in name
    }

    def ran(*command: str | Path, code: int = 0) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        return done.stdout

    install = (find_uv_bin(), "pip", "install", "--quiet", "--python", fresh / "bin" / "python")
    ran(find_uv_bin(), "venv", "--quiet", "--python", sys.executable, fresh)
    # Everything that it imports is declared: nothing else is there.
    ran(*install, "--constraint", ROOT / "constraints.txt", f"{wheel}[sandbox]")
    assert ran(fresh / "bin" / "python", "-I", "-c", IMPORT_ALL).startswith(str(fresh))
    assert "reconcile " in ran(fresh / "bin" / "reconcile", "--version")
    ran(fresh / "bin" / "reconcile", "demo", "--output", "demo", code=1)
    (report,) = (tmp_path / "demo").glob("*.json")
    assert json.loads(report.read_text(encoding="utf-8"))["verified"] is True
    assert list((tmp_path / "demo").glob("*.html"))

    site = next((fresh / "lib").glob("python3*/site-packages"))
    of_wheel = {path.relative_to(site): path.read_bytes() for path in _files(site)}
    # The build tool is there: what is built from source needs no network.
    ran(*install, "hatchling", "--constraint", ROOT / "constraints.txt")
    ran(*install, "--no-deps", "--no-build-isolation", "--reinstall", sdist)
    assert {path.relative_to(site): path.read_bytes() for path in _files(site)} == of_wheel
    assert "reconcile " in ran(fresh / "bin" / "reconcile", "--version")


def _files(site: Path) -> list[Path]:
    return [path for path in (site / "reconcile").rglob("*") if path.is_file() and path.suffix != ".pyc"]

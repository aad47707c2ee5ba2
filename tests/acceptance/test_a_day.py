"""A day of a busy proxy, and the installed program far from its checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from integration.spend_rows import DAY, a_day, billable, row

from .harness import PROGRAM, World

ROWS = 100_000
MEGABYTES = 500
ROOT = Path(__file__).parent.parent.parent

# Between this process and the program, so that the peak is not that of this process (Linux hands it on by fork).
MEASURED = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


def test_a_hundred_thousand_rows_and_an_empty_lago(world: World) -> None:
    rows = a_day(ROWS, seed=100)
    world.add_rows(rows)
    world.subscribe()
    expected = dict.fromkeys(billable(rows), 1)
    del rows
    ran = subprocess.run(
        [sys.executable, "-c", MEASURED, PROGRAM, "backfill", "--json", "--from", "2025-11-20", "--to", "2025-11-20"],
        env={**os.environ, **world.environment},
        cwd=world.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    document = json.loads(ran.stdout)
    assert document["status"] == "agreed"
    assert document["verified"] is True
    assert document["rows"]["delivered"]["count"] == len(expected)
    assert document["rows"]["total"]["count"] == ROWS
    assert world.billed() == expected
    peak = int(ran.stderr.splitlines()[-1]) / 1024
    print(f"peak {peak:.0f} MB, stages {document['method']['stage_seconds']}")
    assert peak < MEGABYTES


def test_a_wheel_works_far_from_its_checkout(world: World, tmp_path: Path) -> None:
    """Statements, migrations, templates and the sample cron.yaml travel inside it."""
    wheels = tmp_path / "wheels"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, ROOT]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = wheels.glob("*.whl")
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    subprocess.run([*pip, "--python", python, "install", "--no-deps", wheel], check=True, capture_output=True)
    # The dependencies are borrowed from this environment. Its own installation of the checkout is not: a path that a
    # .pth file names is searched, and the .pth files in it are not read.
    asked = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = subprocess.run([python, "-c", asked], check=True, capture_output=True, text=True).stdout.strip()
    Path(packages, "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return subprocess.run(
            [environment / "bin" / "reconcile", *arguments],
            env={**clean, **world.environment},
            cwd=world.folder,
            capture_output=True,
            text=True,
            check=False,
        )

    where = subprocess.run(
        [python, "-c", "import reconcile; print(reconcile.__file__)"],
        check=True,
        capture_output=True,
        text=True,
        cwd=world.folder,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    ).stdout
    assert where.startswith(packages)

    world.add_rows([row("r-1", DAY), row("r-2", DAY, team_id="")])
    world.subscribe()
    assert run("check").returncode == 0
    reports = world.folder / "reports"
    ran = run(
        "backfill", "--from", "2025-11-20", "--to", "2025-11-20", "--output", str(reports), "--format", "html",
        "--format", "xlsx", "--lang", "zh-CN",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert world.billed() == {"r-1": 1}
    assert len(list(reports.iterdir())) == 2
    assert run("runs").returncode == 0
    assert "Traceback" not in ran.stderr
    assert Path(packages, "reconcile", "cron.yaml").is_file()

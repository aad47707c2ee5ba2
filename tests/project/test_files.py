"""The files that tools read: each is what its reader takes, and they agree on versions and commands."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path
from shutil import which
from types import ModuleType
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from trove_classifiers import classifiers

from reconcile import __version__

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
HIDDEN = {".venv", ".git", "node_modules"}


def files(*patterns: str) -> list[Path]:
    found = chain.from_iterable(ROOT.rglob(pattern) for pattern in patterns)
    return sorted(path for path in found if not HIDDEN & set(path.relative_to(ROOT).parts[:1]))


def test_every_yaml_file_is_one() -> None:
    read = 0
    for path in files("*.yml", "*.yaml"):
        if "templates" not in path.parts:  # those are Helm's
            assert list(yaml.safe_load_all(path.read_text(encoding="utf-8"))) != [], path
            read += 1
    assert read > 15


@pytest.mark.parametrize(
    ("schema", "pattern"),
    [
        ("vendor.github-workflows", "workflows/*.yml"),
        ("custom.github-workflows-require-timeout", "workflows/*.yml"),
        ("vendor.github-issue-forms", "ISSUE_TEMPLATE/[!c]*.yml"),
        ("vendor.github-issue-config", "ISSUE_TEMPLATE/config.yml"),
        ("vendor.dependabot", "dependabot.yml"),
    ],
)
def test_what_github_reads_is_right_by_its_schema(schema: str, pattern: str) -> None:
    paths = list(GITHUB.glob(pattern))
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *paths]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout
    assert paths


def test_workflows_run_what_there_is() -> None:
    jobs = {}
    for path in (GITHUB / "workflows").glob("*.yml"):
        workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
        # What a workflow may do is said job by job; all may do no more than read.
        assert workflow["permissions"] == {"contents": "read"}, path
        jobs |= {f"{path.stem}/{name}": job for name, job in workflow["jobs"].items()}
        text = path.read_text(encoding="utf-8")
        for named in re.findall(r"(?:\.ci/|tools/|charts/)[\w/.-]+", text):
            assert (ROOT / named).exists(), named
        assert re.findall(r"uses: (?!\S+@(?:v\d|release/v\d))\S+", text) == []
    assert [step["run"] for step in jobs["ci/run"]["steps"] if "run" in step] == [".ci/run"]
    assert jobs["release/pypi"]["permissions"] == {"id-token": "write"}  # trusted publishing, and no token
    assert "secrets." not in (GITHUB / "workflows" / "release.yml").read_text(encoding="utf-8")

    pythons = jobs["ci/run"]["strategy"]["matrix"]["python"]
    classified = [one.rsplit(" :: ", 1)[1] for one in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", one)]
    assert pythons == classified
    assert pythons[0] in SpecifierSet(PROJECT["requires-python"])


def test_the_project_names_one_version_and_known_classifiers() -> None:
    assert PROJECT["version"] == __version__
    assert set(PROJECT["classifiers"]) <= classifiers
    assert {"Homepage", "Documentation", "Repository", "Changelog", "Issues"} == set(PROJECT["urls"])


def test_the_hooks_before_a_commit_have_the_versions_of_the_constraints() -> None:
    pinned = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if "==" in line
    )
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    of = {repository["repo"].rsplit("/", 1)[-1]: repository.get("rev", "") for repository in hooks}
    assert Version(of["ruff-pre-commit"]) == Version(pinned["ruff"])
    assert Version(of["check-jsonschema"]) == Version(pinned["check-jsonschema"])


def test_cron_yaml_is_right_by_its_schema() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--schemafile", "docs/cron.schema.json", "cron.yaml"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0


def test_the_justfile_has_five_verbs_that_lead_somewhere() -> None:
    text = (ROOT / "justfile").read_text(encoding="utf-8")
    verbs = re.findall(r"^([a-z]+)(?: \*what)?:$", text, re.MULTILINE)
    assert verbs == ["setup", "test", "lint", "docs", "ci"]
    assert all((ROOT / named).exists() for named in re.findall(r"tools/[\w.]+|\.ci/\w+", text))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for line in ("python3 -m venv .venv", ".venv/bin/pip install -q -c constraints.txt -e '.[test]'"):
        assert line in text
        assert line in readme


def test_shell_scripts_are_readable_by_a_shell() -> None:
    assert which("sh") is not None
    subprocess.run(["sh", "-n", ROOT / ".ci" / "run"], check=True)


def test_the_task_for_airflow_goes_by_the_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's own code, beside stand-ins for Airflow's names and a `reconcile` that exits as it is told."""
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "airflow.md").read_text(encoding="utf-8"), re.DOTALL)
    program = tmp_path / "reconcile"
    program.write_text("#!/bin/sh\nexit $WANTED\n", encoding="utf-8")
    program.chmod(0o755)
    tasks: dict[str, Any] = {}
    made: dict[str, ModuleType] = {name: ModuleType(name) for name in ("airflow", "airflow.sdk", "airflow.exceptions")}
    names = ("AirflowException", "AirflowFailException", "AirflowSkipException")
    made["airflow.exceptions"].__dict__.update({name: type(name, (Exception,), {}) for name in names})

    def task(**options: Any) -> Any:
        return lambda function: tasks.setdefault(function.__name__, function) and (lambda: None)

    made["airflow.sdk"].__dict__.update(dag=lambda **options: lambda function: function, task=task)
    made["pendulum"] = ModuleType("pendulum")
    made["pendulum"].__dict__.update(datetime=lambda *_, **__: None, duration=lambda **_: None)
    for name, module in made.items():
        monkeypatch.setitem(sys.modules, name, module)
    code = block.replace("/opt/reconcile/bin/reconcile", str(program)).replace("/etc/reconcile", str(tmp_path))
    assert str(program) in code
    exec(compile(code, "docs/airflow.md", "exec"), {})

    ended = {}
    for exit_code in (0, 1, 2, 3, 4, 130):
        monkeypatch.setenv("WANTED", str(exit_code))
        try:
            tasks["night"]()
            ended[exit_code] = "success"
        except Exception as error:
            ended[exit_code] = type(error).__name__
    skip, fail, retry = "AirflowSkipException", "AirflowFailException", "AirflowException"
    assert ended == {0: "success", 1: skip, 2: fail, 3: retry, 4: skip, 130: retry}

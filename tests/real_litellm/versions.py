"""The LiteLLMs that the tests drive, each in an environment and a process of its own.

Two versions cannot be installed side by side. One is the `test` extra's; the tests make an environment for each other
one, once, from its `requirements-VERSION.txt` and PyPI, and keep it in pytest's cache.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from .live import RequestSpec

VERSIONS = ("1.106.2", "1.110.2")
NEWEST = VERSIONS[-1]

_HERE = Path(__file__).parent
_TIMES = ("startTime", "endTime", "completionStartTime")


class LiteLLM:
    """A running LiteLLM of one version. Use it as a context manager."""

    def __init__(self, version: str, python: Path) -> None:
        self.version = version
        environment = {**os.environ, "PYTHONPATH": str(_HERE.parent)}
        self._process = subprocess.Popen(
            [str(python), "-m", "real_litellm.driver"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=_HERE,
        )

    def __enter__(self) -> LiteLLM:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)

    def drive(
        self, lago_base: str, key: str, code: str, charge_by: str, requests: Sequence[RequestSpec]
    ) -> list[dict[str, Any]]:
        """As `live.drive`: sends the requests one after another, and gives their rows."""
        with self.gateway(lago_base, key, code, charge_by) as send:
            return [send(spec) for spec in requests]

    @contextmanager
    def gateway(
        self, lago_base: str, key: str, code: str, charge_by: str
    ) -> Iterator[Callable[[RequestSpec], dict[str, Any]]]:
        """As `live.gateway`: gives a function from a RequestSpec to its row."""
        self._ask("open", [lago_base, key, code, charge_by])
        try:
            yield lambda spec: _typed(self._ask("send", asdict(spec)))
        finally:
            self._ask("close", None)

    def _ask(self, verb: str, value: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({verb: value}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of LiteLLM {self.version} ended with {self._process.wait(timeout=30)}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"LiteLLM {self.version}: {answer['error']}")
        return answer["done"]


@pytest.fixture(scope="session", params=VERSIONS)
def litellm(request: pytest.FixtureRequest) -> Iterator[LiteLLM]:
    """Every LiteLLM of VERSIONS in turn."""
    cache = Path(request.config.cache.mkdir("litellm"))
    try:
        python = interpreter(request.param, cache)
    except subprocess.CalledProcessError:
        pytest.skip(f"LiteLLM {request.param} cannot be installed: is PyPI within reach?")
    with LiteLLM(request.param, python) as running:
        yield running


def interpreter(version: str, cache: Path) -> Path:
    """The Python of an environment that holds this LiteLLM; where it is not the test extra's, one is made in `cache`.

    Raises `subprocess.CalledProcessError` where it cannot be installed.
    """
    if importlib.metadata.version("litellm") == version:
        return Path(sys.executable)
    requirements = _HERE / f"requirements-{version}.txt"
    made_of = sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:12]
    environment = cache / f"{version}-{made_of}"
    python = environment / "bin" / "python"
    with open(cache / f"{version}.lock", "w") as lock:  # the workers of a parallel run wait for the first
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (environment / "made").exists():
            shutil.rmtree(environment, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
            install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
            subprocess.run([*install, "--requirement", str(requirements)], check=True)
            (environment / "made").touch()
    return python


def _typed(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, **{name: datetime.fromisoformat(row[name]) for name in _TIMES}}

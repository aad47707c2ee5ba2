"""LiteLLM's real proxy of two versions, each in an environment of its own, with the callback from its wheel.

The environments are made once, inside the test's virtual environment, from the package index. The proxy has no
database: its rows are written down as its own code hands them to the writer (proxy/rows_beside.py). Providers are a
server on loopback.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import httpx
import psycopg
from real_litellm.loopback import providers

ROOT = Path(__file__).parents[2]
PARTS = Path(__file__).parent / "proxy"
START_SECONDS = 180.0

# litellm[proxy]==1.110.2 pins releases of its parts that the index does not have.
REQUIREMENTS = {
    "1.106.2": ["litellm[proxy]==1.106.2", "prometheus-client"],
    "1.110.2": [
        "litellm==1.110.2",
        "litellm-proxy-extras==0.4.110",
        "litellm-enterprise==0.1.83",
        "prometheus-client",
        *("apscheduler", "azure-identity", "azure-storage-blob", "backoff", "backports-zstd", "boto3", "cryptography"),
        *("expression", "fastapi", "fastapi-sso", "gunicorn", "hiredis", "inquirerpy", "mcp", "orjson", "polars"),
        *("pyjwt", "pynacl", "python-multipart", "pyyaml", "restrictedpython", "rich", "rq", "semver", "soundfile"),
        *("tomlkit", "uvicorn", "uvloop", "websockets"),
    ],
}

_MODELS = {
    "gpt-4o-mini": "openai/gpt-4o-mini",
    "gpt-4o-eu": "azure/gpt-4o",
    "claude": "anthropic/claude-sonnet-4-5-20250929",
    "qwen": "hosted_vllm/Qwen/Qwen2.5-7B-Instruct",
    "instruct": "text-completion-openai/gpt-3.5-turbo-instruct",
    "embed": "openai/text-embedding-3-small",
    "image": "openai/dall-e-3",
    "bridged": "openai/responses/gpt-4o-mini",
}


def python_with(version: str) -> Path:
    """The Python of an environment with that LiteLLM's proxy; made where it is not there."""
    place = Path(sys.prefix) / f"litellm-proxy-{version}"
    python = place / "bin" / "python"
    done = place / "made"
    with place.with_name(f"{place.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another test process may be making it
        if not done.exists():
            shutil.rmtree(place, ignore_errors=True)
            venv.create(place, with_pip=True)
            # A fifth of the modules is ever imported; those are compiled then.
            install = [python, "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check"]
            subprocess.run([*install, *REQUIREMENTS[version]], check=True)
            done.touch()
    return python


def build_wheel(directory: Path) -> Path:
    """The wheel of the callback alone, built from this checkout."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", directory, ROOT / "callback"], check=True)
    (wheel,) = directory.glob("*.whl")
    return wheel


class Forked:
    """A process that is not this one's child."""

    def __init__(self, pid: int) -> None:
        self._descriptor = os.pidfd_open(pid)

    def has_ended(self, seconds: float = 0) -> bool:
        """Waits for its end, at most so long."""
        return bool(select.select([self._descriptor], [], [], seconds)[0])

    def wait(self, seconds: float = 60) -> None:
        assert self.has_ended(seconds), f"it has not ended in {seconds} s"

    def send_signal(self, number: signal.Signals) -> None:
        signal.pidfd_send_signal(self._descriptor, number)

    def close(self) -> None:
        """Ends it where it has not ended."""
        if not self.has_ended():
            self.send_signal(signal.SIGKILL)
        self.wait()
        os.close(self._descriptor)


@dataclass
class Proxy:
    """A running proxy. `rows` are what its writer was handed so far."""

    url: str
    process: Forked
    rows_file: Path
    output: Path
    key: str = "sk-team-a.user-1.org-x"
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=60))

    def rows(self) -> list[dict[str, Any]]:
        if not self.rows_file.exists():
            return []
        return [json.loads(line) for line in self.rows_file.read_text(encoding="utf-8").splitlines()]

    def ask(self, path: str, body: dict[str, Any], key: str | None = None, **headers: str) -> httpx.Response:
        """One request, to the end of its answer."""
        sent = {"Authorization": f"Bearer {key or self.key}", **{k.replace("_", "-"): v for k, v in headers.items()}}
        return self.client.post(self.url + path, json=body, headers=sent)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


@contextmanager
def proxy(
    version: str, wheel: Path, directory: Path, settings: dict[str, str], callbacks: Sequence[str], **more: Any
) -> Iterator[Proxy]:
    """Run the proxy with the callback's wheel and `settings` in its environment; `more` goes into litellm_settings."""
    directory.mkdir(parents=True, exist_ok=True)
    site = directory / "site"
    ZipFile(wheel).extractall(site)
    shutil.copy(PARTS / "rows_beside.py", directory)
    rows_file, output = directory / "rows.jsonl", directory / "output.log"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with providers() as base:
        config = directory / "config.yaml"
        config.write_text(json.dumps(_config(base, [*callbacks, "rows_beside.logger"], more)), encoding="utf-8")
        process = _forked(
            version,
            {
                "arguments": ["--config", str(config), "--host", "127.0.0.1", "--port", str(port)],
                "directory": str(directory),
                "environment": _environment(site, rows_file, settings),
                "output": str(output),
            },
        )
        running = Proxy(f"http://127.0.0.1:{port}", process, rows_file, output)
        try:
            _wait_until_ready(running)
            yield running
        finally:
            process.close()
            running.client.close()


@cache
def _nursery(version: str) -> subprocess.Popen[str]:
    """A process that has imported that proxy; it ends with this one."""
    return subprocess.Popen(
        [python_with(version), PARTS / "nursery.py"],
        env=_of_litellm(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _forked(version: str, order: dict[str, Any]) -> Forked:
    nursery = _nursery(version)
    assert nursery.stdin is not None
    assert nursery.stdout is not None
    nursery.stdin.write(json.dumps(order) + "\n")
    nursery.stdin.flush()
    return Forked(int(nursery.stdout.readline()))


def _of_litellm() -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TZ") if name in os.environ}
    return {**kept, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False", "NO_PROXY": "*"}


def _environment(site: Path, rows_file: Path, settings: dict[str, str]) -> dict[str, str]:
    return {**_of_litellm(), "PYTHONPATH": str(site), "ROWS_FILE": str(rows_file), **settings}


def _config(base: str, callbacks: list[str], more: dict[str, Any]) -> dict[str, Any]:
    models = []
    for name, model in _MODELS.items():
        params: dict[str, Any] = {"model": model, "api_base": f"{base}/v1", "api_key": "none"}
        if model.startswith("azure/"):
            params |= {"api_base": base, "api_version": "2024-10-21"}
        if model.startswith("anthropic/"):
            params["api_base"] = base
        models.append({"model_name": name, "litellm_params": params})
    return {
        "model_list": models,
        "litellm_settings": {"callbacks": callbacks, "num_retries": 0, **more},
        "general_settings": {"custom_auth": "rows_beside.who", "master_key": "sk-d41c3e0a9b77f2c58e1a6b"},
    }


def _wait_until_ready(running: Proxy) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if running.process.has_ended():
            break
        try:
            if httpx.get(running.url + "/health/liveliness", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise RuntimeError(f"the proxy did not start:\n{running.output.read_text(encoding='utf-8')[-4000:]}")


_JSON_COLUMNS = ("metadata", "request_tags", "messages", "response", "proxy_server_request")


def insert(database_url: str, rows: Sequence[dict[str, Any]]) -> None:
    """Put rows into LiteLLM's table as its own statement does since 1.110: times as text, and Postgres rounds them."""
    with psycopg.connect(database_url) as connection:
        found = connection.execute(
            "SELECT column_name FROM information_schema.columns WHERE table_name = 'LiteLLM_SpendLogs'"
        ).fetchall()
        known = {name for (name,) in found}
        for row in rows:
            kept = {name: value for name, value in row.items() if name in known}
            for name in _JSON_COLUMNS:
                if isinstance(kept.get(name), str):
                    kept[name] = json.loads(kept[name])
            columns = ", ".join(f'"{name}"' for name in kept)
            connection.execute(
                f'INSERT INTO "LiteLLM_SpendLogs" ({columns}) SELECT {columns} FROM '
                'jsonb_populate_recordset(NULL::"LiteLLM_SpendLogs", %s::jsonb) ON CONFLICT DO NOTHING',
                [json.dumps([kept])],
            )

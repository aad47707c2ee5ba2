"""Plays a recording of a real Lago to the sandbox, and tells where it is answered otherwise."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from reconcile.sandbox.lago import LagoStandIn

DATA = Path(__file__).parents[1] / "data" / "lago"
PREFIX = "c7f3b1"

TEMPLATE = re.compile(r"\{(\w+)([+-][\d.]+)?\}")
LETTERS = re.compile(r"x(\d+)")
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
NUMBER_GIVEN = re.compile(r"\b[A-Z]{3}-[0-9A-F]{4}(-\d{3})*\b")
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
LONGEST = 400
# An instant in this range of seconds after the beginning is written as a name.
NEAR = range(-5, 901)
EACH_REQUEST = timedelta(milliseconds=10)


@dataclass(frozen=True, slots=True)
class Difference:
    """One value of one answer. `path` names the step of the case and the place in the answer."""

    case: str
    path: str
    want: Any
    got: Any

    def __str__(self) -> str:
        return f"{self.case}  {self.path}: want {_short(self.want)}, got {_short(self.got)}"


@dataclass(slots=True)
class Recording:
    name: str
    begun: datetime
    cases: list[dict[str, Any]]

    @classmethod
    def read(cls, name: str) -> Recording:
        content = json.loads(gzip.decompress((DATA / f"{name}.json.gz").read_bytes()))
        return cls(name, datetime.fromisoformat(content["recorded_at"]), content["cases"])


@dataclass(slots=True)
class Player:
    """Sends the steps and names in the answers what is different in every playing. The stand-in's clock is set."""

    stand_in: LagoStandIn
    client: httpx.Client
    key: str
    begun: datetime
    names: dict[str, str] = field(default_factory=dict)
    instants: dict[int, str] = field(default_factory=dict)  # milliseconds: how a request wrote it
    clock: datetime = field(init=False)

    def __post_init__(self) -> None:
        self.names |= {"r": PREFIX, "key": self.key}
        self.clock = self.begun
        self.stand_in.now = lambda: self.clock

    def differences(self, case: dict[str, Any]) -> list[Difference]:
        found = []
        for number, step in enumerate(case["steps"], 1):
            want, got = step["answer"], self.play(step)
            at = f"{number} {step['method']} {step['path']}"
            for part in ("status", "body"):
                found += [
                    Difference(case["id"], f"{at} {path}", *two) for path, *two in _unlike(want[part], got[part], part)
                ]
        return found

    def play(self, step: dict[str, Any]) -> dict[str, Any]:
        self.clock += timedelta(seconds=step.get("wait", 0)) + EACH_REQUEST
        headers = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        for name, value in step.get("headers", {}).items():
            del headers[name.lower()]
            if value is not None:
                headers[name.lower()] = self.fill(value)
        content = None
        if "raw" in step:
            content = self.fill(step["raw"]).encode()
        elif "body" in step:
            content = json.dumps(self.fill(step["body"])).encode()
        query = [tuple(pair) for pair in self.fill(step.get("query") or [])]
        request = self.client.build_request(
            step["method"], self.fill(step["path"]), params=query or None, content=content, headers=headers
        )
        for name in {"authorization", "content-type"} - headers.keys():
            request.headers.pop(name, None)
        response = self.client.send(request)
        body = json.loads(response.content, parse_float=lambda text: {"float": text}) if response.content else None
        for name, path in step.get("save", {}).items():
            self.names[name] = _at(body, path)
        return {"status": response.status_code, "body": self.named(body)}

    def fill(self, value: Any) -> Any:
        match value:
            case str():
                return TEMPLATE.sub(self._filled, value)
            case list():
                return [self.fill(one) for one in value]
            case dict():
                return {self.fill(name): self.fill(one) for name, one in value.items()}
        return value

    def _filled(self, found: re.Match[str]) -> str:
        name, shift = found.groups()
        if shift is None:
            letters = LETTERS.fullmatch(name)
            return "x" * int(letters.group(1)) if letters else self.names.get(name, f"no-{name}")
        moment = self.begun + timedelta(seconds=float(shift))
        self.instants[round(moment.timestamp() * 1000)] = shift
        if name == "now":
            return f"{moment.timestamp():.3f}"
        return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"

    def named(self, value: Any, key: str = "") -> Any:
        """An answer as the recording writes it."""
        match value:
            case dict():
                return {self.named(name): self.named(one, name) for name, one in value.items()}
            case list():
                return [self.named(one) for one in value]
        if value and key in ("sequential_id", "lago_id"):
            return "<number>" if key == "sequential_id" else "<id>"
        return self._named_text(value) if isinstance(value, str) else value

    def _named_text(self, text: str) -> str:
        text = NUMBER_GIVEN.sub("<slug>", UUID.sub("<uuid>", text)).replace(PREFIX, "{r}")
        if len(text) > LONGEST:
            return f"{text[:20]}… ({len(text)} characters)"
        if not INSTANT.fullmatch(text) or text[4] != "-":
            return text
        moment = datetime.fromisoformat(text).timestamp()
        if (shift := self.instants.get(round(moment * 1000))) is not None:
            return f"<now{shift}>"
        if int(moment - self.begun.timestamp()) in NEAR:
            return f"<now>{'.ms' if '.' in text else ''}{text[-1]}"
        return text


def _unlike(want: Any, got: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Where two answers differ. A key that the sandbox leaves out is forgiven, one that Lago does not have is not."""
    if isinstance(want, dict) and isinstance(got, dict) and want.keys() != {"float"}:
        for name, value in got.items():
            if name in want:
                yield from _unlike(want[name], value, f"{path}.{name}")
            else:
                yield f"{path}.{name}", "nothing", value
    elif isinstance(want, list) and isinstance(got, list):
        if len(want) != len(got):
            yield f"{path} (length)", len(want), len(got)
        for number, (one, other) in enumerate(zip(_ordered(want), _ordered(got), strict=False)):
            yield from _unlike(one, other, f"{path}[{number}]")
    elif want != got:
        yield path, want, got


def _ordered(items: list[Any]) -> list[Any]:
    """Charges and groups come in no set order."""

    def order(item: Any) -> str:
        metric = item.get("billable_metric", {}).get("code") or item.get("billable_metric_code")
        return str(item.get("grouped_by") or metric)

    unordered = all(isinstance(item, dict) and {"charge", "charge_model", "grouped_by"} & item.keys() for item in items)
    return sorted(items, key=order) if unordered else items


def _at(body: Any, path: str) -> str:
    for part in path.split("."):
        body = body[int(part)] if isinstance(body, list) else body[part]
    return str(body)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) < 160 else f"{text[:157]}…"


def made_at(recording: Recording) -> datetime:
    """When the organization of the recording was made, which its own answers tell."""
    (case,) = [case for case in recording.cases if case["id"] == "I7"]
    told = case["steps"][0]["answer"]["body"]["organization"]["created_at"]
    return recording.begun if told.startswith("<") else datetime.fromisoformat(told).astimezone(UTC)

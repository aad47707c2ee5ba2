"""The requests that a client of the proxy makes: one of each kind, and what their rows are expected to be."""

from __future__ import annotations

import json
from typing import Any

from .litellm_proxy import Proxy

Body = dict[str, Any]


def prompt(reply: str, prompt_tokens: int = 12, completion_tokens: int = 6, fail: bool = False) -> str:
    """A prompt that tells the provider on loopback what to answer; `reply` becomes the ID of its answer."""
    return json.dumps({"reply": reply, "in": prompt_tokens, "out": completion_tokens, "fail": fail})


def chat(reply: str, model: str = "gpt-4o-mini", fail: bool = False, **more: Any) -> tuple[str, Body]:
    body = {"model": model, "messages": [{"role": "user", "content": prompt(reply, fail=fail)}], **more}
    return "/v1/chat/completions", body


def message(reply: str, **more: Any) -> tuple[str, Body]:
    content = [{"role": "user", "content": prompt(reply)}]
    return "/v1/messages", {"model": "claude", "max_tokens": 64, "messages": content, **more}


REQUESTS: dict[str, tuple[tuple[str, Body], dict[str, str]]] = {
    "chat": (chat("1"), {}),
    "stream": (chat("2", stream=True), {}),
    "stream with usage": (chat("3", stream=True, stream_options={"include_usage": True}), {}),
    "azure": (chat("4", "gpt-4o-eu"), {}),
    "anthropic": (chat("5", "claude"), {}),
    "vllm, at no cost": (chat("6", "qwen"), {}),
    "bridged": (chat("7", "bridged"), {}),
    "embedding": (("/v1/embeddings", {"model": "embed", "input": prompt("8")}), {}),
    "responses": (("/v1/responses", {"model": "gpt-4o-mini", "input": prompt("9")}), {}),
    "text": (("/v1/completions", {"model": "instruct", "prompt": prompt("10")}), {}),
    "image": (("/v1/images/generations", {"model": "image", "prompt": prompt("11")}), {}),
    "messages": (message("12"), {}),
    "messages stream": (message("13", stream=True), {}),
    "cache miss": (chat("14"), {}),
    "cache hit": (chat("14"), {}),
    "failure": (chat("15", fail=True), {}),
    "end user of the body": (chat("16", user="customer-body"), {}),
    "end user of a header": (chat("17"), {"x_litellm_end_user_id": "customer-header"}),
    "end user of metadata": (message("18", metadata={"user_id": "customer-metadata"}), {}),
    "an ID used twice": (chat("1", "gpt-4o-eu"), {}),
    "nobody's": (chat("19"), {"key": "sk-.."}),
    "the house's": (chat("20"), {"key": "sk-litellm-dashboard.default_user_id."}),
}


def ask(proxy: Proxy, name: str) -> None:
    """Make one request; it must fail where it is meant to, and nowhere else."""
    (path, body), more = REQUESTS[name]
    response = proxy.ask(path, body, **more)
    if (response.status_code >= 400) != (name == "failure"):
        raise AssertionError(f"{name}: {response.status_code} {response.text[:500]}")

"""Two small HTTP servers on loopback for LiteLLM to talk to: its providers, and a Lago that only takes notes.

`Providers` speaks the wire formats of OpenAI (also Azure and vLLM) and Anthropic. The prompt says what to answer:
it is the JSON object `{"reply": "42", "in": 12, "out": 6, "fail": false}`, so a test decides the response's ID
and its tokens without any state in the server.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

EPOCH = 1_700_000_000  # "created" of every answer: the same bytes on every run


@dataclass(frozen=True)
class Post:
    """One request that the note-taking Lago got: its path, its headers (lower case) and its JSON body."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every answer waits for a delayed ACK
    wbufsize = -1  # headers and body leave in one packet

    def read_json(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        return body

    def answer(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the tests' output is for the tests."""


class _Providers(_Handler):
    def do_POST(self) -> None:
        body = self.read_json()
        wish = json.loads(_prompt(body))
        if wish["fail"]:
            self.answer(503, b'{"error": {"message": "the model is overloaded", "type": "server_error"}}')
            return
        path = self.path.split("?")[0]
        if path.endswith("/embeddings"):
            answer: Any = _embedding(wish, body)
        elif path.endswith("/images/generations"):
            answer = {"created": EPOCH, "data": [{"url": "https://images.example/1.png"}]}
        elif path.endswith("/responses"):
            answer = _response(wish, body)
        elif path.endswith("/messages"):
            answer = _message_events(wish, body) if body.get("stream") else _message(wish, body)
        elif path.endswith("/chat/completions"):
            answer = _chat_chunks(wish, body) if body.get("stream") else _chat(wish, body)
        elif path.endswith("/completions"):
            answer = _text(wish, body)
        else:
            self.answer(404, b'{"error": {"message": "no such path"}}')
            return
        if isinstance(answer, list):
            lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in answer]
            if path.endswith("/completions"):
                lines.append("data: [DONE]\n\n")
            self.answer(200, "".join(lines).encode(), "text/event-stream")
        else:
            self.answer(200, json.dumps(answer).encode())


class _Notes(_Handler):
    posts: ClassVar[list[Post]]

    def do_POST(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.read_json()
        self.posts.append(Post(self.path, headers, body))
        self.answer(200, json.dumps(body).encode())


@contextmanager
def providers() -> Iterator[str]:
    """Serve the providers; gives the base URL."""
    with _serving(_Providers) as base:
        yield base


@contextmanager
def note_taking_lago() -> Iterator[tuple[str, list[Post]]]:
    """Serve a Lago that accepts everything; gives the base URL and the list that every POST is appended to."""
    posts: list[Post] = []
    with _serving(type("_OwnNotes", (_Notes,), {"posts": posts})) as base:
        yield base, posts


@contextmanager
def _serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True  # a client's idle keep-alive connection must not hold the shutdown up
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _prompt(body: dict[str, Any]) -> str:
    text = body.get("prompt") or body.get("input")
    if text is None:
        text = body["messages"][-1]["content"]
    while not isinstance(text, str):  # Anthropic, embeddings and bridged calls wrap the prompt in lists and objects
        text = text[0] if isinstance(text, list) else text.get("text") or text["content"]
    return text


def _usage(wish: dict[str, Any]) -> dict[str, int]:
    return {
        "prompt_tokens": wish["in"],
        "completion_tokens": wish["out"],
        "total_tokens": wish["in"] + wish["out"],
    }


def _chat(wish: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{wish['reply']}",
        "object": "chat.completion",
        "created": EPOCH,
        "model": body.get("model", "model"),
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Yes."}, "finish_reason": "stop"}],
        "usage": _usage(wish),
    }


def _chat_chunks(wish: dict[str, Any], body: dict[str, Any]) -> list[dict[str, Any]]:
    def chunk(choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        head = {"id": f"chatcmpl-{wish['reply']}", "object": "chat.completion.chunk", "created": EPOCH}
        return {**head, "model": body.get("model", "model"), "choices": choices, **more}

    return [
        chunk([{"index": 0, "delta": {"role": "assistant", "content": "Yes"}, "finish_reason": None}]),
        chunk([{"index": 0, "delta": {"content": "."}, "finish_reason": None}]),
        chunk([{"index": 0, "delta": {}, "finish_reason": "stop"}]),
        chunk([], usage=_usage(wish)),
    ]


def _text(wish: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": f"cmpl-{wish['reply']}",
        "object": "text_completion",
        "created": EPOCH,
        "model": body["model"],
        "choices": [{"index": 0, "text": "Yes.", "logprobs": None, "finish_reason": "stop"}],
        "usage": _usage(wish),
    }


def _embedding(wish: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    return {
        "object": "list",
        "model": body["model"],
        "data": [{"object": "embedding", "index": 0, "embedding": [0.25, -0.5]}],
        "usage": {"prompt_tokens": wish["in"], "total_tokens": wish["in"]},
    }


def _message(wish: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": f"msg_{wish['reply']}",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": [{"type": "text", "text": "Yes."}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": wish["in"], "output_tokens": wish["out"]},
    }


def _message_events(wish: dict[str, Any], body: dict[str, Any]) -> list[dict[str, Any]]:
    start = {**_message(wish, body), "content": [], "stop_reason": None}
    start["usage"] = {"input_tokens": wish["in"], "output_tokens": 1}
    stop = {"stop_reason": "end_turn", "stop_sequence": None}
    return [
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Yes."}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": stop, "usage": {"output_tokens": wish["out"]}},
        {"type": "message_stop"},
    ]


def _response(wish: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": f"resp_{wish['reply']}",
        "object": "response",
        "created_at": EPOCH,
        "status": "completed",
        "model": body["model"],
        "output": [
            {
                "type": "message",
                "id": f"msg_{wish['reply']}",
                "status": "completed",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "Yes.", "annotations": []}],
            }
        ],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": wish["in"],
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": wish["out"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": wish["in"] + wish["out"],
        },
    }

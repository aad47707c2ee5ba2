"""LiteLLM's side: the hooks that it calls when a request has succeeded, and the end of its process.

The hooks build the event and queue it. They wait for nothing, and raise nothing.
"""

from __future__ import annotations

import asyncio
import atexit
import importlib.metadata
import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from multiprocessing.util import Finalize
from typing import Any

from .measures import log
from .posting import Post
from .row_event import Left, Made, event_of
from .sender import Limits, Sender
from .settings import Refused, Settings, read

OLDEST = (1, 90)
NEWEST = (1, 110)  # what was tried; a newer one is not refused
_FLUSH = 5.0  # seconds that the end of a process waits for what is queued
_TWO = 'LiteLLM\'s own "lago" is among the callbacks as well, and every call would be billed twice: take it out'
_REMEMBERED = 20_000  # of the latest calls, so that a hook that runs twice makes one event

try:
    from litellm.integrations.custom_logger import CustomLogger
except ImportError as _error:
    raise Refused(f"reconcile.callback.lago runs in LiteLLM's proxy (litellm[proxy]): {_error}") from None


class LagoCallback(CustomLogger):
    """The callback of one proxy."""

    def __init__(self, settings: Settings, payload: Callable[..., Mapping[str, Any]], sender: Sender) -> None:
        super().__init__()
        self.settings = settings
        self.sender = sender
        self._payload = payload
        self._with_router = "llm_router" in inspect.signature(payload).parameters
        self._seen: dict[object, None] = {}

    async def async_log_success_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: datetime, end_time: datetime
    ) -> None:
        self.take(kwargs, response_obj, start_time, end_time)

    def log_success_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: datetime, end_time: datetime
    ) -> None:
        self.take(kwargs, response_obj, start_time, end_time)

    def take(self, kwargs: dict[str, Any], response_obj: Any, start_time: datetime, end_time: datetime) -> None:
        """Queue the event of a call that has succeeded. Whatever goes wrong is counted, and harms nobody's request."""
        measures = self.sender.measures
        try:
            if litellms_own():
                measures.leave(Left.TWO_CALLBACKS)
                measures.warn("two_callbacks", f"{_TWO}; this one sends nothing")
                return
            spend = _spend(kwargs)
            if spend is None:
                measures.leave(Left.NO_ROW)
                return
            made = event_of(self._row(kwargs, response_obj, start_time, end_time), spend, self.settings)
            if isinstance(made, Left):
                measures.leave(made)
            elif self._is_new(kwargs.get("litellm_call_id"), made):
                body = json.dumps(made.event, separators=(",", ":")).encode()
                self.sender.put(body, made.usage_ms / 1000)
            else:
                measures.leave(Left.SAME_CALL)
        except Exception as error:
            measures.drop("error", 1, f"no event could be made of a call: {type(error).__name__}: {error}"[:500])

    def _row(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: datetime, end_time: datetime
    ) -> Mapping[str, Any]:
        more: dict[str, Any] = {}
        if self._with_router:
            more["llm_router"] = getattr(sys.modules.get("litellm.proxy.proxy_server"), "llm_router", None)
        return self._payload(_light(kwargs), _without_data(response_obj), start_time, end_time, **more)

    def _is_new(self, call_id: object, made: Made) -> bool:
        """Whether neither this ID nor, under another ID, the same call with the same values was taken before.

        LiteLLM runs hooks twice for some calls, and wrote two rows of bridged ones (1.102): the job holds the second.
        """
        keys = [made.transaction_id, (call_id, made.content)] if call_id else [made.transaction_id]
        if any(key in self._seen for key in keys):
            return False
        self._seen.update(dict.fromkeys(keys))
        while len(self._seen) > 2 * _REMEMBERED:
            self._seen.pop(next(iter(self._seen)), None)
        return True


def start() -> LagoCallback:
    """The callback with the settings of this process's environment. Raises Refused with what to change."""
    settings = read(os.environ)
    if litellms_own():
        raise Refused(f"reconcile.callback.lago cannot start. {_TWO}")
    payload = _payload_builder()
    sender = Sender(lambda: Post(settings, _verify()), Limits())
    callback = LagoCallback(settings, payload, sender)
    _flush_at_the_end(sender)
    log.info("usage events of %s go to %s", settings.shape.code, settings.base)
    return callback


def litellms_own() -> bool:
    """Whether LiteLLM's own callback is configured too: each call would be sent twice, under two IDs."""
    litellm: Any = sys.modules["litellm"]
    lists = ("callbacks", "success_callback", "_async_success_callback")
    for callback in (one for name in lists for one in getattr(litellm, name, None) or ()):
        if callback == "lago" or type(callback).__name__ == "LagoLogger":
            return True
    return False


def check_version(version: str) -> None:
    """Refuse a LiteLLM whose rows are of another kind."""
    found = re.match(r"(\d+)\.(\d+)", version)
    number = (int(found[1]), int(found[2])) if found else OLDEST
    if number < OLDEST:
        raise Refused(
            f"reconcile.callback.lago needs LiteLLM {OLDEST[0]}.{OLDEST[1]} or later, and this is {version}: keep "
            '`callbacks: ["lago"]` until the proxy is upgraded'
        )
    if number > NEWEST:
        log.warning("reconcile.callback.lago was tried with LiteLLM up to %d.%d, and this is %s", *NEWEST, version)


def _payload_builder() -> Callable[..., Mapping[str, Any]]:
    try:
        check_version(importlib.metadata.version("litellm"))
    except importlib.metadata.PackageNotFoundError:
        log.warning("the version of LiteLLM is not known; reconcile.callback.lago needs %d.%d or later", *OLDEST)
    try:
        from litellm.proxy.spend_tracking.spend_tracking_utils import get_logging_payload
    except ImportError as error:
        raise Refused(f"reconcile.callback.lago runs in LiteLLM's proxy (litellm[proxy]): {error}") from None
    builder: Callable[..., Mapping[str, Any]] = get_logging_payload
    return builder


def _spend(kwargs: Mapping[str, Any]) -> float | None:
    """What LiteLLM's spend writer stores (proxy_track_cost_callback.py), in USD; None where it writes no row."""
    standard = kwargs.get("standard_logging_object")
    cost = (standard if standard is not None else kwargs).get("response_cost")
    return float(cost) if isinstance(cost, int | float) else None


# Of these only the row's `metadata`, `messages`, `response` and `proxy_server_request` are made, which no event has;
# writing them out as JSON is most of the work of making a row.
_HEAVY = dict.fromkeys(
    ("model_map_information", "messages", "response", "guardrail_information", "cost_breakdown", "error_information")
)
_HEAVY_METADATA = dict.fromkeys(("usage_object", "mcp_tool_call_metadata", "vector_store_request_metadata"))


def _light(kwargs: dict[str, Any]) -> dict[str, Any]:
    standard = kwargs.get("standard_logging_object")
    params = {**(kwargs.get("litellm_params") or {}), "proxy_server_request": None, "preset_cache_key": ""}
    light = {**kwargs, "litellm_params": params}
    if isinstance(standard, dict):
        metadata = {**(standard.get("metadata") or {}), **_HEAVY_METADATA}
        light["standard_logging_object"] = {**standard, **_HEAVY, "metadata": metadata}
    return light


def _without_data(response_obj: Any) -> Any:
    """The answer without its vectors or pictures, which would be copied for nothing."""
    if getattr(response_obj, "data", None) and hasattr(response_obj, "model_copy"):
        return response_obj.model_copy(update={"data": []})
    return response_obj


def _verify() -> Any:
    """How LiteLLM itself checks certificates: `ssl_verify` of its config, SSL_VERIFY, SSL_CERT_FILE."""
    try:
        from litellm.llms.custom_httpx.http_handler import get_ssl_configuration

        return get_ssl_configuration()
    except ImportError:
        return True


def _flush_at_the_end(sender: Sender) -> None:
    """Send what is queued before the process ends, for five seconds at most.

    uvicorn ends a worker by the signal that it got, which runs no exit handler: the proxy's own shutdown is the last
    thing that surely runs. A worker that multiprocessing made runs that module's handlers instead of Python's.
    """
    owner = os.getpid()

    def flush() -> None:
        if os.getpid() == owner or sender.waiting():
            sender.flush(_FLUSH)

    atexit.register(flush)
    Finalize(None, flush, exitpriority=10)
    server: Any = sys.modules.get("litellm.proxy.proxy_server")
    shutdown = getattr(server, "proxy_shutdown_event", None)
    if server is not None and shutdown is not None:

        async def flush_and_shut_down(*arguments: Any, **named: Any) -> Any:
            await asyncio.to_thread(flush)
            return await shutdown(*arguments, **named)

        server.proxy_shutdown_event = flush_and_shut_down

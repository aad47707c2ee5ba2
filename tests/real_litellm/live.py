"""LiteLLM's own code, driven without its proxy: requests in; live events and spend-log rows out.

What is LiteLLM's own here: the router, the providers' clients, the cost calculation, `LagoLogger` (which posts over
real HTTP to the Lago it is told), `get_logging_payload` (which makes the row), and the proxy's failure hook. What
stands in for the proxy: the metadata that it would have put on the request, and its settings, all at their defaults.
The providers are a server on loopback. Nothing leaves the machine.

`import litellm` takes two seconds, so it happens on the first use.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import sys
import threading
import uuid
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from types import ModuleType
from typing import Any
from unittest import mock

from .loopback import providers

ROW_SECONDS = 25.0  # LiteLLM gives a request's callbacks 20 s (LOGGING_WORKER_MAX_TIME_PER_COROUTINE)

# What the proxy's config.yaml would hold: the name that clients ask for, and LiteLLM's name of the deployment.
MODELS = {
    "gpt-4o-mini": "openai/gpt-4o-mini",
    "gpt-4o": "openai/gpt-4o",
    "gpt-4o-eu": "azure/gpt-4o",
    "claude": "anthropic/claude-sonnet-4-5-20250929",
    "nova": "bedrock/amazon.nova-pro-v1:0",
    "qwen": "hosted_vllm/Qwen/Qwen2.5-7B-Instruct",  # not in LiteLLM's price list: cost 0
    "bare": "gpt-4o-mini",  # a deployment without a provider prefix
    "instruct": "text-completion-openai/gpt-3.5-turbo-instruct",
    "embed": "openai/text-embedding-3-small",
    "image": "openai/dall-e-3",  # not in LiteLLM's price list: cost null
}


_PATHS = {
    "chat": "/v1/chat/completions",
    "text": "/v1/completions",
    "embedding": "/v1/embeddings",
    "image": "/v1/images/generations",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
}


@dataclass(frozen=True, kw_only=True)
class RequestSpec:
    """One request of a client of the proxy.

    `model` is a name of MODELS; `kind` one of chat, text, embedding, image, responses, messages. `team_id`, `user_id`
    and `organization_id` belong to the key. `end_user` is the `user` of the request's body, `header_end_user` the
    header `x-litellm-end-user-id`: the row has either, an event charged by end_user_id only the first.
    `cached` requests (async only) go through LiteLLM's cache: the second of the same `reply` is a hit. `guardrail_cost`
    in USD is in the row's spend but not in the event. `fails`: the provider refuses; the row is a failure, and no event
    is sent. `reply` becomes the provider's response ID, so equal replies collide, as real providers' IDs do.
    """

    model: str = "gpt-4o-mini"
    kind: str = "chat"
    sync: bool = False
    stream: bool = False
    prompt_tokens: int = 12
    completion_tokens: int = 6
    team_id: str | None = "team-research"
    user_id: str | None = "user-ada"
    organization_id: str | None = "org-acme"
    end_user: str | None = None
    header_end_user: str | None = None
    cached: bool = False
    guardrail_cost: float = 0.0
    fails: bool = False
    reply: str = field(default_factory=lambda: uuid.uuid4().hex)
    call_id: str = field(default_factory=lambda: str(uuid.uuid4()))


def drive(lago_base: str, key: str, code: str, charge_by: str, requests: Sequence[RequestSpec]) -> list[dict[str, Any]]:
    """Send the requests one after another, with LiteLLM's `lago` callback pointed at `lago_base`.

    Gives the spend-log row of every request, in order, ready for insertion: columns of "LiteLLM_SpendLogs" with
    naive UTC datetimes of millisecond precision and JSON columns as text. When it returns, every event has been
    posted, or given up by LiteLLM. Events that Lago refuses are lost, as they are in production.
    """
    with gateway(lago_base, key, code, charge_by) as send:
        return [send(spec) for spec in requests]


@contextmanager
def gateway(lago_base: str, key: str, code: str, charge_by: str) -> Iterator[Callable[[RequestSpec], dict[str, Any]]]:
    """As `drive`, one request at a time: gives a function from a RequestSpec to its row."""
    environment = {
        "LAGO_API_BASE": lago_base,
        "LAGO_API_KEY": key,
        "LAGO_API_EVENT_CODE": code,
        "LAGO_API_CHARGE_BY": charge_by,
    }
    litellm = _litellm()
    rows = _row_writer()
    with providers() as base, mock.patch.dict(os.environ, environment):
        router = _router(base)
        response_cache = litellm.Cache(type="local")
        # Cache() put a callback "cache" in; with it LiteLLM 1.106.2 posts the event of an image twice
        litellm.logging_callback_manager._reset_all_callbacks()
        litellm.callbacks = ["lago", rows]  # in this order: when the row is there, `lago` has had its turn
        try:
            yield lambda spec: _send(router, rows, spec, response_cache if spec.cached else None)
        finally:
            litellm.logging_callback_manager._reset_all_callbacks()
            litellm.cache = None


@cache
def _litellm() -> Any:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # the price list in the package, not the one on the net
    import litellm

    litellm.suppress_debug_info = True
    litellm.disable_aiohttp_transport = True  # aiohttp's connectors complain about loops that ended before them
    # LiteLLM's main modules import these on the way, and they in turn the whole of litellm[proxy]. Nothing of them
    # takes part here but the proxy's settings, which are at their defaults, and that there is no database.
    _stand_in(
        "litellm.proxy.proxy_server",
        general_settings={},
        general_settings_view=dict,
        prisma_client=None,
        proxy_logging_obj=None,
        user_api_key_cache=None,
    )
    handler = mock.Mock(**{"should_use_litellm_mcp_gateway.return_value": False})  # no request here names MCP tools
    _stand_in("litellm.responses.mcp.litellm_proxy_mcp_handler", LiteLLM_Proxy_MCP_Handler=handler)
    _stand_in("soundfile")  # for transcriptions
    return litellm


def _stand_in(name: str, **attributes: Any) -> None:
    module = ModuleType(name)
    vars(module).update(attributes)
    sys.modules.setdefault(name, module)


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """The one event loop, on a thread of its own: LiteLLM ties its queue of callbacks and its clients to a loop."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="litellm", daemon=True).start()
    return loop


def _await(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run_coroutine_threadsafe(coroutine, _loop()).result()


def _router(base: str) -> Any:
    """LiteLLM's router over MODELS, every provider at `base`. `id` is fixed: LiteLLM would hash the port into it."""
    deployments = []
    for name, model in MODELS.items():
        params: dict[str, Any] = {"model": model, "api_base": f"{base}/v1", "api_key": "none"}
        if model.startswith("azure/"):
            params |= {"api_base": base, "api_version": "2024-10-21"}
        if model.startswith("anthropic/"):
            params["api_base"] = base
        deployment_id = sha256(model.encode()).hexdigest()
        deployments.append({"model_name": name, "litellm_params": params, "model_info": {"id": deployment_id}})
    return _litellm().Router(model_list=deployments, num_retries=0, disable_cooldowns=True, cache_responses=True)


def _send(router: Any, rows: Any, spec: RequestSpec, response_cache: Any) -> dict[str, Any]:
    """One request to its end: the row that LiteLLM wrote for it."""
    _litellm().cache = response_cache
    auth = _auth(spec)
    data = _request(spec, auth)
    try:
        if spec.sync:
            _call_sync(router, spec, data)
        else:
            _await(_call(router, spec, data))
    except Exception as error:
        if not spec.fails:
            raise
        _await(_failure_hook(rows, auth, data, error))
    try:
        row: dict[str, Any] = rows.written.get(timeout=ROW_SECONDS)
    except queue.Empty:
        raise TimeoutError(f"LiteLLM wrote no row for {spec} (a Lago that hangs costs the row, too)") from None
    assert row["litellm_call_id"] == spec.call_id, "LiteLLM wrote a row that belongs to another request"
    return row


def _auth(spec: RequestSpec) -> Any:
    """What the proxy knows of the caller once it has looked the key up."""
    from litellm.proxy._types import UserAPIKeyAuth

    key = f"{spec.team_id} {spec.user_id} {spec.organization_id}"
    return UserAPIKeyAuth.model_construct(  # validating would import the proxy's JWT handling
        api_key=sha256(key.encode()).hexdigest(),
        team_id=spec.team_id,
        user_id=spec.user_id,
        org_id=spec.organization_id,
        end_user_id=spec.end_user or spec.header_end_user,
    )


def _request(spec: RequestSpec, auth: Any) -> dict[str, Any]:
    """The request as the proxy hands it to the router: the client's body, and what the proxy adds to it."""
    from litellm.proxy.litellm_pre_call_utils import LiteLLMProxyRequestSetup

    prompt = json.dumps(
        {"reply": spec.reply, "in": spec.prompt_tokens, "out": spec.completion_tokens, "fail": spec.fails}
    )
    body: dict[str, Any] = {"model": spec.model}
    if spec.kind in ("chat", "messages"):
        body["messages"] = [{"role": "user", "content": prompt}]
    elif spec.kind in ("text", "image"):
        body["prompt"] = prompt
    else:
        body["input"] = prompt
    if spec.kind == "messages":
        body["max_tokens"] = 1024
    if spec.stream:
        body["stream"] = True
    if spec.end_user is not None:
        body["user"] = spec.end_user
    headers = {"user-agent": "python-client/1.0"}
    if spec.header_end_user is not None:
        headers["x-litellm-end-user-id"] = spec.header_end_user
    path = _PATHS[spec.kind]
    metadata: dict[str, Any] = {"headers": headers, "endpoint": f"http://proxy.example{path}"}
    if spec.guardrail_cost:
        metadata["standard_logging_guardrail_information"] = [
            {
                "guardrail_name": "pii",
                "guardrail_mode": "pre_call",
                "guardrail_status": "success",
                "guardrail_cost": spec.guardrail_cost,
            }
        ]
    # /v1/responses and /v1/messages have a `metadata` of the client's own
    bucket = "litellm_metadata" if spec.kind in ("responses", "messages") else "metadata"
    data = {
        **body,
        bucket: metadata,
        "litellm_call_id": spec.call_id,
        "proxy_server_request": {
            "url": f"http://proxy.example{path}",
            "method": "POST",
            "headers": headers,
            "body": body,
        },
    }
    if spec.model == "nova":  # Bedrock signs its requests with boto3; the answer is mocked instead
        data["mock_response"] = _bedrock_answer(spec)
    return LiteLLMProxyRequestSetup.add_user_api_key_auth_to_request_metadata(data, auth, bucket)


def _bedrock_answer(spec: RequestSpec) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{spec.reply}",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Yes."}, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": spec.prompt_tokens,
            "completion_tokens": spec.completion_tokens,
            "total_tokens": spec.prompt_tokens + spec.completion_tokens,
        },
    }


async def _call(router: Any, spec: RequestSpec, data: dict[str, Any]) -> None:
    call = {
        "chat": router.acompletion,
        "text": router.atext_completion,
        "embedding": router.aembedding,
        "image": router.aimage_generation,
        "responses": router.aresponses,
        "messages": router.aanthropic_messages,
    }[spec.kind]
    answer = await call(**data)
    if spec.stream:
        async for _ in answer:
            pass


def _call_sync(router: Any, spec: RequestSpec, data: dict[str, Any]) -> None:
    call = {"chat": router.completion, "embedding": router.embedding}[spec.kind]
    answer = call(**data)
    if spec.stream:
        for _ in answer:
            pass


async def _failure_hook(rows: Any, auth: Any, data: dict[str, Any], error: Exception) -> None:
    from litellm.proxy.hooks.proxy_track_cost_callback import ProxyDBLogger

    hook = ProxyDBLogger(spend_writer=lambda: rows)
    await hook.async_post_call_failure_hook(data, error, auth)


def _row_writer() -> Any:
    """A callback in the place of the proxy's spend writer: LiteLLM makes the row, the queue `written` takes it."""
    from litellm.integrations.custom_logger import CustomLogger
    from litellm.proxy.spend_tracking.spend_tracking_utils import get_logging_payload

    class RowWriter(CustomLogger):
        def __init__(self) -> None:
            super().__init__()
            self.written: queue.Queue[dict[str, Any]] = queue.Queue()

        def log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
            # as ProxyDBLogger._PROXY_track_cost_callback: this cost has the guardrails' in it
            cost = kwargs["standard_logging_object"]["response_cost"]
            self._write(kwargs, response_obj, start_time, end_time, cost)

        async def async_log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
            self.log_success_event(kwargs, response_obj, start_time, end_time)

        async def update_database(
            self,
            *,
            kwargs: Any,
            completion_response: Any,
            start_time: Any,
            end_time: Any,
            response_cost: Any,
            **identities: Any,
        ) -> None:
            """What ProxyDBLogger calls for a failed request (DBSpendUpdateWriter.update_database)."""
            self._write(kwargs, completion_response, start_time, end_time, response_cost)

        def _write(self, kwargs: Any, response: Any, start: Any, end: Any, cost: float | None) -> None:
            payload = get_logging_payload(kwargs, response, start, end)
            payload["spend"] = cost or 0.0
            self.written.put({name: _stored(value) for name, value in payload.items()})

    return RowWriter()


def _stored(value: Any) -> Any:
    """A value of the payload as the column holds it: timestamp(3) without time zone, in UTC."""
    if isinstance(value, datetime):
        value = value.astimezone(UTC).replace(tzinfo=None)
        return value.replace(microsecond=value.microsecond // 1000 * 1000)
    return value

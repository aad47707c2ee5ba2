"""Beside a proxy's config: who asks, and the rows as LiteLLM's own writer hands them to its database.

`logger` is the proxy's own ProxyDBLogger, which it registers where it has a database. What it would insert is written
down instead, one JSON object a line, in the file that ROWS_FILE names.
"""

from __future__ import annotations

import json
import os
from typing import Any
from unittest import mock

from litellm.proxy._types import UserAPIKeyAuth
from litellm.proxy.db.db_spend_update_writer import DBSpendUpdateWriter
from litellm.proxy.hooks.proxy_track_cost_callback import _ProxyDBLogger


async def who(request: Any, api_key: str) -> UserAPIKeyAuth:
    """The key `sk-team-a.user-1.org-x` belongs to that team, user and organization; an empty part means none."""
    team, user, organization = (part or None for part in api_key.removeprefix("sk-").split("."))
    return UserAPIKeyAuth(api_key=api_key, team_id=team, user_id=user, org_id=organization)


async def _write_down(self: Any, payload: Any, prisma_client: Any = None, **_: Any) -> Any:
    with open(os.environ["ROWS_FILE"], "a", encoding="utf-8") as file:
        file.write(json.dumps(dict(payload), default=str) + "\n")
    return prisma_client


DBSpendUpdateWriter._insert_spend_log_to_db = _write_down
logger = _ProxyDBLogger()


def _charged_by(charge_by: str) -> Any:
    """One more callback of ours in this proxy, charged by another ID, under an event code of that name."""
    from litellm_lago_callback.callback import hook

    settings = {"LAGO_API_CHARGE_BY": charge_by, "LAGO_API_EVENT_CODE": charge_by}
    with mock.patch.dict(os.environ, settings):
        callback = hook.start()
    callback.__class__ = type(f"By_{charge_by}", (hook.LagoCallback,), {})  # LiteLLM keeps one of each class
    return callback


def __getattr__(name: str) -> Any:
    if name in ("user_id", "end_user_id"):
        return _charged_by(name)
    raise AttributeError(name)

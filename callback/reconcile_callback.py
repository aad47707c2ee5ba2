"""`reconcile.callback` in a proxy that has the callback alone: the job's own `reconcile` would bring it itself."""

from __future__ import annotations

from typing import Any

from litellm_lago_callback import callback


def __getattr__(name: str) -> Any:
    return getattr(callback, name)

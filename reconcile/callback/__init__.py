"""A live callback for LiteLLM's proxy that sends the very event that `reconcile` would send of the row.

In the proxy's config: `litellm_settings: callbacks: ["reconcile.callback.lago"]`, in the place of LiteLLM's own
`"lago"`, with the same `LAGO_API_*` settings. docs/callback.md says how to switch.

This room is installed into the proxy, alone with `reconcile.domain`'s event, money and dates: it imports the standard
library, httpx and LiteLLM, and everything of `reconcile` by relative imports, since the small distribution keeps both
rooms under a name of its own (callback/pyproject.toml).
"""

from __future__ import annotations

from typing import Any

__all__ = ["lago"]  # made when it is first asked for


def __getattr__(name: str) -> Any:
    """`lago` is made where the proxy reads its config: what is wrong with the settings stops the proxy there."""
    if name != "lago":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import hook

    globals()["lago"] = callback = hook.start()
    return callback

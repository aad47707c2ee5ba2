"""LiteLLM's proxy, imported once and ready to run: every line on stdin is an order for one, which is forked off.

The import takes most of a proxy's start. LiteLLM's own gunicorn mode forks its workers in the same way. It ends with
its stdin.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from typing import Any

import litellm.proxy.proxy_server  # noqa: F401 - what takes the time
from litellm.proxy.proxy_cli import run_server


def become(order: dict[str, Any]) -> None:
    """Makes this process what the command `litellm` is, with the order's arguments."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.chdir(order["directory"])
    os.environ.clear()
    os.environ.update(order["environment"])
    output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for standard, here in ((0, os.open(os.devnull, os.O_RDONLY)), (1, output), (2, output)):
        os.dup2(here, standard)
    sys.path.insert(0, os.environ["PYTHONPATH"])
    sys.argv = ["litellm", *order["arguments"]]
    run_server()


signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody here asks how they ended
gc.freeze()
for line in sys.stdin:
    child = os.fork()
    if not child:
        become(json.loads(line))
        break
    print(child, flush=True)

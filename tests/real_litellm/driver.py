"""Runs `live.py` in a process of its own: `python -m real_litellm.driver`, in the environment of one LiteLLM.

Takes JSON objects on stdin, a line each, and answers each with one on stdout. `{"open": [base, key, code, charge_by]}`
points LiteLLM's `lago` callback somewhere; `{"send": {…}}` sends one RequestSpec, and is answered with its row (times
in ISO 8601); `{"close": null}` ends what was opened. An answer is `{"done": …}` or `{"error": …}`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from contextlib import ExitStack
from typing import Any

from real_litellm.live import RequestSpec, gateway


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what LiteLLM prints must not come between
    logging.getLogger("LiteLLM").setLevel(logging.CRITICAL)  # it logs an error for every event that it loses
    opened = ExitStack()
    send: Any = None
    for line in sys.stdin:
        ((verb, value),) = json.loads(line).items()
        answer: dict[str, Any] = {"done": None}
        try:
            if verb == "open":
                send = opened.enter_context(gateway(*value))
            elif verb == "send":
                answer["done"] = send(RequestSpec(**value))
            else:
                opened.close()
        except Exception:
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer, default=lambda moment: moment.isoformat()) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()

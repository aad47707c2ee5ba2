"""`reconcile` under a clock that a test sets: `clocked.py NOW ARGUMENT…`. Each line on stdin is the time it is now."""

from __future__ import annotations

import os
import sys
import threading
from datetime import datetime

import time_machine

from reconcile import cli
from reconcile.run import deliver, preflight
from reconcile.unattended.schedule import service

service.TICK_SECONDS = 0.05
service.STOP_SECONDS = float(os.environ.get("STOP_SECONDS", service.STOP_SECONDS))
# Postgres and Lago keep the real time, which a run would rightly refuse.
preflight.too_far_apart = deliver.too_far_apart = lambda *_: False
traveller = time_machine.travel(datetime.fromisoformat(sys.argv.pop(1)), tick=True).start()


def follow() -> None:
    for line in sys.stdin:
        traveller.move_to(datetime.fromisoformat(line.strip()))


threading.Thread(target=follow, daemon=True).start()
cli.main()

"""What may be listed before its turn."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pandas as pd

from reconcile.domain.window import Window
from reconcile.run.window_run import _Ahead

HOUR = timedelta(hours=1)


def test_a_slice_that_is_not_over_is_listed_when_its_turn_comes() -> None:
    """An event may arrive in it while the job waits: listed before, its row would be sent although it is billed."""
    now = datetime.now(UTC).replace(microsecond=0)
    parts = [Window(now - 3 * HOUR, now - 2 * HOUR), Window(now - 2 * HOUR, now - HOUR), Window(now - HOUR, now + HOUR)]
    listed: list[Window] = []

    def read(part: Window) -> pd.DataFrame:
        listed.append(part)
        return pd.DataFrame()

    with ThreadPoolExecutor(1) as pool:
        ahead = _Ahead(pool, parts, read)
        ahead.take(0)
        ahead.take(1)
        assert listed == parts[:2]
        ahead.take(2)
        assert listed == parts

"""Which values of an event are not those of a row: for people, by the same comparison that pairs them. Pure."""

from __future__ import annotations

import numpy as np
import pandas as pd

from reconcile.classify.content import content, same_cost
from reconcile.classify.frames import ALL_TOKENS, COST, MODEL, Rules, Words, prepare_events, prepare_rows


def differences(row: pd.DataFrame, events: pd.DataFrame, rules: Rules) -> list[tuple[str, ...]]:
    """Per event (EVENTS) which of subscription, cost, model and tokens differ from the row (one of ROWS).

    What either side does not say does not differ.
    """
    if events.empty:
        return []
    words = Words()
    left, right = prepare_rows(row, rules, words), prepare_events(events, rules, words)
    found = content(left, right)
    carried = found.carried
    row_names = [names.rows[0] for names in found.models if names.rows[0] >= 0]
    models = np.isin(found.models[0].events, row_names) | found.nameless[0] | (carried & MODEL == 0)
    costs = same_cost(found.spend[0], found.sent) | (carried & COST == 0)
    told = []
    for place, bits in enumerate(carried.tolist()):
        tokens = found.tokens.get(bits & ALL_TOKENS)
        equal = {
            "subscription": found.subscription.rows[0] == found.subscription.events[place],
            "cost": costs[place],
            "model": models[place],
            "tokens": tokens is None or tokens.rows[0] == tokens.events[place],  # a row has each of its counts
        }
        told.append(tuple(name for name, same in equal.items() if not same))
    return told

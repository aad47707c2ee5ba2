"""What a pair of a row and its event is: in agreement, billed to nobody, or off in some value. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reconcile.classify.content import same_cost
from reconcile.classify.frames import KIND, REASON, ROW_MODELS, TOKENS, Rules, Table
from reconcile.classify.pairing import Bools, Doubles, Ints

_AGREE = (KIND["matched"], KIND["matched_live"])
_SAME_EVENT = (*_AGREE, KIND["mismatched"])


@dataclass(frozen=True, slots=True)
class Pairs:
    """Positions of rows and events, and the kind and reason of each pair (codes), element by element.

    A row may stand in several pairs: in one as its event, in the others as `duplicate`.
    """

    rows: Ints
    events: Ints
    kinds: Ints
    reasons: Ints


@dataclass(frozen=True, slots=True)
class Differences:
    """Per pair, which of the values that the event carries are not the row's."""

    cost: Bools
    tokens: dict[str, Bools]
    model: Bools

    @property
    def any_tokens(self) -> Bools:
        return _any([*self.tokens.values()])

    def reason(self) -> Ints:
        """The code of the first of cost, tokens and model that differs; 0 for none."""
        return np.select(
            [self.cost, self.any_tokens, self.model], [REASON["cost"], REASON["tokens"], REASON["model"]], 0
        ).astype(np.int64)

    def only(self, number: str | None) -> Bools:
        """Whether just this number of the row differs."""
        others = [*(differs for name, differs in self.tokens.items() if name != number), self.model]
        if number != "spend":
            others.append(self.cost)
        mine = self.cost if number == "spend" else self.tokens.get(number or "", np.zeros(len(self.cost), bool))
        return mine & ~_any(others)


def _any(conditions: list[Bools]) -> Bools:
    answer: Bools = np.logical_or.reduce(conditions)
    return answer


def differences(rows: Table, row: Ints, events: Table, event: Ints) -> Differences:
    """What differs between each of the rows at `row` and the event at `event` beside it."""
    cost, malformed = events["cost"][event], events["malformed"][event]
    no_cost = malformed & np.isnan(cost)
    tokens = {}
    for name in TOKENS:
        counts = events[name][event]
        told = ~np.isnan(counts)
        # Of several counts that could be the one that is no number, all those that are not there are.
        tokens[name] = np.where(told, counts != rows[name][row], malformed & ~no_cost)
    sent, named = events["model"][event], rows["model"][row]
    same_model = (sent == 0) | (named == 0)
    for name in ROW_MODELS:
        same_model |= sent == rows[name][row]
    return Differences(
        cost=no_cost | (~np.isnan(cost) & ~same_cost(rows["spend"][row], cost)), tokens=tokens, model=~same_model
    )


def own_numbers(rows: Table, row: Ints, rules: Rules) -> Doubles | None:
    """The number of each row that the metric reads; None where that is not known."""
    if rules.own_number is None:
        return None
    if rules.own_number == "one":
        return np.ones(len(row))
    numbers: Doubles = rows[rules.own_number][row].astype(np.float64)
    return numbers


def adds_nothing(events: Table, event: Ints) -> Bools:
    nothing: Bools = ~events["counted"][event] | (np.nan_to_num(events["added"][event], nan=0.0) == 0)
    return nothing


def not_counted(rows: Table, row: Ints, events: Table, event: Ints, rules: Rules) -> Bools:
    """Whether the metric makes nothing of an event of equal content although something is due.

    A sum that gets nothing where the row's own number is 0 is as it should be.
    """
    uncounted: Bools = ~events["counted"][event]
    numbers = own_numbers(rows, row, rules)
    if rules.aggregation != "sum_agg" or numbers is None:
        return uncounted
    nothing: Bools = adds_nothing(events, event) & (numbers != 0)
    return nothing


def judged(pairs: Pairs, rows: Table, events: Table, rules: Rules) -> Pairs:
    """The pairs with the last word on their kind: what Lago does not count, and what is no amount, is no agreement."""
    row, event = pairs.rows, pairs.events
    if not len(row):
        return pairs
    kinds, reasons = pairs.kinds.copy(), pairs.reasons.copy()
    numbers = own_numbers(rows, row, rules)
    unbilled = np.isin(kinds, _AGREE) & not_counted(rows, row, events, event, rules)
    off = np.flatnonzero((kinds == KIND["mismatched"]) & np.isin(reasons, (REASON["cost"], REASON["tokens"])))
    if len(off) and rules.aggregation == "sum_agg" and numbers is not None:
        only = differences(rows, row[off], events, event[off]).only(rules.own_number)
        unbilled[off] = only & adds_nothing(events, event[off]) & (numbers[off] != 0)
    kinds[unbilled], reasons[unbilled] = KIND["unbilled"], REASON["not_counted"]
    spend = rows["spend"][row]
    invalid = ~(np.isfinite(spend) & (spend >= 0)) & np.isin(kinds, (*_SAME_EVENT, KIND["unbilled"]))
    kinds[invalid], reasons[invalid] = KIND["mismatched"], REASON["invalid_spend"]
    return Pairs(row, event, kinds, reasons)

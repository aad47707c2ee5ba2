"""What has to be looked up about missing rows before they can be decided about: in Lago's catalogue, in the spend
log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from reconcile.classify.doubt import Doubt
from reconcile.classify.frames import LOOKS
from reconcile.classify.second_writing import repeat, same_call
from reconcile.domain.frames import among
from reconcile.domain.instants import milliseconds, moment
from reconcile.domain.vocabulary import Reason
from reconcile.errors import DoubtfulFault
from reconcile.lago.directory import Directory
from reconcile.lago.price_list import Remembered
from reconcile.run.decide import Key, Policy, static_reasons
from reconcile.run.held_rows import HeldRow, as_rows, may_end
from reconcile.run.shared import Run


@dataclass(frozen=True, slots=True)
class LookedUp:
    """Rows (ROW_VERDICTS) with the subscription that their event goes to, and per row why it is held back, '' for
    none."""

    rows: pd.DataFrame
    reasons: list[str]


def policy_of(run: Run) -> Policy:
    """What the settings say about sending."""
    settings = run.settings
    return Policy(
        row_limit=float(settings.row_limit),
        start_ms=None if settings.start is None else milliseconds(settings.start),
        pushed=frozenset(settings.push_doubtful),
        push_not_counted=settings.not_counted == "push" and run.sides.metric.aggregation_type == "sum_agg",
    )


def directory_of(run: Run) -> Directory:
    """What is known of Lago's subscriptions, empty at first; what earlier runs remember is at hand."""
    return Directory(
        run.sides.lago,
        _Memory(run),
        code=run.settings.event_code,
        by_customer=run.settings.id_kind == "external_customer_id",
        now_ms=milliseconds(run.timing.started_at),
    )


@dataclass(frozen=True, slots=True)
class _Memory:
    """What the ledger keeps of Lago's catalogue, as the directory asks for it."""

    run: Run

    def load(self, keys: Sequence[str]) -> dict[str, Remembered]:
        found = self.run.sides.ledger.recall_catalogue(self.run.sides.stream, keys)
        return {key: Remembered(key, *rest) for key, rest in found.items()}

    def store(self, entries: Sequence[Remembered]) -> None:
        if self.run.order.sends:
            self.run.sides.ledger.keep_catalogue(
                self.run.sides.stream, [(one.key, one.stamp, one.asked_ms, one.value) for one in entries]
            )


def look_up(run: Run, directory: Directory, rows: pd.DataFrame, twins: frozenset[Key] = frozenset()) -> LookedUp:
    """Why rows are held back, whatever events there are. `twins` are the keys of those that may be written twice."""
    if rows.empty:
        return LookedUp(rows, [])
    with run.timing.stage("look up"):
        subscriptions, nobody = _nobody_billed(run, directory, rows)
        twice = _written_twice(run, rows, twins)
    return LookedUp(rows.assign(subscription_id=subscriptions), static_reasons(rows, nobody, twice, policy_of(run)))


def free_rows(run: Run, directory: Directory, held: Sequence[HeldRow]) -> list[HeldRow]:
    """The held rows that nothing in Lago's catalogue or the settings holds back any more."""
    candidates = [row for row in held if may_end(row)]
    if not candidates or not run.order.sends:
        return []
    rows = as_rows(candidates)
    directory.learn(rows["charge_id"].astype("str").unique().tolist(), since_ms=int(rows["usage_ms"].min()))
    _, nobody = _nobody_billed(run, directory, rows)
    reasons = static_reasons(rows, nobody, [""] * len(rows), policy_of(run))
    return [row for row, reason in zip(candidates, reasons, strict=True) if not reason]


def _nobody_billed(run: Run, directory: Directory, rows: pd.DataFrame) -> tuple[pd.Categorical, list[str]]:
    """Per row the subscription that its event goes to, and why Lago would bill nobody for it."""
    settings = run.settings
    found = directory.hold(rows["charge_id"].array, rows["usage_ms"].to_numpy(np.int64))
    subscriptions = found.subscription.astype(object)
    reasons = [str(reason) for reason in found.reason.tolist()]
    if settings.uncovered == "push":
        # A customer without one subscription cannot be pushed: there is no ID to send the event to.
        uncovered = (Reason.NO_SUBSCRIPTION, Reason.SEVERAL_SUBSCRIPTIONS)
        reasons = [
            "" if reason in uncovered and name else reason for reason, name in zip(reasons, subscriptions, strict=True)
        ]
    if settings.late == "push":
        reasons = ["" if reason == Reason.PERIOD_CLOSED else reason for reason in reasons]
    return found.subscription, reasons


def _written_twice(run: Run, rows: pd.DataFrame, twins: frozenset[Key]) -> list[str]:
    """Per row `same_call` or `repeat` where LiteLLM wrote a call, or the look at a finished job, more than once."""
    reasons = [""] * len(rows)
    keys = _keys(rows)
    suspects = np.array([key in twins for key in keys], bool) if twins else np.zeros(len(rows), bool)
    looks = among(rows["call_type"], LOOKS) & (rows["spend"].to_numpy(np.float64) > 0)
    spend_logs = run.sides.spend_logs
    if suspects.any():
        missing = spend_logs.details(rows[suspects])
        others = _others(spend_logs.candidates_of_same_call(missing), missing)
        _note(reasons, keys, missing[same_call(missing, others)], Reason.SAME_CALL)
    if looks.any():
        missing = spend_logs.details(rows[looks])
        since = moment(int(rows["start_ms"].min())) - run.settings.recheck
        others = _others(spend_logs.earlier_of_jobs(missing, since), missing)
        _note(reasons, keys, missing[repeat(missing, others)], Reason.REPEAT)
    return reasons


def _others(found: pd.DataFrame, missing: pd.DataFrame) -> pd.DataFrame:
    """The rows that were found beside the missing ones."""
    known = set(_keys(missing))
    return found[np.array([key not in known for key in _keys(found)], bool)].reset_index(drop=True)


def _keys(rows: pd.DataFrame) -> list[Key]:
    return list(zip(rows["request_id"].tolist(), rows["start_ms"].tolist(), strict=True))


def _note(reasons: list[str], keys: Sequence[Key], rows: pd.DataFrame, reason: Reason) -> None:
    place_of = {key: place for place, key in enumerate(keys)}
    for key in _keys(rows):
        reasons[place_of[key]] = reason.value


def doubt_fault(doubt: Doubt) -> DoubtfulFault:
    """The fault that ends a run where too much speaks for the events being there already."""
    return DoubtfulFault(
        f"{doubt.text()}; nothing more was sent. Look at the report, mend the cause and run again; "
        "RECONCILE_DOUBTFUL=send sends them all the same"
    )

"""What raises an alert, and its text: the figures, where the report is, and what to do. No secret is in it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reconcile.domain.dates import instant
from reconcile.domain.document import Document
from reconcile.domain.money import add, plain
from reconcile.domain.vocabulary import RowClass
from reconcile.settings.alerting import Threshold
from reconcile.settings.values import duration_text

if TYPE_CHECKING:
    from jinja2 import Environment


@dataclass(frozen=True, slots=True)
class Alert:
    """A subject of one line, and a text. `kind` is discrepancies, incomplete, refused, overdue or test."""

    kind: str
    subject: str
    text: str


@dataclass(frozen=True, slots=True)
class _Figure:
    """One class over its threshold. `spend` is in USD."""

    kind: str
    count: int
    spend: Decimal
    threshold: str


def of_run(
    document: Document, thresholds: Sequence[Threshold], *, job: str | None, reports: Sequence[Path]
) -> Alert | None:
    """The alert that a run raises: it did not finish, or a class is over its threshold. None where all is well."""
    places = [str(path.resolve()) for path in reports]
    if document.status == "incomplete":
        subject = f"{document.event_code}: a fault stopped the run"
        return _alert("incomplete", subject, document=document, job=job, reports=places)
    over = [figure for threshold in thresholds if (figure := _over(document, threshold)) is not None]
    if not over:
        return None
    figures = ", ".join(f"{figure.count} {figure.kind}" for figure in over)
    return _alert(
        "discrepancies",
        f"{document.event_code}: {figures}",
        document=document,
        figures=over,
        job=job,
        reports=places,
    )


def refused(message: str, *, event_code: str, job: str | None) -> Alert:
    """A run did not begin: wrong settings, or a wrong answer of Lago or Postgres (exit code 2)."""
    return _alert("refused", f"{event_code}: the run could not begin", message=message, job=job)


def overdue(*, event_code: str, charge_by: str, since: datetime, succeeded: bool, allowed: timedelta) -> Alert:
    """No run has finished for longer than `allowed`: since the last success, or since `schedule` began."""
    return _alert(
        "overdue",
        f"{event_code}: no finished run for more than {duration_text(allowed)}",
        event_code=event_code,
        charge_by=charge_by,
        since=since,
        succeeded=succeeded,
    )


def trial() -> Alert:
    """What `reconcile test-alert` sends."""
    return _alert("test", "a test alert")


def _over(document: Document, threshold: Threshold) -> _Figure | None:
    """Late rows and rows that stay held count too: they are in no window, and nobody would hear of them."""
    kind = threshold.kind
    # An unbilled event may stand beside the row's own, which is billed: the rows say what is not.
    events = None if kind == RowClass.UNBILLED else document.events.get(kind)
    sides = [side for side in (document.rows.get(kind), events) if side is not None]
    late = document.outside(kind)
    count = max((side.count for side in sides), default=0) + late.count
    spend = add((max((side.spend for side in sides), default=Decimal(0)), late.spend))
    exceeded = spend > threshold.spend if threshold.spend is not None else count > (threshold.count or 0)
    return _Figure(kind, count, spend, str(threshold)) if exceeded else None


def _alert(kind: str, subject: str, **values: Any) -> Alert:
    text = _templates().get_template(f"{kind}.txt.j2").render(values).strip() + "\n"
    return Alert(kind, " ".join(f"reconcile: {subject}".split()), text)


@cache
def _templates() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # Plain text, for Slack and for e-mail: nothing is escaped, since nothing is HTML.
    environment = Environment(  # noqa: S701
        loader=PackageLoader("reconcile.unattended.alerts"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"instant": instant, "usd": lambda amount: f"{plain(amount)} USD"}
    return environment

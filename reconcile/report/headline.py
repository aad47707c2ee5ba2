"""The first lines of every report in words: status, period, stream. The same on a terminal and on paper."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from reconcile.domain.dates import instant
from reconcile.domain.document import Document
from reconcile.domain.vocabulary import DISCREPANCY_CLASSES
from reconcile.report import figures
from reconcile.report.shown import shortened, visible
from reconcile.report.words import Words

_STREAM_WIDTH = 80


@dataclass(frozen=True, slots=True)
class Headline:
    """Plain text; the strings of strangers in it are already made visible."""

    status: str
    lead: str
    nature: str  # that nothing was sent, or what reading back showed; may be empty
    bounds: str  # that another period was asked for; may be empty
    period: str
    period_short: str
    instants: str
    stream: str


def of(document: Document, words: Words) -> Headline:
    return Headline(
        status=_status(document, words),
        lead=_lead(document, words),
        nature=_nature(document, words),
        bounds=_bounds(document, words),
        period=_period(document, words),
        period_short=_period_short(document, words),
        instants=words.text("until", first=instant(document.window_from), last=instant(document.window_to)),
        stream=words.text(
            "stream_text",
            event_code=_short(document.event_code, words),
            charge_by=words.charge_by(document.charge_by),
        ),
    )


def present(document: Document) -> list[str]:
    """The discrepancy classes that have a member, most money first."""
    of = {
        name: document.events[name] if name in figures.SURPLUS else document.rows[name] for name in DISCREPANCY_CLASSES
    }
    return sorted((name for name in of if of[name].count), key=lambda name: of[name].spend.copy_negate())


def step_label(name: str, document: Document, words: Words) -> str:
    """What a step of the waterfall is called."""
    if name == "lago" and document.verified is False:
        return words.text("bridge_lago_unconfirmed")
    key = f"bridge_{name}"
    return words.text(key) if words.knows(key) else words.of_class(name).label


def whole_days(document: Document) -> tuple[date, date] | None:
    """First and last local day, where the window is made of whole days of the report's time zone."""
    zone = ZoneInfo(document.method.time_zone)
    if not (_begins_a_day(document.window_from, zone) and _begins_a_day(document.window_to, zone)):
        return None
    last = document.window_to - timedelta.resolution
    return document.window_from.astimezone(zone).date(), last.astimezone(zone).date()


def _begins_a_day(moment: datetime, zone: ZoneInfo) -> bool:
    """Also on days without a midnight, and where a zone skipped a whole day."""
    before = moment - timedelta.resolution
    return before.astimezone(zone).date() != moment.astimezone(zone).date()


def _status(document: Document, words: Words) -> str:
    whole = figures.sides(document)
    if document.status == "incomplete":
        return words.text("status_incomplete")
    if document.status == "agreed" and not document.rows["total"].count and not document.events["total"].count:
        return words.text("status_nothing")
    if document.status == "agreed" and not whole.open_count:
        return words.text("status_agreed")
    amounts = {"open": words.usd(whole.open), "total": words.usd(document.rows["total"].spend)}
    if document.status == "agreed":
        return words.text("status_agreed_open", **amounts)
    if not whole.open:
        return words.text("status_discrepancies_no_money", count=words.count(whole.open_count))
    beyond = whole.open > document.rows["total"].spend  # events without cause can outweigh what LiteLLM knows
    return words.text("status_discrepancies_beyond" if beyond else "status_discrepancies", **amounts)


def _lead(document: Document, words: Words) -> str:
    whole = figures.sides(document)
    if document.status == "incomplete":
        return words.text("lead_incomplete")
    if document.status == "agreed":
        if not document.rows["total"].count and not document.events["total"].count:
            return words.text("lead_empty")
        return words.text("lead_agreed_open" if whole.open_count else "lead_agreed")
    return words.text(
        "lead_discrepancies",
        unbilled=words.usd(whole.outcome("unbilled")),
        otherwise=words.usd(whole.outcome("otherwise")),
        surplus=words.usd(whole.surplus),
    )


def _nature(document: Document, words: Words) -> str:
    if document.verified is not None:
        return words.text("verified_true" if document.verified else "verified_false")
    if document.dry_run:
        return words.text("dry_run")
    return words.text("read_only") if document.command == "report" else ""


def _bounds(document: Document, words: Words) -> str:
    texts = []
    if document.window_asked_to is not None:
        texts.append(words.text("asked_to", to=words.instant(document.window_asked_to)))
    if document.window_extended_from is not None:
        texts.append(words.text("extended_from", start=words.instant(document.window_extended_from)))
    return " ".join(texts)


def _period(document: Document, words: Words) -> str:
    days = whole_days(document)
    if days is None:
        # The zone's name stands beside the period: in UTC it says it all.
        told = words.moment if words.time_zone == "UTC" else words.instant
        return words.text("period_instants", first=told(document.window_from), last=told(document.window_to))
    first, last = days
    if first == last:
        return words.text("period_day", day=words.day(first))
    return words.text("period_days", first=words.day(first), last=words.day(last))


def _period_short(document: Document, words: Words) -> str:
    days = whole_days(document)
    if days is None:
        first, last = words.minute(document.window_from), words.minute(document.window_to)
    else:
        first, last = words.day(days[0]), words.day(days[1])
    return first if first == last else f"{first} – {last}"


def _short(text: str, words: Words) -> str:
    return shortened(visible(text), _STREAM_WIDTH, words.text("truncated"))

"""How the figures were made, and when: the only part of a report that changes when it is made again."""

from __future__ import annotations

from reconcile.domain.document import Document, instant
from reconcile.report.tables import Column, Line, Table
from reconcile.report.words import Words


def basis(document: Document, words: Words) -> list[tuple[str, str]]:
    """Label and value of what fixes the figures. Equal for equal input."""
    method = document.method
    yes_no = {True: words.text("yes"), False: words.text("no"), None: words.text("none")}
    return [
        (words.text("instants"), f"{instant(document.window_from)} / {instant(document.window_to)}"),
        (words.text("zone"), method.time_zone),
        (words.text("lago_server"), document.lago),
        (words.text("stream"), f"{document.event_code} / {document.charge_by}"),
        (words.text("lago_store"), method.lago_store),
        (words.text("verified"), yes_no[document.verified]),
        *((f"{words.text('versions')}: {name}", version) for name, version in method.versions.items()),
        *((f"{words.text('setting')}: {name}", value) for name, value in method.settings.items()),
    ]


def making(document: Document, words: Words) -> list[tuple[str, str]]:
    """Label and value of this one making: run, command, times, effort. Differs every time."""
    method = document.method
    return [
        (words.text("run_id"), document.run_id),
        (words.text("previous_run"), document.previous.run_id if document.previous else words.text("none")),
        (words.text("command"), document.command),
        (words.text("started_at"), instant(method.started_at)),
        (words.text("finished_at"), instant(method.finished_at)),
        (words.text("slices"), words.count(method.slices)),
        (words.text("lago_requests"), words.count(method.requests)),
        (words.text("retries"), words.count(method.retries)),
        (words.text("in_flight"), ", ".join(f"{name} {number:.1f}" for name, number in method.in_flight.items())),
        (
            words.text("in_flight_limit"),
            ", ".join(f"{name} {number}" for name, number in method.in_flight_limit.items()),
        ),
        (words.text("workers"), words.count(method.workers)),
        (
            words.text("stage_seconds"),
            ", ".join(f"{name} {seconds:.1f}" for name, seconds in method.stage_seconds.items()),
        ),
    ]


def method(document: Document, words: Words) -> Table:
    """Both as one table of text."""
    lines: list[Line] = [*basis(document, words), *making(document, words)]
    return Table(
        "method",
        words.text("section_method"),
        (Column("item", words.text("col_item"), "text"), Column("value", words.text("value"), "text")),
        lines,
    )

"""One row's story on a terminal: what `reconcile explain` prints."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime

from rich.console import Console
from rich.text import Text

from reconcile.domain.dates import instant, local_day
from reconcile.domain.story import Delivered, Explained, JournalLine, LoggedRow, NearEvent, Story, Subscribed
from reconcile.domain.vocabulary import DISCREPANCY_CLASSES, RowClass
from reconcile.report.shown import visible
from reconcile.report.words import Words


def render(explained: Explained, console: Console, language: str) -> None:
    """Prints the stories, one after the other. Raises `UsageError` for an unknown language."""
    words = Words(language, explained.time_zone)
    for number, story in enumerate(explained.stories):
        if number:
            console.print()
        _Page(console, words, explained).story(story)
    if explained.unplaced:
        console.print(Text(words.text("story_unplaced", count=words.count(explained.unplaced)), style="yellow"))
    console.print(Text(words.text("story_requests", count=words.count(explained.lago_requests)), style="dim"))


class _Page:
    """Prints one story. Whatever comes from strangers is made visible."""

    def __init__(self, console: Console, words: Words, explained: Explained) -> None:
        self._console, self._words, self._explained = console, words, explained

    def story(self, story: Story) -> None:
        words = self._words
        self._line(f"{words.text('col_request_id')}: {visible(story.request_id)}", style="bold")
        self._verdict(story)
        self._row(story.row)
        if story.event is not None:
            self._head("story_event")
            self._line(f"  {json.dumps(story.event)}")
        self._events(story)
        self._deliveries(story.deliveries)
        if story.held is not None:
            reason = words.of_reason(story.held.reason).label
            self._head("story_held")
            self._line(f"  {instant(story.held.since)}  {visible(reason)} ({story.held.reason})  {story.held.run_id}")
        self._subscriptions(story)
        self._runs(story)

    def _verdict(self, story: Story) -> None:
        words = self._words
        if story.row_class is None:
            self._line(words.text("story_not_read" if story.row is not None else "story_no_class"), style="yellow")
            return
        wording = words.of_class(story.row_class)
        style = "yellow" if story.row_class in DISCREPANCY_CLASSES else "green"
        self._line(f"{wording.label} ({story.row_class}): {wording.meaning}", style=style)
        told = wording
        if story.reason is not None:
            told = words.of_reason(story.reason)
            self._line(f"  {words.text('col_reason')}: {told.label} ({story.reason}). {told.meaning}")
        self._line(f"  {words.text('col_next')}: {told.next or wording.next}")
        if story.row is not None and story.young_until is not None:
            self._line(f"  {words.text('story_young', at=instant(story.young_until))}")
        elif story.row is not None and story.row_class == RowClass.MISSING:
            day = local_day(story.row.usage_time, words.zone)
            self._line(f"  reconcile backfill --from {day} --to {day}")
        if story.is_long:
            self._line(f"  {words.text('story_long')}")
        if story.ambiguous:
            self._line(f"  {words.text('story_ambiguous')}")

    def _row(self, row: LoggedRow | None) -> None:
        words = self._words
        self._head("story_row")
        if row is None:
            self._line(f"  {words.text('story_deleted')}")
            return
        local = "" if words.time_zone == "UTC" else f" ({words.instant(row.usage_time)})"
        self._pair("col_usage_time", f"{instant(row.usage_time)}{local}")
        self._pair("story_began", instant(row.started_at))
        others = [f"{words.charge_by(name)} {visible(told)}" for name, told in row.charge_ids.items() if told]
        charged = visible(row.charge_ids.get(self._explained.charge_by, "")) or words.text("nobody")
        self._pair("col_charge_id", f"{charged} ({words.charge_by(self._explained.charge_by)})")
        self._pair("story_charge_ids", ", ".join(others) or words.text("nobody"))
        names = [text for text in (row.model_group, row.provider) if text]
        self._pair("col_model", visible(row.model) + (f" ({visible(', '.join(names))})" if names else ""))
        self._pair("col_row_spend", row.spend)
        self._pair("story_tokens", f"{row.prompt_tokens} + {row.completion_tokens} = {row.total_tokens}")
        self._pair(
            "story_status", visible(", ".join(f"{text or '–'}" for text in (row.status, row.call_type, row.cache_hit)))
        )

    def _events(self, story: Story) -> None:
        words = self._words
        if story.looked_from is None or story.looked_to is None:
            return
        first, last = instant(story.looked_from), instant(story.looked_to)
        self._head("story_events", first=first, last=last, count=words.count(story.events_total))
        for event in story.events:
            self._event(event)
        if story.events_total > len(story.events):
            self._line(f"  {words.text('rest_line', count=words.count(story.events_total - len(story.events)))}")

    def _event(self, event: NearEvent) -> None:
        words = self._words
        sign = "→" if event.of_this_row else " "
        source = words.text("story_own" if event.own else "story_live")
        counts = (event.prompt_tokens, event.completion_tokens)
        tokens = " + ".join("–" if count is None else str(count) for count in counts)
        self._line(
            f"{sign} {event.offset_seconds:+} s  {visible(event.transaction_id)} ({source})  "
            f"{visible(event.subscription_id) or words.text('nobody')}  {visible(event.model) or '–'}  "
            f"{event.cost or '–'} USD  {tokens}"
        )
        said = []
        if event.event_class is not None:
            reason = "" if event.reason is None else f", {words.of_reason(event.reason).label} ({event.reason})"
            said.append(f"{words.of_class(event.event_class).label} ({event.event_class}){reason}")
        if event.row_request_id is not None and not event.of_this_row:
            said.append(f"{words.text('col_request_id')} {visible(event.row_request_id)}")
        if event.differs:
            said.append(words.text("story_differs", what=", ".join(map(self._value, event.differs))))
        if not event.counted:
            said.append(words.text("story_not_counted"))
        self._line(f"    {'; '.join(said)}")

    def _value(self, name: str) -> str:
        return self._words.text(f"story_value_{name}")

    def _deliveries(self, deliveries: Iterable[Delivered]) -> None:
        words = self._words
        told = list(deliveries)
        self._head("story_deliveries", count=words.count(len(told)))
        for one in told:
            self._line(f"  {instant(one.sent_at)}  {one.run_id}  {one.transaction_id}  {one.spend} USD")
            charged = f"{words.charge_by(one.charge_by)} {visible(one.charge_id)}"
            self._line(f"    {charged} → {visible(one.subscription_id)}")
            for line in one.journal:
                self._line(f"    {_journal(line)}")

    def _subscriptions(self, story: Story) -> None:
        words = self._words
        if story.row is None or not story.charge_id:
            return
        self._head("story_subscriptions", count=words.count(len(story.subscriptions)))
        for one in story.subscriptions:
            self._line(f"{'→' if one.covers else ' '} {self._subscription(one)}")
        if story.nobody is not None:
            reason = words.of_reason(story.nobody)
            told = f"{reason.label} ({story.nobody}). {reason.next}"
            self._line(f"  {words.text('story_nobody')}: {told}", style="yellow")
        elif story.subscriptions:
            self._line(f"  {words.text('story_billed')}")

    def _subscription(self, one: Subscribed) -> str:
        words = self._words
        parts = [
            f"{visible(one.external_id)} ({visible(one.external_customer_id)})",
            one.status,
            words.text("until", first=_or_open(one.started_at), last=_or_open(one.ended_at)),
        ]
        if one.period_from is not None:
            parts.append(f"{words.text('col_period')}: {words.text('col_period_from')} {instant(one.period_from)}")
        charges = words.text("nobody") if one.charges == () else ", ".join(one.charges or ("?",))
        advance = f", {words.text('story_in_advance')}" if one.pay_in_advance else ""
        parts.append(words.text("story_plan", code=visible(one.plan_code), charges=charges) + advance)
        return "  ".join(parts)

    def _runs(self, story: Story) -> None:
        self._head("story_runs", count=self._words.count(len(story.runs)))
        for one in story.runs:
            command = one.command + (" --dry-run" if one.dry_run else "")
            self._line(f"  {one.run_id}  {command}  {one.status or '–'}")

    def _head(self, key: str, **values: object) -> None:
        self._line(self._words.text(key, **values), style="bold")

    def _pair(self, key: str, text: str) -> None:
        self._line(f"  {self._words.text(key)}: {text}")

    def _line(self, text: str, style: str = "") -> None:
        self._console.print(Text(text, style=style), soft_wrap=True)


def _journal(line: JournalLine) -> str:
    status = "" if line.http_status is None else f" ({line.http_status})"
    reason = "" if line.reason is None else f": {visible(line.reason)}"
    return f"{instant(line.at)}  {line.what}{status}{reason}"


def _or_open(moment: datetime | None) -> str:
    return "…" if moment is None else instant(moment)

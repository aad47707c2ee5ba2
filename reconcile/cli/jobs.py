"""The commands that do a job: `run`, `backfill`, `report`, and what follows each of them."""

from __future__ import annotations

import contextlib
import gc
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import structlog
import typer

from reconcile import logs
from reconcile.cli.console import print_json, printing, progress_bar, say, stopping
from reconcile.cli.options import (
    ChargeByOption,
    DaskOption,
    DryRunOption,
    EventCodeOption,
    Format,
    FormatOption,
    FromOption,
    JsonOption,
    LanguageOption,
    LastOption,
    MonthOption,
    OutputOption,
    SkipUnchangedOption,
    ToOption,
    VerboseOption,
    settings_with,
)
from reconcile.errors import Defect, OutputFault, ReconcileError, UsageError

if TYPE_CHECKING:
    from reconcile.domain.document import Document
    from reconcile.domain.window import Window
    from reconcile.run.job import Order
    from reconcile.settings import Settings

log = structlog.get_logger()

_RANGES = "--from 2026-11-01 --to 2026-11-30, --month 2026-11 or --last 7d"


def run(
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    output: OutputOption = None,
    formats: FormatOption = None,
    charge_by: ChargeByOption = None,
    event_code: EventCodeOption = None,
    language: LanguageOption = None,
    dask: DaskOption = None,
    verbose: VerboseOption = False,
) -> None:
    """The nightly job: the last hours.

    From RECONCILE_LOOKBACK before RECONCILE_LAG ago; late rows and rows that were held back before, however old.
    """
    from reconcile.domain.window import lookback_window
    from reconcile.run.job import Order

    settings = settings_with(charge_by, event_code, language, dask, verbose)
    window = lookback_window(datetime.now(UTC), settings.lag, settings.lookback)
    work(settings, Order("run", window, dry_run), as_json=as_json, output=output, formats=formats)


def backfill(
    from_text: FromOption = None,
    to_text: ToOption = None,
    last: LastOption = None,
    month: MonthOption = None,
    dry_run: DryRunOption = False,
    skip_unchanged: SkipUnchangedOption = False,
    as_json: JsonOption = False,
    output: OutputOption = None,
    formats: FormatOption = None,
    charge_by: ChargeByOption = None,
    event_code: EventCodeOption = None,
    language: LanguageOption = None,
    dask: DaskOption = None,
    verbose: VerboseOption = False,
) -> None:
    """The same for a chosen range: --from and --to, --month, or --last.

    Dates are days in RECONCILE_TIMEZONE, both ends included.
    """
    from reconcile.run.job import Order

    settings = settings_with(charge_by, event_code, language, dask, verbose)
    window, asked_to = _range(from_text, to_text, last, month, settings)
    order = Order("backfill", window, dry_run, skip_unchanged=skip_unchanged, asked_to=asked_to)
    work(settings, order, as_json=as_json, output=output, formats=formats)


def report(
    from_text: FromOption = None,
    to_text: ToOption = None,
    last: LastOption = None,
    month: MonthOption = None,
    as_json: JsonOption = False,
    output: OutputOption = None,
    formats: FormatOption = None,
    charge_by: ChargeByOption = None,
    event_code: EventCodeOption = None,
    language: LanguageOption = None,
    dask: DaskOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Read both sides and report.

    Of the range of --from and --to, --month, or --last. Changes nothing in Lago or in LiteLLM.
    """
    from reconcile.run.job import Order

    settings = settings_with(charge_by, event_code, language, dask, verbose)
    window, asked_to = _range(from_text, to_text, last, month, settings)
    work(settings, Order("report", window, asked_to=asked_to), as_json=as_json, output=output, formats=formats)


def _range(
    from_text: str | None, to_text: str | None, last: str | None, month: str | None, settings: Settings
) -> tuple[Window, datetime | None]:
    """The window that the options mean, and the end that was asked for where it is cut."""
    from reconcile.domain.dates import instant
    from reconcile.domain.window import cut, lookback_window, month_window, parse_range

    given = [name for name, text in (("--last", last), ("--month", month), ("--from", from_text)) if text is not None]
    if len(given) > 1 or (to_text is not None and given and given != ["--from"]):
        raise UsageError(f"{given[0]}: says the whole range by itself; leave out {(given[1:] or ['--to'])[0]}")
    now = datetime.now(UTC)
    if last is not None:
        return lookback_window(now, settings.lag, _length(last)), None
    if month is not None:
        asked, told = month_window(month, settings.time_zone), f"--month {month}"
    elif from_text is None or to_text is None:
        lacking = "--from" if from_text is None else "--to"
        raise UsageError(f"{lacking}: is missing; name a range, for example {_RANGES}")
    else:
        asked, told = parse_range(from_text, to_text, settings.time_zone), f"--to {to_text}"
    window, asked_to = cut(asked, now, settings.lag)
    if asked_to is not None:
        say(
            f"{told} ends at {instant(asked_to)}; the range is cut to {instant(window.end)}, since younger usage may "
            "still be on its way (RECONCILE_LAG)"
        )
    return window, asked_to


def _length(text: str) -> timedelta:
    from reconcile.settings import values

    try:
        return values.duration("1m", "3660d")(text)
    except ValueError as error:
        raise UsageError(f"--last: {error}; for example --last 7d") from None


def work(
    settings: Settings,
    order: Order,
    *,
    as_json: bool,
    output: Path | None,
    formats: list[Format] | None,
    stop: threading.Event | None = None,
) -> NoReturn:
    """Runs a job, tells whom it concerns, prints its document or summary, writes its report files, and exits.

    What concerns other people comes first: output that cannot be written takes nothing from them.
    """
    from reconcile.run import job
    from reconcile.unattended import oneshot
    from reconcile.unattended.heartbeat import Heartbeat

    gc.freeze()  # what is imported stays
    if formats and output is None:
        raise UsageError("--format: report files need a folder; for example --output reports --format xlsx")
    if output is not None:
        _make_folder(output)
    logs.configure(settings.log_level, settings.log_format)
    log.info("settings", **settings.origins())
    for warning in settings.warnings():
        log.warning(warning)
    wanted = [one.value for one in formats or (Format.html, Format.json)]
    heartbeat = Heartbeat.of(settings, order)

    def announce(text: str) -> None:
        heartbeat.begins()
        say(text)

    with contextlib.ExitStack() as stack:
        stop = stop or stack.enter_context(stopping())
        try:
            with progress_bar() as progress:
                result = job.run(settings, order, stop=stop, progress=progress, announce=announce)
        except ReconcileError as error:
            heartbeat.ended(error.exit_code)
            oneshot.refused(settings, order, error, stop)
            raise
        except Exception as error:
            defect = Defect.of(error)
            heartbeat.ended(defect.exit_code)
            oneshot.refused(settings, order, defect, stop)
            raise defect from None
        _tell_pace(result.document)
        heartbeat.ended(result.exit_code)
        oneshot.ended(settings, order, result, _planned(result.document, output, wanted), stop)
    if result.exit_code == job.EXIT_INTERRUPTED:
        say("interrupted; running it again is safe and carries on")
    else:
        _put_out(result.document, settings.language, as_json=as_json, output=output, formats=wanted)
    raise typer.Exit(result.exit_code)


def _tell_pace(document: Document) -> None:
    """What the run settled on between Lago's answers and its other traffic."""
    method = document.method
    for kind, limit in method.in_flight_limit.items():
        mean = round(method.in_flight.get(kind, 0.0), 2)
        log.debug("requests to Lago in flight, settled", kind=kind, limit=limit, mean=mean)


def _planned(document: Document, output: Path | None, formats: list[str]) -> list[Path]:
    if output is None:
        return []
    from reconcile import report as reports

    return reports.paths(document, output, formats)


def _put_out(document: Document, language: str, *, as_json: bool, output: Path | None, formats: list[str]) -> None:
    """Stdout and the report files. One that cannot be written does not keep the other back."""
    faults = []
    try:
        if as_json:
            print_json(document.as_json())
        else:
            summary(document, language)
    except OutputFault as fault:
        faults.append(str(fault))
    if output is not None:
        from reconcile import report as reports

        try:
            for path in reports.write(document, output, formats, language):
                say(f"wrote {path}")
        except OutputFault as fault:
            faults.append(f"--output: {fault}")
    if faults:
        raise OutputFault("\n".join(faults))


def _make_folder(output: Path) -> None:
    """Before anything is sent: a run whose report cannot be written should not begin."""
    from reconcile import report as reports

    try:
        reports.make_folder(output)
    except OSError as error:
        raise UsageError(
            f"--output: {output} cannot be written ({error.strerror}); for example --output reports"
        ) from None


def summary(document: Document, language: str) -> None:
    """What people read of a document on a terminal."""
    from reconcile.report import terminal

    with printing() as console:
        terminal.render(document, console, language)

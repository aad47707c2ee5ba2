"""Reports for people: the result document as HTML, XLSX, CSV and JSON files, in any of the languages there are.

Every output is a function of the document alone: the same document gives the same bytes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, Final, TypeAlias

import orjson
from xlsxwriter.exceptions import XlsxWriterException

from reconcile.domain.document import Document
from reconcile.errors import OutputFault, UsageError
from reconcile.report import figures, page, sheets, workbook
from reconcile.report.words import Words, languages

__all__ = ["FORMATS", "languages", "make_folder", "paths", "write"]


FORMATS: Final = ("html", "xlsx", "csv", "json")

_Fill: TypeAlias = Callable[[BinaryIO], None]

_PROC: Final = "/proc/self/fd/{}"


def paths(document: Document, directory: Path, formats: Sequence[str]) -> list[Path]:
    """The files that `write` makes, in order."""
    stem = f"reconcile-{_stamp(document.window_from)}-{_stamp(document.window_to)}"
    return [directory / f"{stem}.{ending}" for ending in _endings(formats)]


def write(document: Document, directory: Path, formats: Sequence[str], language: str) -> list[Path]:
    """Writes the report files into `directory` (made if missing) and returns their paths, in order.

    Files are named `reconcile-FROM-TO.EXT` after the window; `csv` is one file per table,
    `reconcile-FROM-TO.TABLE.csv`. A file appears whole or not at all, replaces one of the same name, and is its owner's
    alone to read: it names customers and their money.

    Raises `UsageError` for an unknown format or language, `BooksFault` for a document that does not add up, and
    `OutputFault` where the files cannot be written.
    """
    for name in formats:
        if name not in FORMATS:
            raise UsageError(f"No such format: {name!r}. Choose among {', '.join(FORMATS)}.")
    words = Words(language, document.method.time_zone)
    figures.check(document)
    written: list[Path] = []
    try:
        make_folder(directory)
        for path, ending in zip(paths(document, directory, formats), _endings(formats), strict=True):
            _atomically(path, _filling(ending, document, words))
            written.append(path)
    except (OSError, XlsxWriterException) as error:
        reason = "the workbook cannot be closed" if isinstance(error, XlsxWriterException) else error.strerror or error
        raise OutputFault(f"{directory} cannot be written: {reason}") from None
    return written


def make_folder(directory: Path) -> None:
    """Makes the folder, its owner's alone, and what leads to it; one that is there stays as it is.

    Raises OSError where it cannot be made, or no file in it.
    """
    missing = [one for one in (directory, *directory.parents) if not one.exists()]
    for one in reversed(missing):
        one.mkdir(mode=0o700, exist_ok=True)
    with TemporaryFile(dir=directory):
        pass


def _endings(formats: Sequence[str]) -> list[str]:
    """How the files' names end: the format, for `csv` with the table before it."""
    return [
        ending
        for name in dict.fromkeys(formats)
        for ending in ([f"{table}.csv" for table in sheets.TABLES] if name == "csv" else [name])
    ]


def _filling(ending: str, document: Document, words: Words) -> _Fill:
    """What fills the file whose name ends so."""
    if ending == "json":
        return partial(_json, document)
    if ending == "html":
        return partial(page.write, document, words)
    if ending == "xlsx":
        return partial(workbook.write, document, words)
    return partial(sheets.write, sheets.TABLES[ending.removesuffix(".csv")](document, words), words)


def _json(document: Document, target: BinaryIO) -> None:
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    target.write(orjson.dumps(document.as_json(whole=True), option=options))


def _stamp(moment: datetime) -> str:
    """An instant in UTC as a part of a file name: without colons, which Windows forbids."""
    moment = moment.astimezone(UTC)
    milliseconds = f"-{moment.microsecond // 1000:03d}" if moment.microsecond else ""
    return f"{moment:%Y-%m-%dT%H-%M-%S}{milliseconds}Z"


def _atomically(path: Path, fill: _Fill) -> None:
    """Fills a file that has no name yet, and moves it into place: a run that is killed leaves nothing behind, and no
    link that lies there is followed. Where the system knows no files without a name, it has one that nobody can
    foresee."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    descriptor = _nameless(path.parent)
    named = descriptor is None
    if descriptor is None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as target:
            fill(target)
            target.flush()
            os.fsync(target.fileno())
            if not named:
                with contextlib.suppress(FileExistsError):
                    return _name(descriptor, path)
                # An older report lies there: only a file with a name can take its place.
                _name(descriptor, temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _name(descriptor: int, path: Path) -> None:
    """Gives the file of a descriptor a name. Raises `FileExistsError` where something has it; no link is followed."""
    # The path is absolute; that a descriptor is given makes Python ask for the call that follows it.
    os.link(_PROC.format(descriptor), path, src_dir_fd=descriptor, follow_symlinks=True)


def _nameless(directory: Path) -> int | None:
    """The descriptor of a file without a name, None where there are none such: on macOS, on some network shares."""
    flag = getattr(os, "O_TMPFILE", None)
    if flag is None or not os.path.isdir("/proc/self/fd"):
        return None
    try:
        return os.open(directory, flag | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT):
            return None
        raise

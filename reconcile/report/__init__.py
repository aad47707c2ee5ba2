"""Reports for people: the result document as HTML, XLSX, CSV and JSON files, in any of the languages there are.

Every output is a function of the document alone: the same document gives the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias

import orjson

from reconcile.domain.document import Document
from reconcile.errors import UsageError
from reconcile.report import figures, page, sheets, workbook
from reconcile.report.words import Words, languages

__all__ = ["FORMATS", "languages", "write"]


FORMATS: Final = ("html", "xlsx", "csv", "json")

_Fill: TypeAlias = Callable[[BinaryIO], None]


def write(document: Document, directory: Path, formats: Sequence[str], language: str) -> list[Path]:
    """Writes the report files into `directory` (made if missing) and returns their paths, in order.

    Files are named `reconcile-FROM-TO.EXT` after the window; `csv` is one file per table,
    `reconcile-FROM-TO.TABLE.csv`. A file appears whole or not at all, and replaces one of the same name.

    Raises `UsageError` for an unknown format or language, `BooksFault` for a document that does not add up, and
    `OSError` where the folder cannot be written.
    """
    for name in formats:
        if name not in FORMATS:
            raise UsageError(f"No such format: {name!r}. Choose among {', '.join(FORMATS)}.")
    words = Words(language, document.method.time_zone)
    figures.check(document)
    directory.mkdir(parents=True, exist_ok=True)
    stem = f"reconcile-{_stamp(document.window_from)}-{_stamp(document.window_to)}"
    written: list[Path] = []
    for name in dict.fromkeys(formats):
        for ending, fill in _files(name, document, words):
            path = directory / f"{stem}.{ending}"
            _atomically(path, fill)
            written.append(path)
    return written


def _files(name: str, document: Document, words: Words) -> Iterator[tuple[str, _Fill]]:
    """The files of one format: how each one's name ends, and what fills it."""
    if name == "csv":
        for table, make in sheets.TABLES.items():
            yield f"{table}.csv", partial(sheets.write, make(document, words), words)
    elif name == "json":
        yield "json", partial(_json, document)
    elif name == "html":
        yield "html", partial(page.write, document, words)
    else:
        yield "xlsx", partial(workbook.write, document, words)


def _json(document: Document, target: BinaryIO) -> None:
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    target.write(orjson.dumps(document.as_json(listed=None), option=options))


def _stamp(moment: datetime) -> str:
    """An instant in UTC as a part of a file name: without colons, which Windows forbids."""
    moment = moment.astimezone(UTC)
    milliseconds = f"-{moment.microsecond // 1000:03d}" if moment.microsecond else ""
    return f"{moment:%Y-%m-%dT%H-%M-%S}{milliseconds}Z"


def _atomically(path: Path, fill: _Fill) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as target:
            fill(target)
            target.flush()
            os.fsync(target.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise

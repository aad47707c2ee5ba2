"""The statements of `sql/`, with psql's own interpolation: `:'name'` is a literal, `:"name"` an identifier."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from pathlib import Path

_VARIABLE = re.compile(r""":(['"])([a-z_]+)\1""")
_COMMENT = re.compile(r"^--.*\n", re.MULTILINE)


@cache
def text(name: str) -> str:
    """The statement `name`, without its comments: from the wheel, or from the checkout beside the package."""
    in_wheel = files("reconcile") / "sql" / f"{name}.sql"
    source = in_wheel if in_wheel.is_file() else Path(__file__).parent.parent / "sql" / f"{name}.sql"
    return _COMMENT.sub("", source.read_text(encoding="utf-8")).strip().removesuffix(";")


def render(name: str, **values: str | int | datetime) -> str:
    """The statement with its variables filled in. Datetimes become UTC timestamps without a zone, as LiteLLM's are."""

    def filled(match: re.Match[str]) -> str:
        quote, variable = match.groups()
        value = values[variable]
        if isinstance(value, datetime):
            value = value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
        return quote + str(value).replace(quote, quote * 2) + quote

    return _VARIABLE.sub(filled, text(name))

"""Times as Lago reads, keeps and writes them. Pure.

An event's time is sent as a number of seconds. Between the request and what is listed it is handed on in several
ways, some of which lose a millisecond; each is a function here, with whole nanoseconds in between.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from fractions import Fraction

NANOSECONDS = 10**9
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
START = EPOCH.replace(tzinfo=None)

# What Ruby's BigDecimal() takes: blanks around, underscores between digits, an exponent by e or d.
DECIMAL = re.compile(r"\s*[+-]?(\d+(_\d+)*(\.(\d+(_\d+)*)?)?|\.\d+(_\d+)*)([eEdD][+-]?\d+)?\s*", re.ASCII)
NOT_FINITE = re.compile(r"\s*(NaN|[+-]?Infinity)\s*")
HEXADECIMAL = re.compile(r"\s*[+-]?0[xX][0-9a-fA-F]+\s*")

# What DateTime.iso8601 takes of the forms that clients send: no blank between date and time, no bare epoch.
ISO_8601 = re.compile(
    r"(\d{4}-\d{2}-\d{2}|\d{8}|\d{4}-?W\d{2}-?\d)"
    r"([Tt]\d{2}(:?\d{2}(:?\d{2}([.,]\d+)?)?)?([Zz]|[+-]\d{2}(:?\d{2})?)?)?",
    re.ASCII,
)

# Enough digits to shift a number of usual length without rounding it.
EXACT = Context(prec=100)

# Years that Ruby's and Postgres' times reach, roughly: beyond, Lago fails.
FURTHEST = 10**20

# What a ClickHouse DateTime64(3) holds in Lago's table: events at 0 and before are a failure, and after 2299.
CLICKHOUSE_MILLISECONDS = range(1, 10_413_792_000_000)


class OutOfRange(ValueError):
    """A time that Lago's database does not take: Lago answers 500."""


def nanoseconds(text: str, *, exact: bool) -> int | None:
    """The posted seconds as nanoseconds since the epoch; None where Lago answers 422. Raises OutOfRange.

    `exact`: read as a decimal. Otherwise as a float, as before Lago 1.48, which also takes hexadecimal numbers.
    """
    if not DECIMAL.fullmatch(text):
        if exact and NOT_FINITE.fullmatch(text):
            raise OutOfRange
        return int(text, 16) * NANOSECONDS if not exact and HEXADECIMAL.fullmatch(text) else None
    number = Decimal(text.strip().replace("_", "").lower().replace("d", "e"))
    if number and number.adjusted() > 20:
        raise OutOfRange
    if exact:
        shifted = number.scaleb(9, EXACT if len(text) < EXACT.prec - 20 else Context(prec=len(text) + 20))
        found = int(shifted)
        if shifted < found:
            found -= 1
    else:
        found = Fraction(float(number)) * NANOSECONDS // 1
    if abs(found) >= FURTHEST * NANOSECONDS:
        raise OutOfRange
    return found


def clickhouse_milliseconds(found: int) -> int:
    """The millisecond under which a ClickHouse store keeps an event. Raises OutOfRange.

    Lago hands the time on as the text of a float, `Time#to_f.to_s`, and ClickHouse cuts it: for one millisecond in
    eight that text ends in 9s.
    """
    whole, _, fraction = repr(float(found) / 1e9).partition(".")
    kept = int(whole) * 1000 + int(f"{fraction}000"[:3]) if found > 0 else 0
    if kept not in CLICKHOUSE_MILLISECONDS:
        raise OutOfRange
    return kept


def read_time(text: str) -> datetime | None:
    """The instant that a filter of GET /events names (UTC without an offset); None where Lago refuses it."""
    if not ISO_8601.fullmatch(text):
        return None
    try:
        moment = datetime.fromisoformat(text.upper().replace(",", "."))
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def microseconds(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


def naive(moment: datetime) -> datetime:
    """The time in UTC without a zone, as Rails keeps it."""
    return moment.astimezone(UTC).replace(tzinfo=None)


def seconds_text(moment: datetime | None) -> str | None:
    """Ruby's `iso8601` of a UTC time without a zone."""
    return None if moment is None else f"{moment:%Y-%m-%dT%H:%M:%S}Z"


def milliseconds_text(moment: datetime | None) -> str | None:
    """Ruby's `iso8601(3)` of a UTC time without a zone: cut to milliseconds, not rounded."""
    return None if moment is None else f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def offset_text(moment: datetime) -> str:
    """How fees write a UTC time without a zone."""
    return f"{moment:%Y-%m-%dT%H:%M:%S}+00:00"


def instant_text(milliseconds: int) -> str:
    """Ruby's `iso8601(3)` of any instant, also in years that Python's datetime does not reach."""
    # The Gregorian calendar repeats every 400 years, which are 146,097 days.
    cycles, rest = divmod(milliseconds, 146_097 * 86_400_000)
    text = (START + timedelta(milliseconds=rest)).isoformat(timespec="milliseconds")
    return f"{text}Z" if not cycles else f"{int(text[:4]) + 400 * cycles:04d}{text[4:]}Z"

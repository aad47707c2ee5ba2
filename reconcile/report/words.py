"""What the reports say, in one language: labels, reasons, numbers and dates.

Each language is one file, `languages/TAG.toml`; adding a language is adding a file. Numbers and dates follow Babel
(CLDR) for the file's `locale`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import ROUND_HALF_UP, Context, Decimal
from importlib.resources import files
from typing import Any, Final
from zoneinfo import ZoneInfo

from babel import Locale
from babel.dates import format_date, format_datetime
from babel.numbers import format_decimal, format_scientific, get_currency_precision

from reconcile.errors import UsageError

_FILES: Final = files(__package__) / "languages"

# Doubles reach 1.8e308, so a sum of spends can have 309 digits before the point: rounding must not overflow.
_WIDE: Final = Context(prec=1_000)
_PLAIN_FROM: Final = Decimal("1e-12")
_PLAIN_BELOW: Final = Decimal("1e15")


@dataclass(frozen=True, slots=True)
class Wording:
    """How one class or reason is called, what it means, and what its reader does next."""

    label: str
    meaning: str
    next: str


def languages() -> tuple[str, ...]:
    """The tags of the languages there are, such as `en` and `zh-CN`."""
    names = (entry.name for entry in _FILES.iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml")))


class Words:
    """One language, with dates in one time zone.

    Raises `UsageError` for a language that has no file.
    """

    def __init__(self, language: str, time_zone: str) -> None:
        if language not in languages():
            raise UsageError(f"No such language: {language!r}. Choose one of {', '.join(languages())}.")
        source = (_FILES / f"{language}.toml").read_text(encoding="utf-8")
        self._data: Mapping[str, Any] = tomllib.loads(source)
        self._text: Mapping[str, str] = self._data["text"]
        self._formats: Mapping[str, str] = self._data["formats"]
        self._locale = Locale.parse(self._data["locale"])
        self.language = language
        self.time_zone = time_zone
        self.zone = ZoneInfo(time_zone)

    def text(self, key: str, **values: object) -> str:
        """The text `key` with its `{names}` filled in. An unknown key is a defect: KeyError."""
        return self._text[key].format(**values) if values else self._text[key]

    def knows(self, key: str) -> bool:
        return key in self._text

    def of_class(self, name: str) -> Wording:
        """A row or event class; an unknown one is shown as it is."""
        return self._wording("classes", name)

    def of_reason(self, code: str) -> Wording:
        """A reason code; an unknown one is shown as it is."""
        return self._wording("reasons", code)

    def of_finding(self, kind: str) -> str:
        return str(self._data["findings"].get(kind, kind))

    def of_fault(self, kind: str) -> str:
        return str(self._data["faults"].get(kind, kind))

    def worded(self, code: str, kind: str) -> str:
        """A cell's code in words where its kind of column has words; else the text as it is."""
        if kind == "side":
            return self.text(f"side_{code}")
        if kind == "class":
            return self.text("total") if code == "total" else self.of_class(code).label
        return code

    def charge_by(self, name: str) -> str:
        """What the charge ID names, such as "team"; an unknown column is shown as it is."""
        key = f"charge_by_{name}"
        return self.text(key) if self.knows(key) else name

    def count(self, number: int) -> str:
        return format_decimal(number, format="#,##0", locale=self._locale)

    def money(self, amount: Decimal) -> str:
        """An amount rounded for show, without its unit: see `rounded`."""
        if amount and not (_PLAIN_FROM <= amount.copy_abs() < _PLAIN_BELOW):
            return format_scientific(amount, format="0.00E0", locale=self._locale)
        value = rounded(amount)
        places = -int(value.as_tuple().exponent)
        return format_decimal(value, format="#,##0." + "0" * places, locale=self._locale)

    def usd(self, amount: Decimal) -> str:
        """An amount with its unit, as in `12.41 USD`."""
        return self.text("amount", amount=self.money(amount))

    def units(self, number: Decimal) -> str:
        """A quantity in Lago's units, with up to six decimals."""
        return format_decimal(_to_places(number, 6), format="#,##0.######", locale=self._locale)

    def currency_units(self, cents: int, currency: str) -> Decimal:
        """An amount of the currency's smallest unit, as Lago gives it, in the currency's main unit."""
        return Decimal(cents).scaleb(-get_currency_precision(currency), _WIDE)

    def day(self, value: date) -> str:
        return format_date(value, self._formats["day"], locale=self._locale)

    def day_short(self, value: date) -> str:
        return format_date(value, self._formats["day_short"], locale=self._locale)

    def minute(self, moment: datetime) -> str:
        """To the minute in the report's time zone, without the zone's name."""
        return format_datetime(moment.astimezone(self.zone), self._formats["minute"], self.zone, locale=self._locale)

    def moment(self, at: datetime) -> str:
        """To the second in the report's time zone."""
        return format_datetime(at.astimezone(self.zone), self._formats["instant"], self.zone, locale=self._locale)

    def offset(self, at: datetime) -> str:
        """The zone's offset then, as in `UTC+01:00`: it tells the two readings of an hour that comes twice.

        In UTC itself no hour does, and its name is enough.
        """
        if self.time_zone == "UTC":
            return "UTC"
        text = at.astimezone(self.zone).strftime("%z")
        return f"UTC{text[:3]}:{text[3:5]}"

    def instant(self, at: datetime) -> str:
        """Moment and offset."""
        return f"{self.moment(at)} ({self.offset(at)})"

    def _wording(self, section: str, name: str) -> Wording:
        entry = self._data[section].get(name)
        return Wording(name, "", "") if entry is None else Wording(**entry)


def rounded(amount: Decimal) -> Decimal:
    """The amount as it is shown: two decimals; below 0.10 two significant digits, so that no sum looks like zero."""
    if not amount:
        return Decimal("0.00")  # also for -0
    places = 2 if amount.copy_abs() >= Decimal("0.1") else 1 - amount.adjusted()
    shown = _to_places(amount, places).normalize(_WIDE)
    return _to_places(shown, max(2, -int(shown.as_tuple().exponent)))


def _to_places(amount: Decimal, places: int) -> Decimal:
    return amount.quantize(Decimal(1).scaleb(-places), rounding=ROUND_HALF_UP, context=_WIDE)

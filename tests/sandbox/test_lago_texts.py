"""What becomes of values and times on the way into a store. Pure functions."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from reconcile.sandbox.lago.clickhouse_text import decimal_value, go_text, text_map
from reconcile.sandbox.lago.pricing import NoRange, cents, price, rounded
from reconcile.sandbox.lago.timestamps import OutOfRange, clickhouse_milliseconds, instant_text, nanoseconds


@pytest.mark.parametrize(
    ("value", "listed", "enriched", "number"),
    [
        (None, "", "<nil>", "0"),
        ("", "", "", "0"),
        (True, "true", "true", "0"),
        ("abc", "abc", "abc", "0"),
        (10, "10", "10", "10"),
        (12.5, "12.5", "12.5", "12.5"),
        (1e-05, "0.00001", "1e-05", "0.00001"),
        (5.1e-07, "5.1e-7", "5.1e-07", "0.00000051"),
        (12345678, "12345678", "1.2345678e+07", "12345678"),
        (1e21, "1e21", "1e+21", "0"),
        (12345678901234567890, "12345678901234567890", "1.2345678901234567e+19", "0"),
        ({"a": 1}, '{"a":1}', "map[a:1]", "0"),
        ([1, "b"], '[1,"b"]', "[1 b]", "0"),
        ("-2.5", "-2.5", "-2.5", "-2.5"),
        ("+1", "+1", "+1", "1"),
        (".5", ".5", ".5", "0.5"),
        ("5.", "5.", "5.", "5"),
        ("1.2.3", "1.2.3", "1.2.3", "1.23"),
        (" 1", " 1", " 1", "0"),
        ("1,000", "1,000", "1,000", "0"),
        ("NaN", "NaN", "NaN", "0"),
        ("999999999999", "999999999999", "999999999999", "999999999999"),
        ("1000000000000", "1000000000000", "1000000000000", "0"),
        ("0.12345678901234567890123456789", "0.12345678901234567890123456789", ..., "0.12345678901234567890123456"),
    ],
)
def test_a_property_in_clickhouse(value: Any, listed: str, enriched: Any, number: str) -> None:
    assert text_map({"v": value}) == {"v": listed}
    if enriched is not ...:
        assert go_text(value) == enriched
    assert decimal_value(go_text(value)) == Decimal(number)


def test_a_whole_number_beyond_64_bits_empties_the_map() -> None:
    assert text_map({"a": "b", "n": 2**64}) == {}
    assert text_map({"a": "b", "n": 2**64 - 1}) == {"a": "b", "n": "18446744073709551615"}


def early(posted: list[str], *, exact: bool) -> list[bool]:
    """Which of these texts are stored one millisecond early: in ClickHouse, or (not exact) before 1.48."""
    found = []
    for text in posted:
        read = nanoseconds(text, exact=exact)
        assert read is not None
        stored = clickhouse_milliseconds(read) if exact else read // 1_000_000
        found.append(stored == int(Decimal(text) * 1000) - 1)
        assert found[-1] or stored == int(Decimal(text) * 1000)
    return found


def test_one_millisecond_in_eight_is_early_in_clickhouse() -> None:
    posted = [f"{1_795_500_000 + number * 0.007:.3f}" for number in range(20_000)]
    assert 2_400 < sum(early(posted, exact=True)) < 2_900
    assert early(["1795500000.002"], exact=True) == [True]
    assert not any(early([f"{text}2" for text in posted], exact=True))
    assert not any(early([str(1_795_500_000 + second) for second in range(1_000)], exact=True))


def test_one_in_two_is_early_before_1_48() -> None:
    posted = [f"1795500000.{number:03d}" for number in range(1_000)]
    assert 400 < sum(early(posted, exact=False)) < 600
    assert early(["1795500000.1"], exact=False) == [True]
    assert not any(early([f"{text}2" for text in posted], exact=False))


def test_times_out_of_range() -> None:
    for text in ("NaN", "-Infinity", "1e300", "9" * 30):
        with pytest.raises(OutOfRange):
            nanoseconds(text, exact=True)
    assert nanoseconds("NaN", exact=False) is None
    assert nanoseconds("0x10", exact=True) is None
    assert nanoseconds("0x10", exact=False) == 16 * 10**9
    for seconds in (0, -5, 1_795_500_000_000):
        with pytest.raises(OutOfRange):
            clickhouse_milliseconds(seconds * 10**9)


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (1_795_500_000_344, "2026-11-24T06:00:00.344Z"),
        (1_795_500_000_000_000, "58867-02-17T00:00:00.000Z"),
    ],
)
def test_instants(milliseconds: int, text: str) -> None:
    assert instant_text(milliseconds) == text


GRADUATED = {
    "graduated_ranges": [
        {"from_value": 0, "to_value": 10, "per_unit_amount": "2", "flat_amount": "1"},
        {"from_value": 11, "to_value": None, "per_unit_amount": "1", "flat_amount": "5"},
    ]
}
VOLUME = {
    "volume_ranges": [
        {"from_value": 0, "to_value": 100, "per_unit_amount": "1", "flat_amount": "0"},
        {"from_value": 101, "to_value": None, "per_unit_amount": "0.5", "flat_amount": "3"},
    ]
}
PACKAGE = {"package_size": 100, "amount": "3", "free_units": 50}


@pytest.mark.parametrize(
    ("model", "properties", "units", "events", "amount"),
    [
        ("standard", {"amount": "0.00001"}, "123", 1, "0.00123"),
        ("standard", {"amount": "1"}, "-2", 1, "-2"),
        ("graduated", GRADUATED, "0", 0, "0"),
        ("graduated", GRADUATED, "10", 1, "21"),
        ("graduated", GRADUATED, "12.5", 1, "28.5"),
        ("volume", VOLUME, "100", 1, "100"),
        ("volume", VOLUME, "102", 1, "54"),
        ("volume", VOLUME, "-0.5", 1, "-0.5"),
        ("package", PACKAGE, "50", 1, "0"),
        ("package", PACKAGE, "151", 1, "6"),
        ("percentage", {"rate": "1", "fixed_amount": "1"}, "2", 1, "1.02"),
        ("percentage", {"rate": "1", "fixed_amount": "1"}, "2", 3, "3.02"),
        ("dynamic", {}, "1", 2, "0.07"),
        ("dynamic", {}, "0", 2, "0"),
    ],
)
def test_prices(model: str, properties: dict[str, Any], units: str, events: int, amount: str) -> None:
    assert price(model, properties, Decimal(units), events, Decimal(7)) == Decimal(amount)


def test_a_volume_below_zero_has_no_price() -> None:
    with pytest.raises(NoRange):
        price("volume", VOLUME, Decimal(-1), 1, Decimal(0))


def test_rounding() -> None:
    assert rounded(Decimal("1.005"), "round", 2) == Decimal("1.01")
    assert rounded(Decimal("1.001"), "ceil", 2) == Decimal("1.01")
    assert rounded(Decimal("1.009"), "floor", 2) == Decimal("1.00")
    assert rounded(Decimal("1.009"), None, None) == Decimal("1.009")
    assert (cents(Decimal("0.005")), cents(Decimal("0.00499"))) == (1, 0)

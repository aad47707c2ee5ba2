"""Doubles and decimals: nothing is lost on the way from `spend` to a total, nor to Lago's string."""

from __future__ import annotations

import math
import re
from decimal import Context, Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconcile.domain.money import add, decimal_of, plain, plain_double, total

COUNTED_BY_LAGO = re.compile(r"^-?\d+(\.\d+)?$", re.ASCII)  # postgres_store.rb:514, Lago 1.51

quick = settings(deadline=None, max_examples=300)
doubles = st.floats(allow_nan=False, allow_infinity=False)
any_doubles = st.floats(allow_nan=True, allow_infinity=True)
decimals = st.decimals(allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (5.1e-06, "0.0000051"),
        (1e-05, "0.00001"),
        (0.1, "0.1"),
        (1.0, "1"),
        (12.30, "12.3"),
        (1e16, "10000000000000000"),
        (1e22, "1" + "0" * 22),
        (5e-324, "0." + "0" * 323 + "5"),
        (1.7976931348623157e308, "17976931348623157" + "0" * 292),
        (-0.25, "-0.25"),
        (math.nan, "0"),
        (math.inf, "0"),
        (-math.inf, "0"),
    ],
)
def test_a_double_in_plain_notation(value: float, text: str) -> None:
    assert plain(decimal_of(value)) == text
    assert plain(decimal_of(np.float64(value))) == text
    assert plain_double(value) == text


@quick
@given(doubles)
def test_lago_counts_the_string_and_it_reads_back(value: float) -> None:
    text = plain(decimal_of(value))
    assert COUNTED_BY_LAGO.match(text)
    assert float(text) == value


@quick
@given(any_doubles)
def test_the_short_way_to_plain_notation(value: float) -> None:
    assert plain_double(value) == plain(decimal_of(value))


@pytest.mark.parametrize("exponent", [*range(-1074, 1024, 29), -1023, -1022, 1023])
def test_every_size_of_a_double(exponent: int) -> None:
    for value in (math.ldexp(1.0, exponent), math.nextafter(math.ldexp(1.0, exponent), math.inf)):
        text = plain(decimal_of(value))
        assert COUNTED_BY_LAGO.match(text)
        assert float(text) == value


@pytest.mark.parametrize(
    ("amount", "text"),
    [("1E+3", "1000"), ("0E-10", "0"), ("-0E-5", "0"), ("100", "100"), ("1.500", "1.5"), ("-0.0100", "-0.01")],
)
def test_plain_has_no_exponent_and_no_trailing_zeros(amount: str, text: str) -> None:
    assert plain(Decimal(amount)) == text


@quick
@given(st.decimals(min_value=-(10**30), max_value=10**30, places=40, allow_nan=False))
def test_plain_keeps_every_digit(amount: Decimal) -> None:
    assert Fraction(Decimal(plain(amount))) == Fraction(amount)


@quick
@given(st.lists(any_doubles, max_size=20))
def test_a_total_is_the_exact_sum_of_the_shortest_decimals(values: list[float]) -> None:
    exact = sum((Fraction(Decimal(repr(v))) for v in values if math.isfinite(v)), Fraction(0))
    assert Fraction(total(np.array(values, np.float64))) == exact


@quick
@given(st.lists(doubles, max_size=20), st.integers(0, 20))
def test_a_total_is_the_sum_of_its_parts(values: list[float], cut: int) -> None:
    both = np.array(values, np.float64)
    assert total(both) == add([total(both[:cut]), total(both[cut:])])


def test_ten_cents_three_times() -> None:
    assert plain(total(np.array([0.1, 0.1, 0.1]))) == "0.3"
    assert plain(total(np.full(1_000_000, 0.0000051))) == "5.1"


def test_the_widest_sum_does_not_round() -> None:
    amounts = [Decimal("1.7976931348623157E+308"), Decimal("5E-324"), Decimal("-1.7976931348623157E+308")]
    assert add(amounts) == Decimal("5E-324")


def test_a_sum_does_not_depend_on_the_decimal_context() -> None:
    amounts = [decimal_of(1e15), decimal_of(1e-15)]
    with localcontext(Context(prec=3)):
        assert plain(add(amounts)) == "1000000000000000.000000000000001"


def test_no_amounts_are_nothing() -> None:
    assert plain(add([])) == "0"
    assert plain(total(np.empty(0, np.float64))) == "0"

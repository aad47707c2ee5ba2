"""Exact sums: the same as adding every amount's shortest decimal, whatever the amounts are."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconcile.domain import exact
from reconcile.domain.money import add, decimal_of

amounts = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.floats(min_value=-1e3, max_value=1e3),
    st.integers(0, 10**9).map(lambda units: units * 1.5e-7),
    st.sampled_from([0.0, -0.0, 5e-324, 1e-10, 1e11, 9.999999999e10, 1.0000000000000002e-8, 1e308, -1e308]),
)


@given(st.lists(amounts, max_size=50))
def test_a_total_is_the_sum_of_the_shortest_decimals(values: list[float]) -> None:
    assert exact.total(np.array(values, np.float64)) == add(decimal_of(value) for value in values)


@given(st.lists(st.tuples(amounts, st.integers(0, 4)), min_size=1, max_size=50))
def test_groups_add_up_apart(pairs: list[tuple[float, int]]) -> None:
    values, groups = np.array([value for value, _ in pairs]), np.array([group for _, group in pairs], np.int64)
    limbs, odd = exact.limbs_of(values)
    sums = exact.as_decimals(exact.group_sums(limbs, groups, 5))
    for place, amount in zip(groups[odd].tolist(), exact.odd_amounts(exact.usable(values), odd), strict=True):
        sums[place] = add((sums[place], amount))
    wanted = [add(decimal_of(value) for value, group in pairs if group == number) for number in range(5)]
    assert sums == wanted


def test_more_digits_than_a_decimal_context_holds() -> None:
    many = np.full(1_000_000, 99_999_999_999.99998)
    assert exact.total(many) == Decimal("99999999999.99998") * 1_000_000


@pytest.mark.parametrize("values", [[], [float("nan")], [float("inf"), float("-inf")]])
def test_what_is_no_amount_counts_nothing(values: list[float]) -> None:
    assert exact.total(np.array(values, np.float64)) == 0


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_a_sum_that_fills_one_limb_alone(place: int) -> None:
    """What is left when amounts of either sign cancel."""
    limbs = np.zeros((1, 4), np.int64)
    limbs[0, place] = 3
    assert exact.as_decimals(limbs) == [Decimal(f"{3 << 32 * place}e-26")]


def test_a_sum_of_nothing_is_a_plain_zero() -> None:
    assert [str(amount) for amount in exact.as_decimals(np.zeros((1, 4), np.int64))] == ["0"]


@pytest.mark.parametrize("least", [5e-11, 1e-10, 1.7e-10])
def test_amounts_of_17_digits_about_the_least_that_fits(least: float) -> None:
    values = least * (1 + np.arange(50) * 1e-15)
    assert any(len(repr(value).split("e")[0]) == 18 for value in values.tolist())
    assert exact.total(values) == add(decimal_of(value) for value in values.tolist())


@pytest.mark.parametrize("sign", [1, -1])
def test_amounts_with_few_decimals_up_to_a_thousand(sign: int) -> None:
    """From 792.29 USD on they fill the fourth limb, too."""
    values = sign * np.array([0.000000000001, 1.5, 64.0, 792.28, 792.29, 999.5, 999.999999999999, 1_000.0, 1_000.25])
    for value in values:
        assert exact.total(values[values == value]) == decimal_of(float(value))
    assert exact.total(values) == add(decimal_of(value) for value in values.tolist())

"""Codes of content: equal where all parts are equal, however many values the parts have between them."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconcile.classify.content import Codes, join

from .worlds import modest

# Codes of counts of tokens may be as large as what was sent; the product of two sizes does not fit into 64 bits.
SIZES = (3, 2**31, 2**53, 2**61)


@st.composite
def parts(draw: st.DrawFn) -> list[Codes]:
    made = []
    for size in draw(st.lists(st.sampled_from(SIZES), min_size=1, max_size=4)):
        values = st.lists(st.sampled_from([-1, 0, 1, size - 1]), min_size=5, max_size=5)
        made.append(Codes(np.array(draw(values)), np.array(draw(values)), size))
    return made


@modest
@given(parts())
def test_a_joined_code_is_equal_where_all_parts_are(many: list[Codes]) -> None:
    check_join(many)


@pytest.mark.parametrize("sizes", [*product(SIZES, repeat=3)])
def test_parts_of_any_size(sizes: tuple[int, int, int]) -> None:
    many = [Codes(np.array([0, 1, size - 1, 1, -1]), np.array([0, 1, 1, size - 1, -1]), size) for size in sizes]
    many[0] = Codes(many[0].rows[::-1], many[0].events, many[0].size)
    check_join(many)


def check_join(many: list[Codes]) -> None:
    """Item by item; one with a negative part equals nothing."""
    joined = join(*many)
    rows, events = ([*zip(*(side.tolist() for side in sides), strict=True)] for sides in _sides(many))
    both, codes = [*rows, *events], [*joined.rows.tolist(), *joined.events.tolist()]
    assert all(code < joined.size for code in codes)
    for left, code in zip(both, codes, strict=True):
        assert (code < 0) == (min(left) < 0)
        for right, other in zip(both, codes, strict=True):
            assert (code == other and code >= 0) == (left == right and min(left) >= 0)


def _sides(many: list[Codes]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    return [part.rows for part in many], [part.events for part in many]

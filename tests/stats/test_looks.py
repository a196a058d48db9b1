"""Looks at held-out items: what they cost in certainty, and who is asked more."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rys_gguf.stats.looks import (
    LOOKS,
    is_clear,
    is_open,
    level_shares,
    look_ends,
    looks_at,
    over_looks,
    spent,
)


@given(st.lists(st.floats(0.01, 0.99), max_size=5, unique=True))
def test_the_shares_of_looks_add_up(early: list[float]) -> None:
    """To 1, whatever was planned: the level holds for all looks together."""
    shares = spent((*sorted(early), 1.0))
    assert sum(shares) == pytest.approx(1)
    assert all(share >= 0 for share in shares)


def test_early_looks_cost_little() -> None:
    """As O'Brien and Fleming spend: the last look keeps nearly nine tenths."""
    assert spent(LOOKS) == pytest.approx((0.0018, 0.1097, 0.8885), abs=5e-4)
    assert spent((1.0,)) == (1.0,)


def test_one_look_changes_no_p_value() -> None:
    """And of several the best counts, each by its share."""
    assert over_looks([0.03], (1.0,)) == 0.03
    assert over_looks([0.5, 0.001, 0.5], LOOKS) == pytest.approx(0.001 / spent(LOOKS)[1])
    assert over_looks([0.9, 0.9, 0.9], LOOKS) == 1


def test_looking_three_times_keeps_the_level() -> None:
    """In at most 5 of 100 runs without an effect a test finds one at any look."""
    rng = np.random.default_rng(1)
    steps = rng.normal(size=(4000, 3)) * np.sqrt(np.diff([0, *LOOKS]))
    z = np.abs(steps.cumsum(axis=1)) / np.sqrt(LOOKS)
    found = [over_looks([math.erfc(x / math.sqrt(2)) for x in row], LOOKS) <= 0.05 for row in z]
    assert 0.035 <= np.mean(found) <= 0.058


def test_who_is_asked_more() -> None:
    """A gain that may be there yet, or is not sure; not a loss, and nobody after the last look."""
    assert is_open(0.0, 0.02, 1, LOOKS, 0.01)
    assert is_open(0.03, 0.02, 2, LOOKS, 0.01)
    assert not is_open(-0.03, 0.02, 2, LOOKS, 0.01)
    assert not is_open(-0.2, 0.02, 1, LOOKS, 0.01)
    assert not is_open(0.2, 0.02, 3, LOOKS, 0.01)
    assert is_open(0.0, math.inf, 1, LOOKS, 0.01)
    assert is_open(0.0, 0.0, 1, LOOKS, 0.01)
    assert is_clear(0.09, 0.02)
    assert not is_clear(0.08, 0.02)


@given(st.floats(-1, 1), st.floats(0.001, 0.2))
def test_a_larger_difference_is_never_closed_first(difference: float, error: float) -> None:
    """Who is open stays open with a larger gain."""
    if is_open(difference, error, 2, LOOKS, 0.01):
        assert is_open(difference + error, error, 2, LOOKS, 0.01)


def test_few_items_are_asked_at_once() -> None:
    """As in older runs."""
    assert looks_at(136) == (1.0,)
    assert look_ends(136, looks_at(136)) == (136,)
    assert look_ends(1200, looks_at(1200)) == (300, 600, 1200)


@given(st.integers(1, 8), st.integers(1, 9))
def test_the_tests_of_a_report_share_one_level(n_finalists: int, n_families: int) -> None:
    """Half for the overall tests, half for those of families."""
    one, each = level_shares(n_finalists, n_families)
    assert n_finalists * (one + n_families * each) == pytest.approx(1)

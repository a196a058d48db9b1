"""Means of clusters: known cases, and how often intervals and tests are right."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rys_gguf.stats.clusters import Estimate, Floats, Sample, estimate
from rys_gguf.stats.paired import interval, sign_flip_p


def alike(rng: np.random.Generator, sizes: list[int], icc: float) -> Sample:
    """Items with mean 0 and spread 1, those of a cluster with this intraclass correlation."""
    names = [str(k) for k, n in enumerate(sizes) for _ in range(n)]
    shared = np.repeat(rng.normal(0, math.sqrt(icc), len(sizes)), sizes)
    return Sample.of(shared + rng.normal(0, math.sqrt(1 - icc), len(names)), names)


@given(st.lists(st.integers(1, 9), min_size=2, max_size=12))
def test_equal_values_in_clusters_are_as_many_as_clusters(sizes: list[int]) -> None:
    """Where all items of equal clusters say the same, the clusters are the data."""
    values = np.array([k % 3 for k in range(len(sizes))], dtype=np.float64)
    size = sizes[0]
    names = [str(k) for k in range(len(sizes)) for _ in range(size)]
    one, many = Sample.of(values), Sample.of(np.repeat(values, size), names)
    for a, b in zip(vars_of(estimate([one])), vars_of(estimate([many])), strict=True):
        assert a == pytest.approx(b)


def vars_of(found: Estimate) -> tuple[float, float, float]:
    """The numbers of an estimate."""
    return found.mean, found.error, found.freedom


def test_freedom_is_clusters_less_one_or_fewer() -> None:
    """G - 1 for equal clusters; unequal ones are fewer in effect."""
    rng = np.random.default_rng(1)
    assert estimate([alike(rng, [4] * 12, 0)]).freedom == pytest.approx(11)
    assert estimate([alike(rng, [1] * 11 + [40], 0)]).freedom < 4
    two = [alike(rng, [4] * 12, 0), alike(rng, [4] * 12, 0)]
    assert 11 < estimate(two).freedom <= 22
    assert estimate([Sample.of(np.ones(5), ["a"] * 5)]).error == math.inf


@given(st.integers(0, 10**6), st.floats(-3, 3), st.floats(0.1, 5))
def test_an_interval_moves_with_its_values(seed: int, shift: float, scale: float) -> None:
    """Whatever unit and origin."""
    sample = alike(np.random.default_rng(seed), [1, 2, 3, 4, 5], 0.5)
    moved = Sample(sample.values * scale + shift, sample.clusters)
    before, after = interval([sample]), interval([moved])
    assert after.low == pytest.approx(before.low * scale + shift)
    assert after.high == pytest.approx(before.high * scale + shift)


@pytest.mark.parametrize(
    ("sizes", "icc"),
    [([1] * 30, 0.0), ([4] * 12, 0.3), ([3] * 16, 0.7), ([2] * 14 + [15, 11, 8, 8], 0.3),
     ([3] * 6, 0.7)],
)  # fmt: skip
def test_intervals_cover_and_tests_keep_their_level(sizes: list[int], icc: float) -> None:
    """93 of 100 intervals hold the true mean, and a test is wrong in 5 of 100, however alike."""
    rng = np.random.default_rng(7)
    samples = [alike(rng, sizes, icc) for _ in range(600)]
    covered = np.mean([x.low <= 0 <= x.high for x in (interval([s]) for s in samples)])
    assert covered >= 0.93 - 0.01
    wrong = np.mean([sign_flip_p(s.sums, 400) <= 0.05 for s in samples])
    assert wrong <= 0.05 + 0.02


def test_without_clusters_the_same_items_would_be_too_sure() -> None:
    """What the correction is for."""
    rng = np.random.default_rng(3)
    samples = [alike(rng, [4] * 15, 0.7) for _ in range(300)]
    alone = [interval([Sample.of(s.values)]) for s in samples]
    assert np.mean([x.low <= 0 <= x.high for x in alone]) < 0.85


def test_several_families_are_independent() -> None:
    """The error of the mean of two equal families is that of one over the root of two."""
    values: Floats = np.random.default_rng(2).normal(0, 1, 40)
    one = estimate([Sample.of(values)])
    two = estimate([Sample.of(values), Sample.of(values)])
    assert two.error == pytest.approx(one.error / math.sqrt(2))
    assert estimate([Sample.of(values)], [3.0]).error == pytest.approx(3 * one.error)

"""The landscape of gains: neighbours inform each other, as far as the answers say so."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]

from rys_gguf.stats.landscape import Landscape, Shape

N_LAYERS = 24
WINDOWS = [(i, i + 4) for i in range(N_LAYERS - 3)]
SEEN = np.array([2, 8, 9, 15])
VALUES = np.array([0.0, 0.04, 0.05, -0.02])
VARIANCES = np.array([1e-4, 4e-4, 1e-4, 2e-4])


def test_a_belief_is_that_of_the_joint_normal_law() -> None:
    """Means, and the spread of draws, are those of the law of all windows given the values."""
    landscape, shape = Landscape(WINDOWS, N_LAYERS), Shape(along=3.0, spread=0.03)
    belief = landscape.believe(SEEN, VALUES, VARIANCES, shape)
    known = belief.prior[np.ix_(SEEN, SEEN)] + np.diag(VARIANCES)
    gain = belief.prior[:, SEEN] @ np.linalg.inv(known)
    assert belief.means == pytest.approx(gain @ VALUES)
    covariance = belief.prior - gain @ belief.prior[SEEN]
    errors = np.sqrt(np.diag(covariance))
    draws = belief.draws(4000, np.random.default_rng(0))
    assert np.abs((draws.mean(axis=0) - belief.means) / errors).max() < 4 / np.sqrt(4000)
    correlation = covariance / np.outer(errors, errors)
    assert np.cov(draws.T / errors[:, None]) == pytest.approx(correlation, abs=0.08)


def test_the_fit_takes_the_likeliest_shape_nearby() -> None:
    """No step on the grid is likelier, by the density of the values; it tells smooth from rough."""
    windows = [(i, i + 2) for i in range(62)]
    landscape, seen = Landscape(windows, 64), np.arange(62)
    rng, errors = np.random.default_rng(1), np.full(62, 1e-4)
    found = []
    for along in (1.5, 12.0):
        true = landscape.believe(seen[:0], errors[:0], errors[:0], Shape(along=along))
        values = true.draws(1, rng)[0] + 0.01 * rng.standard_normal(62)
        fitted = landscape.fitted(seen, values, errors)
        found.append(fitted.along)
        law = stats.multivariate_normal(
            np.zeros(62), landscape.believe(seen, values, errors, fitted).known
        )
        wrong = landscape.believe(seen, values, errors, Shape(spread=0.005, along=64.0))
        assert law.logpdf(values) > stats.multivariate_normal(np.zeros(62), wrong.known).logpdf(
            values
        )
    assert found[0] < 4 < found[1]


def test_one_bad_window_does_not_decide_what_the_others_are_like() -> None:
    """How far it is below the others does not matter in a search for the best."""
    landscape, seen = Landscape(WINDOWS, N_LAYERS), np.arange(len(WINDOWS))
    values = 0.02 * np.sin(seen / 2)
    errors = np.full(len(seen), 1e-4)
    fitted = landscape.fitted(seen, values, errors)
    values[10] = -0.9
    assert landscape.fitted(seen, values, errors).spread <= 2 * fitted.spread


@pytest.mark.parametrize("share", [1.0, 0.0, -0.5])
def test_answers_decide_how_much_of_what_is_expected_is_true(share: float) -> None:
    """Windows that were not asked are expected to follow those that were."""
    seen = np.arange(0, len(WINDOWS), 2)
    expected = 0.1 * np.sin(np.arange(len(WINDOWS)) ** 2)
    landscape = Landscape(WINDOWS, N_LAYERS, expected)
    before = landscape.believe(seen[:0], VALUES[:0], VALUES[:0], Shape())
    assert before.means == pytest.approx(expected / 2)
    errors = np.full(len(seen), 1e-5)
    after = landscape.believe(seen, share * expected[seen], errors, Shape())
    slope = np.polyfit(expected[1::2], after.means[1::2], 1)[0]
    assert slope == pytest.approx(share, abs=0.15)

"""A scan of a relative: its windows are looked for at the same place relative to the depth."""

from __future__ import annotations

import numpy as np
import pytest

from rys_gguf.runs.scan import PriorEffect
from rys_gguf.stats.prior import expected_gains

THEIRS, OURS = 32, 64


def effects(error: float = 0.005, scale: float = 1.0) -> list[PriorEffect]:
    """Windows of 4 of 32 layers, of which those around layer 20 are best."""
    return [
        PriorEffect(
            i / THEIRS, 4 / THEIRS, scale * (0.1 * np.exp(-(((i - 20) / 4) ** 2)) - 0.05), error, 64
        )
        for i in range(1, THEIRS - 4)
    ]


def test_the_best_place_is_the_same_part_of_the_model() -> None:
    """Twice as deep a model has it at twice the depth; gains are less their mean."""
    windows = [(i, i + 8) for i in range(1, OURS - 8)]
    gains = expected_gains(effects(), windows, OURS)
    assert abs(windows[int(gains.argmax())][0] - 40) <= 2
    assert gains.mean() == pytest.approx(0)
    assert gains.max() - gains.min() == pytest.approx(0.1, abs=0.03)


def test_what_is_not_sure_is_not_expected() -> None:
    """Effects that may be luck lead to expect next to nothing."""
    windows = [(i, i + 8) for i in range(1, OURS - 8)]
    assert np.abs(expected_gains(effects(error=0.5), windows, OURS)).max() < 0.03


def test_a_strangers_numbers_are_bounded() -> None:
    """Absurd effects, exact ones and very many of them give finite gains."""
    windows = [(0, 4), (4, 8)]
    for given in (effects(error=0.0, scale=3000), effects() * 60):
        gains = expected_gains(given, windows, OURS)
        assert np.isfinite(gains).all()
        assert np.abs(gains).max() < 2

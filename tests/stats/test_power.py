"""What held-out items are said to show, against what they do show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rys_gguf.probes.item import Item
from rys_gguf.probes.names import FAMILIES, HELDOUT_SIZES
from rys_gguf.probes.suite import build_suite
from rys_gguf.stats.clusters import Sample
from rys_gguf.stats.looks import LOOKS
from rys_gguf.stats.paired import sign_flip_p
from rys_gguf.stats.power import SPREAD, sight
from tests.search.fakes import items


def test_the_default_shows_five_points_overall_and_ten_in_a_family() -> None:
    """At every level, if items are not alike; and it says what likeness costs."""
    counts = HELDOUT_SIZES["standard"]
    heldout = build_suite(counts=counts, split="heldout").items
    seen = sight(heldout, 3, LOOKS)
    assert seen.overall < 0.05
    assert max(seen.families.values()) < 0.10
    assert seen.least == 0
    alike = sight(heldout, 3, LOOKS, alike=0.3)
    assert alike.overall > 0.07
    assert seen.overall < alike.least < alike.overall


def test_more_items_show_less_and_more_finalists_more() -> None:
    """By the square root of their number."""
    few, many = (sight(items(n, "h"), 3).overall for n in (400, 1600))
    assert few / many == pytest.approx(2, rel=0.02)
    assert sight(items(400, "h"), 8).overall > few > sight(items(400, "h"), 1).overall


@pytest.mark.parametrize("alike", [0.0, 0.4])
def test_a_gain_of_that_size_is_found_in_four_of_five(alike: float) -> None:
    """By simulation: of one finalist and one family, whose two tests share the level."""
    asked: list[Item] = [
        replace(item, cluster=str(k // 4)) for k, item in enumerate(items(200, "h"))
    ]
    gain = sight(asked, 1, alike=alike).overall
    rng = np.random.default_rng(5)
    found = 0
    for _ in range(800):
        shared = np.repeat(rng.normal(0, np.sqrt(alike), 50), 4)
        x = gain + SPREAD * (shared + rng.normal(0, np.sqrt(1 - alike), 200))
        sample = Sample.of(x, [item.common for item in asked])
        found += sign_flip_p(sample.sums, 1000) <= 0.05 / 2
    assert found / 800 == pytest.approx(0.8, abs=0.04)


def test_every_family_is_named() -> None:
    """With a figure of its own."""
    counts = {"math": 30, "eq": 60, "reasoning": 120}
    seen = sight(build_suite(counts=counts).items, 3)
    assert set(seen.families) == set(FAMILIES)
    assert seen.families["math"] > seen.families["eq"] > seen.families["reasoning"]

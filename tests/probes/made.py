"""Items and suites made once for all tests."""

from __future__ import annotations

import random
from functools import cache

from rys_gguf.probes.draw import Place
from rys_gguf.probes.families import reasoning
from rys_gguf.probes.item import Item
from rys_gguf.probes.names import FAMILIES, LEVELS, SPLITS
from rys_gguf.probes.suite import GENERATORS, Suite, build_suite

SEEDS = (0, 1, 7)


@cache
def built(size: str, family: str, level: int, seed: int, split: str) -> tuple[Item, ...]:
    """The items of one family, made once for all tests."""
    levels = {family: level}
    return build_suite(size, levels=levels, seed=seed, split=split, families=[family]).items


def items(topic: str, levels: tuple[int, ...] = LEVELS) -> list[Item]:
    """Items of one topic, from several seeds, splits and levels."""
    family = next(f for f, m in GENERATORS.items() if any(topic in m.topics(n) for n in LEVELS))
    return [
        item
        for level in levels
        for seed, split in zip(SEEDS, SPLITS, strict=True)
        for item in built("quick", family, level, seed, split)
        if item.topic == topic
    ]


@cache
def made(topic: str, level: int, n: int) -> list[Item]:
    """Many items of one topic of the reasoning family, without a suite around them."""
    rng = random.Random(f"{topic} {level}")
    return [reasoning.make(rng, Place(topic, level, k, f"{k}", slice(None))) for k in range(n)]


@cache
def suites(size: str = "quick") -> list[Suite]:
    """A suite of every level, or of some for larger sizes, each with another seed and split."""
    return [
        build_suite(
            size, levels=dict.fromkeys(FAMILIES, level), seed=level, split=SPLITS[level % 3]
        )
        for level in (LEVELS if size == "quick" else (0, 3, 7))
    ]

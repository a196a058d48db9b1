"""A random number generator of its own for every item.

An item depends on nothing but its address: a longer suite keeps the items of a shorter one.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

VERSION = 2  # of the generators; any change of what they make needs a new one


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a suite an item stands, which decides what is balanced over items.

    `index` counts the items of the topic. Of its events a family tells the `share`: they are dealt
    out to the splits.
    """

    topic: str
    level: int
    index: int
    name: str
    share: slice


def item_random(
    family: str, topic: str, level: int, index: int, *, seed: int, split: str, attempt: int = 0
) -> random.Random:
    """The generator of one item. `attempt` counts redraws of an item that turned out a repeat."""
    address = repr((VERSION, family, topic, level, index, seed, split, attempt))
    return random.Random(hashlib.sha256(address.encode()).digest())  # noqa: S311 - not for secrets

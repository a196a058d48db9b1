"""A random number generator of its own for every item.

An item depends on nothing but its address: a longer suite keeps the items of a shorter one.
"""

from __future__ import annotations

import hashlib
import random

VERSION = 2  # of the generators; any change of what they make needs a new one


def item_random(
    family: str, topic: str, level: int, index: int, *, seed: int, split: str, attempt: int = 0
) -> random.Random:
    """The generator of one item. `attempt` counts redraws of an item that turned out a repeat."""
    address = repr((VERSION, family, topic, level, index, seed, split, attempt))
    return random.Random(hashlib.sha256(address.encode()).digest())  # noqa: S311 - not for secrets

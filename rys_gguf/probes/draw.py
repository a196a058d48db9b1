"""Every item has a random number generator of its own.

An item depends on its address alone, so a longer suite keeps the items of a shorter one.
"""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass

VERSION = 2  # of the generators; any change of their items needs a new one


@dataclass(frozen=True, slots=True)
class Place:
    """The position of an item in a suite, by which answers and events are balanced.

    `index` counts the items of the topic. `share` selects the split's part of a family's events.
    """

    topic: str
    level: int
    index: int
    name: str
    share: slice


def wording(text: str) -> str:
    """A text as a template has it: every digit is a #.

    wording("What is 12 plus 7?") == "What is ## plus #?"
    """
    return re.sub("[0-9]", "#", text)


def item_random(
    family: str, topic: str, level: int, index: int, *, seed: int, split: str, attempt: int = 0
) -> random.Random:
    """The generator of one item. `attempt` counts how often it was redrawn for being a repeat."""
    address = repr((VERSION, family, topic, level, index, seed, split, attempt))
    return random.Random(hashlib.sha256(address.encode()).digest())  # noqa: S311 - not for secrets

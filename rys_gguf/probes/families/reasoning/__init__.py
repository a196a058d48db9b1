"""Short puzzles with one right answer: causes, dates, orders, walks and sums told as stories.

Every answer is computed from the structure that the text is built from, never from an opinion. The
position of the right option follows from the item's index, so answers are balanced by construction.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from rys_gguf.probes.draw import Place
from rys_gguf.probes.families.reasoning import causal, dates, logic, puzzle, story, walks
from rys_gguf.probes.item import Item

FAMILY = puzzle.FAMILY

_TOPICS: dict[str, Callable[[random.Random, Place], Item]] = {
    "causal": causal.make,
    "date": dates.make,
    "logic": logic.make,
    "navigate": walks.make,
    "story": story.make,
}


def topics(level: int) -> tuple[str, ...]:  # noqa: ARG001 - as in the other families
    """The topics of a level."""
    return tuple(_TOPICS)


def make(rng: random.Random, place: Place) -> Item:
    """One item of the place's topic."""
    return _TOPICS[place.topic](rng, place)

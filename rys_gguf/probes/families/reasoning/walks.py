"""Walks: whether a series of instructions leads back to where it began."""

# Levels and coins are small numbers that mean themselves.
# ruff: noqa: PLR2004

from __future__ import annotations

import random

from rys_gguf.probes.draw import Place
from rys_gguf.probes.families.reasoning.puzzle import choice
from rys_gguf.probes.item import YES_NO, Item

# Numbers of instructions by level: of walks without turns, and of those with turns.
_LENGTHS = (
    *(((2, 3), (3,)), ((3, 4, 5), (3, 4, 5)), ((5, 6, 7, 8),) * 2, ((8, 9, 10, 11, 12),) * 2),
    *((tuple(range(n, n + 3)),) * 2 for n in (13, 16, 19, 22)),
)
_SIDES = (("forward", (0, 1)), ("backward", (0, -1)), ("left", (-1, 0)), ("right", (1, 0)))
_TURNS = {"left": -1, "right": 1, "around": 2}
_WAYS = tuple(_TURNS)
_HEADINGS = ((0, 1), (1, 0), (0, -1), (-1, 0))
_START = ("You walk on a field.", "Follow these instructions.", "You are on an open square.")
_BACK = (
    "Are you back where you started?",
    "Do you end up at the point you started from?",
    "Does this lead you back to the start?",
)


_Direction = tuple[int, int]


def _walk(
    rng: random.Random, n: int, steps: range, *, turning: bool
) -> tuple[list[str | tuple[int, str]], int, int, set[_Direction]]:
    """A walk of n instructions: ways to turn, and numbers of steps with the side they go to.

    Returns the instructions, the coordinates of the end, and all directions taken. Of long walks
    hundreds are drawn for one that is asked, so nothing is done here that can be done later.
    """
    told: list[str | tuple[int, str]] = []
    directions: set[_Direction] = set()
    x = y = heading = 0
    turned = False
    for k in range(n):
        if turning and not turned and k < n - 1 and rng.random() < 0.75:
            turn = rng.choice(_WAYS)
            heading = (heading + _TURNS[turn]) % 4
            told.append(turn)
            turned = True
            continue
        turned = False
        length = rng.choice(steps)
        side, direction = "", _HEADINGS[heading]
        if not turning:
            side, direction = rng.choice(_SIDES)
        told.append((length, side))
        x, y = x + length * direction[0], y + length * direction[1]
        directions.add(direction)
    return told, x, y, directions


def _undone(directions: set[_Direction]) -> bool:
    """Whether each direction was also taken the other way."""
    return all((-dx, -dy) in directions for dx, dy in directions)


def _sentence(instruction: str | tuple[int, str]) -> str:
    """An instruction in words."""
    if isinstance(instruction, str):
        return f"Turn {instruction}."
    steps, side = instruction
    return f"Take {steps} step{'s' * (steps > 1)} {side}".rstrip() + "."


def make(rng: random.Random, place: Place) -> Item:
    """One item: half of the walks lead back, and half have turns."""
    index = place.index
    wanted, turning, near = YES_NO[index % 2], index // 2 % 2 == 1, index // 4 % 2 == 0
    n = rng.choice(_LENGTHS[place.level][turning])
    # Of many long legs hardly any lead back.
    steps = range(1, 11 if place.level < 4 else 4)
    while True:
        told, x, y, directions = _walk(rng, n, steps, turning=turning)
        # Walks that do not lead back end an even number of steps away on both axes, so that parity
        # does not give them away. Half of them do lead back on one axis, and take no direction
        # without its opposite.
        back, even = (x, y) == (0, 0), x % 2 == y % 2 == 0
        no = even and not back and (0 in (x, y)) is near
        if back if wanted == "yes" else no and (not near or _undone(directions)):
            break
    start = rng.choice(_START)
    face = "" if turning else " Always face the same way."
    back_asked = rng.choice(_BACK)
    text = f"{start}{face} {' '.join(map(_sentence, told))} {back_asked}"
    return choice(place, text, wanted, template=f"{start}{face} {back_asked}")

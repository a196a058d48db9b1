"""Walks: the answer follows from the instructions, and nothing else gives it away."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from rys_gguf.probes.names import LEVELS
from tests.probes.made import items, made


def test_navigate_by_walking() -> None:
    """Following the text step by step gives the answer."""
    near = []
    for item in items("navigate"):
        place, facing, sides = 0j, 1j, {"forward": 1, "backward": -1, "left": 1j, "right": -1j}
        told = re.findall(r"Turn (\w+)\.|Take (\d+) steps?(?: (\w+))?\.", item.question)
        for turn, steps, side in told:
            if turn:
                facing *= {"left": 1j, "right": -1j, "around": -1}[turn]
            else:
                place += int(steps) * facing * sides.get(side, 1)
        assert item.gold == ("yes" if place == 0 else "no"), item.question
        if place:
            near.append(0 in (place.real, place.imag))
    assert sum(near) >= 0.4 * len(near)


@pytest.mark.parametrize("level", LEVELS[:4])
@pytest.mark.parametrize("turning", [False, True])
def test_parity_does_not_give_a_walk_away(level: int, turning: bool) -> None:
    """The parity of all steps, or of those on one axis without turns, does not tell the answer."""
    right: Counter[str] = Counter()
    walks = [i for i in made("navigate", level, 300) if ("Turn" in i.question) is turning]
    for item in walks:
        told = re.findall(r"Take (\d+) steps?(?: (\w+))?\.", item.question)
        for way, sides in (
            ("all", {"", "left", "right", "forward", "backward"}),
            ("x", {"left", "right"}),
            ("y", {"forward", "backward"}),
        ):
            even = sum(int(n) for n, side in told if side in sides) % 2 == 0
            right[way] += item.gold == ("yes" if even else "no")
    assert len(walks) > 100
    for way in ("all",) if turning else ("all", "x", "y"):
        assert 0.4 <= right[way] / len(walks) <= 0.6, way

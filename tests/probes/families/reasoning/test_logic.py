"""Orders: the clues allow exactly one, and each clue is needed."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import permutations

from rys_gguf.probes.item import Choice
from tests.probes.made import items

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh")
NTH = {w: k for k, w in enumerate(ORDINALS)}
BESIDE = (
    r"(.+) and (.+) stand side by side",
    r"nobody finished between (.+) and (.+)",
    r"nobody stands between (.+) and (.+)",
    r"(.+) and (.+) touch each other",
)
BEFORE = (
    r"(.+) is to the left of (.+)",
    r"(.+) finished before (.+)",
    r"(.+) is somewhere in front of (.+)",
    r"(.+) is somewhere below (.+)",
)
AFTER = (
    r"(.+) is to the right of (.+)",
    r"(.+) finished after (.+)",
    r"(.+) is somewhere behind (.+)",
    r"(.+) is somewhere above (.+)",
)
INSIDE = (
    r"(.+) is not at either end",
    r"(.+) was neither first nor last",
    r"(.+) is neither at the front nor at the back",
    r"(.+) is neither at the top nor at the bottom",
)
PLACE = (
    r"(.+) is (\w+) from the left",
    r"(.+) finished (\w+)",
    r"(.+) is (\w+) in the queue",
    r"(.+) is (\w+) from the bottom",
)


def clue(text: str, n: int) -> Callable[[dict[str, int]], bool]:
    """The test that a sentence makes of positions, by its words alone."""
    for kinds, holds in (
        (BESIDE, lambda at, x, y: abs(at[x] - at[y]) == 1),
        (BEFORE, lambda at, x, y: at[x] < at[y]),
        (AFTER, lambda at, x, y: at[x] > at[y]),
        (INSIDE, lambda at, x: 0 < at[x] < n - 1),
        (PLACE, lambda at, x, nth: at[x] == NTH[nth]),
    ):
        for kind in kinds:
            if match := re.fullmatch(kind, text, re.IGNORECASE):
                names = [g.lower() for g in match.groups()]
                return lambda at, names=names, holds=holds: holds(at, *names)  # type: ignore[misc]
    raise AssertionError(text)


def test_logic_by_brute_force() -> None:
    """Of all orders exactly one fits the clues, and without any of them more would fit."""
    for item in items("logic", levels=(0, 1, 2)) + items("logic", levels=(3,))[:8]:
        assert isinstance(item, Choice)
        _, rest = item.question.split(": ", 1)
        names, *sentences, question = [s.strip() for s in re.split(r"\.", rest)]
        things = [x.lower() for x in re.split(r", | and ", names)]
        assert sorted(things) == sorted(t.lower() for t in item.texts)
        clues = [clue(s, len(things)) for s in sentences]
        orders = [dict(zip(order, range(9), strict=False)) for order in permutations(things)]
        left = [at for at in orders if all(c(at) for c in clues)]
        assert len(left) == 1, item.question
        nth = next(w for w in question.rstrip("?").split() if w in NTH)
        right = next(x for x, place in left[0].items() if place == NTH[nth])
        assert item.texts[item.options.index(item.answer)].lower() == right
        for spared in clues:
            assert sum(all(c(at) for c in clues if c is not spared) for at in orders) > 1

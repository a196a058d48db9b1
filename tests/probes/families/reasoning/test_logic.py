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


ONE = (
    r"(\w+|the one in the \w+ hat|the one with the \w+|the one from \w+|the one who plays the \w+)"
)
CALLED = (
    (rf"{ONE} wears the (\w+) hat", "the one in the {} hat"),
    (rf"{ONE} has the (\w+)", "the one with the {}"),
    (rf"{ONE} comes from (\w+)", "the one from {}"),
    (rf"{ONE} plays the (\w+)", "the one who plays the {}"),
)


def in_names(sentences: list[str]) -> tuple[list[str], int]:
    """The clues with everybody's own name, and how many steps lead to a name at most."""
    who: dict[str, str] = {}
    clues = []
    for sentence in (s.lower() for s in sentences):
        for pattern, call in CALLED:
            if told := re.fullmatch(pattern, sentence):
                assert who.setdefault(call.format(told.group(2)), told.group(1)) == told.group(1)
                break
        else:
            clues.append(sentence)
    n_steps = 0
    while any("the one" in clue for clue in clues):
        n_steps += 1
        clues = [
            re.sub("|".join(map(re.escape, who)) or "^$", lambda m: who[m.group()], clue)
            for clue in clues
        ]
        assert n_steps < 9
    return clues, n_steps


def test_the_names_of_higher_levels_are_one_step_longer_each() -> None:
    """Clues at level 4 call people by one thing that they have; each level adds one more."""
    for level in (4, 5, 6, 7):
        for item in items("logic", levels=(level,)):
            _, *sentences, _ = [s.strip() for s in item.question.split(": ", 1)[1].split(".")]
            assert in_names(sentences)[1] == level - 3


def test_logic_by_brute_force() -> None:
    """Of all orders exactly one fits the clues, and without any of them more would fit."""
    hard = [item for level in (3, 4, 7) for item in items("logic", levels=(level,))[:4]]
    for item in items("logic", levels=(0, 1, 2)) + hard:
        assert isinstance(item, Choice)
        _, rest = item.question.split(": ", 1)
        names, *sentences, question = [s.strip() for s in re.split(r"\.", rest)]
        things = [x.lower() for x in re.split(r", | and ", names)]
        assert sorted(things) == sorted(t.lower() for t in item.texts)
        clues = [clue(s, len(things)) for s in in_names(sentences)[0]]
        orders = [dict(zip(order, range(9), strict=False)) for order in permutations(things)]
        left = [at for at in orders if all(c(at) for c in clues)]
        assert len(left) == 1, item.question
        nth = next(w for w in question.rstrip("?").split() if w in NTH)
        right = next(x for x, place in left[0].items() if place == NTH[nth])
        assert item.texts[item.options.index(item.answer)].lower() == right
        for spared in clues:
            assert sum(all(c(at) for c in clues if c is not spared) for at in orders) > 1

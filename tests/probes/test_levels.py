"""The level at which a model is right about half of the time is found in a few tries."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression  # type: ignore[import-untyped]

from rys_gguf.probes.item import Contrast, Item, Number, Ratings
from rys_gguf.probes.levels import (
    MOST_LEVELS,
    N_ITEMS,
    FamilyLevel,
    LevelTried,
    levels_with,
    search_levels,
)
from rys_gguf.probes.names import LEVELS
from rys_gguf.probes.suite import build_suite
from tests.fake_engine import FakeEngine

# The skill at each level, and the level at which it is nearest to a half.
SKILLS = {
    "middle": ((0.95, 0.85, 0.7, 0.5, 0.3, 0.15, 0.05, 0), 3),
    "steep": ((1, 1, 0.95, 0.85, 0.5, 0.15, 0.05, 0), 4),
    "weak": ((0.5, 0.3, 0.15, 0.05, 0, 0, 0, 0), 0),
    "strong": ((1, 1, 1, 0.97, 0.95, 0.85, 0.7, 0.5), 7),
    "at chance": ((0.02,) * 8, 0),
    "perfect": ((0.99,) * 8, 7),
}
CHANCE = 0.25


def noisy(skills: Sequence[float], seed: int) -> Callable[[int], LevelTried]:
    """What a few answers show of a model with these skills, of which a quarter may be luck."""
    rng = random.Random(seed)
    asked: list[int] = []

    def measure(level: int) -> LevelTried:
        assert level not in asked
        asked.append(level)
        assert len(asked) <= MOST_LEVELS
        n = sum(rng.random() < CHANCE + (1 - CHANCE) * skills[level] for _ in range(N_ITEMS))
        return LevelTried(level, (n / N_ITEMS - CHANCE) / (1 - CHANCE), doubt=0.5)

    return measure


@pytest.mark.parametrize("name", SKILLS)
def test_the_level_nearest_to_a_half_is_found(name: str) -> None:
    """In seven of ten of 200 models at least, and a neighbour in nearly all others."""
    skills, right = SKILLS[name]
    found = Counter(
        FamilyLevel("math", search_levels(noisy(skills, seed))).level - right for seed in range(200)
    )
    assert found[0] >= 140
    assert found[-1] + found[0] + found[1] >= 198


@pytest.mark.parametrize(
    ("skill", "level", "measured"),
    [(0.02, 0, "0.02 at level 0, 0.02 at level 1"), (0.99, 7, "0.99 at level 6, 0.99 at level 7")],
)
def test_a_family_that_no_level_of_fits_is_named(skill: float, level: int, measured: str) -> None:
    """With what was measured and what to do; the nearest level stands in."""
    found = FamilyLevel("math", search_levels(lambda level: LevelTried(level, skill, 1)))
    assert found.level == level
    assert found.problem is not None
    for words in ("math: no level fits", measured, "--families", f"--level math={level}"):
        assert words in found.problem


def test_doubts_decide_between_levels_of_one_skill() -> None:
    """Answers that are close calls tell variants apart soonest."""
    tried = tuple(LevelTried(level, 0.5, doubt) for level, doubt in enumerate((0.2, 0.9, 0.4)))
    found = FamilyLevel("eq", tried)
    assert (found.level, found.problem) == (1, None)


@given(st.lists(st.floats(-1, 1), min_size=8, max_size=8))
def test_skills_never_rise_with_the_level(skills: list[float]) -> None:
    """They are those of the non-increasing curve with the least squared error."""
    tried = search_levels(lambda level: LevelTried(level, skills[level], 1))
    asked = [t.level for t in tried]
    assert asked == sorted(asked)
    fitted = isotonic_regression([skills[level] for level in asked], increasing=False).x
    assert [t.skill for t in tried] == pytest.approx(list(fitted))


class Able(FakeEngine):
    """An engine that is right with a probability that falls with the level of its items."""

    def __init__(self, skill_of: Mapping[str, Sequence[float]]) -> None:
        self.wanted: dict[str, str] = {}
        for family, skills in skill_of.items():
            for level in LEVELS:
                suite = build_suite(
                    levels={family: level}, split="audit", families=[family],
                    counts={family: N_ITEMS},
                )  # fmt: skip
                for n, item in enumerate(suite.items):
                    share = item.chance + (1 - item.chance) * skills[level]
                    # As evenly as the golden ratio spreads them.
                    is_right = n * 0.618034 % 1 < share
                    self.wanted |= _answers(item, is_right=is_right)

    def option_probabilities(
        self, tokens: Sequence[int], options: Sequence[int], *, same_prompt: bool = False
    ) -> list[float]:
        """Most of it for the options that the answer begins with."""
        wanted = self.wanted[_text(tokens).rstrip()]
        fits = [wanted.startswith(_text([option]).strip()) for option in options]
        rest = 0.3 / max(1, fits.count(False))
        return [0.7 / fits.count(True) if fit else rest for fit in fits]


def _text(tokens: Sequence[int]) -> str:
    """What the tokenizer of `FakeEngine` made these tokens of."""
    return "".join(
        chr(token) if token < 10_000 else str(token % 10_000).zfill(token // 10_000)
        for token in tokens
    )


def _answers(item: Item, *, is_right: bool) -> dict[str, str]:
    """By the text of each request, the right answer or a wrong one."""
    if isinstance(item, Number):
        wanted = [str(item.answer) if is_right else str(int(str(item.answer)[0]) % 9 + 1)]
    elif isinstance(item, Contrast):
        high_first = item.higher == "question"
        wanted = (["8", "2"] if high_first else ["2", "8"]) if is_right else ["5", "5"]
    else:
        assert isinstance(item, Ratings)
        wanted = [str(r) if is_right else "3" for r in item.reference]
    return {
        f"{request.prompt}\n{request.opening}": answer
        for request, answer in zip(item.requests(), wanted, strict=True)
    }


def test_an_engine_is_asked_items_of_a_split_of_their_own() -> None:
    """Each family ends at its own level; the progress counts every item."""
    steep = (1, 1, 0.95, 0.85, 0.5, 0.15, 0.05, 0)
    skill_of = {
        "math": steep,
        "eq": (*steep[2:], 0, 0),
    }
    n_answered: list[int] = []
    found = levels_with(Able(skill_of), tuple(skill_of), chats=False, progress=n_answered.append)
    assert {f.family: f.level for f in found} == {"math": 4, "eq": 2}
    assert all(0.3 < f.best.skill < 0.7 and 0.2 < f.best.doubt <= 1 for f in found)
    assert sum(n_answered) == N_ITEMS * sum(len(f.tried) for f in found)

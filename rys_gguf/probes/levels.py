"""Find the level of each family at which a model is right about half of the time.

A model that guesses cannot lose, and one that knows everything cannot gain. In between, answers
that are close calls tell variants apart soonest. The harder a level, the fewer answers are right,
so a few levels show where the middle is: they are halved until one level is left, and its
neighbours are asked as well. Items come from a split of their own, which no search and no judge
uses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean

from rys_gguf.engines.base import Engine, EngineOptions
from rys_gguf.engines.find import open_kept_engine
from rys_gguf.engines.live.kept import sessions_kept
from rys_gguf.engines.template import has_template
from rys_gguf.probes.ask import Answer, ask_all
from rys_gguf.probes.item import Contrast, Ratings
from rys_gguf.probes.names import LEVELS
from rys_gguf.probes.requests import Compiler
from rys_gguf.probes.suite import build_suite
from rys_gguf.text import printable

N_ITEMS = 32  # of a level
MOST_LEVELS = 5  # of a family: three halvings of eight, and two neighbours
_LEAST_SKILL, _MOST_SKILL = 0.15, 0.85


@dataclass(frozen=True, slots=True)
class LevelTried:
    """What a model can do at one level of a family.

    `skill` is its mean score on the scale where the best constant answer is 0 and perfect is 1.
    `doubt` is the mean of 4p(1 - p) over the probabilities p of the right answers: 1 where each
    answer is a close call, 0 where the model is sure of each, right or wrong.
    """

    level: int
    skill: float
    doubt: float

    @property
    def worth(self) -> float:
        """How well the level tells variants apart: most at a skill of a half, and with doubts."""
        skill = min(max(self.skill, 0.0), 1.0)
        return skill * (1 - skill) * self.doubt


@dataclass(frozen=True, slots=True)
class FamilyLevel:
    """The level found for a family; `tried` are the levels that were asked, the easiest first."""

    family: str
    tried: tuple[LevelTried, ...]

    @property
    def best(self) -> LevelTried:
        """The level that tells variants apart best, or the one nearest to where some would."""
        if all(t.skill < _LEAST_SKILL for t in self.tried):
            return self.tried[0]
        if all(t.skill > _MOST_SKILL for t in self.tried):
            return self.tried[-1]
        return max(self.tried, key=lambda t: t.worth)

    @property
    def level(self) -> int:
        """The number of the best level."""
        return self.best.level

    @property
    def problem(self) -> str | None:
        """Why no level fits and what to do, or None where one does."""
        if _LEAST_SKILL <= self.best.skill <= _MOST_SKILL:
            return None
        measured = ", ".join(f"{t.skill:.2f} at level {t.level}" for t in self.tried)
        family = printable(self.family)
        return (
            f"{family}: no level fits this model: its skill is {measured}, where {_LEAST_SKILL} "
            f"to {_MOST_SKILL} can show a difference (0 is the best constant answer, 1 perfect); "
            f"leave the family out with --families, or choose a level by hand "
            f"(--level {family}={self.level})"
        )


@sessions_kept()
def find_levels(
    model: Path,
    options: EngineOptions,
    families: Sequence[str],
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[FamilyLevel, ...]:
    """The level of each family that tells variants of a model apart best, asked of the model.

    `progress` is called with the number of items that were answered. Raises RysError.
    """
    chats = has_template(model, options)
    with open_kept_engine(model, options) as engine:
        return levels_with(engine, families, chats=chats, progress=progress)


def levels_with(
    engine: Engine,
    families: Sequence[str],
    *,
    chats: bool,
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[FamilyLevel, ...]:
    """The same with an engine that has the model loaded."""
    compiler = Compiler(engine, chats=chats)
    return tuple(
        FamilyLevel(family, search_levels(partial(_measured, engine, compiler, family, progress)))
        for family in families
    )


def search_levels(measure: Callable[[int], LevelTried]) -> tuple[LevelTried, ...]:
    """The levels around the one with a skill of a half, the easiest first, measured once each."""
    tried: dict[int, LevelTried] = {}
    low, high = LEVELS[0], LEVELS[-1]
    while low < high:
        middle = (low + high) // 2
        tried[middle] = measure(middle)
        if tried[middle].skill > 0.5:  # noqa: PLR2004 - a half
            low = middle + 1
        else:
            high = middle
    if low not in tried:
        tried[low] = measure(low)
    best = FamilyLevel("", _never_rising(tried.values())).level
    for level in (best - 1, best + 1):
        if level in LEVELS and level not in tried:
            tried[level] = measure(level)
    return _never_rising(tried.values())


def _never_rising(tried: Iterable[LevelTried]) -> tuple[LevelTried, ...]:
    """The same from the easiest to the hardest, with skills that fit best and never rise.

    A harder level that is answered better is so by chance: both get their mean, and so on (pool
    adjacent violators; Ayer et al., Annals of Mathematical Statistics 26, 1955).
    """
    pools: list[list[LevelTried]] = []
    for one in sorted(tried, key=lambda t: t.level):
        pools.append([one])
        while len(pools) > 1 and _skill(pools[-1]) > _skill(pools[-2]):
            last = pools.pop()
            pools[-1] += last
    return tuple(replace(t, skill=_skill(pool)) for pool in pools for t in pool)


def _skill(pool: Sequence[LevelTried]) -> float:
    return fmean(t.skill for t in pool)


def _measured(
    engine: Engine, compiler: Compiler, family: str, progress: Callable[[int], None], level: int
) -> LevelTried:
    suite = build_suite(
        levels={family: level}, split="audit", families=[family], counts={family: N_ITEMS}
    )
    requests = [compiler.compile(item) for item in suite.items]
    answers = ask_all(engine, suite.items, requests, suite.eq_baseline)
    progress(len(answers))
    constant = suite.baselines[family][""].constant
    score = fmean(a.scored.score for a in answers)
    return LevelTried(level, (score - constant) / (1 - constant), fmean(_doubts(answers)))


def _doubts(answers: Sequence[Answer]) -> Iterator[float]:
    """4p(1 - p) for every answer that has a probability p of being right."""
    for answer in answers:
        # The soft score is the mean of the score and of the probability.
        p = 2 * answer.scored.soft_score - answer.scored.score
        if isinstance(answer.item, Contrast):
            p = (p + 1) / 2  # it is that of one order less that of the other
        if not isinstance(answer.item, Ratings):
            yield 4 * p * (1 - p)

"""What thinking does: how long thoughts are, and how a finalist compares with a placebo.

A placebo is a window that was not chosen. What it gains and how much longer it thinks is what more
layers do to a model that thinks, whichever they are. It makes no claim, so its tests correct none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from rys_gguf.runs.records import ItemAnswer
from rys_gguf.runs.stage import FINAL, PLACEBO
from rys_gguf.stats.evidence import Evidence
from rys_gguf.stats.paired import Interval, interval
from rys_gguf.stats.pairs import Families, overall, pair, readable

Answers = Mapping[str, ItemAnswer]


@dataclass(frozen=True, slots=True)
class Contrast:
    """A mean difference over families, in whatever unit, with its 95 % interval."""

    mean: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class ThoughtLengths:
    """Mean tokens before an answer of the base and a window, and their paired difference.

    `cut` are the fractions of the base's and the window's thoughts that the limit cut off,
    `looping` those of them that looped.
    """

    base: float
    window: float
    difference: Contrast
    cut: tuple[float, float]
    looping: tuple[float, float]


@dataclass(frozen=True, slots=True)
class BesidePlacebo:
    """A finalist beside the placebo: that one's difference to the base, and this one's to it.

    Both are of the scores by probability. `n_thought` are the placebo's mean tokens of thought.
    """

    spec: str
    placebo: Contrast
    difference: Contrast
    n_thought: float


def thought_lengths(base: Answers, window: Answers) -> ThoughtLengths | None:
    """How long base and window thought before they answered the same items; None if not at all."""
    families = readable(pair(base, window, "n_thought"))
    if not families:
        return None
    both = [(base[item], window[item]) for p in families.values() for item in p.items]
    sides = [a for a, _ in both], [b for _, b in both]
    return ThoughtLengths(
        float(np.mean([p.base.mean() for p in families.values()])),
        float(np.mean([p.window.mean() for p in families.values()])),
        _contrast(families),
        (_share(sides[0], "thoughts_cut"), _share(sides[1], "thoughts_cut")),
        (_share(sides[0], "thoughts_looping"), _share(sides[1], "thoughts_looping")),
    )


def beside_placebo(evidence: Evidence, window: Answers) -> BesidePlacebo | None:
    """A finalist's answers by probability beside those of the placebo, if there is one."""
    placebo = evidence.placebo
    if placebo is None:
        return None
    given = placebo.answers_in([PLACEBO])
    base = evidence.answers(evidence.base.key, evidence.stages_of(FINAL))
    lengths = thought_lengths(base, given)
    apart, own = readable(pair(given, window)), readable(pair(base, given))
    if lengths is None or not apart or not own:
        return None
    return BesidePlacebo(placebo.candidate.spec, _contrast(own), _contrast(apart), lengths.window)


def _contrast(families: Families) -> Contrast:
    return Contrast(overall(families), interval([p.sample for p in families.values()]))


def _share(answers: Iterable[ItemAnswer], count: str) -> float:
    """The fraction of all thoughts that a field counts."""
    n_thoughts = n_counted = 0
    for answer in answers:
        n_thoughts += len(answer.thoughts or ())
        n_counted += getattr(answer, count) or 0
    return n_counted / max(1, n_thoughts)

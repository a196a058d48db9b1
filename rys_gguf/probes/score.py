"""Scores: pure functions of an item and an answer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from rys_gguf.probes.extract import named_numbers, number, option, without_last_line
from rys_gguf.probes.item import HIGHEST, Choice, Contrast, Item, Number, Ratings

_MARGIN = 0.5  # two expected ratings this far apart differ by a step when rounded


@dataclass(frozen=True, slots=True)
class Scored:
    """The score of one answer. `status` is "ok", or "no_answer" or "truncated", which score 0.

    `score` is the family's own measure, 0 or 1 if `binary`: at most 1, but EQ skill has no lower
    limit. `soft_score` is the finer measure that candidates are ranked by: the mean of the score
    and of the probability of the right answer, or the score itself where there is no probability.
    `parsed` is the answer as plain JSON.
    """

    status: str
    score: float
    soft_score: float
    parsed: Any
    binary: bool


# -- measures ------------------------------------------------------------------------------------


def partial_credit(answer: int, guess: int) -> float:
    """How near a guessed integer is, 0 to 1, by its leading digits and its number of digits.

    The shorter number is filled with zeros; the ratio of the two numbers is multiplied by the ratio
    of their lengths. D. Ng defines this score by the difference, which is the same for integers
    from 0.
    """
    if answer <= 0 or guess <= 0:
        return 0.0
    a, g = str(answer), str(guess)
    longer, shorter = max(len(a), len(g)), min(len(a), len(g))
    filled = int(a.ljust(longer, "0")), int(g.ljust(longer, "0"))
    return min(filled) / max(filled) * shorter / longer


def partial_credit_at_random(answer: int) -> float:
    """The mean partial credit of a random number with the right number of digits."""
    zeros = 10 ** (len(str(answer)) - 1)
    return fmean(partial_credit(answer, lead * zeros // 10) for lead in range(10, 100))


def _penalty(difference: float) -> float:
    if difference == 0 or difference > 5:  # noqa: PLR2004 - see eq_percent
        return difference
    return 6.5 / (1 + math.exp(-1.2 * (difference - 4)))


def eq_percent(reference: Sequence[float], ratings: Sequence[float]) -> float:
    """The formula of EQ-Bench v2 for four ratings: 100 is perfect, and there is no lower limit.

    Small differences cost little; those above 5 cost their size. With more or fewer than four
    ratings the sum is scaled to four.
    """
    total = sum(_penalty(abs(r - u)) for r, u in zip(reference, ratings, strict=True))
    return 100 - 7.477 * total * 4 / len(reference)


def best_constant(items: Iterable[Item]) -> float:
    """The mean EQ percent of the best digit to give every rating; 0 without ratings."""
    references = [i.reference for i in items if isinstance(i, Ratings)]
    if not references:
        return 0.0
    return max(fmean(eq_percent(r, [d] * len(r)) for r in references) for d in range(HIGHEST + 1))


def skill(percent: float, baseline: float) -> float:
    """An EQ percent on the scale where `baseline` is 0 and perfect is 1."""
    # Where a constant answer is perfect there is no scale; a difference of 1 percent counts as 1.
    return (percent - baseline) / max(100 - baseline, 1)


# -- answers in words ----------------------------------------------------------------------------


def score_text(item: Item, text: str, *, truncated: bool = False, baseline: float = 0.0) -> Scored:
    """The score of a generated answer. `baseline` is best_constant() of the suite.

    If the token limit cut the answer off (`truncated`), its last line does not count.
    """
    if truncated:
        text = without_last_line(text)
    scored = _score_text(item, text, baseline)
    if scored is None:
        binary = not (isinstance(item, (Ratings, Contrast)) or _is_partial(item))
        return Scored("truncated" if truncated else "no_answer", 0.0, 0.0, None, binary)
    return scored


def _is_partial(item: Item) -> bool:
    return isinstance(item, Number) and item.partial


def _score_text(item: Item, text: str, baseline: float) -> Scored | None:
    if isinstance(item, Choice):
        chosen = option(text, item.options, item.texts)
        return None if chosen is None else _exact(chosen == item.answer, chosen)
    if isinstance(item, Number):
        value = number(text)
        if value is None or not item.partial:
            return None if value is None else _exact(value == item.answer, value)
        score = partial_credit(item.answer, int(value))
        return Scored("ok", score, score, value, binary=False)
    if isinstance(item, Ratings):
        ratings = named_numbers(text, item.emotions, HIGHEST)
        return None if ratings is None else _rated(item, ratings, baseline)
    assert isinstance(item, Contrast)
    both = named_numbers(text, ("Case 1", "Case 2"), HIGHEST)
    if both is None:
        return None
    first, second = both if item.higher == "question" else reversed(both)
    score = float((first >= second + 1) - (second >= first + 1))
    return Scored("ok", score, score, both, binary=False)


def _exact(right: bool, parsed: Any) -> Scored:  # noqa: FBT001 - its only meaning
    return Scored("ok", float(right), float(right), parsed, binary=True)


def _rated(item: Ratings, ratings: Sequence[float], baseline: float) -> Scored:
    percent = eq_percent(item.reference, ratings)
    parsed = {"ratings": [round(r, 3) for r in ratings], "percent": round(percent, 3)}
    value = skill(percent, baseline)
    return Scored("ok", value, value, parsed, binary=False)


# -- answers as probabilities --------------------------------------------------------------------


def score_probabilities(
    item: Item, probabilities: Sequence[Mapping[str, float]], *, baseline: float = 0.0
) -> Scored:
    """The score of a quick answer: one distribution per request, by option name or digit string.

    Distributions need not sum to 1; one that sums to 0 is no answer. Raises ValueError if there
    are not as many as the item has requests.
    """
    requests = item.requests()
    if len(probabilities) != len(requests):
        raise ValueError(
            f"{item.id}: {len(probabilities)} distributions for {len(requests)} requests"
        )
    given = [_normalised(p) for p in probabilities]
    if not all(given):
        binary = not isinstance(item, (Ratings, Contrast))
        return Scored("no_answer", 0.0, 0.0, None, binary)
    if isinstance(item, (Choice, Number)):
        (p,) = given
        top = max(p, key=p.__getitem__)
        if requests[0].digits:
            assert isinstance(item, Number)
            return _by_digits(item, p, top)
        right = item.letter if isinstance(item, Number) else item.answer
        return _quick(float(top == right), p.get(right, 0.0), top, binary=True)
    if isinstance(item, Ratings):
        return _rated(item, [_expected(p) for p in given], baseline)
    assert isinstance(item, Contrast)
    more, less = given if item.higher == "question" else reversed(given)
    difference = _expected(more) - _expected(less)
    score = float((difference >= _MARGIN) - (difference <= -_MARGIN))
    # P(rated higher) - P(rated lower) of two independent draws: 0 for any constant distribution.
    sureness = sum(
        p * q * ((int(m) > int(n)) - (int(m) < int(n)))
        for m, p in more.items()
        for n, q in less.items()
    )
    return _quick(score, sureness, [round(_expected(p), 3) for p in given], binary=False)


def _quick(score: float, sureness: float, parsed: Any, *, binary: bool) -> Scored:
    # The probability alone ranks windows of a model reliably, but partly by how confident they are
    # in answers that are right or wrong anyway; the score alone is coarse. Measured on 22 windows
    # of SmolLM2 as the rank correlation with the score on 150 other items: after 18 items 0.65 by
    # probability, 0.73 by score, 0.74 by their mean; after 75 items 0.77, 0.89 and 0.88.
    return Scored("ok", score, (score + sureness) / 2, parsed, binary)


def _normalised(p: Mapping[str, float]) -> dict[str, float]:
    total = sum(p.values())
    return {name: value / total for name, value in p.items()} if total > 0 else {}


def _expected(p: Mapping[str, float]) -> float:
    return sum(int(digit) * value for digit, value in p.items())


def _by_digits(item: Number, p: Mapping[str, float], top: str) -> Scored:
    """Judge a number by its first token."""
    answer = str(item.answer)
    if item.partial:
        # The token, filled with zeros to the right length, is the guess.
        worth = {t: partial_credit(item.answer, int(t.ljust(len(answer), "0"))) for t in p}
    else:
        worth = {t: float(answer.startswith(t)) for t in p}
    sureness = sum(p[t] * worth[t] for t in p)
    return _quick(float(answer.startswith(top)), sureness, top, binary=True)

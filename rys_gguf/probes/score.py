"""What an answer is worth: pure functions from an item and an answer to a score."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from rys_gguf.probes.extract import named_numbers, number, option, without_last_line
from rys_gguf.probes.item import HIGHEST, Choice, Contrast, Item, Number, Ratings

_MARGIN = 0.5  # between two expected ratings: what rounds to a step


@dataclass(frozen=True, slots=True)
class Scored:
    """`status` is "ok", "no_answer" or "truncated"; the last two score 0.

    `score` is the family's own measure, 0 or 1 where `binary`; `soft_score` the finer one to rank by:
    the mean of the score and of the probability behind it, or the score where there is nothing
    finer. `parsed` is plain JSON.
    """

    status: str
    score: float
    soft_score: float
    parsed: Any
    binary: bool


# -- measures ------------------------------------------------------------------------------------


def partial_credit(answer: int, guess: int) -> float:
    """How near a guessed integer is, 0 to 1, by its leading digits and its number of digits.

    The shorter one is filled with zeros; the ratio of the two is multiplied by that of their
    lengths. (D. Ng's score, which is defined by the difference: the same for integers >= 0.)
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
    """The formula of EQ-Bench v2 for four ratings: 100 is perfect, there is no lowest value.

    Small differences cost little, those above 5 their size. For more or fewer ratings than four
    the sum is scaled to four.
    """
    total = sum(_penalty(abs(r - u)) for r, u in zip(reference, ratings, strict=True))
    return 100 - 7.477 * total * 4 / len(reference)


def best_constant(items: Iterable[Item]) -> float:
    """The mean EQ percent of the best one digit given to everything; 0 without ratings."""
    references = [i.reference for i in items if isinstance(i, Ratings)]
    if not references:
        return 0.0
    return max(fmean(eq_percent(r, [d] * len(r)) for r in references) for d in range(HIGHEST + 1))


def skill(percent: float, baseline: float) -> float:
    """An EQ percent on the scale where `baseline` is 0 and perfect is 1."""
    # Where one constant answers everything, there is no scale; a point then counts as one.
    return (percent - baseline) / max(100 - baseline, 1)


# -- answers in words ----------------------------------------------------------------------------


def score_text(item: Item, text: str, *, truncated: bool = False, baseline: float = 0.0) -> Scored:
    """The score of a generated answer. `baseline` is best_constant() of the suite.

    Of an answer that the token limit cut off, the last line does not count.
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


def _exact(right: bool, parsed: Any) -> Scored:  # noqa: FBT001 - the only thing it says
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
    """The score of one distribution per request of the item, by option name or by digit string.

    Distributions need not sum to 1; one without any mass is no answer. ValueError if there are
    not as many as the item has requests.
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
    # Of windows of one model the probability alone ranks reliably, but partly by how sure they
    # are of what they get wrong or right anyway; the score alone is coarse. Measured on 22 windows
    # of SmolLM2, rank correlation with the score on 150 other items: after 18 items 0.65 by
    # probability, 0.73 by score, 0.74 by their mean; after 75 items 0.77, 0.89 and 0.88.
    return Scored("ok", score, (score + sureness) / 2, parsed, binary)


def _normalised(p: Mapping[str, float]) -> dict[str, float]:
    total = sum(p.values())
    return {name: value / total for name, value in p.items()} if total > 0 else {}


def _expected(p: Mapping[str, float]) -> float:
    return sum(int(digit) * value for digit, value in p.items())


def _by_digits(item: Number, p: Mapping[str, float], top: str) -> Scored:
    """The first token of a number: as far as it goes, it can be judged."""
    answer = str(item.answer)
    if item.partial:
        # What the token begins, completed with zeros, is a guess of the right length.
        worth = {t: partial_credit(item.answer, int(t.ljust(len(answer), "0"))) for t in p}
    else:
        worth = {t: float(answer.startswith(t)) for t in p}
    sureness = sum(p[t] * worth[t] for t in p)
    return _quick(float(answer.startswith(top)), sureness, top, binary=True)

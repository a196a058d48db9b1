"""Scores: formulas against definitions and known values, and answers of both forms."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rys_gguf.probes.item import Choice, Contrast, Item, Number, Ratings
from rys_gguf.probes.score import (
    best_constant,
    eq_percent,
    partial_credit,
    score_probabilities,
    score_text,
)

BASE: dict[str, Any] = {"id": "x", "family": "own", "topic": "t", "level": 0, "question": "Well?"}


def number(answer: int, *, partial: bool = True, texts: tuple[str, ...] = ()) -> Number:
    """An item whose answer is a number."""
    return Number(**BASE, answer=answer, partial=partial, texts=texts)


def yes_no(answer: str) -> Choice:
    """An item whose answer is yes or no."""
    return Choice(**BASE, answer=answer)


# -- formulas ------------------------------------------------------------------------------------


def by_definition(answer: int, guess: int) -> float:
    """The score by its definition: the difference, corrected for missing digits."""
    a, g = str(answer), str(guess)
    length = max(len(a), len(g))
    filled_a, filled_g = int(a.ljust(length, "0")), int(g.ljust(length, "0"))
    if max(filled_a, filled_g) == 0:
        return 0.0
    missing = length - min(len(a), len(g))
    ratio = 1 - abs(filled_a - filled_g) / max(filled_a, filled_g)
    return min(max(ratio * (1 - missing / length), 0.0), 1.0)


@given(st.integers(0, 10**30), st.integers(0, 10**30))
def test_the_closed_form_is_the_definition(answer: int, guess: int) -> None:
    """The ratio of two numbers is one minus their difference over the larger one."""
    assert partial_credit(answer, guess) == pytest.approx(by_definition(answer, guess), abs=1e-12)


@pytest.mark.parametrize(
    ("answer", "text", "parsed", "score"),
    [
        (26317, "26317", 26317, 1.0),
        (26317, "26318", 26318, 0.9999620031917319),
        (26317, "2631", 2631, 0.7997872097883497),
        (26317, "63", 63, 0.1670920634920635),
        (26317, "263170", 263170, 0.8333333333333334),
        (26317, "99999", 99999, 0.2631726317263172),
        (4302459, "430245", 430245, 0.8571410641482664),
        (123456789, "123356789", 123356789, 0.999189999992629),
        (4302459, "43024590000", 43024590000, 7 / 11),
        (10, "9", 9, 0.0555555555555556),
        (4302459, "0", 0, 0.0),
        (12, "-12", -12, 0.0),
        (26317, "about 26,317", 26317, 1.0),
        (26317, "26317.9", 26317.9, 1.0),
        (5000, "500", 500, 0.75),
        (1000, "1", 1, 0.25),
    ],
)
def test_partial_credit_of_answers(answer: int, text: str, parsed: object, score: float) -> None:
    """Texts score their known values."""
    scored = score_text(number(answer), text)
    assert scored.status == "ok"
    assert scored.parsed == parsed
    assert scored.score == pytest.approx(score, abs=1e-12)
    assert scored.soft_score == scored.score
    assert not scored.binary


def test_partial_credit_of_zero_is_none() -> None:
    """The definition gives 0 even for a right guess."""
    assert partial_credit(0, 0) == 0


def test_no_digits_is_no_answer() -> None:
    """The status tells it from a wrong answer."""
    scored = score_text(number(26317), "I cannot say.")
    assert (scored.status, scored.score, scored.parsed) == ("no_answer", 0.0, None)


def test_many_numbers_are_worth_no_more_than_the_last() -> None:
    """Only the last one counts: taking the best would reward a model that counts up."""
    text = " ".join(str(n) for n in (26317, 26316, 11))
    assert score_text(number(26317), text).parsed == 11


@pytest.mark.parametrize(
    ("reference", "answer", "percent"),
    [
        ((8, 3, 0, 6), (8, 3, 0, 6), 100),
        ((8, 3, 0, 6), (7, 4, 2, 5), 92.0799),
        ((8, 3, 0, 6), (6, 3, 1, 10), 70.3649),
        ((8, 3, 0, 6), (5, 5, 5, 5), 46.0646),
        ((8, 3, 0, 6), (0, 8, 9, 1), -101.8104),
        ((7, 9, 6, 4), (2, 4, 1, 0), -36.3523),
        ((7, 9, 6, 4), (0, 0, 0, 10), -109.356),
        ((0, 0, 0, 0), (10, 10, 10, 10), -199.08),
    ],
)
def test_eq_percent(reference: tuple[int, ...], answer: tuple[int, ...], percent: float) -> None:
    """The formula of version 2 gives known values."""
    assert eq_percent(reference, answer) == pytest.approx(percent, abs=1e-4)


# -- generated answers ---------------------------------------------------------------------------


def test_exact_numbers_are_right_or_wrong() -> None:
    """A fraction is not cut off where there is no partial credit."""
    item = number(39, partial=False)
    assert score_text(item, "The answer is 39.0").score == 1
    assert score_text(item, "39.5").score == 0
    assert score_text(item, "38").binary


def test_a_truncated_answer_counts_only_if_it_was_given() -> None:
    """The last line does not count, as nobody knows how it would have gone on."""
    item = number(39, partial=False)
    assert score_text(item, "So 35 + 4 = 39", truncated=True).status == "truncated"
    assert score_text(item, "Answer: 39\nExplana", truncated=True).score == 1
    assert score_text(yes_no("no"), "<think>Well, no", truncated=True).status == "truncated"
    assert score_text(yes_no("no"), "<think>Well, no").status == "no_answer"


RATINGS = Ratings(**BASE, emotions=("joy", "fear", "guilt", "anger"), reference=(8, 3, 0, 6))


def test_ratings_are_skill_over_the_baseline() -> None:
    """The best constant scores 0, the reference 1, and half an answer is no answer."""
    scored = score_text(RATINGS, "joy: 5\nfear: 5\nguilt: 5\nanger: 5", baseline=46.0646)
    assert scored.score == pytest.approx(0, abs=1e-5)
    assert scored.parsed == {"ratings": [5, 5, 5, 5], "percent": 46.065}
    assert score_text(RATINGS, "8, 3, 0, 6", baseline=46).score == 1
    assert score_text(RATINGS, "joy: 5\nfear: 5").status == "no_answer"


CONTRAST = Contrast(**BASE, other="Ill?", emotion="joy", higher="other")


@pytest.mark.parametrize(
    ("text", "score"),
    [("Case 1: 3\nCase 2: 4", 1), ("Case 1: 4\nCase 2: 4", 0), ("Case 1: 9\nCase 2: 0", -1)],
)
def test_contrasts_count_their_direction(text: str, score: float) -> None:
    """A tie scores 0 and the wrong direction -1."""
    assert score_text(CONTRAST, text).score == score


# -- probabilities -------------------------------------------------------------------------------


def test_the_most_likely_option_is_the_answer() -> None:
    """The soft score is the mean of the score and of the right option's probability."""
    scored = score_probabilities(yes_no("no"), [{"yes": 0.2, "no": 0.3}])
    assert (scored.score, scored.parsed) == (1, "no")
    assert scored.soft_score == pytest.approx((1 + 0.6) / 2)
    wrong = score_probabilities(yes_no("yes"), [{"yes": 0.2, "no": 0.3}])
    assert wrong.score == 0
    assert wrong.soft_score == pytest.approx(0.4 / 2)
    assert score_probabilities(yes_no("no"), [{"yes": 0.0, "no": 0.0}]).status == "no_answer"
    item = number(42, partial=False, texts=("41", "42"))
    assert score_probabilities(item, [{"A": 0.4, "B": 0.6}]).score == 1


def test_first_tokens_of_a_number() -> None:
    """Tokens of one to three digits are filled with zeros and compared with the answer."""
    scored = score_probabilities(number(26317), [{"2": 0.5, "263": 0.25, "9": 0.25}])
    expected = 0.5 * 20000 / 26317 + 0.25 * 26300 / 26317 + 0.25 * 26317 / 90000
    assert scored.soft_score == pytest.approx((1 + expected) / 2)
    assert (scored.score, scored.binary, scored.parsed) == (1, True, "2")
    assert score_probabilities(number(26317), [{"27": 0.6, "26": 0.4}]).score == 0
    # A token longer than the answer, or with a leading zero, begins another number.
    assert score_probabilities(number(26), [{"263": 1.0}]).soft_score == pytest.approx(
        2 / 3 * 260 / 263 / 2
    )
    assert score_probabilities(number(26), [{"0": 1.0}]).soft_score == 0
    exact = score_probabilities(number(26, partial=False), [{"2": 0.5, "26": 0.2, "3": 0.3}])
    assert exact.soft_score == pytest.approx((1 + 0.7) / 2)


def one(digit: int) -> dict[str, float]:
    """A distribution with all its mass on one digit."""
    return {str(d): float(d == digit) for d in range(10)}


def test_ratings_and_contrasts_by_expectation() -> None:
    """A rating is the mean of its digits; a contrast compares two such means."""
    scored = score_probabilities(RATINGS, [one(8), one(3), one(0), one(6)], baseline=50)
    assert scored.score == 1
    half = {"3": 0.5, "5": 0.5}
    assert score_probabilities(RATINGS, [half] * 4).parsed["ratings"] == [4, 4, 4, 4]
    assert score_probabilities(CONTRAST, [one(3), one(4)]).soft_score == 1
    assert score_probabilities(CONTRAST, [one(3), {"3": 0.6, "4": 0.4}]).score == 0
    assert score_probabilities(CONTRAST, [one(3), {"3": 0.6, "4": 0.4}]).soft_score == 0.2
    with pytest.raises(ValueError, match="1 distributions for 2 requests"):
        score_probabilities(CONTRAST, [one(3)])


DISTRIBUTIONS = st.lists(st.floats(0, 1), min_size=10, max_size=10).filter(lambda p: sum(p) > 0.01)


@given(DISTRIBUTIONS, st.sampled_from(["question", "other"]))
def test_a_constant_distribution_earns_nothing_in_contrasts(
    values: list[float], higher: str
) -> None:
    """An answer that does not depend on the text has a soft score of 0."""
    p = {str(d): v for d, v in enumerate(values)}
    item = Contrast(**BASE, other="Ill?", emotion="joy", higher=higher)
    scored = score_probabilities(item, [p, p])
    assert scored.soft_score == pytest.approx(0, abs=1e-9)
    assert scored.score == 0


@given(st.lists(st.tuples(*[st.integers(0, 9)] * 4), min_size=1, max_size=8), st.integers(0, 9))
def test_no_constant_answer_beats_the_baseline(
    references: list[tuple[int, int, int, int]], digit: int
) -> None:
    """The skill of any constant answer is at most 0."""
    items: list[Item] = [
        Ratings(**BASE, emotions=("a", "b", "c", "d"), reference=r) for r in references
    ]
    baseline = best_constant(items)
    assume(baseline < 99)
    answer = "\n".join(f"{name}: {digit}" for name in "abcd")
    scores = [score_text(item, answer, baseline=baseline).score for item in items]
    assert sum(scores) / len(scores) <= 1e-9

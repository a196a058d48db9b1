"""Arithmetic: answers are checked with high precision, and no sum is asked twice."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from decimal import Decimal, localcontext
from functools import reduce
from operator import mul

from hypothesis import given
from hypothesis import strategies as st

from rys_gguf.probes.families import arithmetic
from rys_gguf.probes.item import Number
from rys_gguf.probes.names import SPLITS
from tests.probes.made import built, items


def test_math_by_decimals() -> None:
    """Every answer is within half of the value that high precision gives."""
    for topic in ("sqrt", "cbrt", "product", "mixed", "sum", "difference", "gap"):
        for item in items(topic):
            assert isinstance(item, Number)
            numbers = [Decimal(n) for n in re.findall(r"\d+", item.question)]
            with localcontext() as context:
                context.prec = 80
                third = Decimal(1) / 3
                values: dict[str, Callable[..., Decimal]] = {
                    "sqrt": lambda a, *rest: (
                        sum(map(mul, (a, *rest)[::2], rest[::2])).sqrt() if rest else a.sqrt()
                    ),
                    "cbrt": lambda a, third=third: a**third,
                    "product": lambda *factors: reduce(mul, factors),
                    "sum": lambda a, b: a + b,
                    "difference": lambda a, b: a - b,
                    "gap": lambda a, b, c, d: a * b - c * d,
                    "mixed": lambda a, b, third=third, divided="dividing" in item.question: (
                        a.sqrt() / b if divided else a**third * b
                    ),
                }
                value = values[topic](*numbers)
                assert abs(value - item.answer) <= Decimal("0.5"), item.question


@given(st.integers(0, 10**40))
def test_roots_are_the_nearest(n: int) -> None:
    """The root lies from (2r - 1) / 2 to below (2r + 1) / 2, compared in integers."""
    r = arithmetic.nearest_root(n)
    assert max(2 * r - 1, 0) ** 2 <= 4 * n < (2 * r + 1) ** 2
    c = arithmetic.nearest_cube_root(n)
    assert max(2 * c - 1, 0) ** 3 <= 8 * n < (2 * c + 1) ** 3


def test_order_does_not_make_another_sum() -> None:
    """8 times 9 and 9 times 8 count as one question, within a split and across splits."""
    asked: Counter[tuple[str, ...]] = Counter()
    for seed, split in enumerate(SPLITS):
        keys = set()
        for item in built("validate", "math", 0, seed, split):
            numbers = re.findall(r"\d+", item.question)
            key = (item.topic, *(numbers if item.topic == "difference" else sorted(numbers)))
            assert key not in keys, item.question
            keys.add(key)
        asked.update(keys)
    assert max(asked.values()) == 1


def test_the_first_digits_of_a_gap_cancel() -> None:
    """At each level the products agree in one digit more, so that a guess has to be finer."""
    for level in (4, 5, 6, 7):
        for item in items("gap", levels=(level,)):
            a, b, c, d = map(int, re.findall(r"\d+", item.question))
            assert {len(str(n)) for n in (a, b, c, d)} == {level}
            assert 10 ** -(level - 1) < (a * b - c * d) / (a * b) < 2 * 10 ** -(level - 3)

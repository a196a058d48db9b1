"""Arithmetic to be guessed at a glance: one number, with partial credit for coming near.

The few tokens of an answer leave no room for working, so the number of right leading digits shows
how far the model gets internally. First digits of answers are balanced, so that no constant answer
helps. All arithmetic uses exact integers.

First digits follow from first digits, however long the numbers are. From level 4 on there are more
numbers, or their first digits cancel.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from math import isqrt, prod

from rys_gguf.probes.draw import Place, wording
from rys_gguf.probes.families.words import listed
from rys_gguf.probes.item import Number

FAMILY = "math"

Draw = Callable[[random.Random], tuple[str, int]]

_TEMPLATES = (
    "What is {}?",
    "Compute {}.",
    "Your best guess: what is {}?",
    "Without writing anything down, how much is {}?",
)
_ROUNDED = ", rounded to the nearest integer"


def nearest_root(n: int) -> int:
    """The integer nearest to the square root of n >= 0, which is never half way between two."""
    root = isqrt(n)
    return root + (n - root * root > root)


def nearest_cube_root(n: int) -> int:
    """The integer nearest to the cube root of n >= 0, which is never half way between two."""
    low, high = 0, 1 << (n.bit_length() // 3 + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if middle**3 <= n else (low, middle)
    return low + (8 * n > (2 * low + 1) ** 3)


def _digits(rng: random.Random, n: int) -> int:
    """A random number of n digits, n > 0."""
    return rng.randrange(1, 10) if n == 1 else rng.randrange(10 ** (n - 1), 10**n)


def _root(least: int, most: int) -> Draw:
    def draw(rng: random.Random) -> tuple[str, int]:
        n = _digits(rng, rng.randint(least, most))
        return f"the square root of {n}{_ROUNDED}", nearest_root(n)

    return draw


def _cube_root(least: int, most: int) -> Draw:
    def draw(rng: random.Random) -> tuple[str, int]:
        n = _digits(rng, rng.randint(least, most))
        return f"the cube root of {n}{_ROUNDED}", nearest_cube_root(n)

    return draw


def _product(lengths: tuple[tuple[int, int], ...]) -> Draw:
    def draw(rng: random.Random) -> tuple[str, int]:
        m, n = rng.choice(lengths)
        a, b = _digits(rng, m), _digits(rng, n)
        a, b = (a, b) if rng.random() < 0.5 else (b, a)  # noqa: PLR2004 - a coin
        return f"{a} times {b}", a * b

    return draw


def _factors(n: int) -> Draw:
    """The product of n numbers of three digits."""

    def draw(rng: random.Random) -> tuple[str, int]:
        factors = [_digits(rng, 3) for _ in range(n)]
        return " times ".join(map(str, factors)), prod(factors)

    return draw


def _root_of_sum(n: int, length: int) -> Draw:
    """The square root of the sum of n products of numbers of up to `length` digits."""

    def draw(rng: random.Random) -> tuple[str, int]:
        shorter = rng.randint(length - 1, length)
        pairs = [(_digits(rng, length), _digits(rng, shorter)) for _ in range(n)]
        told = listed([f"{a} times {b}" for a, b in pairs])
        answer = nearest_root(sum(a * b for a, b in pairs))
        return f"the square root of the sum of {told}{_ROUNDED}", answer

    return draw


def _gap(cancelled: int, length: int) -> Draw:
    """The difference of two products that agree in about so many of their first digits."""

    def draw(rng: random.Random) -> tuple[str, int]:
        while True:
            a, b, c = (_digits(rng, length) for _ in range(3))
            part = rng.randrange(10**cancelled, 10 ** (cancelled + 1))
            d = (a * b - a * b // part) // c
            if len(str(d)) == length:
                return f"{a} times {b} minus {c} times {d}", a * b - c * d

    return draw


def _sum(rng: random.Random) -> tuple[str, int]:
    a, b = _digits(rng, 2), _digits(rng, rng.choice((1, 2)))
    return f"{a} plus {b}", a + b


def _difference(rng: random.Random) -> tuple[str, int]:
    a, b = _digits(rng, 2), _digits(rng, rng.choice((1, 2)))
    return f"{max(a, b)} minus {min(a, b)}", abs(a - b)


def _multiple(rng: random.Random) -> tuple[str, int]:
    """A cube root times a number of two digits, as the root of a product: it is rounded once."""
    n, factor = _digits(rng, rng.randint(12, 13)), _digits(rng, 2)
    answer = nearest_cube_root(n * factor**3)
    return f"the result of multiplying the cube root of {n} by {factor}{_ROUNDED}", answer


def _quotient(rng: random.Random) -> tuple[str, int]:
    """A square root divided by a number of two digits, rounded once."""
    n, divisor = _digits(rng, rng.choice((10, 12))), _digits(rng, 2)
    # The answer is the k with (2k - 1) d / 2 <= sqrt(n) < (2k + 1) d / 2: integers only.
    k = (isqrt(4 * n) // divisor + 1) // 2
    return f"the result of dividing the square root of {n} by {divisor}{_ROUNDED}", k


LEVELS: dict[int, dict[str, Draw]] = {
    0: {"sum": _sum, "difference": _difference, "product": _product(((1, 1), (2, 1)))},
    1: {"sqrt": _root(6, 8), "product": _product(((3, 3), (3, 2))), "cbrt": _cube_root(6, 9)},
    2: {
        "sqrt": _root(9, 10),
        "product": _product(((6, 6), (7, 6), (7, 7))),
        "cbrt": _cube_root(12, 14),
    },
    3: {
        "sqrt": _root(17, 18),
        "product": _product(((14, 14),)),
        "cbrt": _cube_root(17, 19),
        "mixed": lambda rng: rng.choice((_multiple, _quotient))(rng),
    },
    **{
        level: {
            "product": _factors(level - 1),
            "sqrt": _root_of_sum(level - 2, level),
            "gap": _gap(level - 3, level),
        }
        for level in (4, 5, 6, 7)
    },
}


def topics(level: int) -> tuple[str, ...]:
    """The topics of a level."""
    return tuple(LEVELS[level])


def make(rng: random.Random, place: Place) -> Number:
    """One item. The first digit of its answer follows from the index, shifted by topic."""
    draw = LEVELS[place.level][place.topic]
    first = str((place.index + 3 * topics(place.level).index(place.topic)) % 9 + 1)
    template = rng.choice(_TEMPLATES)
    while True:
        what, answer = draw(rng)
        if str(answer)[0] == first:
            break
    question = template.format(what)
    return Number(
        id=place.name,
        family=FAMILY,
        topic=place.topic,
        level=place.level,
        question=question,
        template=wording(question),
        answer=answer,
        partial=True,
    )

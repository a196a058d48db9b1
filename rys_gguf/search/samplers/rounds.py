"""The rounds of a search: how many items each of them asks, and how many candidates go on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rys_gguf.runs.stage import round_stage
from rys_gguf.search.job import Step

# A round of fewer items than this would rank candidates by chance.
_LEAST_ITEMS = 16
# Where a window's neighbours count as well, fewer do.
_SMALL = 8
# Halvings of the range in which the factor of `longest_within` lies: to less than one item.
_N_HALVINGS = 40


@dataclass(frozen=True, slots=True)
class Rounds:
    """Round n asks the search items from `ends[n - 2]` (0 for the first) up to `ends[n - 1]`.

    After each round the better `keep` of the candidates, a fraction of 1, go on to the next, but
    never fewer than `n_finalists`.
    """

    ends: tuple[int, ...]
    keep: float = 0.34
    n_finalists: int = 3

    def __len__(self) -> int:
        return len(self.ends)

    def step(self, number: int) -> Step:
        """The round of that number, from 1."""
        start = self.ends[number - 2] if number > 1 else 0
        return Step(round_stage(number), items=tuple(range(start, self.ends[number - 1])))

    @property
    def steps(self) -> tuple[Step, ...]:
        """All rounds, in order."""
        return tuple(self.step(n) for n in range(1, len(self) + 1))

    def at(self, numbers: Sequence[int]) -> Rounds:
        """Rounds that end where those of these numbers do, from 1."""
        return replace(self, ends=tuple(self.ends[number - 1] for number in numbers))

    def n_kept(self, n_candidates: int) -> int:
        """How many of so many candidates go on to the next round."""
        return max(self.n_finalists, math.ceil(n_candidates * self.keep))

    def n_standing(self, n_candidates: int) -> tuple[int, ...]:
        """How many of so many candidates each round asks if none is dropped or fails."""
        standing = [n_candidates]
        while len(standing) < len(self):
            standing.append(min(standing[-1], self.n_kept(standing[-1])))
        return tuple(standing)

    def n_asks(self, n_candidates: int) -> int:
        """How many items so many candidates answer if none is dropped or fails."""
        standing = self.n_standing(n_candidates)
        return sum(n * len(step.items) for n, step in zip(standing, self.steps, strict=True))


def round_ends(n_items: int, shares: Sequence[float]) -> tuple[int, ...]:
    """The number of a suite's items that have been asked after each round.

    round_ends(312, (0.06, 0.25)) == (19, 78)
    """
    least = [_LEAST_ITEMS * 3**n for n in range(len(shares))]
    ends = (max(round(n_items * s), m) for s, m in zip(shares, least, strict=True))
    return tuple(sorted({min(n_items, end) for end in ends}))


def longest_within(
    n_asks: int, n_candidates: int, scaled: Callable[[float], Rounds], most: float
) -> Rounds:
    """The longest rounds in which so many candidates answer at most `n_asks` items.

    `scaled` gives rounds by the factor, 0 to `most`, that their lengths are multiplied by. Where
    even the shortest ask more, it is these.
    """
    low, high = 0.0, most
    for _ in range(_N_HALVINGS):
        middle = (low + high) / 2
        if scaled(middle).n_asks(n_candidates) <= n_asks:
            low = middle
        else:
            high = middle
    return scaled(low)


def small_ends(n_items: int) -> tuple[int, ...]:
    """The ends of small rounds, as many as it takes to ask all items.

    small_ends(20) == (8, 16, 20)
    """
    return (*range(_SMALL, n_items, _SMALL), n_items)

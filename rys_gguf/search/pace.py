"""How fast the base is on this machine, from which the time of a sweep follows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

# Items of each suite that are asked together, as in a small round, after a few to warm up.
_SAMPLE, _WARMING = 8, 2
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Pace:
    """The seconds that the base takes.

    `item` is for an item of each suite, asked together with others and, of those held out, after a
    thought if models are to think. `words` is for an answer in words, `texts` for the plain texts
    of the filter, `replies` for the replies of the loop stage, `load` for loading. `as_tails` says
    that the engine computes a window from its first layer on only.
    """

    item: Mapping[str, float]
    texts: float
    replies: float
    words: float = 0.0
    load: float = 0.0
    as_tails: bool = False


class Stopwatch:
    """Measures what calls take, in seconds by `clock`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock

    def time(self, work: Callable[[], _T]) -> tuple[_T, float]:
        """What a call gives, and the seconds that it took."""
        start = self._clock()
        result = work()
        return result, self._clock() - start


def item_seconds(n_items: int, ask: Callable[[Sequence[int]], object], watch: Stopwatch) -> float:
    """The seconds an item takes among others: the mean of some from all over a suite.

    `ask` asks the items at these positions.
    """
    chosen = range(0, n_items, -(-n_items // _SAMPLE))
    ask(chosen[:_WARMING])
    _, seconds = watch.time(lambda: ask(chosen))
    return seconds / len(chosen)

"""The stages a candidate goes through, and how each of them can end."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from functools import total_ordering

# As results.jsonl spells them; the order is that of a candidate's way.
_ROUND = "round"
_NAMES = ("damage", _ROUND, "loops", "final", "generate", "speed")
_NUMBERED = re.compile(_ROUND + r"([1-9][0-9]{0,3})", re.ASCII)


@total_ordering
@dataclass(frozen=True, slots=True)
class Stage:
    """One stage; `number` counts the rounds of the search from 1 and is 0 for all others.

    Stages sort as a candidate goes through them. `str(stage)` is its name in a run folder.
    """

    name: str
    number: int = 0

    def __post_init__(self) -> None:
        if self.name not in _NAMES or (self.name == _ROUND) != (self.number > 0):
            raise ValueError(f"{self.name!r} {self.number} is no stage")

    @classmethod
    def parse(cls, text: str) -> Stage:
        """The stage of that name. Raises ValueError.

        Stage.parse("round2") == round_stage(2)
        """
        if match := _NUMBERED.fullmatch(text):
            return cls(_ROUND, int(match[1]))
        return cls(text[:20])

    @property
    def is_round(self) -> bool:
        """Whether it is one of the search's rounds, whose answers candidates are ranked by."""
        return self.name == _ROUND

    def __str__(self) -> str:
        return f"{self.name}{self.number or ''}"

    def __lt__(self, other: Stage) -> bool:
        return (_NAMES.index(self.name), self.number) < (_NAMES.index(other.name), other.number)


# Kullback-Leibler divergence from the base on plain text: a filter.
DIVERGENCE = Stage("damage")
# Whether it repeats itself: a filter, of finalists only.
LOOPS = Stage("loops")
# Held-out items, by probability and in the model's own words.
FINAL = Stage("final")
GENERATE = Stage("generate")
SPEED = Stage("speed")


def round_stage(number: int) -> Stage:
    """The search's round of that number, from 1."""
    return Stage(_ROUND, number)


class Status(str, Enum):
    """How a stage ended."""

    OK = "ok"
    # By a filter, for a reason that is a property of the candidate.
    DROPPED = "dropped"
    # By an error: nothing was learnt about the candidate.
    FAILED = "failed"

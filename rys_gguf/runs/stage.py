"""The stages a candidate goes through, and how each of them can end."""

from __future__ import annotations

import re
from enum import Enum
from functools import total_ordering

from rys_gguf.text import quoted

# As results.jsonl spells them, in the order in which a candidate goes through them.
_ROUND, _FINAL = "round", "final"
_NAMES = ("damage", _ROUND, "loops", _FINAL, "generate", "placebo", "speed")
_COUNTED = (_ROUND, _FINAL)
_NUMBERED = re.compile(r"(round|final)([1-9][0-9]{0,3})", re.ASCII)


@total_ordering
class Stage:
    """One stage; `number` counts rounds and looks at held-out items from 1, and is 0 for others.

    The first look is called "final", as it was when there was one look.

    Stages sort as a candidate goes through them. `str(stage)` is its name in a run folder.
    """

    # Not a dataclass: msgspec would write one as an object, and not by its name.
    __slots__ = ("_name", "_number", "_place")

    def __init__(self, name: str, number: int = 0) -> None:
        if name not in _NAMES or (name in _COUNTED) != (number > 0):
            raise ValueError(f"{quoted(name, 20)} is not a stage of a sweep")
        self._name = name
        self._number = number
        # Made once: stages are the keys of everything a search knows.
        self._place = _NAMES.index(name), number

    @classmethod
    def parse(cls, text: str) -> Stage:
        """The stage of that name. Raises ValueError.

        Stage.parse("round2") == round_stage(2)
        """
        if text == _FINAL:
            return cls(_FINAL, 1)
        match = _NUMBERED.fullmatch(text)
        if match and text != f"{_FINAL}1":
            return cls(match[1], int(match[2]))
        return cls(text)

    @property
    def name(self) -> str:
        """Its kind: all rounds have the same, and all looks."""
        return self._name

    @property
    def number(self) -> int:
        """Which round or look it is, from 1; 0 for other stages."""
        return self._number

    @property
    def is_round(self) -> bool:
        """Whether it is one of the search's rounds, whose answers candidates are ranked by."""
        return self._name == _ROUND

    @property
    def is_look(self) -> bool:
        """Whether it asks held-out items by probability."""
        return self._name == _FINAL

    def __str__(self) -> str:
        return self._name if self == FINAL else f"{self._name}{self._number or ''}"

    def __repr__(self) -> str:
        return f"Stage({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stage) and self._place == other._place

    def __hash__(self) -> int:
        return hash(self._place)

    def __lt__(self, other: Stage) -> bool:
        return self._place < other._place


# Kullback-Leibler divergence from the base on plain text: a filter.
DIVERGENCE = Stage("damage")
# Whether its answers end in loops: a filter for finalists.
LOOPS = Stage("loops")
# Held-out items, by probability (the first look at them) and as generated answers.
FINAL = Stage(_FINAL, 1)
GENERATE = Stage("generate")
# Held-out items for a window that is no finalist: what any window would do to a model that thinks.
PLACEBO = Stage("placebo")
SPEED = Stage("speed")


def round_stage(number: int) -> Stage:
    """The search's round of that number, from 1."""
    return Stage(_ROUND, number)


def look_stage(number: int) -> Stage:
    """The look at held-out items of that number, from 1."""
    return Stage(_FINAL, number)


class Status(str, Enum):
    """How a stage ended."""

    OK = "ok"
    # A filter stopped it, for a reason that is a property of the candidate.
    DROPPED = "dropped"
    # An error ended it: nothing is known about the candidate.
    FAILED = "failed"

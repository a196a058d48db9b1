"""The answers of two candidates to the same items, in pairs: all statistics start from these."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rys_gguf.runs.records import ItemAnswer
from rys_gguf.stats.paired import Floats

Field = Literal["score", "soft_score"]
# The name of the mean over families, beside those of the families.
OVERALL = "overall"


@dataclass(frozen=True, slots=True)
class Pairs:
    """The items of one family that both base and window answered, in the same order.

    `n_asked` counts all items that both were asked, with a score or without. `base_parsed` and
    `window_parsed` count those whose answers could be read.
    """

    items: tuple[str, ...]
    base: Floats
    window: Floats
    binary: bool
    n_asked: int
    base_parsed: int
    window_parsed: int

    @property
    def difference(self) -> Floats:
        """Window minus base, per item."""
        return np.asarray(self.window - self.base)

    @property
    def mean(self) -> float:
        """Mean difference."""
        return float(self.difference.mean())


Families = dict[str, Pairs]


def pair(
    base: Mapping[str, ItemAnswer], window: Mapping[str, ItemAnswer], field: Field = "score"
) -> Families:
    """Two candidates' answers to the same items, by family in the order of the base.

    An item is left out if one side has no score for it, as where emotions could not be read. A
    family in which this happens to all items is kept, without items.
    """
    asked: dict[str, list[tuple[ItemAnswer, ItemAnswer]]] = defaultdict(list)
    for item, a in base.items():
        if item in window:
            asked[a.family].append((a, window[item]))
    return {family: _pairs(both, field) for family, both in asked.items()}


def _pairs(asked: Sequence[tuple[ItemAnswer, ItemAnswer]], field: Field) -> Pairs:
    scored = [
        (a, b, x, y)
        for a, b in asked
        if (x := getattr(a, field)) is not None and (y := getattr(b, field)) is not None
    ]
    return Pairs(
        tuple(a.item for a, *_ in scored),
        np.array([x for *_, x, _ in scored], dtype=np.float64),
        np.array([y for *_, y in scored], dtype=np.float64),
        bool(scored) and all(a.binary and b.binary for a, b, *_ in scored),
        len(asked),
        sum(a.is_read for a, _ in asked),
        sum(b.is_read for _, b in asked),
    )


def readable(families: Families) -> Families:
    """The families with at least one scored item: those that statistics are made of."""
    return {family: p for family, p in families.items() if p.items}


def overall(families: Families) -> float:
    """Mean over families of their mean difference: every family counts the same."""
    return float(np.mean([p.mean for p in families.values()]))


def parts_of(
    families: Families, weights: Mapping[str, float] | None = None
) -> dict[tuple[str, str], float]:
    """What each item adds to the overall difference, by family and item.

    `weights` are those of the families; without them every family counts the same.
    """
    equal = 1 / max(1, len(families))
    return {
        (family, item): float(x) * (weights[family] if weights else equal) / len(p.items)
        for family, p in families.items()
        for item, x in zip(p.items, p.difference, strict=True)
    }


def parts_matrix(rows: Sequence[Mapping[tuple[str, str], float]]) -> Floats:
    """`parts_of` K candidates as a matrix [K, n]; 0 where a candidate was not asked an item."""
    items = {item: n for n, item in enumerate(dict.fromkeys(i for row in rows for i in row))}
    parts = np.zeros((len(rows), len(items)))
    for k, row in enumerate(rows):
        for item, x in row.items():
            parts[k, items[item]] = x
    return parts

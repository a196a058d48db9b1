"""The answers of two candidates to the same items, in pairs: all statistics start from these."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rys_gguf.runs.records import ItemAnswer
from rys_gguf.runs.trial import Trial
from rys_gguf.stats.clusters import Floats, Sample

Field = Literal["score", "soft_score", "n_thought"]
# The name of the mean over families, beside those of the families.
OVERALL = "overall"


@dataclass(frozen=True, slots=True)
class Pairs:
    """The items of one family that both base and window answered, in the same order.

    `clusters` names what each item has in common with others of the family, and is empty where none
    has anything. `n_asked` counts all items that both were asked, with a score or without.
    `base_parsed` and `window_parsed` count those whose answers could be read.
    """

    items: tuple[str, ...]
    base: Floats
    window: Floats
    binary: bool
    n_asked: int
    base_parsed: int
    window_parsed: int
    clusters: tuple[str, ...] = ()

    @property
    def sample(self) -> Sample:
        """The differences with their clusters."""
        return Sample.of(self.difference, self.clusters or None)

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


def at_looks(base: Trial, trial: Trial) -> list[Families]:
    """Base and window on what both were asked up to each look at held-out items."""
    stages = [stage for stage in trial.looks if base.answers.get(stage)]
    return [
        pair(base.answers_in(stages[:n]), trial.answers_in(stages[:n]))
        for n in range(1, len(stages) + 1)
    ]


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
        # The base was asked first: what it recorded holds for all of the run.
        tuple(a.common for a, *_ in scored),
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
    """What each cluster of items adds to the overall difference, by family and cluster.

    `weights` are those of the families; without them every family counts the same.
    """
    equal = 1 / max(1, len(families))
    parts: dict[tuple[str, str], float] = defaultdict(float)
    for family, p in families.items():
        scale = (weights[family] if weights else equal) / len(p.items)
        for cluster, x in zip(p.clusters or p.items, p.difference, strict=True):
            parts[family, cluster] += float(x) * scale
    return dict(parts)


def parts_matrix(rows: Sequence[Mapping[tuple[str, str], float]]) -> Floats:
    """`parts_of` K candidates as a matrix [K, n]; 0 where a candidate was not asked a cluster."""
    places = {part: n for n, part in enumerate(dict.fromkeys(i for row in rows for i in row))}
    parts = np.zeros((len(rows), len(places)))
    for k, row in enumerate(rows):
        for part, x in row.items():
            parts[k, places[part]] = x
    return parts

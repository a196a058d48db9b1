"""What held-out items can show, said before any of them is asked.

The differences of answers are not known yet, so the figures rest on assumptions about them. They
are a plan; the report has the figures of the run itself.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rys_gguf.probes.item import Item
from rys_gguf.stats.clusters import Floats, freedom_of
from rys_gguf.stats.looks import level_shares, spent
from rys_gguf.stats.paired import ALPHA, detectable

# The standard deviation of an item's difference: right-or-wrong items of which a fifth differ.
SPREAD = 0.45
# The correlation of the differences of two items that have something in common, if there is one.
ALIKE = 0.3


@dataclass(frozen=True, slots=True)
class Sight:
    """The true gains that are called a gain in four sweeps of five: overall, and by family.

    `least` is the overall gain that endlessly many items of the same templates and events would
    show. All are fractions of 1.
    """

    overall: float
    families: Mapping[str, float]
    least: float


def sight(
    items: Sequence[Item],
    n_finalists: int,
    looks: Sequence[float] = (1.0,),
    *,
    spread: float = SPREAD,
    alike: float = 0.0,
) -> Sight:
    """What these held-out items show of so many finalists, if they are all asked."""
    by_family: dict[str, Counter[str]] = {}
    for item in items:
        by_family.setdefault(item.family, Counter())[item.common] += 1
    sizes = {f: np.array(list(c.values()), dtype=np.float64) for f, c in by_family.items()}
    one, each = level_shares(n_finalists, len(sizes))
    alpha = ALPHA * spent(looks)[-1]
    errors = {f: _variance(n, spread, alike) for f, n in sizes.items()}
    freedoms = {f: freedom_of(n / n.sum()) if len(n) > 1 else 1.0 for f, n in sizes.items()}
    total = sum(errors.values())
    freedom = total**2 / sum(v**2 / freedoms[f] for f, v in errors.items())
    limits = [spread**2 * alike * float(((n / n.sum()) ** 2).sum()) for n in sizes.values()]
    return Sight(
        detectable(math.sqrt(total) / len(sizes), freedom, alpha * one),
        {f: detectable(math.sqrt(v), freedoms[f], alpha * each) for f, v in errors.items()},
        detectable(math.sqrt(sum(limits)) / len(sizes), freedom, alpha * one),
    )


def _variance(sizes: Floats, spread: float, alike: float) -> float:
    """The variance of the mean of items in clusters of these sizes."""
    n = float(sizes.sum())
    return spread**2 * ((1 - alike) / n + alike * float((sizes**2).sum()) / n**2)

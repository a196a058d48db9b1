"""Who goes on: candidates by their paired differences to the base, item by item."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from statistics import fmean, pstdev
from typing import Any

Line = Mapping[str, Any]
# A family in which no candidate differs from the base at all says nothing; any unit will do.
_NO_SPREAD = 1.0


def ranks(base: Iterable[Line], candidates: Mapping[str, Iterable[Line]]) -> dict[str, float]:
    """A number for each candidate, higher is better, 0 is the base: for ranking, no verdict.

    The mean over families of the mean paired difference in credit, each family in units of the
    standard deviation of such differences over all candidates' items: families are measured on
    different scales, and the noisier one must not decide alone.
    """
    reference = {line["item"]: line["credit"] for line in base if line["credit"] is not None}
    differences: dict[str, dict[str, list[float]]] = {}
    pooled: dict[str, list[float]] = {}
    for name, lines in candidates.items():
        mine = differences.setdefault(name, {})
        for line in lines:
            if line["item"] in reference and line["credit"] is not None:
                difference = line["credit"] - reference[line["item"]]
                mine.setdefault(line["family"], []).append(difference)
                pooled.setdefault(line["family"], []).append(difference)
    units = {family: pstdev(values) or _NO_SPREAD for family, values in pooled.items()}
    return {
        name: fmean(fmean(v) / units[f] for f, v in mine.items()) if mine else -math.inf
        for name, mine in differences.items()
    }


def best(values: Mapping[str, float], cost: Mapping[str, int], n: int) -> list[str]:
    """The first `n` by rank; of equal ones those that add fewer layers."""
    return sorted(values, key=lambda name: (-values[name], cost[name], name))[:n]

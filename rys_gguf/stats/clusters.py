"""Means of items that come in clusters, such as those of one template, and how sure they are.

Items of a cluster are alike, so a hundred of them say less than a hundred others. Errors are
computed from the sums of clusters, without a guess of how alike their items are, and corrected for
few clusters: CR2 with Satterthwaite's degrees of freedom (Bell and McCaffrey 2002; Imbens and
Kolesar 2016; Pustejovsky and Tipton 2018). Where every item is a cluster of its own this is
Student's t.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Sample:
    """Values [n] of the items of one family, and the number of the cluster of each [n]."""

    values: Floats
    clusters: npt.NDArray[np.int64]

    @classmethod
    def of(cls, values: Floats, names: Sequence[str] | None = None) -> Sample:
        """Values with the names of their clusters; without names every item is its own."""
        if names is None:
            return cls(values, np.arange(len(values)))
        numbers: dict[str, int] = {}
        return cls(values, np.array([numbers.setdefault(x, len(numbers)) for x in names], np.int64))

    def minus(self, other: Sample) -> Sample:
        """The differences to other values of the same items."""
        return replace(self, values=self.values - other.values)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def n_clusters(self) -> int:
        """How many clusters there are."""
        return int(self.clusters.max()) + 1 if len(self) else 0

    @property
    def are_single(self) -> bool:
        """Whether every item is a cluster of its own."""
        return self.n_clusters == len(self)

    @property
    def mean(self) -> float:
        """Mean over items."""
        return float(self.values.mean())

    @property
    def sizes(self) -> Floats:
        """The number of items of each cluster."""
        return np.asarray(np.bincount(self.clusters), dtype=np.float64)

    @property
    def sums(self) -> Floats:
        """The sum of the values of each cluster."""
        return np.asarray(np.bincount(self.clusters, self.values), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean, its standard error, and the degrees of freedom of that error.

    Without two clusters in every sample the error is infinite. Where no value differs it is 0.
    """

    mean: float
    error: float
    freedom: float


def estimate(samples: Sequence[Sample], weights: Sequence[float] | None = None) -> Estimate:
    """The weighted sum of the samples' means; without weights, the mean of them.

    Samples are independent of each other. The variance of a mean of clusters with the shares p of
    the items is the sum of p^2 d^2 / (1 - p), d the distance of a cluster's mean from that of all.
    """
    weights = [1 / len(samples)] * len(samples) if weights is None else weights
    mean = sum(w * s.mean for w, s in zip(weights, samples, strict=True))
    if any(s.n_clusters < 2 for s in samples):  # noqa: PLR2004 - one cluster has no spread
        return Estimate(mean, math.inf, 1.0)
    variance = by_freedom = 0.0
    for weight, sample in zip(weights, samples, strict=True):
        share = sample.sizes / len(sample)
        moved = (sample.sums - sample.sizes * sample.mean) / len(sample)
        part = weight**2 * float((moved**2 / (1 - share)).sum())
        variance += part
        by_freedom += part**2 / freedom_of(share)
    # Welch (1947) adds up variances that have degrees of freedom of their own.
    return Estimate(mean, math.sqrt(variance), variance**2 / by_freedom if by_freedom else math.inf)


def freedom_of(share: Floats) -> float:
    """Satterthwaite's degrees of freedom of the variance of a mean: G - 1 for G equal clusters.

    `share` are the clusters' shares of the items, at least two.
    """
    pull = share**2 / (1 - share)
    return 1 / float((share**2).sum() + pull.sum() ** 2 - (pull**2).sum())

"""The gains of all maps as one landscape: what is known of a window tells of its neighbours.

The gains are a Gaussian process over where a window lies and how long it is (Rasmussen and Williams
2006, chapters 2 and 5). How far neighbours inform each other differs from model to model, so it is
fitted to the run's own answers, by their marginal likelihood. Windows of the first two layers and
of the last one have means of their own, because they hurt as no others do; and how far a bad window
is below the others does not matter in a search for the best one, so outliers are clipped.

Windows may be repeated in other forms, which have means of their own and tell less of one another.
Several blocks in a map gain about as much as each of them alone, taken together: what is missing to
the sum is a mean of its own, and a deviation that no other map shares.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rys_gguf.layers.blocks import Block
from rys_gguf.stats.clusters import Floats, Ints

# The standard deviation of everything that is not known beforehand, in score: it says nothing.
_VAGUE = 1.0
# The part of a window's variance that its neighbours do not share.
_OWN = 0.05
# The correlation of windows at one place that are repeated in different forms.
_OTHER_FORM = 0.5
# The variance that each further block adds, as a part of a window's. A sum of effects predicted the
# maps of RYS with a correlation of 0.93, which leaves them about so much.
_TOGETHER = 0.3
# Observations this many deviations below the median are clipped.
_FAR = 4.0
# From a median absolute deviation to the standard deviation of a normal distribution.
_OF_NORMAL = 1.4826
# The grids of the fit: layers, and fractions of a score.
_LENGTHS = tuple(float(2 ** (k / 2)) for k in range(-2, 11))
_SPREADS = tuple(0.005 * 2 ** (k / 2) for k in range(13))


@dataclass(frozen=True, slots=True)
class Shape:
    """How gains vary: `spread` is their standard deviation, as a fraction of a score.

    Windows whose middles are `along` layers apart, or whose lengths differ by `across`, have a
    correlation of exp(-1/2).
    """

    spread: float = _SPREADS[6]
    along: float = _LENGTHS[6]
    across: float = _LENGTHS[6]


@dataclass(frozen=True, slots=True)
class Belief:
    """What is known of the gains of K maps: means [K] and covariance [K, K]."""

    means: Floats
    covariance: Floats

    @property
    def errors(self) -> Floats:
        """Standard deviations: [K]."""
        return np.asarray(np.sqrt(np.diag(self.covariance)))


class Landscape:
    """Maps of a model with `n_layers`, each given by its blocks, in the order of all arrays."""

    def __init__(self, maps: Sequence[Sequence[Block]], n_layers: int) -> None:
        self._maps, self._n_layers = list(maps), n_layers
        blocks = list(dict.fromkeys(block for blocks in maps for block in blocks))
        place = {block: k for k, block in enumerate(blocks)}
        starts, stops = np.array([b.window for b in blocks], dtype=np.float64).reshape(-1, 2).T
        middles, lengths = (starts + stops) / 2, stops - starts
        self._along = (middles[:, None] - middles) ** 2
        self._across = (lengths[:, None] - lengths) ** 2
        forms = list(dict.fromkeys(block.form for block in blocks))
        has_form = np.array([[b.form == form for b in blocks] for form in forms], dtype=np.float64)
        has_form = has_form.reshape(len(forms), len(blocks))
        self._alike = np.where(has_form.T @ has_form, 1.0, _OTHER_FORM)
        # The gain of a map is a sum over its blocks.
        self._sums = np.zeros((len(maps), len(blocks)))
        for n, of_map in enumerate(maps):
            for block in of_map:
                self._sums[n, place[block]] = 1
        more = self._sums.sum(axis=1) - 1
        means = [np.ones_like(starts), starts == 0, starts == 1, stops == n_layers, *has_form[1:]]
        of_maps = np.array([*(self._sums @ np.array(means).T).T, more])
        self._means = _VAGUE**2 * of_maps.T @ of_maps
        self._together = np.diag(more)
        self._is_plain = np.array_equal(self._sums, np.eye(len(maps)))

    def believe(self, seen: Ints, values: Floats, variances: Floats) -> Belief:
        """The belief about all maps after `values`, with error `variances`, of those `seen`.

        `seen` are positions of maps, and the other two belong to them; scores are fractions of
        1. Deterministic: equal arguments give equal results.
        """
        if not len(seen):
            return Belief(np.zeros(len(self._means)), self._prior(Shape()))
        values = _clipped(values)
        shape = self._fitted(seen, values, variances)
        prior = self._prior(shape)
        known = prior[np.ix_(seen, seen)] + np.diag(variances)
        gain = np.linalg.solve(known, prior[seen])
        return Belief(gain.T @ values, prior - prior[seen].T @ gain)

    def _part(self, seen: Ints) -> Landscape:
        return Landscape([self._maps[k] for k in seen], self._n_layers)

    def _prior(self, shape: Shape) -> Floats:
        shared = np.exp(-self._along / (2 * shape.along**2) - self._across / (2 * shape.across**2))
        alone = _OWN * np.eye(len(shared))
        gains = (1 - _OWN) * self._alike * shared + alone
        if not self._is_plain:
            gains = self._sums @ gains @ self._sums.T + _TOGETHER * self._together
        return np.asarray(self._means + shape.spread**2 * gains)

    def _fitted(self, seen: Ints, values: Floats, variances: Floats) -> Shape:
        """The shape under which the values are most likely, by steps on a grid."""
        known: dict[Shape, float] = {}
        part = self._part(seen)

        def likelihood(shape: Shape) -> float:
            if shape not in known:
                prior = part._prior(shape)  # noqa: SLF001 - one of its own class
                known[shape] = _log_likelihood(prior, values, variances) + _log_prior(shape)
            return known[shape]

        best = Shape()
        while (better := max((best, *_around(best)), key=likelihood)) != best:
            best = better
        return best


def _around(shape: Shape) -> Iterator[Shape]:
    for name, grid in (("spread", _SPREADS), ("along", _LENGTHS), ("across", _LENGTHS)):
        k = grid.index(getattr(shape, name))
        for step in (-1, 1):
            if 0 <= k + step < len(grid):
                yield replace(shape, **{name: grid[k + step]})


def _log_prior(shape: Shape) -> float:
    """A factor of e from the usual shape is one standard deviation."""
    names = ("spread", "along", "across")
    return -sum(math.log(getattr(shape, n) / getattr(Shape(), n)) ** 2 / 2 for n in names)


def _log_likelihood(prior: Floats, values: Floats, variances: Floats) -> float:
    root = np.linalg.cholesky(prior + np.diag(variances))
    white = np.linalg.solve(root, values)
    return float(-white @ white / 2 - np.log(np.diag(root)).sum())


def _clipped(values: Floats) -> Floats:
    middle = np.median(values)
    deviation = _OF_NORMAL * np.median(np.abs(values - middle))
    return np.asarray(np.maximum(values, middle - _FAR * deviation))

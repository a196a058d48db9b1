"""The gains of all maps as one landscape: what is known of a window tells of its neighbours.

The gains are a Gaussian process over where a window lies and how long it is (Rasmussen and Williams
2006, chapters 2 and 5). How far neighbours inform each other differs from model to model, so it is
fitted to the run's own answers, by their marginal likelihood. Windows of the first two layers and
of the last one have means of their own, because they hurt as no others do; and how far a bad window
is below the others does not matter in a search for the best one, so outliers are clipped.

Windows that are repeated in another form have a mean of their own, and tell less of the others. A
map of several blocks gains about what they gain alone, taken together: what is missing to that sum
is a mean of its own, and a deviation that no other map shares.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rys_gguf.layers.blocks import Block, Form
from rys_gguf.stats.clusters import Floats, Ints

# Standard deviations in score: of the mean of all windows, of which nothing is known beforehand,
# and of how far others are from it: those of the first two layers and of the last one, those in
# another form, and maps of several blocks from the sum.
_LEVEL, _ENDS, _FORMS, _TOGETHER = 1.0, 0.1, 0.1, 0.1
# The part of a window's variance that its neighbours do not share.
_OWN = 0.05
# The correlation of windows at one place that are repeated in different forms.
_OTHER_FORM = 0.5
# The variance that each further block adds, as a part of a window's. A sum of effects predicted the
# maps of RYS II with a correlation of 0.93, which leaves them about so much.
_EACH_MORE = 0.3
# Observations this many deviations below the median are clipped.
_FAR = 4.0
# From a median absolute deviation to the standard deviation of a normal distribution.
_OF_NORMAL = 1.4826
# How much of what is expected is believed beforehand, and the standard deviation of that.
_TRUST = 0.5
# Lets the root of a covariance be taken that rounding has made singular; a variance in score.
_JITTER = 1e-9
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
    """What is known of the gains of K maps: their `means` [K], and draws from all of it.

    `prior` and its `root` [K, K] are the covariance before any answer, `known` [S, S] is that of
    the values of the windows `seen`, `errors` [S] are theirs alone.
    """

    means: Floats
    prior: Floats
    root: Floats
    seen: Ints
    known: Floats
    errors: Floats

    def draws(self, n: int, rng: np.random.Generator) -> Floats:
        """`n` landscapes that fit what was seen: [n, K].

        A draw from before the answers is corrected as the means were (Matheron's rule; Wilson and
        others 2020, arXiv:2002.09309): no covariance of what is believed has to be made.
        """
        before = self.root @ rng.standard_normal((len(self.means), n))
        if not len(self.seen):
            return np.asarray((self.means[:, None] + before).T)
        noise = self.errors[:, None] * rng.standard_normal((len(self.seen), n))
        shift = np.linalg.solve(self.known, before[self.seen] + noise)
        return np.asarray((self.means[:, None] + before - self.prior[:, self.seen] @ shift).T)


class Landscape:
    """The windows (i, j) of a model with `n_layers`, in the order of all arrays.

    They are repeated in these `forms`, by default in one. With `sums` [K, S] the arrays are of K
    maps, each of which has those of the S windows that are 1 in its row. `expected` [K] are the
    gains that something else leads to expect. Half of them is what is believed before any answer,
    and the answers decide how much of them is true: none of them and all of them are a standard
    deviation away.
    """

    def __init__(
        self,
        windows: Sequence[tuple[float, float]],
        n_layers: int,
        expected: Floats | None = None,
        forms: Sequence[Form] = (),
        sums: Floats | None = None,
    ) -> None:
        starts, stops = np.array(windows, dtype=np.float64).reshape(-1, 2).T
        middles, lengths = (starts + stops) / 2, stops - starts
        ends = (starts == 0, starts == 1, stops == n_layers)
        kinds = list(dict.fromkeys(forms))
        kind = np.array([kinds.index(form) for form in forms], dtype=np.intp)
        alike = np.where(kind[:, None] == kind, 1.0, _OTHER_FORM)
        self._gains = _Gains(
            (middles[:, None] - middles) ** 2,
            (lengths[:, None] - lengths) ** 2,
            alike if len(kinds) > 1 else None,
            sums,
        )
        apart = np.array(
            [
                np.full(len(starts), _LEVEL),
                *(_ENDS * end for end in ends),
                *(_FORMS * (kind == other) for other in range(1, len(kinds))),
            ]
        )
        if sums is not None:
            apart = np.array([*(apart @ sums.T), _TOGETHER * (sums.sum(axis=1) - 1)])
        n = apart.shape[1]
        self._expected = _TRUST * (np.zeros(n) if expected is None else expected)
        self._means = apart.T @ apart + np.outer(self._expected, self._expected)
        self._priors: dict[Shape, tuple[Floats, Floats]] = {}

    @classmethod
    def of_maps(
        cls, maps: Sequence[Sequence[Block]], n_layers: int, expected: Floats | None = None
    ) -> Landscape:
        """That of maps, each given by its blocks."""
        blocks = list(dict.fromkeys(block for of_map in maps for block in of_map))
        place = {block: k for k, block in enumerate(blocks)}
        sums = np.zeros((len(maps), len(blocks)))
        for n, of_map in enumerate(maps):
            sums[n, [place[block] for block in of_map]] = 1
        is_plain = np.array_equal(sums, np.eye(len(maps)))
        windows, forms = [b.window for b in blocks], [b.form for b in blocks]
        return cls(windows, n_layers, expected, forms, None if is_plain else sums)

    def fitted(
        self, seen: Ints, values: Floats, variances: Floats, start: Shape | None = None
    ) -> Shape:
        """The shape under which the values are most likely, by steps on a grid from `start`."""
        start = start or Shape()
        if not len(seen):
            return start
        values = _clipped(values) - self._expected[seen]
        gains, means = self._gains.of(seen), self._means[np.ix_(seen, seen)]
        known: dict[Shape, float] = {}

        def likelihood(shape: Shape) -> float:
            if shape not in known:
                prior = means + gains.covariance(shape)
                known[shape] = _log_likelihood(prior, values, variances) + _log_prior(shape)
            return known[shape]

        best = start
        while (better := max((best, *_around(best)), key=likelihood)) != best:
            best = better
        return best

    def believe(self, seen: Ints, values: Floats, variances: Floats, shape: Shape) -> Belief:
        """The belief about all maps after `values`, with error `variances`, of those `seen`.

        `seen` are positions of maps, and the other two belong to them; scores are fractions of
        1. Deterministic: equal arguments give equal results.
        """
        prior, root = self._prior(shape)
        known = prior[np.ix_(seen, seen)] + np.diag(variances)
        means = self._expected
        if len(seen):
            surprise = _clipped(values) - means[seen]
            means = means + prior[:, seen] @ np.linalg.solve(known, surprise)
        return Belief(means, prior, root, seen, known, np.sqrt(variances))

    def _prior(self, shape: Shape) -> tuple[Floats, Floats]:
        """The covariance before any answer, and its root."""
        if shape not in self._priors:
            prior = self._means + self._gains.covariance(shape)
            root = np.linalg.cholesky(prior + _JITTER * np.eye(len(prior)))
            self._priors[shape] = prior, root
        return self._priors[shape]


@dataclass(frozen=True, slots=True)
class _Gains:
    """How gains vary together: of S windows, or with `sums` of K maps of them.

    `along`, `across` and `alike` are [S, S]: squares of distances, and what a difference in form
    leaves of a correlation, None if there is one form.
    """

    along: Floats
    across: Floats
    alike: Floats | None
    sums: Floats | None

    def of(self, seen: Ints) -> _Gains:
        """That of some of them."""
        sums, windows = self.sums, seen
        if sums is not None:
            windows = np.flatnonzero(sums[seen].any(axis=0))
            sums = sums[np.ix_(seen, windows)]
        pairs = np.ix_(windows, windows)
        alike = None if self.alike is None else self.alike[pairs]
        return _Gains(self.along[pairs], self.across[pairs], alike, sums)

    def covariance(self, shape: Shape) -> Floats:
        """The covariance for a shape, without that of the means."""
        near = np.exp(-self.along / (2 * shape.along**2) - self.across / (2 * shape.across**2))
        if self.alike is not None:
            near *= self.alike
        gains = (1 - _OWN) * near + _OWN * np.eye(len(near))
        if self.sums is not None:
            more = np.diag(_EACH_MORE * (self.sums.sum(axis=1) - 1))
            gains = self.sums @ gains @ self.sums.T + more
        return np.asarray(shape.spread**2 * gains)


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
    # With the values as one more row, the root of the whole has the whitened values as its last
    # row: one factorisation gives all. The corner only has to be large enough.
    n = len(values)
    whole = np.empty((n + 1, n + 1))
    whole[:n, :n] = prior + np.diag(variances)
    whole[n, :n] = whole[:n, n] = values
    whole[n, n] = 1 + values @ values / variances.min()
    root = np.linalg.cholesky(whole)
    white = root[n, :n]
    return float(-white @ white / 2 - np.log(np.diag(root)[:n]).sum())


def _clipped(values: Floats) -> Floats:
    middle = np.median(values)
    deviation = _OF_NORMAL * np.median(np.abs(values - middle))
    return np.asarray(np.maximum(values, middle - _FAR * deviation))

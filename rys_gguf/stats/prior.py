"""What somebody else's scan of a relative leads to expect of the windows of a model.

Places are relative to a model's depth: a window of the middle third is looked for in the middle
third. The scan is smoothed as a run's own answers are; how far its model is like this one is not
known beforehand, and a run finds it out (see `Landscape`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rys_gguf.runs.scan import PriorEffect
from rys_gguf.stats.clusters import Floats
from rys_gguf.stats.landscape import Landscape

# A stranger's file may hold more windows than can be smoothed in a moment: the surest count.
_MOST = 1000
# No effect is taken for surer or larger than this, in score.
_LEAST_ERROR, _LARGEST = 0.002, 1.0
# Places of two models that are this close, in layers, are the same but for rounding.
_DIGITS = 6


def expected_gains(
    effects: Sequence[PriorEffect], windows: Sequence[tuple[int, int]], n_layers: int
) -> Floats:
    """The gains of windows (i, j) that effects in another model lead to expect, less their mean.

    Fractions of a score: [K].
    """
    surest = sorted(effects, key=lambda e: e.error)[:_MOST]
    starts = np.array([e.start for e in surest])
    stops = starts + [e.length for e in surest]
    places = np.round(np.stack([starts, stops], axis=1) * n_layers, _DIGITS)
    landscape = Landscape([*windows, *map(tuple, places.tolist())], n_layers)
    seen = np.arange(len(windows), len(windows) + len(surest))
    values = np.clip([e.mean for e in surest], -_LARGEST, _LARGEST)
    variances = np.maximum([e.error for e in surest], _LEAST_ERROR) ** 2
    shape = landscape.fitted(seen, values, variances)
    means = landscape.believe(seen, values, variances, shape).means[: len(windows)]
    return np.asarray(means - means.mean())

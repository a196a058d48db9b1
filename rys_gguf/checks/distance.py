"""How far two models' logits are apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rys_gguf.engines.live.context import Logits


def logit_distance(a: Sequence[Logits], b: Sequence[Logits]) -> float:
    """The largest difference; 0 only if both are the same bit for bit."""
    if all(np.array_equal(x, y, equal_nan=True) for x, y in zip(a, b, strict=True)):
        return 0.0
    return max(float(np.abs(x - y).max()) for x, y in zip(a, b, strict=True))

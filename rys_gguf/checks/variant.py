"""A variant beside the model it was made from."""

from __future__ import annotations

import os
from dataclasses import dataclass

from rys_gguf.layers.layer_map import LayerMap


@dataclass(frozen=True, slots=True)
class VariantPair:
    """A variant, its source, and the layer map that leads from the source to the variant."""

    variant: str | os.PathLike[str]
    source: str | os.PathLike[str]
    layer_map: LayerMap

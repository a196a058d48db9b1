"""The two sides that a verification compares."""

from __future__ import annotations

from dataclasses import dataclass

from rys_gguf.formats.model import Model
from rys_gguf.formats.shards import Shards
from rys_gguf.layers.carry import ModelRules
from rys_gguf.layers.layer_map import LayerMap

# The key, tensor or layer that deviates, and what is wrong with it.
Fault = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A finished file, its source with its rules, and the map that should lead to the file.

    `steps` are the maps that were applied one after the other, the oldest first; together they are
    `layer_map`.
    """

    out: Shards
    source: Model
    layer_map: LayerMap
    rules: ModelRules
    steps: tuple[LayerMap, ...]

    @property
    def n_trunk(self) -> int:
        """How many trunk layers the file must have."""
        return len(self.layer_map)

    @property
    def n_blocks(self) -> int:
        """How many blocks the file must have, multi-token-prediction blocks included."""
        return self.n_trunk + self.source.n_mtp

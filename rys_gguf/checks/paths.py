"""Which outputs a proof leaves in together: paths through a variant that its source has as well."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rys_gguf.formats.model import Model
from rys_gguf.layers.carry import ModelRules, metadata_of
from rys_gguf.layers.layer_map import LayerMap

# Layers that read what earlier layers computed besides the residual, with those earlier layers.
Readers = Mapping[int, tuple[int, ...]]


def readers_of(model: Model, rules: ModelRules) -> Readers:
    """The readers of a model under the rules of an architecture."""
    meta = metadata_of(model)
    return {layer: lent for rule in rules.arch.rules for layer, lent in rule.readers(meta).items()}


@dataclass(frozen=True, slots=True)
class Lending:
    """The readers of a variant and of its source.

    A layer that lends its keys and values, say, computes them from the residual as it arrives
    there, even where the layer itself is ablated. So on a path with a reader, the layers in front
    of its lender must be the same ones on both sides.
    """

    variant: Readers = field(default_factory=dict)
    source: Readers = field(default_factory=dict)

    def allows(self, layer_map: LayerMap, reader: int, other: int) -> bool:
        """Whether output `other` may be left in beside `reader`."""
        lenders = zip(
            self.variant.get(reader, ()), self.source.get(layer_map[reader], ()), strict=False
        )
        return all((other < here) == (layer_map[other] < there) for here, there in lenders)


def covering_paths(layer_map: LayerMap, lending: Lending | None = None) -> list[tuple[int, ...]]:
    """Sequences of ascending outputs with strictly ascending sources that cover every output.

    There are as few as a greedy choice finds, each as long as possible so that few layers are
    ablated.

    covering_paths(blocks:1,3 on 4 layers) == [(0, 1, 2, 5), (0, 3, 4, 5)]
    """
    lending = lending or Lending()
    uncovered = set(range(len(layer_map)))
    paths = []
    while uncovered:
        path = _best_allowed_path(layer_map, uncovered, lending)
        paths.append(path)
        uncovered.difference_update(path)
    return paths


def _best_allowed_path(
    layer_map: LayerMap, uncovered: set[int], lending: Lending
) -> tuple[int, ...]:
    """The best path whose outputs may be left in together.

    Of two that may not, one is given up: one that another path covers, or else the reader.
    """
    outputs = list(range(len(layer_map)))
    while True:
        path = _best_path(layer_map.sources, outputs, uncovered)
        clash = _first_clash(path, lambda a, b: lending.allows(layer_map, a, b))
        if clash is None:
            return path
        reader, other = clash
        outputs.remove(reader if other in uncovered else other)


def _first_clash(path: Sequence[int], allows: Callable[[int, int], bool]) -> tuple[int, int] | None:
    pairs = ((reader, other) for reader in path for other in path)
    return next((pair for pair in pairs if not allows(*pair)), None)


def _best_path(
    sources: Sequence[int], outputs: Sequence[int], uncovered: set[int]
) -> tuple[int, ...]:
    """The path through some of the outputs that covers most new ones, and of these the longest."""
    n = len(sources)
    best: dict[int, tuple[int, int]] = {}  # (weight, predecessor) of the best path to each output
    for out in outputs:
        weight, before = 0, -1
        for prior, (reached, _) in best.items():
            if sources[prior] < sources[out] and reached > weight:
                weight, before = reached, prior
        best[out] = (weight + (n + 1 if out in uncovered else 1), before)
    last = max(outputs, key=lambda out: best[out][0])
    path = []
    while last >= 0:
        path.append(last)
        last = best[last][1]
    return tuple(reversed(path))

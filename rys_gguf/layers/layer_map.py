"""The layer map: the source layer of each output layer, from which everything else follows.

A map is built once, from a spec, and handed down: names, counts, per-layer metadata and the order
of the bytes all follow from it. There are two notations, both found in published recipes:

    blocks:8,12             layers 8..11 once more, right after layer 11 (half-open, as in RYS)
    blocks:2,4;6,8          several windows, all in source coordinates
    layers:0..11,8..23      the whole path, ends included

In both, `@0.5` behind a part damps it: these outputs add half of what their sources add to the
residual stream.

`notations` reads them, and answers other notations. The map tells where layers come from, not how
they run: the output runs 0, 1, 2, ... and never jumps back.
"""

from __future__ import annotations

import itertools
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rys_gguf.errors import InvalidLayerMap
from rys_gguf.formats.limits import MAX_LAYERS
from rys_gguf.layers import notations
from rys_gguf.layers.notations import span
from rys_gguf.text import printable

# What every label begins with.
LABEL = "rys_"
_LABEL_LENGTH = 48


@dataclass(frozen=True, slots=True)
class Stretch:
    """`n_layers` outputs from `out`, whose sources are consecutive from `source`.

    All of them are damped by `damp`.
    """

    out: int
    source: int
    n_layers: int
    damp: float = 1.0

    def __str__(self) -> str:
        damped = "" if self.damp == 1 else f", damped by {self.damp:g}"
        return (
            f"output {span(self.out, self.n_layers)} <- source {span(self.source, self.n_layers)}"
            f"{damped}"
        )


@dataclass(frozen=True, slots=True)
class LayerMap:
    """`sources[out]` is the source layer of output layer `out`; `n_source` layers exist.

    `damping[out]`, from 0 to 1, multiplies what output layer `out` adds to the residual stream; it
    is empty if all are 1. The map covers main (trunk) layers only; it leaves out a
    multi-token-prediction tail.
    Raises InvalidLayerMap for an empty map, a source or a factor out of range, or more than 512
    outputs or source layers.
    """

    n_source: int
    sources: tuple[int, ...]
    damping: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.damping) not in (0, len(self.sources)):
            raise InvalidLayerMap(
                f"{len(self.damping)} factors damp the {len(self.sources)} layers of the map"
            )
        # inspect makes a map of every window: what nearly all are is found without a loop.
        plain = self.damping.count(1) == len(self.damping)
        for out, factor in enumerate(() if plain else self.damping):
            if not 0 <= factor <= 1:
                raise InvalidLayerMap(f"output {out} is damped by {factor:g}, expected 0 to 1")
        # Equal maps are equal values: no factors if all are 1, and no zero with a sign.
        factors = () if plain else tuple(abs(float(factor)) for factor in self.damping)
        object.__setattr__(self, "damping", factors)
        if not self.sources:
            raise InvalidLayerMap("the layer map is empty: a model needs at least one layer")
        if len(self.sources) > MAX_LAYERS:
            raise InvalidLayerMap(
                f"the layer map has {len(self.sources)} layers; llama.cpp stops at {MAX_LAYERS}"
            )
        if self.n_source > MAX_LAYERS:
            raise InvalidLayerMap(
                f"the map is of {self.n_source} source layers; llama.cpp stops at {MAX_LAYERS}"
            )
        if min(self.sources) < 0 or max(self.sources) >= self.n_source:
            out = next(n for n, k in enumerate(self.sources) if not 0 <= k < self.n_source)
            raise InvalidLayerMap(
                f"output {out} <- source {self.sources[out]}: the model has layers "
                f"0..{self.n_source - 1}"
            )

    @classmethod
    def identity(cls, n_source: int) -> LayerMap:
        """Every layer once, in order."""
        return cls(n_source, tuple(range(n_source)))

    @classmethod
    def from_blocks(
        cls, windows: Iterable[tuple[int, int] | tuple[int, int, float]], n_source: int
    ) -> LayerMap:
        """Insert a copy of each half-open window (i, j) after the last output copy of layer j-1.

        A third number damps that copy.
        LayerMap.from_blocks([(2, 4)], 6).sources == (0, 1, 2, 3, 2, 3, 4, 5)
        """
        sources = list(range(n_source))
        damping = [1.0] * n_source
        for i, j, *damp in windows:
            if not 0 <= i < j <= n_source:
                raise InvalidLayerMap(
                    f"blocks:{i},{j}: need 0 <= i < j <= {n_source}, the model has layers "
                    f"0..{n_source - 1}"
                )
            after = len(sources) - sources[::-1].index(j - 1)
            sources[after:after] = range(i, j)
            damping[after:after] = (damp or [1.0]) * (j - i)
            if len(sources) > MAX_LAYERS:
                raise InvalidLayerMap(
                    f"blocks:{i},{j} makes {len(sources)} layers; llama.cpp stops at {MAX_LAYERS}"
                )
        return cls(n_source, tuple(sources), tuple(damping))

    @classmethod
    def parse(cls, spec: str, n_source: int) -> LayerMap:
        """The map that a spec describes on a model of `n_source` trunk layers.

        Raises InvalidLayerMap, pointing at the faulty part, if the spec does not parse, names
        layers that the model does not have, or describes the model as it is.
        """
        kind = spec.partition(":")[0].strip().lower() if ":" in spec else ""
        if kind == "blocks":
            result = cls.from_blocks(notations.windows(spec, n_source), n_source)
        elif kind == "layers":
            path = notations.path(spec, n_source)
            result = cls(n_source, tuple(s for s, _ in path), tuple(damp for _, damp in path))
        else:
            raise notations.unknown(spec, n_source)
        if result.is_identity:
            raise InvalidLayerMap(
                f"{printable(spec)}: this is the model as it is, there is nothing to change"
            )
        return result

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, out: int) -> int:
        return self.sources[out]

    @property
    def is_identity(self) -> bool:
        """Whether every output is the source layer of the same number, undamped."""
        return self.sources == tuple(range(self.n_source)) and not self.damping

    @property
    def undamped(self) -> LayerMap:
        """The same layers, each of which adds all that its source adds."""
        return LayerMap(self.n_source, self.sources)

    def damp(self, out: int) -> float:
        """What multiplies that which an output adds to the residual stream; 1 if nothing does."""
        return self.damping[out] if self.damping else 1.0

    def damped(self, factor: float) -> LayerMap:
        """The same with every output damped whose source another output before it has.

        LayerMap.parse("blocks:2,4", 6).damped(0.5) == LayerMap.parse("blocks:2,4@0.5", 6)
        Raises InvalidLayerMap if no layer is repeated, the map is damped, or the factor is not from
        0 to 1.
        """
        if self.damping:
            raise InvalidLayerMap(f"{self.spec} is damped already")
        if len(set(self.sources)) == len(self.sources):
            raise InvalidLayerMap(f"{self.spec} repeats no layer: there is no copy to damp")
        damping = (factor if s in self.sources[:out] else 1.0 for out, s in enumerate(self.sources))
        return LayerMap(self.n_source, self.sources, tuple(damping))

    @property
    def n_added(self) -> int:
        """How many more layers the output has than the source; negative if it has fewer."""
        return len(self.sources) - self.n_source

    def outputs_of(self, source: int) -> tuple[int, ...]:
        """Output layers that are copies of `source`, ascending.

        LayerMap.parse("blocks:2,4", 6).outputs_of(2) == (2, 4)
        """
        return tuple(out for out, s in enumerate(self.sources) if s == source)

    def stretches(self) -> tuple[Stretch, ...]:
        """The map as stretches of consecutive sources, in order; repeats start new stretches.

        str(LayerMap.parse("blocks:15,20", 64).stretches()[1]) == "output 20..24 <- source 15..19"
        """
        seen: Counter[int] = Counter()
        passes = []
        for source in self.sources:
            passes.append(seen[source])
            seen[source] += 1
        return self._split(lambda out: passes[out] == passes[out - 1])

    def _split(self, follows: Callable[[int], bool] | None = None) -> tuple[Stretch, ...]:
        """Stretches of consecutive sources that are damped alike, and follow one another."""
        damping = self.damping or (1.0,) * len(self.sources)
        pairs = zip(itertools.pairwise(self.sources), itertools.pairwise(damping), strict=True)
        ends = (
            out
            for out, ((before, source), (damp_before, damp)) in enumerate(pairs, 1)
            if source != before + 1
            or damp != damp_before
            or (follows is not None and not follows(out))
        )
        starts = [0, *ends]
        stops = [*starts[1:], len(self.sources)]
        return tuple(
            Stretch(a, self.sources[a], b - a, self.damp(a))
            for a, b in zip(starts, stops, strict=True)
        )

    def path(self) -> tuple[Stretch, ...]:
        """The fewest stretches of consecutive sources that are damped alike."""
        return self._split()

    def seams(self) -> tuple[tuple[int, int], ...]:
        """(output, source) on both sides of every place where one stretch ends and the next starts.

        For one window these are the four points to check by hand:
        LayerMap.parse("blocks:15,20", 64).seams() == ((19, 19), (20, 15), (24, 19), (25, 20))
        """
        points: list[tuple[int, int]] = []
        for stretch in self.stretches():
            if stretch.out:
                points.append((stretch.out - 1, self.sources[stretch.out - 1]))
                points.append((stretch.out, stretch.source))
        return tuple(dict.fromkeys(points))

    def windows(self) -> tuple[tuple[int, int], ...] | None:
        """The half-open windows that give this map when inserted; None if no windows do.

        They are worked out from the map, not kept from its spec, so that equal maps have equal
        windows however they were written. A damped map has none.
        """
        path = self.path()
        windows = tuple((b.source, a.source + a.n_layers) for a, b in itertools.pairwise(path))
        if path[0].source or any(i >= j for i, j in windows):
            return None
        try:
            rebuilt = LayerMap.from_blocks(windows, self.n_source)
        except InvalidLayerMap:
            return None
        return windows if rebuilt == self else None

    @property
    def spec(self) -> str:
        """The canonical spec: equal maps have equal specs, however they were written."""
        if windows := self.damped_windows():
            return "blocks:" + ";".join(f"{i},{j}{at(damp)}" for i, j, damp in windows)
        return "layers:" + ",".join(
            span(stretch.source, stretch.n_layers) + at(stretch.damp) for stretch in self.path()
        )

    def damped_windows(self) -> tuple[tuple[int, int, float], ...]:
        """The windows that give this map with copies that are damped alike, and by what.

        The factor is 1 where nothing is damped. Empty if no windows give this map.
        """
        factors = {factor for factor in self.damping if factor != 1} or {1.0}
        plain = self.undamped.windows()
        if not plain or len(factors) > 1:
            return ()
        (factor,) = factors
        windows = tuple((i, j, factor) for i, j in plain)
        return windows if LayerMap.from_blocks(windows, self.n_source) == self else ()

    @property
    def label(self) -> str:
        """The map's name in published file names, ends included: `rys_8-11` for blocks:8,12.

        A damped copy is named with its factor, as in `rys_8-11x0.5`. A map that no windows give is
        named by its path, or by its length and a checksum of its spec if the path is too long for a
        file name.
        """
        if windows := self.damped_windows():
            parts = [f"{i}-{j - 1}{at(damp, 'x')}" for i, j, damp in windows]
        else:
            parts = ["path"]
            for stretch in self.path():
                name = span(stretch.source, stretch.n_layers).replace("..", "-")
                parts.append(name + at(stretch.damp, "x"))
        label = "_".join(parts)
        if len(label) > _LABEL_LENGTH:
            label = f"{len(self)}L_{zlib.crc32(self.spec.encode()):08x}"
        return f"{LABEL}{label}"


def at(damp: float, sign: str = "@") -> str:
    """What damps a part of a spec, so that it reads back as the same number."""
    return "" if damp == 1 else f"{sign}{damp!r}".removesuffix(".0")


def join_blocks(values: Sequence[str]) -> str:
    """One spec from the values of a repeated `--blocks`, each with or without its prefix."""
    return "blocks:" + ";".join(v.strip().removeprefix("blocks:") for v in values)

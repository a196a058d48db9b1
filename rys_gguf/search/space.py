"""The windows that a sweep may try: candidates, each known by its layer map, and illegal ones."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rys_gguf.errors import InvalidLayerMap, Refused, RysError
from rys_gguf.files.text_file import read_text
from rys_gguf.formats.model import Model
from rys_gguf.layers.blocks import TWICE, Block, Form
from rys_gguf.layers.carry import ModelRules
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.layers.residual import damped_tensors
from rys_gguf.layers.schedule import Schedule
from rys_gguf.patch.plan import require_dampable
from rys_gguf.runs.candidate import Candidate
from rys_gguf.runs.records import IllegalWindow
from rys_gguf.text import printable

# The method's two passes: long windows far apart, then short ones where the long ones did best.
COARSE_SIZE, COARSE_STRIDE = 8, 4
FINE_SIZE = 4
_HOT = 2  # windows of the first pass that the second looks around
# More candidates than this are not listed one by one.
_FEW = 16
# As many numbers in a row are written as a range.
_RANGE = 3


@dataclass(frozen=True, slots=True)
class Selection:
    """Candidates, in the order in which they cost least to try, and the windows left out."""

    candidates: tuple[Candidate, ...]
    illegal: tuple[IllegalWindow, ...]

    def in_words(self) -> str:
        """The candidates: each of a few, or how many there are and of which lengths."""
        few = self.candidates[:_FEW]
        if len(few) == len(self.candidates):
            return ", ".join(c.spec for c in few)
        n, blocks = len(self.candidates), [c.blocks[0] for c in self.candidates if c.window]
        ends = f"{few[0].spec} to {self.candidates[-1].spec}"
        if len(blocks) < n:
            return f"{n} layer maps, {ends}"
        n_forms = len({block.form for block in blocks})
        windows = f"windows of {in_words(b.stop - b.start for b in blocks)} layers"
        return f"{n} {windows}" + (f" in {n_forms} forms" if n_forms > 1 else f", {ends}")


def in_words(lengths: Iterable[int]) -> str:
    """Numbers in ascending order, three and more in a row as a range.

    in_words([1, 2, 3, 7, 8]) == "1 to 3, 7 or 8"
    """
    ranges: list[list[int]] = []
    for n in sorted(set(lengths)):
        if ranges and n == ranges[-1][-1] + 1:
            ranges[-1].append(n)
        else:
            ranges.append([n])
    words: list[str] = []
    for r in ranges:
        words += [f"{r[0]} to {r[-1]}"] if len(r) >= _RANGE else map(str, r)
    return " or ".join([*([", ".join(words[:-1])] if words[1:] else []), *words[-1:]])


class Windows:
    """The windows of one model: which are legal, and why the others are not.

    Each is tried in all `forms`. Copies are damped by `damp`.
    """

    def __init__(
        self,
        model: Model,
        schedule: Schedule,
        damp: float = 1.0,
        forms: Sequence[Form] = (TWICE,),
    ) -> None:
        self.n_layers = model.n_trunk
        self.forms = tuple(forms)
        self._model = model
        self._rules = ModelRules.of(model)
        self._schedule = schedule
        self._damp = damp
        # Samplers work their choices out again after every batch.
        self._known: dict[LayerMap, str | None] = {}

    def rule_against(self, layer_map: LayerMap) -> str | None:
        """Why a map would not compute what it says, or None if it would."""
        if layer_map not in self._known:
            self._known[layer_map] = self._rule_against(layer_map)
        return self._known[layer_map]

    def _rule_against(self, layer_map: LayerMap) -> str | None:
        carried = self._rules.carry(layer_map, self._schedule)
        if carried.conflicts:
            return carried.conflicts[0].text
        try:
            require_dampable(self._model, self._rules, carried.target, layer_map)
        except Refused as e:
            return str(e)
        return None

    def parse(self, spec: str) -> LayerMap:
        """The map of a spec, damped as all windows are unless it says itself what damps it.

        Raises InvalidLayerMap.
        """
        layer_map = LayerMap.parse(spec, self.n_layers)
        if self._damp == 1 or layer_map.damping:
            return layer_map
        return layer_map.damped(self._damp)

    def choose(self, maps: Iterable[LayerMap]) -> Selection:
        """Sort maps into candidates and illegal ones; each map counts once."""
        candidates: dict[str, Candidate] = {}
        illegal: dict[str, IllegalWindow] = {}
        for layer_map in maps:
            candidate = Candidate(layer_map)
            if candidate.is_base:
                continue
            if (rule := self.rule_against(layer_map)) is None:
                candidates[candidate.key] = candidate
            else:
                illegal[candidate.key] = IllegalWindow(spec=candidate.spec, rule=rule)
        return Selection(tuple(candidates.values()), tuple(illegal.values()))

    def of_size(self, size: int, starts: Iterable[int]) -> Iterator[LayerMap]:
        """The windows of `size` layers that begin at `starts`, as far as the model has them.

        Raises InvalidLayerMap for a form that makes more layers than llama.cpp takes.
        """
        for i in starts:
            if 0 <= i <= self.n_layers - size:
                yield from (self.map_of([Block(i, i + size, form)]) for form in self.forms)

    def map_of(self, blocks: Iterable[Block]) -> LayerMap:
        """The map that repeats these blocks. Raises InvalidLayerMap as above."""
        parts = [(*window, self._damp) for block in sorted(blocks) for window in block.windows]
        return LayerMap.from_blocks(parts, self.n_layers)

    def legal_size(self, wanted: int) -> int:
        """The window length nearest to `wanted` of which some window is legal.

        Raises RysError if no window of the model is, Refused if no layer can be damped.
        """
        if self._damp != 1 and not self._rules.arch.dampers:
            damped_tensors(self._model, self._rules.arch, 0)
        for size in sorted(range(1, self.n_layers + 1), key=lambda n: (abs(n - wanted), -n)):
            if self._is_legal(size):
                return size
        raise RysError(
            f"no window of this model is legal under schedule {self._schedule.value}; "
            f"rys-gguf inspect shows the rule"
        )

    def legal_sizes(self, wanted: Sequence[int]) -> tuple[int, ...]:
        """Those window lengths of which some window is legal, or else the nearest to the longest.

        Raises as `legal_size` does.
        """
        legal = tuple(size for size in wanted if self._is_legal(size))
        return legal or (self.legal_size(max(wanted)),)

    def _is_legal(self, size: int) -> bool:
        return any(self.rule_against(m) is None for m in self.of_size(size, range(self.n_layers)))


def coarse(windows: Windows, size: int = COARSE_SIZE, stride: int = COARSE_STRIDE) -> Selection:
    """The first pass: windows of one size, far apart, and the last one the model has."""
    last = windows.n_layers - size
    return windows.choose(windows.of_size(size, [*range(0, last + 1, stride), last]))


def fine(
    windows: Windows,
    best: Sequence[tuple[int, int]],
    size: int = FINE_SIZE,
    margin: int = FINE_SIZE,
) -> Selection:
    """The second pass: every window of a smaller size in the hot zone.

    The zone reaches from `margin` layers before to `margin` layers after the best two windows.
    """
    starts: set[int] = set()
    for i, j in best[:_HOT]:
        starts.update(range(i - margin, j + margin - size + 1))
    return windows.choose(windows.of_size(size, sorted(starts)))


def most_fine(coarse_size: int, size: int = FINE_SIZE, margin: int = FINE_SIZE) -> int:
    """At most how many windows `fine` gives for the best windows of a first pass."""
    return _HOT * max(0, coarse_size + 2 * margin - size + 1)


def every(windows: Windows, sizes: Sequence[int], stride: int = 1) -> Selection:
    """The map: every window of the given sizes."""
    return windows.choose(
        layer_map
        for size in sorted(set(sizes))
        for layer_map in windows.of_size(size, range(0, windows.n_layers, stride))
    )


def listed(windows: Windows, path: str | os.PathLike[str]) -> Selection:
    """The maps of a file: a spec a line (`8,12`, `blocks:2,4;6,8`, `layers:0..9,4..29`).

    Empty lines and what follows # do not count. Raises RysError naming file and line.
    """
    maps = []
    for number, line in enumerate(read_text(path, "the windows").split("\n"), 1):
        spec = line.partition("#")[0].strip()
        if not spec:
            continue
        if ":" not in spec:
            spec = f"blocks:{spec}"
        try:
            maps.append(windows.parse(spec))
        except InvalidLayerMap as e:
            raise RysError(f"{printable(path)}, line {number}: {e}") from e
    if not maps:
        raise RysError(f"{printable(path)}: no windows; expected a line such as 8,12 for each")
    return windows.choose(maps)

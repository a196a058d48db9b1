"""Maps of a sweep as values: for each window i, j its difference to the base and what became of it.

The matrix has a row and a column more than the model has layers; (0, 0) is the base.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from rys_gguf.errors import InvalidLayerMap
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.report.sentences import points
from rys_gguf.runs.candidate import Candidate
from rys_gguf.runs.records import RunInfo
from rys_gguf.runs.stage import Status
from rys_gguf.runs.trial import Trial
from rys_gguf.stats.evidence import Evidence
from rys_gguf.stats.pairs import OVERALL
from rys_gguf.stats.verdict import Gain, SearchRanking
from rys_gguf.text import printable

CLEAR, NOISE, DROPPED, FAILED, ILLEGAL = "clear", "noise", "dropped", "failed", "illegal"
HATCHED = (DROPPED, FAILED, ILLEGAL)
# The value at this quantile of the sizes has the full colour: one wild window must not make all
# others pale.
_FULL_COLOUR = 0.98


@dataclass(frozen=True, slots=True)
class Cell:
    """One window: its difference to the base (None if not measured) and what to think of it.

    Of candidates that repeat it in several forms the best has the cell; `spec` is that one's, and
    `n_others` counts the rest.
    """

    window: tuple[int, int]
    value: float | None
    state: str
    candidate: str
    note: str
    spec: str
    n_others: int = 0


@dataclass(frozen=True, slots=True)
class Heatmap:
    """One measure over all windows of a model with `n_layers` layers.

    `signed` measures are differences around 0, shown in points; others are divergences from 0 up.
    `best` is the window to ring, `n_items` the number of items that the best-asked window had.
    `n_elsewhere` counts the candidates that are not exactly one window, and have no cell.
    """

    name: str
    title: str
    n_layers: int
    cells: tuple[Cell, ...]
    signed: bool
    best: tuple[int, int] | None = None
    n_items: int = 0
    n_elsewhere: int = 0

    def values(self) -> dict[tuple[int, int], float]:
        """The measured values, by window."""
        return {c.window: c.value for c in self.cells if c.value is not None}

    @property
    def limit(self) -> float:
        """The value of the full colour."""
        kept = [c.value for c in self.cells if c.state not in HATCHED and c.value is not None]
        sizes = sorted(abs(value) for value in kept or self.values().values())
        at = math.ceil(_FULL_COLOUR * len(sizes)) - 1
        return max(sizes[at], 1e-9) if sizes else 1.0

    def means(self, end: int) -> dict[int, float]:
        """The skyline: means over the windows that share an i (end 0) or a j (end 1)."""
        groups: dict[int, list[float]] = {}
        for window, value in self.values().items():
            groups.setdefault(window[end], []).append(value)
        return {at: fmean(values) for at, values in sorted(groups.items())}

    def shade(self, value: float) -> float:
        """A value as -1..1 of the colour scale."""
        return max(-1.0, min(1.0, value / self.limit))

    def show(self, value: float) -> str:
        """A value for people."""
        return points(value) if self.signed else f"{value:.3g}"

    def describe(self, cell: Cell) -> str:
        """The words for somebody who points at a cell."""
        text = f"{cell.spec}: {cell.state}" if cell.state in HATCHED else cell.spec
        if cell.value is not None:
            text += f" {self.show(cell.value)}"
            text += " (within the noise)" if cell.state == NOISE else ""
        if cell.n_others:
            text += f", best of {cell.n_others + 1} here"
        return printable(text + (f" - {cell.note}" if cell.note else ""), 400)

    @property
    def best_text(self) -> str:
        """The ringed candidate and its value, or nothing."""
        if self.best is None:
            return ""
        spec = next(cell.spec for cell in self.cells if cell.window == self.best)
        return f"best {printable(spec)} at {self.show(self.values()[self.best])}"

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader has to know of candidates that the map does not show."""
        several = any(cell.n_others for cell in self.cells)
        n = self.n_elsewhere
        verb = "has" if n == 1 else "have"
        return (
            *(["of a window in several forms the best is shown"] * several),
            *(
                [f"{n} map{'s' * (n > 1)} of several windows or another path {verb} no place here"]
                if n
                else []
            ),
        )


def maps(evidence: Evidence, ranking: SearchRanking) -> tuple[Heatmap, ...]:
    """Overall, each family if there are several, and the divergence where it was measured."""
    keys = (OVERALL, *ranking.families) if len(ranking.families) > 1 else (OVERALL,)
    drawn = []
    for key in keys:
        cells = [_cell(rank.trial, rank.gains.get(key)) for rank in ranking.ranks]
        # One family is all there is: the map of both is named for both.
        name = f"{key} ({ranking.families[0]})" if len(ranking.families) == 1 else key
        drawn.append(
            _heatmap(evidence, key, f"{name}: soft score over the base, points", cells, signed=True)
        )
    divergence = [
        _cell(trial, Gain(kl, 0.0, 0.0))
        for trial in evidence.windows
        if (kl := trial.measures.get("kl")) is not None
    ]
    if divergence:
        title = "divergence: from the base on a fixed text, nats"
        drawn.append(_heatmap(evidence, "damage", title, divergence, signed=False))
    asked = max((rank.n_items for rank in ranking.ranks), default=0)
    return tuple(replace(h, n_items=asked) if h.signed else h for h in drawn)


def _cell(trial: Trial, gain: Gain | None) -> Cell | None:
    """The cell of a trial, None for a candidate that is not exactly one block."""
    window, ending = trial.candidate.window, trial.ending
    if window is None:
        return None
    state = NOISE if gain and abs(gain.mean) <= gain.line else CLEAR
    if ending and ending.status is Status.FAILED:
        state = FAILED
    elif ending and trial.is_out:
        state = DROPPED
    note = (ending.reason or "") if ending else ""
    value = gain.mean if gain else None
    return Cell(window, value, state, trial.key, note, trial.candidate.spec)


def _heatmap(
    evidence: Evidence, name: str, title: str, measured: Iterable[Cell | None], *, signed: bool
) -> Heatmap:
    measured = list(measured)
    found = [cell for cell in measured if cell is not None]
    if name != OVERALL:
        # They come in the order of the ranking, which is that of the overall values among those
        # that were asked as much.
        sign = -1 if signed else 1
        found.sort(key=lambda cell: math.inf if cell.value is None else sign * cell.value)
    places: dict[tuple[int, int], list[Cell]] = {}
    for cell in found:
        places.setdefault(cell.window, []).append(cell)
    cells = [replace(_first_fit(of) or of[0], n_others=len(of) - 1) for of in places.values()]
    best = _first_fit(found) if signed else None
    cells += [cell for cell in _illegal(evidence.info) if cell.window not in places]
    return Heatmap(
        name,
        title,
        evidence.info.model.n_layers,
        tuple(cells),
        signed,
        best.window if best else None,
        n_elsewhere=len(measured) - len(found),
    )


def _first_fit(cells: Sequence[Cell]) -> Cell | None:
    return next((c for c in cells if c.value is not None and c.state not in HATCHED), None)


def _illegal(info: RunInfo) -> Iterator[Cell]:
    """The windows that the sweep did not try in any form, each once with a rule that forbids it."""
    found: dict[tuple[int, int], Cell] = {}
    for refused in info.illegal:
        try:
            layer_map = LayerMap.parse(refused.spec, info.model.n_layers)
        except InvalidLayerMap:
            continue
        if (window := Candidate(layer_map).window) is not None:
            cell = Cell(window, None, ILLEGAL, "", refused.rule, refused.spec)
            found.setdefault(window, cell)
    yield from found.values()

"""Maps of a sweep as values: for each window i, j its difference to the base and what became of it.

The matrix has a row and a column more than the model has layers; (0, 0) is the base.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from statistics import fmean

from rys_gguf.errors import InvalidLayerMap
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.report.sentences import points
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
    """One window: its difference to the base (None if not measured) and what to think of it."""

    window: tuple[int, int]
    value: float | None
    state: str
    candidate: str
    note: str

    @property
    def spec(self) -> str:
        """The window as a spec."""
        return "blocks:{},{}".format(*self.window)


@dataclass(frozen=True, slots=True)
class Heatmap:
    """One measure over all windows of a model with `n_layers` layers.

    `signed` measures are differences around 0, shown in points; others are divergences from 0 up.
    `best` is the window to ring, `n_items` the number of items that the best-asked window had.
    """

    name: str
    title: str
    n_layers: int
    cells: tuple[Cell, ...]
    signed: bool
    best: tuple[int, int] | None = None
    n_items: int = 0

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
        return printable(text + (f" - {cell.note}" if cell.note else ""), 400)

    @property
    def best_text(self) -> str:
        """The ringed window and its value, or nothing."""
        if self.best is None:
            return ""
        return f"best blocks:{self.best[0]},{self.best[1]} at {self.show(self.values()[self.best])}"


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
    """The cell of a trial, None for a candidate that is not exactly one window."""
    window, ending = trial.candidate.window, trial.ending
    if window is None:
        return None
    state = NOISE if gain and abs(gain.mean) <= gain.line else CLEAR
    if ending and ending.status is Status.FAILED:
        state = FAILED
    elif ending and trial.is_out:
        state = DROPPED
    note = (ending.reason or "") if ending else ""
    return Cell(window, gain.mean if gain else None, state, trial.key, note)


def _heatmap(
    evidence: Evidence, name: str, title: str, measured: Iterable[Cell | None], *, signed: bool
) -> Heatmap:
    # Of a window that was tried with several factors, the best has its place.
    first: dict[tuple[int, int], Cell] = {}
    for cell in filter(None, measured):
        first.setdefault(cell.window, cell)
    cells = list(first.values())
    fit = [cell for cell in cells if cell.value is not None and cell.state not in HATCHED]
    best = None
    if fit and signed:
        # Cells come in the order of the ranking, which is that of the overall values among those
        # that were asked as much.
        best = fit[0] if name == OVERALL else max(fit, key=lambda cell: cell.value or 0.0)
    cells += [Cell(w, None, ILLEGAL, "", rule) for w, rule in illegal_windows(evidence.info)]
    n = evidence.info.model.n_layers
    return Heatmap(name, title, n, tuple(cells), signed, best.window if best else None)


def illegal_windows(info: RunInfo) -> Iterator[tuple[tuple[int, int], str]]:
    """The single windows that the sweep did not try, with the rule that forbids each."""
    for refused in info.illegal:
        try:
            windows = LayerMap.parse(refused.spec, info.model.n_layers).undamped.windows() or ()
        except InvalidLayerMap:
            continue
        if len(windows) == 1:
            yield windows[0], refused.rule

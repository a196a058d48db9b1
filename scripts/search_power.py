"""Measure how often a search finds a window near the best, with the sweep's own samplers.

usage: python scripts/search_power.py [--runs 100] [--seed 0] [--noise 15,45] [--jobs 1]
           [--roughness 2,4,8] [--samplers halving thompson ...] [--finalists 3] [--picture FILE]

The true gains of all windows of 1 to 8 layers in a model of 64 are drawn as a Gaussian process: how
alike two windows are falls with the distance of their middles, over --roughness layers, and with
the difference of their lengths. An item's difference to the base has a spread of --noise points:
about 15 in soft scores, which searches rank by, and about 45 if only right or wrong counts. All
samplers are asked for about as many items. A hit is a search of whose --finalists one is within a
point of the best window that it may try; the regret is how far the best finalist is below that.
*Below all* is how far it is below the best window of 1 to 8 layers. Prints a markdown table; the
same seed gives the same, with any number of --jobs.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from statistics import fmean

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).parent.parent))

from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.runs.candidate import Candidate
from rys_gguf.runs.records import ItemAnswer, StageResult
from rys_gguf.runs.scan import PriorEffect
from rys_gguf.runs.stage import Stage, Status
from rys_gguf.runs.trial import Trial
from rys_gguf.search.job import Job, Step
from rys_gguf.search.samplers.base import Sampler
from rys_gguf.search.samplers.halving import Halving, OneSet
from rys_gguf.search.samplers.rounds import Rounds, round_ends, small_ends
from rys_gguf.search.samplers.thompson import Thompson
from rys_gguf.search.settings import MAP_SIZES, Settings
from rys_gguf.search.space import Selection
from scripts.drawing import COLOURS, axes, save

N_LAYERS = 64
# Of the suite of default size.
N_ITEMS = 312
# In points: the spread and the mean of gains, and what counts as near the best.
SPREAD, MEAN, NEAR = 6.0, -4.0, 1.0
# Windows with the same middle whose lengths differ by 4 layers have a correlation of 0.6.
ACROSS = 4 / math.sqrt(-2 * math.log(0.6))
BASE = Candidate.base(N_LAYERS)
TWO_SIZES = (4, 8)
# Those of two rounds, which cost as much as the default's three.
TWO_SHARES = (0.06, 0.25)
# The error of a scan's effects, in points.
SCANNED = 3.0
# What two rounds of all windows of two sizes cost.
N_ASKS = 4661


@lru_cache
def selection(sizes: Sequence[int]) -> Selection:
    """All windows of some sizes."""
    return Selection(
        tuple(
            Candidate(LayerMap.from_blocks([(i, i + size)], N_LAYERS))
            for size in sizes
            for i in range(N_LAYERS - size + 1)
        ),
        (),
    )


@lru_cache
def root(roughness: float) -> npt.NDArray[np.float64]:
    """A root of the covariance of gains, less their spread."""
    windows = np.array([c.windows[0] for c in selection(MAP_SIZES).candidates])
    middles, sizes = windows.mean(axis=1), np.diff(windows, axis=1)[:, 0]
    apart = ((middles[:, None] - middles) / roughness) ** 2
    apart += ((sizes[:, None] - sizes) / ACROSS) ** 2
    return np.linalg.cholesky(np.exp(-apart / 2) + 1e-8 * np.eye(len(sizes)))


@dataclass(frozen=True)
class World:
    """True gains of all candidates in points, by key; `noise` is the spread of a difference."""

    gains: dict[str, float]
    roughness: float
    noise: float
    rng: np.random.Generator

    @classmethod
    def drawn(cls, roughness: float, noise: float, rng: np.random.Generator) -> World:
        """Gains that differ over `roughness` layers."""
        keys = [c.key for c in selection(MAP_SIZES).candidates]
        gains = MEAN + SPREAD * root(roughness) @ rng.standard_normal(len(keys))
        return cls(dict(zip(keys, gains.tolist(), strict=True)), roughness, noise, rng)

    def best(self, candidates: Sequence[Candidate]) -> float:
        """The gain of the best of some windows."""
        return max(self.gains[c.key] for c in candidates)

    def ask(self, candidate: Candidate, step: Step) -> Iterator[ItemAnswer]:
        """The answers to a step's items."""
        scores = np.full(len(step.items), 0.5)
        if candidate != BASE:
            differences = self.noise * self.rng.standard_normal(len(scores))
            scores += (self.gains[candidate.key] + differences) / 100
        for item, score in zip(step.items, scores.tolist(), strict=True):
            yield ItemAnswer(
                candidate=candidate.key, stage=step.stage, item=str(item), family="math",
                score=score, soft_score=score,
            )  # fmt: skip


class Search:
    """A search of a world by a sampler; `n_asked` counts the items of windows."""

    def __init__(self, sampler: Sampler, rounds: Rounds, world: World) -> None:
        self._sampler = sampler
        self._world = world
        self._trials = {BASE.key: Trial(BASE)}
        self._do(Job(BASE, rounds.steps))
        self.n_asked = 0

    def finalists(self, n: int) -> list[Candidate]:
        """Run it to its end; its best, best first."""
        while batch := self._sampler.next(self._trials):
            for job in batch.jobs:
                self.n_asked += self._do(job)
        return list(self._sampler.ranked(self._trials))[:n]

    def _do(self, job: Job) -> int:
        candidate = job.candidate
        trial = self._trials.get(candidate.key) or Trial(candidate)
        results, answers = dict(trial.results), dict(trial.answers)
        for step in job.steps:
            results[step.stage] = _passed(candidate, step.stage)
            answers[step.stage] = {a.item: a for a in self._world.ask(candidate, step)}
        self._trials[candidate.key] = replace(trial, results=results, answers=answers)
        return sum(len(step.items) for step in job.steps)


def _passed(candidate: Candidate, stage: Stage) -> StageResult:
    return StageResult(
        candidate=candidate.key, spec=candidate.spec, windows=candidate.windows,
        is_base=candidate == BASE, stage=stage, status=Status.OK,
    )  # fmt: skip


# -- the samplers ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """The number of a search, from which its sampler draws, and how many finalists it has."""

    seed: int
    n_finalists: int


def _halving(shares: Sequence[float], _world: World, run: Run) -> tuple[Sampler, Rounds]:
    rounds = Rounds(round_ends(N_ITEMS, shares), n_finalists=run.n_finalists)
    return OneSet(selection(TWO_SIZES), Halving(BASE.key, rounds)), rounds


def _thompson(
    sizes: tuple[int, ...], share: float, alike: float | None, world: World, run: Run
) -> tuple[Sampler, Rounds]:
    rounds = Rounds(small_ends(N_ITEMS), n_finalists=run.n_finalists)
    prior = () if alike is None else tuple(_scan(world, alike, run.seed))
    n_asks = round(share * N_ASKS)
    halving = Halving(BASE.key, rounds)
    return Thompson(selection(sizes), halving, n_asks, run.seed, prior=prior), rounds


def _scan(world: World, alike: float, seed: int) -> Iterator[PriorEffect]:
    """A scan of windows of two sizes in a model whose gains have a correlation with the world's."""
    rng = np.random.default_rng((seed, 1))
    other = World.drawn(world.roughness, world.noise, rng)
    for candidate in selection(TWO_SIZES).candidates:
        (i, j), key = candidate.windows[0], candidate.key
        own = math.sqrt(1 - alike**2) * (other.gains[key] - MEAN)
        gain = MEAN + alike * (world.gains[key] - MEAN) + own + SCANNED * rng.standard_normal()
        place = i / N_LAYERS, (j - i) / N_LAYERS
        yield PriorEffect(*place, gain / 100, SCANNED / 100, N_ITEMS)


SAMPLERS: dict[str, Callable[[World, Run], tuple[Sampler, Rounds]]] = {
    "halving-2": partial(_halving, TWO_SHARES),
    "halving": partial(_halving, Settings().shares),
    "thompson-4,8": partial(_thompson, TWO_SIZES, 1.0, None),
    "more-4,8": partial(_thompson, TWO_SIZES, 1.6, None),
    "thompson": partial(_thompson, MAP_SIZES, 1.0, None),
    # With half of the items, alone and from the scan of a model that is like this one, or is not.
    "half": partial(_thompson, MAP_SIZES, 0.5, None),
    "half-like": partial(_thompson, MAP_SIZES, 0.5, 0.8),
    "half-unlike": partial(_thompson, MAP_SIZES, 0.5, 0.0),
    "half-opposite": partial(_thompson, MAP_SIZES, 0.5, -0.8),
}
MAIN = ("halving-2", "halving", "thompson-4,8", "thompson")


@dataclass(frozen=True)
class Cell:
    """A row of the table."""

    noise: float
    roughness: float
    sampler: str


@dataclass(frozen=True)
class Found:
    """What came of a search: how far its best finalist is below the best, in points."""

    regret: float
    below_all: float
    n_asked: int


def searched(cell: Cell, seed: int, n_finalists: int, run: int) -> Found:
    """A search of a world of its own."""
    # The same world for every sampler; what they are answered differs.
    world = World.drawn(cell.roughness, cell.noise, np.random.default_rng((seed, run)))
    sampler, rounds = SAMPLERS[cell.sampler](world, Run(run, n_finalists))
    search = Search(sampler, rounds, world)
    found = world.best(search.finalists(n_finalists))
    everything = selection(MAP_SIZES).candidates
    return Found(
        world.best(sampler.first.candidates) - found, world.best(everything) - found, search.n_asked
    )


def row(cell: Cell, found: Sequence[Found]) -> str:
    """A row of the table; the error is that of a share of so many runs."""
    hit = hits(found)
    error = math.sqrt(hit * (1 - hit) / len(found))
    parts = (
        f"{cell.noise:g} points", f"{cell.roughness:g} layers", cell.sampler,
        f"{hit:.0%} ± {error:.0%}", f"{fmean(f.regret for f in found):.2f}",
        f"{fmean(f.below_all for f in found):.2f}", f"{fmean(f.n_asked for f in found):,.0f}",
    )  # fmt: skip
    return f"| {' | '.join(parts)} |"


def hits(found: Sequence[Found]) -> float:
    """The share of searches that end near the best."""
    return fmean(f.regret <= NEAR for f in found)


def draw(shares: Mapping[Cell, float], path: Path) -> None:
    """A bar for each cell, those of a roughness side by side."""
    drawn = axes("roughness of the landscape", "searches that end near the best")
    samplers = list(dict.fromkeys(cell.sampler for cell in shares))
    places = list(dict.fromkeys(cell.roughness for cell in shares))
    width = 0.8 / len(samplers)
    for n, (sampler, colour) in enumerate(zip(samplers, COLOURS)):  # noqa: B905 - some are left
        heights = [h for cell, h in shares.items() if cell.sampler == sampler]
        at = [k + (n + 0.5) * width - 0.4 for k in range(len(places))]
        bars = drawn.bar(at, heights, 0.9 * width, label=sampler, color=colour)
        drawn.bar_label(bars, [f"{h:.0%}" for h in heights], fontsize=7)
    drawn.set_xticks(range(len(places)), [f"{r:g} layers" for r in places])
    drawn.figure.legend(loc="outside upper center", ncols=len(samplers), frameon=False)
    save(drawn, path)


def main() -> None:
    """Print a row for each cell as it is done."""
    numbers = lambda text: [float(part) for part in text.split(",")]  # noqa: E731
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--noise", type=numbers, default=[15.0, 45.0])
    parser.add_argument("--roughness", type=numbers, default=[2.0, 4.0, 8.0])
    parser.add_argument("--samplers", nargs="+", default=MAIN, choices=SAMPLERS)
    parser.add_argument("--finalists", type=int, default=Settings().n_finalists)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--picture", type=Path, help="an SVG of the hits with the last --noise")
    args = parser.parse_args()
    # Each process has a core of its own, and small matrices.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    print("| spread of an item | roughness | sampler | hits | regret | below all | items asked |")
    print("| ---: | ---: | --- | ---: | ---: | ---: | ---: |")
    table: dict[Cell, list[Found]] = {}
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn")) as pool:
        for noise in args.noise:
            for roughness in args.roughness:
                for sampler in args.samplers:
                    cell = Cell(noise, roughness, sampler)
                    runs = pool.map(
                        partial(searched, cell, args.seed, args.finalists), range(args.runs)
                    )
                    table[cell] = list(runs)
                    print(row(cell, table[cell]), flush=True)
    if args.picture:
        last = {c: hits(found) for c, found in table.items() if c.noise == args.noise[-1]}
        draw(last, args.picture)


if __name__ == "__main__":
    main()

"""Measure how often a search finds a window near the best, with the sweep's own samplers.

usage: python scripts/search_power.py [--runs 100] [--seed 0] [--noise 15,45]
           [--roughness 2,4,8] [--samplers halving,thompson]

The true gains of all windows of 4 and 8 layers in a model of 64 are drawn as a Gaussian process:
how alike two windows are falls with the distance of their middles, over --roughness layers. An
item's difference to the base has a spread of --noise points: about 15 in soft scores, which
searches rank by, and about 45 if only right or wrong counts. All samplers are asked for about as
many items. A hit is a search of whose three finalists one is within a point of the best window; the
regret is how far the best finalist is below it. Prints a markdown table; the same seed gives the
same.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean

import numpy as np
import numpy.typing as npt

from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.runs.candidate import Candidate
from rys_gguf.runs.records import ItemAnswer, StageResult
from rys_gguf.runs.stage import Stage, Status
from rys_gguf.runs.trial import Trial
from rys_gguf.search.job import Job, Step
from rys_gguf.search.samplers.base import Sampler
from rys_gguf.search.samplers.halving import Halving, OneSet
from rys_gguf.search.samplers.rounds import Rounds, round_ends, small_ends
from rys_gguf.search.samplers.thompson import Thompson
from rys_gguf.search.settings import Settings
from rys_gguf.search.space import Selection

N_LAYERS, SIZES = 64, (4, 8)
# Of the suite of default size.
N_ITEMS = 312
N_FINALISTS = 3
# In points: the spread and the mean of gains, and what counts as near the best.
SPREAD, MEAN, NEAR = 6.0, -4.0, 1.0
# The correlation of windows of 4 and of 8 layers with the same middle.
ACROSS = 0.6
BASE = Candidate.base(N_LAYERS)
CANDIDATES = tuple(
    Candidate(LayerMap.from_blocks([(i, i + size)], N_LAYERS))
    for size in SIZES
    for i in range(N_LAYERS - size + 1)
)
SELECTION = Selection(CANDIDATES, ())
SHARES = Settings().shares
# Cost as much as the default's two rounds.
THREE_SHARES = (0.05, 0.1, 0.3)


@dataclass(frozen=True)
class World:
    """True gains of all candidates in points, by key, and the spread of an item's difference."""

    gains: dict[str, float]
    noise: float
    rng: np.random.Generator

    @classmethod
    def drawn(cls, roughness: float, noise: float, rng: np.random.Generator) -> World:
        """Gains that differ over `roughness` layers."""
        windows = np.array([c.windows[0] for c in CANDIDATES])
        middles, sizes = windows.mean(axis=1), np.diff(windows, axis=1)[:, 0]
        alike = np.exp(-(((middles[:, None] - middles) / roughness) ** 2) / 2)
        alike *= np.where(sizes[:, None] == sizes, 1.0, ACROSS)
        root = np.linalg.cholesky(alike + 1e-9 * np.eye(len(sizes)))
        gains: npt.NDArray[np.float64] = MEAN + SPREAD * root @ rng.standard_normal(len(sizes))
        keys = [c.key for c in CANDIDATES]
        return cls(dict(zip(keys, gains.tolist(), strict=True)), noise, rng)

    @property
    def best(self) -> float:
        """The gain of the best window."""
        return max(self.gains.values())

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
        self.n_asked = 0
        self._do(Job(BASE, rounds.steps))

    def finalists(self) -> list[Candidate]:
        """Run it to its end; its best, best first."""
        self.n_asked = 0
        while batch := self._sampler.next(self._trials):
            for job in batch.jobs:
                self._do(job)
        return list(self._sampler.ranked(self._trials))[:N_FINALISTS]

    def _do(self, job: Job) -> None:
        candidate = job.candidate
        trial = self._trials.get(candidate.key) or Trial(candidate)
        results, answers = dict(trial.results), dict(trial.answers)
        for step in job.steps:
            given = {a.item: a for a in self._world.ask(candidate, step)}
            results[step.stage] = _passed(candidate, step.stage)
            answers[step.stage] = given
            self.n_asked += len(given)
        self._trials[candidate.key] = replace(trial, results=results, answers=answers)


def _passed(candidate: Candidate, stage: Stage) -> StageResult:
    return StageResult(
        candidate=candidate.key, spec=candidate.spec, windows=candidate.windows,
        is_base=candidate == BASE, stage=stage, status=Status.OK,
    )  # fmt: skip


# -- the samplers ---------------------------------------------------------------------------------


def _halving(shares: Sequence[float], _seed: int) -> tuple[Sampler, Rounds]:
    rounds = Rounds(round_ends(N_ITEMS, shares), n_finalists=N_FINALISTS)
    return OneSet(SELECTION, Halving(BASE.key, rounds)), rounds


def _thompson(seed: int) -> tuple[Sampler, Rounds]:
    n_asks = Rounds(round_ends(N_ITEMS, SHARES)).n_asks(len(CANDIDATES))
    rounds = Rounds(small_ends(N_ITEMS), n_finalists=N_FINALISTS)
    return Thompson(SELECTION, Halving(BASE.key, rounds), n_asks, seed), rounds


SAMPLERS: dict[str, Callable[[int], tuple[Sampler, Rounds]]] = {
    "halving": partial(_halving, SHARES),
    "halving-3": partial(_halving, THREE_SHARES),
    "thompson": _thompson,
}


@dataclass
class Found:
    """What came of the searches of a cell: regrets in points, and items asked."""

    regrets: list[float]
    asks: list[int]

    def line(self, *cell: str) -> str:
        """A row of the table; the error is that of a share of so many runs."""
        hit = fmean(regret <= NEAR for regret in self.regrets)
        error = math.sqrt(hit * (1 - hit) / len(self.regrets))
        shown = (
            f"{hit:.0%} +- {error:.0%}",
            f"{fmean(self.regrets):.2f}",
            f"{fmean(self.asks):,.0f}",
        )
        return f"| {' | '.join((*cell, *shown))} |"


def searched(sampler: str, roughness: float, noise: float, seed: int, n_runs: int) -> Found:
    """So many searches, each of a world of its own."""
    found = Found([], [])
    for run in range(n_runs):
        # The same world for every sampler; what they are answered differs.
        world = World.drawn(roughness, noise, np.random.default_rng((seed, run)))
        made, rounds = SAMPLERS[sampler](run)
        search = Search(made, rounds, world)
        best = max(world.gains[c.key] for c in search.finalists())
        found.regrets.append(world.best - best)
        found.asks.append(search.n_asked)
    return found


def main() -> None:
    """Print a row for each cell as it is done."""
    numbers = lambda text: [float(part) for part in text.split(",")]  # noqa: E731
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--noise", type=numbers, default=[15.0, 45.0])
    parser.add_argument("--roughness", type=numbers, default=[2.0, 4.0, 8.0])
    parser.add_argument("--samplers", default=",".join(SAMPLERS))
    args = parser.parse_args()
    print("| spread of an item | roughness | sampler | hits | regret | items asked |")
    print("| ---: | ---: | --- | ---: | ---: | ---: |")
    for noise in args.noise:
        for roughness in args.roughness:
            for sampler in args.samplers.split(","):
                found = searched(sampler, roughness, noise, args.seed, args.runs)
                cell = f"{noise:g} points", f"{roughness:g} layers", sampler
                print(found.line(*cell), flush=True)


if __name__ == "__main__":
    main()

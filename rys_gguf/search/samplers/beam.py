"""A beam: the best single windows together in one map, two at first, then more.

Another sampler tries the single windows. The gains of blocks add up, roughly, so the windows that
gain are combined, and the maps that are believed to gain most are asked. That belief is the one of
stats/landscape.py, whichever way the single windows were chosen. RYS searches blocks by beam too
(dnhkng, RYS II).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rys_gguf.errors import InvalidLayerMap, InvalidOptions
from rys_gguf.runs.candidate import Candidate
from rys_gguf.runs.trial import Trial, Trials
from rys_gguf.search.job import Batch, Job, batch_left
from rys_gguf.search.samplers.base import Sampler
from rys_gguf.search.samplers.halving import Halving
from rys_gguf.search.space import Selection, Windows
from rys_gguf.stats.ranking import believed_gains
from rys_gguf.text import printable


@dataclass(frozen=True, slots=True)
class Beam:
    """A sampler that combines what `single` tried into maps of up to `max_blocks` blocks.

    At most `width` maps of each number of blocks are asked. After each of `stops`, which count
    rounds, the better part of them goes on. Raises InvalidOptions if `single` tries anything but
    single windows.
    """

    single: Sampler
    windows: Windows
    halving: Halving
    max_blocks: int
    width: int
    stops: tuple[int, ...]

    def __post_init__(self) -> None:
        for candidate in self.first.candidates:
            if self.windows.map_of(candidate.blocks[:1]) != candidate.layer_map:
                raise InvalidOptions(
                    f"--max-blocks combines single windows, and {printable(candidate.spec)} is "
                    f"none that is damped as all are: list the combinations as well, and leave "
                    f"--max-blocks out"
                )

    @property
    def first(self) -> Selection:
        """The single windows it starts with."""
        return self.single.first

    @property
    def n_most(self) -> int:
        """At most how many candidates it tries, single ones and combined ones."""
        return self.single.n_most + self.n_combined

    @property
    def n_combined(self) -> int:
        """At most how many combined maps it tries."""
        return (self.max_blocks - 1) * self.width

    @property
    def n_asks(self) -> int:
        """At most how many items they are asked."""
        return (self.max_blocks - 1) * self.halving.rounds.at(self.stops).n_asks(self.width)

    @property
    def notes(self) -> Sequence[str]:
        """Those about single windows."""
        return self.single.notes

    def describe(self) -> Iterator[str]:
        """The single windows, and how they are combined."""
        yield from self.single.describe()
        numbers = " and ".join(str(n) for n in range(2, self.max_blocks + 1))
        yield (
            f"combined: windows that gain and do not overlap, at most {self.width} maps of each of "
            f"{numbers} blocks; up to {self.n_asks:,} more items"
        )

    def next(self, trials: Trials) -> Batch | None:
        """All that the single windows are asked, then maps of ever more blocks."""
        if batch := self.single.next(_of_blocks(trials, 1)):
            return batch
        for n in range(2, self.max_blocks + 1):
            combined = self._combined(n, _of_blocks(trials, n - 1))
            if not combined:
                return None
            if batch := self._ask(n, combined, _of_blocks(trials, n)):
                return batch
        return None

    def ranked(self, trials: Trials) -> Sequence[Candidate]:
        """Single and combined ones, by the ranking of the single ones' sampler."""
        return self.single.ranked(trials)

    def _combined(self, n: int, trials: Trials) -> list[Candidate]:
        """The maps of `n` blocks that are believed to gain most, and more than their parts."""
        base = trials[self.halving.base]
        gains = believed_gains(base, trials.values())
        standing = sorted(
            (t.candidate for t in trials.values() if t.candidate.blocks and _stands(t)),
            key=lambda c: _order(c, gains[c.key]),
        )
        singles = self._apart(c for c in standing if len(c.blocks) == 1)
        longest = [c for c in standing if len(c.blocks) == n - 1][: self.width]
        to_beat: dict[Candidate, float] = {}
        for before, single in itertools.product(longest if n > 2 else singles, singles):  # noqa: PLR2004 - a pair is of singles
            if (candidate := self._joined(before, single)) is not None:
                of_parts = max(gains[before.key], gains[single.key])
                to_beat[candidate] = max(of_parts, to_beat.get(candidate, -math.inf))
        expected = believed_gains(base, [*trials.values(), *map(Trial, to_beat)])
        found = [c for c in to_beat if expected[c.key] > to_beat[c]]
        found.sort(key=lambda c: _order(c, expected[c.key]))
        legal = (c for c in found if self.windows.rule_against(c.layer_map) is None)
        return list(itertools.islice(legal, self.width))

    def _apart(self, best: Iterable[Candidate]) -> list[Candidate]:
        """The best windows of which none overlaps a better one."""
        chosen: list[Candidate] = []
        for candidate in best:
            (block,) = candidate.blocks
            if not any(block.overlaps(c.blocks[0]) for c in chosen):
                chosen.append(candidate)
            if len(chosen) == self.width:
                break
        return chosen

    def _joined(self, before: Candidate, single: Candidate) -> Candidate | None:
        """The map with the blocks of both; None if there is none with so many blocks."""
        blocks = (*before.blocks, *single.blocks)
        if any(block.overlaps(single.blocks[0]) for block in before.blocks):
            return None
        try:
            candidate = Candidate(self.windows.map_of(blocks))
        except InvalidLayerMap:  # more layers than llama.cpp takes
            return None
        # Layer by layer, neighbours are a single window that is longer.
        return candidate if len(candidate.blocks) == len(blocks) else None

    def _ask(self, n: int, combined: list[Candidate], trials: Trials) -> Batch | None:
        """The rounds of maps of `n` blocks, for ever fewer of them; None once all are over."""
        label, rounds = f"{n} blocks", self.halving.rounds
        if batch := self.halving.enter(combined, label, trials):
            return batch
        standing = self.halving.standing(combined, trials)
        done = 1
        for number, stop in enumerate(self.stops, 1):
            if number > 1:
                standing = self._better(standing, n, done, trials)[: rounds.n_kept(len(standing))]
            jobs = [Job(c, rounds.steps[done:stop]) for c in standing if stop > done]
            if batch := batch_left(f"{label}, part {number}", jobs, trials):
                return batch
            done = stop
            standing = [c for c in standing if trials[c.key].is_ok(rounds.step(done).stage)]
        return None

    def _better(
        self, standing: list[Candidate], n: int, done: int, trials: Trials
    ) -> list[Candidate]:
        """Maps of `n` blocks by what is believed of them after `done` rounds, best first."""
        base = trials[self.halving.base]
        known = (_until(t, done) if len(t.candidate.blocks) == n else t for t in trials.values())
        gains = believed_gains(base, known)
        return sorted(standing, key=lambda c: _order(c, gains[c.key]))


def _order(candidate: Candidate, gain: float) -> tuple[float, int, str]:
    return -gain, candidate.n_added, candidate.key


def _of_blocks(trials: Trials, most: int) -> dict[str, Trial]:
    """The base, and candidates of 1 to `most` blocks."""
    return {
        key: trial
        for key, trial in trials.items()
        if trial.candidate.is_base or 1 <= len(trial.candidate.blocks) <= most
    }


def _stands(trial: Trial) -> bool:
    """Whether it was asked some items, and got through all that it was asked."""
    rounds = [result for stage, result in trial.results.items() if stage.is_round]
    return bool(rounds) and all(result.is_ok for result in rounds)


def _until(trial: Trial, number: int) -> Trial:
    """What was known after that round."""
    results = {s: r for s, r in trial.results.items() if not s.is_round or s.number <= number}
    return Trial(trial.candidate, results, trial.answers)

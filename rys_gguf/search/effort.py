"""What a sweep asks at most, and how long that takes."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from rys_gguf.patch.tail import tail_of
from rys_gguf.runs.candidate import Candidate
from rys_gguf.runs.records import THOMPSON
from rys_gguf.search.job import HELDOUT, SEARCH
from rys_gguf.search.pace import Pace
from rys_gguf.search.samplers.base import Sampler
from rys_gguf.search.samplers.find import asks_of, rounds_of, single, stops_of
from rys_gguf.search.settings import SweepRequest

# Replies that take as long as measuring a speed: as many tokens are written one after another.
_SPEED_REPLIES = 2


@dataclass(frozen=True, slots=True)
class Seconds:
    """How long the parts of a sweep take: the base alone, the search, the finalists."""

    base: float
    search: float
    final: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.base + self.search + self.final


@dataclass(frozen=True, slots=True)
class Effort:
    """What a sweep asks if no window is dropped and every finalist is asked all.

    The base answers `n_search` and `n_heldout` items; `n_windows` single windows answer `n_asks`
    together, `n_combined` combinations `n_asks_combined`, in `n_jobs` jobs in all, and
    `n_finalists` all held-out items, and `n_placebos` as well. A window takes `whole` times the
    layers of the base, `tail` times where windows share what they have in common with it, and a
    combination at most `largest`. Before all that the base may be asked `n_leveling` items to find
    the levels.
    """

    n_windows: int
    n_asks: int
    n_combined: int
    n_asks_combined: int
    n_jobs: int
    n_search: int
    n_heldout: int
    n_finalists: int
    whole: float
    tail: float
    largest: float
    n_placebos: int = 0
    n_leveling: int = 0

    @classmethod
    def of(cls, request: SweepRequest, sampler: Sampler) -> Effort:
        """That of a sweep. Raises InvalidOptions for a budget that is too small."""
        plan, n_windows = request.plan, single(sampler).n_most
        rounds = rounds_of(request, n_windows)
        candidates = sampler.first.candidates
        n_layers = candidates[0].layer_map.n_source
        n_asks = min(asks_of(request, n_windows, n_layers), n_windows * rounds.ends[-1])
        n_jobs = sum(rounds.n_standing(n_windows))
        if plan.sampler == THOMPSON:
            n_jobs = -(-n_asks // rounds.ends[0])
        combined, n_sets = rounds.at(stops_of(request, rounds)), plan.max_blocks - 1
        whole = fmean(1 + c.n_added / n_layers for c in candidates)
        # Few windows of a small batch begin at one layer, so what comes before it is not shared.
        is_shared = plan.sampler != THOMPSON
        return cls(
            n_windows=min(n_windows, n_jobs),
            n_asks=n_asks,
            n_combined=n_sets * plan.beam,
            n_asks_combined=n_sets * combined.n_asks(plan.beam),
            n_jobs=n_jobs + n_sets * sum(combined.n_standing(plan.beam)),
            n_search=rounds.ends[-1],
            n_heldout=len(request.suites[1].items),
            n_finalists=min(rounds.n_finalists, sampler.n_most),
            whole=whole,
            tail=fmean(_tail(c) / n_layers for c in candidates) if is_shared else whole,
            largest=1 + plan.max_blocks * (whole - 1),
            n_placebos=int(request.settings.thinking > 0),
            n_leveling=request.n_leveling,
        )

    def seconds(self, pace: Pace, n_engines: int = 1) -> Seconds:
        """How long it takes at a pace, with `n_engines` of that pace side by side."""
        searched = self.tail if pace.as_tails else self.whole
        item, heldout = pace.item[SEARCH], pace.item[HELDOUT] * self.n_heldout
        words = pace.words * self.n_heldout
        base = pace.load + item * (self.n_leveling + self.n_search) + heldout + words
        base += _SPEED_REPLIES * pace.replies
        search = (
            searched * (self.n_windows * pace.texts + self.n_asks * item)
            + self.largest * (self.n_combined * pace.texts + self.n_asks_combined * item)
            # Tails begin with what the base computes, once for all windows.
            + pace.as_tails * (item * self.n_search + pace.texts)
            + self.n_jobs * pace.load
        )
        # A speed is measured in turns with the base, two of each, and each turn loads.
        placebo = self.largest * (pace.replies + heldout) + pace.load
        final = placebo + self.largest * words
        speed = (1 + self.largest) * _SPEED_REPLIES * pace.replies + 4 * pace.load
        return Seconds(
            base,
            search / n_engines,
            self.n_finalists * (final / min(n_engines, self.n_finalists) + speed)
            + self.n_placebos * placebo,
        )


def _tail(candidate: Candidate) -> int:
    """The layers that a window takes after it has left the base; all where it never was there."""
    split = tail_of(candidate.layer_map)
    return len(candidate.layer_map if split is None else split[1])

"""The content of a report, computed once for page, tables, JSON and terminal."""

from __future__ import annotations

from dataclasses import dataclass

from rys_gguf.report.heatmap import Heatmap, maps
from rys_gguf.runs.records import Progress
from rys_gguf.runs.storage import read_progress
from rys_gguf.stats.evidence import Evidence, RunData
from rys_gguf.stats.verdict import SearchRanking, Verdict, pareto, search_ranking, verdicts

# Gain over the base, a fraction of 1, and layers added.
Point = tuple[float, int]


@dataclass(frozen=True, slots=True)
class Content:
    """The run, its one ranking, the finalists' verdicts, and the maps; no words, no colours.

    `unfinished` is how far the sweep has come, None if it is over or its run does not say.
    `is_cut`: it is over, and its search ran out of time before its last questions.
    """

    evidence: Evidence
    ranking: SearchRanking
    verdicts: tuple[Verdict, ...]
    maps: tuple[Heatmap, ...]
    unfinished: Progress | None = None
    is_cut: bool = False

    @classmethod
    def of(cls, run: RunData, *, is_running: bool = False) -> Content:
        """Compute everything. Raises RysError if the run has no base yet.

        While the sweep is running there are no verdicts: they come when it ends or is stopped.
        """
        evidence = Evidence(run)
        ranking = search_ranking(evidence)
        judged = () if is_running else verdicts(evidence)
        progress = None if is_running else read_progress(run.folder)
        is_over = progress is None or progress.is_over
        return cls(
            evidence, ranking, judged, maps(evidence, ranking),
            unfinished=None if is_over else progress,
            is_cut=progress is not None and is_over and progress.is_cut,
        )  # fmt: skip

    @property
    def searched(self) -> dict[str, Point]:
        """Windows by spec: their soft score over the base in the search, and their cost."""
        return {
            rank.trial.candidate.spec: (rank.overall.mean, rank.trial.candidate.n_added)
            for rank in self.ranking.ranks
            if rank.overall
        }

    @property
    def held_out(self) -> dict[str, Point]:
        """Finalists by spec: their score over the base on held-out items, and their cost."""
        return {
            v.trial.candidate.spec: (
                v.judgement.overall.difference,
                v.trial.candidate.n_added,
            )
            for v in self.verdicts
        }

    @property
    def front(self) -> tuple[str, ...]:
        """The specs on the Pareto front: of the finalists, or of the search if there are none."""
        return pareto(self.held_out or self.searched)

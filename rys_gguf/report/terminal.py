"""The report in lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rys_gguf.report.content import Content
from rys_gguf.report.sentences import (
    CUT,
    SEARCH_ONLY,
    next_step,
    noise_sentence,
    points,
    unfinished_sentence,
    verdict_sentence,
)
from rys_gguf.report.text_map import text_map
from rys_gguf.stats.evidence import RunData
from rys_gguf.stats.pairs import OVERALL
from rys_gguf.stats.verdict import Rank
from rys_gguf.text import printable

_SHOWN_RANKS = 10


def text_report(run: RunData, *, ascii_only: bool = False, color: bool = False) -> Iterator[str]:
    """Verdicts, the best of the search, and the overall map, in lines ready to print.

    Whatever comes from a file is escaped. With `color` the map has codes for colours (SGR), the
    only control sequences in any line: printing must not escape them again. Raises RysError for
    a run without a base.
    """
    yield from report_lines(Content.of(run), ascii_only=ascii_only, color=color)


def report_lines(
    content: Content, *, ascii_only: bool = False, color: bool = False
) -> Iterator[str]:
    """The lines of `text_report` for a report that is computed already."""
    info = content.evidence.info
    yield f"{printable(info.model.name)}  run {printable(info.run_id)}"
    if content.unfinished:
        yield unfinished_sentence(content.unfinished, content.verdicts)
    elif not content.verdicts:
        yield SEARCH_ONLY
    if content.is_cut:
        yield CUT
    yield from map(verdict_sentence, content.verdicts)
    if content.verdicts:
        front = ", ".join(map(printable, content.front)) or "the base alone"
        yield f"Pareto front of gain against layers: {front}"
    if content.verdicts or content.unfinished:
        step = next_step(content.verdicts, info, is_unfinished=content.unfinished is not None)
        yield f"Next step: {step.text}"
        yield from (f"  {command}" for command in step.commands)
    if any(rank.overall for rank in content.ranking.ranks):
        yield ""
        yield noise_sentence(content.ranking.noise[OVERALL])
        yield from _rank_lines(content)
    for heatmap in content.maps[:1]:
        if heatmap.values():
            yield ""
            yield from text_map(heatmap, ascii_only=ascii_only, color=color)


def _rank_lines(content: Content) -> Iterator[str]:
    ranks = content.ranking.ranks
    width = max(len(printable(rank.trial.candidate.spec)) for rank in ranks[:_SHOWN_RANKS])
    for rank in ranks[:_SHOWN_RANKS]:
        yield f"  {printable(rank.trial.candidate.spec):{width}}  {_result(rank)}"
    if hidden := len(ranks[_SHOWN_RANKS:]):
        yield f"  and {hidden} more windows"


def _result(rank: Rank) -> str:
    gain, trial = rank.overall, rank.trial
    ending = trial.ending if trial.is_out else None
    if ending:
        reason = f": {printable(ending.reason)}" if ending.reason else ""
        fate = f"{ending.status.value} at {ending.stage}{reason}"
    else:
        fate = f"reached {trial.reached}"
    if gain is None:
        return fate
    return (
        f"{points(gain.mean):>6} soft score, SE {100 * gain.error:.1f}, n = {rank.n_items}, {fate}"
        + ("" if gain.above_noise else ", within the noise")
    )

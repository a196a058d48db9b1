"""The comparison of two runs as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rys_gguf.report.sentences import interval_text, on_items, p_text, points
from rys_gguf.runs.stage import Stage
from rys_gguf.stats.compare import SEARCH, Comparison, GainInBoth, Kept
from rys_gguf.text import printable


def comparison_lines(comparison: Comparison) -> Iterator[str]:
    """Both models, then what each candidate kept and what its gain became, family by family."""
    yield f"A  {printable(comparison.model_a)}"
    yield f"B  {printable(comparison.model_b)}"
    items = (
        "search items, which only rank: the runs share no held-out items"
        if comparison.stage == SEARCH
        else on_items(Stage.parse(comparison.stage))
    )
    yield f"on {items}, suite {printable(comparison.suite)}"
    for candidate in comparison.candidates:
        yield ""
        yield printable(candidate.spec)
        yield from map(_kept_line, candidate.kept)
        for family in candidate.unread:
            yield f"  {printable(family):10} no item could be read in both runs"
        yield from map(_gain_line, candidate.gains)


def _kept_line(kept: Kept) -> str:
    retention = "at its baseline" if kept.retention is None else f"{kept.retention:.0%} kept"
    test = ""
    if kept.mcnemar:
        wins, losses = kept.mcnemar.wins, kept.mcnemar.losses
        test = f", {wins} gained, {losses} lost, McNemar p {p_text(kept.mcnemar.p)}"
    return (
        f"  {printable(kept.family):10} {100 * kept.a:5.1f} -> {100 * kept.b:5.1f}  "
        f"{retention}, {points(kept.change)} ({interval_text(kept.interval)}, "
        f"n = {kept.n}){test}"
    )


def _gain_line(gain: GainInBoth) -> str:
    retention = "no gain in A to keep" if gain.retention is None else f"{gain.retention:.0%} kept"
    return (
        f"  gain of {printable(gain.family):10} {points(gain.a):>6} "
        f"({interval_text(gain.interval_a)}) -> {points(gain.b):>6} "
        f"({interval_text(gain.interval_b)})  {retention}; B minus A "
        f"{interval_text(gain.difference)}"
    )

"""The tables of the page as plain values: what each cell shows, and what it sorts by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rys_gguf.report.markup import shown
from rys_gguf.report.sentences import interval_text, p_text, points, score_text
from rys_gguf.runs.records import Baseline, IllegalWindow
from rys_gguf.stats.effects import Effect
from rys_gguf.stats.paired import Interval
from rys_gguf.stats.verdict import Rank, SearchRanking, Verdict
from rys_gguf.text import size


@dataclass(frozen=True, slots=True)
class Column:
    """A column's name; numbers are aligned to the right, words to the left."""

    name: str
    left: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell: its text, the key it sorts by, its class, and a smaller line below."""

    text: str
    sort: float | str = ""
    kind: str = ""
    below: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table that a reader can sort; a tall one scrolls inside itself."""

    name: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    tall: bool = field(default=False, kw_only=True)


def held_out_table(verdicts: Sequence[Verdict]) -> Table:
    """A row for each finalist and family, with scores, difference and tests."""
    rows = [
        tuple(_effect_cells(verdict, effect))
        for verdict in verdicts
        for effect in (verdict.judgement.overall, *verdict.judgement.families)
    ]
    columns = (
        Column("Window", left=True), Column("Family", left=True), Column("n"),
        Column("Base score"), Column("Window score"), Column("Difference"), Column("Estimate"),
        Column("Wins / losses"), Column("McNemar p (mid-p)"), Column("Holm p"),
        Column("Detectable"),
    )  # fmt: skip
    return Table("finalists on held-out items", columns, tuple(rows))


def _effect_cells(verdict: Verdict, effect: Effect) -> Iterator[Cell]:
    test = effect.mcnemar
    yield _word(verdict.trial.candidate.spec, "l mono")
    yield _word(effect.name + " (control)" * (effect.name in verdict.controls))
    yield Cell(str(effect.n), effect.n)
    yield _score(effect.base, effect.base_interval)
    yield _score(effect.window, effect.window_interval)
    yield _gain(effect.difference, effect.interval)
    yield _gain(effect.estimate, effect.likely) if effect.significant else Cell("")
    yield Cell(f"{test.wins} / {test.losses}", test.wins) if test else Cell("")
    yield Cell(f"{p_text(test.p)} ({p_text(test.mid_p)})", test.p) if test else Cell("")
    yield Cell(p_text(effect.holm_p), effect.holm_p)
    found = effect.detectable
    yield Cell(f"{100 * found:.0f}", found) if found else Cell("none")


def cost_table(verdicts: Sequence[Verdict]) -> Table:
    """What the search promised of each finalist, what it kept, and what it costs."""
    columns = (
        Column("Window", left=True), Column("Verdict", left=True), Column("Soft score in search"),
        Column("Soft score held out"), Column("Score held out"), Column("Layers"),
        Column("Bytes"), Column("Speed of base"),
    )  # fmt: skip
    rows = [
        (
            _word(v.trial.candidate.spec, "l mono"),
            _word(v.judgement.word),
            _gain(v.search_gain),
            _gain(v.held_out_gain),
            _gain(v.judgement.overall.difference),
            Cell(f"{v.trial.candidate.n_added:+d}", v.trial.candidate.n_added),
            _unless_none(v.extra_bytes, lambda n: size(n, sign=True)),
            _unless_none(v.speed, "{:.2f}".format),
        )
        for v in verdicts
    ]
    return Table("promise and cost", columns, tuple(rows))


def candidate_table(ranking: SearchRanking) -> Table:
    """Every window of the search in the order of the ranking."""
    columns = (
        Column("Window", left=True), Column("Layers"), Column("Overall"), Column("SE"),
        Column("Noise line"), *map(Column, ranking.families), Column("n"), Column("Divergence"),
        Column("Reached", left=True), Column("Status", left=True), Column("Written"),
        Column("Engine s"), Column("Reason", left=True),
    )  # fmt: skip
    rows = [tuple(_rank_cells(rank, ranking.families)) for rank in ranking.ranks]
    return Table("all windows of the search", columns, tuple(rows), tall=True)


def _rank_cells(rank: Rank, families: Sequence[str]) -> Iterator[Cell]:
    trial, gain = rank.trial, rank.overall
    ending = trial.ending
    yield _word(trial.candidate.spec, "l mono")
    yield Cell(f"{trial.candidate.n_added:+d}", trial.candidate.n_added)
    yield _gain(gain.mean if gain else None)
    yield Cell(f"{100 * gain.error:.1f}", gain.error) if gain else Cell("")
    yield Cell(f"{100 * gain.line:.1f}", gain.line) if gain else Cell("")
    for family in families:
        yield _gain(rank.gains[family].mean if family in rank.gains else None)
    yield Cell(str(rank.n_items or ""), rank.n_items)
    yield _unless_none(trial.measures.get("kl"), "{:.3g}".format)
    yield _word(str(trial.reached or ""))
    yield _word(ending.status.value if ending else "ok")
    yield Cell(size(trial.bytes_written) if trial.bytes_written else "", trial.bytes_written)
    yield Cell(f"{trial.engine_seconds:.1f}", trial.engine_seconds)
    yield _word((ending.reason or "") if ending else "", "wrap")


def illegal_table(windows: Sequence[IllegalWindow]) -> Table:
    """The windows that were not tried, with the rule that forbids each."""
    columns = (Column("Window", left=True), Column("Rule", left=True))
    rows = [(_word(w.spec, "l mono"), _word(w.rule, "wrap")) for w in windows]
    return Table("windows that are not legal", columns, tuple(rows), tall=True)


def baseline_table(baselines: Mapping[str, Baseline]) -> Table:
    """What answers score that ignore the question, by family."""
    columns = (Column("Family", left=True), Column("Constant answer"), Column("Random answer"))
    rows = [
        (_word(family), _score(b.constant, None), _score(b.random, None))
        for family, b in baselines.items()
    ]
    return Table("baselines", columns, tuple(rows))


def _word(value: Any, kind: str = "l") -> Cell:
    text = shown(value)
    return Cell(text, text, kind)


def _score(score: float, interval: Interval | None) -> Cell:
    text, _, rest = score_text(score, interval).partition(" ")
    return Cell(text, score, below=rest.strip("()"))


def _gain(x: float | None, interval: Interval | None = None) -> Cell:
    if x is None:
        return Cell("")
    text = points(x)
    kind = {"+": "pos", "-": "neg"}.get(text[0], "soft")
    return Cell(text, x, kind, interval_text(interval) if interval else "")


def _unless_none(x: float | None, show: Any) -> Cell:
    return Cell("") if x is None else Cell(show(x), x)

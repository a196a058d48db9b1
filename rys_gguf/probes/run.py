"""Ask one model a whole suite, and sum up what it answered."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rys_gguf.engines.base import EngineOptions
from rys_gguf.engines.sampling import has_template
from rys_gguf.engines.server import Engine
from rys_gguf.probes.ask import Compiler, answer, answer_line, ask
from rys_gguf.probes.item import Item
from rys_gguf.probes.preflight import require_answers, require_repeatable
from rys_gguf.probes.score import best_constant
from rys_gguf.probes.suite import Suite
from rys_gguf.text import printable

Line = dict[str, Any]


def run_probe(
    model: Path,
    options: EngineOptions,
    items: Sequence[Item],
    *,
    generate: bool = False,
    preflight: bool = True,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Line]:
    """The model's answer to every item, as lines like those of a run's items.jsonl.

    `progress` gets the number of items after each. Raises Unsuitable if the preflight finds that
    the answers could show nothing, EngineFailed if an answer did not come.
    """
    chats = has_template(model, options)
    baseline = best_constant(items)
    lines = []
    with Engine(model, options) as engine:
        compiler = Compiler(engine, chats=chats)
        if preflight and generate:
            require_answers(engine, items, chats=chats)
        for n, item in enumerate(items):
            if generate:
                got = answer(engine, item, chats=chats, baseline=baseline)
            else:
                requests = compiler.compile(item)
                if preflight and n == 0:
                    require_repeatable(engine, [item], [requests])
                got = ask(engine, item, requests, baseline)
            lines.append({"scoring": "generate" if generate else "quick", **answer_line(got)})
            progress(1)
    return lines


@dataclass(frozen=True, slots=True)
class Row:
    """One family, or one of its topics: mean score, standard error, baseline, share answered.

    The baseline is what the best constant answer scores. Emotions that could not be read count among
    the `n` items, but have no score; `score` and `error` are None where there is too little.
    """

    family: str
    topic: str | None
    n: int
    score: float | None
    error: float | None
    baseline: float
    answered: float

    def as_json(self) -> dict[str, Any]:
        """The row as a JSON object; the baseline keeps its older name there."""
        return {"floor" if key == "baseline" else key: v for key, v in asdict(self).items()}


def summarise(suite: Suite, lines: Sequence[Mapping[str, Any]]) -> list[Row]:
    """A row for each family, followed by its topics."""
    generated = any(line["scoring"] == "generate" for line in lines)
    baselines = suite.generated_baselines if generated else suite.baselines
    rows = []
    for family in dict.fromkeys(str(line["family"]) for line in lines):
        members = [line for line in lines if line["family"] == family]
        topics = dict.fromkeys(str(line["topic"]) for line in members)
        rows.append(_row(family, None, members, baselines[family][""].constant))
        rows += [
            _row(family, t, [m for m in members if m["topic"] == t], baselines[family][t].constant)
            for t in (topics if len(topics) > 1 else ())
        ]
    return rows


def _row(
    family: str, topic: str | None, lines: Sequence[Mapping[str, Any]], baseline: float
) -> Row:
    scores = [float(line["score"]) for line in lines if line["score"] is not None]
    return Row(
        family,
        topic,
        len(lines),
        fmean(scores) if scores else None,
        stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else None,
        baseline,
        fmean(line["status"] == "ok" for line in lines),
    )


def row_lines(rows: Sequence[Row]) -> Iterator[str]:
    """The rows as a table for a terminal."""
    names = [printable(f"  {r.topic}" if r.topic else r.family) for r in rows]
    width = max(len("family"), *map(len, names))
    yield f"{'family':{width}}     n   score     SE  baseline  answered"
    for name, row in zip(names, rows, strict=True):
        score, error = (
            "-" if value is None else f"{value:.3f}" for value in (row.score, row.error)
        )
        yield (
            f"{name:{width}}  {row.n:4}  {score:>6}  {error:>5}  {row.baseline:8.3f}  "
            f"{row.answered:8.0%}"
        )


def suite_lines(statistics: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What a suite asks, as a table for a terminal; of `Suite.statistics`."""
    names = [printable(f"{s['family']} {s['topic']}") for s in statistics]
    width = max(map(len, names))
    yield f"{'':{width}}  level     n  requests  characters  baseline  answers"
    for name, s in zip(names, statistics, strict=True):
        answers = ", ".join(f"{printable(a)} {n}" for a, n in s["answers"].items())
        yield (
            f"{name:{width}}  {s['level']:5}  {s['n']:4}  {s['asks']:8}  "
            f"{s['characters']['median']:10}  {s['constant']:8.3f}  {answers}"
        )

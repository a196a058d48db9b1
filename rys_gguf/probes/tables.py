"""What a probe asks and what it finds, as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rys_gguf.probes.ask import Answer
from rys_gguf.probes.summary import Row
from rys_gguf.text import printable


def row_lines(rows: Sequence[Row]) -> Iterator[str]:
    """The rows of `summary.summarise`."""
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


def thought_lines(answers: Sequence[Answer]) -> Iterator[str]:
    """How long the model thought, if it did."""
    thoughts = [thought for answered in answers for thought in answered.thoughts]
    if thoughts:
        n_tokens = sum(thought.n_tokens for thought in thoughts) / len(answers)
        cut = sum(thought.is_cut for thought in thoughts) / len(thoughts)
        yield f"thoughts: {n_tokens:.0f} tokens before an answer, {cut:.0%} of thoughts cut off"


def suite_lines(statistics: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The records of `Suite.statistics`."""
    names = [printable(f"{s['family']} {s['topic']}") for s in statistics]
    width = max(map(len, names))
    yield f"{'':{width}}  level     n  requests  characters  baseline  answers"
    for name, s in zip(names, statistics, strict=True):
        answers = ", ".join(f"{printable(a)} {n}" for a, n in s["answers"].items())
        yield (
            f"{name:{width}}  {s['level']:5}  {s['n']:4}  {s['asks']:8}  "
            f"{s['characters']['median']:10}  {s['constant']:8.3f}  {answers}"
        )

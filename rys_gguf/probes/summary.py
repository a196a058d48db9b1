"""Sum up a probe: one row for each family and each of its topics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

from rys_gguf.probes.ask import Answer
from rys_gguf.probes.suite import Suite


@dataclass(frozen=True, slots=True)
class Row:
    """One family, or one of its topics: mean score, standard error, baseline, share answered.

    The baseline is the score of the best constant answer. `n` also counts emotions that could not
    be read, which have no score. `score` is None without any score, `error` with fewer than two.
    """

    family: str
    topic: str | None
    n: int
    score: float | None
    error: float | None
    baseline: float
    answered: float

    def as_json(self) -> dict[str, Any]:
        """The row as a JSON object, in which the baseline keeps its older name."""
        return {"floor" if key == "baseline" else key: v for key, v in asdict(self).items()}


def summarise(suite: Suite, answers: Sequence[Answer]) -> list[Row]:
    """A row for each family, followed by those of its topics."""
    generated = any(a.scoring == "generate" for a in answers)
    baselines = suite.generated_baselines if generated else suite.baselines
    rows = []
    for family in dict.fromkeys(a.item.family for a in answers):
        members = [a for a in answers if a.item.family == family]
        topics = dict.fromkeys(a.item.topic for a in members)
        rows.append(_row(family, None, members, baselines[family][""].constant))
        rows += [
            _row(
                family,
                topic,
                [a for a in members if a.item.topic == topic],
                baselines[family][topic].constant,
            )
            for topic in (topics if len(topics) > 1 else ())
        ]
    return rows


def _row(family: str, topic: str | None, answers: Sequence[Answer], baseline: float) -> Row:
    scores = [a.score for a in answers if a.score is not None]
    return Row(
        family,
        topic,
        len(answers),
        fmean(scores) if scores else None,
        standard_error(scores) if len(scores) > 1 else None,
        baseline,
        fmean(a.status == "ok" for a in answers),
    )


def standard_error(values: Sequence[float]) -> float:
    """The standard error of the mean of at least two values."""
    return stdev(values) / math.sqrt(len(values))

"""Two runs of one suite side by side, such as those of a model in BF16 and quantised.

Retention is what run B keeps of run A's score above the baseline: 1 if nothing is lost, 0 if B
scores no more than answers that ignore the question.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rys_gguf.errors import RysError
from rys_gguf.runs.records import ItemAnswer, RunInfo
from rys_gguf.runs.stage import FINAL, GENERATE, Stage
from rys_gguf.stats.evidence import Evidence, RunData
from rys_gguf.stats.paired import Interval, McNemar, interval, mcnemar
from rys_gguf.stats.pairs import OVERALL, Families, Pairs, overall, pair, readable
from rys_gguf.text import printable

SEARCH = "search"
# A score that is less than this above its baseline is too small to divide by.
_MIN_ABOVE_BASELINE = 0.02
# The engine's options, such as the type of its cache, must be the same; its build may differ.
_SAME = ("suite", "heldout", "settings", "engine.arguments", "engine.n_ctx")


@dataclass(frozen=True, slots=True)
class Kept:
    """The scores of one candidate in both runs, in one family or overall, on the same items.

    `change` is B minus A, with its interval. `baseline` is the score of answers that ignore the
    question, and `baseline_of` names them: "constant", "random", or "mean" for that of the
    families. `retention` is None where A's score is at its baseline.
    """

    family: str
    n: int
    a: float
    b: float
    baseline: float
    baseline_of: str
    change: float
    interval: Interval
    retention: float | None
    mcnemar: McNemar | None


@dataclass(frozen=True, slots=True)
class GainInBoth:
    """A window's gain over the base of its own run, in both runs.

    `difference` is the interval of B's gain minus A's. `retention` is B's gain as a fraction of
    A's, None where the interval of A's gain is not above 0: there is nothing to retain.
    """

    family: str
    n: int
    a: float
    b: float
    interval_a: Interval
    interval_b: Interval
    difference: Interval
    retention: float | None


@dataclass(frozen=True, slots=True)
class Compared:
    """A candidate that both runs measured; `gains` are empty for the base.

    `unread` are the families without an item that could be read in both runs.
    """

    spec: str
    kept: tuple[Kept, ...]
    gains: tuple[GainInBoth, ...]
    unread: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs, and every candidate that both measured in `stage`: final, generate or search."""

    model_a: str
    model_b: str
    stage: str
    suite: str
    candidates: tuple[Compared, ...]

    def as_json(self) -> dict[str, Any]:
        """The numbers as plain values; the baseline is called `floor` there, as in 0.1.0."""
        plain = dataclasses.asdict(self)
        for candidate in plain["candidates"]:
            for kept in candidate["kept"]:
                kept["floor"] = kept.pop("baseline")
                kept["floor_of"] = kept.pop("baseline_of")
        return plain


def compare(a: RunData, b: RunData) -> Comparison:
    """Compare two runs on the latest stage that both reached.

    Models and engine builds may differ. Raises RysError, naming the first difference, if suites,
    settings or the engine's arguments do, and if the runs have no measured candidate in common.
    """
    evidence_a, evidence_b = Evidence(a), Evidence(b)
    _require_same(a.info, b.info)
    stage, stages_a, stages_b = _common_stage(evidence_a, evidence_b)
    candidates = []
    for trial in (evidence_a.base, *evidence_a.windows):
        key = trial.key
        asked = pair(evidence_a.answers(key, stages_a), evidence_b.answers(key, stages_b))
        families = readable(asked)
        if not families:
            continue
        gains: tuple[GainInBoth, ...] = ()
        if trial is not evidence_a.base:
            gains = _gains(evidence_a, evidence_b, key, stages_a, stages_b)
        unread = tuple(family for family in asked if family not in families)
        candidates.append(Compared(trial.candidate.spec, _kept(families, a.info), gains, unread))
    if not candidates:
        raise RysError("the two runs measured no candidate on the same items")
    suite = a.info.identity.get("suite" if stage == SEARCH else "heldout")
    return Comparison(a.info.model.name, b.info.model.name, stage, str(suite), tuple(candidates))


def _require_same(a: RunInfo, b: RunInfo) -> None:
    flat_a, flat_b = (_flat(info.identity) for info in (a, b))
    for path in sorted({*flat_a, *flat_b}):
        left, right = flat_a.get(path), flat_b.get(path)
        if left != right and (path in _SAME or path.startswith("settings.")):
            raise RysError(
                f"the runs cannot be compared: {printable(path)} is {_show(left)} in the first "
                f"and {_show(right)} in the second"
            )
    if a.model.n_layers != b.model.n_layers:
        raise RysError(
            f"the runs cannot be compared: the first model has {a.model.n_layers} layers, the "
            f"second {b.model.n_layers}; the windows of one do not exist in the other"
        )


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """A nested value as flat paths, so that an error can name the one that differs."""
    if isinstance(value, Mapping):
        flat: dict[str, Any] = {}
        for key, inner in value.items():
            flat |= _flat(inner, f"{path}.{key}" if path else str(key))
        return flat
    return {path: value}


def _show(value: Any) -> str:
    return "not set" if value is None else printable(str(value))


def _common_stage(a: Evidence, b: Evidence) -> tuple[str, tuple[Stage, ...], tuple[Stage, ...]]:
    """The name of what is compared, and the stages of each run that make it up."""
    for stage in (GENERATE, FINAL):
        if all(e.base.answers.get(stage) for e in (a, b)):
            return str(stage), a.stages_of(stage), b.stages_of(stage)
    return SEARCH, a.rounds, b.rounds


def baseline_of(info: RunInfo, family: str) -> tuple[float, str]:
    """The score of answers that ignore the question, and what they are: "constant" or "random".

    It is that of the best constant answer or of random ones, whichever is higher, and 0 if the run
    knows neither.
    """
    baseline = info.baselines.get(family)
    if baseline is None:
        return 0.0, "constant"
    return max((baseline.constant, "constant"), (baseline.random, "random"), key=lambda x: x[0])


def _kept(families: Families, info: RunInfo) -> tuple[Kept, ...]:
    rows = []
    for family, p in families.items():
        difference = p.difference
        test = None
        if p.binary:
            test = mcnemar(int((difference > 0).sum()), int((difference < 0).sum()))
        a, b = float(p.base.mean()), float(p.window.mean())
        baseline, kind = baseline_of(info, family)
        rows.append(
            Kept(
                family,
                len(p.items),
                a,
                b,
                baseline,
                kind,
                p.mean,
                interval([p.sample]),
                _retention(a - baseline, b - baseline),
                test,
            )
        )
    a, b, baseline = (
        float(np.mean([getattr(row, name) for row in rows])) for name in ("a", "b", "baseline")
    )
    total = Kept(
        OVERALL,
        sum(row.n for row in rows),
        a,
        b,
        baseline,
        "mean",
        overall(families),
        interval([p.sample for p in families.values()]),
        _retention(a - baseline, b - baseline),
        None,
    )
    return total, *rows


def _retention(a: float, b: float) -> float | None:
    return b / a if a >= _MIN_ABOVE_BASELINE else None


def _gains(
    evidence_a: Evidence,
    evidence_b: Evidence,
    key: str,
    stages_a: tuple[Stage, ...],
    stages_b: tuple[Stage, ...],
) -> tuple[GainInBoth, ...]:
    """The window's gains on the items that base and window answered in both runs."""
    answers: list[dict[str, ItemAnswer]] = [
        e.answers(candidate, stages)
        for e, stages in ((evidence_a, stages_a), (evidence_b, stages_b))
        for candidate in (e.base.key, key)
    ]
    common = set.intersection(*(set(by_item) for by_item in answers))
    kept = [{item: x for item, x in by_item.items() if item in common} for by_item in answers]
    in_a, in_b = readable(pair(kept[0], kept[1])), readable(pair(kept[2], kept[3]))
    shared = [f for f in in_a if f in in_b and in_a[f].items == in_b[f].items]
    if not shared:
        return ()
    groups = [(OVERALL, shared), *((family, [family]) for family in shared)]
    return tuple(_gain(label, [(in_a[f], in_b[f]) for f in group]) for label, group in groups)


def _gain(label: str, families: list[tuple[Pairs, Pairs]]) -> GainInBoth:
    a, b = [p.sample for p, _ in families], [p.sample for _, p in families]
    gain_a, gain_b = (float(np.mean([x.mean for x in xs])) for xs in (a, b))
    interval_a = interval(a)
    return GainInBoth(
        label,
        sum(len(x) for x in a),
        gain_a,
        gain_b,
        interval_a,
        interval(b),
        interval([y.minus(x) for x, y in zip(a, b, strict=True)]),
        gain_b / gain_a if interval_a.low > 0 else None,
    )

"""What may be said of the finalists on held-out items: better, trade-off, no evidence, worse.

Every claim is one of finalists x (families and overall) tests, corrected together by Holm: were
all windows as good as the base, a report with any claim would come up less than once in twenty.
The search's own scores decide nothing here; the best of many windows looks good by luck.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rys_gguf.runs.stage import GENERATE, SPEED, Stage
from rys_gguf.runs.trial import Trial
from rys_gguf.stats.evidence import Evidence
from rys_gguf.stats.paired import (
    ALPHA,
    N_RESAMPLES,
    NO_INTERVAL,
    Floats,
    Interval,
    McNemar,
    NoiseLine,
    detectable_mean,
    holm,
    interval,
    mcnemar,
    noise_line,
    sign_flip_p,
    standard_errors,
    wilson,
)
from rys_gguf.stats.pairs import (
    OVERALL,
    Families,
    Pairs,
    overall,
    parts_matrix,
    parts_of,
    readable,
)
from rys_gguf.stats.ranking import Ranked, rank

BETTER, TRADE_OFF, NO_EVIDENCE, WORSE = "better", "trade-off", "no evidence", "worse"
FORMAT_CHANGE = "format change"
# Parse rates further apart than this compare formats, not abilities.
_PARSE_GAP = 0.05


@dataclass(frozen=True, slots=True)
class Effect:
    """One measured difference, window minus base; `holm_p` counts all claims of the report.

    `base` and `window` are the scores themselves, with intervals where items are right or wrong.
    """

    name: str
    n: int
    base: float
    window: float
    base_interval: Interval | None
    window_interval: Interval | None
    difference: float
    interval: Interval
    p: float
    holm_p: float
    detectable: float
    mcnemar: McNemar | None

    @property
    def significant(self) -> bool:
        """Whether the difference, in whatever direction, survives the correction."""
        return self.holm_p <= ALPHA


@dataclass(frozen=True, slots=True)
class Judgement:
    """The word, and the effects it rests on."""

    word: str
    overall: Effect
    families: tuple[Effect, ...]
    parsed: tuple[float, float]
    n_tests: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """A finalist's judgement with what the search promised and what the window costs.

    `search_gain` and `held_out_gain` are soft scores over the base, with the ranking's weights, of
    the families that both asked: a fraction of 1. `controls` are families that only finalists were
    asked. `length` is that of its generated answers in tokens, as a multiple of the base's.
    """

    trial: Trial
    stage: Stage
    judgement: Judgement
    search_gain: float | None
    held_out_gain: float | None
    extra_bytes: int | None
    speed: float | None
    controls: tuple[str, ...] = ()
    length: float | None = None


@dataclass(frozen=True, slots=True)
class Gain:
    """A soft score over the base in the search, its standard error, and the noise line."""

    mean: float
    error: float
    line: float

    @property
    def above_noise(self) -> bool:
        """Whether it is more than the best of as many equal windows would show."""
        return self.mean > self.line


@dataclass(frozen=True, slots=True)
class Rank:
    """A candidate in the search; `gains` by family and overall, empty if it got through no round.

    `n_items` are those of the rounds it got through that both base and candidate answered.
    """

    trial: Trial
    gains: Mapping[str, Gain]
    n_items: int

    @property
    def overall(self) -> Gain | None:
        """The gain it is ranked by."""
        return self.gains.get(OVERALL)


@dataclass(frozen=True, slots=True)
class SearchRanking:
    """All candidates, best first, and the noise line overall and for each family."""

    ranks: tuple[Rank, ...]
    noise: Mapping[str, NoiseLine]

    @property
    def families(self) -> tuple[str, ...]:
        """The families that were asked."""
        return tuple(key for key in self.noise if key != OVERALL)


def judge(
    finalists: Mapping[str, Families], *, n_resamples: int = N_RESAMPLES
) -> dict[str, Judgement]:
    """Judge all finalists of a run together: they share one correction.

    Finalists without a common item with the base are left out.
    """
    measured = {name: readable(pairs) for name, pairs in finalists.items() if pairs}
    tests = {(name, key): 1.0 for name, pairs in measured.items() for key in (OVERALL, *pairs)}
    for name, pairs in measured.items():
        tests[name, OVERALL] = sign_flip_p(np.array(list(parts_of(pairs).values())), n_resamples)
        for family, p in pairs.items():
            found = _mcnemar(p)
            tests[name, family] = found.p if found else sign_flip_p(p.difference, n_resamples)
    adjusted = dict(zip(tests, holm(list(tests.values())), strict=True))
    judged = {}
    for name, pairs in measured.items():

        def effect(key: str, families: Families, name: str = name) -> Effect:
            return _effect(key, families, tests[name, key], adjusted[name, key], n_resamples)

        whole = effect(OVERALL, pairs)
        parts = tuple(effect(family, {family: p}) for family, p in pairs.items())
        asked = finalists[name]
        n = sum(p.n_asked for p in asked.values())
        parsed = (
            sum(p.base_parsed for p in asked.values()) / n,
            sum(p.window_parsed for p in asked.values()) / n,
        )
        judged[name] = Judgement(_word(whole, parts, asked), whole, parts, parsed, len(tests))
    return judged


def verdicts(evidence: Evidence) -> tuple[Verdict, ...]:
    """The finalists' verdicts, best first; none while no held-out item was asked."""
    stage = evidence.judged_stage()
    if stage is None:
        return ()
    judged = judge({key: evidence.pairs(key, [stage]) for key in evidence.finalists(stage)})
    ranked = {r.trial.key: r for r in rank(evidence.base, evidence.windows).order}
    found = [_verdict(evidence, key, stage, j, ranked.get(key)) for key, j in judged.items()]
    return tuple(sorted(found, key=lambda v: -v.judgement.overall.difference))


def _verdict(
    evidence: Evidence, key: str, stage: Stage, judgement: Judgement, ranked: Ranked | None
) -> Verdict:
    trial = evidence.trials[key]
    held_out = readable(evidence.pairs(key, [stage], "soft_score"))
    weights = dict(ranked.weights) if ranked else {}
    again = [family for family in held_out if family in weights]
    search = held = None
    if ranked and again:
        search = sum(weights[f] * ranked.means[f] for f in again)
        held = sum(weights[f] * held_out[f].mean for f in again)
    return Verdict(
        trial,
        stage,
        judgement,
        search,
        held,
        extra_bytes(evidence, trial),
        speed(evidence, trial),
        tuple(family for family in held_out if weights and family not in weights),
        answer_length(evidence, trial) if stage == GENERATE else None,
    )


def search_ranking(evidence: Evidence) -> SearchRanking:
    """All candidates in the order of `rank`, with gains and noise lines; unranked ones last.

    A noise line counts every window that was asked anything: choosing among many is what makes
    the best one look good. Overall, families have the ranking's weights.
    """
    ranked = rank(evidence.base, evidence.windows).order
    pairs = {
        r.trial.key: readable(evidence.pairs(r.trial.key, r.stages, "soft_score")) for r in ranked
    }
    weights = {r.trial.key: r.weights for r in ranked}
    families = tuple(dict.fromkeys(family for p in pairs.values() for family in p))
    gains: dict[str, dict[str, Gain]] = {trial.key: {} for trial in evidence.windows}
    noise = {}
    for name in (OVERALL, *families):
        parts = {
            key: parts_of(p, weights[key]) if name == OVERALL else parts_of({name: p[name]})
            for key, p in pairs.items()
            if p and (name == OVERALL or name in p)
        }
        matrix = parts_matrix(list(parts.values()))
        noise[name] = noise_line(matrix)
        lines = noise[name].factor * standard_errors(matrix)
        for key, line in zip(parts, lines, strict=True):
            of = pairs[key] if name == OVERALL else {name: pairs[key][name]}
            scale = weights[key] if name == OVERALL else {name: 1.0}
            gains[key][name] = Gain(_mean(of, scale), _error(of, scale), float(line))
    last = [t for t in evidence.windows if t.key not in pairs]
    return SearchRanking(
        tuple(
            Rank(t, gains[t.key], sum(len(p.items) for p in pairs.get(t.key, {}).values()))
            for t in (*(r.trial for r in ranked), *last)
        ),
        noise,
    )


def pareto(points: Mapping[str, tuple[float, int]]) -> tuple[str, ...]:
    """The names whose (gain, extra layers) no other point beats, fewest layers first.

    The base is a point itself, (0, 0): a loss is never on the front.
    """
    front = []
    best = 0.0
    for name, (gain, _extra) in sorted(points.items(), key=lambda kv: (kv[1][1], -kv[1][0])):
        if gain > best:
            best = gain
            front.append(name)
    return tuple(front)


def extra_bytes(evidence: Evidence, trial: Trial) -> int | None:
    """Bytes the window adds to the file, if the run says how many a layer takes."""
    layers, windows = evidence.info.model.layer_bytes, trial.candidate.windows
    if not layers or not windows:
        return None
    return sum(layers[n] for i, j in windows for n in range(i, j))


def speed(evidence: Evidence, trial: Trial) -> float | None:
    """Tokens per second as a fraction of the base's, which was measured in turns with the window.

    Runs of version 0.1.0 measured the base once, before all windows.
    """
    window = trial.measure(SPEED, "tokens_per_second")
    base = trial.measure(SPEED, "base_tokens_per_second")
    base = base or evidence.base.measure(SPEED, "tokens_per_second")
    return window / base if window and base else None


def speed_spread(trial: Trial) -> float | None:
    """The fraction by which speeds of one model differed between turns; None if unknown.

    A speed that differs from the base's by no more than this is not told from it.
    """
    return trial.measure(SPEED, "spread")


def answer_length(evidence: Evidence, trial: Trial) -> float | None:
    """Tokens of a candidate's generated answers, as a multiple of the base's to the same items."""
    base, window = (t.answers_in([GENERATE]) for t in (evidence.base, trial))
    both = base.keys() & window.keys()
    n_window, n_base = (sum(answers[item].n_tokens for item in both) for answers in (window, base))
    return n_window / n_base if n_base else None


def _word(whole: Effect, parts: tuple[Effect, ...], pairs: Families) -> str:
    for p in pairs.values():
        if abs(p.window_parsed - p.base_parsed) > _PARSE_GAP * p.n_asked:
            return FORMAT_CHANGE
    up = any(e.significant and e.difference > 0 for e in parts)
    down = any(e.significant and e.difference < 0 for e in parts)
    if up and down:
        return TRADE_OFF
    if whole.significant and whole.interval.low > 0:
        # A family that loses by its own interval is not hidden behind the overall gain.
        return TRADE_OFF if any(e.interval.high < 0 for e in parts) else BETTER
    if whole.significant and whole.interval.high < 0:
        return TRADE_OFF if up else WORSE
    # A loss that is certain in one family is one, though the others hide it in the mean.
    return WORSE if down else NO_EVIDENCE


def _effect(name: str, families: Families, p: float, adjusted: float, n_resamples: int) -> Effect:
    if not families:
        return Effect(name, 0, 0.0, 0.0, None, None, 0.0, NO_INTERVAL, p, adjusted, 0.0, None)
    alone = next(iter(families.values())) if name != OVERALL else None
    found = interval([f.difference for f in families.values()], n_resamples)
    equal = dict.fromkeys(families, 1 / len(families))
    return Effect(
        name,
        sum(len(f.items) for f in families.values()),
        float(np.mean([f.base.mean() for f in families.values()])),
        float(np.mean([f.window.mean() for f in families.values()])),
        _of_right(alone.base) if alone and alone.binary else None,
        _of_right(alone.window) if alone and alone.binary else None,
        overall(families),
        found,
        p,
        adjusted,
        detectable_mean(_error(families, equal), found),
        _mcnemar(alone) if alone else None,
    )


def _of_right(scores: Floats) -> Interval:
    return wilson(int(scores.sum()), len(scores))


def _mcnemar(pairs: Pairs) -> McNemar | None:
    if not pairs.binary:
        return None
    difference = pairs.difference
    return mcnemar(int((difference > 0).sum()), int((difference < 0).sum()))


def _mean(families: Families, weights: Mapping[str, float]) -> float:
    """The weighted sum of the families' mean differences."""
    return sum(weights[family] * p.mean for family, p in families.items())


def _error(families: Families, weights: Mapping[str, float]) -> float:
    """Standard error of the weighted sum of the families' mean differences."""
    variances = (
        weights[family] ** 2 * float(p.difference.var(ddof=1)) / len(p.items)
        for family, p in families.items()
        if len(p.items) > 1
    )
    return math.sqrt(sum(variances))

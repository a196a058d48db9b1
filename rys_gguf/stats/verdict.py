"""What may be said of the finalists on held-out items: better, trade-off, no evidence, worse.

Every claim is one of finalists x (families and overall) tests, corrected together by Holm: were
all windows as good as the base, a report with any claim would come up less than once in twenty.
The search's own scores decide nothing here; the best of many windows looks good by luck.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rys_gguf.runs.storage import FINAL, GENERATE, SPEED
from rys_gguf.stats.paired import (
    ALPHA,
    N_RESAMPLES,
    NO_INTERVAL,
    Floats,
    Interval,
    McNemar,
    NoiseLine,
    bootstrap,
    detectable_mean,
    holm,
    mcnemar,
    noise_line,
    sign_flip_p,
    standard_errors,
    wilson,
)
from rys_gguf.stats.pairs import (
    Candidate,
    Evidence,
    Families,
    Pairs,
    overall,
    parts_matrix,
    parts_of,
    readable,
)
from rys_gguf.text import printable, size

BETTER, TRADE_OFF, NO_EVIDENCE, WORSE = "better", "trade-off", "no evidence", "worse"
FORMAT_CHANGE = "format change"
OVERALL = "overall"
# Parse rates further apart than this compare formats, not abilities.
_PARSE_GAP = 0.05
# A window whose answers are this much longer or shorter than the base's answers differently.
_LENGTH_GAP = 1.5
HELD_OUT = {
    FINAL: "held-out items, by probability",
    GENERATE: "held-out items, generated answers",
}


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

    `search_gain` and `held_out_gain` are of one measure (credit) and the same families, in
    fractions of 1. `controls` are families that only finalists were asked. `length` is that of its
    generated answers in tokens, as a multiple of the base's.
    """

    candidate: Candidate
    stage: str
    judgement: Judgement
    search_gain: float | None
    held_out_gain: float | None
    extra_bytes: int | None
    speed: float | None
    controls: tuple[str, ...] = ()
    length: float | None = None

    @property
    def sentence(self) -> str:
        """The verdict in words, with n and interval."""
        return verdict_sentence(self)


@dataclass(frozen=True, slots=True)
class Gain:
    """What the search measured: credit over the base, its standard error, and luck's line."""

    mean: float
    error: float
    line: float

    @property
    def above_noise(self) -> bool:
        """Whether it is more than the best of as many equal windows would show."""
        return self.mean > self.line


@dataclass(frozen=True, slots=True)
class Rank:
    """A candidate in the search; `gains` by family and overall, empty if it was asked nothing."""

    candidate: Candidate
    gains: Mapping[str, Gain]
    n_items: int

    @property
    def overall(self) -> Gain | None:
        """The gain it is ranked by."""
        return self.gains.get(OVERALL)


@dataclass(frozen=True, slots=True)
class Search:
    """All candidates, best first, and the noise line overall and per family."""

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
    judged = judge({name: evidence.pairs(name, [stage]) for name in evidence.finalists(stage)})
    found = []
    for name, judgement in judged.items():
        candidate = evidence.candidates[name]
        search = readable(evidence.pairs(name, evidence.rounds, "credit"))
        held_out = readable(evidence.pairs(name, [stage], "credit"))
        again = {family: p for family, p in held_out.items() if family in search}
        found.append(
            Verdict(
                candidate,
                stage,
                judgement,
                overall(search) if search else None,
                overall(again) if again else None,
                extra_bytes(evidence, candidate),
                speed(evidence, candidate),
                tuple(family for family in held_out if search and family not in search),
                answer_length(evidence, candidate) if stage == GENERATE else None,
            )
        )
    return tuple(sorted(found, key=lambda v: -v.judgement.overall.difference))


def search(evidence: Evidence) -> Search:
    """Rank the candidates as the search did: those it asked more first, then by what it measured.

    Ties go to fewer layers.

    A noise line counts every window that was asked anything: choosing among many is what makes
    the best one look good.
    """
    pairs = {
        c.name: readable(evidence.pairs(c.name, evidence.rounds, "credit"))
        for c in evidence.windows
    }
    families = tuple(dict.fromkeys(family for p in pairs.values() for family in p))
    gains: dict[str, dict[str, Gain]] = {c.name: {} for c in evidence.windows}
    noise = {}
    for key in (OVERALL, *families):
        asked = {
            name: p if key == OVERALL else {key: p[key]}
            for name, p in pairs.items()
            if p and (key == OVERALL or key in p)
        }
        parts = parts_matrix([parts_of(p) for p in asked.values()])
        noise[key] = noise_line(parts)
        lines = noise[key].factor * standard_errors(parts)
        for (name, p), line in zip(asked.items(), lines, strict=True):
            gains[name][key] = Gain(overall(p), _error(p), float(line))
    ranks = [
        Rank(c, gains[c.name], sum(len(p.items) for p in pairs[c.name].values()))
        for c in evidence.windows
    ]
    ranks.sort(key=_by_gain)
    return Search(tuple(ranks), noise)


def _by_gain(rank: Rank) -> tuple[bool, int, float, int]:
    gain = rank.overall
    mean = gain.mean if gain else 0.0
    return gain is None, -rank.n_items, -mean, rank.candidate.extra_layers


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


def extra_bytes(evidence: Evidence, candidate: Candidate) -> int | None:
    """Bytes the window adds to the file, where the run says what a layer takes."""
    layers = evidence.info.get("model", {}).get("layer_bytes")
    if not layers or not candidate.windows:
        return None
    return sum(int(layers[n]) for i, j in candidate.windows for n in range(i, j))


def speed(evidence: Evidence, candidate: Candidate) -> float | None:
    """Tokens per second as a fraction of the base's, each measured alone."""
    lines = (c.by_stage.get(SPEED, {}) for c in (candidate, evidence.base))
    window, base = ((line.get("measures") or {}).get("tokens_per_second") for line in lines)
    return float(window) / float(base) if window and base else None


def answer_length(evidence: Evidence, candidate: Candidate) -> float | None:
    """Tokens of a candidate's generated answers, as a multiple of the base's to the same items."""
    base, window = (evidence.answers(c.name, [GENERATE]) for c in (evidence.base, candidate))
    both = base.keys() & window.keys()
    ours, theirs = (sum(int(a[k].get("n_tokens") or 0) for k in both) for a in (window, base))
    return ours / theirs if theirs else None


def points(x: float) -> str:
    """A difference of fractions as points of 100: +12.1."""
    return f"{100 * x:+.1f}" if abs(x) >= 0.0005 else "0.0"  # noqa: PLR2004 - what rounds to 0


def p_text(p: float) -> str:
    """A p-value for people."""
    return f"{p:.2g}" if p >= 0.001 else "< 0.001"  # noqa: PLR2004 - as papers print it


def verdict_sentence(verdict: Verdict) -> str:
    """The verdict in words: what, how sure, on how many items, and at what price."""
    judged, c = verdict.judgement, verdict.candidate
    whole = judged.overall
    said = []
    said.append(
        f"{printable(c.spec)}: {judged.word}. Overall {points(whole.difference)} points "
        f"(95 % interval {interval_text(whole.interval)}, n = {whole.n} "
        f"{HELD_OUT.get(verdict.stage, verdict.stage)}, "
        f"Holm p {_equals(whole.holm_p)} over {judged.n_tests} tests)."
    )
    if judged.word == FORMAT_CHANGE:
        base, window = judged.parsed
        said.append(
            f"Of the answers {window:.0%} could be read, of the base's {base:.0%}: the difference "
            f"may be one of format."
        )
    if verdict.length is not None and not 1 / _LENGTH_GAP <= verdict.length <= _LENGTH_GAP:
        said.append(
            f"Its answers are {verdict.length:.1f} times as long as the base's: what it gains or "
            f"loses may be that."
        )
    said.extend(
        f"{printable(effect.name)}{' (control)' * (effect.name in verdict.controls)} "
        f"{points(effect.difference)} "
        f"({interval_text(effect.interval)}, n = {effect.n}, Holm p {_equals(effect.holm_p)})."
        for effect in judged.families
        if effect.significant or effect.name in verdict.controls
    )
    if judged.word == NO_EVIDENCE and whole.detectable > 0:
        said.append(
            f"At this n a true difference below about {100 * whole.detectable:.0f} points mostly "
            f"stays unseen."
        )
    if verdict.search_gain is not None and verdict.held_out_gain is not None:
        said.append(
            f"In the search it had {points(verdict.search_gain)} credit, held out "
            f"{points(verdict.held_out_gain)}."
        )
    said.append(f"Cost: {cost_text(verdict)}.")
    return " ".join(said)


def cost_text(verdict: Verdict) -> str:
    """Layers, bytes and speed."""
    n = verdict.candidate.extra_layers
    cost = [f"{n:+d} layer{'s' * (abs(n) != 1)}"]
    if verdict.extra_bytes is not None:
        cost.append(size(verdict.extra_bytes, sign=True))
    if verdict.speed is not None:
        cost.append(f"{verdict.speed:.2f} of the base's tokens per second")
    return ", ".join(cost)


def interval_text(interval: Interval) -> str:
    """An interval in points."""
    return f"{points(interval.low)} to {points(interval.high)}"


def score_text(score: float, interval: Interval | None) -> str:
    """A score in points of 100, with its interval where it has one: 41.2 (30.9 to 52.3)."""
    shown = f"{100 * score:.1f}"
    return f"{shown} ({100 * interval.low:.1f} to {100 * interval.high:.1f})" if interval else shown


def _equals(p: float) -> str:
    text = p_text(p)
    return text if text.startswith("<") else f"= {text}"


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
    return Effect(
        name,
        sum(len(f.items) for f in families.values()),
        float(np.mean([f.base.mean() for f in families.values()])),
        float(np.mean([f.window.mean() for f in families.values()])),
        _of_right(alone.base) if alone and alone.binary else None,
        _of_right(alone.window) if alone and alone.binary else None,
        overall(families),
        _interval(families, n_resamples),
        p,
        adjusted,
        detectable_mean(_error(families)),
        _mcnemar(alone) if alone else None,
    )


def _interval(families: Families, n_resamples: int) -> Interval:
    """95 %, also where nothing differs: drawn again such items never differ either.

    Of n items none of which differs, as many as Wilson's upper end may truly do.
    """
    found = bootstrap([f.difference for f in families.values()], n_resamples)
    same = [f for f in families.values() if not f.difference.any()]
    margin = sum(wilson(0, len(f.items)).high for f in same) / len(families)
    return Interval(found.low - margin, found.high + margin)


def _of_right(scores: Floats) -> Interval:
    return wilson(int(scores.sum()), len(scores))


def _mcnemar(pairs: Pairs) -> McNemar | None:
    if not pairs.binary:
        return None
    difference = pairs.difference
    return mcnemar(int((difference > 0).sum()), int((difference < 0).sum()))


def _error(families: Families) -> float:
    """Standard error of the overall difference."""
    if not families:
        return 0.0
    variances = [
        p.difference.var(ddof=1) / len(p.items) if len(p.items) > 1 else 0.0
        for p in families.values()
    ]
    return float(np.sqrt(sum(variances))) / len(families)

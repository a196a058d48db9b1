"""The verdict on each finalist by held-out items, such as better, no evidence or worse.

Each finalist is tested overall and in every family, and Holm's method corrects all these tests
together: if no window differed from the base, fewer than one report in twenty would claim that
one does. The search's own scores decide nothing here, because the best of many windows looks good
by luck.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rys_gguf.runs.stage import FINAL, GENERATE, SPEED, Stage
from rys_gguf.runs.trial import Trial
from rys_gguf.stats.clusters import estimate
from rys_gguf.stats.effects import Effect, effect_of, estimated, p_value
from rys_gguf.stats.evidence import Evidence
from rys_gguf.stats.looks import is_clear, is_open, level_shares, over_looks
from rys_gguf.stats.paired import (
    ALPHA,
    N_RESAMPLES,
    NoiseLine,
    holm,
    noise_line,
    standard_errors,
)
from rys_gguf.stats.pairs import (
    OVERALL,
    Families,
    at_looks,
    parts_matrix,
    parts_of,
    readable,
)
from rys_gguf.stats.ranking import Ranked
from rys_gguf.stats.thoughts import (
    BesidePlacebo,
    ThoughtLengths,
    beside_placebo,
    thought_lengths,
)

BETTER, TRADE_OFF, NO_EVIDENCE, WORSE = "better", "trade-off", "no evidence", "worse"
NEGLIGIBLE, FORMAT_CHANGE = "negligible", "format change"
# Parse rates further apart than this compare formats, not abilities.
_PARSE_GAP = 0.05


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict's word, and the effects it rests on.

    `parsed` are the fractions of the base's and the window's answers that could be read.
    """

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
    `speed_spread` is the fraction by which speeds of one model differed between turns. `asked` is
    the fraction of the held-out items that it was asked: a clear case is asked fewer. `thoughts`
    and `placebo` are there if models were to think before they answered. If it `is_open`, the sweep
    was going to ask it more.
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
    speed_spread: float | None = None
    asked: float = 1.0
    thoughts: ThoughtLengths | None = None
    placebo: BesidePlacebo | None = None
    is_open: bool = False

    @property
    def is_speed_uncertain(self) -> bool:
        """Whether the speed differs from the base's by no more than one model's own speeds did."""
        if self.speed is None or self.speed_spread is None:
            return False
        return abs(self.speed - 1) <= self.speed_spread


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
    finalists: Mapping[str, Sequence[Families]],
    looks: Sequence[float] = (1.0,),
    *,
    n_finalists: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> dict[str, Judgement]:
    """Judge all finalists of a run together: they share one correction.

    Each has what it was asked up to each look; `looks` are all that are planned, as fractions of
    the held-out items. Finalists without a common item with the base are left out. Where there will
    be `n_finalists`, those to come have their share of the level already: a verdict must not get
    weaker because others follow.
    """
    asked = {key: shown[-1] for key, shown in finalists.items() if shown and shown[-1]}
    readable_only = {key: readable(families) for key, families in asked.items()}
    taken = {
        (key, name): [p_value(shown, name, n_resamples) for shown in finalists[key]]
        for key, families in readable_only.items()
        for name in (OVERALL, *families)
    }
    p_values = {test: over_looks(values, looks) for test, values in taken.items()}
    n = max(n_finalists, len(readable_only))
    shares = [
        level_shares(n, max(1, len(readable_only[key])))[name != OVERALL] for key, name in p_values
    ]
    to_come = n - len(readable_only)
    adjusted = holm([*p_values.values(), *[1.0] * to_come], [*shares, *[1 / n] * to_come])
    holm_p = dict(zip(p_values, adjusted, strict=False))
    # A test that Holm's method rejects has what those that it does not reject leave of the level.
    left = 1 - sum(share for share, p in zip(shares, adjusted, strict=False) if p <= ALPHA)
    levels = dict(zip(p_values, (ALPHA * x / (x + left) for x in shares), strict=True))
    n_tests = len(p_values) + to_come * (1 + max(map(len, readable_only.values()), default=0))
    judged = {}
    for key, families in readable_only.items():
        overall_effect, *effects = (
            estimated(
                effect_of(name, of, p_values[key, name], holm_p[key, name]),
                taken[key, name], looks, levels[key, name],
            )
            for name, of in ((OVERALL, families), *((f, {f: p}) for f, p in families.items()))
        )  # fmt: skip
        judged[key] = Judgement(
            _word(overall_effect, effects, asked[key]),
            overall_effect,
            tuple(effects),
            _parsed(asked[key]),
            n_tests,
        )
    return judged


def undecided(judged: Mapping[str, Judgement], look: int, looks: Sequence[float]) -> list[str]:
    """The finalists of which more items may say something new, after so many of the planned looks.

    One that hardly can gain any more is not asked more, and neither is one that is clearly better.
    """
    keys = []
    for key, judgement in judged.items():
        one, each = level_shares(len(judged), max(1, len(judgement.families)))
        shared = [(judgement.overall, one), *((effect, each) for effect in judgement.families)]
        may_gain = any(
            is_open(effect.difference, effect.error, look, looks, ALPHA * share)
            for effect, share in shared
        )
        is_better = judgement.word == BETTER
        if may_gain and not (
            is_better and is_clear(judgement.overall.difference, judgement.overall.error)
        ):
            keys.append(key)
    return keys


def verdicts(evidence: Evidence) -> tuple[Verdict, ...]:
    """The finalists' verdicts, best first; none while no held-out item was asked."""
    stage = evidence.judged_stage()
    if stage is None:
        return ()
    keys = evidence.finalists(stage)
    if stage == FINAL:
        shown = {key: at_looks(evidence.base, evidence.trials[key]) for key in keys}
        judged = judge(shown, evidence.looks, n_finalists=evidence.n_finalists)
    else:
        judged = judge({key: [evidence.pairs(key, [stage])] for key in keys})
    still_open = _open(evidence, keys) if stage == FINAL else set()
    ranked = {r.trial.key: r for r in evidence.ranking().order}
    # Equal ones stay in the order of the ranking; the log's may be another one in every run.
    keys = sorted(
        (key for key in dict.fromkeys((*ranked, *judged)) if key in judged),
        key=lambda key: -judged[key].overall.difference,
    )
    return tuple(
        replace(
            _verdict(evidence, key, stage, judged[key], ranked.get(key)), is_open=key in still_open
        )
        for key in keys
    )


def _open(evidence: Evidence, keys: Sequence[str]) -> set[str]:
    """The finalists that a sweep goes on asking, after the looks that each of them had."""
    looks = evidence.looks
    n_looks = {key: len(evidence.trials[key].looks) for key in keys}
    still_open: set[str] = set()
    for n in {n for n in n_looks.values() if 0 < n < len(looks)}:
        # As the sweep decides it: by what all of them were asked up to this look.
        shown = {key: at_looks(evidence.base, evidence.trials[key])[:n] for key in keys}
        still = undecided(judge(shown, looks), n, looks)
        still_open |= {key for key in still if n_looks[key] == n}
    return still_open


def _verdict(
    evidence: Evidence, key: str, stage: Stage, judgement: Judgement, ranked: Ranked | None
) -> Verdict:
    trial = evidence.trials[key]
    held_out = readable(evidence.pairs(key, evidence.stages_of(stage), "soft_score"))
    weights = ranked.weights if ranked else {}
    both = [family for family in held_out if family in weights]
    search_gain = held_out_gain = None
    if ranked and both:
        search_gain = sum(weights[f] * ranked.means[f] for f in both)
        held_out_gain = sum(weights[f] * held_out[f].mean for f in both)
    return Verdict(
        trial,
        stage,
        judgement,
        search_gain,
        held_out_gain,
        extra_bytes(evidence, trial),
        speed(evidence, trial),
        tuple(family for family in held_out if weights and family not in weights),
        answer_length(evidence, trial) if stage == GENERATE else None,
        speed_spread(trial),
        evidence.looks[len(trial.looks) - 1]
        if 0 < len(trial.looks) <= len(evidence.looks)
        else 1.0,
        thought_lengths(
            *(evidence.answers(k, evidence.stages_of(stage)) for k in (evidence.base.key, key))
        ),
        beside_placebo(evidence, evidence.answers(key, evidence.stages_of(FINAL))),
    )


def search_ranking(evidence: Evidence) -> SearchRanking:
    """All candidates in the order of `rank`, with gains and noise lines; unranked ones last.

    A noise line counts every ranked window, because choosing among many is what makes the best
    one look good. Overall, families have the ranking's weights.
    """
    ranked = evidence.ranking().order
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


def _word(total: Effect, effects: Sequence[Effect], asked: Families) -> str:
    for p in asked.values():
        if abs(p.window_parsed - p.base_parsed) > _PARSE_GAP * p.n_asked:
            return FORMAT_CHANGE
    up = any(e.counts and e.difference > 0 for e in effects)
    down = any(e.counts and e.difference < 0 for e in effects)
    if up and down:
        return TRADE_OFF
    if total.counts and total.interval.low > 0:
        # An overall gain must not hide a family that loses by its own interval.
        is_loss = any(e.interval.high < 0 and not e.negligible for e in effects)
        return TRADE_OFF if is_loss else BETTER
    if total.counts and total.interval.high < 0:
        return TRADE_OFF if up else WORSE
    # A certain loss in one family counts, even where the mean over families hides it.
    if down:
        return WORSE
    return NEGLIGIBLE if total.negligible else NO_EVIDENCE


def _parsed(asked: Families) -> tuple[float, float]:
    n = sum(p.n_asked for p in asked.values())
    n_base, n_window = (
        sum(getattr(p, side) for p in asked.values()) for side in ("base_parsed", "window_parsed")
    )
    return n_base / n, n_window / n


def _mean(families: Families, weights: Mapping[str, float]) -> float:
    """The weighted sum of the families' mean differences."""
    return sum(weights[family] * p.mean for family, p in families.items())


def _error(families: Families, weights: Mapping[str, float]) -> float:
    """Standard error of the weighted sum of the families' mean differences.

    A family of a single cluster, which has no spread, adds nothing.
    """
    spread = {family: p.sample for family, p in families.items() if p.sample.n_clusters > 1}
    return estimate(list(spread.values()), [weights[family] for family in spread]).error

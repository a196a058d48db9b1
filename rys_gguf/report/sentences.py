"""The words around a report's numbers, for the page, the card and the terminal."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rys_gguf.layers.schedule import Schedule
from rys_gguf.runs.records import Progress, RunInfo
from rys_gguf.runs.stage import FINAL, GENERATE, Stage
from rys_gguf.stats.effects import MATTERS, Effect
from rys_gguf.stats.paired import Interval, NoiseLine
from rys_gguf.stats.verdict import BETTER, FORMAT_CHANGE, NEGLIGIBLE, NO_EVIDENCE, Verdict
from rys_gguf.text import printable, quoted, size

_ITEMS = {
    FINAL: "held-out items scored by probability",
    GENERATE: "held-out items with generated answers",
}
# Of the search's ranking: by halving, and by Thompson sampling.
ORDER = (
    "windows that got through more rounds come first, then those with the higher soft score",
    (
        "a few come first of which one is most likely to be near the best, then the others by "
        "what their own and their neighbours' soft scores lead to expect"
    ),
)
SEARCH_ONLY = "This run only searched: it ranks windows and gives no verdicts."
CUT = (
    "The search ran out of time before its last questions. Another run with more time (--time) may "
    "find a better window."
)
_GO_ON = "Run the sweep again to finish it: it goes on where it stopped."
# Answers this many times as long or as short as the base's deserve a warning.
_LENGTH_GAP = 1.5
# Nobody asks more than this many times the items to see a gain.
_MAX_MORE_ITEMS = 100


@dataclass(frozen=True, slots=True)
class NextStep:
    """What to do after reading the verdicts: a sentence, and commands to paste."""

    text: str
    commands: tuple[str, ...] = ()


def on_items(stage: Stage) -> str:
    """The items of a stage that verdicts may rest on."""
    return _ITEMS.get(stage, "search items, which only rank")


def points(x: float) -> str:
    """A difference of fractions as points of 100: +12.1."""
    return f"{100 * x:+.1f}" if abs(x) >= 0.0005 else "0.0"  # noqa: PLR2004 - what rounds to 0


def p_text(p: float) -> str:
    """A p-value for people."""
    return f"{p:.2g}" if p >= 0.001 else "< 0.001"  # noqa: PLR2004 - as papers print it


def interval_text(interval: Interval) -> str:
    """An interval in points: +3.0 to +21.2. An end that is near 0 shows on which side it is."""
    ends = (interval.low, interval.high)
    low, high = (f"{100 * x:+.2f}" if 0.00005 <= abs(x) < 0.0005 else points(x) for x in ends)  # noqa: PLR2004 - one digit would be 0
    return f"{low} to {high}"


def score_text(score: float, interval: Interval | None) -> str:
    """A score in points of 100, with its interval where it has one: 41.2 (30.9 to 52.3)."""
    shown = f"{100 * score:.1f}"
    return f"{shown} ({100 * interval.low:.1f} to {100 * interval.high:.1f})" if interval else shown


def verdict_sentence(verdict: Verdict) -> str:
    """The verdict: what it is, how sure it is, on how many items, and what the window costs."""
    return " ".join(_verdict_sentences(verdict))


def _verdict_sentences(verdict: Verdict) -> Iterator[str]:
    judgement = verdict.judgement
    overall = judgement.overall
    yield f"{printable(verdict.trial.candidate.spec)}: {judgement.word}."
    yield (
        f"The overall difference is {points(overall.estimate)} points (95 % interval "
        f"{interval_text(overall.likely)}, n = {overall.n} "
        f"{on_items(verdict.stage)}, Holm p {_equals(overall.holm_p)} over "
        f"{judgement.n_tests} tests{_measured(overall)})."
    )
    if verdict.is_open:
        yield (
            f"So far it was asked {verdict.asked:.0%} of the held-out items, and more may change "
            f"the verdict."
        )
    elif verdict.asked < 1:
        yield (
            f"It was asked {verdict.asked:.0%} of the held-out items: the others could hardly "
            f"have changed the verdict."
        )
    if judgement.word == FORMAT_CHANGE:
        base, window = judgement.parsed
        yield (
            f"{window:.0%} of its answers could be read and {base:.0%} of the base's, so the "
            f"difference may be one of format."
        )
    if verdict.length is not None and not 1 / _LENGTH_GAP <= verdict.length <= _LENGTH_GAP:
        yield (
            f"Its answers are {verdict.length:.1f} times as long as the base's, which may explain "
            f"the difference."
        )
    yield from _thought_sentences(verdict)
    for effect in judgement.families:
        if effect.significant or effect.name in verdict.controls:
            yield _family_sentence(effect, is_control=effect.name in verdict.controls)
    if judgement.word == NEGLIGIBLE:
        yield f"Either way it is less than {100 * MATTERS:g} points, which is too little to matter."
    if judgement.word == NO_EVIDENCE and overall.detectable > 0:
        yield (
            f"With this many items, a true difference below about "
            f"{100 * overall.detectable:.0f} points would usually go unnoticed."
        )
    if verdict.search_gain is not None and verdict.held_out_gain is not None:
        yield (
            f"Its soft score differs from the base's by {points(verdict.search_gain)} points in "
            f"the search and by {points(verdict.held_out_gain)} on held-out items."
        )
    yield f"Cost: {cost_text(verdict)}."


def _thought_sentences(verdict: Verdict) -> Iterator[str]:
    """How long it thinks, and whether any window would have done as much."""
    if (thoughts := verdict.thoughts) is not None:
        around = thoughts.difference.interval
        (cut_base, cut), (looping_base, looping) = thoughts.cut, thoughts.looping
        yield (
            f"It thinks for {thoughts.window:.0f} tokens before an answer and the base for "
            f"{thoughts.base:.0f}, a difference of {thoughts.difference.mean:+.0f} (95 % interval "
            f"{around.low:+.0f} to {around.high:+.0f}); {cut:.0%} of its thoughts were cut off and "
            f"{cut_base:.0%} of the base's, {looping:.0%} and {looping_base:.0%} while they looped."
        )
    if (beside := verdict.placebo) is not None:
        is_open = verdict.judgement.word == BETTER and beside.difference.interval.low <= 0
        yield (
            f"Against the placebo {printable(beside.spec)}, a window that was not chosen, it is "
            f"{points(beside.difference.mean)} points "
            f"({interval_text(beside.difference.interval)})"
            f"{', so that its gain may be what any window adds' * is_open}; the placebo is "
            f"{points(beside.placebo.mean)} points ({interval_text(beside.placebo.interval)}) from "
            f"the base, and thinks for {beside.n_thought:.0f} tokens."
        )


def _family_sentence(effect: Effect, *, is_control: bool) -> str:
    return (
        f"In {printable(effect.name)}{' (control)' * is_control} it is "
        f"{points(effect.estimate)} points ({interval_text(effect.likely)}, "
        f"n = {effect.n}, Holm p {_equals(effect.holm_p)}{_measured(effect)})."
    )


def _measured(effect: Effect) -> str:
    """What was measured, where what is reported allows for luck."""
    if points(effect.difference) == points(effect.estimate):
        return ""
    return f"; {points(effect.difference)} were measured, part of it by luck"


def cost_text(verdict: Verdict) -> str:
    """Layers, bytes and speed: +4 layers, +8.5 MiB, 0.86 times the base's tokens per second."""
    n = verdict.trial.candidate.n_added
    cost = [f"{n:+d} layer{'s' * (abs(n) != 1)}"]
    if verdict.extra_bytes is not None:
        cost.append(size(verdict.extra_bytes, sign=True))
    if verdict.speed is not None:
        cost.append(f"{verdict.speed:.2f} times the base's tokens per second")
        if verdict.is_speed_uncertain:
            cost[-1] += f" (speeds varied by {verdict.speed_spread:.0%}, so this tells nothing)"
    return ", ".join(cost)


def headline(verdicts: Sequence[Verdict]) -> str:
    """The verdicts in one line; that of a better window carries its interval."""
    if not verdicts:
        return "Search only: ranks, no verdicts yet"
    better = [v for v in verdicts if v.judgement.word == BETTER]
    if better:
        overall = better[0].judgement.overall
        return (
            f"{better[0].trial.candidate.spec} is better than the base: "
            f"{points(overall.estimate)} points on held-out items "
            f"(95 % interval {interval_text(overall.likely)})"
        )
    if all(v.judgement.word in (NEGLIGIBLE, NO_EVIDENCE) for v in verdicts):
        return "No evidence that any finalist is better than the base"
    return "No finalist is better than the base without reservation"


def unfinished_sentence(progress: Progress, verdicts: Sequence[Verdict]) -> str:
    """What the results of a sweep are worth that has not come to its end."""
    part = f": it came to {quoted(progress.part)}" if progress.part else ""
    known = (
        "Its verdicts rest on the looks that were completed, and are corrected for all the looks "
        "and finalists that were planned"
        if verdicts
        else "Nothing is proven yet: no finalist has answered held-out items, and the best of many "
        "windows looks good by luck"
    )
    return f"This sweep is not over{part}. {known}."


def noise_sentence(noise: NoiseLine) -> str:
    """What luck alone would make of the best window."""
    n = noise.n_windows
    windows = "the only window were" if n == 1 else f"all {n} windows were"
    best = "it" if n == 1 else "the best of them"
    return (
        f"If {windows} equal to the base, {best} would still "
        f"show about {points(noise.expected)} points by luck, and {points(noise.p95)} in one "
        f"search out of twenty."
    )


def next_step(
    verdicts: Sequence[Verdict], info: RunInfo, *, is_unfinished: bool = False
) -> NextStep:
    """What to do now: write the better windows, ask more items, or look elsewhere.

    The number of items that would show a gain grows with the square of detectable effect over gain.
    A sweep that `is_unfinished` goes on first, unless it has found a better window.
    """
    if not verdicts:
        if is_unfinished:
            return NextStep(_GO_ON)
        return NextStep(
            "Verdicts need finalists that answered held-out items: run the sweep again to finish "
            "it."
        )
    better = [v for v in verdicts if v.judgement.word == BETTER]
    if better:
        windows = "this window" if len(better) == 1 else "one of these windows"
        return NextStep(
            f"Write {windows} and compare it with the base on your own tasks:",
            tuple(apply_command(v, info.model.path, swept_schedule(info)) for v in better),
        )
    if is_unfinished:
        return NextStep(_GO_ON)
    best = verdicts[0]
    overall = best.judgement.overall
    name = printable(best.trial.candidate.spec)
    if points(overall.difference)[0] != "+" or not overall.n:
        return NextStep(
            "No finalist gained anything on held-out items, so more items are unlikely to change "
            "the verdict. Other window sizes might."
        )
    more = (overall.detectable / overall.difference) ** 2
    if more <= 1 or more > _MAX_MORE_ITEMS:
        return NextStep(
            f"The best finalist, {name}, gained {points(overall.difference)} points. A gain that "
            f"small would take far more items than a sweep can ask."
            if more > 1
            else f"The best finalist, {name}, gained {points(overall.difference)} points overall; "
            f"its verdict says what speaks against it."
        )
    return NextStep(
        f"The best finalist, {name}, gained {points(overall.difference)} points on {overall.n} "
        f"held-out items. If that gain is real, about {_rounded(more * overall.n)} items would "
        f"show it in four sweeps out of five: ask more with --suite-size, or with a suite of your "
        f"own."
    )


def swept_schedule(info: RunInfo) -> Schedule:
    """The schedule by which the run's windows are legal: files made of them need the same."""
    settings = info.identity.get("settings")
    is_explicit = isinstance(settings, Mapping) and settings.get("schedule") == Schedule.EXPLICIT
    return Schedule.EXPLICIT if is_explicit else Schedule.PORTABLE


def apply_command(verdict: Verdict, model: str, schedule: Schedule) -> str:
    """The command that writes the window, to paste into a POSIX shell."""
    # A name that cannot be printed cannot be pasted either.
    is_plain = printable(model, sys.maxsize) == model
    kind, _, spec = verdict.trial.candidate.spec.partition(":")
    layers = (
        " ".join(f"--blocks {window}" for window in spec.split(";"))
        if kind == "blocks"
        else f"--layers {shlex.quote(printable(spec))}"
    )
    explicit = f" --schedule {schedule.value}" if schedule is not Schedule.PORTABLE else ""
    return (
        f"rys-gguf apply {shlex.quote(model) if model and is_plain else 'MODEL'} {layers}{explicit}"
    )


def _rounded(n: float) -> int:
    """A number of items with two digits that mean something."""
    unit: int = 10 ** max(0, len(str(math.ceil(n))) - 2)
    return math.ceil(n / unit) * unit


def _equals(p: float) -> str:
    text = p_text(p)
    return text if text.startswith("<") else f"= {text}"

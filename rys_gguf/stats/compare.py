"""Two runs of one suite side by side, such as a model in BF16 and quantised: what is kept.

Retention is a score above its floor as a fraction of the other run's: 1 where nothing is lost, 0
at what an answer scores that ignores the question.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rys_gguf.errors import RysError
from rys_gguf.runs.storage import FINAL, GENERATE
from rys_gguf.stats.paired import Interval, McNemar, bootstrap, mcnemar
from rys_gguf.stats.pairs import Evidence, Families, Line, Pairs, RunData, overall, pair, readable
from rys_gguf.stats.verdict import HELD_OUT, OVERALL, interval_text, p_text, points
from rys_gguf.text import printable

SEARCH = "search"
# Below this a score above its floor is too small to divide by.
_MIN_ABOVE_FLOOR = 0.02
# Of the engine what it was told, such as the type of its cache; which build it was may differ.
_SAME = ("suite", "heldout", "settings", "engine.arguments", "engine.n_ctx")


@dataclass(frozen=True, slots=True)
class Kept:
    """One family (or all) of one candidate in both runs, on the items both asked.

    `change` is B minus A with its interval. `retention` is None where A is at its floor.
    """

    family: str
    n: int
    a: float
    b: float
    floor: float
    change: float
    interval: Interval
    retention: float | None
    mcnemar: McNemar | None


@dataclass(frozen=True, slots=True)
class Gain:
    """A window's gain over its run's own base, in both runs, and how much of A's is left in B.

    `difference` is the interval of B's gain minus A's.
    `retention` is None where A's gain is not above 0 by its own interval: nothing to retain.
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

    `unread` are families of which no item could be read in both runs.
    """

    spec: str
    kept: tuple[Kept, ...]
    gains: tuple[Gain, ...]
    unread: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs, and every candidate both measured in `stage`."""

    model_a: str
    model_b: str
    stage: str
    suite: str
    candidates: tuple[Compared, ...]


def compare(a: RunData, b: RunData) -> Comparison:
    """Compare what both runs measured, on the latest stage both reached.

    Raises RysError if suites, settings or the engine's arguments differ, naming the first that
    does; models and engine builds may differ.
    """
    one, two = Evidence(a), Evidence(b)
    _require_same(a.info, b.info)
    stage, stages_a, stages_b = _common_stage(one, two)
    floors = {family: floor_of(one.info, family) for family in _families(one, stages_a)}
    found = []
    for name in (one.base.name, *(c.name for c in one.windows)):
        if name not in two.candidates:
            continue
        lines = one.answers(name, stages_a), two.answers(name, stages_b)
        asked = pair(*lines)
        families = readable(asked)
        if not families:
            continue
        gains: tuple[Gain, ...] = ()
        if name != one.base.name:
            gains = _gains(one, two, name, stages_a, stages_b)
        kept = _kept(families, floors)
        unread = tuple(family for family in asked if family not in families)
        found.append(Compared(one.candidates[name].label, kept, gains, unread))
    if not found:
        raise RysError("the two runs measured no candidate on the same items")
    identity = a.info["identity"]
    suite = identity.get("suite" if stage == SEARCH else "heldout")
    names = [str(run.info.get("model", {}).get("name")) for run in (a, b)]
    return Comparison(names[0], names[1], stage, str(suite), tuple(found))


def _require_same(a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    said = [_differing(info["identity"]) for info in (a, b)]
    for path in sorted({*said[0], *said[1]}):
        left, right = (values.get(path) for values in said)
        if left != right and (path in _SAME or path.startswith("settings.")):
            raise RysError(
                f"the runs cannot be compared: {printable(path)} is {_show(left)} in the first "
                f"and {_show(right)} in the second"
            )
    n_a, n_b = (info["model"]["n_layers"] for info in (a, b))
    if n_a != n_b:
        raise RysError(
            f"the runs cannot be compared: the first model has {n_a} layers, the second {n_b}; "
            f"a window of the one is none of the other"
        )


def _differing(value: Any, path: str = "") -> dict[str, Any]:
    """A nested value as flat paths, so that an error can name the one that differs."""
    if isinstance(value, Mapping):
        flat: dict[str, Any] = {}
        for key, inner in value.items():
            flat |= _differing(inner, f"{path}.{key}" if path else str(key))
        return flat
    return {path: value}


def _show(value: Any) -> str:
    return "not set" if value is None else printable(str(value))


def _common_stage(a: Evidence, b: Evidence) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """The stage to compare, and the stages of each run that make it up."""
    for stage in (GENERATE, FINAL):
        if all(e.answers(e.base.name, [stage]) for e in (a, b)):
            return stage, (stage,), (stage,)
    return SEARCH, a.rounds, b.rounds


def _families(evidence: Evidence, stages: tuple[str, ...]) -> list[str]:
    lines = evidence.answers(evidence.base.name, stages).values()
    return list(dict.fromkeys(str(line["family"]) for line in lines))


def floor_of(info: Mapping[str, Any], family: str) -> float:
    """What answers that ignore the question score in a family: the best of them, 0 if not said."""
    floor = (info.get("floors") or {}).get(family, 0.0)
    values = floor.values() if isinstance(floor, Mapping) else [floor]
    return max((float(v) for v in values if isinstance(v, int | float)), default=0.0)


def _kept(families: Families, floors: Mapping[str, float]) -> tuple[Kept, ...]:
    rows = []
    for family, p in families.items():
        difference = p.difference
        test = None
        if p.binary:
            test = mcnemar(int((difference > 0).sum()), int((difference < 0).sum()))
        a, b, floor = float(p.base.mean()), float(p.window.mean()), floors.get(family, 0.0)
        interval = bootstrap([difference])
        kept = _retention(a - floor, b - floor)
        rows.append(Kept(family, len(p.items), a, b, floor, p.mean, interval, kept, test))
    a, b, floor = (
        float(np.mean([getattr(row, key) for row in rows])) for key in ("a", "b", "floor")
    )
    whole = Kept(
        OVERALL,
        sum(row.n for row in rows),
        a,
        b,
        floor,
        overall(families),
        bootstrap([p.difference for p in families.values()]),
        _retention(a - floor, b - floor),
        None,
    )
    return whole, *rows


def _retention(a: float, b: float) -> float | None:
    return b / a if a >= _MIN_ABOVE_FLOOR else None


def _gains(
    one: Evidence,
    two: Evidence,
    name: str,
    stages_a: tuple[str, ...],
    stages_b: tuple[str, ...],
) -> tuple[Gain, ...]:
    """The window's gains on the items that base and window were asked in both runs."""
    answers: list[dict[str, Line]] = [
        e.answers(candidate, stages)
        for e, stages in ((one, stages_a), (two, stages_b))
        for candidate in (e.base.name, name)
    ]
    common = set.intersection(*(set(lines) for lines in answers))
    kept = [{k: line for k, line in lines.items() if k in common} for lines in answers]
    in_a, in_b = readable(pair(kept[0], kept[1])), readable(pair(kept[2], kept[3]))
    shared = [f for f in in_a if f in in_b and in_a[f].items == in_b[f].items]
    if not shared:
        return ()
    groups = [(OVERALL, shared), *((family, [family]) for family in shared)]
    return tuple(_gain(label, [(in_a[f], in_b[f]) for f in group]) for label, group in groups)


def _gain(label: str, families: list[tuple[Pairs, Pairs]]) -> Gain:
    a, b = [p.difference for p, _ in families], [p.difference for _, p in families]
    gain_a, gain_b = (float(np.mean([x.mean() for x in xs])) for xs in (a, b))
    interval_a = bootstrap(a)
    return Gain(
        label,
        sum(len(x) for x in a),
        gain_a,
        gain_b,
        interval_a,
        bootstrap(b),
        bootstrap([y - x for x, y in zip(a, b, strict=True)]),
        gain_b / gain_a if interval_a.low > 0 else None,
    )


def comparison_lines(found: Comparison) -> Iterator[str]:
    """The comparison for a terminal."""
    yield f"A  {printable(found.model_a)}"
    yield f"B  {printable(found.model_b)}"
    where = HELD_OUT.get(found.stage, "search items: ranks only, no held-out items in both runs")
    yield f"on {where}, suite {printable(found.suite)}"
    for candidate in found.candidates:
        yield ""
        yield printable(candidate.spec)
        for kept in candidate.kept:
            retention = "at its floor" if kept.retention is None else f"{kept.retention:.0%} kept"
            test = ""
            if kept.mcnemar:
                m = kept.mcnemar
                test = f", {m.wins} gained, {m.losses} lost, McNemar p {p_text(m.p)}"
            yield (
                f"  {printable(kept.family):10} {100 * kept.a:5.1f} -> {100 * kept.b:5.1f}  "
                f"{retention}, {points(kept.change)} ({interval_text(kept.interval)}, "
                f"n = {kept.n}){test}"
            )
        for family in candidate.unread:
            yield f"  {printable(family):10} no item that could be read in both runs"
        for gain in candidate.gains:
            left = "none in A to keep" if gain.retention is None else f"{gain.retention:.0%} kept"
            yield (
                f"  gain of {printable(gain.family):10} {points(gain.a):>6} "
                f"({interval_text(gain.interval_a)}) -> {points(gain.b):>6} "
                f"({interval_text(gain.interval_b)})  {left}; B minus A "
                f"{interval_text(gain.difference)}"
            )

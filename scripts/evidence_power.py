"""Measure what the held-out part of a sweep sees, on planted gains and with the sweep's own code.

usage: python scripts/evidence_power.py [--runs 1000] [--seed 0] [--size standard] [--level 1]
           [--curve FILE]

Finalists are asked the held-out items of the suite in looks, as a sweep asks them, and judged. An
item differs from the base for a fifth of the finalists' answers, a spread of 45 points, and items
of one template or one event differ alike. Prints a markdown table; with --curve it draws instead
how often a gain on everything is called better, by its size. The same seed gives the same.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from rys_gguf.probes.item import Item
from rys_gguf.probes.names import FAMILIES, HELDOUT_SIZES
from rys_gguf.probes.suite import Suite, build_suite
from rys_gguf.stats.looks import LOOKS, look_ends
from rys_gguf.stats.paired import POWER
from rys_gguf.stats.pairs import Families, Pairs
from rys_gguf.stats.verdict import BETTER, Judgement, judge, undecided
from scripts.drawing import COLOURS, axes, save

N_FINALISTS = 3
# The share of items on which a finalist differs from the base.
DIFFERENT = 0.2
FLIPS = 2000
# Of the curve, in points.
GAINS = (0, 2, 4, 5, 6, 8, 10, 15)
# Intervals of scores themselves, which right-or-wrong items have, take long and are not read here.
BINARY = False


@dataclass(frozen=True)
class Case:
    """True gains by family of the first finalist; the others have none, or `all` the same.

    `template` and `event` are the intraclass correlations of items that have one in common.
    """

    name: str
    gains: Mapping[str, float]
    template: float = 0.0
    event: float = 0.0
    looks: tuple[float, ...] = LOOKS


@dataclass
class Counts:
    """What came out of the runs of a case, one entry for each."""

    better: list[bool]
    false: list[bool]
    found: dict[str, list[bool]]
    covered: list[bool]
    reported: list[float]
    held: list[bool]
    asked: list[float]


class Planted:
    """The items of a held-out suite, and the differences of finalists on them."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.families = tuple(dict.fromkeys(item.family for item in items))
        self._places = {
            f: np.array([n for n, item in enumerate(items) if item.family == f])
            for f in self.families
        }
        self._items = {f: [items[n] for n in at] for f, at in self._places.items()}

    def drawn(self, rng: np.random.Generator, case: Case, gains: Mapping[str, float]) -> Families:
        """A finalist's answers and the base's, all items of all families."""
        return {f: self._family(rng, case, f, gains.get(f, 0.0)) for f in self.families}

    def _family(self, rng: np.random.Generator, case: Case, family: str, gain: float) -> Pairs:
        items = self._items[family]
        names = [item.common for item in items]
        numbers: dict[str, int] = {}
        at = np.array([numbers.setdefault(name, len(numbers)) for name in names])
        alike = np.array([case.event if item.event else case.template for item in items])
        chances = [(DIFFERENT - gain) / 2, 1 - DIFFERENT, (DIFFERENT + gain) / 2]
        own, shared = (rng.choice([-1.0, 0.0, 1.0], n, p=chances) for n in (len(at), len(numbers)))
        # Items that do as their cluster with the root of a chance are correlated by the chance.
        difference = np.where(rng.random(len(at)) < np.sqrt(alike), shared[at], own)
        base = np.where(difference == 0, rng.integers(0, 2, len(at)), difference < 0)
        ids = tuple(item.id for item in items)
        n = len(ids)
        return Pairs(ids, base, base + difference, BINARY, n, n, n, tuple(names))

    def first(self, families: Families, n: int) -> Families:
        """The answers to the first items of the suite."""
        cut = {f: int(np.searchsorted(at, n)) for f, at in self._places.items()}
        return {
            f: Pairs(
                p.items[: cut[f]], p.base[: cut[f]], p.window[: cut[f]], p.binary,
                *(cut[f],) * 3, p.clusters[: cut[f]],
            )
            for f, p in families.items() if cut[f]
        }  # fmt: skip


def swept(
    rng: np.random.Generator, planted: Planted, case: Case, n_items: int
) -> tuple[dict[str, Judgement], float]:
    """The verdicts of a run, and the items that its finalists were asked, as a share of all."""
    drawn = {
        str(k): planted.drawn(rng, case, case.gains if k == 0 else {}) for k in range(N_FINALISTS)
    }
    asked: dict[str, list[Families]] = {key: [] for key in drawn}
    left, total = list(drawn), 0
    judged: dict[str, Judgement] = {}
    for look, end in enumerate(look_ends(n_items, case.looks), 1):
        for key in left:
            asked[key].append(planted.first(drawn[key], end))
        judged = judge(asked, case.looks, n_resamples=FLIPS)
        still = undecided(judged, look, case.looks)
        total += end * (len(left) - len([k for k in left if k in still]))
        left = [key for key in left if key in still]
        if not left:
            break
    return judged, total / n_items / N_FINALISTS


def measured(case: Case, suite: Suite, n_runs: int, seed: int) -> Counts:
    """Many runs of a case."""
    planted = Planted(suite.items)
    counts = Counts([], [], {f: [] for f in planted.families}, [], [], [], [])
    truth = fmean(case.gains.get(f, 0.0) for f in planted.families)
    for n in range(n_runs):
        rng = np.random.default_rng((seed, n))
        judged, asked = swept(rng, planted, case, len(suite.items))
        winner = judged["0"]
        counts.better.append(winner.word == BETTER)
        counts.asked.append(asked)
        nothing = [j for key, j in judged.items() if key != "0" or not any(case.gains.values())]
        counts.false.append(any(j.word == BETTER for j in nothing))
        for key, judgement in judged.items():
            gains = case.gains if key == "0" else {}
            true = [
                truth if key == "0" else 0.0,
                *(gains.get(e.name, 0.0) for e in judgement.families),
            ]
            for effect, value in zip((judgement.overall, *judgement.families), true, strict=True):
                counts.covered.append(effect.likely.low <= value <= effect.likely.high)
        for effect in winner.families:
            counts.found[effect.name].append(effect.significant and effect.difference > 0)
        if winner.word == BETTER and truth:
            counts.reported.append(winner.overall.estimate / truth)
            ends = winner.overall.likely
            counts.held.append(ends.low <= truth <= ends.high)
    return counts


def in_clusters(case: Case) -> Case:
    """The case with items of one template and of one event alike."""
    return replace(case, name=f"{case.name}, alike", template=0.3, event=0.7)


def cases() -> list[Case]:
    """The rows of the table."""
    nothing = Case("nothing anywhere", {})
    five, ten = (
        Case(f"+{100 * x:.0f} on everything", dict.fromkeys(FAMILIES, x)) for x in (0.05, 0.10)
    )
    single = [Case(f"+10 in {f}", {f: 0.1}) for f in FAMILIES]
    return [
        *(nothing, five, replace(five, name=f"{five.name}, one look", looks=(1.0,)), ten, *single),
        *map(in_clusters, (nothing, five, ten, *single)),
    ]


def draw(suite: Suite, n_runs: int, seed: int, path: Path) -> None:
    """Two curves: with items that have nothing in common, and with such that are alike."""
    drawn = axes("true gain on everything, points", "sweeps that call it better")
    cases = [Case(f"{g} points", dict.fromkeys(FAMILIES, g / 100)) for g in GAINS]
    for label, colour, curve in (
        ("items that have nothing in common", COLOURS[3], cases),
        ("items of one template or event alike", COLOURS[5], [in_clusters(c) for c in cases]),
    ):
        shares = [fmean(measured(case, suite, n_runs, seed).better) for case in curve]
        print(f"{label}: {', '.join(f'{share:.0%}' for share in shares)}", flush=True)
        drawn.plot(GAINS, shares, marker="o", markersize=3, label=label, color=colour)
    drawn.axhline(POWER, color=COLOURS[1], linewidth=0.8, linestyle="--")
    drawn.set_xticks(GAINS)
    drawn.legend(frameon=False, loc="lower right")
    save(drawn, path)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", default="standard")
    parser.add_argument("--level", type=int, default=1)
    parser.add_argument("--curve", type=Path, help="an SVG of the power by true gain")
    args = parser.parse_args()
    suite = build_suite(
        levels=dict.fromkeys(FAMILIES, args.level),
        counts=HELDOUT_SIZES[args.size],
        split="heldout",
        seed=args.seed,
    )
    if args.curve:
        draw(suite, args.runs, args.seed, args.curve)
        return
    print(f"{len(suite.items)} held-out items, {args.runs} runs of {N_FINALISTS} finalists\n")
    print(
        "| planted | better | its family | false better | coverage | reported / true | "
        "of these covered | asked |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for case in cases():
        c = measured(case, suite, args.runs, args.seed)
        families = [f for f in c.found if case.gains.get(f)]
        family = f"{fmean(c.found[families[0]]):.1%}" if len(families) == 1 else ""
        ratio = f"{fmean(c.reported):.2f}" if c.reported else ""
        held = f"{fmean(c.held):.0%}" if c.held else ""
        print(
            f"| {case.name} | {fmean(c.better):.1%} | {family} | {fmean(c.false):.1%} | "
            f"{fmean(c.covered):.1%} | {ratio} | {held} | "
            f"{fmean(c.asked):.0%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

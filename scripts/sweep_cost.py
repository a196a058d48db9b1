"""What a sweep costs beside the naive flow: a whole file and every item for every window.

usage: python scripts/sweep_cost.py MODEL FOLDER [--sizes 4] [--first N] [--threads 1]

Both flows see the same windows, items, engine and machine, one flow after the other, and score
alike: keep the machine as quiet for the one as for the other. FOLDER keeps what was measured: run
again, it goes on where it was. Prints bytes written, engine-seconds and prompt tokens per window,
and the first three windows of each flow that do not loop: the naive flow, too, has to reject a
window that wins on the items and cannot write.

The items are 300 questions of one kind that small models can answer (which of five kinds a word
names), so that windows of a model of 135M parameters differ in something.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rys_gguf.engines.base import EngineOptions
from rys_gguf.engines.find import find_engine
from rys_gguf.formats.model import Model
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.layers.schedule import Schedule
from rys_gguf.probes.item import Choice
from rys_gguf.probes.suite import Suite
from rys_gguf.runs.candidate import Candidate
from rys_gguf.runs.storage import LOOPS, OpenRun, Run
from rys_gguf.search.executors.local import LocalPool
from rys_gguf.search.objective import SEARCH, Job, Setup, Step
from rys_gguf.search.space import Windows, every
from rys_gguf.search.study import Settings, Sweep, prepare
from rys_gguf.stats.ranking import best, ranks

ALL = "round1"

KINDS = {
    "bird": "robin sparrow eagle owl parrot crow pigeon swan hawk goose",
    "fish": "salmon trout tuna cod herring shark carp eel perch sardine",
    "fruit": "apple banana cherry mango peach grape lemon plum pear melon",
    "tool": "hammer saw wrench drill screwdriver chisel pliers axe shovel rake",
    "color": "red blue green purple yellow orange brown pink violet crimson",
}
WORDINGS = (
    "What kind of thing is this: {}?",
    "Which of these is a {}?",
    "Somebody says {}. What is meant?",
    "Name the kind that {} belongs to.",
    "{}: what sort of word is it?",
    "In a word list under which heading does {} stand?",
)


def kinds() -> Suite:
    """Every word in every wording, in a fixed random order."""
    items = [
        Choice(
            id=f"{word}-{n}", family="words", topic=kind, level=0, answer=kind,
            options=tuple(KINDS), question=wording.format(word),
        )
        for kind, words in KINDS.items() for word in words.split()
        for n, wording in enumerate(WORDINGS)
    ]  # fmt: skip
    random.Random(0).shuffle(items)
    return Suite(tuple(items))


class Bar:
    """A sweep's progress as one bar."""

    def say(self, line: str) -> None:
        """Above the bar."""
        tqdm.write(line)

    def begin(self, what: str, total: int) -> None:
        """Another part."""
        self._bar = tqdm(total=total, desc=what, leave=False)

    def advance(self) -> None:
        """One stage more."""
        self._bar.update(1)


def naive(
    setup: Setup, folder: Path, candidates: Sequence[Candidate], base: Candidate
) -> tuple[Run, list[str]]:
    """Every item to every window, each in a file of its own; the run and its first three."""
    step = Step(ALL, SEARCH, tuple(range(len(setup.items[SEARCH]))))
    with OpenRun.start(folder, {"identity": {"flow": "naive"}}, {}) as run:
        Path(setup.folder).mkdir(exist_ok=True)
        todo = [c for c in (base, *candidates) if run.result(c.key, ALL) is None]
        with LocalPool([setup.options]) as pool:
            jobs = [Job(c, (step,)) for c in todo]
            for outcome in tqdm(pool.run(setup, jobs) if jobs else (), total=len(jobs)):
                run.record(outcome.result, outcome.items)
            first = []
            for candidate in ranked(run, candidates, base):
                if run.result(candidate.key, LOOPS) is None:
                    for outcome in pool.run(setup, [Job(candidate, (Step(LOOPS),))]):
                        run.record(outcome.result, outcome.items)
                looped = run.result(candidate.key, LOOPS)
                assert looped is not None
                if looped["status"] == "ok":
                    first.append(candidate.spec)
                if len(first) == 3:  # noqa: PLR2004 - what the sweep gives
                    break
    return Run.open(folder), first


def totals(run: Run, stages: Sequence[str] | None = None) -> dict[str, float]:
    """Bytes, engine-seconds and prompt tokens of a run's windows, the base's own left out."""
    results = [
        r for r in run.results if r["extra_layers"] and (stages is None or r["stage"] in stages)
    ]
    keys = {(r["candidate"], r["stage"]) for r in results}
    return {
        "bytes": sum(r["bytes_written"] for r in results),
        "seconds": sum(r["engine_seconds"] for r in results),
        "tokens": sum(
            i["n_tokens"] for i in run.items if (i["candidate"], i["stage"]) in keys
        ),
    }  # fmt: skip


def ranked(run: Run, candidates: Sequence[Candidate], base: Candidate) -> list[Candidate]:
    """The windows by all items, best first."""
    found = ranks(
        run.items_of(base.key, ALL), {c.key: run.items_of(c.key, ALL) for c in candidates}
    )
    by_key = {c.key: c for c in candidates}
    cost = {c.key: c.layer_map.n_added for c in candidates}
    return [by_key[key] for key in best(found, cost, len(found))]


def main() -> None:
    """Run both flows and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sizes", default="4")
    parser.add_argument("--first", type=int, help="of the windows, by where they begin")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    options = EngineOptions(find_engine(), n_threads=args.threads)
    suite = kinds()
    settings = Settings()
    args.folder.mkdir(parents=True, exist_ok=True)
    with Model(args.model) as model:
        base = Candidate(LayerMap.identity(model.n_trunk))
        sizes = [int(size) for size in args.sizes.split(",")]
        choice = every(Windows(model, Schedule.PORTABLE), sizes)
        choice = replace(choice, candidates=choice.candidates[: args.first])
    prepared = prepare(args.model.resolve(), args.folder / "work", options, settings, suite,
                       Suite(suite.items[:1]))  # fmt: skip
    whole, first = naive(
        replace(prepared.setup, in_full=True), args.folder / "naive", choice.candidates, base
    )
    started = OpenRun.start(args.folder / "sweep", {"identity": {"flow": "sweep"}}, {})
    with started as run, LocalPool([options]) as pool:
        found = Sweep(run, prepared.setup, settings, pool, Bar()).run(choice)
    report(whole, Run.open(args.folder / "sweep"), len(choice.candidates))
    print(f"\nnaive flow: {', '.join(first)}")
    print(f"sweep:      {', '.join(c.spec for c in found)}")


def report(whole: Run, run: Run, n: int) -> None:
    """Print the table of `n` windows."""
    # The loop test runs on a finalist's own file, and so is part of what that costs.
    last = {"loops", "final", "generate", "speed"}
    stages = sorted({r["stage"] for r in run.results} - last)
    mine, theirs, final = totals(run, stages), totals(whole, [ALL]), totals(run, sorted(last))
    n_items = max(r["n_items"] for r in whole.results)
    print(f"{n} windows, {n_items} items\n")
    print("| per window | naive flow | sweep | ratio | finalists' own files, together |")
    print("| --- | ---: | ---: | ---: | ---: |")
    rows: list[tuple[str, str, float, str]] = [
        ("bytes written", "bytes", 1e6, " MB"),
        ("engine-seconds", "seconds", 1.0, " s"),
        ("prompt tokens of items", "tokens", 1.0, ""),
    ]
    for name, key, unit, shown in rows:
        values: list[Any] = [theirs[key] / n, mine[key] / n]
        cells = " | ".join(f"{v / unit:.1f}{shown}" for v in values)
        ratio = theirs[key] / mine[key]
        print(f"| {name} | {cells} | {ratio:.1f} | {final[key] / unit:.1f}{shown} |")


if __name__ == "__main__":
    main()

"""The cost of a sweep beside the naive flow: a whole file and every item for every window.

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
from collections.abc import Iterable, Sequence
from pathlib import Path

from tqdm import tqdm

from rys_gguf.engines.base import EngineOptions
from rys_gguf.engines.find import find_engine
from rys_gguf.formats.model import Model
from rys_gguf.layers.schedule import Schedule
from rys_gguf.probes.item import Choice
from rys_gguf.probes.suite import Suite
from rys_gguf.runs.candidate import Candidate
from rys_gguf.runs.records import RunInfo
from rys_gguf.runs.stage import FINAL, GENERATE, LOOPS, SPEED, Stage, round_stage
from rys_gguf.runs.storage import OpenRun, Run
from rys_gguf.runs.trial import Trials
from rys_gguf.search.executors import local
from rys_gguf.search.hosts.written import WrittenHost
from rys_gguf.search.identity import model_info
from rys_gguf.search.job import SEARCH, Batch, Job, Step, batch_left
from rys_gguf.search.phases import phases
from rys_gguf.search.prepare import prepare
from rys_gguf.search.samplers.find import rounds_of
from rys_gguf.search.samplers.halving import Halving, OneSet
from rys_gguf.search.settings import Settings, SweepPlan, SweepRequest
from rys_gguf.search.setup import Setup
from rys_gguf.search.space import Selection, Windows, every
from rys_gguf.search.study import run_phases, working_folder
from rys_gguf.search.worker import Hosts
from rys_gguf.stats.ranking import rank

ALL = round_stage(1)
N_FINALISTS = 3
# The loop test runs on a finalist's own file, and so is part of what that costs.
LAST = (LOOPS, FINAL, GENERATE, SPEED)

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
        """Write a line above the bar."""
        tqdm.write(line)

    def begin(self, label: str, total: int) -> None:
        """Begin another part."""
        self._bar = tqdm(total=total, desc=label, leave=False)

    def advance(self) -> None:
        """Count a stage."""
        self._bar.update(1)


class Everything:
    """A phase that takes every candidate through the same steps."""

    def __init__(
        self, label: str, candidates: Sequence[Candidate], steps: tuple[Step, ...]
    ) -> None:
        self._label = label
        self._jobs = [Job(c, steps) for c in candidates]

    def next(self, trials: Trials) -> Batch | None:
        """All jobs at once."""
        return batch_left(self._label, self._jobs, trials)


class FirstThatWrite:
    """A phase that gives the best windows the loop test, until three pass it."""

    def __init__(self, base: Candidate) -> None:
        self._base = base

    def next(self, trials: Trials) -> Batch | None:
        """The best windows that were not tested yet, as many as are missing."""
        order = [r.trial for r in rank(trials[self._base.key], trials.values()).order]
        tested = [t for t in order if LOOPS in t.results]
        n_missing = N_FINALISTS - sum(t.is_ok(LOOPS) for t in tested)
        jobs = [Job(t.candidate, (Step(LOOPS),)) for t in order if LOOPS not in t.results]
        return batch_left("loops", jobs[:n_missing], trials) if n_missing else None

    def first(self, trials: Trials) -> list[str]:
        """The specs of the first three windows."""
        order = [r.trial for r in rank(trials[self._base.key], trials.values()).order]
        return [t.candidate.spec for t in order if t.is_ok(LOOPS)]


def naive(
    info: RunInfo, setup: Setup, folder: Path, candidates: Sequence[Candidate], base: Candidate
) -> tuple[Run, list[str]]:
    """Every item to every window, each in a file of its own; the run and its first three."""
    all_items = Step(ALL, SEARCH, tuple(range(len(setup.items[SEARCH]))))
    everything = Everything("naive", (base, *candidates), (all_items,))
    last = FirstThatWrite(base)
    make_executor = local.factory(setup.options, hosts=Hosts(WrittenHost, WrittenHost))
    with (
        OpenRun.start(folder, info, {}) as run,
        working_folder(Path(setup.folder)),
        make_executor(setup) as executor,
    ):
        run_phases(run, (everything, last), executor, Bar())
        return run, last.first(run.trials)


def totals(run: Run, stages: Iterable[Stage]) -> dict[str, float]:
    """Bytes, engine-seconds and prompt tokens of a run's windows, without the base's own."""
    chosen = set(stages)
    windows = [t for t in run.trials.values() if not t.candidate.is_base]
    results = [r for t in windows for s, r in t.results.items() if s in chosen]
    return {
        "bytes": sum(r.bytes_written for r in results),
        "seconds": sum(r.engine_seconds for r in results),
        "tokens": sum(a.n_tokens for t in windows for a in t.answers_in(chosen).values()),
    }


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
    sizes = tuple(int(size) for size in args.sizes.split(","))
    settings = Settings(n_finalists=N_FINALISTS, preflight=False)
    request = SweepRequest(
        args.model.resolve(), args.folder, SweepPlan("map", sizes), settings,
        (suite, Suite(suite.items[:1])), options,
    )  # fmt: skip
    args.folder.mkdir(parents=True, exist_ok=True)
    with Model(args.model) as model:
        base = Candidate.base(model.n_trunk)
        chosen = every(Windows(model, Schedule.PORTABLE), sizes).candidates[: args.first]
        about = model_info(model, args.model)
    setup = prepare(request).setup
    info = RunInfo(identity={"flow": "naive"}, model=about)
    whole, first = naive(info, setup, args.folder / "naive", chosen, base)
    rounds = rounds_of(request, len(chosen))
    sampler = OneSet(Selection(chosen, ()), Halving(base.key, rounds))
    suites = (request.suites[0].items, request.suites[1].items)
    parts = phases(base, sampler, rounds, suites, preflight=False)
    info = RunInfo(identity={"flow": "sweep"}, model=about)
    with (
        OpenRun.start(args.folder / "sweep", info, {}) as run,
        working_folder(Path(setup.folder)),
        local.factory(options)(setup) as executor,
    ):
        run_phases(run, parts, executor, Bar())
        finalists = parts[2].finalists(run.trials)
    report(whole, run, len(chosen))
    print(f"\nnaive flow: {', '.join(first)}")
    print(f"sweep:      {', '.join(c.spec for c in finalists)}")


def report(whole: Run, run: Run, n: int) -> None:
    """Print the table of `n` windows."""
    stages = {s for t in run.trials.values() for s in t.results} - set(LAST)
    sweep, flow, final = totals(run, stages), totals(whole, [ALL]), totals(run, LAST)
    n_items = max(r.n_items for t in whole.trials.values() for r in t.results.values())
    print(f"{n} windows, {n_items} items\n")
    print("| per window | naive flow | sweep | ratio | finalists' own files, together |")
    print("| --- | ---: | ---: | ---: | ---: |")
    rows: list[tuple[str, str, float, str]] = [
        ("bytes written", "bytes", 1e6, " MB"),
        ("engine-seconds", "seconds", 1.0, " s"),
        ("prompt tokens of items", "tokens", 1.0, ""),
    ]
    for name, key, unit, shown in rows:
        cells = " | ".join(f"{v / unit:.1f}{shown}" for v in (flow[key] / n, sweep[key] / n))
        ratio = flow[key] / sweep[key]
        print(f"| {name} | {cells} | {ratio:.1f} | {final[key] / unit:.1f}{shown} |")


if __name__ == "__main__":
    main()

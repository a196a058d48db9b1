"""The cost of a sweep in the live engine beside the same sweep through files and a server.

usage: python scripts/live_cost.py MODEL FOLDER [--plan two-pass] [--sizes 8,4] [--families math]
           [--level 0] [--suite-size standard] [--threads 2] [-- SERVER_ARGUMENTS...]
       python scripts/live_cost.py MODEL FOLDER --windows N [--items 16] [--sizes 4] ...

The first form runs a whole sweep with each engine, by default the one of README. It prints wall
times, the live engine's time in forward passes (llama_decode, as its process measures it), bytes
written, and how far the answers agree. The second form takes N windows, spread over the model,
through the divergence texts and the first items, filters off, and prints the time of each
candidate once the base and one window are done; with nvidia-smi also the memory in use on the GPUs.

LLAMA_SERVER chooses the build of llama.cpp for both engines. FOLDER must not hold a run yet.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent.parent))

from rys_gguf.checks.self_test import require_live
from rys_gguf.engines.base import LIVE, SERVER, EngineOptions
from rys_gguf.engines.find import find_engine
from rys_gguf.engines.live.kept import sessions_kept
from rys_gguf.engines.live.link import Link
from rys_gguf.formats.model import Model
from rys_gguf.layers.schedule import Schedule
from rys_gguf.probes.choose import SuiteOptions, choose_suites
from rys_gguf.runs.candidate import Candidate
from rys_gguf.runs.records import ItemAnswer, RunInfo
from rys_gguf.runs.stage import DIVERGENCE, FINAL, Stage, round_stage
from rys_gguf.runs.storage import OpenRun, Run
from rys_gguf.runs.trial import Trial
from rys_gguf.search.executors import local
from rys_gguf.search.identity import model_info
from rys_gguf.search.job import SEARCH, Step
from rys_gguf.search.prepare import prepare
from rys_gguf.search.settings import Settings, SweepPlan, SweepRequest
from rys_gguf.search.space import Windows, every
from rys_gguf.search.study import run_phases, run_sweep, working_folder
from scripts.sweep_cost import Bar, Everything

ENGINES = (SERVER, LIVE)
MIB = 1 << 20


# -- what is measured beside the run's own records ------------------------------------------------


@dataclass
class Spent:
    """Seconds by kind of message to the live engine's process, and those of forward passes."""

    by_message: Counter[str] = field(default_factory=Counter)
    forward: float = 0.0


@contextlib.contextmanager
def messages_timed() -> Iterator[Spent]:
    """Count where the live engine's time goes, in this process and all of its threads."""
    spent = Spent()
    ask = Link.ask

    def timed(link: Link, do: str, payload: bytes = b"", **fields: Any) -> Any:
        start = time.perf_counter()
        reply, raw = ask(link, do, payload, **fields)
        spent.by_message[do] += time.perf_counter() - start  # type: ignore[assignment]
        spent.forward += reply.get("seconds", 0.0)
        return reply, raw

    with mock.patch.object(Link, "ask", timed):
        yield spent


def cpu_seconds() -> float:
    """The processor time of this process and of all children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def device_mib() -> int | None:
    """The memory in use on all GPUs; None without nvidia-smi."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    shown = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    return sum(int(line) for line in shown.split())


# -- the two forms --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sweep:
    """A whole sweep with one engine; times are in seconds."""

    run: Run
    wall: float
    cpu: float
    spent: Spent

    @property
    def windows(self) -> list[Trial]:
        """All trials but the base's."""
        return [t for t in self.run.trials.values() if not t.candidate.is_base]

    @property
    def finalists(self) -> list[str]:
        """The specs of the windows that answered the held-out items."""
        return sorted(t.candidate.spec for t in self.windows if t.is_ok(FINAL))

    def bytes_written(self, *, as_finalist: bool) -> int:
        """Bytes written for windows in the search, or for finalists' own files."""
        return sum(
            result.bytes_written
            for t in self.windows
            for stage, result in t.results.items()
            if (stage.is_round or stage == DIVERGENCE) != as_finalist
        )


def sweep(request: SweepRequest) -> Sweep:
    """Run it and take the time."""
    with messages_timed() as spent:
        start, cpu = time.perf_counter(), cpu_seconds()
        run = run_sweep(request, watcher=Bar())
        return Sweep(run, time.perf_counter() - start, cpu_seconds() - cpu, spent)


@dataclass(frozen=True)
class Candidates:
    """What some windows took with one engine: seconds of each, of all, and MiB on the GPUs."""

    run: Run
    wall: float
    spent: Spent
    windows: Sequence[Trial]
    before: int | None
    after: int | None


@sessions_kept()
def candidates(request: SweepRequest, chosen: Sequence[Candidate], n_items: int) -> Candidates:
    """Take the windows through the divergence texts and the first items."""
    with Model(request.model) as model:
        base = Candidate.base(model.n_trunk)
        info = RunInfo(identity={"flow": "windows"}, model=model_info(model, request.model))
    setup = prepare(request).setup
    n_items = min(n_items, len(setup.items[SEARCH]))
    steps = (Step(DIVERGENCE), Step(round_stage(1), SEARCH, tuple(range(n_items))))
    first, rest = chosen[:1], chosen[1:]
    with (
        OpenRun.start(request.folder, info, {}) as run,
        working_folder(Path(setup.folder)),
        local.factory(request.options)(setup) as executor,
    ):
        # The first window pays for what is made once: a working file, a kernel, a cache.
        run_phases(run, [Everything("first", (base, *first), steps)], executor, Bar())
        before = device_mib()
        with messages_timed() as spent:
            start = time.perf_counter()
            run_phases(run, [Everything("windows", rest, steps)], executor, Bar())
            wall = time.perf_counter() - start
        after = device_mib()
    trials = [run.trials[c.key] for c in rest]
    return Candidates(run, wall, spent, trials, before, after)


# -- the report -----------------------------------------------------------------------------------


def agreement(a: Run, b: Run) -> Iterator[str]:
    """How far two runs agree, item by item."""
    n = n_same = n_identical = 0
    furthest = 0.0
    for key in a.trials.keys() | b.trials.keys():
        answers = [_answers(run.trials.get(key)) for run in (a, b)]
        for place in answers[0].keys() & answers[1].keys():
            ours, theirs = answers[0][place], answers[1][place]
            n += 1
            n_same += ours.score == theirs.score
            n_identical += ours.probabilities == theirs.probabilities
            for p, q in zip(ours.probabilities, theirs.probabilities, strict=True):
                furthest = max(furthest, *(abs(p[option] - q[option]) for option in p))
    only = [sum(len(_answers(t)) for t in run.trials.values()) - n for run in (a, b)]
    yield f"answers that both runs have: {n}, and {only[0]} and {only[1]} that only one has"
    yield f"with the same score: {n_same}; with identical probabilities: {n_identical}"
    yield f"furthest apart: {furthest:.2g}"
    endings = [_endings(run) for run in (a, b)]
    differ = [
        k for k in endings[0].keys() | endings[1].keys() if endings[0].get(k) != endings[1].get(k)
    ]
    yield f"stages that end differently: {len(differ)}"


def _answers(trial: Trial | None) -> Mapping[tuple[Stage, str], ItemAnswer]:
    stages = trial.answers if trial is not None else {}
    return {(stage, item): a for stage, of in stages.items() for item, a in of.items()}


def _endings(run: Run) -> dict[tuple[str, Stage], str]:
    return {
        (t.candidate.spec, stage): result.status.value
        for t in run.trials.values()
        for stage, result in t.results.items()
    }


def report_sweeps(server: Sweep, live: Sweep) -> None:
    """Print both sweeps."""
    both = (server, live)
    print(f"{len(live.windows)} windows, {live.run.info.identity['engine']['build']}\n")
    print("| whole sweep | files and server | live | ratio |")
    print("| --- | ---: | ---: | ---: |")
    for name, key in (("wall time", "wall"), ("processor time", "cpu")):
        theirs, ours = (getattr(s, key) for s in both)
        print(f"| {name} | {theirs:.1f} s | {ours:.1f} s | {ours / theirs:.2f} |")
    for name, as_finalist in (("per window of the search", False), ("finalists' files", True)):
        n = 1 if as_finalist else len(live.windows)
        cells = [s.bytes_written(as_finalist=as_finalist) / n / MIB for s in both]
        print(f"| written, {name} | {cells[0]:.2f} MiB | {cells[1]:.2f} MiB | |")
    print(f"| finalists | {' '.join(server.finalists)} | {' '.join(live.finalists)} | |")
    report_spent(live.spent, live.wall)


def report_candidates(server: Candidates, live: Candidates) -> None:
    """Print what a window took."""
    n = len(live.windows)
    print(f"{n} windows after the first\n")
    print("| a candidate | files and server | live | ratio |")
    print("| --- | ---: | ---: | ---: |")
    rows = {"wall time": (server.wall / n, live.wall / n)}
    for name in ("write", "load", "ask"):
        rows[f"median, {name}"] = (_median(server, name), _median(live, name))
    for name, (theirs, ours) in rows.items():
        ratio = f"{ours / theirs:.2f}" if theirs else "-"
        print(f"| {name} | {theirs:.3f} s | {ours:.3f} s | {ratio} |")
    written = [sum(t.bytes_written for t in c.windows) / n / MIB for c in (server, live)]
    print(f"| written | {written[0]:.2f} MiB | {written[1]:.2f} MiB | |")
    for name in ("before", "after"):
        cells = [getattr(c, name) for c in (server, live)]
        if None not in cells:
            print(f"| GPU memory in use, {name} | {cells[0]} MiB | {cells[1]} MiB | |")
    report_spent(live.spent, live.wall)


def _median(of: Candidates, name: str) -> float:
    return statistics.median(
        sum(float(getattr(result.seconds, name)) for result in t.results.values())
        for t in of.windows
    )


def report_spent(spent: Spent, wall: float) -> None:
    """Print where the live engine's time went."""
    share = 100 * spent.forward / wall
    print(f"\nforward passes: {spent.forward:.2f} s of {wall:.2f} s, {share:.1f} %")
    named = [f"{do} {seconds:.2f} s" for do, seconds in spent.by_message.most_common()]
    print(f"waited for the live engine: {', '.join(named)}")


# -- the command ----------------------------------------------------------------------------------


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--windows", type=int, metavar="N")
    parser.add_argument("--items", type=int, default=16)
    parser.add_argument("--plan", choices=["two-pass", "map"], default="two-pass")
    parser.add_argument("--sizes", help="default: 8,4, with --windows 4")
    parser.add_argument("--families", default="math")
    parser.add_argument("--level", type=int, choices=range(4), default=0)
    parser.add_argument("--suite-size", default="standard")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--no-preflight", action="store_true")
    given = sys.argv[1:]
    end = given.index("--") if "--" in given else len(given)
    args = parser.parse_args(given[:end])
    args.server_arguments = tuple(given[end + 1 :])
    return args


def requests(args: argparse.Namespace) -> dict[str, SweepRequest]:
    """The same sweep with each engine."""
    model = args.model.resolve()
    families = tuple(args.families.split(","))
    suites = choose_suites(
        SuiteOptions(
            suite_size=args.suite_size, families=families, levels=((families, args.level),)
        )
    )
    sizes = args.sizes or ("4" if args.windows else "8,4")
    plan = SweepPlan(args.plan, tuple(int(size) for size in sizes.split(",")))
    settings = Settings(preflight=not args.no_preflight)
    if args.windows:
        settings = replace(settings, preflight=False, max_divergence=1e9, min_agreement=0.0)
    options = EngineOptions(find_engine(), n_threads=args.threads)
    made = {}
    for kind in ENGINES:
        folder = args.folder / kind
        if folder.exists():
            raise SystemExit(f"{folder}: exists; a sweep that goes on is not measured")
        given = args.server_arguments if kind == SERVER else ()
        chosen = replace(options, kind=kind, arguments=given)
        made[kind] = SweepRequest(model, folder, plan, settings, suites, chosen)
    return made


def main() -> None:
    """Measure both engines and print the tables."""
    args = parsed()
    asked = requests(args)
    args.folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    require_live(args.model, asked[LIVE].options)
    print(f"self-test: {time.perf_counter() - start:.1f} s, once for each engine and architecture")
    with args.model.open("rb") as file:  # both engines find the model in the page cache
        while file.read(16 * MIB):
            pass
    if args.windows is None:
        server, live = (sweep(asked[kind]) for kind in ENGINES)
        report_sweeps(server, live)
        print("\n" + "\n".join(agreement(server.run, live.run)))
        return
    with Model(args.model) as model:
        found = every(Windows(model, Schedule.PORTABLE), asked[LIVE].plan.sizes).candidates
    chosen = found[:: max(1, len(found) // (args.windows + 1))][: args.windows + 1]
    some = [candidates(asked[kind], chosen, args.items) for kind in ENGINES]
    report_candidates(*some)
    print("\n" + "\n".join(agreement(some[0].run, some[1].run)))


if __name__ == "__main__":
    main()

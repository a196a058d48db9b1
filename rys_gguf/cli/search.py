"""The commands around sweeps: sweep, report, compare."""

from __future__ import annotations

import contextlib
import re
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rys_gguf.cli.levels import ask_levels, assume_levels, assumption, n_leveling
from rys_gguf.cli.options import (
    FILE,
    MODEL,
    Parsed,
    damp_option,
    engine_options_with_context,
    handing_over,
    json_option,
    log_option,
    needs,
    schedule_option,
)
from rys_gguf.cli.output import (
    echo,
    echo_coloured,
    echo_json,
    is_ascii_only,
    is_colour_wanted,
    say,
)
from rys_gguf.cli.process import when_stopped
from rys_gguf.cli.progress import Progress
from rys_gguf.cli.suite import preflight_option, sweep_suite_options, thinking_option
from rys_gguf.engines.base import AUTO, EngineOptions
from rys_gguf.errors import InvalidOptions, OutputFailed, RysError
from rys_gguf.extras import require
from rys_gguf.hub.caches import outside_caches
from rys_gguf.layers.schedule import Schedule
from rys_gguf.probes.choose import SuiteOptions, choose_suites
from rys_gguf.text import printable

# Modules that read runs need packages that only some installations have: they are imported in the
# commands, after `needs` looked for the packages, so that help works everywhere.
if TYPE_CHECKING:
    from rys_gguf.cli.best import BestFolder
    from rys_gguf.report.content import Content
    from rys_gguf.runs.storage import Run
    from rys_gguf.search.executors.base import MakeExecutor
    from rys_gguf.search.settings import SweepPlan, SweepRequest

_REPORT_PACKAGES = ("jinja2", "matplotlib", "msgspec", "scipy")


def _numbers(text: str) -> tuple[int, ...]:
    numbers: list[int] = []
    for part in text.split(","):
        first, dots, last = part.strip().partition("..")
        ends = first, last if dots else first
        if not all(re.fullmatch("[0-9]{1,4}", end) for end in ends):
            raise ValueError(f"{text!r} is not a list of numbers such as 8,4 or 1..8")
        numbers.extend(range(int(ends[0]), int(ends[1]) + 1))
    if not numbers or min(numbers) < 1:
        raise ValueError(f"{text!r} is not a list of numbers from 1, such as 8,4 or 1..8")
    return tuple(numbers)


def _passes(text: str) -> tuple[int, ...]:
    passes = _numbers(text)
    if min(passes) < 2:  # noqa: PLR2004 - once is the model as it is
        raise ValueError("passes are counted in all: 2 runs a window once more")
    return passes


_TIME = re.compile(r"(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+)s)?", re.ASCII)


def parsed_time(text: str) -> int:
    """The seconds of a time such as 1h30m. Raises ValueError."""
    match = _TIME.fullmatch(text.strip())
    hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match else (0, 0, 0)
    if not (total := (hours * 60 + minutes) * 60 + seconds):
        raise ValueError(f"{text!r} is not a time such as 90s, 30m, 2h or 1h30m")
    return total


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """What is searched, and by which rules."""

    plan_name: str | None
    windows: Path | None
    sizes: tuple[int, ...] | None
    passes: tuple[int, ...]
    mode: str
    damp: float
    max_blocks: int
    beam: int
    sampler: str | None
    prior: Path | None
    asks: int | None
    seconds: int | None
    schedule: str
    finalists: int
    detect: float | None
    generate: bool
    thinking: int
    no_preflight: bool
    max_divergence: float
    min_agreement: float

    @property
    def plan(self) -> SweepPlan:
        """Which windows are tried."""
        from rys_gguf.search.settings import SweepPlan

        plan = SweepPlan.of(
            self.plan_name, self.sizes, self.windows, self.damp, self.sampler, self.prior
        )
        return replace(
            plan, passes=self.passes, mode=self.mode, max_blocks=self.max_blocks, beam=self.beam,
            asks=self.asks,
        )  # fmt: skip

    def request(
        self, model: Path, folder: Path, items: SuiteOptions, engine: EngineOptions
    ) -> SweepRequest:
        """The sweep that is asked for, with its items. Raises InvalidOptions."""
        from rys_gguf.search.identity import shares_of
        from rys_gguf.search.settings import Settings, SweepRequest
        from rys_gguf.search.sized import require_generated, sized
        from rys_gguf.stats.looks import looks_at

        if self.seconds is not None:
            self._require_time_alone()
        suites = choose_suites(items)
        if self.detect is not None:
            require_generated(items)
            suites = suites[0], sized(suites[1], self.detect / 100, self.finalists, items.seed)
        settings = Settings(
            schedule=Schedule(self.schedule),
            shares=shares_of(folder) or Settings().shares,
            n_finalists=self.finalists,
            max_divergence=self.max_divergence,
            min_agreement=self.min_agreement,
            generate=self.generate,
            thinking=self.thinking,
            preflight=not self.no_preflight,
            looks=looks_at(len(suites[1].items)),
        )
        command = shlex.join(["rys-gguf", *sys.argv[1:]])
        return SweepRequest(
            model, folder, self.plan, settings, suites, engine, command, self.seconds
        )

    def _require_time_alone(self) -> None:
        if self.asks is not None:
            raise InvalidOptions("--time and --asks are two ways to say the same: give one of them")


_search_options = handing_over(
    "search",
    SearchOptions,
    click.option(
        "--plan", "plan_name", type=click.Choice(["map", "two-pass"]),
        help="map: every window of the given sizes. two-pass: long windows far apart, then short "
        "ones around the best.  [default: map]",
    ),
    click.option(
        "--windows", type=FILE, help="Try the windows of this file instead, one spec a line."
    ),
    click.option(
        "--sizes", type=Parsed("numbers", _numbers),
        help="Window lengths in layers, such as 1..8 or 8,4: all of the map, or those of the first "
        "and the second pass.  [default: 1..8 of a map, 8,4 of two passes]",
    ),
    click.option(
        "--passes", type=Parsed("numbers", _passes), default="2", show_default=True,
        help="How often a window runs in all; 2,3 tries two and three passes of each.",
    ),
    click.option(
        "--mode", type=click.Choice(["block", "layer", "both"]), default="block",
        show_default=True,
        help="block: repeat a window as a whole. layer: repeat each of its layers on its own "
        "(8,8,9,9), as suits mixture-of-experts models.",
    ),
    damp_option,
    click.option(
        "--max-blocks", type=click.IntRange(1, 4), default=1, show_default=True,
        help="Then combine windows that gain, up to so many in one model.",
    ),
    click.option(
        "--beam", type=click.IntRange(1, 64), default=8, show_default=True,
        help="How many combinations of each number of windows are asked at most.",
    ),
    click.option(
        "--sampler", type=click.Choice(["thompson", "halving"]),
        help="thompson: items go to the windows of a map that may still be the best, and count for "
        "their neighbours. halving: rounds for ever fewer windows.  [default: thompson for a map, "
        "halving otherwise]",
    ),
    click.option(
        "--prior", type=FILE,
        help="Start --sampler thompson from the scan of a model like this one, as export --scan "
        "writes it.",
    ),
    click.option(
        "--asks", type=click.IntRange(1), metavar="N",
        help="Ask the single windows at most N items in the search, all together.  [default: by "
        "the model's layers for thompson, by the number of windows for halving]",
    ),
    click.option(
        "--time", "seconds", type=Parsed("time", parsed_time), metavar="30m",
        help="Ask as much as fits into this time (90s, 30m, 1h30m) with the held-out items, by the "
        "speed of this machine.",
    ),
    schedule_option,
    click.option(
        "--finalists", type=click.IntRange(1, 8), default=3, show_default=True,
        help="How many windows are judged on held-out items.",
    ),
    click.option(
        "--detect", type=click.FloatRange(0, 100, min_open=True), metavar="POINTS",
        help="Ask as many held-out items as show a true gain of so many points in four sweeps out "
        "of five.  [default: by --suite-size]",
    ),
    click.option("--generate", is_flag=True, help="Let the finalists answer in words as well."),
    thinking_option(
        "Let the base, the finalists and a placebo, a window that was not chosen, think for up to "
        "so many tokens before they answer held-out items."
    ),
    preflight_option,
    click.option(
        "--max-divergence", type=click.FloatRange(0, min_open=True), default=1.0,
        show_default=True,
        help="Drop a window whose predictions on plain text are this many nats from the base's.",
    ),
    click.option(
        "--min-agreement", type=click.FloatRange(0, 1), default=0.5, show_default=True,
        help="Drop a window that agrees with the base on a smaller share of next words.",
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """Where the candidates run."""

    workers: int
    gpus: str | None
    ray: str | None

    @property
    def n_engines(self) -> int:
        """How many engines as fast as the base's run at once: threads are shared, GPUs are not."""
        if self.ray is not None:
            return self.workers
        return min(self.workers, len(self.names) or 1)

    @property
    def names(self) -> tuple[str, ...]:
        """The GPUs."""
        return tuple(part.strip() for part in self.gpus.split(",")) if self.gpus else ()

    def executor(self, engine: EngineOptions) -> MakeExecutor:
        """The factory that makes the executor once the base was measured."""
        if self.ray is None:
            from rys_gguf.search.executors import local

            return local.factory(engine, self.workers, self.names)
        from rys_gguf.search.executors import ray_cluster

        cpus, gpus = engine.n_threads or 1, len(self.names) / self.workers
        return ray_cluster.factory(self.ray, self.workers, engine, cpus=cpus, gpus=gpus)


_worker_options = handing_over(
    "workers",
    WorkerOptions,
    click.option(
        "--workers", type=click.IntRange(1, 64), default=1, show_default=True,
        help="Engines side by side; threads and GPUs are split between them.",
    ),
    click.option("--gpus", metavar="0,1,...", help="GPUs to split between the workers."),
    click.option(
        "--ray", metavar="ADDRESS",
        help="Run the workers on a Ray cluster (auto, or its address; local starts one here). The "
        "model and the run's folder must be on shared storage.",
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _WriteBest:
    """That the best window is to be written; `folder` is None where the user named none."""

    folder: Path | None


@dataclass(frozen=True, slots=True)
class _SweepRun:
    """The run's folder, and how this call treats it."""

    output: Path | None
    write_best: _WriteBest | None
    retry_failed: bool
    dry_run: bool
    log_file: Path | None

    def folder(self, model: Path) -> Path:
        """Where the run is. Raises OutputFailed for a link that the user did not name."""
        if self.output is not None:
            return self.output
        folder = outside_caches(model.with_name(model.name + ".sweep"))
        if folder.is_symlink():
            raise OutputFailed(
                f"{printable(folder)}: is a link; remove it, or name a folder with -o"
            )
        return folder

    def best_folder(self, model: Path) -> BestFolder | None:
        """Where the best window goes, once it is clear that it can; None if it goes nowhere."""
        if self.write_best is None:
            return None
        require("--write-best", "huggingface_hub", "jinja2")
        from rys_gguf.cli.best import BestFolder

        best = BestFolder.of(self.write_best.folder, model)
        best.require(self.folder(model))
        return best


@click.command()
@needs("a sweep", *_REPORT_PACKAGES)
@click.argument("model", type=MODEL)
@_search_options
@sweep_suite_options
@_worker_options
@handing_over(
    "run_options",
    _SweepRun,
    click.option("-o", "--output", type=FILE, help="The run's folder.  [default: MODEL.sweep]"),
    click.option(
        "--write-best", metavar="[FOLDER]", is_flag=False, flag_value="",
        type=Parsed("folder", lambda text: _WriteBest(Path(text) if text else None)),
        help="If the verdict on a window is 'better', write it to a new folder, validate it, and "
        "write its card.  [default: MODEL.best]",
    ),
    click.option("--retry-failed", is_flag=True, help="Try candidates again that failed before."),
    click.option(
        "--dry-run", is_flag=True,
        help="List the candidates and what they cost, and stop. Loads the model only with --time.",
    ),
    log_option,
)  # fmt: skip
@engine_options_with_context
def sweep(
    model: Path,
    search: SearchOptions,
    items: SuiteOptions,
    workers: WorkerOptions,
    run_options: _SweepRun,
    engine: EngineOptions,
) -> None:
    """Find the windows worth repeating.

    Loads the model once, and makes each window of pointers to it. Drops windows that damage
    the model or make it loop, asks the rest a few items and the better of them more, and judges
    the finalists on items that played no part in the choice. Ends with the command that writes the
    best window. Run the same command again to continue an interrupted sweep.
    """
    from rys_gguf.cli.best import conclude
    from rys_gguf.engines.live.kept import sessions_kept
    from rys_gguf.search.dry_run import dry_lines
    from rys_gguf.search.study import run_sweep

    if workers.ray is not None:
        require("--ray", "ray")
    folder = run_options.folder(model)
    best_folder = run_options.best_folder(model)
    items = _with_levels_of_run(items, folder)
    request = replace(
        search.request(model, folder, assume_levels(items), engine), n_engines=workers.n_engines
    )
    if run_options.dry_run:
        # Only a time has to be measured; a large model takes minutes to load.
        measured = request if request.seconds is None else _with_engine(request, say)
        measured = replace(measured, n_leveling=n_leveling(items))
        echo([*assumption(items), *dry_lines(measured)])
        return
    when_stopped("run the same command again to continue", lambda: _show_so_far(folder))
    with sessions_kept(), Progress(run_options.log_file) as progress:
        request = _with_engine(request, progress.say)
        engine = request.options
        request = _with_asked_levels(request, search, items, progress)
        run = run_sweep(
            request, workers.executor(engine), progress, retry_failed=run_options.retry_failed
        )
    found = _show_report(run).verdicts
    say(f"page, tables and maps: rys-gguf report {printable(folder)}")
    conclude(found, run, model, engine, best_folder, run_options.log_file)


def _with_engine(request: SweepRequest, tell: Callable[[str], None]) -> SweepRequest:
    """The request with the kind of engine that works; a run goes on with that it was begun with."""
    from rys_gguf.checks.self_test import choose_kind
    from rys_gguf.search.identity import kind_of

    options = request.options
    kind = kind_of(request.folder) if options.kind == AUTO else None
    chosen = choose_kind(request.model, replace(options, kind=kind or options.kind), tell)
    return replace(request, options=chosen)


def _show_so_far(folder: Path) -> None:
    """What a sweep that was stopped has found; nothing before its base was asked."""
    from rys_gguf.runs.storage import Run

    with contextlib.suppress(RysError):
        _show_report(Run.open(folder))


@click.command()
@needs("a report", *_REPORT_PACKAGES)
@click.argument("run", type=FILE)
@click.option("-o", "--output", type=FILE, help="Folder to write to.  [default: RUN/report]")
@click.option(
    "--watch", is_flag=True, help="Keep the page fresh while a sweep is running, then judge it."
)
def report(run: Path, output: Path | None, watch: bool) -> None:
    """Judge a sweep: verdicts, tables, maps.

    Prints the verdicts and the map, and writes one HTML page with everything, with JSON, CSV and
    PNG files beside it.
    """
    from rys_gguf.report.watch import watch as follow
    from rys_gguf.report.write import write_report
    from rys_gguf.runs.storage import Run

    if watch:
        when_stopped("the page stays as it is, and the sweep goes on")
        follow(run, output, say)
    opened = Run.open(run)
    paths = write_report(opened, output)
    _show_report(opened)
    say("")
    echo(map(str, paths))


@click.command()
@needs("a comparison", "msgspec", "scipy")
@click.argument("run_a", type=FILE)
@click.argument("run_b", type=FILE)
@json_option
def compare(run_a: Path, run_b: Path, as_json: bool) -> None:
    """Compare two sweeps, such as BF16 against quantised.

    Refuses runs with different items or settings. Shows how much of the first run's score each
    family keeps, and what is left of its windows' gains.
    """
    from rys_gguf.report.comparison import comparison_lines
    from rys_gguf.runs.storage import Run
    from rys_gguf.stats.compare import compare as compare_runs

    comparison = compare_runs(Run.open(run_a), Run.open(run_b))
    if as_json:
        echo_json(comparison.as_json())
    else:
        echo(comparison_lines(comparison))


def _with_levels_of_run(items: SuiteOptions, folder: Path) -> SuiteOptions:
    """The items with the levels of the run in a folder: it goes on with what it was begun with."""
    from rys_gguf.search.identity import levels_of

    if not items.without_level or (levels := levels_of(folder)) is None:
        return items
    # A family that the run lacks makes this another run at any level.
    return assume_levels(items.with_levels(levels))


def _with_asked_levels(
    request: SweepRequest, search: SearchOptions, items: SuiteOptions, progress: Progress
) -> SweepRequest:
    """The request with items of the levels that its model was asked for."""
    from rys_gguf.formats.model import Model
    from rys_gguf.search.samplers.find import sampler_of

    if not items.without_level:
        return request
    with Model(request.model) as opened:
        sampler_of(request, opened)  # refuses windows before the model is asked anything
    start = time.monotonic()
    items = ask_levels(request.model, items, request.options, progress)
    asked = search.request(request.model, request.folder, items, request.options)
    gone = time.monotonic() - start
    return replace(asked, n_engines=request.n_engines, seconds_gone=gone)


def _show_report(run: Run) -> Content:
    from rys_gguf.report.content import Content
    from rys_gguf.report.terminal import report_lines

    content = Content.of(run)
    echo_coloured(report_lines(content, ascii_only=is_ascii_only(), color=is_colour_wanted()))
    return content

"""The commands that look for a window: probe, sweep, report, compare, card."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rys_gguf.cli.terminal import (
    FILE,
    F,
    Parsed,
    echo,
    echo_json,
    engine_of,
    engine_options,
    force_option,
    json_option,
    map_between,
    map_options,
    progress_bar,
    require_writable,
    say,
    write_text,
)
from rys_gguf.errors import InvalidLayerMap, RysError
from rys_gguf.probes.names import FAMILIES, SIZES, n_items
from rys_gguf.text import printable

# numpy and gguf load inside the commands: --help and --version answer without them.
if TYPE_CHECKING:
    from rys_gguf.engines.base import EngineOptions
    from rys_gguf.layers.layer_map import LayerMap
    from rys_gguf.probes.suite import Suite
    from rys_gguf.search.executors.local import Pool


def _names(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in names:
        if name not in FAMILIES:
            raise ValueError(f"{name!r} is none of {', '.join(FAMILIES)}")
    return names


def _level(text: str) -> tuple[tuple[str, ...], int]:
    """Families and their level: all of them for 1, one for math=2."""
    family, equals, level = text.rpartition("=")
    if level not in ("0", "1", "2", "3") or (equals and family not in FAMILIES):
        raise ValueError(f"{text!r} is not 0 to 3, or FAMILY=0 to 3")
    return (family,) if equals else FAMILIES, int(level)


def _numbers(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"{text!r} is not a list of numbers such as 8,4")
    return tuple(int(part) for part in parts)


def _suite_options(default_size: str) -> Callable[[F], F]:
    """Which items are asked, wherever a command asks some."""

    def decorate(function: F) -> F:
        for option in reversed((
            click.option(
                "--suite", type=FILE,
                help="Your own items, one JSON object a line, instead of generated ones.",
            ),
            click.option(
                "--suite-size", type=click.Choice(list(SIZES)), default=default_size,
                show_default=True,
                help="Number of generated items: {}, {} or {}.".format(*map(n_items, SIZES)),
            ),
            click.option(
                "--families", type=Parsed("names", _names), default=",".join(FAMILIES),
                show_default=True, help="Families of generated items.",
            ),
            click.option(
                "--level", "levels", type=Parsed("level", _level), multiple=True,
                help="Difficulty 0 to 3, of all families or one (math=2).  [default: by the "
                "model's number of parameters]",
            ),
            click.option(
                "--seed", type=click.IntRange(0), default=0, show_default=True,
                help="Other numbers give other items of the same kinds.",
            ),
        )):  # fmt: skip
            function = option(function)
        return function

    return decorate


_context_option = click.option(
    "--ctx-size", type=click.IntRange(256), default=2048, show_default=True,
    help="Tokens of context for llama.cpp: room for the longest item and its answer.",
)  # fmt: skip
_preflight_option = click.option(
    "--no-preflight", is_flag=True,
    help="Go on although the suite cannot show a difference on this model.",
)  # fmt: skip


@click.command()
@click.argument("model", type=FILE)
@_suite_options("quick")
@click.option(
    "--heldout", is_flag=True, help="The items that a sweep keeps for its finalists, instead."
)
@click.option(
    "--generate",
    is_flag=True,
    help="Let the model answer in its own words, instead of reading off probabilities.",
)
@click.option("--save-suite", type=FILE, help="Write the items to this file as well.")
@click.option("-o", "--output", type=FILE, help="Every answer.  [default: MODEL.probe.jsonl]")
@_preflight_option
@click.option(
    "--lm-eval",
    "tasks",
    metavar="TASK,...",
    help="Run these tasks of lm-evaluation-harness instead (those that generate).",
)
@click.option(
    "--lm-eval-arg",
    "task_arguments",
    multiple=True,
    metavar="ARG",
    help="An argument for lm_eval; repeat the option for more.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be asked, and stop.")
@force_option
@_context_option
@engine_options
@json_option
def probe(  # noqa: PLR0912
    model: Path,
    suite: Path | None,
    suite_size: str,
    families: tuple[str, ...],
    levels: tuple[tuple[tuple[str, ...], int], ...],
    seed: int,
    heldout: bool,
    generate: bool,
    save_suite: Path | None,
    output: Path | None,
    no_preflight: bool,
    tasks: str | None,
    task_arguments: tuple[str, ...],
    dry_run: bool,
    force: bool,
    ctx_size: int,
    llama_server: str | None,
    threads: int | None,
    engine_arguments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure a model: math guesses, emotions, reasoning.

    Generated items. Quick by default: the model only reads, and its next token is taken as
    probabilities of the options; with --generate it answers in its own words. Keeps every answer.
    One model's scores say little; differences between variants of one model are the point.
    """
    from rys_gguf.probes.item import dump
    from rys_gguf.probes.preflight import room_notes
    from rys_gguf.probes.run import dump_answers, run_probe
    from rys_gguf.probes.suite import Suite
    from rys_gguf.probes.summary import summarise
    from rys_gguf.probes.tables import row_lines, suite_lines

    engine = engine_of(llama_server, threads, engine_arguments)
    options = dataclasses.replace(engine, n_ctx=ctx_size)
    if tasks is not None:
        from rys_gguf.probes.lm_eval import run_harness

        if code := run_harness(model, tasks, options, task_arguments):
            raise RysError(f"lm_eval ended with exit code {code}; what it said stands above")
        return
    if suite is None:
        suites = _suites(model, None, None, suite_size, families, levels, seed)
        chosen = suites[1 if heldout else 0]
    elif heldout:
        raise click.UsageError("--heldout is of generated items; with --suite, name their file")
    else:
        chosen = Suite.read(suite)
    items = chosen.items
    if dry_run:
        statistics = chosen.statistics()
        if as_json:
            echo_json(statistics)
        else:
            echo(suite_lines(statistics))
        return
    inputs = [model] if suite is None else [model, suite]
    if save_suite is not None:
        write_text(save_suite, dump(items), inputs, force=force)
    # A file named after the model is the last probe's; one the user names may be anything.
    path, replace = output or model.with_name(model.name + ".probe.jsonl"), force or output is None
    require_writable(path, inputs, force=replace)
    with progress_bar(len(items), "probe", unit="item") as progress:
        answers = run_probe(
            model, options, items,
            generate=generate, preflight=not no_preflight, progress=progress,
        )  # fmt: skip
    write_text(path, dump_answers(answers), inputs, force=replace)
    rows = summarise(chosen, answers)
    if as_json:
        echo_json({
            "model": model.name,
            "suite": chosen.suite_id,
            "answers": str(path),
            "rows": [row.as_json() for row in rows],
        })  # fmt: skip
    else:
        echo(row_lines(rows))
        say(f"every answer: {printable(path)}")
    if not no_preflight:
        for note in room_notes(zip(items, answers, strict=True)):
            say(note)


@click.command()
@click.argument("model", type=FILE)
@click.option("-o", "--output", type=FILE, help="The run's folder.  [default: MODEL.sweep]")
@click.option(
    "--plan",
    "plan_name",
    type=click.Choice(["two-pass", "map"]),
    default="two-pass",
    show_default=True,
    help="two-pass: long windows far apart, then short ones around the best. map: every window of "
    "the sizes.",
)
@click.option("--windows", type=FILE, help="Try the windows of this file, a spec a line, instead.")
@click.option(
    "--sizes",
    type=Parsed("numbers", _numbers),
    default="8,4",
    show_default=True,
    help="Layers of a window: of the first and the second pass, or all sizes of the map.",
)
@click.option(
    "--schedule",
    type=click.Choice(["portable", "explicit"]),
    default="portable",
    show_default=True,
    help="As for apply.",
)
@_suite_options("standard")
@click.option(
    "--heldout",
    type=FILE,
    help="Your own items for the finalists.  [default: half of --suite]",
)
@click.option(
    "--control",
    "controls",
    type=Parsed("names", _names),
    help="Families of generated items that only the finalists are asked: what nothing was chosen "
    "by shows what else a window does.",
)
@click.option(
    "--finalists",
    type=click.IntRange(1, 8),
    default=3,
    show_default=True,
    help="How many windows are judged on held-out items.",
)
@click.option("--generate", is_flag=True, help="Let the finalists answer in words as well.")
@_preflight_option
@click.option(
    "--max-divergence",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="Drop a window this many nats from the base on plain text.",
)
@click.option(
    "--min-agreement",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Drop a window that agrees with the base on fewer next words.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Engines side by side; threads and GPUs are split between them.",
)
@click.option("--gpus", metavar="0,1,...", help="GPUs to split between the workers.")
@click.option(
    "--ray",
    metavar="ADDRESS",
    help="Run the workers on a Ray cluster (auto, or its address; local starts one here). The "
    "model and the run's folder must be on shared storage.",
)
@click.option("--retry-failed", is_flag=True, help="Try candidates again that failed before.")
@click.option("--dry-run", is_flag=True, help="List the candidates and what they cost, and stop.")
@_context_option
@engine_options
def sweep(
    model: Path,
    output: Path | None,
    plan_name: str,
    windows: Path | None,
    sizes: tuple[int, ...],
    schedule: str,
    suite: Path | None,
    suite_size: str,
    families: tuple[str, ...],
    levels: tuple[tuple[tuple[str, ...], int], ...],
    seed: int,
    heldout: Path | None,
    controls: tuple[str, ...] | None,
    finalists: int,
    generate: bool,
    no_preflight: bool,
    max_divergence: float,
    min_agreement: float,
    workers: int,
    gpus: str | None,
    ray: str | None,
    retry_failed: bool,
    dry_run: bool,
    ctx_size: int,
    llama_server: str | None,
    threads: int | None,
    engine_arguments: tuple[str, ...],
) -> None:
    """Find the best windows of a model.

    Writes one working file and changes it from candidate to candidate; drops what is damaged or
    loops, asks the rest a few items, the better part more, and judges the finalists on items that
    chose nothing. Interrupted, it goes on where it was when the same command is run again.
    """
    from rys_gguf.layers.schedule import Schedule
    from rys_gguf.search.session import SweepPlan, run_sweep
    from rys_gguf.search.study import Settings

    engine = engine_of(llama_server, threads, engine_arguments)
    options = dataclasses.replace(engine, n_ctx=ctx_size)
    settings = Settings(
        schedule=Schedule(schedule),
        n_finalists=finalists,
        max_divergence=max_divergence,
        min_agreement=min_agreement,
        generate=generate,
        preflight=not no_preflight,
    )
    plan = SweepPlan("list" if windows else plan_name, sizes, windows)
    suites = _suites(
        model, suite, heldout, suite_size, families, levels, seed, controls=controls or ()
    )
    folder = output or model.with_name(model.name + ".sweep")
    if dry_run:
        from rys_gguf.search.session import dry_lines

        echo(dry_lines(model, plan, settings, suites[0]))
        return
    click.get_current_context().find_root().obj = "run the same command again to go on"
    with _pool(options, workers, gpus, ray) as pool, _Bars() as bars:
        run = run_sweep(
            model, folder, plan, settings, suites, options, pool, bars, retry_failed=retry_failed
        )
    _show_report(run)
    say(f"page, tables and maps: rys-gguf report {printable(folder)}")


@click.command()
@click.argument("run", type=FILE)
@click.option("-o", "--output", type=FILE, help="Folder to write to.  [default: RUN/report]")
def report(run: Path, output: Path | None) -> None:
    """Judge a sweep: verdicts, tables, maps.

    Prints the verdicts and the map, and writes one HTML page with everything, with CSV and PNG
    beside it.
    """
    from rys_gguf.report.write import write_report
    from rys_gguf.runs.storage import Run

    opened = Run.open(run)
    paths = write_report(opened, output or run / "report")
    _show_report(opened)
    say("")
    echo(map(str, paths))


@click.command()
@click.argument("run_a", type=FILE)
@click.argument("run_b", type=FILE)
@json_option
def compare(run_a: Path, run_b: Path, as_json: bool) -> None:
    """Compare two sweeps, for example of BF16 and quantised.

    Refuses runs with other items or settings. Shows what each family keeps of the first run's
    score, and what is left of its windows' gains.
    """
    from rys_gguf.runs.storage import Run
    from rys_gguf.stats.compare import compare as compare_runs
    from rys_gguf.stats.compare import comparison_lines

    found = compare_runs(Run.open(run_a), Run.open(run_b))
    if as_json:
        echo_json(_finite(dataclasses.asdict(found)))
    else:
        echo(comparison_lines(found))


@click.command()
@click.argument("variant", type=FILE)
@click.option("--source", type=FILE, help="The model it was made from.")
@map_options
@click.option("--run", type=FILE, help="The sweep that found the window: scores for the card.")
@click.option(
    "--validation",
    type=FILE,
    help="What validate saved.  [default: VARIANT.validate.json, if it is there]",
)
@click.option("-o", "--output", type=FILE, help="File to write.  [default: print]")
@force_option
def card(
    variant: Path,
    source: Path | None,
    blocks: tuple[str, ...],
    layers: str | None,
    run: Path | None,
    validation: Path | None,
    output: Path | None,
    force: bool,
) -> None:
    """Write a Hugging Face model card for a variant.

    Files, the path through the layers, the architecture's rule, scores with intervals, usage, and
    what was validated.
    """
    from rys_gguf.formats.model import Model
    from rys_gguf.report.card import card as make_card
    from rys_gguf.runs.storage import Run

    layer_map = _map_of(variant, source, blocks, layers)
    found = None if run is None else Run.open(run)
    validated = _validation(variant, validation)
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(Model(variant))
        base = None if source is None else stack.enter_context(Model(source))
        text = make_card(opened, base, layer_map, found, validated)
    if output is None:
        click.echo(text, nl=False)
    else:
        write_text(output, text, [variant] if source is None else [variant, source], force=force)
        say(f"{printable(output)}: check it before you publish it")


COMMANDS = (probe, sweep, report, compare, card)


# -- what the commands share -------------------------------------------------------------------


def _suites(
    model: Path,
    suite: Path | None,
    heldout: Path | None,
    size: str,
    families: tuple[str, ...],
    levels: tuple[tuple[tuple[str, ...], int], ...],
    seed: int,
    *,
    controls: tuple[str, ...] = (),
) -> tuple[Suite, Suite]:
    """The items to search with, and those held out, which alone hold the families `controls`."""
    from rys_gguf.errors import InvalidOptions
    from rys_gguf.probes.choose import SuiteOptions, choose_suites

    options = SuiteOptions(suite, size, families, levels, seed, heldout, controls)
    try:
        return choose_suites(model, options)
    except InvalidOptions as e:
        raise click.UsageError(str(e)) from e


@contextlib.contextmanager
def _pool(
    options: EngineOptions, n_workers: int, gpus: str | None, ray: str | None
) -> Iterator[Pool]:
    from rys_gguf.search.executors.local import LocalPool, shares

    names = tuple(part.strip() for part in gpus.split(",")) if gpus else ()
    if ray is None:
        with LocalPool(shares(options, n_workers, names)) as local:
            yield local
        return
    from rys_gguf.search.executors.ray_cluster import RayPool

    cpus = options.n_threads or 1
    with RayPool(ray, n_workers, options, cpus=cpus, gpus=len(names) / n_workers) as pool:
        yield pool


class _Bars:
    """A sweep's progress on a terminal: a bar for each part, with the time left."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def say(self, line: str) -> None:
        """A line above the bar."""
        if self._bar is not None:
            self._bar.clear()
        say(line)

    def begin(self, what: str, total: int) -> None:
        """Another bar."""
        from tqdm import tqdm

        self.__exit__()
        self._bar = tqdm(
            total=total, desc=what, unit="stage", leave=False, disable=None, file=sys.stderr
        )

    def advance(self) -> None:
        """One stage more."""
        self._bar.update(1)


def _map_of(
    variant: Path, source: Path | None, blocks: tuple[str, ...], layers: str | None
) -> LayerMap:
    """The map of a variant, by its source or by what it records itself."""
    if source is not None:
        return map_between(variant, source, blocks, layers)
    if blocks or layers:
        raise click.UsageError("--blocks and --layers go with --source")
    from gguf.constants import GGUFValueType

    from rys_gguf.formats.model import Model
    from rys_gguf.patch.provenance import MAP_KEY, recorded_map

    with Model(variant) as opened:
        kv = opened.header.get(MAP_KEY)
        # The last layer is part of every map but those that drop it, which only a source tells.
        sources = kv.value if kv is not None and kv.item_type == GGUFValueType.INT32 else []
        try:
            layer_map = recorded_map(opened.header, 1 + max(sources, default=0))
        except InvalidLayerMap as e:
            raise InvalidLayerMap(f"{printable(variant)}: {MAP_KEY}: {e}") from e
        if layer_map is None:
            raise opened.refuse("records no layer map; name the model it was made from (--source)")
        return layer_map


def _finite(value: Any) -> Any:
    """Plain values as JSON can hold them: an interval without an end ends in null."""
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _validation(variant: Path, path: Path | None) -> Any:
    """What `validate` saved of a variant, or None."""
    found = path or variant.with_name(variant.name + ".validate.json")
    if path is None and not found.exists():
        return None
    try:
        value = json.loads(found.read_text())
    except OSError as e:
        raise RysError(f"{printable(found)}: {e.strerror or e}") from e
    except ValueError as e:
        raise RysError(f"{printable(found)}: not what validate saved: {printable(str(e))}") from e
    rungs = value.get("rungs") if isinstance(value, dict) else None
    if not isinstance(rungs, list) or not all(isinstance(rung, dict) for rung in rungs):
        raise RysError(f"{printable(found)}: not what validate saved: rungs are missing")
    return value


def _show_report(run: Any) -> None:
    from rys_gguf.report.write import text_report

    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower().replace("-", "")
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    echo(text_report(run, ascii_only=not encoding.startswith("utf"), color=colour))

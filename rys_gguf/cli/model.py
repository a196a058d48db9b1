"""The commands that patch a model and check the result; those that search are in `cli_search`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rys_gguf._version import __version__
from rys_gguf.cli.terminal import (
    FILE,
    Group,
    Parsed,
    echo,
    echo_json,
    engine_of,
    engine_options,
    force_option,
    json_option,
    map_between,
    map_options,
    plan_options,
    progress_bar,
    proof_options,
    require_writable,
    say,
    size_bytes,
    spec_of,
    write_text,
)
from rys_gguf.errors import InvalidLayerMap, RysError
from rys_gguf.text import printable

# What a command needs loads inside it: --help and --version answer without numpy and gguf.
if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from rys_gguf.patch.plan import Plan
    from rys_gguf.patch.writer import Written


class _Commands(Group):
    """All commands; those that search load when one is called, or all are listed."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        if cmd_name not in self.commands:
            self._load()
        return super().get_command(ctx, cmd_name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands."""
        self._load()
        return super().list_commands(ctx)

    def _load(self) -> None:
        from rys_gguf.cli.search import COMMANDS

        for command in COMMANDS:
            self.add_command(command)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="rys-gguf")
def main() -> None:
    """Repeat layers of a GGUF model, and prove that the result computes what it should."""


@main.command()
@click.argument("model", type=FILE)
@json_option
def inspect(model: Path, as_json: bool) -> None:
    """Show a model's layers and which may be repeated.

    Draws the kind of every layer, and lists quantisation types, bytes per layer, the rule
    llama.cpp applies, and the window lengths that are legal under each schedule.
    """
    from rys_gguf.cli.render import description_json, description_lines
    from rys_gguf.formats.model import Model
    from rys_gguf.layers.describe import describe

    with Model(model) as opened:
        found = describe(opened)
        if as_json:
            echo_json(description_json(opened, found))
        else:
            echo(description_lines(opened, found))


@main.command()
@click.argument("model", type=FILE)
@map_options
@plan_options
@click.option("--full", is_flag=True, help="List every tensor and every value.")
@json_option
def plan(
    model: Path,
    blocks: tuple[str, ...],
    layers: str | None,
    schedule: str,
    no_provenance: bool,
    assume_uniform: bool,
    full: bool,
    as_json: bool,
) -> None:
    """Show what apply would write.

    The map, the header diff, sizes and memory. Reads no tensor data: a model of 500 GB takes no
    longer than a small one.
    """
    options = _options(schedule, no_provenance, assume_uniform)
    with _planned(model, blocks, layers, options) as planned:
        _show_plan(planned, full=full, as_json=as_json)


@main.command()
@click.argument("model", type=FILE)
@map_options
@plan_options
@click.option("-o", "--output", type=FILE, help="Output file  [default: beside the model]")
@click.option(
    "--split-max-size",
    type=Parsed("size", size_bytes),
    help="Write shards of at most this much tensor data, such as 50G, named as llama.cpp wants.",
)
@force_option
@click.option("--dry-run", is_flag=True, help="Show the plan and write nothing.")
@click.option("--full", is_flag=True, help="With --dry-run: list every tensor and every value.")
@json_option
def apply(
    model: Path,
    blocks: tuple[str, ...],
    layers: str | None,
    schedule: str,
    no_provenance: bool,
    assume_uniform: bool,
    output: Path | None,
    split_max_size: int | None,
    force: bool,
    dry_run: bool,
    full: bool,
    as_json: bool,
) -> None:
    """Write the model that the map describes.

    The output appears under its name only once it is complete; the source is never touched.
    """
    from rys_gguf.cli.render import plan_json
    from rys_gguf.patch.plan import default_output
    from rys_gguf.patch.writer import write_plan

    options = _options(schedule, no_provenance, assume_uniform)
    with _planned(model, blocks, layers, options) as planned:
        if dry_run:
            _show_plan(planned, full=full, as_json=as_json)
            return
        path = output or default_output(planned.model, planned.layer_map)
        with progress_bar(planned.n_bytes, printable(path.name)) as progress:
            written = write_plan(
                planned, path, force=force, split_max_bytes=split_max_size, progress=progress
            )
        _notes(planned)
        _say_shared(written)
        if as_json:
            echo_json({**_written_json(written), **plan_json(planned)})
        else:
            echo(map(str, written.paths))


@main.command()
@click.argument("model", type=FILE)
@click.option("-o", "--output", type=FILE, required=True, help="Output file.")
@click.option(
    "--alignment",
    type=click.IntRange(32, 1 << 24),
    default=4096,
    show_default=True,
    help="Bytes; a multiple of the file system's block size.",
)
@force_option
@json_option
def align(model: Path, output: Path, alignment: int, force: bool, as_json: bool) -> None:
    """Rewrite a model once so that its variants can share its blocks.

    On XFS, btrfs, bcachefs and ZFS a variant of an aligned model then takes no disk but for its
    header: apply shares the data instead of copying it.
    """
    from rys_gguf.formats.model import Model
    from rys_gguf.patch.align import align as align_model

    with Model(model) as opened, progress_bar(opened.n_bytes, printable(output.name)) as progress:
        written = align_model(opened, output, alignment=alignment, force=force, progress=progress)
    if as_json:
        echo_json(_written_json(written))
    else:
        echo(map(str, written.paths))


@main.command()
@click.argument("a", type=FILE)
@click.argument("b", type=FILE)
@click.option("--full", is_flag=True, help="List every tensor and every value.")
@json_option
def diff(a: Path, b: Path, full: bool, as_json: bool) -> None:
    """Show how two GGUF headers differ.

    Keys, tensor table and sizes; no tensor data is read.
    """
    from rys_gguf.cli.render import diff_json, diff_lines
    from rys_gguf.formats.model import Model
    from rys_gguf.patch.diff import diff_models

    with Model(a) as old, Model(b) as new:
        found = diff_models(old, new)
        if as_json:
            echo_json(diff_json(found))
            return
        if found.is_empty:
            say("the headers say the same")
        echo(diff_lines(found, full=full))


@main.command()
@click.argument("output", type=FILE)
@click.option("--source", "source", type=FILE, required=True, help="The model it was made from.")
@map_options
@json_option
def verify(
    output: Path, source: Path, blocks: tuple[str, ...], layers: str | None, as_json: bool
) -> None:
    """Check a written model against its source.

    Works from the two files alone: every tensor byte for byte, every key, every layer's kind. The
    map is the one recorded in the file, or --blocks/--layers, and is checked either way. Lists
    every problem; exit code 1 if there is any.
    """
    from rys_gguf.checks.verify import find_problems, n_compared_bytes

    spec = spec_of(blocks, layers) if blocks or layers else None
    with progress_bar(n_compared_bytes(output), "verify") as progress:
        problems = find_problems(output, source, spec, progress=progress)
    if as_json:
        echo_json(
            {
                "ok": not problems,
                "problems": [{"where": p.where, "what": p.what} for p in problems],
            }
        )
    else:
        for problem in problems:
            click.echo(str(problem))
    if problems:
        raise click.ClickException(
            f"{printable(output.name)}: {len(problems)} problem{'s' * (len(problems) != 1)} found"
        )
    if not as_json:
        click.echo(f"{printable(output.name)}: every layer is its source, nothing else changed")


@main.command()
@click.argument("variant", type=FILE)
@click.option("--source", type=FILE, required=True, help="The model it was made from.")
@map_options
@proof_options
@engine_options
@json_option
def prove(
    variant: Path,
    source: Path,
    blocks: tuple[str, ...],
    layers: str | None,
    tolerance: float,
    workdir: Path | None,
    llama_server: str | None,
    threads: int | None,
    engine_arguments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Prove in llama.cpp that every output layer runs as its source.

    Silences copies, then originals, so that the rest is the source again, and compares the
    distributions. Catches what no look at the file can: a rule nobody knew, an engine that does
    not read what the file says.
    """
    from rys_gguf.checks.prove import describe_difference
    from rys_gguf.checks.prove import prove as run_proof
    from rys_gguf.cli.render import proof_lines

    options = engine_of(llama_server, threads, engine_arguments)
    layer_map = map_between(variant, source, blocks, layers)
    proof = run_proof(
        variant, source, layer_map, options, tolerance=tolerance, workdir=workdir, say=say
    )
    if as_json:
        echo_json({"ok": proof.holds(tolerance), **_fields(proof)})
    else:
        echo(proof_lines(proof, layer_map, tolerance))
    if not proof.holds(tolerance):
        raise RysError(f"{printable(variant.name)}: {describe_difference(proof, layer_map)}")


@main.command()
@click.argument("variant", type=FILE)
@click.option("--source", type=FILE, help="Judge relative to this model's own answers.")
@engine_options
@json_option
def smoke(
    variant: Path,
    source: Path | None,
    llama_server: str | None,
    threads: int | None,
    engine_arguments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Test for loops and garbage with prompts that force structure.

    Greedy answers, thinking off. Small models loop by themselves: with --source the variant fails
    only where it is clearly worse than its source. The offending text is printed.
    """
    from rys_gguf.checks import smoke as smoking

    options = engine_of(llama_server, threads, engine_arguments)
    models = [variant] if source is None else [variant, source]
    with progress_bar(len(models) * len(smoking.PROMPTS), "smoke", unit="prompt") as progress:
        answers = [
            smoking.run_smoke(model, options, progress=lambda _answer: progress(1))
            for model in models
        ]
    verdict = smoking.compare(*answers)
    if as_json:
        echo_json(smoking.as_json(verdict))
    else:
        echo(smoking.report(verdict))
    if not verdict.passed:
        raise RysError(f"{printable(variant.name)}: {verdict.reasons[0]}")


@main.command()
@click.argument("variant", type=FILE)
@click.option("--source", type=FILE, required=True, help="The model it was made from.")
@map_options
@proof_options
@click.option(
    "--report", type=FILE, help="Where the report goes.  [default: VARIANT.validate.json]"
)
@force_option
@engine_options
@json_option
def validate(
    variant: Path,
    source: Path,
    blocks: tuple[str, ...],
    layers: str | None,
    tolerance: float,
    workdir: Path | None,
    report: Path | None,
    force: bool,
    llama_server: str | None,
    threads: int | None,
    engine_arguments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Climb the method's ladder: verify, load, prove, smoke.

    Stops at the rung that breaks, and saves what every rung showed as JSON.
    """
    from rys_gguf.checks.ladder import validate as climb

    options = engine_of(llama_server, threads, engine_arguments)
    layer_map = map_between(variant, source, blocks, layers)
    # A file named after the variant is the last report on it; one the user names may be anything.
    path = report or variant.with_name(variant.name + ".validate.json")
    replace = force or report is None
    require_writable(path, [variant, source], force=replace)
    found = climb(
        variant,
        source,
        layer_map,
        options,
        tolerance=tolerance,
        workdir=workdir,
        done=lambda rung: say(
            f"{rung.name:7} {rung.outcome:6} {rung.seconds:6.1f} s  {rung.shows}"
        ),
    )
    write_text(path, found.dump(), [variant, source], force=replace)
    if as_json:
        echo_json({"ok": found.passed, **_fields(found)})
    else:
        click.echo(path)
    if not found.passed:
        last = found.rungs[-1]
        raise RysError(f"{printable(variant.name)}: {last.name} failed: {last.shows}")
    say("next: judge it on tasks of your own against the source, then quantised as it will be used")


@main.command()
@click.argument("name", required=False)
@json_option
def architectures(name: str | None, as_json: bool) -> None:
    """Show how llama.cpp's layers depend on their position.

    One line per architecture, or everything on the one that is named: rules, what an explicit
    schedule can spell out, and where in llama.cpp's source it stands.
    """
    from rys_gguf.layers.architectures import ARCHITECTURES, CHECKED_AGAINST
    from rys_gguf.layers.catalogue import entry

    if name is not None and name not in ARCHITECTURES:
        raise RysError(f"architecture {printable(name)!r} is not in the table")
    entries = [entry(arch) for arch in ARCHITECTURES.values() if name in (None, arch.name)]
    if as_json:
        echo_json([_fields(e) for e in entries])
        return
    width = max(len(e.name) for e in entries)
    for e in entries:
        if name is None:
            click.echo(f"{e.name:{width}}  {e.verdict}")
            continue
        click.echo(f"{e.name}: {e.verdict}")
        for rule in e.rules:
            click.echo(f"  {rule}")
        click.echo(f"  portable   {e.portable}")
        click.echo(f"  explicit   {e.explicit}")
        click.echo(f"  source     llama.cpp {e.source}, checked against {CHECKED_AGAINST}")


# -- from options to a plan --------------------------------------------------------------------


def _show_plan(planned: Plan, *, full: bool, as_json: bool) -> None:
    from rys_gguf.cli.render import plan_json, plan_lines

    if as_json:
        echo_json(plan_json(planned, full=full))
    else:
        echo(plan_lines(planned, full=full))
        _notes(planned)


def _say_shared(written: Written) -> None:
    from rys_gguf.text import size

    if written.n_shared:
        say(f"{size(written.n_shared)} shared with the source, {size(written.n_copied)} written")


def _fields(data: DataclassInstance) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(data)


def _written_json(written: Written) -> dict[str, Any]:
    return {
        "output": [str(path) for path in written.paths],
        "n_shared": written.n_shared,
        "n_copied": written.n_copied,
    }


def _notes(planned: Plan) -> None:
    for note in planned.notes:
        say(f"note: {note}")


@contextlib.contextmanager
def _planned(
    path: Path, blocks: tuple[str, ...], layers: str | None, options: dict[str, Any]
) -> Iterator[Plan]:
    from rys_gguf.formats.model import Model
    from rys_gguf.layers.layer_map import LayerMap
    from rys_gguf.patch.plan import make_plan

    spec = spec_of(blocks, layers)
    with Model(path) as model:
        try:
            layer_map = LayerMap.parse(spec, model.n_trunk)
        except InvalidLayerMap as e:
            tail = f" (and {model.n_mtp} MTP blocks, which stay last)" if model.n_mtp else ""
            raise InvalidLayerMap(f"{model.name}: {e}{tail}") from e
        yield make_plan(model, layer_map, **options)


def _options(schedule: str, no_provenance: bool, assume_uniform: bool) -> dict[str, Any]:
    from rys_gguf.layers.schedule import Schedule

    return {
        "schedule": Schedule(schedule),
        "provenance": not no_provenance,
        "assume_uniform": assume_uniform,
    }

"""The commands that read and write models: inspect, plan, apply, align, diff."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from rys_gguf.cli.options import (
    FILE,
    HEADER,
    MODEL,
    LayerSpec,
    Parsed,
    PlanOptions,
    damp_option,
    force_option,
    full_option,
    handing_over,
    json_option,
    layer_options,
    plan_options,
    size_bytes,
)
from rys_gguf.cli.output import echo, echo_json, is_named, output_path, say
from rys_gguf.cli.progress import Progress
from rys_gguf.cli.render import (
    description_json,
    description_lines,
    diff_json,
    diff_lines,
    plan_json,
    plan_lines,
    written_json,
)
from rys_gguf.formats.foreign import loading_notes
from rys_gguf.formats.model import Model
from rys_gguf.hub.caches import outside_caches
from rys_gguf.hub.find import RemoteModel, open_model
from rys_gguf.hub.ranges import RangedFile
from rys_gguf.layers.describe import describe
from rys_gguf.patch.align import align as align_model
from rys_gguf.patch.apply import parse_spec
from rys_gguf.patch.companion import companions_beside
from rys_gguf.patch.diff import diff_models
from rys_gguf.patch.naming import default_output
from rys_gguf.patch.plan import Plan, make_plan
from rys_gguf.patch.sharing import sharing
from rys_gguf.patch.writer import Written, write_plan
from rys_gguf.text import printable, size

# Files beside a model that a note names.
_NAMED = 3


@click.command()
@click.argument("model", type=HEADER)
@json_option
def inspect(model: Path | RemoteModel, as_json: bool) -> None:
    """Show a model's layers and which may be repeated.

    Draws the kind of every layer, and lists quantisation types, bytes per layer, the rule that
    llama.cpp applies, and the window lengths that are legal under each schedule.
    """
    with _opened(model) as opened:
        description = describe(opened)
        if as_json:
            echo_json(description_json(opened, description))
        else:
            echo(description_lines(opened, description))
        _say_notes(loading_notes(opened.header))


@click.command()
@click.argument("model", type=HEADER)
@layer_options
@damp_option
@plan_options
@full_option
@json_option
def plan(
    model: Path | RemoteModel,
    layers: LayerSpec,
    damp: float,
    options: PlanOptions,
    full: bool,
    as_json: bool,
) -> None:
    """Show what apply would write.

    Shows the map, the changes to the header, sizes and memory. Reads no tensor data, so a model
    of 500 GB takes no longer than a small one.
    """
    with planned_variant(model, layers, damp, options) as planned:
        _show_plan(planned, full=full, as_json=as_json)


@dataclass(frozen=True, slots=True)
class _WriteOptions:
    """Where and how `apply` writes."""

    output: Path | None
    split_max_size: int | None
    force: bool


@click.command()
@click.argument("model", type=HEADER)
@layer_options
@damp_option
@plan_options
@handing_over(
    "write",
    _WriteOptions,
    click.option(
        "-o", "--output", type=FILE, help="Output file or folder.  [default: beside the model]"
    ),
    click.option(
        "--split-max-size", type=Parsed("size", size_bytes),
        help="Write shards with at most this much tensor data each, such as 50G, named as "
        "llama.cpp expects.",
    ),
    force_option,
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Show the plan and write nothing.")
@click.option("--full", is_flag=True, help="With --dry-run: list every tensor and every value.")
@json_option
def apply(
    model: Path | RemoteModel,
    layers: LayerSpec,
    damp: float,
    options: PlanOptions,
    write: _WriteOptions,
    dry_run: bool,
    full: bool,
    as_json: bool,
) -> None:
    """Write a model with repeated layers.

    The output appears under its name only once it is complete. The source is never changed.
    """
    if isinstance(model, RemoteModel) and not dry_run:
        raise model.absent()
    with planned_variant(model, layers, damp, options) as planned:
        if dry_run:
            _show_plan(planned, full=full, as_json=as_json)
        else:
            _write(planned, write, as_json=as_json)


@click.command()
@click.argument("model", type=MODEL)
@click.option("-o", "--output", type=FILE, required=True, help="Output file or folder.")
@click.option(
    "--alignment",
    type=click.IntRange(32, 1 << 24),
    default=4096,
    show_default=True,
    help="Alignment in bytes: a multiple of the file system's block size.",
)
@force_option
@json_option
def align(model: Path, output: Path, alignment: int, force: bool, as_json: bool) -> None:
    """Rewrite a model so that its variants can share its blocks.

    This is done once for a model. On XFS, btrfs, bcachefs and ZFS a variant of the result then
    takes disk space for its header only: apply shares the data instead of copying it.
    """
    path = output_path(output, model)
    with Model(model) as opened, Progress() as progress:
        progress.begin(path.name, opened.n_bytes, "B")
        written = align_model(
            opened, path, alignment=alignment, force=force, progress=progress.advance,
            may_be_link=is_named(output),
        )  # fmt: skip
    if as_json:
        echo_json(written_json(written))
    else:
        echo(map(str, written.paths))


@click.command()
@click.argument("a", type=HEADER)
@click.argument("b", type=HEADER)
@full_option
@json_option
def diff(a: Path | RemoteModel, b: Path | RemoteModel, full: bool, as_json: bool) -> None:
    """Show how two GGUF headers differ.

    Compares keys, tensor tables and sizes; no tensor data is read.
    """
    with _opened(a) as old, _opened(b) as new:
        differences = diff_models(old, new)
        if as_json:
            echo_json(diff_json(differences))
            return
        if differences.is_empty:
            say("no differences")
        echo(diff_lines(differences, full=full))


@contextlib.contextmanager
def planned_variant(
    path: Path | RemoteModel, layers: LayerSpec, damp: float, options: PlanOptions
) -> Iterator[Plan]:
    """The plan that options ask for. Raises a usage error if they name no layers."""
    with _opened(path) as model:
        yield make_plan(
            model,
            parse_spec(model, layers.required(model), damp),
            schedule=options.schedule,
            provenance=options.provenance,
            assume_uniform=options.assume_uniform,
        )


def _opened(model: Path | RemoteModel) -> Model:
    """The open model; of one on the Hub the user is told which file it is."""
    if isinstance(model, RemoteModel):
        path, n_bytes = model.files[0][0], size(model.n_bytes)
        say(f"{model.name.text}: {path} on the Hub, {n_bytes}; only its header is read")
    return open_model(model)


def _show_plan(planned: Plan, *, full: bool, as_json: bool) -> None:
    if as_json:
        echo_json(plan_json(planned, full=full))
    else:
        echo(plan_lines(planned, _disk_use(planned), full=full))
        _say_notes(planned.notes)


def _disk_use(planned: Plan) -> str:
    """Whether a variant under its default name would share its data with the model."""
    source = planned.model.files[0]
    if isinstance(source, RangedFile):
        return "the model is not on this machine"
    return (
        sharing(planned, outside_caches(source.path)).why_not
        or "shared with the model but for the header"
    )


def _write(planned: Plan, write: _WriteOptions, *, as_json: bool) -> None:
    path = output_path(write.output, default_output(planned.model, planned.layer_map))
    with Progress() as progress:
        progress.begin(path.name, planned.n_bytes, "B")
        written = write_plan(
            planned,
            path,
            force=write.force,
            split_max_bytes=write.split_max_size,
            progress=progress.advance,
            may_be_link=is_named(write.output),
        )
    _say_notes(planned.notes)
    _say_notes(_companion_notes(planned, written))
    if written.n_shared:
        say(f"{size(written.n_shared)} shared with the source, {size(written.n_copied)} written")
    if as_json:
        echo_json({**written_json(written), **plan_json(planned)})
    else:
        echo(map(str, written.paths))


def _companion_notes(planned: Plan, written: Written) -> Iterator[str]:
    """What beside the model will not fit the variant, in one line."""
    names = [printable(name) for name in companions_beside(planned.model)]
    if names:
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        yield (
            f"{', '.join(names[:_NAMED])}{more}: right for the model's layer numbers only; "
            f"rys-gguf companion {written.paths[0].name} FILE makes it fit"
        )


def _say_notes(notes: Iterable[str]) -> None:
    for note in notes:
        say(f"note: {note}")

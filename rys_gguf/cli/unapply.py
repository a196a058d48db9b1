"""The command that gives back what a variant was made from: unapply."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from rys_gguf.cli.options import FILE, MODEL, force_option, handing_over, json_option
from rys_gguf.cli.output import echo, echo_json, output_path, say
from rys_gguf.cli.progress import Progress
from rys_gguf.cli.render import written_json
from rys_gguf.formats.model import Model
from rys_gguf.patch.undo import Undo, n_compared_bytes, plan_undo
from rys_gguf.patch.undo import unapply as write_source
from rys_gguf.text import size


@dataclass(frozen=True, slots=True)
class _Output:
    """Where the source goes; with `dry_run` nowhere."""

    output: Path | None
    force: bool
    dry_run: bool

    def path(self, undo: Undo) -> Path:
        """The file to write. Raises a usage error if the user named none."""
        if self.output is None:
            raise click.UsageError("say where the source goes with -o")
        return output_path(self.output, Path(undo.file_name))


@click.command()
@click.argument("variant", type=MODEL)
@click.option(
    "--to-base", is_flag=True, help="Give back the original model, not the immediate source."
)
@click.option(
    "--inexact",
    is_flag=True,
    help="Accept a header other than the source's where that cannot be had back. Every layer "
    "still runs as it did.",
)
@handing_over(
    "write",
    _Output,
    click.option("-o", "--output", type=FILE, help="Output file or folder."),
    force_option,
    click.option("--dry-run", is_flag=True, help="Show what would be written and write nothing."),
)
@json_option
def unapply(variant: Path, to_base: bool, inexact: bool, write: _Output, as_json: bool) -> None:
    """Give back the model that a variant was made from.

    It is the same file, byte for byte: its size and the SHA-256 of its header must be those that
    the variant records. What the variant does not hold, such as a layer that the map dropped, is
    named, and nothing is written.
    """
    with Model(variant) as model:
        undo = plan_undo(model, to_base=to_base, exact=not inexact)
        data = _undo_json(undo)
        if not write.dry_run:
            data |= _write(undo, write.path(undo), force=write.force)
        if as_json:
            echo_json(data)
        else:
            echo(_undo_lines(undo) if write.dry_run else data["output"])
        _say_result(undo)


def _write(undo: Undo, path: Path, *, force: bool) -> dict[str, Any]:
    with Progress() as progress:
        progress.begin(path.name, n_compared_bytes(undo) + undo.n_bytes, "B")
        return written_json(write_source(undo, path, force=force, progress=progress.advance))


def _say_result(undo: Undo) -> None:
    if undo.fault:
        say(f"note: not {undo.source_name} byte for byte: {undo.fault}")
    else:
        say(f"{undo.source_name} byte for byte: size and header are those on record")


def _undo_lines(undo: Undo) -> Iterator[str]:
    layer_map = undo.layer_map
    yield f"{undo.model.name}  back to {undo.source_name}, undoing {undo.origin.layer_map.spec}"
    yield f"layers   {undo.model.n_trunk} -> {len(layer_map)}"
    for stretch in layer_map.path():
        last = stretch.n_layers - 1
        layers = f"{stretch.out}..{stretch.out + last}" if last else str(stretch.out)
        outputs = f"{stretch.source}..{stretch.source + last}" if last else str(stretch.source)
        yield f"  layer {layers} <- output {outputs}"
    yield f"bytes    {undo.model.n_bytes} -> {undo.n_bytes} ({size(undo.n_bytes)})"
    if len(undo.files) > 1:
        yield f"files    {len(undo.files)}"


def _undo_json(undo: Undo) -> dict[str, Any]:
    return {
        "source": undo.source_name,
        "is_base": undo.origin.is_base,
        "spec": undo.origin.layer_map.spec,
        "exact": not undo.fault,
        "fault": undo.fault,
        "layer_map": undo.layer_map.sources,
        "n_files": len(undo.files),
        "n_bytes": [undo.model.n_bytes, undo.n_bytes],
    }

"""The command for what belongs to a model: companion."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from rys_gguf.cli.options import (
    FILE,
    MODEL,
    LayerSpec,
    force_option,
    handing_over,
    json_option,
    layer_options,
)
from rys_gguf.cli.output import echo, echo_json, is_named, output_path, say
from rys_gguf.cli.progress import Progress
from rys_gguf.errors import InvalidOptions
from rys_gguf.formats.model import Model
from rys_gguf.patch.companion import Companion
from rys_gguf.patch.provenance import resolve_layer_map
from rys_gguf.patch.remap import Variant
from rys_gguf.text import printable


@dataclass(frozen=True, slots=True)
class _Output:
    """Where the files go."""

    output: Path | None
    force: bool


@click.command()
@click.argument("variant", type=MODEL)
@click.argument("files", type=FILE, nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--source", type=MODEL,
    help="The model that the files belong to.  [default: the original model on record]",
)  # fmt: skip
@layer_options
@handing_over(
    "write",
    _Output,
    click.option(
        "-o", "--output", type=FILE, help="Output file or folder.  [default: beside each file]"
    ),
    force_option,
)
@json_option
def companion(
    variant: Path,
    files: tuple[Path, ...],
    source: Path | None,
    layers: LayerSpec,
    write: _Output,
    as_json: bool,
) -> None:
    """Make what belongs to a model fit a variant of it.

    Takes importance matrices (.gguf, and .dat in the old format), LoRA adapters and control vectors
    in GGUF, and draft models that read layers of their target. Each file is written anew, under
    the numbers that its layers have in the variant; every copy of a layer gets what the layer has.
    Files of another model are refused. Nothing is written unless all files are right.
    """
    with contextlib.ExitStack() as stack:
        model = stack.enter_context(Model(variant))
        base = None if source is None else stack.enter_context(Model(source))
        spec = layers.of(base or model)
        target = Variant(model, resolve_layer_map(model, base, spec), base)
        opened = [stack.enter_context(Companion(path, target)) for path in files]
        outputs = _outputs(opened, write)
        _write(opened, outputs, write)
        if as_json:
            echo_json(list(_facts(opened, outputs)))
        else:
            echo(str(path) for path in outputs if path is not None)


def _outputs(companions: Sequence[Companion], write: _Output) -> list[Path | None]:
    """Where each goes; None for one that is right as it is. Raises InvalidOptions."""
    paths = [None if c.fits else output_path(write.output, c.default_output) for c in companions]
    written = [path for path in paths if path is not None]
    if len(set(written)) < len(written):
        raise InvalidOptions(
            f"{len(written)} files cannot all be written to {printable(written[0].name)}; name a "
            f"folder with -o"
        )
    return paths


def _write(companions: Sequence[Companion], outputs: Sequence[Path | None], write: _Output) -> None:
    for one, path in zip(companions, outputs, strict=True):
        if path is None:
            say(f"note: {one.name} fits as it is: {one.fits}")
            continue
        with Progress() as progress:
            progress.begin(path.name, one.n_bytes, "B")
            one.write(
                path, force=write.force, progress=progress.advance,
                may_be_link=is_named(write.output),
            )  # fmt: skip
        for note in one.notes:
            say(f"note: {one.name}: {note}")


def _facts(
    companions: Sequence[Companion], outputs: Sequence[Path | None]
) -> Iterator[dict[str, Any]]:
    for one, path in zip(companions, outputs, strict=True):
        yield {
            "file": str(one.path),
            "kind": one.kind.name.lower(),
            "output": None if path is None else str(path),
            "notes": [*one.notes, *([one.fits] if one.fits else [])],
        }

"""The command that writes a model card."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rys_gguf.cli.options import (
    FILE,
    MODEL,
    LayerSpec,
    force_option,
    handing_over,
    layer_options,
    needs,
)
from rys_gguf.cli.output import TextOutput, say
from rys_gguf.cli.prove import report_path
from rys_gguf.errors import RysError
from rys_gguf.extras import require
from rys_gguf.files.text_file import read_text
from rys_gguf.formats.model import Model
from rys_gguf.patch.provenance import resolve_layer_map
from rys_gguf.text import printable

if TYPE_CHECKING:
    from rys_gguf.stats.evidence import RunData


@dataclass(frozen=True, slots=True)
class _Evidence:
    """Files that say what was measured and checked."""

    run: Path | None
    validation: Path | None


@dataclass(frozen=True, slots=True)
class _CardOutput:
    """Where the card goes."""

    output: Path | None
    force: bool


@click.command()
@needs("a model card", "huggingface_hub", "jinja2", "msgspec")
@click.argument("variant", type=MODEL)
@click.option("--source", type=MODEL, help="The model it was made from.")
@layer_options
@handing_over(
    "evidence",
    _Evidence,
    click.option(
        "--run", type=FILE, help="The sweep that found the window: its scores go into the card."
    ),
    click.option(
        "--validation", type=FILE,
        help="The report of validate.  [default: VARIANT.validate.json, if it exists]",
    ),
)  # fmt: skip
@handing_over(
    "write",
    _CardOutput,
    click.option(
        "-o", "--output", type=FILE, help="File or folder to write to.  [default: print]"
    ),
    force_option,
)  # fmt: skip
def card(
    variant: Path,
    source: Path | None,
    layers: LayerSpec,
    evidence: _Evidence,
    write: _CardOutput,
) -> None:
    """Write a Hugging Face model card for a variant.

    It holds the files, the path through the layers, the architecture's rule, scores with
    intervals, usage, and what was validated.
    """
    if layers.is_given and source is None:
        raise click.UsageError("--blocks, --layers and --mergekit go with --source")
    spec = layers.of(source or variant)
    if evidence.run is not None:
        require("the scores of a run", "scipy")
    from rys_gguf.runs.storage import Run  # needs an optional package; help works without it

    run = None if evidence.run is None else Run.open(evidence.run)
    validation = _validation_of(variant, evidence.validation)
    text = card_text(variant, source, spec, run, validation)
    if write.output is None:
        click.echo(text, nl=False)
        return
    inputs = [variant] if source is None else [variant, source]
    default = Path("README.md")
    output = TextOutput.named(write.output, inputs, force=write.force, default=default)
    output.write(text)
    say(f"{printable(output.path)}: check it before you publish it")


def card_text(
    variant: Path,
    source: Path | None,
    spec: str | None,
    run: RunData | None,
    validation: Mapping[str, Any] | None,
) -> str:
    """The card of a variant; `spec` is its map where the file records none."""
    from rys_gguf.report.card import make_card  # needs an optional package; help works without it

    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(Model(variant))
        base = None if source is None else stack.enter_context(Model(source))
        layer_map = resolve_layer_map(opened, base, spec)
        return make_card(opened, base, layer_map, run, validation)


def _validation_of(variant: Path, path: Path | None) -> Mapping[str, Any] | None:
    """The named report, or the one beside the variant, or None."""
    default = report_path(variant)
    if path is None and not default.exists():
        return None
    return read_validation(path or default)


def read_validation(path: Path) -> Mapping[str, Any]:
    """What `validate` saved. Raises RysError for a file that it did not write."""
    text = read_text(path, "the validation report")
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise RysError(f"{printable(path)}: not a validation report: {e}") from e
    rungs = value.get("rungs") if isinstance(value, dict) else None
    if not isinstance(rungs, list) or not all(isinstance(rung, dict) for rung in rungs):
        raise RysError(f"{printable(path)}: not a validation report: rungs are missing")
    assert isinstance(value, dict)
    return value

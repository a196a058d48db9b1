"""The command that finds the map of a variant that records none: recover."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from rys_gguf.cli.options import MODEL, json_option
from rys_gguf.cli.output import echo, echo_json, say
from rys_gguf.cli.progress import Progress
from rys_gguf.formats.model import Model
from rys_gguf.patch.recover import recover as find_map


@click.command()
@click.argument("variant", type=MODEL)
@click.option("--source", type=MODEL, required=True, help="The model it was made from.")
@json_option
def recover(variant: Path, source: Path, as_json: bool) -> None:
    """Find the layer map of a variant that records none.

    Compares the bytes of each layer with those of the source's layers, whatever tool wrote them,
    and prints the map as the option that verify, prove, card and companion take. Layers that were
    quantised anew or changed are not guessed: they are named, and the exit code is 1.
    """
    with Model(variant) as out, Model(source) as base, Progress() as progress:
        progress.begin("recover", out.n_bytes + base.n_bytes, "B")
        found = find_map(out, base, progress=progress.advance)
    for note in found.notes:
        say(f"note: {note}")
    spec = found.layer_map.spec
    if as_json:
        echo_json({"spec": spec, **dataclasses.asdict(found)})
    elif found.layer_map.is_identity:
        say("every layer is that of the source, in its place: there is no map to name")
    else:
        kind, _, text = spec.partition(":")
        echo([f"--{kind} {text.replace(';', f' --{kind} ')}"])

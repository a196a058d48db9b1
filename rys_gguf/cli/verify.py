"""The command that checks a variant's file: verify."""

from __future__ import annotations

from pathlib import Path

import click

from rys_gguf.checks.types import find_type_problems
from rys_gguf.checks.verify import find_problems, n_compared_bytes, source_role
from rys_gguf.cli.options import MODEL, LayerSpec, json_option, layer_options
from rys_gguf.cli.output import echo, echo_json
from rys_gguf.cli.progress import Progress
from rys_gguf.formats.model import Model
from rys_gguf.patch.provenance import resolve_layer_map
from rys_gguf.text import printable


@click.command()
@click.argument("variant", type=MODEL)
@click.option("--source", type=MODEL, required=True, help="The model it was made from.")
@layer_options
@click.option(
    "--types",
    "types_only",
    is_flag=True,
    help="Compare the tensors' types only: of a variant that was quantised like SOURCE.",
)
@json_option
def verify(variant: Path, source: Path, layers: LayerSpec, types_only: bool, as_json: bool) -> None:
    """Check a variant against its source.

    Needs nothing but the two files: compares every tensor byte for byte, every key and every
    layer's kind. The map is the one recorded in the variant, or --blocks/--layers, and is checked
    too. The source of a variant that was patched more than once may be any of the models it was
    made from. Lists every problem; the exit code is 1 if there is any.

    A variant that was quantised after it was made has other bytes than a quantised SOURCE, but with
    --types it is checked that each tensor has the type of the one it comes from.
    """
    spec = layers.of(source)
    if types_only:
        problems = find_type_problems(variant, source, spec)
    else:
        with Progress() as progress:
            progress.begin("verify", n_compared_bytes(variant), "B")
            problems = find_problems(variant, source, spec, progress=progress.advance)
    if as_json:
        echo_json({"ok": not problems, "problems": problems})
    else:
        echo(map(str, problems))
    name = printable(variant.name)
    if problems:
        n = len(problems)
        raise click.ClickException(f"{name}: {n} problem{'s' * (n != 1)} found")
    if not as_json:
        click.echo(f"{name}: {_verdict(variant, source, spec, types_only=types_only)}")


def _verdict(variant: Path, source: Path, spec: str | None, *, types_only: bool) -> str:
    """What holds where there is no problem."""
    if types_only:
        return "every tensor has the type of its source"
    role = source_role(variant, source)
    with Model(variant) as out, Model(source) as base:
        layer_map = resolve_layer_map(out, base, spec)
    as_its_source = (
        "its source, damped where the map says so" if layer_map.damping else "its source"
    )
    against = f" (compared with {printable(source.name)}, {role})" if role else ""
    return f"every layer is {as_its_source}, nothing else changed{against}"

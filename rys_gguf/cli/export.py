"""The command that hands a run or a variant to other programs and other people."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from rys_gguf.cli.options import (
    FILE,
    MODEL,
    LayerSpec,
    force_option,
    handing_over,
    layer_options,
)
from rys_gguf.cli.output import TextOutput, echo, say
from rys_gguf.errors import InvalidOptions
from rys_gguf.extras import require
from rys_gguf.formats.model import Model
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.layers.mergekit import write_mergekit
from rys_gguf.patch.apply import parse_spec
from rys_gguf.patch.provenance import MAP_KEY, resolve_layer_map
from rys_gguf.patch.tensor_types import tensor_type_file
from rys_gguf.report.model_files import modelfile, server_preset
from rys_gguf.report.origin import hub_repository
from rys_gguf.text import printable


@dataclass(frozen=True, slots=True)
class _OfRun:
    """What to make of a run."""

    storage: str | None
    scan: Path | None


@dataclass(frozen=True, slots=True)
class _OfVariant:
    """What to make of a variant."""

    source: Path | None = None
    modelfile: Path | None = None
    preset: Path | None = None
    recipe: Path | None = None
    hf_model: str | None = None
    tensor_types: Path | None = None
    like: Path | None = None

    @property
    def outputs(self) -> tuple[Path, ...]:
        """The files that are asked for."""
        asked = (self.modelfile, self.preset, self.recipe, self.tensor_types)
        return tuple(path for path in asked if path is not None)


@click.command()
@click.argument("what", type=MODEL, metavar="RUN|VARIANT|MODEL")
@handing_over(
    "of_run",
    _OfRun,
    click.option(
        "--optuna",
        "storage",
        metavar="URL",
        help="Add the run as a study to this storage of Optuna, such as sqlite:///sweep.db.",
    ),
    click.option(
        "--scan",
        type=FILE,
        help="Write what each window of the run did to this file, without questions and answers.",
    ),
)
@handing_over(
    "of_variant",
    _OfVariant,
    click.option("--source", type=MODEL, help="The model that the variant was made from."),
    click.option("--modelfile", type=FILE, help="Write a Modelfile for ollama create -f."),
    click.option("--preset", type=FILE, help="Write an INI file for llama-server --models-preset."),
    click.option(
        "--recipe",
        type=FILE,
        help="Write a recipe for mergekit-yaml, which makes the same of the checkpoint.",
    ),
    click.option(
        "--hf-model",
        metavar="NAME",
        help="The checkpoint that --recipe is for.  [default: the repository in the header]",
    ),
    click.option(
        "--tensor-types",
        type=FILE,
        help="Write a file for llama-quantize --tensor-type-file, with the types of --like.",
    ),
    click.option(
        "--like",
        type=MODEL,
        metavar="QUANTISED",
        help="A quantised file of the variant's source.",
    ),
)
@layer_options
@force_option
def export(
    what: Path, of_run: _OfRun, of_variant: _OfVariant, layers: LayerSpec, force: bool
) -> None:
    """Hand a sweep or a variant on, in the forms that other programs read.

    RUN is the folder of a sweep. In Optuna each of its windows is a trial, with its gain after each
    round; a scan holds the effects of all windows, their intervals and the model's hash. VARIANT is
    a GGUF file with its map on record, or named by --blocks or --layers and its --source. For a
    --recipe no variant is needed: MODEL with --blocks or --layers is enough.
    """
    asked_of_run = of_run.storage is not None or of_run.scan is not None
    if not asked_of_run and not of_variant.outputs:
        raise click.UsageError(
            "say what to make: --optuna URL or --scan FILE of a run; --modelfile, --preset, "
            "--recipe or --tensor-types FILE of a variant"
        )
    if asked_of_run:
        if of_variant != _OfVariant() or layers.is_given:
            raise click.UsageError(
                "--optuna and --scan take a run, and all other options a variant"
            )
        _export_run(what, of_run, force=force)
    else:
        _export_variant(what, of_variant, layers, force=force)


def _export_run(path: Path, wanted: _OfRun, *, force: bool) -> None:
    require("an export", "msgspec", "scipy")
    from rys_gguf.runs.storage import Run

    opened = Run.open(path)
    if wanted.scan is not None:
        from rys_gguf.runs.scan import encode_scan
        from rys_gguf.stats.scan import scan_of

        output = TextOutput.named(wanted.scan, [], force=force)
        output.write(encode_scan(scan_of(opened)))
        echo([str(output.path)])
    if wanted.storage is not None:
        from rys_gguf.report.optuna_study import export_study

        name = export_study(opened, wanted.storage, force=force)
        say(f"study '{name}' added; to look at it: optuna-dashboard STORAGE")


def _export_variant(path: Path, wanted: _OfVariant, layers: LayerSpec, *, force: bool) -> None:
    if (wanted.tensor_types is None) != (wanted.like is None):
        raise click.UsageError("--tensor-types and --like go together")
    if wanted.hf_model is not None and wanted.recipe is None:
        raise click.UsageError("--hf-model goes with --recipe")
    if path.is_dir():
        raise InvalidOptions(
            f"{printable(path)}: is a folder; expected the GGUF file of a variant (of a sweep's "
            f"folder: --optuna or --scan)"
        )
    with contextlib.ExitStack() as stack:
        what = stack.enter_context(Model(path))
        source = None if wanted.source is None else stack.enter_context(Model(wanted.source))
        like = None if wanted.like is None else stack.enter_context(Model(wanted.like))
        # The quantised file is not the source on record, but has as many layers.
        base = like if source is None and layers.is_given else source
        spec = layers.of(base or what)
        if spec is None or base is not None or what.header.get(MAP_KEY) is not None:
            layer_map = resolve_layer_map(what, base, spec)
        else:
            layer_map = _map_of_original(what, spec, wanted)
        inputs = [file.path for model in (what, source, like) if model for file in model.files]
        texts = list(_texts(what, layer_map, wanted, like))
    # All of them are right before the first is written.
    outputs = [TextOutput.named(to, inputs, force=force) for to, _ in texts]
    for output in outputs:
        output.require()
    for output, (_, text) in zip(outputs, texts, strict=True):
        output.write(text)
    echo(str(output.path) for output in outputs)


def _map_of_original(model: Model, spec: str, wanted: _OfVariant) -> LayerMap:
    """The map of a variant that is not written. Raises InvalidOptions if its file is needed."""
    if wanted.modelfile is not None or wanted.preset is not None:
        raise InvalidOptions(
            f"{model.name}: --modelfile and --preset name the file of a variant, and this one "
            f"records no layer map; write the variant with rys-gguf apply first, or name the model "
            f"that it was made from with --source"
        )
    layer_map = parse_spec(model, spec)
    say(
        f"note: {model.name}: records no layer map, so it is taken for the original with its "
        f"{model.n_trunk} layers; if it is a variant, name the original with --source"
    )
    return layer_map


def _texts(
    what: Model, layer_map: LayerMap, wanted: _OfVariant, like: Model | None
) -> Iterator[tuple[Path, str]]:
    """The files that are asked for, each with its content."""
    makers: tuple[tuple[Path | None, Callable[[Model, LayerMap], str]], ...] = (
        (wanted.modelfile, modelfile),
        (wanted.preset, server_preset),
    )
    for to, make in makers:
        if to is not None:
            yield to, make(what, layer_map)
    if wanted.recipe is not None:
        checkpoint = wanted.hf_model or _checkpoint(what)
        yield wanted.recipe, write_mergekit(layer_map, checkpoint, what)
    if wanted.tensor_types is not None and like is not None:
        yield wanted.tensor_types, tensor_type_file(what, like, layer_map)


def _checkpoint(model: Model) -> str:
    name = hub_repository(model)
    if name is None:
        raise InvalidOptions(
            f"{model.name}: names no repository of Hugging Face; name the checkpoint that the "
            f"recipe is for with --hf-model OWNER/NAME"
        )
    return name

"""Groups of options. Each decorator adds a group's options and hands them over as one object."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import click

from rys_gguf.cli.foreign import answer_foreign_options, foreign_options
from rys_gguf.cli.output import say
from rys_gguf.engines.base import AUTO, LIVE, SERVER, EngineOptions
from rys_gguf.engines.find import find_engine
from rys_gguf.errors import InvalidGGUF
from rys_gguf.extras import require
from rys_gguf.formats.model import Model
from rys_gguf.hub.find import RemoteModel, find_model
from rys_gguf.hub.names import is_name
from rys_gguf.layers.layer_map import join_blocks
from rys_gguf.layers.mergekit import MergekitRecipe, read_mergekit
from rys_gguf.layers.schedule import Schedule
from rys_gguf.text import printable

F = TypeVar("F", bound=Callable[..., Any])
Decorator = Callable[[F], F]

FILE = click.Path(path_type=Path)
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)([KMGT])B?", re.ASCII | re.IGNORECASE)


class ModelFile(click.Path):
    """A GGUF file to read, by its path or by the name of a model.

    Where `may_be_remote`, a model that is only on the Hub is handed over as a RemoteModel. What
    people try first is told what to do: a folder, safetensors.
    """

    def __init__(self, *, may_be_remote: bool = False) -> None:
        super().__init__(path_type=Path)
        self._may_be_remote = may_be_remote

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path. Raises InvalidGGUF for a model in the format of Hugging Face."""
        if isinstance(value, RemoteModel):  # click may convert twice
            return value
        if isinstance(value, str) and is_name(value) and ctx and not ctx.resilient_parsing:
            return self._named(value)
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        files = (path, *path.glob("*.safetensors")) if path.is_dir() else (path,)
        if any(f.suffix == ".safetensors" for f in files) or (path / "config.json").is_file():
            raise InvalidGGUF(
                f"{printable(path)}: is a model in the format of Hugging Face; convert it first "
                f"with llama.cpp's convert_hf_to_gguf.py"
            )
        return path

    def _named(self, name: str) -> Path | RemoteModel:
        found = find_model(name)
        if isinstance(found, Path):
            say(f"{name}: {found}")
        elif not self._may_be_remote:
            raise found.absent()
        return found


MODEL = ModelFile()
HEADER = ModelFile(may_be_remote=True)


class Parsed(click.ParamType):  # type: ignore[type-arg]  # generic only in newer click
    """The value that `parse` makes of an option's text; its ValueError is a usage error."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The parsed value. Click converts defaults as well, and may do so twice."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as e:
            self.fail(str(e), param, ctx)


def size_bytes(text: str) -> int:
    """A number of bytes such as 500M, 0.5G or 50GB, in powers of 1000 as llama-gguf-split's."""
    match = _SIZE.fullmatch(text.strip())
    n = round(float(match[1]) * 1000 ** (1 + "KMGT".index(match[2].upper()))) if match else 0
    if not n:
        raise ValueError(f"{text!r} is not a size such as 500M, 0.5G or 50G")
    return n


def handing_over(
    name: str, make: Callable[..., object], *decorators: Callable[[F], F]
) -> Callable[[F], F]:
    """A decorator that adds options and hands `make` of their values over as argument `name`.

    The options' names are those of `make`'s parameters.
    """
    names = tuple(inspect.signature(make).parameters)

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def call(**values: Any) -> Any:
            made = make(**{option: values.pop(option) for option in names})
            return function(**values, **{name: made})

        decorated: Any = call
        for decorator in reversed(decorators):
            decorated = decorator(decorated)
        return decorated  # type: ignore[no-any-return]

    return decorate


def needs(task: str, *modules: str) -> Callable[[F], F]:
    """A decorator that looks for optional packages before anything else is done."""

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def call(**values: Any) -> Any:
            require(task, *modules)
            return function(**values)

        return call  # type: ignore[return-value]

    return decorate


# -- layers --------------------------------------------------------------------------------------

_SAY_WHICH = "say which layers: either --blocks I,J, --layers A..B,... or --mergekit FILE"


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """The map that options ask for, if they ask for one: what it means depends on the model."""

    _text: str | None
    _recipe: MergekitRecipe | None = None

    @property
    def is_given(self) -> bool:
        """Whether an option asks for a map."""
        return self._text is not None

    def of(self, model: Model | Path) -> str | None:
        """The spec for a model; None if no option asks for one.

        Raises Refused where a recipe's factors do not damp layers of that model.
        """
        if self._recipe is not None and self._recipe.is_damped:
            file = Model(model) if isinstance(model, Path) else contextlib.nullcontext(model)
            with file as opened:
                self._recipe.require_damping(opened)
        return self._text

    def required(self, model: Model) -> str:
        """The spec for a model. Raises a usage error if no option asks for one, else as `of`."""
        if (spec := self.of(model)) is None:
            raise click.UsageError(_SAY_WHICH)
        return spec


def _layer_spec(blocks: tuple[str, ...], layers: str | None, mergekit: Path | None) -> LayerSpec:
    answer_foreign_options()
    if sum(value not in (None, ()) for value in (blocks, layers, mergekit)) > 1:
        raise click.UsageError(_SAY_WHICH)
    if mergekit is not None:
        recipe = read_mergekit(mergekit)
        path = recipe.spec.removeprefix("layers:").strip("[]")
        say(f"{printable(mergekit)}: layers {path} of {printable(recipe.model)}")
        return LayerSpec(recipe.spec, recipe)
    if layers is not None:
        return LayerSpec(f"layers:{layers.removeprefix('layers:')}")
    return LayerSpec(join_blocks(blocks) if blocks else None)


def _check_blocks(_: click.Context, __: click.Parameter, value: tuple[str, ...]) -> Any:
    for text in value:
        if text.strip().isdecimal():  # the other end is an argument too many
            raise click.BadParameter(f"{text!r}: write both ends with a comma, such as 10,14")
        if text.startswith("layers:"):
            raise click.BadParameter(f"that is a path: write --layers {printable(text[7:])}")
    return value


def _check_layers(_: click.Context, __: click.Parameter, value: str | None) -> Any:
    if value is not None and value.startswith("blocks:"):
        raise click.BadParameter(
            f"these are windows: write --blocks {shlex.quote(printable(value[7:]))}"
        )
    return value


layer_options: Decorator[Any] = handing_over(
    "layers",
    _layer_spec,
    click.option(
        "--blocks", multiple=True, metavar="I,J", callback=_check_blocks,
        help="Repeat layers I..J-1 once more, right after layer J-1. Repeat the option for more "
        "windows.",
    ),
    click.option(
        "--layers", metavar="A..B,C,...", callback=_check_layers,
        help="The whole path through the layers, ends included, such as 0..11,8..23 or "
        "..9,10..13x3,14.. for three passes.",
    ),
    click.option(
        "--mergekit", type=FILE, metavar="FILE",
        help="The path of a mergekit recipe: the slices of one model, with passthrough.",
    ),
    *foreign_options,
)  # fmt: skip

damp_option: Decorator[Any] = click.option(
    "--damp", type=click.FloatRange(0, 1), default=1.0, metavar="X",
    help="Let each copy add X times what its source adds to the residual stream: 0.5 is half of "
    "it, 0 nothing. A layer's first pass stays as it is.",
)  # fmt: skip


# -- plans ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What decides an output besides its map; arguments of `make_plan`."""

    schedule: Schedule
    provenance: bool
    assume_uniform: bool


def _plan_options(schedule: str, no_provenance: bool, assume_uniform: bool) -> PlanOptions:
    return PlanOptions(Schedule(schedule), not no_provenance, assume_uniform)


def schedule_option(function: F) -> F:
    """`--schedule`, for commands that make files."""
    return click.option(
        "--schedule", type=click.Choice([s.value for s in Schedule]),
        default=Schedule.PORTABLE.value, show_default=True,
        help="portable: allow only maps that every engine runs as meant. explicit: write each "
        "layer's kind into the file, where llama.cpp can read it.",
    )(function)  # fmt: skip


plan_options: Decorator[Any] = handing_over(
    "options",
    _plan_options,
    schedule_option,
    click.option(
        "--no-provenance", is_flag=True, help="Do not record the map and the source in the file."
    ),
    click.option(
        "--assume-uniform", is_flag=True,
        help="Treat the layers of an architecture without known rules as alike.",
    ),
)  # fmt: skip


# -- engines -------------------------------------------------------------------------------------


def _engine(
    llama_server: str | None,
    threads: int | None,
    engine_arguments: tuple[str, ...],
    kind: str,
) -> EngineOptions:
    options = _stock_engine(llama_server, threads, engine_arguments, kind)
    if engine_arguments and options.binary is None:
        raise click.UsageError(
            "arguments after -- are for a llama-server; name one with --llama-server"
        )
    return options


def _stock_engine(
    llama_server: str | None,
    threads: int | None,
    engine_arguments: tuple[str, ...],
    kind: str,
) -> EngineOptions:
    return EngineOptions(find_engine(llama_server), engine_arguments, kind, n_threads=threads)


def _engine_with_context(
    ctx_size: int,
    llama_server: str | None,
    threads: int | None,
    engine_arguments: tuple[str, ...],
    kind: str,
) -> EngineOptions:
    return replace(_engine(llama_server, threads, engine_arguments, kind), n_ctx=ctx_size)


_ENGINE: tuple[Decorator[Any], ...] = (
    click.option(
        "--llama-server", metavar="PATH",
        help="Use this llama-server instead of the built-in engine; LLAMA_SERVER in the "
        "environment does the same. What follows -- is passed to it.",
    ),
    click.option("--threads", type=click.IntRange(1), help="Threads for llama.cpp."),
    click.option(
        "--engine", "kind", type=click.Choice([AUTO, LIVE, SERVER]), default=AUTO,
        show_default=True,
        help="live: load the model once in llama.cpp's library, and make variants of pointers. "
        "server: llama.cpp's server and files. auto: live where it works.",
    ),
    click.argument(
        "engine_arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- ENGINE_ARGUMENTS...]"
    ),
)  # fmt: skip

engine_options: Decorator[Any] = handing_over("engine", _engine, *_ENGINE)
# The package's server takes the arguments of a llama-server, too.
stock_engine_options: Decorator[Any] = handing_over("engine", _stock_engine, *_ENGINE)
engine_options_with_context: Decorator[Any] = handing_over(
    "engine",
    _engine_with_context,
    click.option(
        "--ctx-size", type=click.IntRange(256), default=2048, show_default=True,
        help="Context of llama.cpp in tokens: room for the longest item and its answer.",
    ),
    *_ENGINE,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ProofOptions:
    """What a proof is told besides its files; arguments of `prove`."""

    tolerance: float
    workdir: Path | None


proof_options: Decorator[Any] = handing_over(
    "proof_options",
    ProofOptions,
    click.option(
        "--tolerance", type=click.FloatRange(0), default=0.0,
        help="Accept log-probabilities that differ by up to this many nats. GPU kernels may not "
        "be bit-reproducible.  [default: 0, bit-exact]",
    ),
    click.option(
        "--workdir", type=FILE, help="Folder for the silenced copies.  [default: that of VARIANT]"
    ),
)  # fmt: skip


# -- single options ------------------------------------------------------------------------------

force_option: Decorator[Any] = click.option(
    "--force", is_flag=True, help="Replace the output if it exists."
)
json_option: Decorator[Any] = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
full_option: Decorator[Any] = click.option(
    "--full", is_flag=True, help="List every tensor and every value."
)
log_option: Decorator[Any] = click.option(
    "--log-file", type=FILE, help="Append messages and progress to this file as well."
)

"""What all commands share: options, errors and signals as exit codes, bars, and how lines print.

Data goes to stdout, words about the run to stderr. Exit code 0 is done, 1 refused or failed with
one message, 2 a wrong call; a run ended by a signal exits with 128 and its number.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from rys_gguf.errors import RysError
from rys_gguf.text import harmless

# What a command needs loads inside it: --help and --version answer without numpy and gguf.
if TYPE_CHECKING:
    from rys_gguf.engines.base import EngineOptions
    from rys_gguf.files.source import Progress
    from rys_gguf.layers.layer_map import LayerMap

# Of an error message: what makes a line longer is a value of somebody's file.
_MAX_LINE = 1000

F = TypeVar("F", bound=Callable[..., Any])

FILE = click.Path(path_type=Path)


class Parsed(click.ParamType):  # type: ignore[type-arg]  # generic only in newer click
    """An option's text as what `parse` makes of it; its ValueError is a usage error."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The parsed value; click converts defaults, and may do so twice."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as e:
            self.fail(str(e), param, ctx)


def size_bytes(text: str) -> int:
    """A number of bytes as llama-gguf-split takes it: 500M or 50G, in powers of 1000."""
    units = {"K": 10**3, "M": 10**6, "G": 10**9}
    number, unit = text[:-1], text[-1:].upper()
    if unit not in units or not number.isdecimal() or int(number) == 0:
        raise ValueError(f"{text!r} is not a size such as 500M or 50G")
    return int(number) * units[unit]


class Signalled(BaseException):
    """A signal asked the run to end; carried up so that every `finally` runs."""

    def __init__(self, number: int) -> None:
        self.number = number


class Group(click.Group):
    """Turns the package's errors and signals into one message and an exit code."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run as a program: also where a stream is closed, or is a file on a full disk."""
        _open_streams()
        # numpy's library would start a thread for every core, to multiply no matrix at all; on
        # busy cores they take the time that `apply` has over `cp`.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        try:
            return super().main(*args, **kwargs)
        except OSError as e:
            if e.filename is not None or e.errno not in _CANNOT_PRINT:
                raise
            _abandon_streams(e)
            sys.exit(1)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; `ctx.obj` says what a signal leaves behind."""
        try:
            with _signals():
                return super().invoke(ctx)
        except RysError as e:
            raise click.ClickException(harmless(str(e), _MAX_LINE)) from e
        except Signalled as e:
            name = signal.Signals(e.number).name
            click.echo(f"Stopped by {name}; {ctx.obj or 'nothing was left behind'}.", err=True)
            ctx.exit(128 + e.number)


_CANNOT_PRINT = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


def _open_streams() -> None:
    """Put /dev/null where a standard stream is closed.

    Else the next file opened, a model perhaps, takes its number and what is printed there.
    """
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if not _is_open(fd):
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free, this one
            setattr(sys, name, open(fd, mode, closefd=False))  # noqa: SIM115 - until the end


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _abandon_streams(error: OSError) -> None:
    """Say why nothing more can be printed, and keep Python from trying once more at exit."""
    with contextlib.suppress(OSError):
        click.echo(f"Error: printing: {error.strerror}", err=True)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    is_stopping = False

    def stop(number: int, _frame: object) -> None:
        nonlocal is_stopping
        if not is_stopping:  # a second one must not stop the cleaning up after the first
            is_stopping = True
            raise Signalled(number)

    names = ("SIGINT", "SIGTERM", "SIGHUP")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    # What the caller ignores (nohup) stays ignored.
    numbers = [n for n in numbers if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def map_options(function: F) -> F:
    """`--blocks` and `--layers`, wherever a command takes a map."""
    function = click.option(
        "--layers",
        metavar="A..B,C,...",
        help="The whole path of layers, ends included: 0..11,8..23.",
    )(function)
    return click.option(
        "--blocks",
        multiple=True,
        metavar="I,J",
        help="Repeat layers I..J-1 once more right after J-1. Repeat the option for more windows.",
    )(function)


def plan_options(function: F) -> F:
    """What decides an output besides its map."""
    function = click.option(
        "--assume-uniform",
        is_flag=True,
        help="Take the layers of an architecture without known rules for alike.",
    )(function)
    function = click.option(
        "--no-provenance", is_flag=True, help="Do not record map and source in the file."
    )(function)
    return click.option(
        "--schedule",
        type=click.Choice(["portable", "explicit"]),
        default="portable",
        show_default=True,
        help="portable: only maps every engine runs as meant. explicit: write each layer's kind "
        "into the file where llama.cpp can read it.",
    )(function)


def proof_options(function: F) -> F:
    """What a proof can be told besides its files."""
    function = click.option(
        "--workdir", type=FILE, help="Where silenced copies go.  [default: beside VARIANT]"
    )(function)
    return click.option(
        "--tolerance",
        type=click.FloatRange(0),
        default=0.0,
        help="Largest difference of a log-probability to accept, in nats; for GPU builds, whose "
        "kernels need not repeat bit for bit.  [default: 0, bit-exact]",
    )(function)


def engine_options(function: F) -> F:
    """How to run llama.cpp, wherever a command does."""
    function = click.argument("engine_arguments", nargs=-1, type=click.UNPROCESSED)(function)
    function = click.option("--threads", type=click.IntRange(1), help="Threads for llama.cpp.")(
        function
    )
    return click.option(
        "--llama-server",
        metavar="PATH",
        help="A llama-server to use instead of the built-in engine; also LLAMA_SERVER. What "
        "follows -- goes to it.",
    )(function)


force_option = click.option("--force", is_flag=True, help="Replace the output if it exists.")
json_option = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")


def engine_of(binary: str | None, threads: int | None, arguments: tuple[str, ...]) -> EngineOptions:
    """The engine that `engine_options` name."""
    from rys_gguf.engines.base import EngineOptions
    from rys_gguf.engines.find import find_engine

    found = find_engine(binary)
    if arguments and found is None:
        raise click.UsageError(
            "arguments after -- are for a llama-server; name one with --llama-server"
        )
    return EngineOptions(found, arguments, n_threads=threads)


def map_between(
    variant: Path, source: Path, blocks: tuple[str, ...], layers: str | None
) -> LayerMap:
    """The map of a variant: as given, or as it says itself."""
    from rys_gguf.formats.model import Model
    from rys_gguf.patch.provenance import map_for

    spec = spec_of(blocks, layers) if blocks or layers else None
    with Model(variant) as out, Model(source) as base:
        return map_for(out, base, spec)


def echo(lines: Iterable[str]) -> None:
    """Print data."""
    for line in lines:
        click.echo(harmless(line))


def echo_json(data: Any) -> None:
    """Print data as JSON."""
    # ASCII only: bytes that are not UTF-8 came in as lone surrogates and print as \udcXX.
    click.echo(json.dumps(data, indent=2))


def say(line: str) -> None:
    """Say something about the run."""
    click.echo(line, err=True)


def spec_of(blocks: tuple[str, ...], layers: str | None) -> str:
    """The spec that `map_options` give."""
    from rys_gguf.layers.layer_map import join_blocks

    if bool(blocks) == bool(layers):
        raise click.UsageError("say which layers: either --blocks I,J or --layers A..B,...")
    return join_blocks(blocks) if layers is None else f"layers:{layers.removeprefix('layers:')}"


@contextlib.contextmanager
def progress_bar(total: int, what: str, unit: str = "B") -> Iterator[Progress]:
    """A bar on a terminal, nothing elsewhere; call what it gives with what was done."""
    from tqdm import tqdm

    with tqdm(
        total=total,
        desc=what,
        unit=unit,
        unit_scale=unit == "B",
        unit_divisor=1024,
        leave=False,
        disable=None,  # silent unless stderr is a terminal
        file=sys.stderr,
    ) as bar:

        def advance(n: int) -> None:
            bar.update(n)

        yield advance


def require_writable(path: Path, inputs: Sequence[Path], *, force: bool) -> None:
    """Raise now what `write_text` would raise after an hour of work."""
    from rys_gguf.files.output import OutputFile
    from rys_gguf.files.source import SourceFile

    with contextlib.ExitStack() as stack:
        sources = tuple(stack.enter_context(SourceFile(p)) for p in inputs)
        # Entered, so that a file is really made there: the folder may be closed to writers.
        stack.enter_context(OutputFile(path, sources, 0, force=force))


def write_text(path: Path, text: str, inputs: Sequence[Path], *, force: bool) -> None:
    """Write a file with the guarantees of a model's: no input is replaced, nothing by accident."""
    from rys_gguf.files.output import OutputFile
    from rys_gguf.files.source import SourceFile

    data = text.encode("utf-8", "surrogateescape")
    with contextlib.ExitStack() as stack:
        sources = tuple(stack.enter_context(SourceFile(p)) for p in inputs)
        with OutputFile(path, sources, len(data), force=force) as out:
            out.write(data)
            out.commit()

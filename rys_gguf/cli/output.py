"""What commands print and write: results to stdout, messages to stderr, text files completely."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from rys_gguf.files.output import OutputFile
from rys_gguf.files.source import SourceFile
from rys_gguf.hub.caches import outside_caches
from rys_gguf.text import harmless

# The colours a line may have: nothing else that begins with an escape reaches the terminal.
_COLOUR = re.compile(r"(\x1b\[[0-9;]*m)")
_HEAD_BYTES = 1 << 20


def echo(lines: Iterable[str]) -> None:
    """Print results."""
    for line in lines:
        click.echo(harmless(line))


def echo_coloured(lines: Iterable[str]) -> None:
    """Print results that may hold colour codes; sentences wrap at words on a terminal."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in lines:
        for part in _wrapped(line, width):
            pieces = _COLOUR.split(part)
            pieces[::2] = [harmless(piece) for piece in pieces[::2]]
            # color: click must not take the codes out again, they are there because they may.
            click.echo("".join(pieces), color=True)


def _wrapped(line: str, width: int | None) -> Iterator[str]:
    """Lines of at most `width` characters; tables and pictures stay as they are."""
    is_sentence = bool(line) and not line[0].isspace() and not _COLOUR.search(line)
    if width is None or len(line) <= width or not is_sentence:
        yield line
        return
    # "n = 32" stays together: a no-break space is no place to break for textwrap.
    wrapped = textwrap.wrap(
        line.replace(" = ", "\xa0=\xa0"),
        width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    yield from (part.replace("\xa0", " ") for part in wrapped)


def is_colour_wanted() -> bool:
    """Whether stdout shows colours and the user did not switch them off (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def is_ascii_only() -> bool:
    """Whether stdout cannot show block characters."""
    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower()
    return not encoding.startswith("utf")


def echo_json(data: Any) -> None:
    """Print results as JSON. Dataclasses become objects, numbers without end null."""
    # ASCII only: bytes that are not UTF-8 came in as lone surrogates and print as \udcXX.
    click.echo(json.dumps(plain(data), indent=2))


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: infinite numbers and NaN become None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def say(line: str) -> None:
    """Print a message about the run."""
    click.echo(harmless(line), err=True)


def output_path(given: Path | None, default: Path) -> Path:
    """Where to write: the given file, in the given folder under the default's name, or there.

    A default in another program's cache becomes one in the current folder.
    """
    if given is None:
        return outside_caches(default)
    return given / default.name if given.is_dir() else given


def is_named(given: Path | None) -> bool:
    """Whether the user named the file to write, and not only its folder, or nothing."""
    return given is not None and not given.is_dir()


@dataclass(frozen=True, slots=True)
class TextOutput:
    """A text file that a command writes at its end, with the guarantees of a model's output.

    No input is replaced, nothing is replaced by accident, and no half file carries the name.
    """

    path: Path
    inputs: tuple[Path, ...]
    force: bool
    may_be_link: bool = True

    @classmethod
    def named(
        cls, given: Path, inputs: Sequence[Path], *, force: bool, default: Path | None = None
    ) -> TextOutput:
        """The file that the user named, or a new one in the folder that the user named."""
        path = given if default is None else output_path(given, default)
        return cls(path, tuple(inputs), force, may_be_link=is_named(given))

    @classmethod
    def default(
        cls, path: Path, inputs: Sequence[Path], is_own: Callable[[bytes], bool], *, force: bool
    ) -> TextOutput:
        """A file whose name the command chose. It replaces what an earlier run wrote there.

        `is_own` tells from the first bytes of a file whether it is such a one. Anything else
        needs `force`, and a link is never written through: it may have been planted.
        """
        return cls(path, tuple(inputs), force or _holds(path, is_own), may_be_link=False)

    def require(self) -> None:
        """Raise OutputFailed now for what would stop `write` after hours of work."""
        with self._open(0):
            pass

    def write(self, text: str) -> None:
        """Write the file. Raises OutputFailed."""
        data = text.encode("utf-8", "surrogateescape")
        with self._open(len(data)) as out:
            out.write(data)
            out.commit()

    @contextlib.contextmanager
    def _open(self, n_bytes: int) -> Iterator[OutputFile]:
        with contextlib.ExitStack() as stack:
            sources = tuple(stack.enter_context(SourceFile(p)) for p in self.inputs)
            out = OutputFile(
                self.path, sources, n_bytes, force=self.force, may_be_link=self.may_be_link
            )
            yield stack.enter_context(out)


def _holds(path: Path, is_own: Callable[[bytes], bool]) -> bool:
    # O_NONBLOCK: a FIFO in its place must not be waited for.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        with open(path, "rb", opener=lambda name, _: os.open(name, flags)) as file:
            return is_own(file.read(_HEAD_BYTES))
    except OSError:
        return False

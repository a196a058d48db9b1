"""The command that shows the table of architectures."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

import click

from rys_gguf.cli.options import json_option
from rys_gguf.cli.output import echo, echo_json
from rys_gguf.errors import RysError
from rys_gguf.layers.architectures import ARCHITECTURES, CHECKED_AGAINST
from rys_gguf.layers.describe import Entry, entry, where_read
from rys_gguf.text import quoted


@click.command()
@click.argument("name", required=False)
@json_option
def architectures(name: str | None, as_json: bool) -> None:
    """Show how layers depend on their position, by architecture.

    Prints one line per architecture, or everything about the one that is named: its rules, what
    an explicit schedule can spell out, and where llama.cpp's source says so. The table was read
    from one build of llama.cpp, which is named; `prove` tells what another build does.
    """
    if name is not None and name not in ARCHITECTURES:
        similar = difflib.get_close_matches(name, ARCHITECTURES, n=3)
        hint = f"; did you mean {' or '.join(similar)}?" if similar else ""
        raise RysError(f"architecture {quoted(name)} is not in the table{hint}")
    entries = [entry(arch) for arch in ARCHITECTURES.values() if name in (None, arch.name)]
    if as_json:
        echo_json(entries)
    elif name is None:
        echo(_summary_lines(entries))
    else:
        echo(_full_lines(entries[0]))


def _summary_lines(entries: Sequence[Entry]) -> Iterator[str]:
    yield f"{len(entries)} architectures, read from llama.cpp {CHECKED_AGAINST}"
    width = max(len(e.name) for e in entries)
    for e in entries:
        yield f"{e.name:{width}}  {e.verdict}"


def _full_lines(e: Entry) -> Iterator[str]:
    yield f"{e.name}: {e.verdict}"
    for rule in e.rules:
        yield f"  {rule}"
    yield f"  portable   {e.portable}"
    yield f"  explicit   {e.explicit}"
    yield f"  source     {where_read(e.source, e.llama_cpp)}"
    if e.dampers:
        yield f"  damped by  {', '.join(e.dampers)} ({e.damping})"

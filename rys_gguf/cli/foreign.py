"""Options of other programs that repeat layers, which people paste: answered, never taken.

Sources: llm-circuit-finder (layer_path.py, gguf_surgery.py, multi_repeat.py), exllamav3
(model_init.py), RYS (hf_export/export_model.py), forks of llama.cpp, and the layer editor proposed
for ik_llama.cpp.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any

import click

from rys_gguf.text import printable

_NUMBER = "[0-9]{1,9}"
_MOST_SPELLED_OUT = 8
_LONGEST_PATH = 600
# Where the values wait in the context until all of them are known.
_META = "rys_gguf.foreign_options"
# What `translate` knows an option as, by its spelling.
OPTIONS: Mapping[str, str] = {
    "-p": "path",
    "--path": "path",
    "-layer_map": "path",
    "--layer_map": "path",
    "--layer-map": "path",
    "--layer-list": "path",
    "--layer": "path",
    "-i": "dup_start",
    "--dup-start": "dup_start",
    "-j": "dup_end",
    "--dup-end": "dup_end",
    "-n": "repeats",
    "--repeats": "repeats",
    "--loop-layer-start": "loop_start",
    "--loop-layer-stop": "loop_stop",
    "--loop-count": "loop_count",
    "--repeat-layers": "repeat_layers",
    "-d": "duplicate",
    "--duplicate": "duplicate",
}


def translate(options: Mapping[str, str]) -> str:
    """What to write for options of other programs, given by what `OPTIONS` calls them."""
    if "repeat_layers" in options:
        return _repeat_layers(options["repeat_layers"])
    if "duplicate" in options:
        return (
            "write --blocks I,J, the first layer and one past the last: --duplicate 7 8 9 10 is "
            "--blocks 7,11"
        )
    if {"dup_start", "dup_end", "repeats"} & options.keys():
        return _circuit_finder(options)
    if {"loop_start", "loop_stop", "loop_count"} & options.keys():
        return _loop(options)
    # Paths have inclusive ends everywhere.
    return f"write --layers {shlex.quote(printable(options['path'], _LONGEST_PATH))}"


def _circuit_finder(options: Mapping[str, str]) -> str:
    """A half-open window, and how often it is passed in all."""
    i, j = _number(options, "dup_start"), _number(options, "dup_end")
    n = _number(options, "repeats", 2)
    if i is None or j is None or n is None or i >= j or n < 1:
        return "write --blocks I,J, with the numbers of -i and -j"
    return f"write {_blocks(i, j, n - 1)}" if n > 1 else "one pass in all is the model as it is"


def _loop(options: Mapping[str, str]) -> str:
    """A window with its last layer, and how often it is passed once more."""
    first, last = _number(options, "loop_start"), _number(options, "loop_stop")
    n = _number(options, "loop_count", 1)
    if first is None or last is None or n is None or first > last or n < 1:
        return "write --blocks I,J, where J is one past the layer of --loop-layer-stop"
    return f"write {_blocks(first, last + 1, n)}"


def _repeat_layers(value: str) -> str:
    """Programs differ in whether the second number is repeated as well."""
    pair = re.fullmatch(f"[^0-9]*({_NUMBER})[^0-9]+({_NUMBER})[^0-9]*", value)
    if pair is None or int(pair[1]) >= int(pair[2]):
        return "write --blocks I,J to repeat layers I to J-1"
    i, j = int(pair[1]), int(pair[2])
    return f"write --blocks {i},{j + 1} if layer {j} is to be repeated, else --blocks {i},{j}"


def _number(options: Mapping[str, str], name: str, default: int | None = None) -> int | None:
    text = options.get(name)
    if text is None:
        return default
    return int(text) if re.fullmatch(_NUMBER, text) else None


def _blocks(i: int, j: int, n: int) -> str:
    once = f"--blocks {i},{j}"
    return " ".join([once] * n) if n <= _MOST_SPELLED_OUT else f"{once}, {n} times"


def _keeper(spelling: str) -> Callable[[click.Context, click.Parameter, str | None], None]:
    def keep(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
        if value is not None:
            ctx.meta.setdefault(_META, {})[spelling] = value
            if OPTIONS[spelling] == "duplicate":  # its other values would be arguments too many
                answer_foreign_options()

    return keep


foreign_options: tuple[Callable[[Any], Any], ...] = tuple(
    click.option(
        spelling, f"foreign_{i}", hidden=True, expose_value=False, callback=_keeper(spelling)
    )
    for i, spelling in enumerate(OPTIONS)
)


def answer_foreign_options() -> None:
    """Raise a usage error that says what to write if the command was given any of them."""
    kept = click.get_current_context().meta.get(_META)
    if kept:
        answer = translate({OPTIONS[spelling]: value for spelling, value in kept.items()})
        raise click.UsageError(f"No such option: {', '.join(kept)}; {answer}")

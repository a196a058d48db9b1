"""The arguments of llama-server that mean something to the live engine."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from rys_gguf.errors import EngineFailed
from rys_gguf.text import printable

_GPU_LAYERS = ("-ngl", "--gpu-layers", "--n-gpu-layers")
_ALL = ("all", "auto", "-1")
# The server that renders chat templates gets these; each takes a value.
_TEMPLATES = ("--chat-template", "--chat-template-file")
_FLAGS = ("--jinja",)


def gpu_layers(arguments: Sequence[str]) -> int | None:
    """The number of layers to keep on a GPU; None for llama.cpp's default, which is all.

    Raises EngineFailed for an argument that the live engine cannot follow.
    """
    n_layers: int | None = None
    left = [part for argument in arguments for part in _split(argument)]
    while left:
        name = left.pop(0)
        if name in _FLAGS:
            continue
        if name not in (*_GPU_LAYERS, *_TEMPLATES) or not left:
            raise EngineFailed(
                f"{printable(name)} is an argument for llama-server, which the live engine cannot "
                f"follow"
            )
        value = left.pop(0)
        if name in _GPU_LAYERS:
            if value not in _ALL and not value.isdecimal():
                raise EngineFailed(f"{name} {printable(value)}: expected a number of layers")
            n_layers = None if value in _ALL else int(value)
    return n_layers


def gpu_arguments(arguments: Sequence[str]) -> tuple[str, ...]:
    """Those of llama-server's arguments that say how many layers are kept on a GPU."""
    words = [part for argument in arguments for part in _split(argument)]
    found: list[str] = []
    for name, value in pairwise(words):
        if name in _GPU_LAYERS:
            found += (name, value)
    return tuple(found)


def _split(argument: str) -> Sequence[str]:
    """`--name=value` as two."""
    if argument.startswith("--") and "=" in argument:
        name, _, value = argument.partition("=")
        return name, value
    return (argument,)

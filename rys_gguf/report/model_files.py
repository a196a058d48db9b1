"""The small files with which other programs take a variant: a Modelfile, and a server's preset.

Both name the GGUF and leave its chat template, its context and its stop tokens to its own header,
which Ollama and llama-server read. A value in them ends at the end of its line and knows no escape,
so a path that they cannot hold is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from rys_gguf.formats.model import Model
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.text import printable

_NOT_IN_A_SECTION = re.compile(r"[^A-Za-z0-9_.-]+")
_SHARD = re.compile(r"-[0-9]{5}-of-[0-9]{5}$")


def modelfile(variant: Model, layer_map: LayerMap) -> str:
    """The Modelfile for `ollama create NAME -f FILE`; a split model has one FROM for each file.

    Source: parser/parser.go of Ollama, August 2026. A value goes to the end of its line; quotes are
    taken off one that begins with a quote, which an absolute path does not. There is no TEMPLATE:
    Ollama's templates are not the header's, and a wrong one is worse.
    Raises Refused for a path that a line cannot hold.
    """
    lines = [_comment("#", variant, layer_map)]
    lines += [f"FROM {path}" for path in _paths(variant)]
    return "\n".join(lines) + "\n"


def server_preset(variant: Model, layer_map: LayerMap) -> str:
    """The INI file for `llama-server --models-preset FILE`: one section, named as the file is.

    Clients ask for the model by the section's name; the server sets `alias` to it by itself.
    Source: common/preset.cpp (the grammar) and tools/server/README.md of llama.cpp b11549.
    Raises Refused for a path that a line cannot hold.
    """
    stem = _SHARD.sub("", variant.name.removesuffix(".gguf"))
    section = _NOT_IN_A_SECTION.sub("-", stem).strip("-") or "variant"
    first, *_ = _paths(variant, ";#")  # llama.cpp finds the other files of a split model by it
    return f"version = 1\n\n{_comment(';', variant, layer_map)}\n[{section}]\nmodel = {first}\n"


def _comment(sign: str, variant: Model, layer_map: LayerMap) -> str:
    return f"{sign} {printable(variant.name)}: {layer_map.spec} of {layer_map.n_source} layers"


def _paths(variant: Model, forbidden: str = "") -> Iterator[str]:
    """The absolute paths of the variant's files, as a line of these formats can hold them."""
    for file in variant.files:
        path = os.path.abspath(file.path)
        if not path.isprintable() or path != path.strip() or any(c in path for c in forbidden):
            signs = f", and no {' or '.join(forbidden)}" if forbidden else ""
            raise variant.refuse(
                f"its path {printable(Path(path))} cannot be written in this format; rename the "
                f"file or its folder so that it has no line breaks, outer spaces or characters "
                f"that cannot be printed{signs}"
            )
        yield path

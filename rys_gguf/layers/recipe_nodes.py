"""A YAML file as nodes: what they must be, and where one stands that is something else.

None of the file's values is built, so aliases cannot make it grow.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from rys_gguf.errors import InvalidLayerMap, RysError
from rys_gguf.extras import load
from rys_gguf.files.text_file import read_text
from rys_gguf.text import printable

# The longest published recipes, with parameters for each of 140 layers, have about 50 kB.
_MOST_BYTES = 1 << 18


def compose(path: str | os.PathLike[str], name: str) -> Any:
    """The nodes of a recipe's file. Raises InvalidLayerMap for what is not YAML."""
    yaml = load("a mergekit recipe", "yaml")
    try:
        text = read_text(path, "the mergekit recipe", _MOST_BYTES)
    except RysError as e:
        raise InvalidLayerMap(str(e)) from e
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as e:
        line = f", line {e.problem_mark.line + 1}" if e.problem_mark else ""
        what = " ".join(part for part in (e.context, e.problem) if part)
        raise InvalidLayerMap(f"{name}{line}: cannot be read as YAML: {printable(what)}") from e
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as e:
        what = printable(str(e).partition("\n")[0])
        raise InvalidLayerMap(f"{name}: cannot be read as YAML: {what}") from e


@dataclass(frozen=True, slots=True)
class Document:
    """A recipe's file: what its nodes must be, and where one stands that is something else."""

    name: str

    def error(self, node: Any, what: str) -> InvalidLayerMap:
        """The error for a node, with its line."""
        return InvalidLayerMap(f"{self.name}, line {node.start_mark.line + 1}: {what}")

    def mapping(self, node: Any, what: str) -> dict[str, Any]:
        """The values of a mapping by their keys; the last of several with one key, as in PyYAML."""
        if node is None:
            raise InvalidLayerMap(f"{self.name}: is empty; expected a mergekit recipe")
        if node.id != "mapping":
            raise self.error(node, f"expected {what}, a mapping of keys to values")
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise self.error(key, "<< is not supported: write out what it stands for")
        return {key.value: value for key, value in node.value if key.id == "scalar"}

    def sequence(self, node: Any, what: str) -> list[Any]:
        """The items of a list."""
        if node.id != "sequence":
            raise self.error(node, f"{what} is not a list")
        return list(node.value)

    def text(self, node: Any, what: str) -> str:
        """A plain value as it is written."""
        if node.id != "scalar":
            raise self.error(node, f"{what} is not a plain value")
        return str(node.value)

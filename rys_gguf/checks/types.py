"""Check that a variant was quantised like a quantised file of its source."""

from __future__ import annotations

import os

from rys_gguf.checks.verify import Problem
from rys_gguf.formats.model import Model
from rys_gguf.patch.provenance import resolve_layer_map
from rys_gguf.patch.tensor_types import wanted_types


def find_type_problems(
    path: str | os.PathLike[str], quantised_path: str | os.PathLike[str], spec: str | None = None
) -> list[Problem]:
    """Every tensor of the file at `path` whose type is not that of its source in the other file.

    The map is `spec` or the one recorded in the file, from its original model: the quantised file
    is a sister of that. Raises InvalidGGUF for a file that cannot be read or lacks a matrix of the
    other, InvalidLayerMap if there is no map or it does not fit.
    """
    with Model(path) as variant, Model(quantised_path) as quantised:
        layer_map = resolve_layer_map(variant, quantised if spec else None, spec)
        return [
            Problem(wanted.tensor.name, f"is {wanted.tensor.type_name}, expected {wanted.type}")
            for wanted in wanted_types(variant, quantised, layer_map)
            if not wanted.is_had
        ]
